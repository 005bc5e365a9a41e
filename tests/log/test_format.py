"""The format as documents, golden files and other people's codecs know it."""

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from struct import Struct, pack
from typing import TYPE_CHECKING, Any

import aiokafka.record.default_records as aiokafka_records
import crc32c
import kafka.record.default_records as kafka_records
import lz4.frame
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from rlog._core import (
    BatchBuilder,
    Span,
    SpanBuilder,
    Vfs,
    check_client_batches,
    decode_records,
    decode_values,
    iterate_batches,
)
from rlog.log import format as reference
from rlog.log.producers import ProducerTable
from rlog.log.segment import Segment, decode_index
from rlog.log.settings import LogSettings
from rlog.log.worked_bytes import WORKED_APPEND_TIME, WORKED_BATCH, WORKED_INDEX, worked_bytes
from rlog.records import Record
from rlog.wire.kafka import _hot as wire
from rlog.wire.kafka.messages import FetchPartition, FetchRequest

if TYPE_CHECKING:
    from rlog._core import Compression

ROOT = Path(__file__).parents[2]
GOLDEN = sorted((ROOT / "tests/golden").glob("*.hex"))
INDEX = "index"  # the golden file that is the index file of a segment with the batches of "run"
START_MS = 1_760_000_000_000

PLAIN = [
    (START_MS, b"order-1", b'{"total": 12.50}', (("trace", b"\x00\xff"), ("empty", b""), ("null", None))),
    (START_MS - 10, None, None, ()),
    (START_MS + 100_000, b"", b"v" * 70, (("näme", b"x"),)),
]
TEXT = [(START_MS + n, b"%d" % (n % 3), b"the same words, again and again, %d" % n, ()) for n in range(8)]
CONTENT = {  # (first offset, generation, fields of the record) of each record in a golden file
    "plain": [(1000 + n, 5, PLAIN[n]) for n in range(3)],
    "lz4": [(n, 1, TEXT[n]) for n in range(8)],
    "gzip": [(64 + n, 9, TEXT[n]) for n in range(8)],
    "snappy": [(128 + n, 2, TEXT[n]) for n in range(8)],
    "snappy_raw": [(256 + n, 2, TEXT[n]) for n in range(8)],
    "zstd": [(192 + n, 7, TEXT[n]) for n in range(8)],
    "append": [(500 + n, 6, (START_MS + 60_000, *TEXT[n][1:])) for n in range(3)],
    "start": [],
    "run": [(10, 3, PLAIN[0]), (12, 4, PLAIN[1]), (13, 4, PLAIN[2])],
}


def golden(name: str) -> bytes:
    return worked_bytes((ROOT / f"tests/golden/{name}.hex").read_text())


def record(offset: int, generation: int, fields: tuple[Any, ...]) -> Record:
    return Record("", 0, offset, generation, *fields)


def built(records: list[Record], **options: Any) -> bytes:
    builder = BatchBuilder(batch_bytes_max=1 << 20, **options)
    for item in records:
        assert builder.append(item.value, item.key, item.headers, item.timestamp_ms)
    return builder.build()


# --- documents and golden files ---------------------------------------------------------------------------


def test_field_offsets_are_those_of_the_drawing() -> None:
    starts = {
        "length": 8,
        "generation": 12,
        "magic": 16,
        "crc": 17,
        "attributes": 21,
        "last offset delta": 23,
    }
    starts |= {"base timestamp": 27, "max timestamp": 35, "producer id": 43, "producer epoch": 51}
    starts |= {"base sequence": 53, "count": 57, "records": 61}
    lines = [line for line in WORKED_BATCH.splitlines() if line]
    position = 0
    for line in lines[:13]:
        digits, _, prose = line.partition("   ")
        name = prose.strip()
        expected = next((at for field, at in starts.items() if name.startswith(field)), 0)
        assert position == expected, name
        position += len(bytes.fromhex(digits))
    assert position == reference.HEADER_SIZE == reference.HEADER.size == 61


