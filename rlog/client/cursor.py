"""Where a consumer stands in one partition, and what it has fetched ahead of its reader."""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from struct import Struct
from typing import Final

from rlog.client.errors import ClientError
from rlog.client.positions import Start
from rlog.errors import ProtocolError
from rlog.wire.kafka.messages import Buffer

logger = logging.getLogger("rlog.client")

# Apache Kafka, message format v2: base offset at 0, length of what follows at 8, last offset delta at 23.
_BATCH: Final = Struct(">qi11xi")
LENGTH_END: Final = 12


@dataclass(frozen=True, slots=True)
class PartitionState:
    """What a consumer knows and does in one partition.

    position: offset of the next record to be returned, None while the start is not known yet. start_offset,
    end_offset: where the partition starts and its committed end, as the leader told last; None before the
    first answer. lag: records between position and end. is_paused: see `Consumer.pause`. waiting: why nothing
    is ready to be returned, None when something is. waiting_ms: how long ago the leader answered last, or was
    asked first; None when no answer is waited for. The leader of an idle log answers every `max_wait_ms`.
    """

    topic: str
    partition: int
    position: int | None
    start_offset: int | None
    end_offset: int | None
    lag: int | None
    is_paused: bool
    waiting: str | None
    waiting_ms: int | None


class Cursor:
    """fetch_offset: of the next fetch; position: of the next record for the reader; None: to be looked up.

    version: counts seeks; an answer to a question asked before the last one is dropped.
    waiting_since: loop time of the leader's last answer, or since when one is waited for again. unheard_s:
    how long the reader has seen no answer since. is_full: nothing is fetched for want of room.
    """

    __slots__ = (
        "_loop",
        "buffered_bytes",
        "chunks",
        "end_offset",
        "error",
        "fetch_offset",
        "generation",
        "is_attached",
        "is_full",
        "is_out_of_range",
        "is_paused",
        "is_stall_told",
        "partition",
        "position",
        "start",
        "start_offset",
        "topic",
        "unheard_s",
        "version",
        "waiting",
        "waiting_since",
    )

    def __init__(self, topic: str, partition: int, start: Start) -> None:
        self.topic = topic
        self.partition = partition
        self.version = 0
        self.generation = -1
        self.start_offset: int | None = None
        self.end_offset: int | None = None
        self.is_attached = False
        self.is_full = False
        self.is_paused = False
        self.is_stall_told = False
        self._loop = asyncio.get_running_loop()
        self.chunks: deque[tuple[Buffer, int]] = deque()  # (whole batches, offset after them)
        self.seek(start)

    def seek(self, start: Start) -> None:
        """Go on from `start`; what was fetched ahead is forgotten."""
        self.version += 1
        self.start: Start = start
        offset = start if isinstance(start, int) else None
        self.fetch_offset: int | None = offset
        self.position: int | None = offset
        self.chunks.clear()
        self.buffered_bytes = 0
        self.error: ClientError | None = None
        self.is_out_of_range = False
        self.waiting = "the node that leads is being looked up"
        self.wait_anew()

    def wait_anew(self) -> None:
        """What was heard before, and when, tells nothing about the answer that is waited for now."""
        self.waiting_since = self._loop.time()
        self.unheard_s = 0.0

    def heard(self) -> None:
        """The leader answered."""
        if self.is_stall_told:
            self.is_stall_told = False
            silent_s = self._loop.time() - self.waiting_since
            logger.warning("%s: its leader answers again, after %.1f s", self.name, silent_s)
        self.wait_anew()

    @property
    def name(self) -> str:
        return f"{self.topic}-{self.partition}"

    def push(self, data: Buffer) -> bool:
        """Take an answer's records. Raises ProtocolError when they do not go on at `fetch_offset`."""
        assert self.fetch_offset is not None
        whole_bytes, next_offset = whole_batches(data, self.fetch_offset)
        if not whole_bytes:
            return False
        chunk = memoryview(data)[:whole_bytes]
        self.chunks.append((chunk, next_offset))
        self.buffered_bytes += whole_bytes
        self.fetch_offset = next_offset
        return True

    def pop(self) -> tuple[Buffer, int]:
        """The oldest chunk; returns its bytes and the position to decode from, and moves the position past
        it.
        """
        assert self.position is not None
        data, next_offset = self.chunks.popleft()
        self.buffered_bytes -= len(data)
        position, self.position = self.position, next_offset
        if self.is_full:
            self.is_full = False
            self.wait_anew()
        return data, position

    def put_back(self, data: Buffer, position: int) -> int:
        """Undo `pop`, with each batch as a chunk of its own; returns how many."""
        pieces: list[tuple[Buffer, int]] = []
        left = memoryview(data)
        while left:
            size, _, next_offset = first_batch(left)
            pieces.append((left[:size], next_offset))
            left = left[size:]
        self.chunks.extendleft(reversed(pieces))
        self.buffered_bytes += len(data)
        self.position = position
        return len(pieces)

    def state(self, position: int | None, patience_s: float) -> PartitionState:
        """patience_s: within this time a leader that is well answers."""
        lag = None
        if position is not None and self.end_offset is not None:
            lag = max(0, self.end_offset - position)
        waiting, waiting_ms = self._waiting(patience_s)
        return PartitionState(
            topic=self.topic,
            partition=self.partition,
            position=position,
            start_offset=self.start_offset,
            end_offset=self.end_offset,
            lag=lag,
            is_paused=self.is_paused,
            waiting=waiting,
            waiting_ms=waiting_ms,
        )

    def _waiting(self, patience_s: float) -> tuple[str | None, int | None]:
        if self.is_paused:
            return "paused; resume() reads on", None
        if self.chunks:
            return None, None
        silent_s = self._loop.time() - self.waiting_since
        waiting = self.waiting
        if self.is_attached and silent_s > patience_s:
            waiting += f", silent for {silent_s:.1f} s"
        return waiting, int(silent_s * 1000)


def first_batch(data: Buffer) -> tuple[int, int, int]:
    """Of whole batches the first one's size in bytes, its first offset, and the offset after it."""
    base_offset, length, last_offset_delta = _BATCH.unpack_from(data)
    return LENGTH_END + length, base_offset, base_offset + last_offset_delta + 1


def whole_batches(data: Buffer, fetch_offset: int) -> tuple[int, int]:
    """How many leading bytes are whole batches, and the offset after them.

    Some brokers end an answer inside a batch. Raises ProtocolError when a batch does not lie behind the one
    before it, or the first ends before the offset that was asked for (SAFETY 55): records would repeat.
    """
    position, size, next_offset = 0, len(data), fetch_offset
    while size - position >= _BATCH.size:
        base_offset, length, last_offset_delta = _BATCH.unpack_from(data, position)
        end = position + LENGTH_END + length
        if length < _BATCH.size - LENGTH_END or last_offset_delta < 0:
            raise ProtocolError(f"a batch at byte {position} of an answer has length {length}")
        if end > size:
            break
        if base_offset + last_offset_delta < next_offset or (position and base_offset < next_offset):
            raise ProtocolError(f"the answer repeats offset {base_offset}; expected was {next_offset}")
        next_offset = base_offset + last_offset_delta + 1
        position = end
    return position, next_offset
