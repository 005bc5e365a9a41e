"""Retention: which records a log's settings let go, and a clock that does not believe everything.

Two settings, each of which may ask for a higher log start; the higher one is taken:

* size: whole segments go from the front while the rest still holds `retention_bytes`;
* time: everything before the first record that is not older than `retention_ms` by its timestamp.

Only committed records go. Time retention trusts `RetentionClock`, for a wall clock that jumps ahead, or is
wrong when a machine starts, would make every record look old at once: a jump is believed only after it has
stood for an hour of monotonic time. A clock that goes back is believed at once; it deletes less.
"""

from rlog.errors import CorruptBatch
from rlog.log.log import PartitionLog
from rlog.log.time_search import TimeStep

JUMP_MS = 10 * 60_000
"""The wall clock may run ahead of the monotonic one by this much at once: drift, small corrections."""
HOLD_MS = 60 * 60_000
"""How long a bigger jump must stand before it is believed."""
STEPS_MAX = 64
"""Intervals of the index that one call may look into."""


class RetentionClock:
    """What time retention takes for now: milliseconds since the epoch, by a wall clock that is watched.

    newest_ms: the timestamp of the newest record at start, -1 when there is none: a wall clock that is far
    ahead of it may be wrong, or the node may have been off for long. Pure: both clocks are handed in.
    """

    def __init__(self, newest_ms: int) -> None:
        self._believed_ms = newest_ms  # as of `_read_at`; -1: nothing to compare the first reading with
        self._read_at: float | None = None
        self._doubted_since: float | None = None
        self._doubted_ms = 0  # what the wall clock showed as of `_read_at`, while it is doubted

    @property
    def doubts(self) -> bool:
        """Whether the wall clock is ahead of what is believed; time retention then goes by the latter."""
        return self._doubted_since is not None

    def now_ms(self, wall_ms: int, monotonic_s: float) -> int:
        """The time to go by. monotonic_s: of a clock that never jumps, in seconds."""
        elapsed_s = 0.0 if self._read_at is None else monotonic_s - self._read_at
        expected_ms = self._believed_ms + int(elapsed_s * 1000)
        self._read_at = monotonic_s
        if self._believed_ms < 0 or wall_ms - expected_ms <= JUMP_MS:
            self._doubted_since = None
            self._believed_ms = wall_ms
            return wall_ms
        if self._doubted_since is None or wall_ms - self._doubted_ms - int(elapsed_s * 1000) > JUMP_MS:
            self._doubted_since = monotonic_s  # another jump: this one has not stood yet
        self._doubted_ms = wall_ms
        if monotonic_s - self._doubted_since >= HOLD_MS / 1000:
            self._doubted_since = None
            expected_ms = wall_ms
        self._believed_ms = expected_ms
        return expected_ms


def wanted_start(
    log: PartitionLog, hwm: int, retention_bytes: int = -1, retention_ms: int = -1, now_ms: int = 0
) -> int:
    """Where the log is to start: at or above its start, at or below `hwm`. -1: that setting sets no bound.

    A log without any timestamp is kept whole; beside others, a record without one counts as old. The work is
    bounded: what is left to do is done by the next call. Raises CorruptLog.
    """
    start = log.start_offset
    if retention_bytes >= 0:
        # A segment that holds a fourth of what is to be kept is ended, so that what is kept stays near it.
        log.end_segment(retention_bytes // 4)
        start = max(start, log.start_keeping(retention_bytes))
    if retention_ms >= 0 and log.newest_timestamp_ms >= 0:
        start = max(start, _first_since(log, now_ms - retention_ms, hwm))
    return min(start, hwm)


def _first_since(log: PartitionLog, timestamp_ms: int, hwm: int) -> int:
    """Below the offset returned no record has that timestamp or a later one."""
    step = TimeStep(None, log.start_offset)
    try:
        for _ in range(STEPS_MAX):
            if step.found is not None or step.next_offset >= hwm:
                break
            step = log.search_time(timestamp_ms, start=step.next_offset, end_max=hwm)
    except CorruptBatch:
        # A producer's batch that claims to be new and cannot be opened goes when its claim is old.
        return step.next_offset
    return step.found[0] if step.found is not None else step.next_offset
