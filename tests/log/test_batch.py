"""What a leader checks before it stamps a client's batches (SAFETY 54), and what a run of a log is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlog._core import (
    BatchBuilder,
    BatchInfo,
    Span,
    check_client_batches,
    decode_records,
    decode_values,
    iterate_batches,
)
from rlog.errors import BatchTooLarge, CorruptBatch
from rlog.log import format as reference

BATCH_BYTES_MAX = 1 << 20


def good_batch(count: int = 3, compression: str = "none") -> bytes:
    builder = BatchBuilder(batch_bytes_max=BATCH_BYTES_MAX, producer_id=5, producer_epoch=0, base_sequence=9)
    for index in range(count):
        builder.append(b"value %d" % index, b"key", [("name", b"content")], 1000 + index)
    batch = builder.build()
    if compression == "none":
        return batch
    header = reference.read_header(batch, 0)
    frames = {
        "lz4": reference.lz4.frame.compress,
        "gzip": lambda plain: reference.zlib.compress(plain, wbits=31),
    }
    codec = reference.CODEC_NAMES.index(compression)
    return reference.seal(replace(header, attributes=codec), frames[compression](batch[61:]))


def with_header(batch: bytes, **changes: int) -> bytes:
    """The batch with some header fields changed, and a good CRC."""
    return reference.seal(replace(reference.read_header(batch, 0), **changes), batch[61:])


def check(records: bytes) -> list[BatchInfo]:
    return check_client_batches(records, batch_bytes_max=BATCH_BYTES_MAX)


def test_an_info_says_what_the_header_says() -> None:
    batch = good_batch()
    first, second = check(batch + reference.stamped(batch, 77, 4))
    header = reference.read_header(reference.stamped(batch, 77, 4), 0)
    assert (first.position, second.position, second.size) == (0, len(batch), len(batch))
    for name in ("base_offset", "generation", "attributes", "base_timestamp", "max_timestamp", "producer_id"):
        assert getattr(second, name) == getattr(header, name)
    for name in ("producer_epoch", "base_sequence", "last_sequence", "count", "codec", "size"):
        assert getattr(second, name) == getattr(header, name)
    assert second.last_offset == header.end_offset - 1
    assert not second.is_control
    assert "base_offset=77" in repr(second)


COUNT = "record count that does not match"
ATTRIBUTES = "unknown attributes or an unknown codec"
PRODUCER = "impossible producer id, epoch or sequence"
FORGED = {
    "control batch": ({"attributes": 0x20}, "is a control batch"),
    "transactional": ({"attributes": 0x10}, "is transactional"),
    "log append time": ({"attributes": 0x08}, "claims log append time"),
    "delete horizon": ({"attributes": 0x40}, ATTRIBUTES),
    "unknown attribute": ({"attributes": 0x80}, ATTRIBUTES),
    "negative attributes": ({"attributes": -0x8000}, ATTRIBUTES),
    "codec 5": ({"attributes": 5}, ATTRIBUTES),
    "codec 7": ({"attributes": 7}, ATTRIBUTES),
    "no records": ({"count": 0, "last_offset_delta": -1}, COUNT),
    "count 0": ({"count": 0}, COUNT),
    "negative count": ({"count": -1, "last_offset_delta": -2}, COUNT),
    "more records than offsets": ({"last_offset_delta": 1}, COUNT),
    "more offsets than records": ({"last_offset_delta": 3}, COUNT),
    "more records than bytes": ({"count": 1000, "last_offset_delta": 999}, COUNT),
    "most offsets": ({"count": 2**31 - 1, "last_offset_delta": 2**31 - 2}, COUNT),
    "wrapping offsets": ({"count": -(2**31), "last_offset_delta": 2**31 - 1}, COUNT),
    "producer id -2": ({"producer_id": -2}, PRODUCER),
    "producer without epoch": ({"producer_epoch": -1}, PRODUCER),
    "producer without sequence": ({"base_sequence": -1}, PRODUCER),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_client_cannot_forge(name: str) -> None:
    """SAFETY 54: each with a good CRC, alone and behind a good batch."""
    good = good_batch()
    changes, reason = FORGED[name]
    forged = with_header(good, **changes)
    with pytest.raises(CorruptBatch, match=reason) as caught:
        check(forged)
    assert caught.value.position == 0
    with pytest.raises(CorruptBatch, match=reason) as caught:
        check(good + forged)
    assert caught.value.position == len(good)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": -1},
        {"count": -(2**31)},
        {"count": 0, "last_offset_delta": -1},
        {"last_offset_delta": 1},
        {"last_offset_delta": -(2**31)},
        {"count": 1000, "last_offset_delta": 999},
        {"count": 2},
        {"count": 4, "last_offset_delta": 3},
    ],
)
def test_a_consumer_refuses_a_count_that_cannot_be(changes: dict[str, int]) -> None:
    good = good_batch()
    forged = with_header(good, **changes)
    for read in (decode_records, decode_values, lambda data: reference.decode_records(bytes(data))):
        with pytest.raises(CorruptBatch):
            read(forged)
    below_none = reference.seal(replace(reference.read_header(good, 0), count=-1), b"")
    with pytest.raises(CorruptBatch, match=COUNT):
        decode_records(below_none)


@pytest.mark.parametrize("magic", [0, 1, 3, 255])
def test_other_message_formats_are_refused(magic: int) -> None:
    batch = bytearray(good_batch())
    batch[16] = magic
    for read in (check, iterate_batches, decode_records, Span.parse):
        with pytest.raises(CorruptBatch, match="not of message format v2"):
            read(batch)


def test_no_batch_at_all_is_refused() -> None:
    with pytest.raises(CorruptBatch, match="ends before"):
        check(b"")
    with pytest.raises(CorruptBatch, match="ends before"):
        Span.parse(b"")
    assert iterate_batches(b"") == []


@pytest.mark.parametrize("length", [-(2**31), -1, 0, 48, 2**31 - 1])
def test_an_impossible_length_is_refused(length: int) -> None:
    batch = bytearray(good_batch())
    batch[8:12] = length.to_bytes(4, "big", signed=True)
    with pytest.raises(CorruptBatch):
        check(batch)


def test_a_batch_above_the_limit_says_so() -> None:
    batch = good_batch()
    assert len(check_client_batches(batch, batch_bytes_max=len(batch))) == 1
    with pytest.raises(BatchTooLarge) as caught:
        check_client_batches(batch, batch_bytes_max=len(batch) - 1)
    assert (caught.value.size_bytes, caught.value.bytes_max) == (len(batch), len(batch) - 1)


@pytest.mark.parametrize("compression", ["none", "lz4", "gzip"])
def test_every_single_bit_flip_of_the_body_is_detected(compression: str) -> None:
    """All bits but those of base offset and generation, which the leader overwrites."""
    good = good_batch(compression=compression)
    stamped = reference.stamped(good, 0, 0)
    assert len(check(good)) == len(decode_records(good)) - 2 == 1
    for bit in range(8 * len(good)):
        if bit < 64 or 96 <= bit < 128:
            continue
        bad, bad_stamped = bytearray(good), bytearray(stamped)
        bad[bit // 8] ^= 1 << bit % 8
        bad_stamped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptBatch):
            check(bad)
        for read in (iterate_batches, Span.parse):
            with pytest.raises(CorruptBatch):
                read(bad_stamped)
        if 64 <= bit < 96:
            assert _is_refused_or_incomplete(bad)
        else:
            with pytest.raises(CorruptBatch):
                decode_records(bad)


def _is_refused_or_incomplete(data: bytearray) -> bool:
    """To a consumer a batch whose length grew looks like the cut-off end of an answer."""
    try:
        return decode_records(data) == []
    except CorruptBatch:
        return True


def test_truncation_at_every_byte_is_detected() -> None:
    first, second = good_batch(2), good_batch(1)
    data = first + second
    for size in range(len(data)):
        if size == len(first):
            continue
        with pytest.raises(CorruptBatch) as caught:
            check(data[:size])
        assert caught.value.position == (0 if size < len(first) else len(first))
    with pytest.raises(CorruptBatch):
        check(data + b"\0")


def test_a_run_is_dense_and_its_generations_never_fall() -> None:
    batch = good_batch(3)
    run = [(10, 4), (13, 4), (16, 6)]
    data = b"".join(reference.stamped(batch, *place) for place in run)
    assert [(info.base_offset, info.generation) for info in iterate_batches(data)] == run
    for place in ((9, 6), (17, 6), (16, 3), (15, 6), (-1, 6)):
        bad = data[: 2 * len(batch)] + reference.stamped(batch, *place)
        for read in (iterate_batches, lambda data: list(reference.iterate_batches(bytes(data)))):
            with pytest.raises(CorruptBatch) as caught:
                read(bad)
            assert caught.value.position == 2 * len(batch)
    flipped = bytearray(data)
    flipped[-1] ^= 1
    assert len(iterate_batches(flipped, verify=False)) == 3
    with pytest.raises(CorruptBatch, match="checksum"):
        iterate_batches(flipped)


def test_a_run_ends_before_the_last_offset() -> None:
    batch = good_batch(2)
    last = 2**63 - 1 - 2  # its end offset is the largest number there is
    assert iterate_batches(reference.stamped(batch, last, 1))[0].last_offset == 2**63 - 2
    for offset in (last + 1, 2**63 - 1, -1, -(2**63)):
        for read in (iterate_batches, decode_records, Span.parse):
            with pytest.raises(CorruptBatch, match="offset"):
                read(reference.stamped(batch, offset, 1))


def outcome(call: Callable[[], object]) -> object:
    """What a call returned or, for refused bytes, which batch it refused."""
    try:
        return call()
    except CorruptBatch as error:
        return (isinstance(error, BatchTooLarge), error.position)


@given(
    st.lists(
        st.tuples(st.integers(0, 8 * 140 - 1), st.booleans()),
        max_size=4,
    ),
    st.integers(0, 300),
)
def test_native_and_reference_judge_damaged_requests_alike(flips: list[tuple[int, bool]], size: int) -> None:
    """Damage in the header, some of it under a good CRC."""
    good = good_batch(1)
    damaged = bytearray(good + good)
    for bit, resealed in flips:
        damaged[bit // 8] ^= 1 << bit % 8
        if resealed:
            crc = reference.crc32c(bytes(damaged[reference.CRC_START : len(good)]))
            damaged[17:21] = crc.to_bytes(4, "big")
    data = bytes(damaged[: max(1, size)]) if size < len(damaged) else bytes(damaged)
    native = outcome(lambda: [info.base_sequence for info in check_client_batches(data, batch_bytes_max=150)])
    plain = outcome(
        lambda: [header.base_sequence for header in reference.check_client_batches(data, batch_bytes_max=150)]
    )
    assert native == plain
    native = outcome(lambda: [(info.position, info.last_offset) for info in iterate_batches(data)])
    plain = outcome(
        lambda: [(position, header.end_offset - 1) for position, header in reference.iterate_batches(data)]
    )
    assert native == plain
