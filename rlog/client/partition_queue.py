"""The producer's records of one partition on their way to its leader, in order, once.

Every batch gets (producer id, epoch, sequence) when it is first sent and keeps it through every retry, so the
leader can tell a repeated batch from a new one (KIP-98; SAFETY 36). Up to `max_in_flight` batches are sent
without waiting for each other. The rules that keep them in order and single:

* After any failed attempt the queue is *disturbed*: nothing new is sent, the answers still under way are
  awaited, the leader is looked up again, and then all batches in flight are sent again, in order.
* A batch is *uncertain* once an attempt ended without an answer that tells whether it is in the log.
  Repeating it under the same sequence is safe; under another it is not, so it never happens.
* When a batch that has a sequence is given up (delivery timeout, refusal), its sequence may or may not be in
  the log. Reusing it for another batch could lose that one as a "duplicate"; leaving it out would stall the
  leader's check for ever. The queue is then *poisoned*: what is in flight is resolved under the old producer
  id, and what follows starts at sequence 0 of a producer id drawn anew. A batch in flight that the leader
  then refuses as out of order is sent again under the new id if it is certain that no attempt arrived, and
  given up as unknown if not.
* What waits for the new id is ordered by the batches' numbers, not by when the leader refused each: of two
  that were refused as out of order, the earlier one may have heard it later.
* Until the first batch under a producer id is acknowledged, it travels alone: to a leader that does not know
  the id, any sequence is the first one, so a successor must not overtake it through a change of leaders.

What is not handled: a packet of a given-up batch that a broken connection delivers much later may put that
batch behind newer ones. Its outcome was reported as unknown.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Final

from rlog._core import BatchBuilder
from rlog.client.batch import Batch
from rlog.client.connection import Connection
from rlog.client.errors import (
    ClientClosed,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    DeliveryFailed,
    MessageTooLarge,
    OutOfOrderSequence,
    RefusedForNow,
    RequestRefused,
)
from rlog.client.produce import ProduceCall, produce_call
from rlog.client.producer_id import ProducerId, draw_producer_id
from rlog.client.retry import Backoff
from rlog.client.router import PRODUCE, UNANSWERED, Router
from rlog.errors import Outcome, ProtocolError, RlogError
from rlog.records import Compression
from rlog.wire.kafka import codes
from rlog.wire.kafka.messages import Buffer, PartitionReceipt

logger = logging.getLogger("rlog.client")

NOT_ENOUGH_REPLICAS_AFTER_APPEND: Final = 20
UNKNOWN_SERVER_ERROR: Final = -1
# Refused before the append: the same batch may be sent again, idempotent or not.
NOT_PERSISTED: Final = codes.RETRIABLE_NOT_PERSISTED
# The batch may be in the log: only an idempotent producer may send it again.
MAYBE_PERSISTED: Final = frozenset(
    {
        codes.REQUEST_TIMED_OUT,
        codes.KAFKA_STORAGE_ERROR,
        NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        UNKNOWN_SERVER_ERROR,
    }
)
# The order in which batches were started, which is that of their records.
NUMBER: Final = attrgetter("number")
SEQUENCE_REFUSED: Final = frozenset({codes.OUT_OF_ORDER_SEQUENCE_NUMBER, codes.UNKNOWN_PRODUCER_ID})


def next_sequence(sequence: int, count: int) -> int:
    """Sequences number records, and wrap from 2^31 - 1 to 0 (KIP-98)."""
    return (sequence + count) & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class ProducerSettings:
    """See `Cluster.producer`. acks: as on the wire, -1 for all, 0 for none."""

    acks: int
    is_idempotent: bool
    linger_ms: int
    compression: Compression
    batch_bytes_max: int
    buffer_bytes_max: int
    delivery_timeout_ms: int
    max_in_flight: int


class PartitionQueue:
    """on_resolved(batch): called once per batch, when it was acknowledged or given up."""

    def __init__(
        self,
        router: Router,
        settings: ProducerSettings,
        topic: str,
        partition: int,
        producer_id: ProducerId,
        on_resolved: Callable[[Batch], None],
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.open: Batch | None = None  # being filled
        self.is_disturbed = True  # no connection yet
        self._router = router
        self._settings = settings
        self._loop = router.loop
        self._on_resolved = on_resolved
        self._producer_id = producer_id
        self._started = 0  # batches
        self._sequence = 0  # of the next batch that is sent for the first time
        self._is_established = not settings.is_idempotent  # a batch under this id was acknowledged
        self._is_poisoned = False
        self._is_closed = False
        self._is_due = False  # the open batch is sent as soon as there is room in flight
        self._ready: deque[Batch] = deque()  # full, not sent under the current producer id
        self._flight: deque[Batch] = deque()  # sent, oldest first; at most max_in_flight
        self._requeued: list[Batch] = []  # to be sent again under the next producer id, by number
        self._outstanding = 0  # batches on the wire
        self._connection: Connection | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._backoff = Backoff(router.settings)
        self._last_error: RlogError | None = None
        self._due_timer: asyncio.Handle | None = None
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._hung_timer: asyncio.TimerHandle | None = None

    def unresolved(self) -> Iterator[Batch]:
        """Every batch whose fate is open, oldest first."""
        sent = heapq.merge(self._flight, self._requeued, key=NUMBER)
        for batch in [*sent, *self._ready, *([self.open] if self.open else [])]:
            if batch.count and not batch.is_resolved:
                yield batch

    # -- filling

    def start_batch(self) -> Batch:
        """A new open batch; it is sent when full, or when due: at the end of this tick, or after the
        linger.
        """
        assert self.open is None
        settings = self._settings
        builder = BatchBuilder(batch_bytes_max=settings.batch_bytes_max, compression=settings.compression)
        deadline = self._loop.time() + settings.delivery_timeout_ms / 1000
        self._started += 1
        batch = Batch(self._router.home, self.topic, self.partition, self._started, builder, deadline)
        self.open = batch
        if self._due_timer is None:
            if settings.linger_ms > 0:
                self._due_timer = self._loop.call_later(settings.linger_ms / 1000, self.send_now)
            else:
                self._due_timer = self._loop.call_soon(self.send_now)
        if self._expiry_timer is None:
            self._expiry_timer = self._loop.call_at(deadline, self._expire)
        return batch

    def roll(self) -> None:
        """The open batch is full: it waits for its turn, and a next one may be started."""
        if self.open is not None:
            self._ready.append(self.open)
            self._end_open()
            self._pump()

    def _end_open(self) -> None:
        self.open = None
        self._is_due = False
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None

    def send_now(self) -> None:
        """The open batch waits no longer for company."""
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        self._is_due = self.open is not None
        self._pump()

    def discard_empty(self) -> None:
        """The first record of the open batch was refused: forget the batch."""
        if self.open is not None and not self.open.count:
            self._end_open()

    # -- sending

    def _pump(self) -> None:
        """Send what may be sent."""
        while not self.is_disturbed and not self._is_closed:
            if len(self._flight) >= (self._settings.max_in_flight if self._is_established else 1):
                return
            batch = self._next_batch()
            if batch is None:
                return
            connection = self._connection
            if connection is None or not connection.usable:
                self._ready.appendleft(batch)
                self.is_disturbed = True
                self._router.cache.doubt(self.topic, self.partition)
                break
            try:
                self._stamp(batch)
            except Exception as error:  # no memory, or a codec's bug: whoever waits for the batch is told
                logger.exception("%s: a batch could not be built", self._name)
                self._give_up(batch, error)
                continue
            self._flight.append(batch)
            self._transmit(batch, connection)
        self._recover_when_quiet()

    def _next_batch(self) -> Batch | None:
        if self._ready:
            return self._ready.popleft()
        batch = self.open
        if batch is None or not self._is_due or not batch.count:
            return None
        self._end_open()
        return batch

    def _stamp(self, batch: Batch) -> None:
        if self._settings.is_idempotent:
            batch.close(*self._producer_id, self._sequence)
            self._sequence = next_sequence(self._sequence, batch.count)
        else:
            batch.close(-1, -1, -1)

    def _transmit(self, batch: Batch, connection: Connection) -> None:
        # The node answers before this client takes it for dead.
        timeout_ms = self._router.settings.request_timeout_ms * 3 // 4
        timeout_ms = max(1, min(timeout_ms, int((batch.deadline - self._loop.time()) * 1000)))
        call = produce_call(
            connection,
            self._router.settings.client_id,
            self.topic,
            self.partition,
            batch.data,
            acks=self._settings.acks,
            timeout_ms=timeout_ms,
        )
        if self._settings.acks == 0:
            connection.post(call.encode, partial(self._written, batch, connection))
        else:
            connection.send(call.encode, partial(self._answered, batch, connection, call))
        batch.is_outstanding = True
        self._outstanding += 1

    # -- answers

    def _answered(
        self,
        batch: Batch,
        connection: Connection,
        call: ProduceCall,
        frame: Buffer | None,
        error: RlogError | None,
    ) -> None:
        answer = None
        if frame is not None:
            try:
                answer = call.decode(frame)
            except ProtocolError as broken:
                error = ConnectionLost(f"{connection.address} broke the protocol: {broken}")
        self._attempt_ended(batch, connection, answer, error)

    def _written(self, batch: Batch, connection: Connection, error: RlogError | None) -> None:
        """acks=0: the socket took it, and that is all there will be to know."""
        answer = None if error else PartitionReceipt(self.partition, codes.NONE, waited="none")
        self._attempt_ended(batch, connection, answer, error)

    def _attempt_ended(
        self,
        batch: Batch,
        connection: Connection,
        answer: PartitionReceipt | None,
        error: RlogError | None,
    ) -> None:
        batch.is_outstanding = False
        self._outstanding -= 1
        if batch.is_resolved:
            self._flight.remove(batch)
        elif answer is not None:
            self._judge(batch, answer)
        else:
            self._attempt_failed(batch, error or ConnectionLost("the connection was lost"), is_uncertain=True)
        if error is not None:
            self._connection = None
            self.is_disturbed = True
            self._router.cache.doubt(self.topic, self.partition)
            connection.abort(error)
        self._pump()

    @property
    def _name(self) -> str:
        return f"producing to {self.topic}-{self.partition}"

    def _judge(self, batch: Batch, answer: PartitionReceipt) -> None:
        """One answer about one batch (the codes' meaning: the protocol's documentation of Produce)."""
        code, detail = answer.error, answer.message
        if code in (codes.NONE, codes.DUPLICATE_SEQUENCE_NUMBER):
            self._flight.remove(batch)
            self._is_established = True
            self._last_error = None
            self._backoff.reset()
            batch.resolve(answer, None)
            self._on_resolved(batch)
        elif code in NOT_PERSISTED or code in MAYBE_PERSISTED:
            self._router.cache.doubt(self.topic, self.partition)
            is_uncertain = code in MAYBE_PERSISTED
            outcome: Outcome = "unknown" if is_uncertain else "no"
            refused = RefusedForNow(self._name, code, outcome=outcome, detail=detail)
            self._attempt_failed(batch, refused, is_uncertain=is_uncertain)
        elif code in SEQUENCE_REFUSED:
            self._judge_sequence(batch, code)
        elif code == codes.MESSAGE_TOO_LARGE:
            limit = self._settings.batch_bytes_max
            cause: RlogError = MessageTooLarge(
                f"{self._name}: the node refuses batches of this size; lower batch_bytes_max from {limit}"
            )
            self._give_up(batch, cause)
        else:
            self._give_up(batch, RequestRefused(self._name, code, detail=detail))

    def _judge_sequence(self, batch: Batch, code: int) -> None:
        """The leader says that something before this batch is missing; the batch is not in its log."""
        refused = RefusedForNow(self._name, code)
        is_first = self._flight[0] is batch
        if not is_first and not self._is_poisoned:
            # An earlier batch of the flight was refused and goes first when all are sent again.
            self._attempt_failed(batch, refused, is_uncertain=False)
        elif batch.is_uncertain or (not self._is_poisoned and code != codes.UNKNOWN_PRODUCER_ID):
            self._give_up(batch, refused, kind=DeliveryFailed if self._is_poisoned else OutOfOrderSequence)
        else:
            # Its predecessor was given up, or the node forgot an idle producer: a new id mends both.
            self._flight.remove(batch)
            insort(self._requeued, batch, key=NUMBER)
            self._poison()

    def _attempt_failed(self, batch: Batch, error: RlogError, *, is_uncertain: bool) -> None:
        self._last_error = error
        self.is_disturbed = True
        batch.is_uncertain = batch.is_uncertain or is_uncertain
        if batch.is_uncertain and not self._settings.is_idempotent:
            self._give_up(batch, error)

    def _poison(self) -> None:
        if self._settings.is_idempotent:
            self._is_poisoned = True
            self.is_disturbed = True

    def _give_up(
        self, batch: Batch, cause: Exception, *, kind: type[DeliveryFailed] = DeliveryFailed
    ) -> None:
        """Resolve the batch as failed. One on the wire stays in flight until its answer came."""
        is_unknown = batch.is_outstanding or batch.is_uncertain
        why = str(cause) or type(cause).__name__  # MemoryError says no more than its name
        if batch in self._flight:
            self._poison()
            if not batch.is_outstanding:
                self._flight.remove(batch)
        error = kind(
            f"{batch.count} records for {self.topic}-{self.partition} were given up: {why}",
            topic=self.topic,
            partition=self.partition,
            count=batch.count,
            outcome="unknown" if is_unknown else "no",
        )
        error.__cause__ = cause
        batch.resolve(None, error)
        self._on_resolved(batch)

    def _expire(self) -> None:
        """Give up what is past its delivery timeout. Older batches have earlier deadlines."""
        self._expiry_timer = None
        now = self._loop.time()
        earliest = None
        for batch in list(self.unresolved()):
            if batch.deadline > now:
                earliest = batch.deadline
                break
            self._withdraw(batch)
            cause = DeadlineExceeded(
                f"the delivery timeout of {self._settings.delivery_timeout_ms} ms passed; "
                f"last: {self._last_error or 'no answer yet'}"
            )
            cause.__cause__ = self._last_error
            self._give_up(batch, cause)
        if earliest is not None:
            self._expiry_timer = self._loop.call_at(earliest, self._expire)
        if self._outstanding and self._hung_timer is None:
            grace = self._router.settings.suspect_after_ms / 1000
            self._hung_timer = self._loop.call_later(grace, self._leave_hung)
        self._pump()

    def _leave_hung(self) -> None:
        """A node that has not answered a batch that was given up some time ago holds up what follows."""
        self._hung_timer = None
        connection = self._connection
        if connection is not None and any(batch.is_resolved for batch in self._flight):
            connection.abort(ConnectionLost(f"{connection.address} did not answer in the delivery timeout"))

    def _withdraw(self, batch: Batch) -> None:
        """Take a batch that is not in flight out of the queue."""
        if batch is self.open:
            self._end_open()
        elif batch in self._ready:
            self._ready.remove(batch)
        elif batch in self._requeued:
            self._requeued.remove(batch)

    # -- recovery

    def _recover_when_quiet(self) -> None:
        """Once no answer is under way, find the leader and send again what is in flight."""
        if self._is_closed or self._router.is_closed:
            return
        if self.is_disturbed and not self._outstanding and self._recovery is None:
            has_work = (
                self._flight or self._requeued or self._ready or (self.open is not None and self._is_due)
            )
            if has_work:
                name = f"recover {self.topic}-{self.partition}"
                self._recovery = self._router.tasks.spawn(self._recover(), name)

    async def _recover(self) -> None:
        try:
            while any(True for _ in self.unresolved()) and not self._is_closed:
                if self._last_error is not None:
                    await asyncio.sleep(self._backoff.pause())
                try:
                    await self._recover_once()
                except ClientClosed:
                    return
                except RlogError as error:
                    self._last_error = error
                    continue
                except Exception as error:
                    # A bug, which is shown; what starts this again must not do so without a pause.
                    self._last_error = ClientError(f"{self._name} failed: {error!r}")
                    raise
                if not self.is_disturbed or self._outstanding:
                    return
        finally:
            self._recovery = None
            self._pump()

    async def _recover_once(self) -> None:
        router = self._router
        deadline = router.deadline(None)
        lane = PRODUCE if self._settings.acks else UNANSWERED
        connection = await router.connection_once(self.topic, self.partition, lane, deadline)
        if self._is_poisoned and not self._flight:
            self._producer_id = await draw_producer_id(router, deadline)
            self._sequence = 0
            self._is_established = False
            self._is_poisoned = False
            self._ready.extendleft(reversed(self._requeued))
            self._requeued.clear()
        if not connection.usable:
            raise connection.error or ConnectionLost(f"{connection.address} was lost")
        self._connection = connection
        self.is_disturbed = self._is_poisoned
        for batch in list(self._flight):
            self._transmit(batch, connection)

    def leaders_changed(self) -> None:
        """New metadata came. A node that is late to answer and no longer leads is not waited for."""
        connection = self._connection
        if connection is not None and connection.is_overdue and self._has_moved(connection):
            connection.abort(
                ConnectionLost(f"{connection.address} did not answer, and another node leads now")
            )

    def _has_moved(self, connection: Connection) -> bool:
        return self._router.cache.has_moved(self.topic, self.partition, connection.address)

    # -- the end

    def close(self) -> None:
        """Give up whatever is unresolved, at once."""
        self._is_closed = True
        for timer in (self._due_timer, self._expiry_timer, self._hung_timer):
            if timer is not None:
                timer.cancel()
        if self._recovery is not None:
            self._recovery.cancel()
        for batch in list(self.unresolved()):
            self._give_up(batch, ClientClosed("the producer was closed before the answer came"))
