"""Writes and syncs that fail: nothing of that range is acknowledged, and nothing acknowledged is lost."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlog._core import DiskJob, File, Vfs
from rlog.errors import DataDirectoryError, StorageFailed
from rlog.log.storage import Storage
from rlog.testing.disk import Fault, MemoryDisk
from rlog.testing.system_disk import SystemDisk
from tests.log.storage_kit import NAME, contents, make_span, open_storage, run_one, settle

OPERATIONS = ["open", "pwrite", "fdatasync", "fsync", "fallocate", "rename", "fsync_dir"]


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "data")


def try_to_settle(storage: Storage) -> str:
    try:
        settle(storage)
    except StorageFailed as failure:
        return str(failure)
    return ""


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync"])
def test_after_one_eio_the_file_is_fenced_for_good(directory: str, operation: str) -> None:
    """SAFETY 15: the next fdatasync would succeed; nobody may ask for it."""
    disk = SystemDisk()
    storage = open_storage(Vfs.of(disk), directory)
    log = storage.logs[NAME]
    log.append(make_span(0, 1))
    settle(storage)
    disk.faults.append(Fault(operation, errno.EIO, path=".log"))
    log.append(make_span(2, 1))
    job = log.flush_job()
    assert job is not None
    job.run()
    with pytest.raises(StorageFailed, match=operation.removeprefix("p")) as raised:
        log.flush_done(job)
    assert (raised.value.errno, raised.value.outcome) == (errno.EIO, "unknown")
    assert (log.flushed_offset, log.failed) == (2, raised.value)
    assert log.flush_job() is None
    with pytest.raises(StorageFailed):
        log.append(make_span(4, 1))
    storage.close()
    log = open_storage(Vfs.system(), directory).logs[NAME]
    assert log.end_offset in (2, 4)
    assert contents(log).startswith(bytes(make_span(0, 1)))


def test_pages_that_are_clean_readable_and_lost_are_written_anew() -> None:
    """SAFETY 15, 18: a failed fdatasync leaves bytes in the page cache that no later sync writes."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    log.append(make_span(0, 1))
    settle(storage)
    disk.faults.append(Fault("fdatasync", errno.EIO, path=".log"))
    log.append(make_span(2, 1))
    assert "fdatasync" in try_to_settle(storage)
    disk.kill()
    recovered = open_storage(Vfs.of(disk)).logs[NAME]
    assert (recovered.end_offset, recovered.flushed_offset) == (4, 4), "readable, so it is kept"
    found = contents(recovered)
    disk.power_cut([0] * len(disk.unsynced()))
    assert contents(open_storage(Vfs.of(disk)).logs[NAME]) == found, "and it is on disk now"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_failing_operation_acknowledges_nothing_after_it(directory: str, operation: str) -> None:
    failures = 0
    for skip in range(6):
        path = f"{directory}{skip}"
        disk = SystemDisk()
        storage = open_storage(Vfs.of(disk), path)
        log = storage.logs[NAME]
        disk.faults.append(Fault(operation, errno.EIO, path="partitions", skip=skip))
        acked = 0
        for number in range(6):
            try:
                log.append(make_span(2 * number, 1, size=900))
                settle(storage)
            except StorageFailed:
                failures += 1
                break
            acked = log.flushed_offset
        assert log.flushed_offset == acked
        disk.faults.clear()
        flushed = contents(log)[: acked // 2 * make_span(0, 1, size=900).size]
        storage.close()
        log = open_storage(Vfs.system(), path).logs[NAME]
        assert (log.damage, log.suspect) == (None, False)
        assert contents(log).startswith(flushed)
    assert failures > 1


@pytest.mark.parametrize("copy", ["meta.a", "meta.b"])
@pytest.mark.parametrize("operation", ["pwrite", "fdatasync"])
def test_an_error_on_meta_is_final_for_the_node(directory: str, copy: str, operation: str) -> None:
    """SAFETY 52: a vote that failed to reach one copy is not given, and nothing is written afterwards."""
    disk = SystemDisk()
    storage = open_storage(Vfs.of(disk), directory)
    disk.faults.append(Fault(operation, errno.EIO, path=copy))
    sequence = storage.meta.save_vote(NAME, 4, 2)
    assert "meta" in try_to_settle(storage)
    assert storage.meta.flushed_sequence < sequence
    storage.logs[NAME].append(make_span(0, 4))
    assert not run_one(storage), "no job of a log may follow: its start record can never be flushed"
    storage.close()
    assert open_storage(Vfs.system(), directory).meta.vote(NAME) in [(0, 0), (4, 2)]


def test_a_full_disk_at_every_byte_leaves_no_gap() -> None:
    """SAFETY 16: what was acknowledged before is there, what failed was not acknowledged."""
    disk = MemoryDisk()
    open_storage(Vfs.of(disk)).close()
    used = sum(size for _, size in disk.files())
    failures = refused = 0
    for room in range(0, 14_000, 61):
        full = disk.copy()
        full.capacity_bytes = used + 2000 + room
        try:
            storage = open_storage(Vfs.of(full))
        except DataDirectoryError:
            refused += 1
            continue
        log = storage.logs[NAME]
        acked = b""
        while log.failed is None and storage.meta.failed is None and log.end_offset < 20:
            log.append(make_span(log.end_offset, 1 + log.end_offset // 8, size=400))
            if not try_to_settle(storage):
                acked = contents(log)
        failures += log.end_offset < 20
        full.power_cut()
        full.capacity_bytes = None
        log = open_storage(Vfs.of(full)).logs[NAME]
        assert (log.damage, log.suspect) == (None, False)
        assert contents(log).startswith(acked)
    assert failures > 100
    assert refused < 20


def test_a_segment_that_cannot_be_preallocated_fails_the_round(directory: str) -> None:
    disk = SystemDisk()
    storage = open_storage(Vfs.of(disk), directory)
    disk.faults.append(Fault("fallocate", errno.ENOSPC))
    storage.logs[NAME].append(make_span(0, 1))
    assert "fallocate" in try_to_settle(storage)
    assert storage.logs[NAME].flushed_offset == 0
    storage.close()
    assert open_storage(Vfs.system(), directory).logs[NAME].end_offset == 0


def test_short_writes_are_continued(directory: str) -> None:
    storage = open_storage(Vfs.of(SystemDisk(write_bytes_max=7)), directory)
    log = storage.logs[NAME]
    for offset in range(0, 8, 2):
        log.append(make_span(offset, 1))
    settle(storage)
    written = contents(log)
    storage.close()
    assert contents(open_storage(Vfs.system(), directory).logs[NAME]) == written


def test_a_write_of_nothing_counts_as_a_full_disk(tmp_path: Path) -> None:
    disk = SystemDisk(write_bytes_max=0)
    vfs = Vfs.of(disk)
    file = File(vfs, str(tmp_path / "file"))
    job = DiskJob(vfs)
    job.create(file)
    job.write(file, 0, [b"bytes"])
    job.fdatasync(file)
    job.run()
    assert (job.error, job.error_operation.split()[0]) == (errno.ENOSPC, "write")
    assert [operation for operation, _ in disk.trace] == ["open", "pwrite"]


def test_a_round_is_synced_before_its_watermark_and_before_it_completes(directory: str) -> None:
    """SAFETY 4, 5, 19: as the operating system saw it."""
    disk = SystemDisk()
    storage = open_storage(Vfs.of(disk), directory)
    log = storage.logs[NAME]
    log.append(make_span(0, 1))
    settle(storage)
    disk.trace.clear()
    log.append(make_span(2, 1, size=100))
    settle(storage)
    trace = [(operation, os.path.basename(path)) for operation, path in disk.trace]
    segment = "00000000000000000000.log.tmp"
    assert trace[:3] == [("pwrite", segment), ("fdatasync", segment), ("pwrite", "watermarks.tmp")]


def test_two_processes_cannot_open_one_directory(directory: str) -> None:
    """SAFETY 50."""
    storage = open_storage(Vfs.system(), directory)
    script = (
        "import sys; from rlog._core import Vfs; from tests.log.storage_kit import open_storage\n"
        "try: open_storage(Vfs.system(), sys.argv[1])\n"
        "except Exception as error: sys.exit(f'{type(error).__name__}: {error}')"
    )
    root = Path(__file__).parents[2]

    def start() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, directory]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)

    refused = start()
    holder = f"pid {os.getpid()} ({Path('/proc/self/comm').read_text().strip()})"
    assert refused.stderr.strip() == (
        f"DataDirectoryError: {directory} is in use by {holder}: end that, or name another directory"
    )
    storage.close()
    assert start().returncode == 0


def test_a_bug_of_a_python_target_is_raised_not_swallowed() -> None:
    class Broken(MemoryDisk):
        def fdatasync(self, fd: int) -> None:
            raise ZeroDivisionError("a bug of the target")

    storage = open_storage(Vfs.of(Broken()))
    storage.logs[NAME].append(make_span(0, 1))
    with pytest.raises(ZeroDivisionError):
        settle(storage)


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync"])
def test_an_error_on_the_watermarks_in_a_round_of_one_log_is_final_for_all(operation: str) -> None:
    """SAFETY 15: the next sync of that file succeeds, though the slots of other logs may be lost."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk), names=("orders-0", "orders-1"))
    first, second = storage.logs.values()
    disk.faults.append(Fault(operation, errno.EIO, path="watermarks"))
    first.append(make_span(0, 1))
    second.append(make_span(0, 1))
    assert "watermarks" in try_to_settle(storage)
    assert storage.failed is first.failed is not None
    assert not run_one(storage), "no round of the other log may follow"
    assert (second.flushed_offset, storage.watermark_job()) == (0, None)


def test_a_cut_whose_segment_cannot_be_opened_fences_the_log() -> None:
    """SAFETY 14, 15: tried again, it would leave segments behind that the first try meant to remove."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    for offset in range(0, 16, 2):
        log.append(make_span(offset, 1, size=400))
        settle(storage)
    assert [segment.base_offset for segment in log._segments] == [0, 8]
    log.cut(0)
    disk.faults.append(Fault("open", errno.EMFILE, path=".log"))
    assert "Too many open files" in try_to_settle(storage)
    disk.faults.clear()
    assert not run_one(storage)
    storage.close()
    disk.kill()
    recovered = open_storage(Vfs.of(disk)).logs[NAME]
    assert (recovered.end_offset, recovered.damage, recovered.suspect) == (0, None, False)
