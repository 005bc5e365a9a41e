"""The real world for a node: uvloop, system calls, disk threads that never take the GIL, signals.

Everything that simulation replaces is here (see `rlog.node.env`), and nothing else is.
"""

import asyncio
import logging
import resource
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Generic, TypeVar

import uvloop

import rlog
from rlog._core import DiskJob, DiskPool, Vfs, retain_freed_memory
from rlog.clock import uptime, wall_clock_ms
from rlog.config import NodeConfig
from rlog.errors import ConfigurationError
from rlog.log.directory import check_directory
from rlog.node.env import Env, WorkerTask
from rlog.node.node import Node
from rlog.node.observed import ObservedNode
from rlog.node.peers import STRANGERS_COUNT_MAX
from rlog.observe.events import emit
from rlog.observe.watch import Watch

if TYPE_CHECKING:
    from rlog.observe.admin import Admin

logger = logging.getLogger("rlog.node")

T = TypeVar("T")

HEAP_RETAINED_BYTES_MAX = 64 << 20
# Open files of a node that nobody talks to: the standard streams, the loop and its signals, disk threads,
# meta, watermarks, lock, what listens; some of them for a moment. Counted on Linux: 21 after a start.
FILES_MIN = 32
FILES_PER_PEER = 4  # two connections each way, of which some are just being replaced
FILES_PER_PARTITION = 2  # the segment written to, and one that is read
FILES_PER_DISK_THREAD = 4  # at a roll: the full segment, the new one, its index, the directory
# Connections of one turn of the loop are accepted before those above the bound are closed: asyncio's backlog.
ACCEPTED_COUNT_MAX = 100
ADMIN_FILES = 64  # its connections and as many that wait
# A disk serves two reads at once better than one; more would take turns with the flushes.
READ_THREADS = 2
SEARCH_THREADS = 1


class PoolExecutor:
    """Disk jobs on native threads; their completions reach the loop through one eventfd. See DiskExecutor."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, threads: int, queued_jobs_max: int) -> None:
        self._loop = loop
        self._pool = DiskPool(threads, queued_jobs_max=queued_jobs_max)
        self._callbacks: dict[DiskJob, Callable[[DiskJob], None]] = {}
        loop.add_reader(self._pool.fileno(), self._drain)

    def submit(self, job: DiskJob, done: Callable[[DiskJob], None]) -> None:
        self._callbacks[job] = done
        self._pool.submit(job)

    def _drain(self) -> None:
        for job in self._pool.drain():
            self._callbacks.pop(job)(job)

    def close(self) -> None:
        self._loop.remove_reader(self._pool.fileno())
        self._pool.close()
        self._callbacks.clear()


class _ThreadTask(Generic[T]):
    """A task on its way through a ThreadWorker."""

    __slots__ = ("future", "task")

    def __init__(self, task: Callable[[], T]) -> None:
        self.task: Callable[[], T] | None = task
        self.future: Future[T] = Future()

    def run(self) -> T:
        if self.task is None:
            raise CancelledError
        return self.task()

    def cancel(self) -> bool:
        if not self.future.cancel():
            return False
        self.task = None  # the queue keeps this object until a thread comes to it, not what the task holds
        return True


class ThreadWorker:
    """Tasks on threads of this process, which begin with the first task. See Worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, threads: int, name: str) -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._name = name
        self._is_closed = False

    def submit(
        self, task: Callable[[], T], done: Callable[[T], None], failed: Callable[[], None]
    ) -> WorkerTask:
        def finished() -> None:
            if self._is_closed:
                return
            error = submitted.future.exception()
            if error is None:
                done(submitted.future.result())
                return
            logger.error("a task of %s failed: %r", self._name, error, exc_info=error)
            failed()

        def ended(future: Future[T]) -> None:
            """On whichever thread ended it."""
            if not future.cancelled():
                self._loop.call_soon_threadsafe(finished)

        submitted = _ThreadTask(task)
        try:
            submitted.future = self._pool.submit(submitted.run)
        except RuntimeError as error:  # the system gives no thread; a thread that there is may come to it
            submitted.task = None
            submitted.future.set_exception(error)
        submitted.future.add_done_callback(ended)
        return submitted

    def close(self) -> None:
        self._is_closed = True
        self._pool.shutdown(cancel_futures=True)


