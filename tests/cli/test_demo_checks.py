"""The demo's checks must be able to fail: each is shown a log that breaks one promise."""

from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlog.cli.demo.result import Result
from rlog.cli.demo.source import Source
from rlog.cli.demo.verify import NOT_ACKNOWLEDGED, Checker, compare_replicas, rechunked
from rlog.errors import ConfigurationError
from rlog.records import Record

INPUT = [(b"file:%d" % number, b"line %d" % number) for number in range(5)]


def checked(log: Sequence[tuple[int, int]], offsets: Sequence[int]) -> Result:
    """The verdict on a log of (offset, input number)s after acknowledgements at `offsets`."""
    result = Result(records=len(INPUT))
    checker = Checker(INPUT, array("q", offsets), result)
    for offset, number in log:
        key, value = INPUT[number]
        checker.see(Record("lines", 0, offset, 1, 0, key, value))
    checker.end()
    return result


def test_a_log_that_holds_everything_in_order_is_good() -> None:
    assert checked([(0, 0), (1, 1), (2, 2), (4, 3), (5, 4)], [0, 1, 2, 4, 5]).problems == []


def test_a_record_that_was_not_acknowledged_may_be_absent_or_present() -> None:
    assert checked([(0, 0), (1, 2), (2, 3), (3, 4)], [0, NOT_ACKNOWLEDGED, 1, 2, 3]).problems == []
    assert checked([(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)], [0, NOT_ACKNOWLEDGED, 2, 3, 4]).problems == []


@pytest.mark.parametrize(
    ("log", "complaint"),
    [
        ([(0, 0), (1, 1), (2, 3), (3, 4)], "instead of"),
        ([(0, 0), (1, 1), (2, 2), (3, 3)], "missing at the end"),
        ([(0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (5, 4)], "instead of"),
        ([(0, 0), (1, 2), (2, 1), (3, 3), (4, 4)], "instead of"),
        ([(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 4)], "too many"),
        ([(0, 0), (1, 1), (2, 2), (3, 3), (5, 4)], "acknowledged at offset 4, found at 5"),
        ([(0, 0), (1, 1), (1, 2), (3, 3), (4, 4)], "came after"),
    ],
    ids=[
        "lost",
        "lost at the end",
        "duplicate",
        "out of order",
        "duplicate at the end",
        "moved",
        "offset twice",
    ],
)
def test_a_broken_log_is_named(log: Sequence[tuple[int, int]], complaint: str) -> None:
    problems = checked(log, [0, 1, 2, 3, 4]).problems
    assert any(complaint in problem for problem in problems), problems


def test_replicas_are_compared_byte_by_byte_whatever_the_chunks() -> None:
    content = bytes(range(256)) * 100
    result = Result(records=1)
    compare_replicas([[content], [content[:7], content[7:]], rechunked([content], 1000)], [1, 2, 3], result)
    assert (result.problems, result.replicas_compared, result.replica_bytes) == ([], 3, len(content))

    changed = content[:9000] + b"!" + content[9001:]
    compare_replicas([[content], [content], [changed]], [1, 2, 3], result)
    assert result.problems == ["node 3's log differs from node 1's at byte 9000"]

    shorter = Result(records=1)
    compare_replicas([[content], [content[:-1]]], [1, 2], shorter)
    assert shorter.problems == [f"node 2's log differs from node 1's at byte {len(content) - 1}"]


def test_the_numbers_themselves_are_judged() -> None:
    good = Result(records=100, killed_at=40, in_flight_at_kill=5, acknowledged_after_kill=60)
    good.judge()
    assert good.problems == []
    for bad in (
        Result(records=100, acknowledged_after_kill=60),
        Result(records=100, killed_at=40, in_flight_at_kill=0, acknowledged_after_kill=60),
        Result(records=100, killed_at=40, in_flight_at_kill=5, acknowledged_after_kill=29),
        Result(records=100, killed_at=40, in_flight_at_kill=5, acknowledged_after_kill=60, unacknowledged=1),
    ):
        bad.judge()
        assert len(bad.problems) == 1
        assert not bad.is_good()


def test_the_input_is_repeated_with_path_and_line_as_key(tmp_path: Path) -> None:
    path = tmp_path / "poem"
    path.write_bytes(b"one\r\ntwo\n\nfour")
    source = Source.file(path, 6)
    expected = [(b"poem:1", b"one"), (b"poem:2", b"two"), (b"poem:3", b""), (b"poem:4", b"four")]
    assert list(source) == [*expected, *expected[:2]]
    assert list(source) == list(source)


def test_an_empty_input_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with pytest.raises(ConfigurationError):
        Source.file(path, 6)
