"""Fetch: committed records.

A Fetch that finds less than `bytes_min` waits for the high-water marks of its partitions to move, at most
`max_wait_ms`. An answer holds whole batches, from the one that contains the asked offset, and at least one
batch even above the limits, or a consumer would never get past a large one. Only where the answers that other
clients do not take leave no room it holds none, and the consumer asks again.

What memory does not hold is read from disk by a Worker while the loop turns: one piece of each partition, at
most DISK_READ_BYTES_MAX. The consumer asks again at once, and others get their turn in between. Room for a
piece is taken before it is read.
"""

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial

from rlog.node.env import WorkerTask
from rlog.node.kafka_connection import Request
from rlog.node.serving import Found, ServedPartition, Waiter
from rlog.wire.kafka import (
    Reader,
    codes,
    decode_fetch_request,
    encode_fetch_response,
)
from rlog.wire.kafka.messages import (
    FetchedPartition,
    FetchPartition,
    FetchRequest,
    FetchResponse,
)

# Checked and handed over in about 2 ms of the loop; more at once would not move more bytes a second.
DISK_READ_BYTES_MAX = 4 * 1024 * 1024
# A Fetch that finds no room for its answer (other clients do not take theirs) is answered empty after this.
NO_ROOM_SECONDS = 0.5


def check_generation(partition: ServedPartition, generation: int) -> int:
    """KIP-320: a client whose generation is not ours does not know this log. -1 asks for no check."""
    if generation == -1 or generation == partition.generation:
        return codes.NONE
    if generation < partition.generation:
        return codes.FENCED_LEADER_EPOCH
    return codes.UNKNOWN_LEADER_EPOCH


def handle_fetch(request: Request, reader: Reader) -> None:
    fetch = decode_fetch_request(reader, request.version)
    if fetch.session_id != 0:
        # Only answers with session id 0 are given, so this session is another broker's.
        request.count_error(codes.FETCH_SESSION_ID_NOT_FOUND)
        response = FetchResponse(codes.FETCH_SESSION_ID_NOT_FOUND, 0, [])
        request.answer(encode_fetch_response(request.correlation_id, request.version, response))
        return
    _Fetch(request, fetch).start()


@dataclass(slots=True)
class _DiskRead:
    """What a look waits for: `read`, of a partition's records; room for `reserved_bytes` is taken."""

    read: Callable[[], Found | None]
    reserved_bytes: int


Look = Generator[_DiskRead, Found | None, tuple[FetchResponse, bool]]