def test_the_worked_batch_is_what_both_codecs_make_and_read() -> None:
    worked = worked_bytes(WORKED_BATCH)
    records = [
        Record("", 0, 7, 3, START_MS, b"k1", b"v1", (("h", b"hi"),)),
        Record("", 0, 8, 3, START_MS + 5, None, None),
    ]
    producer = {"producer_id": 41, "producer_epoch": 1, "base_sequence": 100}
    assert reference.stamped(reference.encode_batch(records, **producer), 7, 3) == worked
    batch = built(records, **producer)
    span = SpanBuilder(7, 3)
    span.add(batch, check_client_batches(batch, batch_bytes_max=1000)[0])
    assert bytes(span.build()) == worked
    assert decode_records(worked) == records == reference.decode_records(worked)[0]


def test_the_worked_append_time_is_what_both_codecs_make_and_read() -> None:
    worked = worked_bytes(WORKED_APPEND_TIME)
    assert reference.appended_at(worked_bytes(WORKED_BATCH), START_MS + 9000) == worked
    records = [
        Record("", 0, 7, 3, START_MS + 9000, b"k1", b"v1", (("h", b"hi"),)),
        Record("", 0, 8, 3, START_MS + 9000, None, None),
    ]
    assert decode_records(worked) == records == reference.decode_records(worked)[0]


INDEX_HEADER = Struct(">4sIQQQII")  # "RLIX", version, base, end offset and position, sizes of the parts


def producer_table(batches: list[list[int]]) -> bytes:
    """By docs/format.md; `batches` are in the order of the log, and each producer has one epoch."""
    last = {batch[0]: batch[4] for batch in batches}
    table = b""
    for producer_id in sorted(last, key=lambda producer_id: last[producer_id]):
        own = [batch for batch in batches if batch[0] == producer_id]
        table += pack(">qhH", producer_id, own[0][1], len(own))
        table += b"".join(pack(">iiqqq", *batch[2:]) for batch in own)
    return table


def index_file(batches: list[reference.Header], producers: list[list[int]]) -> bytes:
    """By docs/format.md: the index file of a segment of these batches, an entry for each."""
    entries, position = b"", 0
    for header in batches:
        latest = -1 if header.attributes & reference.CONTROL_BIT else header.max_timestamp
        entries += pack(">qqq", header.base_offset, position, latest)
        position += header.size
    table = producer_table(producers)
    first, last = batches[0].base_offset, batches[-1].end_offset
    data = INDEX_HEADER.pack(b"RLIX", 3, first, last, position, len(entries), len(table)) + entries + table
    return data + pack(">I", reference.crc32c(data))


@pytest.mark.parametrize(
    ("batches", "expected", "producers"),
    [
        (worked_bytes(WORKED_BATCH), worked_bytes(WORKED_INDEX), [[41, 1, 100, 101, 7, 8, -1]]),
        (golden("run"), golden("index"), [[77, 0, 0, 0, 10, 10, -1], [77, 0, 1, 2, 12, 13, -1]]),
    ],
    ids=["worked", "golden"],
)
def test_index_files_are_as_documented(batches: bytes, expected: bytes, producers: list[list[int]]) -> None:
    headers = [header for _, header in reference.iterate_batches(batches)]
    assert index_file(headers, producers) == expected
    settings = LogSettings(index_interval_bytes=1)
    segment = Segment.new(Vfs.system(), "unused", headers[0].base_offset, 4096, settings)
    for info in iterate_batches(batches):
        segment.index.add(Span.parse(batches[info.position : info.position + info.size]), info.position)
    segment.fill, segment.end_offset = len(batches), headers[-1].end_offset
    table = ProducerTable()
    table.appended((*batch,) for batch in producers)
    assert segment.encode_index(table.encode()) == expected
    stored = decode_index(expected, 1)
    assert stored is not None
    assert stored.index.to_bytes() == segment.index.to_bytes()
    assert (stored.base_offset, stored.end_offset) == (headers[0].base_offset, headers[-1].end_offset)
    assert (stored.end_position, stored.producers) == (len(batches), producer_table(producers))


