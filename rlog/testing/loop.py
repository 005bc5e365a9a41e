"""A virtual-time asyncio loop on which whole processes run, freeze and die, exactly and repeatably.

Three rules make a run a pure function of its seed:

* **Order.** Ready handles run first in, first out; timers by (deadline, sequence of scheduling). The heap of
  asyncio's own loop compares deadlines alone, so equal ones come out in an order that depends on the past.
* **Time.** The clock moves in two ways only: to the next deadline when nothing is ready, and by a small fixed
  cost for each handle run, so a loop of `sleep(0)` cannot freeze it.
* **Ownership.** Every handle belongs to the `Process` found in the context it will run in. `kill` drops the
  handles, tasks and timers of exactly one incarnation: not one more line of it runs, `finally` blocks
  included, as after SIGKILL.

What a dead process leaves (suspended coroutines, undelivered results) is kept referenced until `dispose`, so
that no destructor runs at a moment chosen by the garbage collector. Threads do not exist here: whatever would
need one is refused.
"""

import asyncio
import gc
import heapq
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from rlog.testing.network import Network

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# What running one handle costs in virtual time: the order of what a small callback costs in real time.
HANDLE_SECONDS = 2e-6
# Tracked tasks of one process are pruned of finished ones when their number doubles, from here on.
TASKS_PRUNE_MIN = 64


class SimulationError(Exception):
    """The simulated program asked for something that has no place in a simulation, or stopped moving."""


class Trace:
    """The run as a sequence of lines, kept as a digest; `sink` sees each line, for a human to read."""

    def __init__(self, sink: Callable[[str], None] | None = None) -> None:
        self._hash = blake2b(digest_size=16)
        self._sink = sink
        self.lines = 0

    def add(self, now: float, text: str) -> None:
        line = f"{now:.6f} {text}\n"
        self.lines += 1
        self._hash.update(line.encode())
        if self._sink is not None:
            self._sink(line)

    def remark(self, now: float, text: str) -> None:
        """For the human only: no part of the digest (it may hold addresses, or come from a log)."""
        if self._sink is not None:
            self._sink(f"{now:.6f}   {text}\n")

    def digest(self) -> str:
        return self._hash.hexdigest()


class Process:
    """One incarnation of one program on the host `host`: what a kill ends.

    observe: called after each of its handles; the place where invariants are checked at every step.
    """

    __slots__ = ("_prune_at", "alive", "frozen", "held", "host", "incarnation", "observe", "tasks")

    def __init__(self, host: str, incarnation: int, observe: Callable[[], None] | None = None) -> None:
        self.host = host
        self.incarnation = incarnation
        self.observe = observe
        self.alive = True
        self.frozen = False
        self.held: list[SimHandle | SimTimerHandle] = []  # what came due while frozen, in order
        self.tasks: list[asyncio.Task[Any]] = []
        self._prune_at = TASKS_PRUNE_MIN

    def __repr__(self) -> str:
        return f"{self.host}#{self.incarnation}"

    def context(self) -> Context:
        """A fresh context whose handles, tasks and sockets belong to this process."""
        context = copy_context()
        context.run(_PROCESS.set, self)
        return context

    def track(self, task: asyncio.Task[Any]) -> None:
        self.tasks.append(task)
        if len(self.tasks) >= self._prune_at:
            self.tasks = [task for task in self.tasks if not task.done()]
            self._prune_at = max(TASKS_PRUNE_MIN, 2 * len(self.tasks))


_PROCESS: ContextVar[Process | None] = ContextVar("rlog_simulated_process", default=None)


def current_process() -> Process:
    """The process whose code is running. Raises SimulationError in the harness, which has no host."""
    process = _PROCESS.get()
    if process is None:
        raise SimulationError("only a simulated process has a host and a network")
    return process


class SimHandle(asyncio.Handle):
    __slots__ = ("process",)
    process: Process | None


class SimTimerHandle(asyncio.TimerHandle):
    __slots__ = ("process",)
    process: Process | None


