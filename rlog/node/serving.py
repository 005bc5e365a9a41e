"""What the client door needs of a node and its partitions, and no more. `Node` and `Partition` fit it."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple, Protocol

from rlog.config import NodeConfig
from rlog.errors import CorruptBatch
from rlog.log.time_search import TimeStep
from rlog.node.env import Worker
from rlog.observe.counters import NodeCounters, PartitionCounters
from rlog.records import Waited

Buffer = bytes | bytearray | memoryview
Found = tuple[memoryview, int]
"""Batches that were read from disk, and their end offset."""


class ProduceOutcome(Protocol):
    """How a produce ended. error: a code of rlog.wire.kafka.codes; numbers are -1 when it is not 0.

    log_append_time: -1 too when the topic keeps the producer's timestamps. generation, flushed_by, waited: as
    `rlog.Receipt` has them.
    """

    @property
    def error(self) -> int: ...
    @property
    def base_offset(self) -> int: ...
    @property
    def log_append_time(self) -> int: ...
    @property
    def log_start_offset(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def flushed_by(self) -> tuple[int, ...]: ...
    @property
    def waited(self) -> Waited: ...
    @property
    def message(self) -> str: ...


class TimeAnswer(NamedTuple):
    """One step of a search by time. found: (offset, timestamp in ms, generation) of the record.

    None: no record below `next_offset` is late enough; the search ends where that is the high-water mark.
    """

    error: int
    found: tuple[int, int, int] | None = None
    next_offset: int = 0


class DeleteOutcome(Protocol):
    """How a deletion ended. error: a code. log_start: the first offset that is left, -1 on an error."""

    @property
    def error(self) -> int: ...
    @property
    def log_start(self) -> int: ...


class Waiter(Protocol):
    """A callback that waits for the high-water mark. Cancelling a fired or cancelled one does nothing."""

    def cancel(self) -> None: ...


class ServedPartition(Protocol):
    """Offsets are exclusive ends. `serving`: leads, and its high-water mark is exact (SAFETY 32)."""

    @property
    def leader_id(self) -> int:
        """0 when no leader is known."""

    @property
    def generation(self) -> int: ...
    @property
    def is_leader(self) -> bool: ...
    @property
    def serving(self) -> bool: ...
    @property
    def start_offset(self) -> int: ...
    @property
    def hwm(self) -> int: ...
    @property
    def voters(self) -> Sequence[int]: ...
    @property
    def counters(self) -> PartitionCounters: ...

    def in_sync(self) -> Sequence[int]: ...

    def produce(
        self, records: Buffer, *, acks: int, deadline: float, done: Callable[[ProduceOutcome], None]
    ) -> None:
        """`done` is called exactly once, perhaps before this returns. `deadline`: in loop seconds."""

    def disk_read(self, offset: int, bytes_max: int) -> Callable[[], Found | None] | None:
        """What of `read` waits for the disk, for a Worker; None where nothing does."""

    def read(
        self, offset: int, bytes_max: int | None, found: Found | None = None
    ) -> tuple[int, Sequence[Buffer], int]:
        """(error code, committed batches from the one that holds `offset`, high-water mark).

        bytes_max: at least one batch is read, however small it is; None reads none.
        found: what `disk_read` brought; without it the disk is waited for.
        """

    def time_search(self, timestamp_ms: int, start: int) -> Callable[[], TimeStep | CorruptBatch | None]:
        """What of `find_time` waits for the disk, or decompresses, for a Worker. Raises as it does."""

    def find_time(
        self, timestamp_ms: int, start: int, found: TimeStep | CorruptBatch | None = None
    ) -> TimeAnswer:
        """One step of the search for the first committed record at or past `start` that is that late.

        found: what `time_search` brought; without it all is done here.
        """

    def delete_records(self, offset: int, *, deadline: float, done: Callable[[DeleteOutcome], None]) -> None:
        """Delete what is below `offset`, -1: all that is committed. `done` and `deadline` as in `produce`."""

    def wait_hwm(self, above: int, callback: Callable[[], None]) -> Waiter:
        """`callback` is called once: when hwm > above, when leadership is lost, or when it is closed."""


class ServedEnv(Protocol):
    """As rlog.node.env.Env."""

    @property
    def random(self) -> Random: ...
    @property
    def reads(self) -> Worker: ...
    @property
    def searches(self) -> Worker: ...


class ServedNode(Protocol):
    @property
    def config(self) -> NodeConfig: ...
    @property
    def env(self) -> ServedEnv: ...
    @property
    def counters(self) -> NodeCounters: ...
    @property
    def partitions(self) -> Mapping[tuple[str, int], ServedPartition]: ...

    def describe(self) -> dict[str, Any]:
        """What DescribeNode answers; JSON can hold it."""