def test_the_document_shows_the_drawings_and_the_worked_batch() -> None:
    document = (ROOT / "docs/format.md").read_text()
    blocks = document.split("```")[1::2]
    drawings = (reference.__doc__ or "").split("```")[1::2]
    assert [block.strip("\n") for block in blocks[:2]] == [drawing.strip("\n") for drawing in drawings]
    assert blocks[2].strip("\n") == WORKED_BATCH.strip("\n")
    assert blocks[3].strip("\n") == WORKED_APPEND_TIME.strip("\n")
    assert bytes.fromhex(blocks[4]) == reference.START_RECORD
    assert blocks[-1].strip("\n") == WORKED_INDEX.strip("\n")


def test_the_golden_files_are_the_ones_described_here() -> None:
    beside = ["anchor", "meta", "watermarks"]  # tests/log/test_data_directory.py
    assert sorted(path.stem for path in GOLDEN) == sorted([*CONTENT, INDEX, *beside])


@pytest.mark.parametrize("name", CONTENT)
def test_both_codecs_read_the_golden_files(name: str) -> None:
    data = golden(name)
    expected = [record(*place) for place in CONTENT[name]]
    assert decode_records(data) == expected
    assert decode_values(data)[0] == [item.value for item in expected]
    assert reference.decode_records(data)[0] == expected
    infos = iterate_batches(data)
    assert [info.position for info in infos] == [position for position, _ in reference.iterate_batches(data)]
    if name == "run":
        assert [info.is_control for info in infos] == [False, True, False]
    else:
        assert bytes(Span.parse(data)) == data


def test_both_codecs_write_the_golden_files() -> None:
    """Compressed frames may come out otherwise from another version of their library; the rest may not."""
    plain = [record(*place) for place in CONTENT["plain"]]
    for batch in (built(plain), reference.encode_batch(plain)):
        assert reference.stamped(batch, 1000, 5) == golden("plain")
    start = SpanBuilder(42, 7)
    start.add_start(START_MS)
    assert bytes(start.build()) == reference.start_batch(42, 7, START_MS) == golden("start")
    sent = built([record(0, 0, TEXT[n]) for n in range(3)])
    stamp = SpanBuilder(500, 6, append_time_ms=START_MS + 60_000)
    stamp.add(sent, check_client_batches(sent, batch_bytes_max=1000)[0])
    by_reference = reference.appended_at(reference.stamped(sent, 500, 6), START_MS + 60_000)
    assert bytes(stamp.build()) == by_reference == golden("append")
    first = built(plain[:1], producer_id=77, producer_epoch=0, base_sequence=0)
    second = built(plain[1:], producer_id=77, producer_epoch=0, base_sequence=1)
    tail = SpanBuilder(11, 4)
    tail.add_start(START_MS + 1)
    tail.add(second, check_client_batches(second, batch_bytes_max=1000)[0])
    assert reference.stamped(first, 10, 3) + bytes(tail.build()) == golden("run")


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_golden_file_of_each_codec_is_made_again_record_by_record(codec: "Compression") -> None:
    places = CONTENT[codec]
    batch = built([record(*place) for place in places], compression=codec)
    first, generation, _ = places[0]
    again = reference.stamped(batch, first, generation)
    (info,), (kept,) = iterate_batches(again), iterate_batches(golden(codec))
    assert (info.codec, info.attributes) == (kept.codec, kept.attributes)
    assert decode_records(again) == decode_records(golden(codec))


def test_the_idempotent_producer_of_the_golden_file_wraps() -> None:
    (info,) = iterate_batches(golden("lz4"))
    assert (info.producer_id, info.producer_epoch) == (123456789, 2)
    assert (info.base_sequence, info.last_sequence) == (2**31 - 4, 3)
    assert Span.parse(golden("lz4")).producer_batches()[0][:4] == (123456789, 2, 2**31 - 4, 3)


@given(st.binary(max_size=200))
def test_the_reference_crc_is_the_castagnoli_one(data: bytes) -> None:
    assert reference.crc32c(data) == crc32c.crc32c(data)
    assert reference.crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720's polynomial


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_varint_reads_back(value: int) -> None:
    encoded = reference.encode_varint(value)
    assert reference._Reader(encoded, 0, len(encoded)).varint(64) == value
    assert len(encoded) <= 10


