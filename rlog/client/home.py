"""A client lives on one event loop of one process; anywhere else its use is refused, before harm is done.

A forked child shares the parent's sockets and poller: two processes that write to one connection would mix
their requests. Another thread or loop would race with the one that the client runs on.
"""

import asyncio
import os
from typing import NoReturn

from rlog.client.errors import WrongLoop
from rlog.errors import ForkedProcess


class Home:
    """Where it was made: the running loop, and the process."""

    __slots__ = ("loop", "process_id")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.process_id = os.getpid()

    @property
    def is_forked(self) -> bool:
        """This is a copy in a forked child: the sockets belong to the process that made them."""
        return os.getpid() != self.process_id

    def check(self) -> None:
        """Raises WrongLoop or ForkedProcess anywhere else. asyncio forgets its loop in a fork."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:  # none: another thread, no loop at all, or a forked child
            self._refuse()
        if here is not self.loop:
            self._refuse()

    def _refuse(self) -> NoReturn:
        if self.is_forked:
            raise ForkedProcess(
                f"this client belongs to process {self.process_id}, of which this one is a fork: "
                f"connect again here, after the fork"
            )
        raise WrongLoop(
            "the client was used outside the event loop on which it was connected: from another thread use "
            "asyncio.run_coroutine_threadsafe(..., loop), in another loop connect again"
        )
