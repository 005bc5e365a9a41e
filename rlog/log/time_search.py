"""The first record at or after a moment: exact, and little work at a time.

Each segment's index knows the largest timestamp of each of its intervals (SegmentIndex), so a search goes at
once to the first interval that can hold the record, whatever the order of the timestamps is. It reads that
interval's batches, a few kilobytes or one batch, and opens the first whose header says that it has one.

It goes on to another interval only where the late record lies before the start of the search, or a header
claims more than its records keep. A producer may write any number of such headers: hence a step is one
interval, and the caller decides when to take the next.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from rlog._core import find_time
from rlog.log.segment import Segment


class TimeStep(NamedTuple):
    """found: (offset, timestamp in ms), or None; then none is below `next_offset`."""

    found: tuple[int, int] | None
    next_offset: int


def search_interval(
    walk: Callable[[int, int, int], Iterator[tuple[memoryview, int]]],
    segments: list[Segment],
    timestamp_ms: int,
    start: int,
    end_max: int,
) -> TimeStep:
    """Look for the first record in [start, end_max) with that timestamp or a later one, in one interval.

    walk: reads the log, as `Reader.walk`. segments: from the one that holds `start` on. `end_max` is a
    batch boundary. Raises what `walk` does, and CorruptBatch for a batch whose records do not parse, or
    decompress to too much: it was produced so.
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
        for batches, _ in walk(max(offset, start), size, end):
            found = find_time(batches, timestamp_ms, start=start)
            if found is not None:
                return TimeStep(found, found[0])
        return TimeStep(None, end)
    return TimeStep(None, end_max)
