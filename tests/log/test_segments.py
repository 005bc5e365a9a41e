"""Segments: rolling, indexes, reading by offset from memory and from disk, and cuts across them."""

from pathlib import Path

import pytest

from rlog._core import DiskJob, File, SegmentIndex, SpanBuilder, Vfs, iterate_batches
from rlog.log.log import PartitionLog
from rlog.log.segment import TEMPORARY, segment_name
from rlog.log.settings import LogSettings
from rlog.log.storage import Storage, partition_digest
from rlog.testing.disk import MemoryDisk
from tests.log.storage_kit import NAME, SMALL, contents, make_span, open_storage, rebuilt_producers, settle


def filled(storage: Storage, *, segments: int = 4, size: int = 300) -> PartitionLog:
    """A log of several segments, generations and producers, everything flushed."""
    log = storage.logs[NAME]
    while len(log._segments) < segments or log._segments[-1].fill < 2000:
        end = log.end_offset
        producer = (end % 3, 0, end)
        log.append(make_span(end, 1 + end // 10, batches=1 + end % 3, size=size, producer=producer))
        settle(storage)
    return log


def test_segments_double_up_to_the_maximum() -> None:
    storage = open_storage(Vfs.of(MemoryDisk()))
    log = filled(storage, segments=5)
    assert [segment.length for segment in log._segments] == [4096, 8192, 16384, 16384, 16384]


def test_a_span_bigger_than_a_segment_gets_one_that_is_big_enough() -> None:
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    log.append(make_span(0, 1))
    settle(storage)
    log.append(make_span(2, 1, batches=5, size=8000))
    settle(storage)
    log.append(make_span(12, 1))
    settle(storage)
    assert [segment.length for segment in log._segments] == [4096, 131072]
    written = contents(log)
    disk.power_cut()
    recovered = open_storage(Vfs.of(disk)).logs[NAME]
    assert (contents(recovered), recovered.suspect) == (written, False)


def test_an_empty_segment_that_is_too_small_is_replaced() -> None:
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    log.append(make_span(0, 1))
    settle(storage)
    log.cut(0)
    log.append(make_span(0, 2, size=9000))
    settle(storage)
    assert [(segment.base_offset, segment.length) for segment in log._segments] == [(0, 32768)]
    written = contents(log)
    disk.power_cut()
    assert contents(open_storage(Vfs.of(disk)).logs[NAME]) == written


def test_a_file_that_a_crash_left_behind_shows_none_of_its_bytes() -> None:
    """SAFETY 53: old batches of the same sizes, offsets and generation lie where the next segment goes."""
    disk = MemoryDisk()
    vfs = Vfs.of(disk)
    storage = open_storage(vfs)
    log = storage.logs[NAME]
    sizes = {"records": 2, "size": 1500}
    log.append(make_span(0, 1, **sizes))
    settle(storage)
    base = log.end_offset
    left_over = File(vfs, f"{log._directory}/{segment_name(base)}{TEMPORARY}")
    job = DiskJob(vfs)
    job.create(left_over)
    job.write(left_over, 0, [make_span(base + 2 * n, 1, seed=9, **sizes) for n in range(2)])
    job.fsync(left_over)
    job.fsync_dir(log._directory)
    job.run()
    assert job.error == 0
    log.append(make_span(base, 1, **sizes))
    settle(storage)
    assert [segment.base_offset for segment in log._segments] == [0, base]
    written = contents(log)
    disk.power_cut()
    recovered = open_storage(Vfs.of(disk)).logs[NAME]
    assert (recovered.end_offset, contents(recovered)) == (base + 2, written)


def test_reads_from_disk_equal_reads_from_memory() -> None:
    disk = MemoryDisk()
    big = LogSettings(4096, 16384, tail_bytes_max=1 << 20, index_interval_bytes=256, round_bytes_max=4096)
    memory = filled(open_storage(Vfs.of(disk), settings=big))
    disk.kill()
    small = open_storage(Vfs.of(disk)).logs[NAME]
    ends = [info.last_offset + 1 for info in iterate_batches(contents(memory))]
    for start in range(memory.end_offset):
        for bytes_max in (1, 700, 5000):
            for end_max in (start + 1, ends[len(ends) // 2], memory.end_offset):
                one = memory.read(start, bytes_max=bytes_max, end_max=end_max)
                end = memory.boundary(start, bytes_max=bytes_max, end_max=end_max)
                other = small.read(start, bytes_max=bytes_max, end_max=end_max)
                reached = small.boundary(start, bytes_max=bytes_max, end_max=end_max)
                data, found = b"".join(one), b"".join(other)
                assert data.startswith(found)
                assert found or not data
                if found:
                    infos = iterate_batches(found)
                    assert infos[0].base_offset <= start <= infos[0].last_offset
                    assert reached == infos[-1].last_offset + 1 <= end_max
                    assert len(found) <= bytes_max or len(infos) == 1
                else:
                    assert (end, reached) == (start, start)


def test_a_boundary_stays_in_one_generation_when_asked() -> None:
    storage = open_storage(Vfs.of(MemoryDisk()))
    log = filled(storage)
    for generation, start in log.generations.entries():
        end = log.boundary(start, bytes_max=1 << 20, end_max=1 << 40, one_generation=True)
        assert {log.generations.at(offset) for offset in range(start, end)} == {generation}
        assert end == log.generations.run_end(start, log.end_offset)


def test_the_memory_tail_is_bounded_and_holds_what_is_not_flushed() -> None:
    storage = open_storage(Vfs.of(MemoryDisk()))
    log = storage.logs[NAME]
    log.append(make_span(0, 1))
    settle(storage)
    for _ in range(60):
        log.append(make_span(log.end_offset, 1, size=100))
    assert log._tail.size > 4 * SMALL.tail_bytes_max
    before = contents(log)
    settle(storage)
    assert log._tail.size <= SMALL.tail_bytes_max
    assert contents(log) == before


@pytest.mark.parametrize("restart", [False, True])
def test_after_a_cut_every_derived_structure_equals_its_rebuild(restart: bool) -> None:
    """SAFETY 13, also across segments, and after a restart that loaded the producer table from an index."""
    scratch = MemoryDisk()
    infos = iterate_batches(contents(filled(open_storage(Vfs.of(scratch)))))
    for info in infos[1::4]:
        disk = MemoryDisk()
        storage = open_storage(Vfs.of(disk))
        log = filled(storage)
        if restart:
            disk.kill()
            storage = open_storage(Vfs.of(disk))
            log = storage.logs[NAME]
        whole = contents(log)
        log.cut(info.base_offset)
        assert contents(log) == whole[: info.position]
        kept = [each for each in infos if each.base_offset < info.base_offset]
        assert log.producers == rebuilt_producers(kept)
        assert log.last_generation == kept[-1].generation
        log.append(make_span(info.base_offset, 99))
        settle(storage)
        after = contents(log)
        disk.power_cut()
        recovered = open_storage(Vfs.of(disk)).logs[NAME]
        assert (contents(recovered), recovered.damage, recovered.suspect) == (after, None, False)
        assert recovered.producers == log.producers


@pytest.mark.parametrize("finished_by_recovery", [False, True])
def test_a_full_segment_that_was_cut_back_into_forgets_its_index(finished_by_recovery: bool) -> None:
    """SAFETY 14: index files are not synced; the one of before the cut must not come back."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    for offset in range(0, 10, 2):
        log.append(make_span(offset, 1, size=400))
        settle(storage)
    assert [segment.base_offset for segment in log._segments] == [0, 8]
    disk.power_cut([count - 1 for count in disk.unsynced()])
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    log.cut(2)
    if finished_by_recovery:
        storage.meta.flush()
        disk.power_cut()
        storage = open_storage(Vfs.of(disk))
        log = storage.logs[NAME]
    for offset, size in ((2, 100), (4, 200), (6, 1100), (8, 400)):
        log.append(make_span(offset, 2, size=size))
        settle(storage)
    assert [segment.base_offset for segment in log._segments] == [0, 8]
    written = contents(log)
    disk.power_cut([0] * len(disk.unsynced()))
    recovered = open_storage(Vfs.of(disk)).logs[NAME]
    for start in range(10):
        assert recovered.read(start, bytes_max=1, end_max=10), start
    assert contents(recovered) == written


def test_only_one_full_segment_is_open_at_a_time() -> None:
    log = filled(open_storage(Vfs.of(MemoryDisk())), segments=5)
    contents(log)
    for start in (0, 30, 10, log.end_offset - 1):
        log.read(start, bytes_max=1, end_max=1 << 40)
        assert sum(segment.file.is_open for segment in log._segments) <= 2


def test_reads_while_a_job_is_under_way_leave_open_what_it_uses_and_nothing_else() -> None:
    """A job that writes, one that rolls, and one that cuts while what follows it rolls."""
    storage = open_storage(Vfs.of(MemoryDisk()))
    log = filled(storage, segments=6)
    ends = [info.last_offset + 1 for info in iterate_batches(contents(log))]

    def job_under_way(*, used: int) -> None:
        meta_job = storage.meta.flush_job()
        if meta_job is not None:
            meta_job.run()
            storage.meta.flush_done(meta_job)
        job = log.flush_job()
        assert job is not None
        if log._pending_cut is not None:
            log.append(make_span(log.end_offset, 99, size=9000))
        for segment in log._segments[:-2]:
            log.read(segment.base_offset, bytes_max=1, end_max=1 << 40)
            assert sum(segment.file.is_open for segment in log._segments) <= 2
        assert log._segments[used].file.is_open
        job.run()
        log.flush_done(job)  # raises what the job failed of
        settle(storage)

    log.append(make_span(log.end_offset, 98))
    job_under_way(used=-1)
    log.append(make_span(log.end_offset, 98, size=9000))
    assert not log._segments[-1].created
    job_under_way(used=-2)
    log.cut(next(end for end in ends if end > log._segments[4].base_offset))
    job_under_way(used=-2)


def test_equal_logs_in_different_segments_have_equal_digests(tmp_path: Path) -> None:
    digests = set()
    for number, size in enumerate((1 << 12, 1 << 14)):
        directory = str(tmp_path / str(number))
        settings = LogSettings(segment_bytes_min=size, segment_bytes_max=1 << 14)
        storage = open_storage(Vfs.system(), directory, settings=settings)
        for _ in range(40):
            storage.logs[NAME].append(make_span(storage.logs[NAME].end_offset, 1, size=200))
            settle(storage)
        storage.close()
        digests.add(partition_digest(directory, NAME, 60))
        assert partition_digest(directory, NAME, 80) not in digests
    assert len(digests) == 1


def test_an_index_finds_the_last_noted_batch_at_or_below_an_offset() -> None:
    span = make_span(100, 1, batches=50, size=20)
    index = SegmentIndex(300)
    index.add(span, 1000)
    infos = iterate_batches(span)
    for info in infos:
        for offset in range(info.base_offset, info.last_offset + 1):
            found = index.find(offset)
            assert found is not None
            assert found[0] <= offset
            assert (found[0], found[1] - 1000) in [(each.base_offset, each.position) for each in infos]
            assert info.position - (found[1] - 1000) < 300 + info.size
    assert index.find(99) is None
    again = SegmentIndex.from_bytes(index.to_bytes(), 300)
    assert [again.find(offset) for offset in range(90, 210)] == [
        index.find(offset) for offset in range(90, 210)
    ]
    cut = infos[20].base_offset
    seam = index.seam(cut)
    assert seam == again.find(cut - 1), "its interval reaches over the cut"
    index.cut(cut)
    assert index.find(1 << 40) == again.find(seam[0] - 1)


@pytest.mark.parametrize("data", [b"x" * 23, bytes(48), (5).to_bytes(8) * 6])
def test_an_index_of_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not"):
        SegmentIndex.from_bytes(data)


def test_rounds_are_bounded_even_when_one_span_is_not() -> None:
    """Recovery relies on it: what lies more than a round further on is of a later round (SAFETY 19)."""
    storage = open_storage(Vfs.of(MemoryDisk()))
    log = storage.logs[NAME]
    log.append(make_span(0, 1, batches=30, size=300))
    log.append(make_span(60, 1, batches=1, size=6000))
    log.append(make_span(62, 1))
    settle_meta = storage.meta.flush_job()
    assert settle_meta is not None
    settle_meta.run()
    storage.meta.flush_done(settle_meta)
    rounds = []
    while (job := log.flush_job()) is not None:
        job.run()
        log.flush_done(job)
        rounds.append(job.tag.size)
    assert max(rounds[:-2]) <= SMALL.round_bytes_max
    assert rounds[-2] == make_span(60, 1, batches=1, size=6000).size
    assert log.flushed_offset == 64
    assert log.queued_bytes == 0


def test_a_start_entry_is_a_batch_like_any_other() -> None:
    storage = open_storage(Vfs.of(MemoryDisk()))
    log = storage.logs[NAME]
    builder = SpanBuilder(0, 3)
    builder.add_start(1_700_000_000_000)
    log.append(builder.build())
    settle(storage)
    assert (log.end_offset, log.generations.entries(), len(log.producers)) == (1, [(3, 0)], 0)
