"""What the commands that talk to a cluster share: the loop, Ctrl-C, and errors as exit statuses."""

import asyncio
import difflib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import uvloop

import rlog
from rlog.cli.exits import INTERRUPTED, errors_as_exits
from rlog.cli.interrupts import Interrupts
from rlog.client import Cluster, UnknownTopic

T = TypeVar("T")
SUGGESTIONS_MAX = 3
NAMES_MAX = 10


def run(main: Callable[[Interrupts], Coroutine[Any, Any, T]]) -> T:
    """Run `main` on a loop of its own; errors of rlog end the command with their exit status.

    At the first Ctrl-C the task of `main` is cancelled: it says what was done. Work that shall not be cut
    short asks the Interrupts that it is given, and shields itself.
    """
    with errors_as_exits(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        task: asyncio.Task[T] | None = None

        def interrupt() -> None:
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)

        async def start() -> T:
            nonlocal task
            task = loop.create_task(main(interrupts))
            return await task

        with Interrupts(interrupt) as interrupts:
            try:
                return runner.run(start())
            except asyncio.CancelledError:
                if not interrupts.arrived:
                    raise
                raise SystemExit(INTERRUPTED) from None


@asynccontextmanager
async def connected(bootstrap: str, topic: str, timeout_s: float) -> AsyncIterator[Cluster]:
    """The cluster, in which `topic` exists. Raises UnknownTopic with the nearest names, DeadlineExceeded."""
    async with rlog.connect(
        bootstrap, client_id="rlog-cli", request_timeout_ms=int(timeout_s * 1000)
    ) as cluster:
        topics = await cluster.topics()
        if topic not in topics:
            raise NoSuchTopic(topic, sorted(topics))
        yield cluster


class NoSuchTopic(UnknownTopic):
    """As UnknownTopic, naming what there is."""

    def __init__(self, topic: str, topics: list[str]) -> None:
        super().__init__(topic)
        near = difflib.get_close_matches(topic, topics, n=SUGGESTIONS_MAX, cutoff=0.6)
        if near:
            mend = f"did you mean {' or '.join(map(repr, near))}?"
        elif topics:
            more = ", ..." if len(topics) > NAMES_MAX else ""
            mend = f"there is {', '.join(topics[:NAMES_MAX])}{more}"
        else:
            mend = "there is none; a topic is declared under [topics] at every node"
        self.args = (f"topic {topic!r} does not exist in this cluster: {mend}",)
