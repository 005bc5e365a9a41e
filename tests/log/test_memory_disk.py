"""The simulated disk does what it says: tests that rest on it are only as good as it is."""

import errno
from collections import Counter
from random import Random

import pytest

from rlog.testing.disk import Fault, MemoryDisk


def written(disk: MemoryDisk, *, sync: bool = True) -> int:
    """A durable file /f of two sectors of `a`; returns its descriptor."""
    fd = disk.open("/f", True)
    disk.pwrite(fd, b"a" * 1024, 0)
    if sync:
        disk.fsync(fd)
        disk.fsync_dir("/")
    return fd


def outcomes(disk: MemoryDisk, tries: int = 200) -> Counter[bytes | None]:
    found: Counter[bytes | None] = Counter()
    for _ in range(tries):
        crashed = disk.copy()
        crashed.power_cut()
        found[crashed.contents("/f") if "f" in crashed.listdir("/") else None] += 1
    return found


def test_what_is_synced_survives_every_power_cut() -> None:
    disk = MemoryDisk()
    written(disk)
    assert outcomes(disk) == {b"a" * 1024: 200}


def test_unsynced_sectors_are_kept_or_lost_one_by_one() -> None:
    disk = MemoryDisk()
    fd = written(disk)
    disk.pwrite(fd, b"b" * 1024, 0)
    a, b = b"a" * 512, b"b" * 512
    assert set(outcomes(disk)) == {a + a, a + b, b + a, b + b}


def test_a_sector_is_never_torn_and_may_keep_any_version() -> None:
    disk = MemoryDisk()
    fd = written(disk)
    disk.pwrite(fd, b"bcd", 3)
    disk.pwrite(fd, b"e", 4)
    assert {data[:8] for data in outcomes(disk) if data} == {b"aaaaaaaa", b"aaabcdaa", b"aaabedaa"}


def test_a_name_is_not_durable_before_its_directory_is_synced() -> None:
    disk = MemoryDisk()
    disk.fsync(written(disk, sync=False))
    assert set(outcomes(disk)) == {None, b"a" * 1024}


def test_a_size_is_not_durable_before_a_sync() -> None:
    disk = MemoryDisk()
    fd = disk.open("/f", True)
    disk.fsync_dir("/")
    disk.fallocate(fd, 600)
    assert set(outcomes(disk)) == {b"", bytes(600)}
    disk.fdatasync(fd)
    assert set(outcomes(disk)) == {bytes(600)}


def test_a_rename_happened_or_not() -> None:
    disk = MemoryDisk()
    written(disk)
    fd = disk.open("/f.tmp", True)
    disk.pwrite(fd, b"new", 0)
    disk.fsync(fd)
    disk.fsync_dir("/")
    disk.rename("/f.tmp", "/f")
    assert disk.contents("/f") == b"new"
    assert set(outcomes(disk)) == {b"a" * 1024, b"new"}
    assert disk.listdir("/") == ["f"]


def test_an_unlink_may_be_undone_by_a_power_cut() -> None:
    disk = MemoryDisk()
    written(disk)
    disk.unlink("/f")
    assert disk.listdir("/") == []
    assert set(outcomes(disk)) == {None, b"a" * 1024}


def test_a_kill_keeps_the_page_cache_and_ends_descriptors_and_locks() -> None:
    disk = MemoryDisk()
    fd = written(disk)
    disk.pwrite(fd, b"new", 0)
    disk.lock("/lock")
    with pytest.raises(BlockingIOError):
        disk.lock("/lock")
    disk.kill()
    assert disk.contents("/f")[:3] == b"new"
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.pwrite(fd, b"x", 0)
    disk.lock("/lock")


def test_a_failed_sync_leaves_pages_clean_readable_and_lost() -> None:
    disk = MemoryDisk()
    fd = written(disk)
    disk.pwrite(fd, b"new", 0)
    disk.faults.append(Fault("fdatasync", errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        disk.fdatasync(fd)
    disk.fdatasync(fd)
    assert disk.contents("/f")[:3] == b"new"
    assert set(outcomes(disk)) == {b"a" * 1024}


def test_the_power_goes_at_the_operation_asked_for() -> None:
    disk = MemoryDisk()
    disk.cut_at = 2
    fd = disk.open("/f", True)
    disk.pwrite(fd, b"x", 0)
    for _ in range(2):
        with pytest.raises(OSError, match="power"):
            disk.fsync(fd)
    disk.power_cut()
    disk.open("/f", True)
    assert disk.operations == 3


def test_a_full_disk_writes_short_and_then_refuses() -> None:
    disk = MemoryDisk(capacity_bytes=1000)
    fd = disk.open("/f", True)
    assert disk.pwrite(fd, b"x" * 700, 0) == 700
    assert disk.pwrite(fd, b"y" * 700, 700) == 300
    with pytest.raises(OSError, match="No space"):
        disk.pwrite(fd, b"z", 1000)
    assert disk.pwrite(fd, b"z" * 1000, 0) == 1000, "inside the file there is room"
    with pytest.raises(OSError, match="No space"):
        disk.fallocate(fd, 1001)


def test_shortening_and_flipping_reach_disk_and_cache() -> None:
    disk = MemoryDisk()
    written(disk)
    disk.flip("/f", 8 * 600)
    disk.shorten("/f", 700)
    assert disk.contents("/f") == b"a" * 600 + b"`" + b"a" * 99
    disk.power_cut()
    assert disk.contents("/f") == b"a" * 600 + b"`" + b"a" * 99


def test_equal_seeds_give_equal_disks() -> None:
    def life(seed: int) -> list[bytes]:
        disk = MemoryDisk(Random(seed))
        found = []
        for number in range(20):
            fd = disk.open("/f", True)
            disk.pwrite(fd, bytes([number]) * 3000, 0)
            disk.fsync_dir("/")
            disk.power_cut()
            found.append(disk.contents("/f"))
        return found

    assert life(5) == life(5)
    assert life(5) != life(6)
