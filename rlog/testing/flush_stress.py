"""Stress of the flusher's wake-up: does a completion ever go unnoticed?

    python -m rlog.testing.flush_stress --seconds 600

A lost wake-up is a stall that no short run shows: the loop waits for the eventfd while a finished job lies
in the list. So this keeps few jobs in flight, and lets threads and loop meet in every order: empty jobs,
jobs with real writes and syncs, bursts, pauses, and drains that race with completions. When nothing is
heard of a submitted job for `stall_seconds`, it looks at the job itself: finished means a wake-up was lost.
"""

import select
import tempfile
import time
from dataclasses import dataclass, field
from random import Random

import click

from rlog._core import DiskJob, DiskPool, File, Vfs


@dataclass
class Report:
    """stalls: waits that ended by timeout although a job had finished. wait_max: seconds for one wake-up."""

    jobs: int = 0
    wake_ups: int = 0
    stalls: int = 0
    wait_max: float = 0.0
    slow_disks: int = 0
    problems: list[str] = field(default_factory=list)


def stress(
    directory: str, *, seconds: float, seed: int = 1, threads: int = 2, stall_seconds: float = 5.0
) -> Report:
    """Run for `seconds`; the report's `stalls` and `problems` must be empty."""
    random = Random(seed)
    vfs = Vfs.system()
    file = vfs.open(f"{directory}/stress", new=True)
    file.fallocate(1 << 20)
    pool = DiskPool(threads, queued_jobs_max=256)
    poll = select.poll()
    poll.register(pool.fileno(), select.POLLIN)
    report = Report()
    outstanding: dict[DiskJob, None] = {}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or outstanding:
        if time.monotonic() < deadline and len(outstanding) < 64:
            for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
                job = _job(vfs, file, random)
                pool.submit(job)
                outstanding[job] = None
        if random.random() < 0.1:
            _take(pool, outstanding, report)  # without having been woken
        if outstanding and random.random() < 0.8:
            _wait(pool, poll, outstanding, report, stall_seconds)
    pool.close()
    if pool.drain():
        report.problems.append("jobs completed that were not outstanding")
    file.close()
    return report


def _job(vfs: Vfs, file: File, random: Random) -> DiskJob:
    job = DiskJob(vfs)
    kind = random.random()
    if kind < 0.4:
        job.write(file, 4096 * random.randrange(200), [b"x" * random.choice((1, 100, 4096))])
    if kind < 0.02:
        job.fdatasync(file)
    return job


def _wait(
    pool: DiskPool, poll: select.poll, outstanding: dict[DiskJob, None], report: Report, stall_seconds: float
) -> None:
    before = time.monotonic()
    if not poll.poll(stall_seconds * 1000):
        if any(job.finished for job in outstanding):
            report.stalls += 1
        else:
            report.slow_disks += 1
    report.wake_ups += 1
    report.wait_max = max(report.wait_max, time.monotonic() - before)
    _take(pool, outstanding, report)


def _take(pool: DiskPool, outstanding: dict[DiskJob, None], report: Report) -> None:
    for job in pool.drain():
        report.jobs += 1
        if job not in outstanding or job.error or not job.finished:
            report.problems.append(f"job {report.jobs}: {job.error_operation or 'not outstanding'}")
        outstanding.pop(job, None)


@click.command()
@click.option("--seconds", default=600.0, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(seconds: float, seed: int, threads: int) -> None:
    """Exit status 0 when no wake-up was lost."""
    with tempfile.TemporaryDirectory() as directory:
        report = stress(directory, seconds=seconds, seed=seed, threads=threads)
    click.echo(
        f"jobs={report.jobs} wake_ups={report.wake_ups} stalls={report.stalls} "
        f"slow_disks={report.slow_disks} wait_max_ms={report.wait_max * 1000:.1f} problems={report.problems}"
    )
    raise SystemExit(1 if report.stalls or report.problems else 0)


if __name__ == "__main__":
    main()
