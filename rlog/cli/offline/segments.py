"""The walk over the batches of one segment: every CRC, offset and generation; and where it breaks, why."""

import struct
import sys
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from crc32c import crc32c

from rlog._core import SegmentIndex, iterate_batches, scan_batches
from rlog.generations import GenerationTable

OFFSET_MAX = 2**63 - 1
HEADER_BYTES = 61
LENGTH_END = 12
CRC_FROM = 21
FIELDS = struct.Struct(">qiibI")  # base offset, length, generation, magic, crc
GENERATION_AT = 12
MAGIC = 2
STATISTICS_BYTES = 1 << 20
CANDIDATES_MAX = 1000
BAD_BATCHES_MAX = 16


@dataclass(slots=True)
class Bad:
    """A batch that is not good, at (position, offset): why. size: of what was skipped, in bytes."""

    position: int
    offset: int
    why: str
    size: int = 0


@dataclass(slots=True)
class Scan:
    """What one segment holds. end, end_offset: behind its last good batch. starts: where each good batch
    begins. bad: damaged batches with good ones behind them."""

    end: int = 0
    end_offset: int = 0
    starts: SegmentIndex = field(default_factory=lambda: SegmentIndex(1))
    batches: int = 0
    records: int = 0
    control_batches: int = 0
    bytes: int = 0
    timestamp_ms_max: int = -1
    bad: list[Bad] = field(default_factory=list)


def scan_segment(data: bytes, base: int, generations: GenerationTable, end_max: int) -> Scan:
    """From (0, base) to `end_max`, over damaged batches where there is a way on behind them."""
    scan = Scan(end_offset=base)
    position, offset = 0, base
    while True:
        start = position
        position, offset = _good(data, position, offset, generations, end_max, scan.starts)
        _count(data, start, position, scan)
        if position > start:
            scan.end, scan.end_offset = position, offset
        if offset >= end_max or len(scan.bad) >= BAD_BATCHES_MAX:
            return scan
        behind = _way_on(data, position, offset, generations, end_max)
        if behind is None:
            return scan
        why = why_bad(data, position, offset, generations.at(offset))
        scan.bad.append(Bad(position, offset, why, behind[0] - position))
        position, offset = behind


def _good(
    data: bytes, position: int, offset: int, generations: GenerationTable, end_max: int, starts: SegmentIndex
) -> tuple[int, int]:
    """Over good batches, run by run of the generation table; (position, offset) reached."""
    while offset < end_max and (generation := generations.at(offset)):
        run_end = min(generations.run_end(offset, OFFSET_MAX), end_max)
        position, offset = scan_batches(data, position, offset, generation, run_end, starts, None)
        if offset < run_end:
            break
    return position, offset


def _way_on(
    data: bytes, position: int, offset: int, generations: GenerationTable, end_max: int
) -> tuple[int, int] | None:
    """(position, offset) of the next good batch behind the bad one."""
    runs = [(generations.at(offset), offset), *generations.entries()]
    found = []
    for generation, start in runs[:1] + [run for run in runs[1:] if offset < run[1] < end_max]:
        mark = struct.pack(">iB", generation, MAGIC)
        place = data.find(mark, position + 1 + GENERATION_AT)
        for _ in range(CANDIDATES_MAX):
            if place < 0:
                break
            begin = place - GENERATION_AT
            behind = int.from_bytes(data[begin : begin + 8], "big", signed=True)
            is_plausible = max(offset, start - 1) < behind < end_max
            if is_plausible and _good(data, begin, behind, generations, end_max, SegmentIndex())[0] > begin:
                found.append((begin, behind))
                break
            place = data.find(mark, place + 1)
    return min(found, default=None)


def _positions(index: SegmentIndex) -> "array[int]":
    """The positions in an index, rising."""
    return array("q", (position for _, position, _ in entries_of(index)))


def entries_of(index: SegmentIndex) -> Iterator[tuple[int, int, int]]:
    """(offset, position, largest timestamp up to the next entry) of each entry."""
    numbers = array("q", index.to_bytes())
    if sys.byteorder == "little":
        numbers.byteswap()
    return zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)


def why_wrong(index: SegmentIndex, starts: SegmentIndex) -> tuple[int, str] | None:
    """(offset, what is wrong) of the first entry of `index` that is not true of the batches in `starts`."""
    batches = deque(entries_of(starts))
    entries = list(entries_of(index))
    ends = [offset for offset, _, _ in entries[1:]] + [OFFSET_MAX]
    for (offset, position, stated), end in zip(entries, ends, strict=True):
        if starts.find(offset) != (offset, position):
            return offset, f"the index says that a batch begins at byte {position}, and none does"
        latest = -1
        while batches and batches[0][0] < end:
            latest = max(latest, batches.popleft()[2])
        if latest != stated:
            what = f"the index says that the records from byte {position} on end at {stated} ms"
            return offset, f"{what}; the latest is of {latest} ms"
    return None


def _count(data: bytes, start: int, end: int, scan: Scan) -> None:
    """Add up what good batches in data[start:end] hold, so many at a time that memory stays small."""
    borders, last = [start], start
    for position in _positions(scan.starts)[scan.batches :]:
        if position - last >= STATISTICS_BYTES:
            borders.append(position)
            last = position
    view = memoryview(data)
    for first, behind in pairwise([*borders, end]):
        for batch in iterate_batches(view[first:behind], verify=False):
            scan.batches += 1
            scan.records += batch.count
            scan.control_batches += batch.is_control
            scan.timestamp_ms_max = max(scan.timestamp_ms_max, batch.max_timestamp)
    scan.bytes += end - start


def why_bad(data: bytes, position: int, offset: int, generation: int) -> str:
    """What is wrong with the batch at `position` that should have `offset` and `generation`."""
    if position + HEADER_BYTES > len(data):
        return f"the file ends {len(data) - position} bytes into the batch"
    base, length, stamped, magic, crc = FIELDS.unpack_from(data, position)
    end = position + LENGTH_END + length
    if not any(data[position : position + HEADER_BYTES]):
        return "zeros, where a batch must be"
    if base != offset:
        return f"the batch has base offset {base}, not {offset}"
    if not HEADER_BYTES - LENGTH_END <= length <= len(data) - position - LENGTH_END:
        return f"the batch has an impossible length of {length} bytes"
    if magic != MAGIC:
        return f"the batch has magic {magic}, not 2"
    if stamped != generation:
        return f"the batch has generation {stamped}; meta has {generation} for this offset"
    found = crc32c(data[position + CRC_FROM : end])
    if found != crc:
        return f"the batch's bytes have CRC {found:08x}, not {crc:08x} as its header says"
    return "the batch's header contradicts itself"
