"""What a node says: text and JSON, values that cannot forge a line, and no flood from outside."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from rlog.observe.events import RESERVED, JsonFormatter, RepeatLimit, address_text, emit


class Heard:
    """A logger of its own, with what its handler wrote."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.logger = logging.Logger("rlog.node")
        self._stream = io.StringIO()
        self.now = 0.0
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(formatter)
        handler.addFilter(RepeatLimit(count_max=3, period_s=60.0, now=lambda: self.now))
        self.logger.addHandler(handler)

    def lines(self) -> list[str]:
        written = self._stream.getvalue().splitlines()
        self._stream.seek(0)
        self._stream.truncate()
        return written


@pytest.fixture
def text() -> Iterator[Heard]:
    return Heard(logging.Formatter("%(levelname)s %(name)s: %(message)s"))


@pytest.fixture
def jsons() -> Iterator[Heard]:
    return Heard(JsonFormatter())


def test_an_event_is_one_line_of_a_name_and_fields(text: Heard) -> None:
    emit(
        text.logger, logging.INFO, "leader_changed", partition="orders-0", generation=5, reason="2 leads",
        quick=True, s=0.25, unknown=None,
    )  # fmt: skip
    assert text.lines() == [
        'INFO rlog.node: leader_changed partition=orders-0 generation=5 reason="2 leads" quick=true s=0.250'
    ]


@pytest.mark.parametrize(
    "evil", ["a\nCRITICAL forged", 'say "hi"', "key=value", "\x1b[31mred", "", "ä\u2028b"]
)
def test_no_value_can_forge_a_line_or_a_field(text: Heard, jsons: Heard, evil: str) -> None:
    for heard in (text, jsons):
        emit(heard.logger, logging.WARNING, "client_closed", address="192.0.2.1:5", reason=evil)
    (line,) = text.lines()
    assert line == f"WARNING rlog.node: client_closed address=192.0.2.1:5 reason={json.dumps(evil)}"
    assert line.isprintable()
    (line,) = jsons.lines()
    assert json.loads(line)["reason"] == evil


def test_json_is_one_object_per_line_with_time_level_and_event(jsons: Heard) -> None:
    emit(jsons.logger, logging.ERROR, "fenced", partition="orders-0", reason="disk", offset=7)
    try:
        raise ValueError("inside\nof it")
    except ValueError:
        emit(jsons.logger, logging.CRITICAL, "invariant_broken", exc_info=True, node=1)
    jsons.logger.warning("of a library: %d", 3)
    first, second, third = map(json.loads, jsons.lines())
    assert first.pop("ts").endswith("Z")
    assert first == {
        "level": "error", "logger": "rlog.node", "event": "fenced",
        "partition": "orders-0", "reason": "disk", "offset": 7,
    }  # fmt: skip
    assert "ValueError: inside\nof it" in second["exception"]
    assert (third["event"], third["message"]) == ("log", "of a library: 3")


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_field_never_hides_what_every_line_has(jsons: Heard, name: str) -> None:
    with pytest.raises(AssertionError):
        emit(jsons.logger, logging.INFO, "started", **{name: "x"})


def test_what_a_peer_or_an_address_repeats_is_muted_and_counted(jsons: Heard) -> None:
    for port in range(10):
        emit(jsons.logger, logging.WARNING, "client_closed", address=f"192.0.2.1:{port}", reason="garbage")
    lines = list(map(json.loads, jsons.lines()))
    assert [line.get("muted_s") for line in lines] == [None, None, 60]

    emit(jsons.logger, logging.WARNING, "client_closed", address="192.0.2.2:1", reason="another host")
    emit(jsons.logger, logging.WARNING, "client_lost", address="192.0.2.1:1", reason="another event")
    emit(
        jsons.logger, logging.WARNING, "client_closed", address="192.0.2.1:1", cause="refused", reason="full"
    )
    assert len(jsons.lines()) == 3

    jsons.now = 60.0
    emit(jsons.logger, logging.WARNING, "client_closed", address="192.0.2.1:99", reason="garbage")
    emit(jsons.logger, logging.WARNING, "client_closed", address="192.0.2.1:99", reason="garbage")
    assert [json.loads(line).get("suppressed") for line in jsons.lines()] == [7, None]


def test_a_flapping_peer_cannot_flood_but_leader_changes_all_pass(jsons: Heard) -> None:
    for generation in range(50):
        emit(jsons.logger, logging.INFO, "peer_lost", node=1, peer=2, reason="closed")
        emit(jsons.logger, logging.INFO, "leader_changed", node=1, generation=generation)
    events = [json.loads(line)["event"] for line in jsons.lines()]
    assert (events.count("peer_lost"), events.count("leader_changed")) == (3, 50)


def test_the_sources_remembered_are_bounded() -> None:
    limit = RepeatLimit(count_max=1)
    logger = logging.Logger("rlog.node")
    logger.addHandler(handler := logging.NullHandler())
    logger.addFilter(limit)
    for host in range(2 * RepeatLimit.SOURCES_MAX):
        emit(logger, logging.WARNING, "client_closed", address=f"host-{host}:1", reason="garbage")
    assert handler is logger.handlers[0]
    assert len(limit._seen) == RepeatLimit.SOURCES_MAX


def test_addresses_read_as_they_are_written_elsewhere() -> None:
    assert address_text(("127.0.0.1", 9092)) == "127.0.0.1:9092"
    assert address_text(("2001:db8::1", 9092, 0, 0)) == "[2001:db8::1]:9092"
    assert address_text(None) == "?"