def open_env(config: NodeConfig) -> Env:
    """An Env on the running loop. Call its `close` when the node has stopped."""
    # One job in flight per log, one for meta, one for the watermarks.
    jobs_max = len(config.partitions) + 2
    loop = asyncio.get_running_loop()
    return Env(
        vfs=Vfs.system(),
        disk=PoolExecutor(loop, threads=config.disk_threads, queued_jobs_max=jobs_max),
        reads=ThreadWorker(loop, threads=READ_THREADS, name="rlog-read"),
        searches=ThreadWorker(loop, threads=SEARCH_THREADS, name="rlog-search"),
        random=Random(SystemRandom().getrandbits(128)),
        wall_clock_ms=wall_clock_ms,
        uptime=uptime,
        stopwatch_s=time.perf_counter,
    )


class Observation:
    """What is shown and said of a node in its process: the admin port, if one is configured, and the watch.

    Binds the admin port at once, before the node opens its data. Raises OSError.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._admin: Admin | None = None
        self._watch: Watch | None = None
        if config.admin_port is not None:
            # Imported only where it is wanted: it would double the time that a node takes to start.
            from rlog.observe import admin

            self._admin = admin.Admin(config.admin_host, config.admin_port, node_id=config.node_id)

    async def begin(self, node: Node, warnings: Sequence[str]) -> None:
        """Answer, and look, from now on. node: a started one."""
        self._watch = Watch(
            node_id=node.node_id,
            lag=node.counters.loop_lag,
            now=node.env.stopwatch_s,
            leaderless=node.leaderless,
        )
        if self._admin is not None:
            await self._admin.serve(ObservedNode(node, version=rlog.__version__, warnings=warnings))

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._admin is not None:
            await self._admin.close()


async def serve(config: NodeConfig, *, ready: Callable[[Node], None] | None = None) -> None:
    """Run a node until SIGTERM or SIGINT. `ready` is called once it listens. Raises what it failed of."""
    loop = asyncio.get_running_loop()
    warnings = [*config.warnings(), *check_directory(config.data_dir)]
    for warning in warnings:
        emit(logger, logging.WARNING, "hardly_meant", node=config.node_id, reason=warning)
    observation = Observation(config)
    env = open_env(config)
    node = Node(config, env)
    try:
        await node.start()
        await observation.begin(node, warnings)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, node.stop_soon)
        if ready is not None:
            ready(node)
        await node.wait_closed()
    finally:
        await observation.close()
        env.close()


def files_needed(config: NodeConfig) -> int:
    """Open files of a node that serves, at any moment, beside its clients'.

    A disk operation that finds none left is final for its log, so room for all of them is kept.
    """
    disk = FILES_PER_DISK_THREAD * config.disk_threads + READ_THREADS + SEARCH_THREADS
    needed = FILES_MIN + FILES_PER_PARTITION * len(config.partitions) + disk + ACCEPTED_COUNT_MAX
    if config.peers:
        needed += FILES_PER_PEER * len(config.peers) + STRANGERS_COUNT_MAX + ACCEPTED_COUNT_MAX
    return needed + (ADMIN_FILES if config.admin_port is not None else 0)


def raise_descriptor_limit(config: NodeConfig) -> NodeConfig:
    """As far as this process may: a shell's default is a thousand, and each client connection takes one.

    Returns the configuration with no more connections than there is room for. Raises ConfigurationError when
    there is none for any.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError) as error:
        logger.info("node=%d the limit of open files stays at %d: %s", config.node_id, soft, error)
    if soft == resource.RLIM_INFINITY:
        return config
    needed = files_needed(config)
    if soft <= needed:
        raise ConfigurationError(
            f"this process may open {soft} files, and a node with {len(config.peers)} peers and "
            f"{len(config.partitions)} partitions needs {needed} before the first client: raise its limit "
            "(ulimit -n, or LimitNOFILE of its service)"
        )
    if soft - needed >= config.connection_count_max:
        return config
    logger.warning(
        "node=%d connection_count_max = %d, but this process may open %d files, of which the node itself "
        "needs %d: it takes %d connections; raise its limit (ulimit -n, or LimitNOFILE of its service), or "
        "set a smaller number",
        config.node_id,
        config.connection_count_max,
        soft,
        needed,
        soft - needed,
    )
    return replace(config, connection_count_max=soft - needed)


def run(config: NodeConfig, *, ready: Callable[[Node], None] | None = None) -> None:
    """`serve` on a uvloop of its own: the whole life of a node process."""
    config = raise_descriptor_limit(config)
    if not retain_freed_memory(HEAP_RETAINED_BYTES_MAX):
        reason = "this C library returns freed memory at once; groups cost some page faults more"
        emit(logger, logging.INFO, "memory_not_retained", node=config.node_id, reason=reason)
    uvloop.run(serve(config, ready=ready))