# --- other people's codecs --------------------------------------------------------------------------------

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
LIBRARIES = {"kafka-python": kafka_records, "aiokafka": aiokafka_records}
THEY_WRITE = [("kafka-python", "none"), ("kafka-python", "gzip"), ("kafka-python", "lz4")]
THEY_WRITE += [("aiokafka", codec) for codec in CODECS]
THEY_READ = [("kafka-python", "none"), ("kafka-python", "gzip"), ("kafka-python", "lz4")]
THEY_READ += [("aiokafka", codec) for codec in CODECS]
FIELDS = st.one_of(st.none(), st.binary(max_size=100))
RECORDS = st.lists(
    st.tuples(
        st.integers(0, 2**41), FIELDS, FIELDS, st.lists(st.tuples(st.text(max_size=5), FIELDS), max_size=2)
    ),
    min_size=1,
    max_size=5,
).map(lambda rows: [(stamp, key, value, tuple(headers)) for stamp, key, value, headers in rows])


def foreign_batch(library: Any, rows: list[tuple[Any, ...]], codec: int) -> bytes:
    builder = library.DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=9,
        producer_epoch=1,
        base_sequence=5,
        batch_size=1 << 20,
    )
    for index, (stamp, key, value, headers) in enumerate(rows):
        added = builder.append(index, timestamp=stamp, key=key, value=value, headers=list(headers))
        assert added is not None
    return bytes(builder.build())


@pytest.mark.parametrize(("library", "codec"), THEY_WRITE)
@given(rows=RECORDS)
def test_batches_of_other_clients_are_read(library: str, codec: str, rows: list[tuple[Any, ...]]) -> None:
    batch = foreign_batch(LIBRARIES[library], rows, CODECS[codec])
    (info,) = check_client_batches(batch, batch_bytes_max=1 << 20)
    assert (info.producer_id, info.producer_epoch, info.base_sequence) == (9, 1, 5)
    stamped = reference.stamped(batch, 50, 2)
    expected = [record(50 + index, 2, row) for index, row in enumerate(rows)]
    assert decode_records(stamped) == expected
    assert reference.decode_records(stamped)[0] == expected
    if codec == "none":
        plain = built(expected, producer_id=9, producer_epoch=1, base_sequence=5)
        assert decode_records(plain) == [record(index, -1, row) for index, row in enumerate(rows)]
        assert plain[reference.HEADER_SIZE :] == batch[reference.HEADER_SIZE :]


@pytest.mark.parametrize(("library", "compression"), THEY_READ)
@given(rows=RECORDS)
def test_our_batches_are_read_by_other_clients(
    library: str, compression: str, rows: list[tuple[Any, ...]]
) -> None:
    rows = rows * 3
    batch = built([record(0, 0, row) for row in rows], compression=compression)
    foreign = LIBRARIES[library].DefaultRecordBatch(bytearray(reference.stamped(batch, 50, 2)))
    assert foreign.validate_crc()
    assert foreign.base_offset == 50
    seen = [(item.timestamp, item.key, item.value, tuple(item.headers), item.offset) for item in foreign]
    assert seen == [(*row, 50 + index) for index, row in enumerate(rows)]


# --- librdkafka, by way of the broker that it brings along --------------------------------------------------


class MockBroker:
    """librdkafka's in-process broker, which stores and returns batches as they came."""

    def __init__(self) -> None:
        self.owner = Producer({"test.mock.num.brokers": 1, "linger.ms": 50, "log_level": 0})
        (broker,) = self.owner.list_topics(timeout=10).brokers.values()
        self.host, self.port = broker.host, broker.port
        self.address = f"{self.host}:{self.port}"

    def ask(self, request: list[Any]) -> bytes:
        async def roundtrip() -> bytes:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            writer.writelines(request)
            size = int.from_bytes(await reader.readexactly(4), "big")
            answer = await reader.readexactly(size)
            writer.close()
            await writer.wait_closed()
            return answer

        return asyncio.run(asyncio.wait_for(roundtrip(), 20))

    def fetch(self, topic: str) -> bytes:
        wanted = FetchRequest(1000, 1, 1 << 20, [(topic, [FetchPartition(0, 0, 1 << 20)])])
        answer = wire.decode_fetch_response(self.ask(wire.encode_fetch_request(1, None, wanted)))
        (partition,) = answer.topics[0][1]
        assert partition.error == 0
        return b"".join(bytes(part) for part in partition.records)

    def produce(self, topic: str, records: bytes) -> int:
        request = wire.encode_produce_request(1, None, -1, 5000, [(topic, [(0, records)])])
        (partition,) = wire.decode_produce_response(self.ask(request))[0][1]
        return partition.error


