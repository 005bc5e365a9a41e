"""The first record at or after a moment: exact, and little work at a time.

Each segment's index knows the largest timestamp of each of its intervals (SegmentIndex), so a search goes at
once to the first interval that can hold the record, whatever the order of the timestamps is. It reads that
interval's batches, a few kilobytes or one batch, and opens the first whose header says that it has one.

It goes on to another interval only where the late record lies before the start of the search, or a header
claims more than its records keep. A producer may write any number of such headers: hence a step is one
interval, and the caller decides when to take the next.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rlog._core import find_time
from rlog.errors import CorruptBatch
from rlog.log.reader import DiskRead
from rlog.log.segment import Segment


class TimeStep(NamedTuple):
    """found: (offset, timestamp in ms), or None; then none is below `next_offset`."""

    found: tuple[int, int] | None
    next_offset: int


class Interval(NamedTuple):
    """Batches that may hold the record: from the one at `start` on, about `bytes_max`, up to `end`."""

    start: int
    bytes_max: int
    end: int


@dataclass(frozen=True, slots=True)
class TimeSearch:
    """A step, planned: it may run on any thread, as a DiskRead. batches: as they are in memory, up to `end`;
    or where they are on disk."""

    timestamp_ms: int
    start: int
    batches: list[memoryview] | DiskRead
    end: int

    def run(self) -> TimeStep | CorruptBatch | None:
        """None where the disk does not give them. CorruptBatch: as `search_interval` raises it."""
        batches, end = self.batches, self.end
        if isinstance(batches, DiskRead):
            read = batches.run()
            if read is None:
                return None
            batches, end = [read[0]], read[1]
        try:
            for view in batches:
                found = find_time(view, self.timestamp_ms, start=self.start)
                if found is not None:
                    return TimeStep(found, found[0])
        except CorruptBatch as error:
            return error
        return TimeStep(None, end)


def next_interval(segments: list[Segment], timestamp_ms: int, start: int, end_max: int) -> Interval | None:
    """The first interval of the index that can hold a record in [start, end_max) that is late enough.

    segments: from the one that holds `start` on. `end_max` is a batch boundary.
    """
    for segment in segments:
        if max(start, segment.base_offset) >= end_max:
            break
        interval = segment.index.find_time(timestamp_ms, start)
        if interval is None:
            continue
        offset, position, next_offset, next_position = interval
        end = min(segment.end_offset if next_offset is None else next_offset, end_max)
        size = (segment.fill if next_position is None else next_position) - position
        return Interval(max(offset, start), size, end)
    return None


def search_interval(
    walk: Callable[[int, int, int], Iterator[tuple[memoryview, int]]],
    segments: list[Segment],
    timestamp_ms: int,
    start: int,
    end_max: int,
) -> TimeStep:
    """Look for the first record in [start, end_max) with that timestamp or a later one, in one interval.

    walk: reads the log, as `Reader.walk`. segments, end_max: as in `next_interval`. Raises what `walk` does,
    and CorruptBatch for a batch whose records do not parse, or decompress to too much: it was produced so.
    """
    interval = next_interval(segments, timestamp_ms, start, end_max)
    if interval is None:
        return TimeStep(None, end_max)
    for batches, _ in walk(*interval):
        found = find_time(batches, timestamp_ms, start=start)
        if found is not None:
            return TimeStep(found, found[0])
    return TimeStep(None, interval.end)
