"""Disk jobs, and tasks for other threads, in virtual time.

Of a job: one operation after each delay, so that a crash can fall between any two.

The delay of an operation is drawn before it is executed for half of them, and after it for the other half:
what a crash finds undone was not begun, or was done and not yet reported. A kill drops the timers of the dead
incarnation, so its jobs stop at the operation they had reached; the page cache stays. What a power cut does
to unsynced sectors and names is the disk's affair.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from rlog._core import DiskJob
from rlog.node.env import WorkerTask
from rlog.testing.loop import SimLoop

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """Mean seconds of an operation that waits for the disk (`sync`) and of one that does not (`write`).

    slow_chance: how many syncs, as a fraction, take up to `slow` seconds instead.
    """

    write: float = 10e-6
    sync: float = 400e-6
    slow_chance: float = 0.01
    slow: float = 0.1


class SimDiskExecutor:
    """The DiskExecutor of one incarnation."""

    def __init__(self, loop: SimLoop, random: Random, settings: DiskSettings, name: str) -> None:
        self.settings = settings
        self._stalled_until: dict[str, float] = {}  # by what the path of a file contains
        self._loop = loop
        self._random = random
        self._name = name
        self._under_way: dict[DiskJob, None] = {}
        self._closed = False

    def stall(self, seconds: float, path: str = "") -> None:
        """A disk that hangs: nothing that begins now, on files whose path contains `path`, ends earlier. 0
        seconds end every stall."""
        if seconds:
            self._stalled_until[path] = self._loop.time() + seconds
        else:
            self._stalled_until.clear()

    def submit(self, job: DiskJob, done: Callable[[DiskJob], None]) -> None:
        if self._closed:
            raise RuntimeError("the disk executor is closed")
        self._under_way[job] = None
        self._begin(job, 0, done)

    def close(self) -> None:
        """Finish the jobs under way at once, and report none of them."""
        self._closed = True
        for job in self._under_way:
            while not job.finished:
                job.step()
        self._under_way.clear()

    def _begin(self, job: DiskJob, index: int, done: Callable[[DiskJob], None]) -> None:
        delay = self._delay(job.operation(index)) if index < len(job) else 0.0
        if self._random.random() < 0.5:
            self._loop.call_later(delay, self._execute, job, index, 0.0, done)
        else:
            self._execute(job, index, delay, done)

    def _execute(self, job: DiskJob, index: int, delay: float, done: Callable[[DiskJob], None]) -> None:
        if self._closed:
            return
        more = job.step()
        if delay:
            self._loop.call_later(delay, self._executed, job, index, more, done)
        else:
            self._executed(job, index, more, done)

    def _executed(self, job: DiskJob, index: int, more: bool, done: Callable[[DiskJob], None]) -> None:
        if self._closed:
            return
        if more:
            self._begin(job, index + 1, done)
            return
        del self._under_way[job]
        self._loop.trace.add(self._loop.time(), f"disk {self._name} {len(job)} {job.error}")
        self._loop.call_soon(done, job)

    def _delay(self, operation: str) -> float:
        settings = self.settings
        if "sync" not in operation.partition(" ")[0]:
            delay = self._random.expovariate(1 / settings.write)
        elif self._random.random() < settings.slow_chance:
            delay = self._random.uniform(0, settings.slow)
        else:
            delay = self._random.expovariate(1 / settings.sync)
        stalls = (until for path, until in self._stalled_until.items() if path in operation)
        return max(delay, max(stalls, default=0.0) - self._loop.time())

    def delay_of_read(self, random: Random) -> float:
        """Seconds that a read takes, of a disk that is as slow as this one."""
        stalled_until = max(self._stalled_until.values(), default=0.0)
        return max(random.expovariate(1 / self.settings.sync), stalled_until - self._loop.time())


class _SimTask:
    """What was submitted to a SimWorker: it begins with the timer."""

    def __init__(self, loop: SimLoop, delay: float, run: Callable[[], None]) -> None:
        self._has_begun = False
        self._run = run
        self._timer = loop.call_later(delay, self._begin)

    def _begin(self) -> None:
        self._has_begun = True
        self._run()

    def cancel(self) -> bool:
        self._timer.cancel()
        return not self._has_begun


class SimWorker:
    """The Worker of one incarnation. A task is done at once, at its end, or at any moment between the two: as
    far as the loop can tell, a thread does it anywhere there. One that raises fails the simulation.
    """

    def __init__(self, loop: SimLoop, disk: SimDiskExecutor, name: str) -> None:
        self._loop = loop
        self._disk = disk
        self._random = Random(f"rlog worker {name}")
        self._name = name
        self._is_closed = False

    def submit(
        self, task: Callable[[], T], done: Callable[[T], None], failed: Callable[[], None]
    ) -> WorkerTask:
        if self._is_closed:
            raise RuntimeError("the worker is closed")
        delay = self._disk.delay_of_read(self._random)
        before = delay * self._random.choice((0.0, self._random.random(), 1.0))

        def run() -> None:
            if not self._is_closed:
                self._loop.call_later(delay - before, finish, task())

        def finish(result: T) -> None:
            if not self._is_closed:
                self._loop.trace.add(self._loop.time(), f"task {self._name}")
                done(result)

        return _SimTask(self._loop, before, run)

    def close(self) -> None:
        self._is_closed = True
