"""The RecordBatch format in plain Python: what the native codec is checked against, and the place to read it.

rlog stores, sends and serves Apache Kafka's message format v2, unchanged. All numbers are big-endian; a batch
is 61 bytes of header and then its records:

```
 byte  0        8        12           16      17     21           23                  27
       | base   | length | generation | magic | crc  | attributes | last offset delta | ...
       | offset |        |            |  = 2  |      |            |                   |
       '---------------- outside the crc ------------'------- covered by the crc, to the end

 byte  27               35              43            51               53              57      61
   ... | base timestamp | max timestamp | producer id | producer epoch | base sequence | count | records
```

* length counts the bytes after itself (from byte 12).
* The leader stamps base offset and generation, which lie outside the crc (crc32c of byte 21 to the end).
* attributes: codec in bits 0 to 2 (0 none, 1 gzip, 2 snappy, 3 lz4 frame, 4 zstd), bit 3 the timestamps are
  the server's (max timestamp counts), bit 4 transactional, bit 5 control batch, bit 6 delete horizon.
* last offset delta + 1 = count, but for batches that Kafka has compacted.

A record is made of zig-zag varints (7 bits a byte, low ones first; 0, -1, 1, -2 ... are 0, 1, 2, 3 ...):

```
 length | attributes | timestamp | offset | key size | key | value size | value | header | headers
        |  0, 1 byte |   delta   |  delta |  or -1   |     |   or -1    |       | count  |
                                             header:  name size | name | value size or -1 | value
```

length counts what follows it. -1 is null. worked_bytes.py has batches byte for byte.

Nothing here is fast, and nothing is shared with the native code but the packages of the codecs.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import cramjam
import lz4.frame

from rlog.errors import BatchTooLarge, CorruptBatch
from rlog.records import Record

HEADER: Final = struct.Struct(">qiibIhiqqqhii")
HEADER_SIZE: Final = 61
LENGTH_END: Final = 12  # the length field counts from here
CRC_START: Final = 21  # the crc covers the bytes from here
MAGIC: Final = 2
RECORD_SIZE_MIN: Final = 7  # seven varints of a byte each, attributes included
assert HEADER.size == HEADER_SIZE

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODEC_NAMES: Final = ("none", "gzip", "snappy", "lz4", "zstd")
CODEC_MASK: Final = 0x07
XERIAL_HEADER: Final = b"\x82SNAPPY\0" + bytes([0, 0, 0, 1, 0, 0, 0, 1])  # what Java's snappy starts with
APPEND_TIME_BIT: Final = 0x08
TRANSACTIONAL_BIT: Final = 0x10
CONTROL_BIT: Final = 0x20
ATTRIBUTES_KNOWN: Final = 0x7F

DECOMPRESSED_BYTES_MAX: Final = 64 << 20
OFFSET_MAX: Final = 2**63 - 2  # the end offset after it is still an int64
SEQUENCE_MASK: Final = 0x7FFF_FFFF

START_RECORD: Final = bytes.fromhex("26 00 00 00  08 0000 0002  12 0000 ffffffff 01 01 00  00")
"""The record of a start-of-generation entry. Key: int16 version 0, int16 type 2 (LEADER_CHANGE). Value:
KRaft's LeaderChangeMessage v0 with leader -1 and no voters: int16 0, int32 -1, two empty arrays, no tags."""


@dataclass(frozen=True, slots=True)
class Header:
    """The 61 bytes before the records, in their order; `size` is the whole batch in bytes."""

    base_offset: int
    size: int
    generation: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int

    @property
    def end_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> int:
        return self.attributes & CODEC_MASK

    @property
    def last_sequence(self) -> int:
        return (self.base_sequence + self.last_offset_delta) & SEQUENCE_MASK

    def pack(self) -> bytes:
        fields = [getattr(self, name) for name in self.__slots__]
        fields[1] -= LENGTH_END
        return HEADER.pack(*fields[:3], MAGIC, *fields[3:])


