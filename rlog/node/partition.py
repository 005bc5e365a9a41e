"""One partition on one node: what the client door asks of it, and how it answers.

Producing. All requests of a loop tick are stamped into one group: leadership is checked and the offset
assigned in the same call (SAFETY 35), and at the end of the tick the whole group becomes one span of the log,
one proposal to consensus, one Append per follower. Python runs per request and per batch here, never per
record.

Answering. A request is answered when its last record is committed (acknowledgements.py). What may be in the
log when leadership or patience ends is answered REQUEST_TIMED_OUT, "may have happened";
NOT_LEADER_OR_FOLLOWER only while the group that holds it was not yet appended (SAFETY 36: librdkafka reads
that code as "not persisted"). A batch of an idempotent producer that is in the log already is not appended
again: it waits for the commit of the original, and is answered with the original's offset.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rlog._core import BatchInfo, SpanBuilder, check_client_batches
from rlog.errors import (
    BatchTooLarge,
    CorruptBatch,
    CorruptLog,
    InvalidEpoch,
    InvalidTimestamp,
    InvariantBroken,
    OutOfOrder,
    ReadFailed,
    StorageFailed,
)
from rlog.log.log import PartitionLog
from rlog.log.producers import Duplicate
from rlog.log.retention import wanted_start
from rlog.log.time_search import TimeSearch, TimeStep, next_interval
from rlog.node.acknowledgements import Acknowledgements, ProduceDone, ProduceResult, Waiter
from rlog.node.append_clock import AppendClock
from rlog.node.batch_checks import SEQUENCES, check_follows, check_holds
from rlog.node.commit_timer import CommitTimer
from rlog.node.deletion import DeleteDone, DeleteResult, Deletions
from rlog.node.hwm_waits import HwmWait, HwmWaits
from rlog.node.leadership import Leadership
from rlog.node.serving import Found, TimeAnswer
from rlog.observe.counters import PartitionCounters
from rlog.observe.events import emit
from rlog.raft.effects import Role
from rlog.raft.messages import Message
from rlog.raft.replica import Replica
from rlog.records import Waited
from rlog.wire.kafka import codes

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rlog.config import TopicConfig
    from rlog.node.driver import Driver, Payload

logger = logging.getLogger("rlog.node")

# A replica that lags more than this is not reported as in sync.
IN_SYNC_LAG_RECORDS_MAX = 1_000_000


class Partition:
    """See the module's text. `number` is its place in the sorted topic table that all nodes agree upon."""

    def __init__(
        self, *, topic: str, index: int, number: int, log: PartitionLog, replica: Replica, driver: Driver
    ) -> None:
        self.topic = topic
        self.index = index
        self.number = number
        self.name = f"{topic}-{index}"
        self.log = log
        self.replica = replica
        self.driver = driver
        self.fenced: str | None = log.damage and f"damaged: {log.damage}"
        self.broken: str | None = None
        """The invariant that did not hold, if one did not: a bug. The partition is fenced too."""
        self.armed_at = float("inf")  # when the node's timer looks at this partition next
        self.has_started = False
        self.append_clock = AppendClock(log, driver.wall_clock_ms)
        self._stamps_append_time = driver.config.topic(topic).timestamp_type == "append"
        self.counters = PartitionCounters()
        self.commit_timer = CommitTimer(driver.counters.commit_latency, driver.stopwatch_s)
        self.leadership = Leadership(driver.now())
        self._group: SpanBuilder | None = None
        self._group_waiters: list[tuple[int, Waiter]] = []
        self._group_sequences: dict[int, tuple[int, int]] = {}  # producer id: epoch, next sequence
        self._acknowledgements = Acknowledgements(self.counters)
        # What acks=1 waits for.
        self._acks_floor: Waited = driver.config.topic(topic).acks_floor
        self._hwm_waits = HwmWaits()
        self.deletions = Deletions()
        self._said_errno = 0  # of a read that the system refused

    # ------------------------------------------------------------------------------------------- queries

    @property
    def leader_id(self) -> int:
        """0 when unknown."""
        return self.replica.leader

    @property
    def generation(self) -> int:
        return self.replica.generation

    @property
    def is_leader(self) -> bool:
        return self.fenced is None and self.replica.role is Role.LEADER

    @property
    def serving(self) -> bool:
        """Leader, and its high-water mark is exact (SAFETY 32)."""
        return self.fenced is None and self.replica.serving

    @property
    def start_offset(self) -> int:
        """The first offset that is not deleted."""
        return self.replica.log_start

    @property
    def hwm(self) -> int:
        return self.replica.hwm

    @property
    def end_offset(self) -> int:
        return self.log.end_offset

    @property
    def voters(self) -> list[int]:
        return self.driver.voters

    @property
    def deadline(self) -> float:
        """When `tick` has something to do. A partition that takes no input has no consensus to tick."""
        expiry = min(self._acknowledgements.expiry, self.deletions.deadline)
        return min(self.replica.deadline, expiry) if self.accepts_input else expiry

    def in_sync(self) -> list[int]:
        """Replicas that were heard from lately and lag little; all of them where that is not known."""
        if not self.is_leader:
            return self.voters
        heard_since = self.driver.now() - self.driver.config.election_timeout_max_ms / 1000
        floor = self.hwm - IN_SYNC_LAG_RECORDS_MAX
        return [
            voter
            for voter, (_, flushed, contact) in sorted(
                {**self.replica.progress(), self.replica.node_id: (0, self.hwm, heard_since)}.items()
            )
            if contact >= heard_since and flushed >= floor
        ]

    def describe(self) -> dict[str, Any]:
        """For the DescribeNode request and `rlog status`."""
        progress = sorted(self.replica.progress().items()) if self.is_leader else []
        return {
            "topic": self.topic,
            "partition": self.index,
            "role": self.replica.role.value,
            "leader": self.leader_id or None,
            "generation": self.generation,
            "start_offset": self.start_offset,
            "hwm": self.hwm,
            "end_offset": self.end_offset,
            "flushed_offset": self.log.flushed_offset,
            "followers": {
                str(peer): {"match": match, "flushed": flushed, "lag": self.end_offset - match}
                for peer, (match, flushed, _) in progress
                if peer != self.replica.node_id
            },
            "suspect": self.replica.suspect,
            "damage": self.log.damage,
            "failed": self.fenced,
        }

    # ------------------------------------------------------------------------------------------- produce

    def produce(self, records: Buffer, *, acks: int, deadline: float, done: ProduceDone) -> None:
        """Append one client's batches; `done` is called exactly once, with an error perhaps at once.

        records: one or more RecordBatch v2, copied before the call returns. deadline: loop seconds.
        """
        refusal = self._admit(records, acks)
        if refusal is not None:
            done(refusal)
            return
        try:
            infos = check_client_batches(records, batch_bytes_max=self.driver.config.batch_bytes_max)
            duplicate = self._find_duplicate(infos)
        except (CorruptBatch, OutOfOrder, InvalidEpoch) as error:
            done(_refusal_of(error))
            return
        if self.fenced is not None:
            # The look for a duplicate sealed the open group, and that failed.
            done(ProduceResult(codes.KAFKA_STORAGE_ERROR, message=self.fenced))
            return
        waits_for = self._acks_floor if acks == 1 else "majority"
        if duplicate is not None:
            generation = self.log.generations.at(duplicate.base_offset) or -1
            known = Waiter(
                duplicate.base_offset, generation, duplicate.append_time_ms, waits_for, deadline, done
            )
            self._wait(duplicate.end_offset, known)
            self._acknowledge()
            return
        try:
            group = self._open_group()
        except (CorruptLog, ReadFailed) as error:
            self.unreadable(error)
            done(ProduceResult(codes.KAFKA_STORAGE_ERROR, message=str(error)))
            return
        base_offset = group.end_offset
        for info in infos:
            group.add(records, info)
            if info.producer_id >= 0:
                following = (info.base_sequence + info.count) % SEQUENCES
                self._group_sequences[info.producer_id] = (info.producer_epoch, following)
        waiter = Waiter(base_offset, group.generation, group.append_time_ms, waits_for, deadline, done)
        self._group_waiters.append((group.end_offset, waiter))
        self.driver.wake(self)

    def _open_group(self) -> SpanBuilder:
        """What this tick's records are gathered in; one append time for all of them.

        Raises CorruptLog, ReadFailed.
        """
        if self._group is None:
            time_ms = self.append_clock.now_ms() if self._stamps_append_time else -1
            self._group = SpanBuilder(self.log.end_offset, self.replica.generation, append_time_ms=time_ms)
        return self._group

    def _admit(self, records: Buffer, acks: int) -> ProduceResult | None:
        """The refusal of a request that is known not to have been appended, or None."""
        if acks not in (-1, 0, 1):
            return ProduceResult(codes.INVALID_REQUIRED_ACKS, message=f"acks={acks}")
        if self.fenced is not None:
            return ProduceResult(codes.KAFKA_STORAGE_ERROR, message=self.fenced)
        if self.replica.role is not Role.LEADER:
            return ProduceResult(codes.NOT_LEADER_OR_FOLLOWER)
        queued = self.log.queued_bytes + (self._group.size if self._group is not None else 0)
        if queued > self.driver.config.queued_bytes_max:
            return ProduceResult(codes.NOT_ENOUGH_REPLICAS, message=f"{queued} bytes wait for the disk")
        if not memoryview(records).nbytes:
            return ProduceResult(codes.CORRUPT_MESSAGE, message="no record batch")
        return None

    def _find_duplicate(self, infos: list[BatchInfo]) -> Duplicate | None:
        """Where the request is in the log already, or None when it is to be appended.

        Sequences are checked against what is *appended*, the open group included. Raises OutOfOrder or
        InvalidEpoch.
        """
        first, last = infos[0], infos[-1]
        if first.producer_id < 0 and len(infos) == 1:
            return None
        for before, info in pairwise(infos):
            check_follows(before, info)
        if first.producer_id < 0:
            return None
        key = (first.producer_epoch, first.base_sequence)
        if self._group_sequences.get(first.producer_id) == key:
            return None
        if first.producer_id in self._group_sequences:
            self.seal_group()
        check = self.log.producers.check
        found = check(first.producer_id, first.producer_epoch, first.base_sequence, first.count)
        if not isinstance(found, Duplicate) or first is last:
            return found if isinstance(found, Duplicate) else None
        final = check(last.producer_id, last.producer_epoch, last.base_sequence, last.count)
        if not isinstance(final, Duplicate):
            raise OutOfOrder("a part of this request was appended before, and a part was not")
        return Duplicate(found.base_offset, final.end_offset, final.append_time_ms)

    def seal_group(self) -> None:
        """Append what was produced in this tick and propose it. The requests in it may now be in the log."""
        group, self._group = self._group, None
        if group is None:
            return
        span = group.build()

        def propose(now: float) -> None:
            self.log.append(span)
            self.counters.produced(span.end_offset - span.base_offset, span.count, span.size)
            self.commit_timer.appended(span.end_offset)
            for end_offset, waiter in self._group_waiters:
                self._wait(end_offset, waiter)
            self._group_waiters = []
            self._group_sequences = {}
            self.replica.proposed(now, span.end_offset, span.size)

        self._feed(propose)

    @property
    def leader_acks_count(self) -> int:
        """Requests acknowledged by this leader's disk alone, since the node started (acks_floor)."""
        return self._acknowledgements.leader_acks_count

    def _wait(self, end_offset: int, waiter: Waiter) -> None:
        expiry = self._acknowledgements.expiry
        self._acknowledgements.wait(end_offset, waiter)
        if self._acknowledgements.expiry < expiry:
            self.driver.arm(self)

    def _acknowledge(self) -> None:
        """Answer what is committed, or flushed by this leader where that is enough."""
        replica = self.replica
        flushed = {peer: flushed for peer, (_, flushed, _) in replica.progress().items()}
        flushed[replica.node_id] = replica.flushed_offset
        self._acknowledgements.answer(
            hwm=replica.hwm,
            leader_flushed=replica.flushed_offset,
            flushed=flushed,
            log_start_offset=self.start_offset,
        )

    def _give_up_waiters(self, group_code: int, reason: str) -> None:
        """Leadership ended. Nobody is told "no" about a record that any log may hold."""
        group, self._group_waiters = self._group_waiters, []
        self._group = None
        self._group_sequences = {}
        self.deletions.give_up()
        for _, waiter in group:
            waiter.answer(ProduceResult(group_code, message=reason))
        self._acknowledgements.give_up(reason)

    # -------------------------------------------------------------------------------------------- delete

    def delete_records(self, offset: int, *, deadline: float, done: DeleteDone) -> None:
        """Delete what is below `offset` (-1: all that is committed); `done` is called exactly once.

        deadline: loop seconds. Answered when a majority has it on disk.
        """
        error = self._refuse_delete(offset)
        if error != codes.NONE:
            done(DeleteResult(error))
            return
        start = self.replica.hwm if offset == -1 else offset
        self.trim(start)
        if self.replica.held_log_start >= start:
            done(DeleteResult(codes.NONE, self.start_offset))
            return
        self.deletions.wait(start, deadline, done)
        self.driver.arm(self)

    def _refuse_delete(self, offset: int) -> int:
        if self.fenced is not None:
            return codes.KAFKA_STORAGE_ERROR
        if self.replica.role is not Role.LEADER:
            return codes.NOT_LEADER_OR_FOLLOWER
        if not self.replica.serving:
            return codes.OFFSET_NOT_AVAILABLE
        if self.deletions.is_full:
            return codes.NOT_ENOUGH_REPLICAS
        return codes.NONE if -1 <= offset <= self.replica.hwm else codes.OFFSET_OUT_OF_RANGE

    def trim(self, offset: int) -> None:
        """Leader: move the log start up to `offset`, which is committed."""
        if offset > self.start_offset:
            self._feed(self.replica.trim, offset)

    def apply_retention(self, topic: TopicConfig, now_ms: int) -> None:
        """Leader: delete what the topic's settings let go."""
        try:
            self.trim(wanted_start(self.log, self.hwm, topic.retention_bytes, topic.retention_ms, now_ms))
        except (CorruptLog, ReadFailed) as error:
            self.unreadable(error)

    # ------------------------------------------------------------------------------------------- consume

    def disk_read(self, offset: int, bytes_max: int) -> Callable[[], Found | None] | None:
        """What of `read` waits for the disk; to be run on any thread. None where nothing does."""
        hwm = self.replica.hwm
        if not self.serving or not self.start_offset <= offset < hwm:
            return None
        read = self.log.disk_read(offset, bytes_max=bytes_max, end_max=hwm)
        return None if read is None else read.run

    def read(
        self, offset: int, bytes_max: int | None, found: Found | None = None
    ) -> tuple[int, list[memoryview], int]:
        """(error code, whole committed batches from the one that holds `offset`, high-water mark).

        bytes_max: at least one batch is read, however small it is; None reads none.
        found: what `disk_read` brought. What is committed does not change, so all that can have happened
        meanwhile is that it may not be given out any more.
        """
        hwm = self.replica.hwm
        if self.fenced is not None:
            return codes.KAFKA_STORAGE_ERROR, [], -1
        if self.replica.role is not Role.LEADER:
            return codes.NOT_LEADER_OR_FOLLOWER, [], -1
        if not self.replica.serving:
            return codes.OFFSET_NOT_AVAILABLE, [], -1
        if not self.start_offset <= offset <= self.log.end_offset:
            return codes.OFFSET_OUT_OF_RANGE, [], hwm
        if offset >= hwm or bytes_max is None:
            return codes.NONE, [], hwm
        try:
            batches = [found[0]] if found else self.log.read(offset, bytes_max=bytes_max, end_max=hwm)
            check_holds(batches, offset)
        except (CorruptLog, ReadFailed) as error:
            self.unreadable(error)
            return codes.KAFKA_STORAGE_ERROR, [], hwm
        except InvariantBroken as error:
            self.invariant_broken(str(error))
            return codes.KAFKA_STORAGE_ERROR, [], hwm
        return codes.NONE, batches, hwm

    def time_search(self, timestamp_ms: int, start: int) -> Callable[[], TimeStep | CorruptBatch | None]:
        """What of `find_time` reads the disk or decompresses; to be run on any thread."""
        try:
            return self._planned_search(timestamp_ms, start).run
        except (CorruptLog, ReadFailed):
            return lambda: None  # find_time meets it again, and answers it

    def _planned_search(self, timestamp_ms: int, start: int) -> TimeSearch:
        log, hwm = self.log, self.replica.hwm
        # The log's own start follows when it has flushed that far; consensus knows better.
        start = max(start, self.start_offset)
        interval = next_interval(log.segments_from(start), timestamp_ms, start, hwm)
        if interval is None:
            return TimeSearch(timestamp_ms, start, [], hwm)
        at, bytes_max, end = interval
        on_disk = log.disk_read(at, bytes_max=bytes_max, end_max=end)
        batches = on_disk or log.read(at, bytes_max=bytes_max, end_max=end)
        return TimeSearch(timestamp_ms, start, batches, end)

    def find_time(
        self, timestamp_ms: int, start: int, found: TimeStep | CorruptBatch | None = None
    ) -> TimeAnswer:
        """One step of the search for the first committed record at or past `start` that is that late.

        found: what `time_search` brought; where it brought nothing, all is done here.
        """
        try:
            if isinstance(found, CorruptBatch):
                raise found
            start = max(start, self.start_offset)
            step = found or self.log.search_time(timestamp_ms, start=start, end_max=self.replica.hwm)
        except CorruptBatch as error:
            # The disk is innocent: the records were produced like that, and nobody can read them.
            logger.warning("partition=%s search by time past offset %d: %s", self.name, start, error)
            return TimeAnswer(codes.INVALID_RECORD)
        except (CorruptLog, ReadFailed) as error:
            self.unreadable(error)
            return TimeAnswer(codes.KAFKA_STORAGE_ERROR)
        if step.found is None or step.found[0] < self.start_offset:  # deleted meanwhile
            return TimeAnswer(codes.NONE, None, max(step.next_offset, self.start_offset))
        return TimeAnswer(codes.NONE, (*step.found, self.log.generations.at(step.found[0])), step.next_offset)

    def wait_hwm(self, above: int, callback: Callable[[], None]) -> HwmWait:
        """Call back once when the high-water mark is above `above`, leadership is lost, or the node stops."""
        is_over = self.replica.hwm > above or not self.is_leader
        return self._hwm_waits.wait(above, callback, is_over=is_over)

    # -------------------------------------------------------------------- inputs, from the node's machinery

    @property
    def accepts_input(self) -> bool:
        return self.has_started and self.broken is None

    def tick(self, now: float) -> None:
        if self._acknowledgements.expiry <= now:
            self._acknowledgements.expire(now)
        self.deletions.expire(now)
        if self.replica.deadline <= now:
            self._feed(self.replica.tick)

    def step(self, sender: int, message: Message, payload: Payload) -> None:
        self._feed(self.replica.step, sender, message, payload=payload)

    def flushed(self) -> None:
        self._feed(self.replica.flushed, self.log.flushed_offset)
        if self.is_leader and self._acks_floor == "leader":
            self._acknowledge()

    def saved(self, token: int) -> None:
        self._feed(self.replica.saved, token)

    def start_saved(self, log_start: int) -> None:
        self._feed(self.replica.start_saved, log_start)

    def base_moved(self) -> None:
        self._feed(self.replica.base_moved, self.log.base_offset)

    def peer_connected(self, peer: int) -> None:
        self._feed(self.replica.peer_connected, peer)

    def peer_lost(self, peer: int) -> None:
        self._feed(self.replica.peer_lost, peer)

    def leader_gone(self) -> None:
        self.leadership.hint(self.driver.now(), f"nobody listens any more where node {self.leader_id} did")
        self._feed(self.replica.leader_gone)

    def _feed(self, enter: Callable[..., None], *arguments: Any, payload: Payload = None) -> None:
        """One input to consensus, and all that it decides. A broken invariant stops this partition only."""
        if not self.accepts_input:
            return
        try:
            enter(self.driver.now(), *arguments)
            self.driver.carry_out(self, payload)
        except (InvariantBroken, AssertionError) as error:
            self.invariant_broken(str(error) or repr(error), exc_info=True)
        except (StorageFailed, CorruptLog, ReadFailed) as error:
            self.storage_failed(str(error))

    def unreadable(self, error: CorruptLog | ReadFailed) -> None:
        """Damage fences the log. What the system refused is asked for again, and said once."""
        if isinstance(error, CorruptLog):
            self.storage_failed(str(error))
        elif error.errno != self._said_errno:
            self._said_errno = error.errno
            self._say(logging.WARNING, "read_failed", str(error))

    def storage_failed(self, reason: str) -> None:
        """A write or fsync of this log failed: never lead or acknowledge again (SAFETY 15)."""
        if self.fenced is None:
            self._say(logging.ERROR, "fenced", reason)
            self.fenced = reason
            self.driver.counters.disk_errors["log"] += 1
            self._give_up_waiters(codes.KAFKA_STORAGE_ERROR, reason)
            self._feed(self.replica.storage_failed, reason)
            self._hwm_waits.wake()

    # ---------------------------------------------------------------------- effects, carried out by Driver

    def hwm_moved(self, hwm: int) -> None:
        self.log.committed(hwm)
        self.commit_timer.committed(hwm)
        self._acknowledge()
        self._hwm_waits.wake(hwm)

    def role_changed(self, role: Role, reason: str) -> None:
        self.append_clock.forget()
        if role is not Role.LEADER:
            self.commit_timer.forget()
            self._give_up_waiters(codes.NOT_LEADER_OR_FOLLOWER, reason)
            self._hwm_waits.wake()

    def stop(self, reason: str) -> None:
        """Answer everybody; nothing is taken any more."""
        self.fenced = self.fenced or reason
        self._give_up_waiters(codes.NOT_LEADER_OR_FOLLOWER, reason)
        self._hwm_waits.wake()

    def invariant_broken(self, reason: str, *, exc_info: bool = False) -> None:
        """A bug: the partition never proceeds."""
        if self.broken is None:
            self._say(logging.CRITICAL, "invariant_broken", reason, exc_info=exc_info)
            self.broken = reason
            # The group's fate is not known for certain any more: it may be half appended.
            self.fenced = self.fenced or f"invariant broken: {reason}"
            self._give_up_waiters(codes.REQUEST_TIMED_OUT, reason)
            self._hwm_waits.wake()

    def _say(self, level: int, event: str, reason: str, *, exc_info: bool = False) -> None:
        node_id = self.replica.node_id
        emit(logger, level, event, exc_info=exc_info, partition=self.name, node=node_id, reason=reason)


def _refusal_of(error: CorruptBatch | OutOfOrder | InvalidEpoch) -> ProduceResult:
    if isinstance(error, BatchTooLarge):
        code: int = codes.MESSAGE_TOO_LARGE
    elif isinstance(error, InvalidTimestamp):
        code = codes.INVALID_TIMESTAMP
    elif isinstance(error, CorruptBatch):
        code = codes.CORRUPT_MESSAGE
    elif isinstance(error, OutOfOrder):
        code = codes.OUT_OF_ORDER_SEQUENCE_NUMBER
    else:
        code = codes.INVALID_PRODUCER_EPOCH
    return ProduceResult(code, message=str(error))
