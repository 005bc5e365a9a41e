"""Frames between nodes: what every peer connection carries (SAFETY 48).

One frame, all integers big-endian:

    0        4  5  6      8             16             32         36           44       48       52       56
    | "RLPF" |v |k | zero | cluster hash | target uuid | sender   | incarnation | length | head   | crc32c |
    |        |  |  |      | 8 bytes      | 16 bytes    | node id  |             |        | length |        |
    +--------+--+--+------+--------------+-------------+----------+-------------+--------+--------+--------+
    | head: `head length` bytes, one message after the other (or JSON, for a Hello and a Refusal)          |
    | payload: the rest, the record batches of the Appends in the head, and anchors, in the same order     |

* `length` counts the whole frame, header included; a frame above the receiver's cap is refused before a
  byte of its body is read, and so is one without messages above JSON_BYTES_MAX.
* `crc32c` covers bytes 0..52 and the head. The payload has no checksum of its own, because it needs none:
  a batch's own CRC covers it from byte 21 on, and bytes 0..17 and the CRC field itself are *determined* by
  the Append that announces them: base offset and generation by prev_offset, end_offset and span_generation
  (the run is dense and of one generation), length by the exact total, magic by being 2, and a changed CRC
  field by not matching. `checked_span` makes these comparisons before a byte of a payload is used. An anchor
  ends with a CRC of its own.
* cluster, sender and incarnation are compared with what the Hello of the connection said, the target uuid
  with the reader's own (all zero, in a Hello only: not known yet).

Any mismatch raises ProtocolError; the connection is closed with the reason in the log, and nothing that
came in that frame is acted upon. Nothing here does I/O.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from crc32c import crc32c

from rlog._core import Span
from rlog.errors import CorruptBatch, ProtocolError
from rlog.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallAnchor,
    Message,
    VoteReply,
    VoteRequest,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAGIC = b"RLPF"
VERSION = 1
HEADER = Struct(">4sBBH8s16sIQII")
CRC = Struct(">I")
HEADER_BYTES = 56
CRC_AT = 52
assert HEADER.size == CRC_AT
assert CRC_AT + CRC.size == HEADER_BYTES
# Of a Hello, which names all topics; parsed in some 20 ms at the worst.
JSON_BYTES_MAX = 1024 * 1024

UNKNOWN_UUID = bytes(16)


class ForeignClusterError(ProtocolError):
    """The other end of the connection is a node of a cluster with another cluster_id."""


class NotAFrameError(ProtocolError):
    """What came does not begin as a frame. head: its first bytes."""

    def __init__(self, head: bytes) -> None:
        super().__init__(f"not a peer frame: it begins with {head[: len(MAGIC)]!r}")
        self.head = head


class FrameKind(IntEnum):
    HELLO = 1
    REFUSAL = 2
    MESSAGES = 3
    PING = 4
    PONG = 5


class Frame(NamedTuple):
    """A frame whose header and checksum are right. Its views are valid until the next `get_buffer`."""

    kind: FrameKind
    sender: int
    incarnation: int
    target: bytes
    head: memoryview
    payload: memoryview


class Envelope(NamedTuple):
    """A message to one partition, by its index in the sorted topic table that both ends agreed upon."""

    partition: int
    message: Message
    payload: Buffer | None


def cluster_hash(cluster_id: str) -> bytes:
    return blake2b(cluster_id.encode(), digest_size=8).digest()


# ---------------------------------------------------------------------------------------------- messages
# Each is: kind (one byte), partition index, then its fields in the order of the dataclass; offsets are int64,
# generations int32 (Kafka's partitionLeaderEpoch). Those that carry a payload end with its length.

_VOTE_REQUEST = Struct(">BIiiq?")
_VOTE_REPLY = Struct(">BIi???q")
_APPEND = Struct(">BIiqiqiqI")
_APPEND_REPLY = Struct(">BIi?qqqi")
_HEARTBEAT = Struct(">BIiqiqqq")
_HEARTBEAT_REPLY = Struct(">BIi?qqqqiq")
_INSTALL_ANCHOR = Struct(">BIiqiqqI")


def _pack_vote_request(partition: int, m: VoteRequest) -> bytes:
    return _VOTE_REQUEST.pack(1, partition, m.generation, m.last_generation, m.log_end, m.pre)


def _pack_vote_reply(partition: int, m: VoteReply) -> bytes:
    return _VOTE_REPLY.pack(2, partition, m.generation, m.granted, m.pre, m.suspect, m.log_start)


def _pack_append(partition: int, m: Append, payload_bytes: int) -> bytes:
    return _APPEND.pack(
        3,
        partition,
        m.generation,
        m.prev_offset,
        m.prev_generation,
        m.end_offset,
        m.span_generation,
        m.hwm,
        payload_bytes,
    )


def _pack_append_reply(partition: int, m: AppendReply) -> bytes:
    return _APPEND_REPLY.pack(
        4,
        partition,
        m.generation,
        m.accepted,
        m.match_offset,
        m.flushed_offset,
        m.conflict_offset,
        m.conflict_generation,
    )


def _pack_heartbeat(partition: int, m: Heartbeat) -> bytes:
    return _HEARTBEAT.pack(
        5, partition, m.generation, m.prev_offset, m.prev_generation, m.hwm, m.round, m.log_start
    )


def _pack_heartbeat_reply(partition: int, m: HeartbeatReply) -> bytes:
    return _HEARTBEAT_REPLY.pack(
        6,
        partition,
        m.generation,
        m.accepted,
        m.match_offset,
        m.flushed_offset,
        m.round,
        m.conflict_offset,
        m.conflict_generation,
        m.log_start,
    )


def _pack_install_anchor(partition: int, m: InstallAnchor, payload_bytes: int) -> bytes:
    return _INSTALL_ANCHOR.pack(
        7, partition, m.generation, m.offset, m.anchor_generation, m.run_start, m.log_start, payload_bytes
    )


_PACK: dict[type, Callable[[int, Any], bytes]] = {
    VoteRequest: _pack_vote_request,
    VoteReply: _pack_vote_reply,
    AppendReply: _pack_append_reply,
    Heartbeat: _pack_heartbeat,
    HeartbeatReply: _pack_heartbeat_reply,
}

_UNPACK: dict[int, tuple[Struct, Callable[..., Message]]] = {
    1: (_VOTE_REQUEST, VoteRequest),
    2: (_VOTE_REPLY, VoteReply),
    4: (_APPEND_REPLY, AppendReply),
    5: (_HEARTBEAT, Heartbeat),
    6: (_HEARTBEAT_REPLY, HeartbeatReply),
}


def encode_message(partition: int, message: Message, payload_bytes: int = 0) -> bytes:
    """The head entry of one message. payload_bytes: how many bytes of batches, or of an anchor, follow."""
    if type(message) is Append:
        return _pack_append(partition, message, payload_bytes)
    if type(message) is InstallAnchor:
        return _pack_install_anchor(partition, message, payload_bytes)
    return _PACK[type(message)](partition, message)


def decode_messages(head: Buffer, payload: Buffer) -> list[Envelope]:
    """The messages of one frame. Raises ProtocolError on anything but an exact sequence of them."""
    envelopes = []
    view, batches = memoryview(head), memoryview(payload)
    at, taken = 0, 0
    try:
        while at < len(view):
            kind = view[at]
            if kind == 3:
                _, partition, *fields, size = _APPEND.unpack_from(view, at)
                at += _APPEND.size
                append = Append(*fields)
                _check_append(append, size, len(batches) - taken)
                envelopes.append(Envelope(partition, append, batches[taken : taken + size] if size else None))
                taken += size
                continue
            if kind == 7:
                _, partition, *fields, size = _INSTALL_ANCHOR.unpack_from(view, at)
                at += _INSTALL_ANCHOR.size
                if not 0 < size <= len(batches) - taken:
                    raise ProtocolError(f"an anchor of {size} bytes, {len(batches) - taken} are left")
                anchor = InstallAnchor(*fields)
                envelopes.append(Envelope(partition, anchor, batches[taken : taken + size]))
                taken += size
                continue
            if kind not in _UNPACK:
                raise ProtocolError(f"unknown peer message kind {kind}")
            layout, make = _UNPACK[kind]
            _, partition, *fields = layout.unpack_from(view, at)
            at += layout.size
            envelopes.append(Envelope(partition, make(*fields), None))
    except struct.error:
        raise ProtocolError("a peer message ends in the middle") from None
    if taken != len(batches):
        raise ProtocolError(f"{len(batches) - taken} payload bytes belong to no append")
    return envelopes


def _check_append(append: Append, size: int, left: int) -> None:
    if not 0 <= append.prev_offset <= append.end_offset:
        raise ProtocolError(f"append of records {append.prev_offset} to {append.end_offset}")
    if (size > 0) != (append.end_offset > append.prev_offset):
        raise ProtocolError(f"append of {append.end_offset - append.prev_offset} records in {size} bytes")
    if size > left:
        raise ProtocolError(f"append announces {size} payload bytes, {left} are left")


def checked_span(append: Append, payload: Buffer) -> Span:
    """The batches of an Append, copied and verified to be exactly those it announces (see the module's text).

    Raises ProtocolError.
    """
    try:
        span = Span.parse(payload)
    except CorruptBatch as error:
        raise ProtocolError(f"corrupt batch in an append: {error}") from error
    got = (span.base_offset, span.end_offset, span.generation)
    if got != (append.prev_offset, append.end_offset, append.span_generation):
        raise ProtocolError(f"append announces records {append}, its batches are {got}")
    return span


# ------------------------------------------------------------------------------------------------ frames


class FrameWriter:
    """Encodes what one end of a connection sends. `target`: the uuid of the node that shall read it."""

    def __init__(
        self, *, cluster: bytes, sender: int, incarnation: int, target: bytes = UNKNOWN_UUID
    ) -> None:
        self.cluster = cluster
        self.sender = sender
        self.incarnation = incarnation
        self.target = target

    def frame(
        self, kind: FrameKind, head: bytes, payload: Sequence[memoryview] = (), payload_bytes: int = 0
    ) -> list[bytes | memoryview]:
        """Buffers that make one frame, for `transport.writelines`."""
        header = HEADER.pack(
            MAGIC,
            VERSION,
            kind,
            0,
            self.cluster,
            self.target,
            self.sender,
            self.incarnation,
            HEADER_BYTES + len(head) + payload_bytes,
            len(head),
        )
        checksum = crc32c(head, crc32c(header))
        return [b"".join((header, CRC.pack(checksum), head)), *payload]

    def json(self, kind: FrameKind, body: object) -> bytes:
        """A frame whose head is a JSON document (Hello, Refusal)."""
        return bytes(self.frame(kind, json.dumps(body, sort_keys=True).encode())[0])


class FrameReader:
    """Cuts a byte stream into frames. One buffer per connection, reused; never above `frame_bytes_max`.

    Use: `get_buffer()`, let the transport fill it, then iterate `received(count)` to its end. The views of a
    frame are overwritten by what comes after it.
    """

    BUFFER_BYTES_MIN = 64 * 1024

    def __init__(self, *, cluster: bytes, frame_bytes_max: int) -> None:
        self.cluster = cluster
        self.frame_bytes_max = frame_bytes_max
        self._buffer = memoryview(bytearray(self.BUFFER_BYTES_MIN))
        self._start = 0  # of the frame being read
        self._end = 0  # of the bytes received

    def get_buffer(self) -> memoryview:
        """Free space, never empty."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            self._make_room(HEADER_BYTES)
        return self._buffer[self._end :]

    def received(self, count: int) -> Iterator[Frame]:
        """`count` bytes were put into the buffer: the frames that are whole now. Raises ProtocolError."""
        self._end += count
        if len(MAGIC) <= self._end - self._start < HEADER_BYTES:
            self._check_magic()  # whoever is no peer may never send as much as a header
        while self._end - self._start >= HEADER_BYTES:
            start = self._start
            *fields, length, head_length = HEADER.unpack_from(self._buffer, start)
            self._check_header(fields, length, head_length)
            if self._end - start < length:
                if start + length > len(self._buffer):
                    self._make_room(length)
                return
            body = start + HEADER_BYTES + head_length
            head = self._buffer[start + HEADER_BYTES : body]
            (checksum,) = CRC.unpack_from(self._buffer, start + CRC_AT)
            if crc32c(head, crc32c(self._buffer[start : start + CRC_AT])) != checksum:
                raise ProtocolError("a peer frame fails its checksum")
            self._start += length
            _, _, kind, _, _, target, sender, incarnation = fields
            payload = self._buffer[body : start + length]
            yield Frame(FrameKind(kind), sender, incarnation, target, head, payload)

    def _check_magic(self) -> None:
        head = bytes(self._buffer[self._start : min(self._end, self._start + HEADER_BYTES)])
        if not head.startswith(MAGIC):
            raise NotAFrameError(head)

    def _check_header(self, fields: list[Any], length: int, head_length: int) -> None:
        magic, version, kind, reserved, cluster, _, _, _ = fields
        if magic != MAGIC:
            raise NotAFrameError(magic)
        if version != VERSION:
            raise ProtocolError(f"peer frame of version {version}; this node speaks {VERSION}")
        if kind not in _KINDS or reserved != 0:
            raise ProtocolError(f"unknown kind of peer frame: {kind}, {reserved}")
        if cluster != self.cluster:
            raise ForeignClusterError("peer frame of another cluster: the two nodes' cluster_id differ")
        bytes_max = self.frame_bytes_max
        if kind != FrameKind.MESSAGES:
            bytes_max = min(bytes_max, JSON_BYTES_MAX)
        if length > bytes_max:
            raise ProtocolError(f"peer frame of {length} bytes is above the cap of {bytes_max}")
        if HEADER_BYTES + head_length > length:
            raise ProtocolError(f"peer frame of {length} bytes with a head of {head_length}")
        if kind != FrameKind.MESSAGES and HEADER_BYTES + head_length != length:
            raise ProtocolError(f"peer frame of kind {kind} with a payload")

    def _make_room(self, length: int) -> None:
        """Move the unread bytes to the front of a buffer that holds a frame of `length` bytes."""
        unread = self._buffer[self._start : self._end]
        if length <= len(self._buffer) and len(unread) < len(self._buffer):
            self._buffer[: len(unread)] = unread
        else:
            size = min(max(length, 2 * len(self._buffer)), max(self.frame_bytes_max, length))
            grown = memoryview(bytearray(size))
            grown[: len(unread)] = unread
            self._buffer = grown
        self._start, self._end = 0, len(unread)


_KINDS = frozenset(FrameKind)


def decode_json(frame: Frame) -> dict[str, Any]:
    """The JSON object of a Hello or Refusal. Raises ProtocolError."""
    try:
        body = json.loads(bytes(frame.head))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"unreadable {frame.kind.name.lower()}: {error}") from error
    if not isinstance(body, dict):
        raise ProtocolError(f"unreadable {frame.kind.name.lower()}: not an object")
    return body