class Truncated(CorruptBatch):
    """The buffer ends before the batch does: a longer one may hold a good batch."""


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), RFC 3720 appendix B.4."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFF_FFFF


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F6_3B78 if byte & 1 else 0)
    return byte


_CRC_TABLE: Final = [_crc_of_byte(byte) for byte in range(256)]


# --- encoding ---------------------------------------------------------------------------------------------


def encode_varint(value: int) -> bytes:
    """Zig-zag varint of an int64."""
    raw = value << 1 if value >= 0 else (-value << 1) - 1
    encoded = bytearray()
    while raw > 0x7F:
        encoded.append(raw & 0x7F | 0x80)
        raw >>= 7
    encoded.append(raw)
    return bytes(encoded)


def encode_field(field: bytes | None) -> bytes:
    return encode_varint(-1) if field is None else encode_varint(len(field)) + field


def encode_record(record: Record, *, offset_delta: int, base_timestamp: int) -> bytes:
    """Timestamp deltas wrap at 64 bits, so that any two timestamps fit in one batch."""
    timestamp_delta = _wrapped(record.timestamp_ms - base_timestamp)
    body = b"\0" + encode_varint(timestamp_delta) + encode_varint(offset_delta)
    body += encode_field(record.key) + encode_field(record.value) + encode_varint(len(record.headers))
    for name, value in record.headers:
        body += encode_field(name.encode()) + encode_field(value)
    return encode_varint(len(body)) + body


def _wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def seal(header: Header, records: bytes) -> bytes:
    """The batch of these records, with size and crc filled in."""
    sized = replace(header, size=HEADER_SIZE + len(records), crc=0).pack() + records
    return replace(header, size=len(sized), crc=crc32c(sized[CRC_START:])).pack() + records


