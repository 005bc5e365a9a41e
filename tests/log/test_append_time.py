"""LogAppendTime in the batch: the native stamp against the reference codec."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlog._core import SpanBuilder, check_client_batches, decode_records, iterate_batches
from rlog.errors import InvalidTimestamp
from rlog.log import format as reference
from rlog.records import Record

TIMES = st.integers(0, 2**63 - 1)


@given(
    stamps=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    compression=st.sampled_from(["none", "gzip", "lz4", "snappy", "zstd"]),
    time_ms=TIMES,
)
def test_the_leaders_stamp_is_that_of_the_reference(
    stamps: list[int], compression: str, time_ms: int
) -> None:
    records = [Record("", 0, index, 3, stamp, b"k", bytes(50)) for index, stamp in enumerate(stamps)]
    sent = reference.encode_batch(records, compression=compression)
    builder = SpanBuilder(7, 3, append_time_ms=time_ms)
    for _ in range(2):
        builder.add(sent, check_client_batches(sent, batch_bytes_max=1 << 20)[0])
    data = bytes(builder.build())
    assert data == b"".join(
        reference.appended_at(reference.stamped(sent, base, 3), time_ms) for base in (7, 7 + len(stamps))
    )
    (first, second) = iterate_batches(data)
    assert (first.max_timestamp, first.attributes & 0x08) == (time_ms, 0x08)
    assert second.base_offset == 7 + len(stamps)
    expected = reference.decode_records(data)[0]
    assert decode_records(data) == expected
    assert {record.timestamp_ms for record in expected} == {time_ms}
    assert [record.value for record in expected] == [bytes(50)] * 2 * len(stamps)


def test_what_a_leader_stamped_is_refused_from_a_client() -> None:
    sent = reference.encode_batch([Record("", 0, 0, 0, 5, None, b"v")])
    with pytest.raises(InvalidTimestamp, match="log append time"):
        check_client_batches(reference.appended_at(sent, 9), batch_bytes_max=1000)


def test_an_append_time_is_no_time_before_1970() -> None:
    with pytest.raises(ValueError, match="append_time_ms=-2"):
        SpanBuilder(0, 1, append_time_ms=-2)
