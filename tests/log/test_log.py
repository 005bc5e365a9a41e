"""One log on real files: append, flush, read, roll, cut, close, open."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlog._core import Vfs
from rlog.errors import DataDirectoryError, InvariantBroken
from rlog.log.storage import Storage, partition_digest, read_partition
from tests.log.storage_kit import NAME, contents, make_span, open_storage, operations, settle


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "data")


@pytest.fixture
def storage(directory: str) -> Iterator[Storage]:
    storage = open_storage(Vfs.system(), directory)
    yield storage
    storage.close()


def test_what_is_appended_is_dirty_until_its_job_is_done(storage: Storage) -> None:
    log = storage.logs[NAME]
    log.append(make_span(0, 1))
    assert (log.end_offset, log.flushed_offset, log.queued_bytes) == (2, 0, make_span(0, 1).size)
    assert log.flush_job() is None, "SAFETY 3: the start of generation 1 is not flushed in meta yet"
    settle(storage)
    assert (log.end_offset, log.flushed_offset, log.queued_bytes) == (2, 2, 0)
    assert log.generations.entries() == [(1, 0)]


def test_one_round_at_a_time_takes_everything_queued(storage: Storage) -> None:
    log = storage.logs[NAME]
    log.append(make_span(0, 1))
    settle(storage)
    log.append(make_span(2, 1))
    first = log.flush_job()
    assert first is not None
    log.append(make_span(4, 1))
    log.append(make_span(6, 1))
    assert log.flush_job() is None
    first.run()
    assert log.flush_done(first)
    assert log.flushed_offset == 4
    second = log.flush_job()
    assert second is not None
    segment = "00000000000000000000.log.tmp"
    size, before = 2 * make_span(4, 1).size, 2 * make_span(0, 1).size
    assert operations(second) == [
        f"write {segment} {before}+{size}",
        f"fdatasync {segment}",
        "write watermarks.tmp 0+44",
        "fdatasync watermarks.tmp",
    ]
    second.run()
    log.flush_done(second)
    assert log.flushed_offset == 8


def test_a_reopened_log_is_the_same(directory: str, storage: Storage) -> None:
    log = storage.logs[NAME]
    end = 0
    for generation in (1, 2, 5):
        for _ in range(20):
            log.append(make_span(end, generation, batches=2))
            end = log.end_offset
        settle(storage)
    before = contents(log), log.generations.entries()
    assert partition_digest(directory, NAME, end) == partition_digest(directory, NAME, end)
    assert b"".join(read_partition(directory, NAME, end)) == before[0]
    storage.close()
    storage = open_storage(Vfs.system(), directory)
    log = storage.logs[NAME]
    assert (log.end_offset, log.flushed_offset, log.suspect, log.damage) == (end, end, False, None)
    assert (contents(log), log.generations.entries()) == before
    assert storage.meta.incarnation == 2
    log.append(make_span(end, 5))
    settle(storage)
    assert log.flushed_offset == end + 2
    storage.close()


def test_a_cut_takes_effect_in_memory_at_once_and_on_disk_before_new_bytes(storage: Storage) -> None:
    log = storage.logs[NAME]
    for offset in range(0, 20, 2):
        log.append(make_span(offset, 1))
    settle(storage)
    log.cut(10)
    assert (log.end_offset, log.flushed_offset, log.cut_counter) == (10, 10, 1)
    log.append(make_span(10, 2))
    assert log.generations.entries() == [(1, 0), (2, 10)]
    assert log.flush_job() is None, "SAFETY 14: the cut is not flushed in meta yet"
    settle(storage)
    assert (log.end_offset, log.flushed_offset) == (12, 12)
    assert storage.meta.state.partitions[NAME].unfinished_cut is None


@pytest.mark.parametrize("offset", [4, 7, 13])
def test_a_cut_below_the_hwm_off_a_boundary_or_past_the_end_breaks_an_invariant(
    storage: Storage, offset: int
) -> None:
    log = storage.logs[NAME]
    for start in range(0, 12, 2):
        log.append(make_span(start, 1))
    log.committed(6)
    with pytest.raises(InvariantBroken):
        log.cut(offset)
    assert log.end_offset == 12


def test_a_completion_older_than_a_cut_advances_nothing(storage: Storage) -> None:
    """SAFETY 12: append A, its fsync under way, cut, append B at the same offsets, then A completes."""
    log = storage.logs[NAME]
    log.append(make_span(0, 1))
    settle(storage)
    log.append(make_span(2, 1))
    late = log.flush_job()
    assert late is not None
    log.cut(2)
    log.append(make_span(2, 2))
    late.run()
    assert not log.flush_done(late)
    assert (log.flushed_offset, log.end_offset) == (2, 4)
    settle(storage)
    assert log.flushed_offset == 4
    assert contents(log) == bytes(make_span(0, 1)) + bytes(make_span(2, 2))


def test_a_directory_in_use_is_refused(directory: str, storage: Storage) -> None:
    with pytest.raises(DataDirectoryError, match="in use"):
        open_storage(Vfs.system(), directory)


def test_a_read_of_an_old_segment_leaves_open_what_is_still_written_to(directory: str) -> None:
    """Found by simulation: the segment whose round was under way lost its file, and the log was fenced."""
    storage = open_storage(Vfs.system(), directory)  # a small tail: what is old is read from disk
    log = storage.logs[NAME]
    while len(log._segments) < 3:
        log.append(make_span(log.end_offset, 1, batches=4))
        settle(storage)
    storage.close()
    storage = open_storage(Vfs.system(), directory)
    log = storage.logs[NAME]
    log.append(make_span(log.end_offset, 1))
    under_way = log.flush_job()
    assert under_way is not None
    while len(log._segments) < 5:  # the one under way is full now, and so is one that waits for its round
        log.append(make_span(log.end_offset, 1, batches=4))
    assert log.read(0, bytes_max=1, end_max=2)
    under_way.run()
    assert log.flush_done(under_way)
    settle(storage)
    assert log.flushed_offset == log.end_offset
    storage.close()