def encode_batch(
    records: Sequence[Record],
    *,
    compression: str = "none",
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> bytes:
    """A batch as a producer sends it: base offset 0, generation -1. Of each record its offset is ignored."""
    timestamps = [record.timestamp_ms for record in records]
    plain = b"".join(
        encode_record(record, offset_delta=index, base_timestamp=timestamps[0])
        for index, record in enumerate(records)
    )
    codec, payload = NONE, plain
    if compression != "none":
        frame = _COMPRESSORS[CODEC_NAMES.index(compression)](plain)
        if len(frame) < len(plain):
            codec, payload = CODEC_NAMES.index(compression), frame
    header = Header(
        0, 0, -1, 0, codec, len(records) - 1, timestamps[0], max(timestamps),
        producer_id, producer_epoch, base_sequence, len(records),
    )  # fmt: skip
    return seal(header, payload)


def start_batch(offset: int, generation: int, timestamp_ms: int) -> bytes:
    """A start-of-generation entry: it takes one offset, and readers skip it."""
    header = Header(offset, 0, generation, 0, CONTROL_BIT, 0, timestamp_ms, timestamp_ms, -1, -1, -1, 1)
    return seal(header, START_RECORD)


def stamped(batch: bytes, base_offset: int, generation: int) -> bytes:
    """What the leader makes of a producer's batch: two fields differ, the crc holds."""
    return (
        struct.pack(">q", base_offset)
        + batch[8:LENGTH_END]
        + struct.pack(">i", generation)
        + batch[LENGTH_END + 4 :]
    )


def appended_at(batch: bytes, timestamp_ms: int) -> bytes:
    """What the leader of a topic with LogAppendTime makes of it: every record has the time of its append.

    Base timestamp and records stay; bit 3 says that max timestamp is meant, and the crc is made anew.
    """
    header = read_header(batch, 0)
    attributes = header.attributes | APPEND_TIME_BIT
    return seal(replace(header, attributes=attributes, max_timestamp=timestamp_ms), batch[HEADER_SIZE:])


# --- headers ----------------------------------------------------------------------------------------------


def read_header(data: bytes, position: int) -> Header:
    """The header at `position`, with what holds for every batch checked; the crc is not.

    Raises Truncated, or another CorruptBatch.
    """
    available = len(data) - position
    if available < LENGTH_END:
        raise Truncated("ends within the length", position=position)
    (length,) = struct.unpack_from(">i", data, position + 8)
    if length < HEADER_SIZE - LENGTH_END:
        raise CorruptBatch("impossible length", position=position)
    if length > available - LENGTH_END:
        raise Truncated("ends before its length says", position=position)
    base_offset, _, generation, magic, *others = HEADER.unpack_from(data, position)
    if magic != MAGIC:
        raise CorruptBatch("not message format v2", position=position)
    header = Header(base_offset, length + LENGTH_END, generation, *others)
    if header.attributes & ~ATTRIBUTES_KNOWN or header.codec > ZSTD:
        raise CorruptBatch("unknown attributes or codec", position=position)
    if header.count < 0 or header.last_offset_delta < 0 or header.count > header.last_offset_delta + 1:
        raise CorruptBatch("count and offsets do not match", position=position)
    if header.codec == NONE and header.count > (header.size - HEADER_SIZE) // RECORD_SIZE_MIN:
        raise CorruptBatch("count and size do not match", position=position)
    return header


def check_crc(data: bytes, position: int, header: Header) -> None:
    if crc32c(data[position + CRC_START : position + header.size]) != header.crc:
        raise CorruptBatch("checksum", position=position)


def check_stamp(header: Header, position: int) -> None:
    if header.base_offset < 0 or header.end_offset > OFFSET_MAX + 1:
        raise CorruptBatch("negative or overflowing offset", position=position)


def check_client_batches(data: bytes, *, batch_bytes_max: int) -> list[Header]:
    """The headers of a produce request's batches (SAFETY 54). Raises CorruptBatch."""
    headers: list[Header] = []
    position = 0
    while position < len(data) or not headers:
        header = read_header(data, position)
        if header.attributes & ~CODEC_MASK:
            raise CorruptBatch("attributes that a client may not set", position=position)
        if header.count != header.last_offset_delta + 1:
            raise CorruptBatch("count and offsets do not match", position=position)
        if header.producer_id < -1 or (
            header.producer_id >= 0 and (header.producer_epoch < 0 or header.base_sequence < 0)
        ):
            raise CorruptBatch("impossible producer", position=position)
        if header.size > batch_bytes_max:
            raise BatchTooLarge(
                "too large", size_bytes=header.size, bytes_max=batch_bytes_max, position=position
            )
        check_crc(data, position, header)
        headers.append(header)
        position += header.size
    return headers


def iterate_batches(data: bytes, *, one_generation: bool = False) -> Iterator[tuple[int, Header]]:
    """(position, header) of each batch of a dense run of a log's bytes. Raises CorruptBatch."""
    position = 0
    before: Header | None = None
    while position < len(data):
        header = read_header(data, position)
        if header.count != header.last_offset_delta + 1:
            raise CorruptBatch("count and offsets do not match", position=position)
        if header.generation < (before.generation if before else 0):
            raise CorruptBatch("generation falls", position=position)
        if one_generation and before and header.generation != before.generation:
            raise CorruptBatch("another generation", position=position)
        if before and header.base_offset != before.end_offset:
            raise CorruptBatch("not dense", position=position)
        check_stamp(header, position)
        check_crc(data, position, header)
        yield position, header
        before = header
        position += header.size


# --- records ----------------------------------------------------------------------------------------------


class _Reader:
    """Takes a record's parts off a buffer. Raises ValueError when they are not there."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data, self.position, self.end = data, position, end

    def take(self, size: int) -> bytes:
        if not 0 <= size <= self.end - self.position:
            raise ValueError("a size reaches beyond the record")
        self.position += size
        return self.data[self.position - size : self.position]

    def varint(self, bits: int) -> int:
        """A zig-zag varint of at most `bits` bits, in no more bytes than that many bits can need."""
        raw = 0
        for index in range((bits + 6) // 7):
            byte = self.take(1)[0]
            raw |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if raw >= 1 << bits:
                    raise ValueError("a number is too large")
                return raw >> 1 ^ -(raw & 1)
        raise ValueError("a number is too long")

    def field(self) -> bytes | None:
        size = self.varint(32)
        return None if size == -1 else self.take(size)


def decode_batch(data: bytes, header: Header, *, topic: str = "", partition: int = 0) -> list[Record]:
    """All records of one batch from its decompressed records. Raises ValueError when they do not parse."""
    records: list[Record] = []
    reader = _Reader(data, 0, len(data))
    last_delta = -1
    for _ in range(header.count):
        size = reader.varint(32)
        body = _Reader(reader.take(size), 0, size)
        body.take(1)
        timestamp_ms = _wrapped(header.base_timestamp + body.varint(64))
        if header.attributes & APPEND_TIME_BIT:
            timestamp_ms = header.max_timestamp
        offset_delta = body.varint(32)
        if not last_delta < offset_delta <= header.last_offset_delta:
            raise ValueError("offsets do not ascend within the batch")
        last_delta = offset_delta
        key, value = body.field(), body.field()
        headers = tuple(_decode_headers(body))
        if body.position != body.end:
            raise ValueError("bytes follow the last header of a record")
        offset = header.base_offset + offset_delta
        records.append(Record(topic, partition, offset, header.generation, timestamp_ms, key, value, headers))
    if reader.position != reader.end:
        raise ValueError("bytes follow the last record")
    return records


def _decode_headers(body: _Reader) -> Iterator[tuple[str, bytes | None]]:
    count = body.varint(32)
    if count < 0:
        raise ValueError("a negative number of headers")
    for _ in range(count):
        name = body.field()
        if name is None:
            raise ValueError("a header without a name")
        yield name.decode("utf-8", "replace"), body.field()


def decompress(payload: bytes, codec: int, bytes_max: int) -> bytes:
    """The records of a batch. Raises ValueError."""
    if codec == NONE:
        return payload
    try:
        plain = _DECOMPRESSORS[codec](payload, bytes_max)
    except (RuntimeError, zlib.error, cramjam.DecompressionError) as error:
        raise ValueError(str(error)) from error
    if len(plain) > bytes_max:
        raise ValueError(f"more than {bytes_max} bytes")
    return plain


def _unlz4(payload: bytes, bytes_max: int) -> bytes:
    context = lz4.frame.create_decompression_context()
    plain, used, ended = lz4.frame.decompress_chunk(context, payload, max_length=bytes_max + 1)
    if len(plain) <= bytes_max and not (ended and used == len(payload)):
        raise ValueError("not one whole lz4 frame")
    return bytes(plain)


def _gunzip(payload: bytes, bytes_max: int) -> bytes:
    inner = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    plain = inner.decompress(payload, bytes_max + 1)
    if len(plain) <= bytes_max and not (inner.eof and not inner.unused_data):
        raise ValueError("not one whole gzip member")
    return plain


def _unsnap(payload: bytes, bytes_max: int) -> bytes:
    """Blocks in the framing of Java's clients, or one raw block."""
    if len(payload) <= len(XERIAL_HEADER) or not payload.startswith(XERIAL_HEADER[:8]):
        return _unsnap_block(payload, bytes_max)
    plain = b""
    position = len(XERIAL_HEADER)
    while position < len(payload):
        size = int.from_bytes(payload[position : position + 4], "big")
        block = payload[position + 4 : position + 4 + size]
        if len(block) != size:
            raise ValueError("a snappy block ends early")
        plain += _unsnap_block(block, bytes_max - len(plain))
        position += 4 + size
    return plain


def _unsnap_block(block: bytes, bytes_max: int) -> bytes:
    """Raw snappy: the size as a plain varint, then literals and copies of what came before."""
    size, position = _snappy_size(block)
    if size > bytes_max:
        raise ValueError(f"more than {bytes_max} bytes")
    plain = bytearray()
    while position < len(block):
        tag, kind = block[position] >> 2, block[position] & 3
        extra = max(0, tag - 59) if kind == 0 else (1, 2, 4)[kind - 1]
        number = int.from_bytes(block[position + 1 : position + 1 + extra], "little")
        if position + 1 + extra > len(block):
            raise ValueError("a snappy block ends early")
        position += 1 + extra
        if kind == 0:
            length = (number if extra else tag) + 1
            literal = block[position : position + length]
            if len(literal) != length:
                raise ValueError("a snappy block ends early")
            plain += literal
            position += length
            continue
        length, distance = (tag & 7) + 4 if kind == 1 else tag + 1, number
        if kind == 1:
            distance += (tag >> 3) << 8
        if not 0 < distance <= len(plain):
            raise ValueError("a copy of what is not there")
        for _ in range(length):
            plain.append(plain[-distance])
        if len(plain) > size:
            break
    if len(plain) != size or not size:
        raise ValueError("a snappy block of another size than it says")
    return bytes(plain)


def _snappy_size(block: bytes) -> tuple[int, int]:
    size = 0
    for index, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return size, index + 1
    raise ValueError("a snappy block without a size")


def _unzstd(payload: bytes, bytes_max: int) -> bytes:
    plain = bytearray(min(bytes_max + 1, 32768 * len(payload)))  # a block of 128 KiB takes four bytes
    return bytes(plain[: cramjam.zstd.decompress_into(payload, plain)])


def _snap(plain: bytes) -> bytes:
    blocks = [plain[start : start + 32768] for start in range(0, len(plain), 32768)]
    squeezed = [bytes(cramjam.snappy.compress_raw(block)) for block in blocks]
    return XERIAL_HEADER + b"".join(len(block).to_bytes(4, "big") + block for block in squeezed)


_DECOMPRESSORS: Final[dict[int, Callable[[bytes, int], bytes]]] = {
    GZIP: _gunzip,
    SNAPPY: _unsnap,
    LZ4: _unlz4,
    ZSTD: _unzstd,
}
_COMPRESSORS: Final[dict[int, Callable[[bytes], bytes]]] = {
    GZIP: lambda plain: zlib.compress(plain, wbits=16 + zlib.MAX_WBITS),
    SNAPPY: _snap,
    LZ4: lambda plain: lz4.frame.compress(plain, block_linked=False, store_size=False),
    ZSTD: lambda plain: bytes(cramjam.zstd.compress(plain, level=3)),
}


def decode_records(
    data: bytes, *, from_offset: int = 0, decompressed_bytes_max: int = DECOMPRESSED_BYTES_MAX
) -> tuple[list[Record], int]:
    """The records at or above `from_offset`, and the offset to go on from; a batch cut short ends them.

    Control batches are skipped, and so is whatever lies below what was decoded already. Raises CorruptBatch,
    UnsupportedCodec.
    """
    records: list[Record] = []
    position = 0
    while position < len(data):
        try:
            header = read_header(data, position)
        except Truncated:
            break
        check_stamp(header, position)
        if header.end_offset > from_offset:
            check_crc(data, position, header)
            if not header.attributes & CONTROL_BIT:
                payload = data[position + HEADER_SIZE : position + header.size]
                try:
                    plain = decompress(payload, header.codec, decompressed_bytes_max)
                    decoded = decode_batch(plain, header)
                except ValueError as error:
                    raise CorruptBatch(str(error), position=position) from error
                records.extend(record for record in decoded if record.offset >= from_offset)
            from_offset = header.end_offset
        position += header.size
    return records, from_offset
