"""Retention: which records a log's settings let go, and a clock that does not believe everything.

Two settings, each of which may ask for a higher log start; the higher one is taken:

* size: whole segments go from the front while the rest still holds `retention_bytes`;
* time: everything before the first record that is not older than `retention_ms` by its timestamp.

Only committed records go. Time retention trusts `RetentionClock`, for a wall clock that jumps ahead, or is
wrong when a machine starts, would make every record look old at once: a jump is believed only after it has
stood for an hour in which the machine was up. A clock that goes back is believed at once; it deletes less.

What is believed is kept in meta, so a process that ends and comes back neither forgets a doubt nor has to
doubt anew: since when, is known as long as the machine was not rebooted. No timestamp of a record counts as a
witness: its producer may have written anything.
"""

from typing import NamedTuple

from rlog.errors import CorruptBatch
from rlog.log.log import PartitionLog

JUMP_MS = 10 * 60_000
"""The wall clock may run ahead of the machine's uptime by this much at once: drift, small corrections."""
HOLD_MS = 60 * 60_000
"""How long a bigger jump must stand before it is believed."""
SAVE_MS = 5 * 60_000
"""How old what is kept of it may be: so a reboot that takes less than JUMP_MS - SAVE_MS raises no doubt."""


class ClockReading(NamedTuple):
    """What was believed at one moment: at `uptime_s` after the machine's start that `boot` names.

    believed_ms: milliseconds since the epoch. stood_s: for how long the wall clock has been ahead of that;
    None while it is believed. wall_ms: what it showed.
    """

    boot: str
    uptime_s: float
    believed_ms: int
    stood_s: float | None
    wall_ms: int


class RetentionClock:
    """What time retention takes for now: milliseconds since the epoch, by a wall clock that is watched.

    saved: the last reading that was kept; None when there is none. is_new: nothing was ever stored, so that
    the first reading may be believed; without this, and without a reading kept, it has to stand like a jump,
    and everything looks new meanwhile. Pure: all clocks are handed in.
    """

    def __init__(self, saved: ClockReading | None, *, is_new: bool) -> None:
        self._saved = saved
        self._is_new = is_new
        self.reading = saved

    @property
    def doubts(self) -> bool:
        """Whether the wall clock is ahead of what is believed; time retention then goes by the latter."""
        return self.reading is not None and self.reading.stood_s is not None

    def now_ms(self, wall_ms: int, boot: str, uptime_s: float) -> int:
        """The time to go by. boot, uptime_s: see `ClockReading`; the machine's sleep counts as uptime."""
        last = self.reading
        if last is None:
            last = ClockReading(boot, uptime_s, wall_ms if self._is_new else 0, None, wall_ms)
        # After a reboot it is at least the uptime; for how long the machine was off, nobody knows.
        elapsed_s = max(0.0, uptime_s - last.uptime_s) if boot == last.boot else uptime_s
        elapsed_ms = int(elapsed_s * 1000)
        believed_ms, stood_s = last.believed_ms + elapsed_ms, last.stood_s
        if wall_ms - believed_ms > JUMP_MS:
            has_jumped = stood_s is None or wall_ms - last.wall_ms - elapsed_ms > JUMP_MS
            stood_s = 0.0 if stood_s is None or has_jumped else stood_s + elapsed_s
        else:
            stood_s = None
        if stood_s is None or stood_s >= HOLD_MS / 1000:
            believed_ms, stood_s = wall_ms, None
        self.reading = ClockReading(boot, uptime_s, believed_ms, stood_s, wall_ms)
        return believed_ms

    def take_unsaved(self) -> ClockReading | None:
        """The reading, if what is kept does not say about the same; the caller keeps it."""
        new, old = self.reading, self._saved
        if new is None or (
            old is not None
            and new.boot == old.boot
            and (new.stood_s is None) == (old.stood_s is None)
            and abs(new.believed_ms - old.believed_ms) < SAVE_MS
        ):
            return None
        self._saved = new
        return new


def wanted_start(
    log: PartitionLog, hwm: int, retention_bytes: int = -1, retention_ms: int = -1, now_ms: int = 0
) -> int:
    """Where the log is to start: at or above its start, at or below `hwm`. -1: that setting sets no bound.

    A log without any timestamp is kept whole; beside others, a record without one counts as old. The work is
    bounded: one interval of the index is looked into, which is all it takes where the headers of batches are
    true; where they claim more than their records keep, the next call goes on. Raises CorruptLog, ReadFailed.
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
    start = log.start_offset
    if start >= hwm:
        return start
    try:
        step = log.search_time(timestamp_ms, start=start, end_max=hwm)
    except CorruptBatch:
        # A producer's batch that claims to be new and cannot be opened goes when its claim is old.
        return start
    return step.found[0] if step.found is not None else step.next_offset
