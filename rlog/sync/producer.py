"""The blocking twin of `rlog.client.producer`: the same names and arguments, without `async`.

`send` does not cross to the loop and back for every record. It puts the record into a queue, from which the
loop admits it to the real producer soon, and gives back an ack at once. What can be told of the record alone
is told at once (too large, no such partition, wrong type); what goes wrong later is in its ack, and in
`flush`. With more than QUEUED_BYTES_MAX in the queue `send` waits until the loop has admitted them, so the
real producer's backpressure, and its deadline, reach the caller.

`send_many` crosses once per list. Records are admitted in the order in which they were sent, by whichever
thread; but between the batches of a list that fills more than one, other threads' records may lie.

`send` may be interrupted anywhere, and called by a signal's handler while the same thread is in it: whatever
one call leaves behind, the next finds the queue and the loop in order.
"""

import asyncio
import threading
from collections import deque
from types import TracebackType
from typing import Final, NamedTuple, Self

from rlog.client import producer as client
from rlog.client.producer import Values
from rlog.client.tasks import join
from rlog.errors import RlogError
from rlog.records import Headers
from rlog.sync.portal import Portal
from rlog.sync.receipts import Ack, ListAck

# Of records that the loop has not admitted yet: above it `send` waits.
QUEUED_BYTES_MAX: Final = 1024 * 1024
# Records that could not be admitted and nobody asked about, remembered for `flush`; of more than these the
# first ones are reported.
REFUSED_MAX: Final = 64


class _Queued(NamedTuple):
    value: bytes | None
    key: bytes | None
    headers: Headers
    partition: int | None
    timestamp_ms: int | None
    size_bytes: int
    ack: Ack


class Producer:
    """Made by `Cluster.producer`; used by any number of threads."""

    def __init__(self, portal: Portal, producer: client.Producer) -> None:
        self.topic = producer.topic
        self._portal = portal
        self._producer = producer
        self._lock = threading.RLock()  # of what follows, where it is changed by several threads
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._is_expected = False  # the loop knows that something is in the queue
        # These are the loop's.
        self._taken_count = 0  # admitted or refused, since the start
        self._admitting: asyncio.Task[None] | None = None
        self._refused: deque[Ack] = deque()

    def __enter__(self) -> Self:
        self._portal.run(self._producer.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def open(self, *, timeout_ms: int | None = None) -> None:
        """Look the topic up and draw a producer id. Raises UnknownTopic, DeadlineExceeded."""
        self._portal.run(self._producer.open(timeout_ms=timeout_ms))

    @property
    def is_closed(self) -> bool:
        return self._producer.is_closed or self._portal.is_closed

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the records that are sent and not resolved; at most buffer_bytes_max and what waits to be
        admitted.
        """
        return self._producer.buffered_bytes + self._queued_bytes

    # -- sending

    def send(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        *,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Ack:
        """Take one record; `result()` of what it returns is the Receipt.

        Arguments as of `rlog.client.Producer.send`. Raises MessageTooLarge, UnknownPartition, TypeError and
        ClientClosed; what is wrong with headers or timestamp, and memory that stays full for the delivery
        timeout, is raised by the ack, and by `flush`.
        """
        self._portal.check()
        self._producer.check_takes(partition)
        for what, given in (("value", value), ("key", key)):
            if given is not None and not isinstance(given, bytes):
                raise TypeError(f"{what} is of type {type(given).__name__}; it must be bytes or None")
        headers = tuple(headers)
        size = self._producer.size_of(value, key, headers)
        ack = Ack(self._portal, self._admitted)
        queued = _Queued(value, key, headers, partition, timestamp_ms, size, ack)
        with self._lock:
            if not self._is_expected:  # told before it is said to know: told twice is no harm, never would be
                self._portal.post(self._admit_soon)
                self._is_expected = True
            self._queued_bytes += size
            self._queue.append(queued)
        if self._queued_bytes > QUEUED_BYTES_MAX:
            self._portal.run(self._admitted())
        return ack

    def send_many(
        self, values: Values, *, partition: int | None = None, timestamp_ms: int | None = None
    ) -> ListAck:
        """Admit a list or tuple of values, without keys, into one partition; one ack for all. The fastest
        way: it crosses to the loop once.

        Raises as `rlog.client.Producer.send_many`.
        """

        async def send() -> ListAck:
            await self._admitted()
            sent = await self._producer.send_many(values, partition=partition, timestamp_ms=timestamp_ms)
            return ListAck(self._portal, sent)

        return self._portal.run(send())

    # -- on the loop

    def _admit_soon(self) -> None:
        if self._admitting is None:
            self._admitting = asyncio.get_running_loop().create_task(self._admit())

    async def _admit(self) -> None:
        """Hand over what is in the queue now. A record leaves it when its fate here is known."""
        taken_bytes = 0
        try:
            for _ in range(len(self._queue)):
                queued = self._queue[0]
                await self._admit_one(queued)
                self._queue.popleft()
                taken_bytes += queued.size_bytes
                self._taken_count += 1
        finally:
            self._admitting = None
            with self._lock:
                self._queued_bytes = self._queued_bytes - taken_bytes if self._queue else 0
                self._is_expected = bool(self._queue)
            if self._is_expected:
                self._admit_soon()

    async def _admit_one(self, queued: _Queued) -> None:
        try:
            ack = await self._producer.send(
                queued.value,
                queued.key,
                queued.headers,
                partition=queued.partition,
                timestamp_ms=queued.timestamp_ms,
            )
        except (RlogError, TypeError, ValueError, ArithmeticError) as error:
            queued.ack.refused(error)
            if len(self._refused) >= REFUSED_MAX:
                self._refused = deque(each for each in self._refused if not each.is_seen)
            if len(self._refused) < REFUSED_MAX:
                self._refused.append(queued.ack)
        else:
            queued.ack.admitted(ack)

    async def _admitted(self) -> None:
        """Return when everything sent before is admitted or refused."""
        count = self._taken_count + len(self._queue)
        while self._taken_count < count:
            self._admit_soon()
            assert self._admitting is not None
            await join(self._admitting)

    # -- the end

    def flush(self) -> None:
        """Return when every record sent before is committed or given up.

        Bounded by the delivery timeout. Raises the first error that nobody has seen.
        """
        self._portal.run(self._flush())

    async def _flush(self) -> None:
        await self._admitted()
        await self._producer.flush()
        refused, self._refused = self._refused, deque()
        for ack in refused:
            ack.raise_unseen()

    def close(self) -> None:
        """Flush, then end. It always returns, within the delivery timeout. Raises as `flush` does."""
        if self._portal.is_forked or self.is_closed:
            return

        async def close() -> None:
            try:
                if self._producer.is_open:
                    await self._flush()
            finally:
                self._producer.abandon()

        self._portal.run(close())

    def abandon(self) -> None:
        """End at once: what is not acknowledged fails with the outcome that is known of it."""
        if not self._portal.is_forked and not self._portal.is_closed:
            self._portal.call(self._producer.abandon)
