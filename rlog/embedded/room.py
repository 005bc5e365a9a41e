"""Room for bytes that wait for the disk: tasks take it in the order in which they came, and give it back."""

import asyncio
from collections import deque


class Room:
    """At most `bytes_max` are taken, or what a single task takes. For one event loop.

    granted: tasks that were given room and have not run since; nobody may run past them.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._taken = 0
        self._granted = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait until there is room for `size` bytes, behind those who came before. Raises what ended it."""
        if not self._waiting and not self._granted and self._fits(size):
            self._taken += size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self._granted -= 1
                self.give(size)
            else:
                self._grant()  # it may have held up those behind it
            raise
        self._granted -= 1
        self._grant()

    def give(self, size: int) -> None:
        """Give room back, to those who wait."""
        self._taken -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            wanted, granted = self._waiting.popleft()
            if not granted.done():  # cancelled while it waited
                self._taken += wanted
                self._granted += 1
                granted.set_result(None)

    def refuse(self, error: Exception) -> None:
        """Who waits gets `error`."""
        for _, granted in self._waiting:
            if not granted.done():
                granted.set_exception(error)
        self._waiting.clear()

    def _fits(self, size: int) -> bool:
        return self._taken == 0 or self._taken + size <= self._bytes_max
