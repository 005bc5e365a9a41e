"""Pauses between attempts: doubling, jittered, bounded; never past a deadline."""

import asyncio
from random import Random

from rlog.client.settings import ClientSettings


class Backoff:
    """The pauses of one sequence of attempts."""

    def __init__(self, settings: ClientSettings) -> None:
        self._random: Random = settings.random
        self._first = settings.retry_backoff_ms / 1000
        self._longest = settings.retry_backoff_max_ms / 1000
        self._next = self._first

    def reset(self) -> None:
        """After a success: the next pause is the first again."""
        self._next = self._first

    def pause(self) -> float:
        """Seconds to wait now; from the upper half, so that many clients do not retry in step."""
        pause = self._next * (0.5 + 0.5 * self._random.random())
        self._next = min(2 * self._next, self._longest)
        return pause

    async def wait(self, deadline: float) -> None:
        """Sleep for the next pause, at most until `deadline` (loop seconds)."""
        left = deadline - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(self.pause(), left)))
