"""The producer: admits records, chooses their partitions, bounds its memory.

`send` returns when the record is *admitted*: counted against `buffer_bytes_max` and put into a batch.
Awaiting it is the backpressure. What it gives back is awaited for the receipt.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from enum import Enum
from types import TracebackType
from typing import Final, Self

from rlog.client.batch import Batch
from rlog.client.errors import (
    ClientClosed,
    DeadlineExceeded,
    DeliveryFailed,
    MessageTooLarge,
    UnknownPartition,
    afresh,
)
from rlog.client.partition_queue import PartitionQueue, ProducerSettings
from rlog.client.producer_id import ProducerId, draw_producer_id
from rlog.client.receipts import Ack, ListAck
from rlog.client.router import Router
from rlog.errors import BatchTooLarge
from rlog.records import Headers
from rlog.wire.kafka._hot import partition_of

Values = list[bytes] | tuple[bytes, ...]

# Framing of one record at most: five varints of up to five bytes, one of up to ten, one byte of attributes.
RECORD_OVERHEAD_BYTES_MAX: Final = 36
# Failed batches that nobody has seen, remembered for `flush`; of more than these the first ones are reported.
FAILURES_MAX: Final = 64


def headers_bytes(headers: Headers) -> int:
    """What they take of a record at most. Raises TypeError for what is not names and values."""
    size = 0
    for name, content in headers:
        if not isinstance(name, str) or not isinstance(content, bytes | None):
            raise TypeError(f"headers are pairs of str and bytes or None, not of {name!r} and {content!r}")
        size += len(name.encode()) + len(content or b"") + 10
    return size


class State(Enum):
    NEW = "not opened yet; use `async with`, or await open()"
    OPEN = "open"
    CLOSED = "closed; make a new producer"


class Producer:
    """Made by `Cluster.producer`; used by one event loop, by any number of tasks."""

    def __init__(self, router: Router, topic: str, settings: ProducerSettings) -> None:
        self.topic = topic
        self._router = router
        self._settings = settings
        self._state = State.NEW
        self._queues: dict[int, PartitionQueue] = {}
        self._partitions = 0
        self._producer_id = ProducerId(-1, -1)
        self._buffered_bytes = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()  # for memory: (waiter, bytes)
        self._failed: deque[Batch] = deque()
        self._sticky = 0  # where records without a key go just now
        self._sticky_bytes = 0

    @property
    def is_open(self) -> bool:
        return self._state is State.OPEN

    @property
    def is_closed(self) -> bool:
        return self._state is State.CLOSED

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the records that are admitted and not resolved; never above `buffer_bytes_max`."""
        return self._buffered_bytes

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            self.abandon()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            self.abandon()

    async def open(self, *, timeout_ms: int | None = None) -> None:
        """Look the topic up and draw a producer id. Raises UnknownTopic, DeadlineExceeded."""
        if self._state is not State.NEW:
            raise ClientClosed(f"the producer is {self._state.value}")
        deadline = self._router.deadline(timeout_ms)
        self._partitions = await self._router.load_topic(self.topic, deadline)
        if self._settings.is_idempotent:
            self._producer_id = await draw_producer_id(self._router, deadline)
        if self._state is not State.NEW:  # closed, or opened by another task, meanwhile
            raise ClientClosed(f"the producer is {self._state.value}")
        self._sticky = self._router.settings.random.randrange(self._partitions)
        self._router.listen(self)
        self._state = State.OPEN

    # -- sending

    async def send(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        *,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Ack:
        """Admit one record; await what it returns for the Receipt.

        Without `partition` a key chooses it as Kafka's clients do (murmur2); records without a key stay in
        one partition for a batch's worth of bytes. `timestamp_ms`: now, by the wall clock, when left out.
        The records of one task keep their order; between tasks that send at the same time there is none.
        Raises MessageTooLarge, UnknownPartition, ClientClosed, and DeadlineExceeded when memory stays full
        for the delivery timeout; in all these cases, and at a TypeError, the record is not sent.
        """
        if headers:
            headers = tuple(headers)  # they are gone through twice
        size = self.size_of(value, key, headers)
        queue = self._queue(self._choose(key, partition))
        if timestamp_ms is None:
            timestamp_ms = self._router.settings.wall_clock_ms()
        if self._waiting or self._buffered_bytes + size > self._settings.buffer_bytes_max:
            await self._room(size)
        else:
            self._buffered_bytes += size
        is_admitted = False
        try:
            while True:
                batch = queue.open or queue.start_batch()
                assert batch.builder is not None
                if batch.builder.append(value, key, headers, timestamp_ms):
                    is_admitted = True
                    break
                queue.roll()
                await self._breathe()
        except BatchTooLarge as error:
            raise MessageTooLarge(str(error)) from error
        finally:
            if not is_admitted:
                self._release(size)
                queue.discard_empty()
        index = batch.count
        batch.count = index + 1
        batch.buffered_bytes += size
        self._sticky_bytes += size
        return Ack(batch, index, timestamp_ms)

    def size_of(self, value: bytes | None, key: bytes | None, headers: Headers) -> int:
        """Bytes that a record is counted with. Raises MessageTooLarge for one that fits no batch."""
        size = RECORD_OVERHEAD_BYTES_MAX + len(value or b"") + len(key or b"")
        if headers:
            size += headers_bytes(headers)
        if size > self._settings.batch_bytes_max:
            raise MessageTooLarge(
                f"a record of {size} bytes exceeds batch_bytes_max={self._settings.batch_bytes_max}"
            )
        return size

    async def send_many(
        self, values: Values, *, partition: int | None = None, timestamp_ms: int | None = None
    ) -> ListAck:
        """Admit a list or tuple of values, without keys, into one partition; one ack for all. The fastest
        way.

        Returns when all are admitted, so a list may be larger than the memory bound. Raises as `send` does,
        and TypeError at a value that is not bytes; what stands before the bad value is sent nevertheless.
        """
        if not values:
            raise ValueError("values is empty; send_many needs at least one")
        queue = self._queue(self._choose(None, partition))
        if timestamp_ms is None:
            timestamp_ms = self._router.settings.wall_clock_ms()
        parts: list[tuple[Batch, int, int]] = []
        start, total = 0, len(values)
        while start < total:
            await self._room(self._settings.batch_bytes_max)
            part = self._append_values(queue, values, start, timestamp_ms)
            if part[2]:
                parts.append(part)
                start += part[2]
            if start < total:
                queue.roll()
                await self._breathe()
        return ListAck(parts, timestamp_ms)

    def _append_values(
        self, queue: PartitionQueue, values: Values, start: int, timestamp_ms: int
    ) -> tuple[Batch, int, int]:
        """As many values as the open batch takes, in the room of one full batch that was counted before."""
        used = 0
        try:
            batch = queue.open or queue.start_batch()
            builder = batch.builder
            assert builder is not None
            before = builder.size if batch.count else 0
            taken = builder.append_values(values, start, timestamp_ms)
            used = builder.size - before if taken else 0
        except BatchTooLarge as error:
            raise MessageTooLarge(str(error)) from error
        finally:
            self._release(self._settings.batch_bytes_max - used)
            if not used:
                queue.discard_empty()
        index = batch.count
        batch.count += taken
        batch.buffered_bytes += used
        self._sticky_bytes += used
        return batch, index, taken

    async def _breathe(self) -> None:
        """After each full batch the loop gets a turn: to write, and to hear answers."""
        await asyncio.sleep(0)
        self._check_open()

    def _check_open(self) -> None:
        self._router.home.check()
        self.check_takes(None)

    def check_takes(self, partition: int | None) -> None:
        """Raises ClientClosed when the producer is not open, UnknownPartition when there is no such one."""
        if self._state is not State.OPEN:
            raise ClientClosed(f"the producer is {self._state.value}")
        if partition is not None and not 0 <= partition < self._partitions:
            raise UnknownPartition(self.topic, partition, self._partitions)

    def _choose(self, key: bytes | None, partition: int | None) -> int:
        self._router.home.check()
        self.check_takes(partition)
        if partition is not None:
            return partition
        if key is not None:
            return partition_of(key, self._partitions)
        if self._sticky_bytes >= self._settings.batch_bytes_max and self._partitions > 1:
            self._sticky_bytes = 0
            self._sticky = self._next_sticky()
        return self._sticky

    def _next_sticky(self) -> int:
        """Another partition at random; one whose leader answers, if there is one (KIP-480, KIP-794)."""
        step = self._router.settings.random.randrange(1, self._partitions)
        others = [(self._sticky + step + each) % self._partitions for each in range(self._partitions)]
        calm = [each for each in others if each not in self._queues or not self._queues[each].is_disturbed]
        return (calm or others)[0]

    def _queue(self, partition: int) -> PartitionQueue:
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = PartitionQueue(
                self._router, self._settings, self.topic, partition, self._producer_id, self._resolved
            )
        return queue

    # -- memory

    async def _room(self, size: int) -> None:
        """Count `size` bytes, waiting for memory if need be; who waits is served first come, first served."""
        if not self._waiting and self._buffered_bytes + size <= self._settings.buffer_bytes_max:
            self._buffered_bytes += size
            return
        for queue in self._queues.values():
            queue.send_now()  # a batch that waits for company would keep its memory
        waiter: asyncio.Future[None] = self._router.loop.create_future()
        self._waiting.append((waiter, size))
        timeout_ms = self._settings.delivery_timeout_ms
        has_room = False
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await waiter
            self._check_open()
            has_room = True
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"buffer_bytes_max={self._settings.buffer_bytes_max} stayed full for {timeout_ms} ms while "
                f"producing to {self.topic!r}; is the cluster up?"
            ) from error
        finally:
            if not has_room:  # counted, perhaps, in the very moment in which the wait ended
                self._release(size if waiter.done() and not waiter.cancelled() else 0)

    def _release(self, size: int) -> None:
        self._buffered_bytes -= size
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            waiter, size = self._waiting[0]
            if waiter.done():  # it waits no longer
                self._waiting.popleft()
                continue
            if self._buffered_bytes + size > self._settings.buffer_bytes_max and self._state is State.OPEN:
                return
            self._waiting.popleft()
            self._buffered_bytes += size
            waiter.set_result(None)

    def _resolved(self, batch: Batch) -> None:
        if batch.error is not None:
            if len(self._failed) >= FAILURES_MAX:
                self._failed = deque(each for each in self._failed if not each.is_seen)
            if len(self._failed) < FAILURES_MAX:
                self._failed.append(batch)
        self._release(batch.buffered_bytes)

    def leaders_changed(self) -> None:
        """New metadata came (see Router)."""
        if self._router.cache.knows(self.topic):
            self._partitions = self._router.cache.partition_count(self.topic)
        for queue in self._queues.values():
            queue.leaders_changed()

    # -- the end

    async def flush(self) -> None:
        """Return when every record admitted before is committed or given up.

        Bounded by the delivery timeout. Raises the first DeliveryFailed that nobody has seen.
        """
        self._router.home.check()
        for batch in self._send_all():
            await batch
        failed, self._failed = self._failed, deque()
        unseen = self._first_unseen(failed)
        if unseen is not None:
            raise afresh(unseen)

    def _send_all(self) -> list[Batch]:
        for queue in self._queues.values():
            queue.send_now()
        return [batch for queue in self._queues.values() for batch in queue.unresolved()]

    def _first_unseen(self, failed: Iterable[Batch]) -> DeliveryFailed | None:
        for batch in failed:
            if not batch.is_seen:
                return batch.see_error()
        return None

    async def close(self) -> None:
        """Flush, then end. It always returns, within the delivery timeout. Raises as `flush` does."""
        if self._state is not State.OPEN or self._router.home.is_forked:
            self._state = State.CLOSED
            return
        try:
            await self.flush()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End at once: what is not acknowledged fails with the outcome that is known of it."""
        if self._router.home.is_forked:
            return
        self._router.home.check()
        self._state = State.CLOSED
        self._router.unlisten(self)
        for queue in self._queues.values():
            queue.close()
        self._admit()
