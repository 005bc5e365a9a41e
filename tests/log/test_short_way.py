"""The short way to disk leaves what the long way leaves, and gives way where there is more to do."""

from dataclasses import replace

import pytest

from rlog._core import Vfs
from rlog.errors import StorageFailed
from rlog.log.log import PartitionLog
from rlog.log.storage import Storage
from rlog.testing.disk import Fault, MemoryDisk
from tests.log.storage_kit import NAME, SMALL, contents, make_span, open_storage, settle

NO_TAIL = replace(SMALL, tail_bytes_max=0)


def opened() -> tuple[MemoryDisk, Storage, PartitionLog]:
    """With one span in it, so that the short way is open."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk), settings=NO_TAIL)
    log = storage.logs[NAME]
    assert log.write_through(make_span(0, 1)) is None, "there is no segment yet"
    log.append(make_span(0, 1))
    settle(storage)
    return disk, storage, log


def write_through(log: PartitionLog, size: int = 40) -> bool:
    span = make_span(log.end_offset, 1, size=size, producer=(7, 0, log.end_offset))
    writing = log.write_through(span)
    if writing is None:
        return False
    assert log.flushed_offset == span.base_offset, "not before it ran"
    writing.run()
    log.written_through(writing)
    return True


def test_both_ways_leave_the_same_files_and_tables() -> None:
    short_disk, _, short = opened()
    long_disk, long_storage, long = opened()
    assert all(write_through(short) for _ in range(5))
    for _ in range(5):
        long.append(make_span(long.end_offset, 1, producer=(7, 0, long.end_offset)))
        settle(long_storage)
    assert list(short_disk.files()) == list(long_disk.files())
    for path, _ in short_disk.files():
        assert short_disk.contents(path) == long_disk.contents(path), path
    assert short.producers == long.producers
    assert (short.end_offset, short.flushed_offset) == (long.end_offset, long.flushed_offset) == (12, 12)
    short_disk.power_cut([0] * len(short_disk.unsynced()))
    assert contents(open_storage(Vfs.of(short_disk), settings=NO_TAIL).logs[NAME]) == contents(long)


def test_it_gives_way_to_a_roll_a_cut_and_a_new_generation() -> None:
    disk, storage, log = opened()
    while write_through(log, size=300):
        assert log.end_offset < 100
    span = make_span(log.end_offset, 1, size=300)
    log.append(span)
    assert log.write_through(span) is None, "something is queued"
    settle(storage)
    assert write_through(log)
    assert log.write_through(make_span(log.end_offset, 2)) is None
    before = contents(log)
    assert write_through(log)
    log.cut(log.end_offset - 2)
    assert log.write_through(make_span(log.end_offset, 1)) is None, "the cut is not carried out"
    settle(storage)
    disk.kill()
    log = open_storage(Vfs.of(disk), settings=NO_TAIL).logs[NAME]
    assert contents(log) == before
    assert not log.suspect, "and nothing is left behind it"


def test_a_log_that_keeps_a_tail_goes_the_long_way() -> None:
    storage = open_storage(Vfs.of(MemoryDisk()))
    log = storage.logs[NAME]
    log.append(make_span(0, 1))
    settle(storage)
    assert log.write_through(make_span(2, 1)) is None


@pytest.mark.parametrize("path", [".log", "watermarks"])
def test_an_error_fences(path: str) -> None:
    disk, storage, log = opened()
    disk.faults.append(Fault("pwrite", 5, path=path))
    with pytest.raises(StorageFailed, match="write"):
        write_through(log)
    assert log.failed is not None
    assert (storage.failed is not None) == (path == "watermarks")
    assert log.write_through(make_span(log.end_offset, 1)) is None