@pytest.fixture(scope="module")
def broker() -> Iterator[MockBroker]:
    mock = MockBroker()
    yield mock
    mock.owner.flush(5)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("idempotent", [False, True])
def test_batches_of_librdkafka_are_read(broker: MockBroker, codec: str, idempotent: bool) -> None:
    topic = f"theirs-{codec}-{idempotent}"
    client = Producer(
        {
            "bootstrap.servers": broker.address,
            "compression.type": codec,
            "enable.idempotence": idempotent,
            "linger.ms": 50,
            "log_level": 0,
        }
    )
    rows = [(stamp, key, value, headers) for stamp, key, value, headers in [*PLAIN, *TEXT]]
    for stamp, key, value, headers in rows:
        client.produce(topic, value, key, 0, timestamp=stamp, headers=list(headers))
    assert client.flush(20) == 0
    data = broker.fetch(topic)
    infos = check_client_batches(data, batch_bytes_max=1 << 20)
    assert {info.codec for info in infos} == {CODECS[codec]}
    assert all((info.producer_id >= 0) == idempotent for info in infos)
    seen = [
        (item.timestamp_ms, item.key, item.value, item.headers, item.offset) for item in decode_records(data)
    ]
    assert seen == [(*row, index) for index, row in enumerate(rows)]


@pytest.mark.parametrize("compression", CODECS)
def test_our_batches_are_read_by_librdkafka(broker: MockBroker, compression: str) -> None:
    topic = f"ours-{compression}"
    broker.owner.list_topics(topic, timeout=10)  # the mock creates it
    rows = [*PLAIN, *TEXT] * 2
    batch = built([record(0, 0, row) for row in rows], compression=compression)
    assert check_client_batches(batch, batch_bytes_max=1 << 20)[0].codec == CODECS[compression]
    assert broker.produce(topic, batch) == 0
    client = Consumer(
        {"bootstrap.servers": broker.address, "group.id": "any", "check.crcs": True, "log_level": 0}
    )
    try:
        client.assign([TopicPartition(topic, 0, 0)])
        messages = client.consume(len(rows), timeout=20)
    finally:
        client.close()
    assert [message.error() for message in messages] == [None] * len(rows)
    seen = [
        (message.timestamp()[1], message.key(), message.value(), tuple(message.headers() or ()))
        for message in messages
    ]
    assert seen == rows


def test_kafkas_gzip_and_lz4_frames_come_in_all_settings() -> None:
    """What other writers set in their frames: linked blocks, checksums, sizes, levels, file names."""
    plain = built([record(0, 0, row) for row in TEXT])
    header, payload = reference.read_header(plain, 0), plain[reference.HEADER_SIZE :]
    lz4_frames = [
        lz4.frame.compress(
            payload, block_linked=linked, content_checksum=checked, block_checksum=checked, store_size=sized
        )
        for linked in (False, True)
        for checked in (False, True)
        for sized in (False, True)
    ]
    named = zlib.compressobj(9, zlib.DEFLATED, 31)
    gzip_frames = [gzip.compress(payload, 1), named.compress(payload) + named.flush()]
    for codec, frames in ((reference.LZ4, lz4_frames), (reference.GZIP, gzip_frames)):
        for frame in frames:
            batch = reference.seal(replace(header, attributes=codec), frame)
            assert decode_values(batch)[0] == [row[2] for row in TEXT]
