"""Encoding and decoding records: native and reference codec agree byte for byte, on good and on bad bytes."""

import ctypes
import gzip
import mmap
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import cramjam
import lz4.frame
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlog._core import (
    BatchBuilder,
    Span,
    check_client_batches,
    decode_records,
    decode_values,
    iterate_batches,
)
from rlog.errors import BatchTooLarge, CorruptBatch
from rlog.log import format as reference
from rlog.records import Receipt, Record

BATCH_BYTES_MAX = 1 << 20
PROT_NONE = 0
INT64 = st.integers(-(2**63), 2**63 - 1)
BYTES = st.one_of(st.none(), st.binary(max_size=80), st.binary(min_size=60, max_size=70))
HEADERS = st.lists(st.tuples(st.text(max_size=8), BYTES), max_size=3).map(tuple)
RECORDS = st.lists(
    st.builds(
        Record,
        topic=st.just(""),
        partition=st.just(0),
        offset=st.just(0),
        generation=st.just(-1),
        timestamp_ms=st.one_of(st.integers(0, 2000), INT64),
        key=BYTES,
        value=BYTES,
        headers=HEADERS,
    ),
    min_size=1,
    max_size=6,
)


def numbered(records: list[Record], base_offset: int = 0, generation: int = -1) -> list[Record]:
    return [
        Record("", 0, base_offset + index, generation, item.timestamp_ms, item.key, item.value, item.headers)
        for index, item in enumerate(records)
    ]


def built(records: list[Record], **options: object) -> bytes:
    builder = BatchBuilder(batch_bytes_max=BATCH_BYTES_MAX, **options)
    for record in records:
        assert builder.append(record.value, record.key, record.headers, record.timestamp_ms)
    assert builder.count == len(records)
    return builder.build()


def batch_of(payload: bytes, *, count: int = 1, codec: int = reference.NONE, **fields: int) -> bytes:
    """A batch with a good CRC around any bytes."""
    header = reference.Header(0, 0, 1, 0, codec, count - 1, 1000, 1000, -1, -1, -1, count)
    return reference.seal(replace(header, **fields), payload)


def outcome(call: Callable[[], object]) -> object:
    """What a call returned or, for refused bytes, which batch was refused and how."""
    try:
        return call()
    except CorruptBatch as error:
        return error.position


def assert_alike(data: bytes, from_offset: int = 0) -> None:
    """Both native decoders and the reference give the same records, or refuse the same batch."""
    expected = outcome(lambda: reference.decode_records(data, from_offset=from_offset))
    values = outcome(lambda: decode_values(data, from_offset=from_offset))
    if isinstance(expected, tuple):
        records, next_offset = expected
        assert decode_records(data, from_offset=from_offset) == records
        assert values == ([record.value for record in records], next_offset)
    else:
        assert outcome(lambda: decode_records(data, from_offset=from_offset)) == expected
        assert values == expected


@given(RECORDS, st.sampled_from(reference.CODEC_NAMES), st.booleans())
def test_native_and_reference_encode_the_same_bytes(
    records: list[Record], compression: str, idempotent: bool
) -> None:
    producer = (
        {"producer_id": 2**63 - 1, "producer_epoch": 32767, "base_sequence": 2**31 - 1} if idempotent else {}
    )
    batch = built(records, compression=compression, **producer)
    assert batch == reference.encode_batch(records, compression=compression, **producer)
    (info,) = check_client_batches(batch, batch_bytes_max=len(batch))
    assert info.count == len(records)
    stamped = reference.stamped(batch, 40, 3)
    assert decode_records(stamped) == numbered(records, 40, 3) == reference.decode_records(stamped)[0]
    assert decode_values(stamped) == ([record.value for record in records], 40 + len(records))


