"""The time that a leader stamps, for LogAppendTime and start-of-generation entries: it never falls.

The wall clock may be set back, and the clock of the next leader may be behind that of the last. Yet a record
that follows another one gets no earlier time: so those appended after a moment are one suffix of the log, and
a consumer that starts there misses none of them. What is stamped is therefore max(wall clock, last stamp);
the last stamp is the log's own, kept in its anchor when every record is deleted, or else this leader's. So a
clock that ran an hour ahead holds the times of its partitions for an hour after it is put right: they stand
still, and do not fall.

Only where leaders stamped all along: records of the time when the topic kept its producers' timestamps say
nothing about any leader's clock.
"""

from collections.abc import Callable

from rlog.log.log import PartitionLog


class AppendClock:
    """One partition's. wall_clock_ms: milliseconds since the epoch."""

    __slots__ = ("_last_ms", "_log", "_wall_clock_ms")

    def __init__(self, log: PartitionLog, wall_clock_ms: Callable[[], int]) -> None:
        self._log = log
        self._wall_clock_ms = wall_clock_ms
        self._last_ms: int | None = None

    def forget(self) -> None:
        """Leadership began or ended: the log has the last stamp, not this replica."""
        self._last_ms = None

    def now_ms(self) -> int:
        """The time to stamp now. Raises CorruptLog or ReadFailed when the end of the log cannot be read."""
        if self._last_ms is None:
            self._last_ms = self._log.last_append_time_ms()
        self._last_ms = max(self._last_ms, self._wall_clock_ms())
        return self._last_ms
