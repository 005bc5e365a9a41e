"""Background tasks with an owner: none outlives `close`, none fails unseen."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from rlog.client.errors import ClientClosed

T = TypeVar("T")


class Tasks:
    """Kept in order of creation (a set of tasks would be walked in the order of their addresses)."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._loop = asyncio.get_running_loop()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = self._loop.create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Tasks here report by their own means: an exception that leaves one is a bug, and is shown."""
        self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._loop.call_exception_handler(
                {"message": f"task {task.get_name()} failed", "exception": error, "task": task}
            )

    async def close(self) -> None:
        """Cancel all and wait until each has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def join(task: asyncio.Task[T]) -> T:
    """Wait for a task that others may wait for as well: cancelling the waiter leaves it running.

    Raises ClientClosed when the task itself was cancelled, by `Tasks.close`.
    """
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: asyncio.Task[T]) -> None:
        if not woken.done():
            woken.set_result(None)

    task.add_done_callback(wake)
    try:
        await woken
    finally:
        task.remove_done_callback(wake)
    if task.cancelled():
        raise ClientClosed("the client was closed meanwhile", outcome="unknown")
    return task.result()
