"""One simulated run: a cluster under faults and load, then healed, then looked at in every way we know.

`run(seed)` is a pure function of its arguments: the same seed gives the same trace, hence the same digest, in
any process and for any hash seed. What a run checks:

* at every step the invariants of `invariants`;
* nothing fails without being handled: no exception in a callback or task, no partition stopped or fenced;
* after all faults are mended, every partition commits within `LIVENESS_SECONDS`;
* with everything at rest, all replicas hold the same log, and the clients' histories fit it (`checker`).
"""

import asyncio
import gc
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from random import Random

from rlog.testing.checker import History, Violation, check
from rlog.testing.cluster import Cluster
from rlog.testing.faults import Faults, Profile, profile_of
from rlog.testing.invariants import Invariants
from rlog.testing.janitor import Janitor
from rlog.testing.loop import SimLoop, SimulationError, Trace
from rlog.testing.network import Network
from rlog.testing.workload import Workload

WARM_UP_SECONDS = 2.0
# Some election timeouts (1 s at most), and a client's search for the new leaders.
LIVENESS_SECONDS = 10.0
QUIET_SECONDS = 10.0
OPERATIONS_PER_SECOND_MIN = 50
# Processor seconds in which at least one handle must end: one that takes longer never will.
HANDLE_CPU_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Result:
    """What one run showed. counts: statistics by name. shortfalls: what makes the run too easy to count."""

    seed: int
    profile: str
    seconds: float
    digest: str
    counts: dict[str, int]
    violations: list[Violation] = field(default_factory=list)
    shortfalls: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.violations and not self.shortfalls


def run(
    seed: int, seconds: float = 20.0, *, nodes: int = 3, sink: Callable[[str], None] | None = None
) -> Result:
    """Run one seed for `seconds` of faults and load. sink: gets the trace, line by line."""
    profile = profile_of(seed)
    loop = SimLoop(trace=Trace(sink))
    with _undisturbed(loop, sink), _watched(loop):
        simulation = _Simulation(loop, Random(f"rlog simulation {seed}"), profile, nodes)
        simulation.run(seconds)
        return simulation.result(seed, seconds)


class _Simulation:
    def __init__(self, loop: SimLoop, random: Random, profile: Profile, nodes: int) -> None:
        self._loop = loop
        self._profile = profile
        self._history = History()
        self._invariants = Invariants(nodes, self._history)
        network = Network(loop, _fork(random), profile.network)
        self._network = network
        self._cluster = Cluster(
            network,
            _fork(random),
            self._invariants,
            count=nodes,
            topics=profile.topics,
            disk=profile.disk,
            config=profile.config,
        )
        self._workload = Workload(
            self._cluster, _fork(random), self._history, profile.topics, profile.value_bytes
        )
        self._janitor = None
        if profile.deletions is not None:
            self._janitor = Janitor(
                self._cluster, _fork(random), self._history, profile.topics, profile.deletions
            )
        self._faults = Faults(self._cluster, _fork(random), profile)
        self._invariants.listener = self._faults.moment
        self._random = _fork(random)
        self._waited: dict[str, float] = {}

    def run(self, seconds: float) -> None:
        self._loop.run_until_complete(self._main(seconds))

    async def _main(self, seconds: float) -> None:
        for node_id in self._cluster.node_ids:
            self._cluster.start(node_id)
        self._workload.start()
        if self._janitor is not None:
            self._janitor.start()
        await asyncio.sleep(WARM_UP_SECONDS)
        await self._faults.run(seconds)
        if self._random.random() < 0.5:  # what only memory knew is forgotten everywhere before the verdict
            self._faults.everything_off_and_on()
        await self._expect("liveness", self._workload.probe(), LIVENESS_SECONDS)
        if self._janitor is not None:
            self._janitor.stop()
        await self._expect("close", self._workload.stop(), LIVENESS_SECONDS)
        await self._expect("quiet", self._cluster.settle(), QUIET_SECONDS)
        self._cluster.read_back(self._history)

    async def _expect(self, what: str, awaitable: Awaitable[None], seconds: float) -> None:
        """Whatever is still not so after `seconds` without faults is stuck."""
        started = self._loop.time()
        try:
            async with asyncio.timeout(seconds):
                await awaitable
        except TimeoutError:
            self._invariants.violated(
                "stuck", "the cluster", f"no {what} within {seconds} s of the last fault"
            )
        self._waited[what] = self._loop.time() - started

    def result(self, seed: int, seconds: float) -> Result:
        """The verdict. Ends the loop: nothing can run after it."""
        self._loop.dispose()
        violations = [*self._invariants.violations, *check(self._history)]
        violations += [Violation("failure", "the cluster", text) for text in self._loop.failures]
        counts = self._counts()
        return Result(
            seed=seed,
            profile=self._profile.name,
            seconds=seconds,
            digest=self._loop.trace.digest(),
            counts=counts,
            violations=violations,
            shortfalls=_shortfalls(counts, seconds),
        )

    def _counts(self) -> dict[str, int]:
        writes, leaders = self._history.writes, self._history.leaders
        return {
            "operations": len(writes) + self._workload.sessions,
            "acknowledged": sum(write.outcome == "ok" for write in writes),
            "refused": sum(write.outcome == "no" for write in writes),
            "unknown": sum(write.outcome == "unknown" for write in writes),
            "reads": len(self._history.reads),
            "elections": len(leaders),
            "leader_changes": len(leaders) - len({led.partition for led in leaders}),
            "cuts": self._invariants.cuts,
            "deletions": sum(deletion.completed < inf for deletion in self._history.deletions),
            "trims": self._invariants.trims,
            "installs": self._invariants.installs,
            "kills": self._cluster.counts["kills"],
            "power_cuts": self._cluster.counts["power_cuts"],
            "lost_writes": self._cluster.counts["lost_writes"],
            "resets": self._network.resets,
            "faults": self._faults.counts.total(),
            "handles": self._loop.handles_run,
        }


