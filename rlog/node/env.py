"""The one seam between a node and its world: production and simulation differ only in the `Env`.

Time, timers, tasks, and the network come from the running asyncio loop (uvloop in production, the
virtual-time loop in simulation), by `asyncio.get_running_loop()`: `loop.time()` is the only clock used for
timeouts, `loop.create_server` / `loop.create_connection` with Protocol classes the only network. The rest is
here. Nothing in a node imports `time`, `random`, `uuid`, `socket`, `threading` or `os`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeVar

from rlog._core import DiskJob, Vfs

T = TypeVar("T")


class DiskExecutor(Protocol):
    """Runs disk jobs away from the loop; `done(job)` is called on the loop, in order of completion."""

    def submit(self, job: DiskJob, done: Callable[[DiskJob], None]) -> None: ...

    def close(self) -> None:
        """Wait for the jobs under way and stop. No `done` is called afterwards."""


class WorkerTask(Protocol):
    """What was submitted to a Worker."""

    def cancel(self) -> bool:
        """True: it had not begun and never will, and nothing is called. False: it goes on to its end."""


class Worker(Protocol):
    """Does what may take long away from the loop, a few tasks at once, in the order of asking."""

    def submit(
        self, task: Callable[[], T], done: Callable[[T], None], failed: Callable[[], None]
    ) -> WorkerTask:
        """`done(task())`, the former on the loop and never before this returns. task: shares nothing with
        the node. `failed()` instead where it raises, or cannot be begun; the error is logged.

        Whoever submits bounds how much waits: a client connection has one task at a time for each request,
        and cancels it when the connection is lost.
        """

    def close(self) -> None:
        """Wait for the tasks under way and stop. No `done` is called afterwards."""


@dataclass(frozen=True, slots=True)
class Env:
    """vfs: the file functions. disk: runs jobs. random: the only randomness (also ids, by `getrandbits`).

    reads: for what reads the disk for consumers. searches: for what decompresses batches to look into them,
    which must not hold up the reads.
    wall_clock_ms: milliseconds since the epoch, for timestamps only, never for timeouts.
    uptime: (name of this start of the machine, seconds since then), for the clock that retention goes by.
    stopwatch_s: seconds, finer than the loop's clock; for measuring only, never for timeouts.
    """

    vfs: Vfs
    disk: DiskExecutor
    reads: Worker
    searches: Worker
    random: Random
    wall_clock_ms: Callable[[], int]
    uptime: Callable[[], tuple[str, float]]
    stopwatch_s: Callable[[], float]

    def close(self) -> None:
        """When the node has stopped."""
        self.searches.close()
        self.reads.close()
        self.disk.close()
