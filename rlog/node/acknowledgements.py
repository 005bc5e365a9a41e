"""Produce requests that are in a log and wait for their answer: when it comes, and what it says.

A request waits for the high-water mark, so for a flushed majority. With acks=1 and a topic whose `acks_floor`
is "leader" it is content with the leader's own fdatasync, should that come first. Such a record is not
committed yet: consumers do not see it (SAFETY 33), and it is lost when this node does not come back, or when
the next leader does not have it.

What an answer names as flushed is what this leader *knows* to be flushed in its generation, so it may be less
than there is: of a request that repeats a batch committed by an earlier leader, perhaps nobody but itself.
Python runs here per request, never per record.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from rlog.observe.counters import PartitionCounters
from rlog.records import Waited
from rlog.wire.kafka import codes


@dataclass(frozen=True, slots=True)
class ProduceResult:
    """error: a Kafka error code. base_offset: of the request's first record, -1 on an error.

    log_append_time: milliseconds since the epoch, -1 where the producer's timestamps stay.
    generation, flushed_by, waited: as `rlog.Receipt` has them.
    """

    error: int
    base_offset: int = -1
    log_append_time: int = -1
    log_start_offset: int = -1
    message: str = ""
    generation: int = -1
    flushed_by: tuple[int, ...] = ()
    waited: Waited = "majority"


ProduceDone = Callable[[ProduceResult], None]


class Waiter:
    """A produce request that is in the group or in the log.

    generation: of the leader that took its first record. append_time_ms: -1 where the producer's timestamps
    stay. waits_for: what its answer needs at least. deadline: loop seconds.
    """

    __slots__ = ("append_time_ms", "base_offset", "deadline", "done", "generation", "waits_for")

    def __init__(
        self,
        base_offset: int,
        generation: int,
        append_time_ms: int,
        waits_for: Waited,
        deadline: float,
        done: ProduceDone,
    ) -> None:
        self.base_offset = base_offset
        self.generation = generation
        self.append_time_ms = append_time_ms
        self.waits_for = waits_for
        self.deadline = deadline
        self.done: ProduceDone | None = done

    def answer(self, result: ProduceResult) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(result)


_Entry = tuple[int, int, Waiter]  # end offset, order of coming, waiter


class Acknowledgements:
    """The waiters of one partition. leader_acks_count: answers that one disk was enough for."""

    def __init__(self, counters: PartitionCounters) -> None:
        self.leader_acks_count = 0
        self._counters = counters
        self.expiry = inf  # no waiter's deadline is before it
        self._order = 0
        # Heaps: those that wait for the high-water mark, and those that the leader's disk is enough for.
        self._for_majority: list[_Entry] = []
        self._for_leader: list[_Entry] = []

    def wait(self, end_offset: int, waiter: Waiter) -> None:
        """Its last record is the one before `end_offset`."""
        self._order += 1
        heap = self._for_leader if waiter.waits_for == "leader" else self._for_majority
        heappush(heap, (end_offset, self._order, waiter))
        self.expiry = min(self.expiry, waiter.deadline)

    def answer(
        self, *, hwm: int, leader_flushed: int, flushed: Mapping[int, int], log_start_offset: int
    ) -> None:
        """Answer whoever has waited long enough. flushed: of each voter, the end that it is known to have."""
        if self._for_majority and self._for_majority[0][0] <= hwm:
            self._answer(self._for_majority, hwm, "majority", flushed, log_start_offset)
        if self._for_leader and self._for_leader[0][0] <= hwm:
            self._answer(self._for_leader, hwm, "majority", flushed, log_start_offset)
        if self._for_leader and self._for_leader[0][0] <= leader_flushed:
            before = len(self._for_leader)
            self._answer(self._for_leader, leader_flushed, "leader", flushed, log_start_offset)
            self.leader_acks_count += before - len(self._for_leader)

    def _answer(
        self,
        heap: list[_Entry],
        end_max: int,
        waited: Waited,
        flushed: Mapping[int, int],
        log_start_offset: int,
    ) -> None:
        holders = _Holders(flushed)
        while heap and heap[0][0] <= end_max:
            end_offset, _, waiter = heappop(heap)
            self._counters.acknowledged_records += end_offset - waiter.base_offset
            waiter.answer(
                ProduceResult(
                    codes.NONE,
                    waiter.base_offset,
                    waiter.append_time_ms,
                    log_start_offset=log_start_offset,
                    generation=waiter.generation,
                    flushed_by=holders.of(end_offset),
                    waited=waited,
                )
            )

    def expire(self, now: float) -> None:
        """Answer the requests whose time is up: unknown, they may still commit (SAFETY 36)."""
        expired: list[_Entry] = []
        for heap in (self._for_majority, self._for_leader):
            expired += [entry for entry in heap if entry[2].deadline <= now]
            heap[:] = sorted(entry for entry in heap if entry[2].deadline > now)
        self.expiry = min((entry[2].deadline for entry in self._all()), default=inf)
        for _, _, waiter in sorted(expired):
            waiter.answer(ProduceResult(codes.REQUEST_TIMED_OUT, message="not committed in time"))

    def give_up(self, reason: str) -> None:
        """Leadership ended: nobody is told "no" about a record that any log may hold (SAFETY 36)."""
        entries = sorted(self._all())
        self._for_majority, self._for_leader = [], []
        self.expiry = inf
        for _, _, waiter in entries:
            waiter.answer(ProduceResult(codes.REQUEST_TIMED_OUT, message=reason))

    def _all(self) -> list[_Entry]:
        return self._for_majority + self._for_leader


class _Holders:
    """Which voters have flushed an offset, asked with offsets that rise: a list is made once for many."""

    def __init__(self, flushed: Mapping[int, int]) -> None:
        self._flushed = sorted(flushed.items())
        self._nodes: tuple[int, ...] = ()
        self._right_up_to = -1

    def of(self, end_offset: int) -> tuple[int, ...]:
        if end_offset > self._right_up_to:
            self._flushed = [(node, end) for node, end in self._flushed if end >= end_offset]
            self._nodes = tuple(node for node, _ in self._flushed)
            self._right_up_to = min((end for _, end in self._flushed), default=end_offset)
        return self._nodes
