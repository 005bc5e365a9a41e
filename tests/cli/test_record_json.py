"""The JSON form of a record: everything survives the way there and back; nonsense is refused by name."""

import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlog.cli.record_json import BadRecord, decode, encode
from rlog.records import Record

SLOWLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other tests run too
CONTENT = st.none() | st.binary(max_size=40) | st.text(max_size=20).map(str.encode)
RECORDS = st.builds(
    Record,
    st.just("orders"),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**62),
    st.integers(0, 2**31 - 1),
    st.integers(-1, 2**63 - 1),
    CONTENT,
    CONTENT,
    st.lists(st.tuples(st.text(max_size=8), CONTENT), max_size=3).map(tuple),
)


@SLOWLY
@given(RECORDS)
def test_a_record_comes_back_from_its_json(record: Record) -> None:
    line = json.dumps(encode(record), ensure_ascii=False).encode()
    assert b"\n" not in line
    again = decode(line)
    assert (again.key, again.value, again.headers) == (record.key, record.value, record.headers)
    assert (again.partition, again.timestamp_ms) == (record.partition, record.timestamp_ms)


@SLOWLY
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_garbage_is_refused_and_nothing_else(line: bytes) -> None:
    with suppress(BadRecord):
        record = decode(line)
        assert b"value" in line, record


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("key", "value", "key_base64", "value_base64", "headers", "partition", "timestamp", "timestamp_ms")


@SLOWLY
@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_wrong_types_are_refused_and_nothing_else(fields: dict[str, object]) -> None:
    with suppress(BadRecord):
        record = decode(json.dumps(fields).encode())
        assert isinstance(record.value, bytes | None)
        assert isinstance(record.key, bytes | None)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"vlaue": "x"}', "unknown field 'vlaue': did you mean 'value'?"),
        (b'{"key": "x"}', 'there is no "value"'),
        (b'{"value": 7}', "'value' is a string, or null; bytes go into 'value_base64'"),
        (b'{"value": "x", "value_base64": "eA=="}', "leave one of them"),
        (b'{"value_base64": "e"}', "is not base64"),
        (b'{"value": "\\ud800"}', "half a surrogate pair"),
        (b'{"value": null, "partition": -1}', "'partition' is -1, not an integer from 0"),
        (b'{"value": null, "partition": true}', "'partition' is True"),
        (b'{"value": null, "timestamp": "2026-01-31T08:00:00"}', "time zone"),
        (b'{"value": null, "headers": [1]}', '"headers" is a list of'),
        (b'{"value": null, "headers": [{"value": "x"}]}', 'a header needs a "name"'),
        (b'["value"]', "not a JSON object"),
        (b"\xff", "not a line of JSON"),
        (b"[" * 100_000, "not a line of JSON"),
    ],
)
def test_what_is_wrong_is_named(line: bytes, told: str) -> None:
    with pytest.raises(BadRecord) as error:
        decode(line)
    assert told in str(error.value)


def test_short_forms_are_taken() -> None:
    record = decode(b'{"value": "x", "headers": {"a": "b"}, "timestamp": "1970-01-01T00:00:01+00:00"}')
    assert (record.headers, record.timestamp_ms) == ((("a", b"b"),), 1000)
    assert decode(b'{"value": "x", "timestamp": 7}').timestamp_ms == 7
