"""Fetch: committed records.

A Fetch that finds less than `bytes_min` waits for the high-water marks of its partitions to move, at most
`max_wait_ms`. An answer holds whole batches, from the one that contains the asked offset, and at least one
batch even above the limits, or a consumer would never get past a large one. Only where the answers that other
clients do not take leave no room it holds none, and the consumer asks again.
"""

import asyncio

from rlog.node.kafka_connection import Request
from rlog.node.serving import ServedPartition, Waiter
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


class _Fetch:
    """One Fetch, perhaps waiting."""

    __slots__ = ("again", "deadline", "fetch", "request", "timer", "waiters")

    def __init__(self, request: Request, fetch: FetchRequest) -> None:
        self.request = request
        self.fetch = fetch
        self.deadline = request.loop.time() + fetch.max_wait_ms / 1000
        self.timer: asyncio.TimerHandle | None = None
        self.again: asyncio.Handle | None = None  # the next look, after a high-water mark moved
        self.waiters: list[Waiter] = []

    def start(self) -> None:
        response, is_enough = self._look()
        if is_enough or self.fetch.max_wait_ms <= 0:
            self._answer(response)
            return
        self.request.cancel = self.cancel
        self.timer = self.request.loop.call_at(self.deadline, self._look_last)
        self._wait(response)

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.again is not None:
            self.again.cancel()
        self._forget_waiters()

    def _forget_waiters(self) -> None:
        for waiter in self.waiters:
            waiter.cancel()
        self.waiters.clear()

    def _wait(self, response: FetchResponse) -> None:
        """Wait for any of the partitions to hold more than was just seen."""
        for topic, partitions in response.topics:
            for seen in partitions:
                partition = self.request.node.partitions[topic, seen.partition]
                self.waiters.append(partition.wait_hwm(seen.hwm, self._moved))

    def _moved(self) -> None:
        """One look for all marks that move in this turn of the loop."""
        if self.again is None:
            self.again = self.request.loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        self.again = None
        self._forget_waiters()
        response, is_enough = self._look()
        if is_enough:
            self.cancel()
            self._answer(response)
        else:
            self._wait(response)

    def _look_last(self) -> None:
        self.cancel()
        response, _ = self._look()
        self._answer(response)

    def _answer(self, response: FetchResponse) -> None:
        request = self.request
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

    def _look(self) -> tuple[FetchResponse, bool]:
        """What there is now; and whether to send it at once: enough bytes, an error, nothing asked."""
        config = self.request.node.config
        answers_bytes = self.request.connection.server.answers.room(config.batch_bytes_max)
        room_bytes = min(self.fetch.bytes_max, config.fetch_bytes_max, answers_bytes)
        if answers_bytes == 0:
            self.deadline = min(self.deadline, self.request.loop.time() + NO_ROOM_SECONDS)
        found_bytes = 0
        is_enough = not self.fetch.topics
        topics = []
        for topic, wanted in self.fetch.topics:
            partitions = []
            for part in wanted:
                is_first = found_bytes == 0 and answers_bytes > 0
                fetched = self._read(topic, part, room_bytes - found_bytes, is_first=is_first)
                found_bytes += sum(map(len, fetched.records))
                is_enough = is_enough or fetched.error != codes.NONE
                partitions.append(fetched)
            topics.append((topic, partitions))
        return FetchResponse(codes.NONE, 0, topics), is_enough or found_bytes >= self.fetch.bytes_min

    def _read(self, topic: str, part: FetchPartition, room_bytes: int, *, is_first: bool) -> FetchedPartition:
        partition = self.request.node.partitions.get((topic, part.partition))
        if partition is None:
            return FetchedPartition(part.partition, codes.UNKNOWN_TOPIC_OR_PARTITION)
        error = check_generation(partition, part.generation)
        if error != codes.NONE:
            return FetchedPartition(part.partition, error)
        bytes_max = max(min(part.bytes_max, room_bytes), 0)
        error, records, hwm = partition.read(part.fetch_offset, bytes_max)
        if error != codes.NONE:
            return FetchedPartition(part.partition, error, hwm, partition.start_offset)
        if not is_first and sum(map(len, records)) > room_bytes:
            records = []  # at least one batch holds for the answer, not for each partition
        return FetchedPartition(part.partition, error, hwm, partition.start_offset, records, hwm)
