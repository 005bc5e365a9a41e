"""Stress the wake-up between the event loop and the disk threads: `python -m benchmarks.flusher_stress`.

A lost wake-up is a stall that nobody sees in a short run, because the next completion heals it. So the number
of lanes (files with one job in flight each) changes between one, where nothing heals, and many, where all
interleavings meet; a lane's next job is submitted at once, in the next turn of the loop, or after a pause.
Half of the jobs fdatasync; the others only write to the page cache, so that a slow disk cannot explain their
stalls. Ends with 1 when a stall of the others was longer than --stall-ms.
"""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import perf_counter

import click
import uvloop

from rlog._core import DiskJob, File, Vfs
from rlog.node.production import PoolExecutor

LANES = (1, 2, 8)
PAUSE_MAX_S = 0.003
PHASE_S = 2.0
WRITE_BYTES = 512


@dataclass(slots=True)
class Longest:
    """Milliseconds from submitting a job to its callback: the longest, and how many there were."""

    jobs: int = 0
    longest_ms: float = 0.0

    def note(self, seconds: float) -> None:
        self.jobs += 1
        self.longest_ms = max(self.longest_ms, seconds * 1000)


class Lane:
    """One file with one job in flight, until the phase ends."""

    def __init__(self, stress: "Stress", file: File, *, flushes: bool) -> None:
        self._stress = stress
        self._file = file
        self._flushes = flushes
        self._submitted_s = 0.0
        self.ended: asyncio.Future[None] = stress.loop.create_future()

    def submit(self) -> None:
        job = DiskJob(self._stress.vfs)
        job.write(self._file, 0, [self._stress.data])
        if self._flushes:
            job.fdatasync(self._file)
        self._submitted_s = perf_counter()  # loop.time() has a grain of a millisecond
        self._stress.pool.submit(job, self._done)

    def _done(self, job: DiskJob) -> None:
        stress = self._stress
        assert job.error == 0, job.error_operation
        now = perf_counter()
        (stress.flushed if self._flushes else stress.written).note(now - self._submitted_s)
        if now >= stress.phase_end_s:
            self.ended.set_result(None)
            return
        choice = stress.random.random()
        if choice < 0.4:
            self.submit()
        elif choice < 0.7:
            stress.loop.call_soon(self.submit)
        else:
            stress.loop.call_later(stress.random.random() * PAUSE_MAX_S, self.submit)


class Stress:
    """Runs phases of lanes on the running loop."""

    def __init__(self, directory: Path, *, threads: int, seed: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.vfs = Vfs.system()
        self.random = Random(seed)
        self.data = os.urandom(WRITE_BYTES)
        self.pool = PoolExecutor(self.loop, threads=threads, queued_jobs_max=max(LANES))
        self.flushed, self.written = Longest(), Longest()
        self.phase_end_s = 0.0
        self._paths = [str(directory / f"lane-{number}") for number in range(max(LANES))]

    async def run(self, seconds: float) -> None:
        """Raises TimeoutError when a job never completes."""
        files = [File(self.vfs, path) for path in self._paths]
        for file in files:
            job = DiskJob(self.vfs)
            job.create(file)
            job.run()
        end_s = perf_counter() + seconds
        phase = 0
        while perf_counter() < end_s:
            self.phase_end_s = min(end_s, perf_counter() + PHASE_S)
            count = LANES[phase % len(LANES)]
            lanes = [
                Lane(self, file, flushes=(number + phase // len(LANES)) % 2 == 0)
                for number, file in enumerate(files[:count])
            ]
            for lane in lanes:
                lane.submit()
            async with asyncio.timeout(PHASE_S + 60):
                await asyncio.gather(*(lane.ended for lane in lanes))
            phase += 1
        self.pool.close()


@contextmanager
def place(data: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rlog-stress-", dir=data) as name:
        yield Path(name)


@click.command()
@click.option("--seconds", default=10.0, show_default=True, help="600 for the long run.")
@click.option("--threads", default=2, show_default=True)
@click.option("--data", default="/var/tmp", show_default=True, help="Where to write.")
@click.option("--seed", default=1, show_default=True)
@click.option("--stall-ms", default=1000.0, show_default=True, help="A longer stall without a flush fails.")
def main(seconds: float, threads: int, data: str, seed: int, stall_ms: float) -> None:
    """Submit jobs to the disk threads in every rhythm; print the longest time until a completion arrived."""

    async def stressed(directory: Path) -> Stress:
        stress = Stress(directory, threads=threads, seed=seed)
        await stress.run(seconds)
        return stress

    with place(data) as directory, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stress = runner.run(stressed(directory))
    for name, longest in (("write", stress.written), ("write+fdatasync", stress.flushed)):
        click.echo(f"{name}: {longest.jobs:,} jobs in {seconds:g} s, longest {longest.longest_ms:.1f} ms")
    if stress.written.longest_ms > stall_ms:
        click.echo(f"STALL: longer than {stall_ms:g} ms", err=True)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
