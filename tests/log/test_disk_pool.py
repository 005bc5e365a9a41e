"""Disk jobs and the threads that run them."""

import errno
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlog._core import DiskJob, DiskPool, File, Vfs
from rlog.testing.disk import Fault, MemoryDisk
from rlog.testing.flush_stress import stress

VFS = Vfs.system()


@pytest.fixture
def pool() -> Iterator[DiskPool]:
    pool = DiskPool(2, queued_jobs_max=8)
    yield pool
    pool.close()


@pytest.fixture
def file(tmp_path: Path) -> File:
    return VFS.open(str(tmp_path / "file"), new=True)


def wait(pool: DiskPool, count: int) -> list[DiskJob]:
    """`count` completions; the eventfd must announce each."""
    done: list[DiskJob] = []
    while len(done) < count:
        readable, _, _ = select.select([pool.fileno()], [], [], 30)
        assert readable, "a completion was not announced"
        done += pool.drain()
    return done


def is_readable(pool: DiskPool) -> bool:
    return bool(select.select([pool.fileno()], [], [], 0)[0])


def test_a_job_does_its_operations_in_order_and_keeps_what_it_writes_alive(
    pool: DiskPool, file: File
) -> None:
    job = DiskJob(VFS)
    job.write(file, 0, [bytearray(b"ab"), memoryview(b"cd")])
    job.write(file, 2, [b"CDEF"])
    job.zero(file, 5, 3)
    job.fdatasync(file)
    pool.submit(job)
    assert wait(pool, 1) == [job]
    assert (job.error, job.finished, pool.pending) == (0, True, 0)
    assert file.pread(100, 0) == b"abCDE\0\0\0"


def test_more_buffers_than_one_call_takes_are_all_written(file: File) -> None:
    parts = [bytes([number % 256]) * (number % 5) for number in range(500)]
    job = DiskJob(VFS)
    job.write(file, 3, parts)
    job.run()
    assert file.pread(5000, 3) == b"".join(parts)


def test_the_first_error_stops_a_job(pool: DiskPool, file: File, tmp_path: Path) -> None:
    job = DiskJob(VFS)
    job.unlink(str(tmp_path / "absent"))
    job.write(file, 0, [b"never"])
    pool.submit(job)
    wait(pool, 1)
    assert (job.error, job.error_operation) == (errno.ENOENT, f"unlink {tmp_path}/absent")
    assert file.size() == 0


def test_steps_do_one_operation_each() -> None:
    disk = MemoryDisk()
    vfs = Vfs.of(disk)
    file = File(vfs, "/file")
    job = DiskJob(vfs)
    job.create(file)
    job.fallocate(file, 1000)
    job.fsync(file)
    seen = []
    while job.step():
        seen.append(disk.operations)
    assert (seen, disk.operations, job.finished) == ([1, 2], 3, True)
    assert not job.step()


def test_an_error_in_the_middle_of_steps_ends_them() -> None:
    disk = MemoryDisk()
    disk.faults.append(Fault("fallocate", errno.ENOSPC))
    vfs = Vfs.of(disk)
    file = File(vfs, "/file")
    job = DiskJob(vfs)
    job.create(file)
    job.fallocate(file, 1000)
    job.fsync(file)
    assert job.step()
    assert not job.step()
    assert (job.error, job.finished) == (errno.ENOSPC, True)


def test_threads_need_no_gil(pool: DiskPool, file: File) -> None:
    """This thread keeps the GIL from submit to completion: with the interval set, nothing takes it away."""
    job = DiskJob(VFS)
    job.write(file, 0, [b"x"])
    job.fdatasync(file)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        pool.submit(job)
        rounds = 0
        while not job.finished and rounds < 500_000_000:
            rounds += 1
    finally:
        sys.setswitchinterval(interval)
    assert job.finished
    assert wait(pool, 1) == [job]


def test_the_eventfd_is_readable_exactly_while_there_are_completions(pool: DiskPool) -> None:
    assert not is_readable(pool)
    for _ in range(5):
        pool.submit(DiskJob(VFS))
    wait(pool, 5)
    assert not is_readable(pool)
    assert pool.drain() == []
    pool.submit(DiskJob(VFS))
    wait(pool, 1)
    assert not is_readable(pool)


def test_a_full_queue_refuses(tmp_path: Path) -> None:
    """Forty syncs take longer than a submit, so the only thread falls behind."""
    pool = DiskPool(1, queued_jobs_max=2)
    jobs = [DiskJob(VFS) for _ in range(300)]
    accepted = 0

    def submit_all() -> None:
        nonlocal accepted
        for job in jobs:
            for _ in range(40):
                job.fsync_dir(str(tmp_path))
            pool.submit(job)
            accepted += 1

    with pytest.raises(RuntimeError, match="the disk queue is full: 2 jobs"):
        submit_all()
    assert accepted >= 2
    wait(pool, accepted)
    pool.submit(jobs[accepted])
    wait(pool, 1)
    pool.close()


def test_a_job_runs_once(pool: DiskPool) -> None:
    job = DiskJob(VFS)
    pool.submit(job)
    with pytest.raises(RuntimeError, match="runs once"):
        pool.submit(job)
    wait(pool, 1)


def test_close_finishes_what_is_queued_and_refuses_more(file: File) -> None:
    pool = DiskPool(1)
    jobs = [DiskJob(VFS) for _ in range(50)]
    for number, job in enumerate(jobs):
        job.write(file, number, [bytes([number])])
        pool.submit(job)
    pool.close()
    pool.close()
    assert pool.drain() == jobs
    assert file.pread(100, 0) == bytes(range(50))
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(DiskJob(VFS))


def test_a_short_stress_loses_no_wake_up(tmp_path: Path) -> None:
    """`python -m rlog.testing.flush_stress` is the long one."""
    report = stress(str(tmp_path), seconds=1.0, stall_seconds=2.0)
    assert (report.stalls, report.problems) == (0, [])
    assert report.jobs > 1000