def single_size(value: bytes, timestamp_ms: int) -> int:
    return len(reference.encode_batch([Record("", 0, 0, 0, timestamp_ms, None, value)]))


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=40), st.integers(69, 3000), INT64)
def test_bulk_values_are_encoded_as_records_one_by_one(
    values: list[bytes], batch_bytes_max: int, timestamp_ms: int
) -> None:
    taken = 0
    while taken < len(values):
        bulk = BatchBuilder(batch_bytes_max=batch_bytes_max)
        single = BatchBuilder(batch_bytes_max=batch_bytes_max)
        if single_size(values[taken], timestamp_ms) > batch_bytes_max:
            for add in (
                lambda bulk=bulk, at=taken: bulk.append_values(values, at, timestamp_ms),
                lambda single=single, at=taken: single.append(values[at], timestamp_ms=timestamp_ms),
            ):
                with pytest.raises(BatchTooLarge):
                    add()
            taken += 1
            continue
        count = bulk.append_values(values, taken, timestamp_ms)
        fitting = 0
        while taken + fitting < len(values) and single.append(
            values[taken + fitting], timestamp_ms=timestamp_ms
        ):
            fitting += 1
        assert fitting == count == bulk.count
        assert bulk.size == single.size <= batch_bytes_max
        batch = bulk.build()
        assert batch == single.build()
        assert decode_values(batch) == (values[taken : taken + count], count)
        taken += count


@given(RECORDS, st.sampled_from(reference.CODEC_NAMES), st.integers(-(2**63), 2**63 - 1))
def test_reading_starts_at_the_wanted_offset(
    records: list[Record], compression: str, from_offset: int
) -> None:
    batch = built(records, compression=compression)
    run = b"".join(
        [
            reference.stamped(batch, 5, 1),
            reference.start_batch(5 + len(records), 2, 77),
            reference.stamped(batch, 6 + len(records), 2),
        ]
    )
    for start in (from_offset, from_offset % 20):
        wanted = numbered(records, 5, 1) + numbered(records, 6 + len(records), 2)
        wanted = [record for record in wanted if record.offset >= start]
        assert decode_records(run, from_offset=start) == wanted
        assert decode_values(run, from_offset=start)[1] == max(start, 6 + 2 * len(records))
        assert_alike(run, start)


def test_topic_and_partition_are_passed_on() -> None:
    (record,) = decode_records(built([Record("", 0, 0, 0, 5, None, b"v")]), topic="orders", partition=3)
    assert record == Record("orders", 3, 0, -1, 5, None, b"v")


@given(RECORDS, st.integers(0, 10_000))
def test_a_truncated_last_batch_is_left_for_the_next_fetch(records: list[Record], cut: int) -> None:
    first = reference.stamped(built(records), 0, 1)
    run = first + reference.stamped(first, len(records), 1)
    data = run[: cut % (len(run) + 1)]
    whole = len(data) // len(first)
    values = [record.value for record in records] * whole
    assert decode_values(data) == (values, whole * len(records))


def test_log_append_time_counts_for_all_records() -> None:
    records = [Record("", 0, 0, 0, 5 + index, None, b"v") for index in range(3)]
    payload = built(records)[reference.HEADER_SIZE :]
    batch = batch_of(payload, count=3, attributes=reference.APPEND_TIME_BIT, max_timestamp=99)
    assert [record.timestamp_ms for record in decode_records(batch)] == [99, 99, 99]
    assert_alike(batch)


def test_compacted_batches_of_kafka_are_read() -> None:
    """Fewer records than offsets, gaps between batches, an emptied batch."""
    encode = reference.encode_record
    records = [Record("", 0, 0, 0, 1000, None, b"%d" % delta) for delta in (2, 5)]
    payload = b"".join(
        encode(item, offset_delta=int(item.value or b""), base_timestamp=1000) for item in records
    )
    run = batch_of(payload, count=2, last_offset_delta=9, base_offset=100)
    run += batch_of(b"", count=0, last_offset_delta=4, base_offset=200)
    assert [record.offset for record in decode_records(run)] == [102, 105]
    assert decode_values(run, from_offset=103) == ([b"5"], 205)
    assert_alike(run)


def test_an_offset_is_never_delivered_twice() -> None:
    batch = built([Record("", 0, 0, 0, 1, None, b"%d" % index) for index in range(4)])
    run = reference.stamped(batch, 10, 1) + reference.stamped(batch, 12, 1) + reference.stamped(batch, 3, 1)
    assert [record.offset for record in decode_records(run)] == [10, 11, 12, 13, 14, 15]
    assert_alike(run)


# --- bad bytes --------------------------------------------------------------------------------------------


