"""The first record at or after a moment: native code and log against reading every record."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlog._core import SegmentIndex, Span, SpanBuilder, Vfs, check_client_batches, find_time
from rlog.errors import CorruptBatch, CorruptLog
from rlog.log import format as reference
from rlog.log.log import PartitionLog
from rlog.log.segment import decode_index, index_name
from rlog.records import Record
from rlog.testing.disk import MemoryDisk
from tests.log.storage_kit import (
    NAME,
    SMALL,
    check_indexes,
    contents,
    find,
    first_at,
    make_span,
    open_storage,
    settle,
)

TIMES = st.one_of(st.integers(-3, 12), st.integers(-(2**63), 2**63 - 1))
CODECS = st.sampled_from(["none", "gzip", "lz4", "snappy", "zstd"])
BATCHES = st.lists(
    st.tuples(st.lists(TIMES, min_size=1, max_size=5), CODECS, st.sampled_from([-1, -1, 7])),
    min_size=1,
    max_size=5,
)


def log_of(batches: list[tuple[list[int], str, int]], base: int = 40) -> bytes:
    """By the reference codec: batches of records with these times; the third is an append time or -1."""
    data = reference.start_batch(base, 3, 11)
    offset = base + 1
    for times, codec, append_time in batches:
        records = [Record("", 0, 0, 0, time, None, bytes(40)) for time in times]
        batch = reference.stamped(reference.encode_batch(records, compression=codec), offset, 3)
        data += batch if append_time < 0 else reference.appended_at(batch, append_time)
        offset += len(times)
    return data


@given(batches=BATCHES, moment=st.integers(0, 12), start=st.integers(0, 60))
def test_the_native_search_finds_what_reading_all_finds(
    batches: list[tuple[list[int], str, int]], moment: int, start: int
) -> None:
    data = log_of(batches)
    records, _ = reference.decode_records(data)
    late = [
        (item.offset, item.timestamp_ms)
        for item in records
        if item.offset >= start and item.timestamp_ms >= moment
    ]
    assert find_time(data, moment, start=start) == (late[0] if late else None)
    assert first_at(data, moment, start) == (late[0] if late else None)


def lying(times: list[int], max_timestamp: int) -> bytes:
    """A batch whose header has another largest timestamp than its records."""
    records = [Record("", 0, 0, 0, time, None, b"v") for time in times]
    batch = reference.encode_batch(records)
    header = replace(reference.read_header(batch, 0), max_timestamp=max_timestamp)
    return reference.seal(header, batch[reference.HEADER_SIZE :])


def test_a_header_that_overstates_its_records_is_looked_through() -> None:
    data = reference.stamped(lying([1, 2], 2**62), 0, 3) + reference.stamped(lying([5, 9], 9), 2, 3)
    assert find_time(data, 6) == (3, 9)
    assert find_time(data, 10) is None


def test_records_that_do_not_parse_are_said_to_be_bad() -> None:
    good = reference.encode_batch([Record("", 0, 0, 0, 5, None, bytes(100_000))], compression="zstd")
    data = reference.stamped(good, 0, 1)
    assert find_time(data, 5) == (0, 5)
    with pytest.raises(CorruptBatch, match="decompress to more than 1000 bytes"):
        find_time(data, 5, decompressed_bytes_max=1000)
    header = reference.read_header(data, 0)
    for payload, attributes in ((bytes(50), 0), (b"not lz4", reference.LZ4)):
        bad = reference.seal(replace(header, attributes=attributes), payload)
        with pytest.raises(CorruptBatch, match="the batch at byte 0"):
            find_time(bad, 5)
        assert find_time(bad, 6) is None, "not even opened"


@given(
    spans=st.lists(st.lists(st.integers(-1, 30), min_size=1, max_size=6), min_size=1, max_size=8),
    interval_bytes=st.sampled_from([1, 200, 500, 4096]),
    data=st.data(),
)
def test_an_index_is_that_of_the_batches_below_every_cut(
    spans: list[list[int]], interval_bytes: int, data: st.DataObject
) -> None:
    index, position, told = SegmentIndex(interval_bytes), 0, []
    for times in spans:
        base = told[-1][0].end_offset if told else 0
        told.append((make_span(base, 1, batches=3, records=len(times), times_ms=times), position))
        index.add(*told[-1])
        position += told[-1][0].size
    again = SegmentIndex.from_bytes(index.to_bytes(), interval_bytes)
    assert again.to_bytes() == index.to_bytes()
    assert again.max_timestamp_ms == index.max_timestamp_ms == max(-1, *(max(times) for times in spans))
    cut = data.draw(st.integers(0, told[-1][0].end_offset).filter(lambda at: is_boundary(told, at)))
    seam = index.seam(cut)
    index.cut(cut)
    if seam is not None:
        for span, at in parts_between(told, seam[0], cut):
            index.add(span, at)
    rebuilt = SegmentIndex(interval_bytes)
    for span, at in parts_between(told, 0, cut):
        rebuilt.add(span, at)
    assert index.to_bytes() == rebuilt.to_bytes()
    assert index.max_timestamp_ms == rebuilt.max_timestamp_ms


def is_boundary(told: list[tuple[Span, int]], offset: int) -> bool:
    return any(
        offset in (span.base_offset, span.end_offset)
        or span.boundary(span.base_offset, 1 << 30, offset) == offset
        for span, _ in told
    )


def parts_between(told: list[tuple[Span, int]], start: int, end: int) -> list[tuple[Span, int]]:
    """The batches of [start, end), each span from where it counts, and where it lies."""
    parts = []
    for span, position in told:
        first, last = max(start, span.base_offset), min(end, span.end_offset)
        if first < last:
            skipped = len(span.slice(span.base_offset, first)) if first > span.base_offset else 0
            parts.append((Span.parse(span.slice(first, last)), position + skipped))
    return parts


def random_log(seed: int, *, rising: bool = False) -> PartitionLog:
    """Several segments; record times of 0 to 999, rising or not."""
    random = Random(seed)
    storage = open_storage(Vfs.of(MemoryDisk()))
    log = storage.logs[NAME]
    while len(log._segments) < 5:
        times = [random.randint(0, 999) for _ in range(4)]
        if rising:
            times = [log.end_offset + step for step in range(4)]
        log.append(make_span(log.end_offset, 1, batches=1, records=4, size=60, times_ms=times))
    settle(storage)
    return log


@pytest.mark.parametrize("rising", [False, True])
def test_a_log_finds_the_first_record_from_every_start(rising: bool) -> None:
    log = random_log(5, rising=rising)
    check_indexes(log, SMALL)
    data = contents(log)
    for moment in range(0, 1000, 7):
        assert find(log, moment, end_max=log.end_offset) == first_at(data, moment)
        start = 37 * moment % log.end_offset
        step = log.search_time(moment, start=start, end_max=log.end_offset)
        if step.found is None:  # one that is late enough lies before the start, in the same interval
            step = log.search_time(moment, start=step.next_offset, end_max=log.end_offset)
        assert step.found == first_at(data, moment, start)
    assert find(log, 10**6, end_max=log.end_offset) is None


def test_a_search_ends_at_the_bound_and_begins_at_the_logs_start() -> None:
    log = random_log(6, rising=True)
    assert find(log, 100, end_max=100) is None
    assert find(log, 100, end_max=104) == (100, 100)
    assert find(log, 100, end_max=1 << 60) == (100, 100)
    log.committed(log.end_offset)
    log.trim(50)  # within a batch
    assert find(log, 3, end_max=log.end_offset) == (50, 50)
    log.trim(log.end_offset)
    assert find(log, 3, end_max=log.end_offset) is None


class CountingDisk(MemoryDisk):
    """Counts what is read."""

    read_bytes = 0

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        data = super().pread(fd, length, offset)
        self.read_bytes += len(data)
        return data


def test_a_search_reads_one_interval_and_no_more() -> None:
    disk = CountingDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    while len(log._segments) < 6:
        start = log.end_offset
        log.append(make_span(start, 1, records=4, size=60, times_ms=range(start, start + 4)))
        settle(storage)
    storage.close()
    log = open_storage(Vfs.of(disk)).logs[NAME]
    batch = make_span(0, 1, records=4, size=60).size
    for moment in range(0, log.end_offset, 11):
        disk.read_bytes = 0
        assert find(log, moment, end_max=log.end_offset) == (moment, moment)
        assert 0 < disk.read_bytes <= 2 * (SMALL.index_interval_bytes + batch)
    disk.read_bytes = 0
    assert find(log, log.end_offset, end_max=log.end_offset) is None
    assert disk.read_bytes == 0, "no index says that there is one"


def test_lying_headers_cost_a_step_each_and_hide_nothing() -> None:
    log = open_storage(Vfs.of(MemoryDisk())).logs[NAME]
    for number in range(50):
        builder = SpanBuilder(log.end_offset, 1)
        sent = lying([number] * 4, 2**62)
        builder.add(sent, check_client_batches(sent, batch_bytes_max=1 << 20)[0])
        log.append(builder.build())
    steps, at = 0, 0
    while at < log.end_offset:
        found, at = log.search_time(1000, start=at, end_max=log.end_offset)
        steps += 1
        assert found is None
    assert steps == sum(len(segment.index) for segment in log._segments)
    assert find(log, 49, end_max=log.end_offset) == (196, 49)
    assert find(log, 1000, end_max=log.end_offset) is None


def test_the_index_file_holds_the_times() -> None:
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    while len(log._segments) < 3:
        log.append(make_span(log.end_offset, 1, times_ms=[log.end_offset]))
        settle(storage)
    first = log._segments[0]
    stored = decode_index(
        disk.contents(f"/data/partitions/{NAME}/{index_name(0)}"), SMALL.index_interval_bytes
    )
    assert stored is not None
    assert stored.index.to_bytes() == first.index.to_bytes()
    assert stored.index.max_timestamp_ms == first.end_offset - 2


def test_rot_under_a_search_quarantines_the_log() -> None:
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    for _ in range(40):
        log.append(make_span(log.end_offset, 1, size=100, times_ms=[log.end_offset]))
        settle(storage)
    disk.flip(f"/data/partitions/{NAME}/{0:020}.log", 8 * 100)
    with pytest.raises(CorruptLog, match="cannot be read"):
        find(log, 0, end_max=log.end_offset)
    assert log.damage is not None