def _shortfalls(counts: dict[str, int], seconds: float) -> list[str]:
    """What a run must have met to prove anything."""
    short = [name for name in ("leader_changes", "power_cuts") if not counts[name]]
    if counts["operations"] < OPERATIONS_PER_SECOND_MIN * seconds:
        short.append(f"operations: {counts['operations']} in {seconds:g} s")
    return [f"too little of {name}" for name in short]


def _fork(random: Random) -> Random:
    """A generator of its own for each part: one part's draws do not shift another's."""
    return Random(random.getrandbits(64))


class _TraceHandler(logging.Handler):
    """Puts the nodes' log lines into what a human reads of a trace (not into the digest)."""

    def __init__(self, loop: SimLoop) -> None:
        super().__init__()
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        self._loop.trace.remark(self._loop.time(), f"{record.levelname.lower()} {record.getMessage()}")


@contextmanager
def _undisturbed(loop: SimLoop, sink: Callable[[str], None] | None) -> Iterator[None]:
    """No garbage collection at moments of its own choosing; log lines to the trace or nowhere."""
    logger = logging.getLogger("rlog")
    before = (logger.level, logger.propagate, logger.handlers[:])
    logger.propagate = False
    logger.handlers[:] = [logging.NullHandler()] if sink is None else [_TraceHandler(loop)]
    logger.setLevel(logging.CRITICAL + 1 if sink is None else logging.DEBUG)
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
        logger.setLevel(before[0])  # which also forgets what each logger below remembers of the level
        logger.propagate = before[1]
        logger.handlers[:] = before[2]


@contextmanager
def _watched(loop: SimLoop) -> Iterator[None]:
    """Break a handle that never ends, by an error that says where it was: a failure of the run.

    A signal interrupts the main thread only; elsewhere such a run hangs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handles_before = -1

    def look(*_: object) -> None:
        nonlocal handles_before
        if loop.handles_run == handles_before:
            raise SimulationError(f"one handle took more than {HANDLE_CPU_SECONDS_MAX} s of processor time")
        handles_before = loop.handles_run

    before = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANDLE_CPU_SECONDS_MAX, HANDLE_CPU_SECONDS_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
