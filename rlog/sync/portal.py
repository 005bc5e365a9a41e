"""One event loop in a thread of its own, and the way there for threads that block.

`run` hands a coroutine to the loop and waits for its end. Meanwhile may happen:

* Ctrl-C, or another exception raised in the waiting thread. The coroutine is cancelled, and its end is waited
  for, a little, so that it does not go on behind the caller's back. Should it end with a result all the same,
  nobody gets it any more: then `undo` is run on the loop.
* The loop ends, because another thread closed it: ClientClosed. No call waits for a loop that is gone.
* A fork. In the child the thread does not exist: every use there raises ForkedProcess, before it touches a
  lock that the parent may have held.

The interpreter does not wait for these threads: when it exits they are told to end, and given END_SECONDS.
"""

import asyncio
import atexit
import os
import threading
import warnings
from collections.abc import Callable, Coroutine
from concurrent import futures
from typing import Any, Final, TypeVar
from weakref import WeakSet

import uvloop

from rlog.client.errors import ClientClosed, ClientError
from rlog.errors import ForkedProcess

T = TypeVar("T")

# How long a cancelled call, and a loop that is told to end, are waited for.
END_SECONDS: Final = 5.0


class _Call:
    """A coroutine for the loop, and what tells the waiting thread of its end. task: None until it started."""

    __slots__ = ("ended", "task", "work")

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self.work = work
        self.task: asyncio.Task[None] | None = None
        self.ended: futures.Future[Any] = futures.Future()

    def start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._carry_out())
        self.task.add_done_callback(self._task_ended)

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        """Cancelled before its first step, it has not said so itself."""
        if not self.ended.done():
            self.ended.cancel()
            self.work.close()

    async def _carry_out(self) -> None:
        try:
            result = await self.work
        except asyncio.CancelledError:
            self.ended.cancel()
            raise
        except BaseException as error:
            self.ended.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            self.ended.set_result(result)

    def raised(self, error: BaseException) -> bool:
        """It ended with this very error, which no interrupt is."""
        return self.ended.done() and not self.ended.cancelled() and self.ended.exception() is error

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Portal:
    """Made by any thread, used by any number of them. name: of the loop's thread, as stack dumps show it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process_id = os.getpid()
        self._lock = threading.RLock()  # a signal's handler may send while its thread does
        self._calls: set[_Call] = set()  # somebody waits for these
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        started: futures.Future[None] = futures.Future()
        self._thread = threading.Thread(target=self._main, args=(started,), name=name, daemon=True)
        self._thread.start()
        started.result()
        _portals.add(self)

    def _main(self, started: "futures.Future[None]") -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._live(started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
        finally:
            with self._lock:
                self._is_closed = True
                calls, self._calls = self._calls, set()
            for call in calls:
                call.ended.cancel()
                call.work.close()

    async def _live(self, started: "futures.Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        started.set_result(None)
        await self._end.wait()
        with self._lock:
            self._is_closed = True  # before the loop takes no more calls

    @property
    def is_forked(self) -> bool:
        """This is a copy in a forked child, where the thread does not exist."""
        return os.getpid() != self._process_id

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def check(self) -> None:
        """Raises ForkedProcess in a forked child, and ClientError in the loop's own thread."""
        if self.is_forked:
            raise ForkedProcess(
                f"this client belongs to process {self._process_id}, of which this one is a fork: "
                f"connect again here, after the fork"
            )
        if threading.get_ident() == self._thread.ident:
            raise ClientError("a blocking call in the client's own thread would wait for itself")

    def run(self, work: Coroutine[Any, Any, T], *, undo: Callable[[], None] | None = None) -> T:
        """The result of `work`, run on the loop; see the module about `undo`.

        Raises what `work` raises, ClientClosed when the loop ended, ForkedProcess.
        """
        call = _Call(work)
        try:
            self._send(call.start, call)
            result: T = call.ended.result()
        except futures.CancelledError as error:
            raise ClientClosed("the client was closed meanwhile", outcome="unknown") from error
        except BaseException as error:
            if call not in self._calls:  # it was never sent, or the loop ended
                work.close()
            elif not call.raised(error):
                self._withdraw(call, undo)
            raise
        finally:
            self._calls.discard(call)
        return result

    def _withdraw(self, call: _Call, undo: Callable[[], None] | None) -> None:
        """The waiting thread was interrupted."""
        self.post(call.cancel)
        futures.wait([call.ended], timeout=END_SECONDS)
        is_lost = call.ended.done() and not call.ended.cancelled() and call.ended.exception() is None
        if is_lost and undo is not None:
            self.call(undo)

    def call(self, function: Callable[[], T]) -> T:
        """The result of a function that has to be called on the loop. Raises as `run`."""

        async def work() -> T:
            return function()

        return self.run(work())

    def post(self, function: Callable[[], None]) -> None:
        """Have it called on the loop soon, and do not wait. Raises ClientClosed, ForkedProcess."""
        self._send(function, None)

    def _send(self, function: Callable[[], None], call: _Call | None) -> None:
        self.check()
        with self._lock:
            if self._is_closed:
                raise ClientClosed("the client is closed; connect again")
            if call is not None:
                self._calls.add(call)
            self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """End the loop and its thread. Bounded; safe to call twice; does nothing in a forked child."""
        if self.is_forked:
            return
        self.check()
        with self._lock:
            if not self._is_closed:
                self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(END_SECONDS)
        _portals.discard(self)


_portals: WeakSet[Portal] = WeakSet()


@atexit.register
def _close_all() -> None:
    for portal in list(_portals):
        if not portal.is_forked:
            warnings.warn(
                f"the client of thread {portal.name!r} was not closed; what it had not sent is lost",
                ResourceWarning,
                stacklevel=2,
            )
            portal.close()
