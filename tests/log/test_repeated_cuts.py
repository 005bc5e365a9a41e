"""Cuts that follow one another before the first is on disk, and cuts of what is not on disk yet."""

import pytest

from rlog._core import Vfs
from rlog.testing.disk import MemoryDisk
from tests.log.storage_kit import NAME, contents, make_span, open_storage, settle


def recovered(disk: MemoryDisk) -> tuple[bytes, str | None, bool]:
    """The log that a process finds after a power cut that kept as little as it may."""
    disk.power_cut([0] * len(disk.unsynced()))
    log = open_storage(Vfs.of(disk)).logs[NAME]
    return contents(log), log.damage, log.suspect


@pytest.mark.parametrize("size", [300, 1000, 3000])
def test_a_second_cut_at_the_same_offset_does_not_forget_the_first(size: int) -> None:
    """SAFETY 14: what came between may have begun a new segment; the bytes to zero lie in the old one."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    for offset in range(0, 8, 2):
        log.append(make_span(offset, 1, size=300))
        settle(storage)
    kept = bytes(make_span(0, 1, size=300))
    log.cut(2)
    log.append(make_span(2, 2, size=size, batches=2))
    log.cut(2)
    settle(storage)
    assert storage.meta.state.partitions[NAME].unfinished_cut is None
    assert recovered(disk) == (kept, None, False)


def test_a_second_cut_at_a_replaced_segment_zeroes_the_one_on_disk() -> None:
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    for offset in range(0, 14, 2):
        log.append(make_span(offset, 1, size=400))
        settle(storage)
    assert [segment.base_offset for segment in log._segments] == [0, 8]
    log.cut(8)
    log.append(make_span(8, 2, size=6000))  # too big for the segment that is empty now
    log.cut(8)
    settle(storage)
    kept = b"".join(bytes(make_span(offset, 1, size=400)) for offset in range(0, 8, 2))
    assert recovered(disk) == (kept, None, False)


@pytest.mark.parametrize("settled", [False, True])
def test_an_empty_segment_to_be_replaced_is_removed_by_a_lower_cut(settled: bool) -> None:
    """SAFETY 14: else recovery finds a segment that begins past the log's end, and calls it rot."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    for offset in range(0, 14, 2):
        log.append(make_span(offset, 1, size=400))
        settle(storage)
    log.cut(8)
    if settled:
        settle(storage)
    log.append(make_span(8, 2, size=6000))
    log.append(make_span(10, 2, size=9000))
    log.cut(4)
    log.append(make_span(4, 3))
    settle(storage)
    kept = [make_span(0, 1, size=400), make_span(2, 1, size=400), make_span(4, 3, seed=0)]
    assert recovered(disk) == (b"".join(bytes(span) for span in kept), None, False)


def test_a_cut_back_to_what_is_on_disk_asks_for_no_byte_that_is_not() -> None:
    """Found by chance: the batch behind the boundary was looked for on disk, and its absence called rot."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    storage.logs[NAME].append(make_span(0, 1, size=10))
    settle(storage)
    disk.kill()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    log.append(make_span(2, 1, batches=4))
    log.cut(2)
    assert (log.damage, log.end_offset) == (None, 2)
    log.append(make_span(2, 3))
    settle(storage)
    assert recovered(disk) == (bytes(make_span(0, 1, size=10)) + bytes(make_span(2, 3)), None, False)