def record_bytes(*parts: str) -> bytes:
    """A record with a right length around its parts in hex."""
    body = bytes.fromhex("".join(parts))
    return reference.encode_varint(len(body)) + body


BAD_RECORDS = {
    "nothing": b"",
    "length beyond the batch": bytes.fromhex("14 00 00 00 01 01 00"),
    "negative length": bytes.fromhex("01 00 00 00 01 01 00"),
    "length below the least": bytes.fromhex("0a 00 00 00 01 01 00"),
    "length above its record": bytes.fromhex("0e 00 00 00 01 01 00 00"),
    "endless length": b"\xff" * 12,
    "endless timestamp": record_bytes("00", "ff" * 10, "00 01 01 00"),
    "timestamp of 65 bits": record_bytes("00", "ff" * 9 + "02", "00 01 01 00"),
    "offset of 33 bits": record_bytes("00 00", "8080808010", "01 01 00"),
    "offset in six bytes": record_bytes("00 00", "808080808000", "01 01 00"),
    "offset above the last": record_bytes("00 00 02 01 01 00"),
    "negative offset": record_bytes("00 00 01 01 01 00"),
    "key size -2": record_bytes("00 00 00 03 01 00"),
    "key beyond the record": record_bytes("00 00 00 10 01 00"),
    "value size -2": record_bytes("00 00 00 01 03 00"),
    "value beyond the record": record_bytes("00 00 00 01 10 00"),
    "value of 2 GiB": record_bytes("00 00 00 01 feffffff0f 00"),
    "-1 headers": record_bytes("00 00 00 01 01 01"),
    "headers that are not there": record_bytes("00 00 00 01 01 02"),
    "header without a name": record_bytes("00 00 00 01 01 02 01 01"),
    "header name beyond the record": record_bytes("00 00 00 01 01 02 04 68"),
    "header value size -2": record_bytes("00 00 00 01 01 02 02 68 03"),
    "header value beyond the record": record_bytes("00 00 00 01 01 02 02 68 04 68"),
    "bytes after the last header": record_bytes("00 00 00 01 01 00 00"),
    "bytes after the last record": record_bytes("00 00 00 01 01 00") + b"\0",
}


@pytest.mark.parametrize("name", BAD_RECORDS)
@pytest.mark.parametrize("codec", [reference.NONE, reference.LZ4])
def test_records_that_do_not_parse_are_refused(name: str, codec: int) -> None:
    payload = BAD_RECORDS[name]
    good = batch_of(record_bytes("00 00 00 01 01 00"))
    bad = batch_of(lz4.frame.compress(payload) if codec else payload, codec=codec, base_offset=1)
    for read in (decode_records, decode_values):
        with pytest.raises(CorruptBatch) as caught:
            read(good + bad)
        assert caught.value.position == len(good)
    assert_alike(good + bad)


def test_offsets_ascend_within_a_batch() -> None:
    record = record_bytes("00 00 00 01 01 00")
    with pytest.raises(CorruptBatch, match="do not parse"):
        decode_values(batch_of(record * 2, count=2))


def test_varints_may_be_longer_than_needed() -> None:
    batch = batch_of(record_bytes("00 8000 808000 8180808000 01 00"))
    assert decode_values(batch) == ([None], 1)
    assert_alike(batch)


def test_a_header_name_that_is_not_utf_8_stops_no_consumer() -> None:
    batch = batch_of(record_bytes("00 00 00 01 01 02 04 68ff 01"))
    assert decode_records(batch)[0].headers == (("h\ufffd", None),)
    assert_alike(batch)


COMPRESS = {
    reference.GZIP: gzip.compress,
    reference.SNAPPY: lambda plain: bytes(cramjam.snappy.compress_raw(plain)),
    reference.LZ4: lz4.frame.compress,
    reference.ZSTD: lambda plain: bytes(cramjam.zstd.compress(plain)),
}
GOOD_RECORDS = [
    Record("", 0, 0, 0, 1000, b"key", b"value", (("h", b"x"), ("", None))),
    Record("", 0, 0, 0, 1300, None, b"v" * 70),
]
GOOD_PAYLOAD = built(GOOD_RECORDS)[reference.HEADER_SIZE :]