class SimLoop(asyncio.BaseEventLoop):
    """An asyncio loop whose time is virtual and whose processes can be killed and frozen.

    `failures` collects every exception that nothing handled; a run with one has failed.
    """

    def __init__(self, *, trace: Trace | None = None, start: float = 1000.0) -> None:
        super().__init__()
        self.set_debug(False)
        self.trace = Trace() if trace is None else trace
        self.failures: list[str] = []
        self.handles_run = 0
        self._now = start
        self._sequence = 0
        self._soon: deque[SimHandle | SimTimerHandle] = deque()
        self._timers: list[tuple[float, int, SimTimerHandle]] = []
        self._cancelled_timers = 0
        self._network: Network | None = None
        self._dead: list[object] = []  # kept until dispose(), see the module's docstring
        self._disposing = False

    # -- clock and handles

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if context is None:
            context = copy_context()
        handle = SimHandle(callback, args, self, context)
        handle.process = context.get(_PROCESS)
        self._soon.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if context is None:
            context = copy_context()
        handle = SimTimerHandle(when, callback, args, self, context)
        handle.process = context.get(_PROCESS)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, handle))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """asyncio's hook. Cancelled timers are swept out when they are most of the heap."""
        self._cancelled_timers += 1
        if self._cancelled_timers > 1000 and 2 * self._cancelled_timers > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def _run_once(self) -> None:
        """One turn: what is ready now, or else what the next deadline makes ready."""
        soon = self._soon
        if not soon:
            while self._timers and self._timers[0][2].cancelled():
                heapq.heappop(self._timers)
            if not self._timers:
                raise SimulationError(f"nothing will ever happen again (at {self._now:.6f} s)")
            self._now = max(self._now, self._timers[0][0])
        timers = self._timers
        while timers and timers[0][0] <= self._now:
            soon.append(heapq.heappop(timers)[2])
        for _ in range(len(soon)):
            handle = soon.popleft()
            if not handle._cancelled:  # the attribute: this is the innermost loop of the simulation
                self._run_handle(handle)

    def _run_handle(self, handle: SimHandle | SimTimerHandle) -> None:
        process = handle.process
        if process is None:
            self._now += HANDLE_SECONDS
            handle._run()
        elif not process.alive:
            self._dead.append(handle)
        elif process.frozen:
            process.held.append(handle)
        else:
            self._now += HANDLE_SECONDS
            self.handles_run += 1
            handle._run()
            if process.observe is not None and process.alive:
                process.observe()

    # -- tasks and processes

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[T]:
        if context is None:
            context = copy_context()
        task: asyncio.Task[T] = asyncio.Task(
            coro, loop=self, name=None if name is None else str(name), context=context, **options
        )
        process = context.get(_PROCESS)
        if process is not None:
            process.track(task)
        return task

    def kill(self, process: Process) -> None:
        """End one incarnation between two handles. Its sockets and disk are the caller's affair."""
        process.alive = False
        self._dead.append((process.tasks, process.held))
        process.tasks, process.held = [], []
        self._dead.append(process)

    def freeze(self, process: Process) -> None:
        """SIGSTOP: nothing of it runs until `thaw`; deadlines pass meanwhile."""
        process.frozen = True

    def thaw(self, process: Process) -> None:
        process.frozen = False
        self._soon.extend(process.held)
        process.held = []

    def keep(self, thing: object) -> None:
        """Hold a reference to something of a dead process until the end of the run."""
        self._dead.append(thing)

    # -- network

    @property
    def network(self) -> "Network":
        if self._network is None:
            raise SimulationError("this loop has no network")
        return self._network

    @network.setter
    def network(self, network: "Network") -> None:
        self._network = network

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **o: Any) -> Any:
        """As asyncio's, on the host of the running process. Port 0 takes the host's next free one."""
        _refuse_options(o, allowed={"start_serving", "backlog", "reuse_address", "reuse_port", "family"})
        return self.network.listen(protocol_factory, host, port or 0)

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **o: Any
    ) -> Any:
        """As asyncio's. Raises ConnectionRefusedError, or waits while the network is silent."""
        _refuse_options(o, allowed={"family", "flags", "proto", "happy_eyeballs_delay", "interleave"})
        return await self.network.connect(protocol_factory, host, port)

    # -- what has no place here

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> NoReturn:
        raise SimulationError("call_soon_threadsafe: a simulated node has no other thread")

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], object], *args: *Ts) -> NoReturn:
        raise SimulationError("run_in_executor: a simulated node has no other thread")

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """asyncio's hook for an abandoned asynchronous generator; asyncio's own makes a thread-safe call."""
        if not self._disposing and not self.is_closed():
            self.call_soon(self.create_task, agen.aclose())

    # -- failures and the end

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._disposing:
            return
        error = context.get("exception")
        where = context.get("handle") or context.get("task") or context.get("future") or ""
        text = f"{context.get('message')}: {error!r} {where}"
        if error is not None:  # as text: a kept traceback would keep what its frames refer to
            text += "\n" + "".join(traceback.format_exception(error))
        self.failures.append(text)
        self.trace.add(self._now, f"failure {type(error).__name__}")
        self.trace.remark(self._now, text)

    def dispose(self) -> None:
        """Report what was never retrieved, then end the dead coroutines quietly and close.

        The dead ones' `finally` blocks do run here, when nothing that they could reach matters any more.
        """
        gc.collect()
        self._disposing = True
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._dead.clear()
                self._soon.clear()
                self._timers.clear()
                gc.collect()
                self._soon.clear()
                self._timers.clear()
        finally:
            sys.unraisablehook = hook
        self._network = None
        self.close()


def _refuse_options(options: dict[str, Any], *, allowed: set[str]) -> None:
    unknown = sorted(name for name, value in options.items() if value is not None and name not in allowed)
    if unknown:
        raise SimulationError(f"the simulated network has no {', '.join(unknown)}")
