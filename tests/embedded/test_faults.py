"""Disks that fail: nothing of it is acknowledged, the outcome is told, nothing acknowledged is lost."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from rlog._core import Vfs
from rlog.embedded import writer
from rlog.embedded.log import Log, open_in
from rlog.embedded.reader import reader_of
from rlog.embedded.settings import Settings, World
from rlog.errors import CorruptLog, DataDirectoryError, ReadFailed, RlogError, StorageFailed
from rlog.moments import At
from rlog.testing.disk import Fault, MemoryDisk
from rlog.testing.system_disk import SystemDisk
from tests.embedded.kit import DIRECTORY, SMALL, open_on, values_of, world_of
from tests.embedded.test_threads import TIMEOUT_S, SlowDisk, queued, until

OPERATIONS = ["open", "pwrite", "fdatasync", "fsync", "fallocate", "rename", "fsync_dir"]


def test_after_one_eio_the_log_is_fenced_for_good(tmp_path: Path) -> None:
    """SAFETY 15: the next fdatasync would succeed; nobody may ask for it."""
    disk = SystemDisk()
    log = open_on(disk, str(tmp_path / "orders"))
    log.append(b"safe")
    disk.faults.append(Fault("fdatasync", errno.EIO, path=".log"))
    with pytest.raises(StorageFailed, match="whether this was stored is found out by reopening") as caught:
        log.append(b"lost")
    assert (caught.value.errno, caught.value.outcome) == (errno.EIO, "unknown")
    for append in (lambda: log.append(b"no"), lambda: log.append_many([b"no"])):
        with pytest.raises(StorageFailed, match="takes no more appends; this was not stored") as caught:
            append()
        assert (caught.value.errno, caught.value.outcome) == (errno.EIO, "no")
    assert list(log.values()) == [b"safe"], "what was flushed can still be read"
    with pytest.raises(StorageFailed, match="takes no more"):
        log.wait(1)
    with pytest.raises(StorageFailed, match="takes no more"):
        list(log.read(follow=True))
    log.close()
    log.close()
    with open_on(SystemDisk(), str(tmp_path / "orders")) as log:
        assert values_of(log) in ([b"safe"], [b"safe", b"lost"])


def test_those_behind_a_failing_round_are_told_that_theirs_was_not_stored() -> None:
    disk = SlowDisk()
    log = open_on(disk)
    log.append(b"safe")
    disk.hold()
    with ThreadPoolExecutor(4) as pool:
        leader = pool.submit(log.append, b"in the round")
        assert disk.begun.wait(TIMEOUT_S)
        others = [pool.submit(log.append, b"behind it") for _ in range(3)]
        until(lambda: queued(log) == 3)
        disk.faults.append(Fault("fdatasync", errno.EIO, path=".log"))
        disk.release()
        errors = [future.exception(TIMEOUT_S) for future in (leader, *others)]
    assert [getattr(error, "outcome", None) for error in errors] == ["unknown", "no", "no", "no"]
    log.close()
    disk.kill()
    assert values_of(open_on(disk)) in ([b"safe"], [b"safe", b"in the round"])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_failing_operation_acknowledges_nothing_after_it(operation: str) -> None:
    """The n-th operation of each kind fails, over rolls, meta and watermarks; then the power."""
    failures = 0
    for skip in range(40):
        disk = MemoryDisk(Random(skip))
        log = open_on(disk)
        log.append(b"first")
        disk.faults.append(Fault(operation, errno.EIO, skip=skip))
        acknowledged, refused = _append_until_refused(log)
        failures += refused is not None
        assert refused is None or refused.outcome == "unknown"
        _close_failed(log)
        disk.faults.clear()
        disk.power_cut()
        found = values_of(open_on(disk))
        assert found[: 1 + len(acknowledged)] == [b"first", *acknowledged]
        assert len(found) <= 2 + len(acknowledged)
    assert failures > 0


def _append_until_refused(log: Log, count: int = 40) -> tuple[list[bytes], StorageFailed | None]:
    acknowledged: list[bytes] = []
    for number in range(count):
        value = b"%d" % number * 300
        try:
            log.append(value)
        except StorageFailed as error:
            return acknowledged, error
        acknowledged.append(value)
    return acknowledged, None


def _close_failed(log: Log) -> None:
    """It returns, whatever the disk says."""
    try:
        log.close()
    except RlogError:
        assert log.is_closed
    log.close()


@pytest.mark.parametrize("capacity_bytes", [0, 300, 700])
def test_a_disk_that_is_full_at_the_first_opening_is_named_with_the_mend(capacity_bytes: int) -> None:
    disk = MemoryDisk(capacity_bytes=capacity_bytes)
    with pytest.raises(DataDirectoryError, match=r"/log: .*; make room on its disk$"):
        open_on(disk)
    disk.capacity_bytes = None
    with open_on(disk) as log:
        log.append(b"first")


def test_a_full_disk_refuses_and_a_new_opening_with_room_goes_on() -> None:
    disk = MemoryDisk(capacity_bytes=40_000)
    log = open_on(disk)
    acknowledged, refused = _append_until_refused(log, 1000)
    assert refused is not None
    assert refused.errno == errno.ENOSPC
    _close_failed(log)
    disk.kill()
    disk.capacity_bytes = None
    with open_on(disk) as log:
        found = values_of(log)
        assert found[: len(acknowledged)] == acknowledged
        log.append(b"goes on")


def rotten(tmp_path: Path) -> Path:
    """A log of several segments of which the first has a flipped bit."""
    world = world_of(Vfs.system())
    with open_in(tmp_path / "orders", Settings(), world) as log:
        for number in range(100):
            log.append(b"%d" % number * 100)
    segment = tmp_path / "orders/partitions/log/00000000000000000000.log"
    data = bytearray(segment.read_bytes())
    data[1000] ^= 1
    segment.write_bytes(data)
    return tmp_path / "orders"


def test_rot_names_its_offset_when_it_is_read_or_found_at_opening(tmp_path: Path) -> None:
    path = rotten(tmp_path)
    index = path / "partitions/log/00000000000000000000.index"
    with open_in(path, Settings(), world_of(Vfs.system())) as log:  # the index vouches for a sealed segment
        read = []
        with pytest.raises(CorruptLog, match=r"offset \d+ cannot be read") as caught:
            read.extend(log.values())
        bad = caught.value.offset
        assert read == [b"%d" % number * 100 for number in range(bad)], "all before it, and nothing bad"
        assert list(log.values(bad + 1)) == [b"%d" % number * 100 for number in range(bad + 1, 100)]
        assert log.append(b"next").offset == 100
    index.unlink()
    with pytest.raises(CorruptLog, match=f"It is good below offset {bad}") as caught:
        open_in(path, Settings(), world_of(Vfs.system()))
    assert caught.value.offset == bad
    targets = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
    assert not [each for each in targets if each.startswith(str(path))], "nothing stays open"


def test_an_end_that_cannot_be_proven_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    disk = MemoryDisk()
    log = open_on(disk)
    for number in range(4):
        log.append(b"%d" % number * 100)
    disk.kill()
    disk.shorten(f"{DIRECTORY}/partitions/log/00000000000000000000.log", 2000)
    with open_on(disk) as log:
        assert len(values_of(log)) == 4
        assert "nothing proves that no acknowledged record followed" in caplog.text
        log.append(b"goes on")
    caplog.clear()
    with open_on(disk) as log:
        assert len(values_of(log)) == 5
    assert caplog.text == ""


def test_settings_of_the_real_world_are_the_defaults() -> None:
    world = World.real()
    assert world.log_settings.tail_bytes_max == 0
    assert world.log_settings.segment_bytes_max > SMALL.segment_bytes_max


# ---- a system that gives no descriptor


def test_a_read_without_a_descriptor_says_so_and_goes_on_later() -> None:
    """It is no damage; and the same reader goes on where it was, from the right file."""
    disk = MemoryDisk()
    with open_on(disk) as log:
        for number in range(100):
            log.append(b"%d" % number * 100)
        reading = log.read()
        records = [next(reading)]
        reader = reader_of(log, log._store, log._vfs, start=0, end=None, follow=False)
        values = reader.values()
        disk.faults.append(Fault("open", errno.EMFILE, path=".log", times=1000))
        while reader.offset < reader._segment.end_offset:
            values += reader.values()
        for _ in range(2):
            with pytest.raises(ReadFailed, match=r"Too many open files.*raise the number") as caught:
                reader.values()
            assert (caught.value.errno, caught.value.outcome) == (errno.EMFILE, "no")
        with pytest.raises(ReadFailed):
            log.offset_at(At(0))
        log.append(b"100" * 100)
        disk.faults.clear()
        while more := reader.values():
            values += more
        assert values == [b"%d" % number * 100 for number in range(100)]
        records += reading
        assert len(records) == 100


@pytest.mark.parametrize("path", [".log", ".index", ".anchor"])
def test_deletion_without_a_descriptor_is_put_off(path: str) -> None:
    """Neither the log nor an append comes to harm, and the files go as soon as they can."""
    disk = MemoryDisk()
    with open_on(disk) as log:
        for number in range(60):
            log.append(b"%d" % number * 100)
        disk.faults.append(Fault("open", errno.EMFILE, path=path, times=1000))
        log.delete_before(50)
        assert (log.start_offset, log._store.log.base_offset) == (50, 0), "its files are still there"
        for _ in range(5):
            log.append(b"x")
        disk.faults.clear()
        for _ in range(10):
            log.append(b"x")
        assert 0 < log._store.log.base_offset <= 50
        assert len(values_of(log)) == 25


def test_retention_that_may_not_read_is_put_off(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise ReadFailed("offset 0 cannot be read: Too many open files", errno=errno.EMFILE)

    with open_on(MemoryDisk(), settings=Settings(retention_bytes=1000)) as log:
        with monkeypatch.context() as patch:
            patch.setattr(writer, "wanted_start", refuse)
            for _ in range(60):
                log.append(b"x" * 100)
        assert "what is old is not deleted yet: offset 0 cannot be read" in caplog.text
        assert log.start_offset == 0
        for _ in range(60):
            log.append(b"x" * 100)
        assert log.start_offset > 0