@given(
    st.integers(reference.NONE, reference.ZSTD),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    st.one_of(st.none(), st.integers(0, 200)),
    st.integers(0, 3),
)
@settings(max_examples=400)
def test_damaged_records_under_a_good_crc_are_judged_alike(
    codec: int, changes: list[tuple[int, int]], size: int | None, count: int
) -> None:
    """A producer with a bug, or malice: the checksum is right, the records are not."""
    frames = COMPRESS
    damaged = bytearray(GOOD_PAYLOAD)
    compressed = len(changes) % 2  # damage what the frame holds, or the frame
    if not compressed and codec in frames:
        damaged = bytearray(frames[codec](bytes(damaged)))
    for position, byte in changes:
        damaged[position % len(damaged)] = byte
    payload = bytes(damaged[:size])
    if compressed and codec in frames:
        payload = frames[codec](payload)
    assert_alike(batch_of(payload, codec=codec, count=count, last_offset_delta=max(0, count - 1)))


class GuardedPage:
    """A page whose next page must not be touched: reading a byte too far ends the process."""

    def __init__(self) -> None:
        self.size = mmap.PAGESIZE
        self.memory = mmap.mmap(-1, 2 * self.size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + self.size), self.size, PROT_NONE):
            raise OSError("mprotect failed")

    def at_the_end(self, data: bytes) -> memoryview:
        self.memory[self.size - len(data) : self.size] = data
        return memoryview(self.memory)[self.size - len(data) : self.size]