class _Fetch:
    """One Fetch, perhaps waiting: for the disk as it looks, or between two looks for more records."""

    __slots__ = (
        "again", "answers", "deadline", "fetch", "is_cancelled", "is_last", "reading", "request",
        "reserved_bytes", "timer", "waiters",
    )  # fmt: skip

    def __init__(self, request: Request, fetch: FetchRequest) -> None:
        self.request = request
        self.fetch = fetch
        self.answers = request.connection.server.answers
        self.deadline = request.loop.time() + fetch.max_wait_ms / 1000
        self.timer: asyncio.TimerHandle | None = None
        self.again: asyncio.Handle | None = None  # the next look, after a high-water mark moved
        self.reading: WorkerTask | None = None
        self.waiters: list[Waiter] = []
        self.reserved_bytes = 0  # of `answers`, for what was read from disk
        self.is_last = fetch.max_wait_ms <= 0  # the next look is
        self.is_cancelled = False

    def start(self) -> None:
        self.request.cancel = self.cancel
        self._advance(self._look(), None)

    def cancel(self) -> None:
        """The connection is lost."""
        self.is_cancelled = True
        self._rest()
        if self.reading is None or self.reading.cancel():
            self._release()  # a read that has begun needs its room to the end

    def _rest(self) -> None:
        """Wait for nothing."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.again is not None:
            self.again.cancel()
            self.again = None
        for waiter in self.waiters:
            waiter.cancel()
        self.waiters.clear()

    def _advance(self, look: Look, found: Found | None) -> None:
        """Go on with a look, until it has to wait for the disk or knows what there is."""
        try:
            wanted = look.send(found)
        except StopIteration as end:
            response, is_enough = end.value
            if is_enough or self.is_last or self.request.loop.time() >= self.deadline:
                self._answer(response)
            else:
                self._wait(response)
            return
        done = partial(self._read_done, look, wanted)
        self.reading = self.request.node.env.reads.submit(wanted.read, done, self._read_failed)

    def _read_done(self, look: Look, wanted: _DiskRead, found: Found | None) -> None:
        self.reading = None
        if self.is_cancelled:
            self._release()
            return
        self._reserve((len(found[0]) if found is not None else 0) - wanted.reserved_bytes)
        self._advance(look, found)

    def _read_failed(self) -> None:
        self.reading = None
        if self.is_cancelled:
            self._release()
            return
        self.request.fail("a read failed as none should")

    def _reserve(self, count: int) -> None:
        self.reserved_bytes += count
        self.answers.used_bytes += count

    def _release(self) -> None:
        self._reserve(-self.reserved_bytes)

    def _wait(self, response: FetchResponse) -> None:
        """Wait for any of the partitions to hold more than was just seen, until the deadline."""
        self._release()
        self.timer = self.request.loop.call_at(self.deadline, self._look_last)
        for topic, partitions in response.topics:
            for seen in partitions:
                partition = self.request.node.partitions[topic, seen.partition]
                self.waiters.append(partition.wait_hwm(seen.hwm, self._moved))

    def _moved(self) -> None:
        """One look for all marks that move in this turn of the loop."""
        if self.again is None:
            self.again = self.request.loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        self._rest()
        self._advance(self._look(), None)

    def _look_last(self) -> None:
        self.is_last = True
        self._look_again()

    def _answer(self, response: FetchResponse) -> None:
        request = self.request
        self._release()
        for topic, partitions in response.topics:
            for fetched in partitions:
                if fetched.error != codes.NONE:
                    request.count_error(fetched.error)
                elif fetched.records:
                    counters = request.node.partitions[topic, fetched.partition].counters
                    counters.fetched_bytes += sum(map(len, fetched.records))
        request.answer(
            encode_fetch_response(
                request.correlation_id, request.version, response, self.fetch.isolation_level
            )
        )

    def _look(self) -> Look:
        """What there is now; and whether to send it at once: enough bytes, an error, nothing asked, or more
        on disk than one answer holds.
        """
        config = self.request.node.config
        limit_bytes = min(self.fetch.bytes_max, config.fetch_bytes_max)
        has_room = self.answers.room(config.batch_bytes_max) > 0
        if not has_room:
            self.deadline = min(self.deadline, self.request.loop.time() + NO_ROOM_SECONDS)
        found_bytes = 0
        is_enough = not self.fetch.topics
        topics = []
        for topic, wanted in self.fetch.topics:
            partitions = []
            for part in wanted:
                free_bytes = self.answers.free_bytes - (found_bytes - self.reserved_bytes)
                room_bytes = min(limit_bytes - found_bytes, free_bytes) if has_room else 0
                is_first = found_bytes == 0 and has_room
                fetched, is_cut_short = yield from self._read(topic, part, room_bytes, is_first=is_first)
                found_bytes += sum(map(len, fetched.records))
                is_enough = is_enough or is_cut_short or fetched.error != codes.NONE
                partitions.append(fetched)
            topics.append((topic, partitions))
        return FetchResponse(codes.NONE, 0, topics), is_enough or found_bytes >= self.fetch.bytes_min

    def _read(
        self, topic: str, part: FetchPartition, room_bytes: int, *, is_first: bool
    ) -> Generator[_DiskRead, Found | None, tuple[FetchedPartition, bool]]:
        """Of one partition; and whether more would be there, but for DISK_READ_BYTES_MAX."""
        partition = self.request.node.partitions.get((topic, part.partition))
        if partition is None:
            return FetchedPartition(part.partition, codes.UNKNOWN_TOPIC_OR_PARTITION), False
        error = check_generation(partition, part.generation)
        if error != codes.NONE:
            return FetchedPartition(part.partition, error), False
        found = None
        bytes_max = max(min(part.bytes_max, room_bytes), 0) if is_first or room_bytes > 0 else None
        if bytes_max is not None:
            piece_bytes_max = min(bytes_max, DISK_READ_BYTES_MAX)
            read = partition.disk_read(part.fetch_offset, piece_bytes_max)
            if read is not None:
                found = yield self._reserved(read, piece_bytes_max)
        error, records, hwm = partition.read(part.fetch_offset, bytes_max, found)
        if error != codes.NONE:
            return FetchedPartition(part.partition, error, hwm, partition.start_offset), False
        if not is_first and sum(map(len, records)) > room_bytes:
            records = []  # at least one batch holds for the answer, not for each partition
        is_cut_short = bool(records) and found is not None and found[1] < hwm
        return FetchedPartition(
            part.partition, error, hwm, partition.start_offset, records, hwm
        ), is_cut_short

    def _reserved(self, read: Callable[[], Found | None], bytes_max: int) -> _DiskRead:
        """The read, with room for what it brings: one batch may be larger than was asked for."""
        reserved_bytes = max(bytes_max, self.request.node.config.batch_bytes_max)
        self._reserve(reserved_bytes)
        return _DiskRead(read, reserved_bytes)