@given(st.binary(max_size=300), st.integers(0, 400), st.booleans())
@example(b"", 0, False)
@settings(max_examples=400)
def test_no_bytes_are_read_beyond_the_buffer(noise: bytes, size: int, resealed: bool) -> None:
    """Arbitrary bytes, alone or behind a plausible header, up to the edge of readable memory."""
    page = GuardedPage()
    header = batch_of(GOOD_PAYLOAD, count=2)[: reference.HEADER_SIZE]
    framed = (batch_of(noise, count=min(2, len(noise) // 7)) if len(noise) >= 7 else header + noise)[:size]
    for data in (noise, framed if resealed else (header + noise)[:size]):
        expected = outcome(lambda data=data: reference.decode_records(data))
        view = page.at_the_end(data)
        for read in (
            decode_records,
            decode_values,
            lambda view: decode_values(view, verify=False),
            iterate_batches,
            lambda view: iterate_batches(view, verify=False),
            Span.parse,
            lambda view: check_client_batches(view, batch_bytes_max=BATCH_BYTES_MAX),
        ):
            outcome(lambda read=read, view=view: read(view))
        got = outcome(lambda view=view: decode_records(view))
        assert got == (expected[0] if isinstance(expected, tuple) else expected)


# --- the builder ------------------------------------------------------------------------------------------


def test_a_full_builder_takes_no_more_and_keeps_what_it_has() -> None:
    builder = BatchBuilder(batch_bytes_max=100)
    assert builder.append(b"x" * 20, timestamp_ms=1)
    before = builder.size
    assert not builder.append(b"x" * 20, timestamp_ms=1)
    assert (builder.size, builder.count) == (before, 1)
    assert builder.append(b"x" * (100 - before - 7), timestamp_ms=1)
    assert builder.size == 100
    assert len(builder.build()) == 100


def test_a_record_for_no_batch_is_refused() -> None:
    builder = BatchBuilder(batch_bytes_max=100)
    for add in (lambda: builder.append(b"x" * 33), lambda: builder.append_values([b"x" * 33], 0, 1)):
        with pytest.raises(BatchTooLarge, match="101 bytes; at most 100"):
            add()
    assert builder.append(b"x" * 32)
    assert builder.size == 100


def test_what_precedes_a_bad_value_is_taken_first() -> None:
    values = [b"a", b"b", "c", b"d"]
    builder = BatchBuilder(batch_bytes_max=1000)
    assert builder.append_values(values, 0, 1) == 2
    with pytest.raises(TypeError, match=r"values\[2\] is not bytes but str"):
        builder.append_values(values, 2, 1)
    assert builder.append_values(tuple(values), 3, 1) == 1
    assert builder.append_values(values, 4, 1) == 0
    assert decode_values(builder.build()) == ([b"a", b"b", b"d"], 3)


def test_the_builder_refuses_what_it_cannot_encode() -> None:
    builder = BatchBuilder(batch_bytes_max=1000)
    for headers in ([("a",)], [("a", "b")], [(b"a", b"b")], [(None, b"b")], 5):
        with pytest.raises((TypeError, ValueError)):
            builder.append(b"v", None, headers)
    for value, key in (("v", None), (b"v", "k"), (bytearray(b"v"), None)):
        with pytest.raises(TypeError):
            builder.append(value, key)
    with pytest.raises(TypeError, match="list or tuple"):
        builder.append_values(iter([b"v"]), 0, 1)
    for start in (-1, 2):
        with pytest.raises(ValueError, match="not within"):
            builder.append_values([b"v"], start, 1)
    assert (builder.count, builder.size) == (0, reference.HEADER_SIZE)
    with pytest.raises(ValueError, match="at least one record"):
        builder.build()


def test_the_builder_ends_with_build() -> None:
    builder = BatchBuilder(batch_bytes_max=1000)
    builder.append(b"v")
    builder.build()
    for use in (builder.build, lambda: builder.append(b"v"), lambda: builder.append_values([b"v"], 0, 1)):
        with pytest.raises(ValueError, match="has built its batch"):
            use()


def test_the_producer_may_be_set_late() -> None:
    builder = BatchBuilder(batch_bytes_max=1000, compression="lz4")
    builder.append(b"v", timestamp_ms=1)
    builder.set_producer(9, 2, 70)
    (info,) = check_client_batches(builder.build(), batch_bytes_max=1000)
    assert (info.producer_id, info.producer_epoch, info.base_sequence) == (9, 2, 70)


@pytest.mark.parametrize("producer", [(-2, -1, -1), (1, -1, 0), (1, 0, -1), (-1, 0, 0), (-1, -1, 5)])
def test_half_a_producer_is_refused(producer: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no producer has"):
        BatchBuilder(batch_bytes_max=1000).set_producer(*producer)


@pytest.mark.parametrize(
    "options",
    [{"batch_bytes_max": 67}, {"batch_bytes_max": 2**31}, {"batch_bytes_max": 1000, "compression": "brotli"}],
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="="):
        BatchBuilder(**options)


# --- records and receipts ---------------------------------------------------------------------------------


def test_a_record_is_a_frozen_value() -> None:
    record = Record("orders", 1, 2, 3, 4, b"k", b"v", (("h", None),))
    same = decode_records(
        reference.stamped(built([Record("", 0, 0, 0, 4, b"k", b"v", (("h", None),))]), 2, 3),
        topic="orders",
        partition=1,
    )[0]
    assert record == same
    assert hash(record) == hash(same)
    assert record != replace_offset(record, 9)
    assert record != "record"
    assert pickle.loads(pickle.dumps(record)) == record
    assert repr(record) == (
        "Record(topic='orders', partition=1, offset=2, generation=3, timestamp_ms=4, "
        "key=b'k', value=b'v', headers=(('h', None),))"
    )
    with pytest.raises(AttributeError):
        record.value = b"w"
    with pytest.raises(AttributeError):
        record.color = b"w"
    match record:
        case Record(topic, partition, offset):
            assert (topic, partition, offset) == ("orders", 1, 2)


def replace_offset(record: Record, offset: int) -> Record:
    return Record(
        record.topic,
        record.partition,
        offset,
        record.generation,
        record.timestamp_ms,
        record.key,
        record.value,
    )


@pytest.mark.parametrize("headers", [(("h", "x"),), ((b"h", b"x"),), ((["h"], None),), ("h",), [("h", b"x")]])
def test_a_record_holds_only_bytes(headers: tuple[tuple[str, bytes], ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Record("t", 0, 0, 0, 0, b"k", b"v", headers)


def test_a_receipt_is_a_frozen_value() -> None:
    receipt = Receipt("orders", 1, 2, 3, (1, 2), "majority", 4)
    assert receipt == Receipt(
        "orders", 1, offset=2, generation=3, flushed_by=(1, 2), waited="majority", timestamp_ms=4
    )
    with pytest.raises(FrozenInstanceError):
        receipt.offset = 5
