"""A reading of `AsyncLog`, by chunks from the executor, as an iterator that a cancelled `anext` leaves whole.

An async generator ends where an exception hits it, so a timeout around one `anext` would end the reading.
Here the chunk that the executor brings meanwhile is kept for the next call.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Self, TypeVar

from rlog.embedded.reader import Reader
from rlog.errors import LogClosed

T = TypeVar("T")


class Chunks(AsyncIterator[list[T]]):
    """opening, read: run in the executor. more: waits for more than the reader has read, and says whether any
    can come; None: what is there is all. For one task at a time.
    """

    def __init__(
        self,
        opening: Callable[[], Reader],
        read: Callable[[Reader], list[T]],
        more: Callable[[Reader], Awaitable[bool]] | None,
    ) -> None:
        self._opening = opening
        self._read = read
        self._more = more
        self._reader: Reader | None = None
        self._reading: asyncio.Future[list[T]] | None = None
        self._has_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[T]:
        while not self._has_ended:
            found = await self._next()
            if found:
                return found
            assert self._reader is not None
            if self._more is None or not await self._more(self._reader):
                self._has_ended = True
        raise StopAsyncIteration

    async def _next(self) -> list[T]:
        """What the next read brings: nothing at the end, or once the log that is followed is closed."""
        if self._reading is None:
            self._reading = asyncio.get_running_loop().run_in_executor(None, self._run)
        try:
            found = await asyncio.shield(self._reading)
        except asyncio.CancelledError:
            raise  # what it brings, or has just brought, is the next call's
        except BaseException as error:
            self._reading = None
            if self._more is None or not isinstance(error, LogClosed):
                raise
            self._has_ended = True
            raise StopAsyncIteration from None
        self._reading = None
        return found

    def _run(self) -> list[T]:
        if self._reader is None:
            self._reader = self._opening()
        return self._read(self._reader)


class Each(AsyncIterator[T]):
    """The items of chunks, one by one."""

    def __init__(self, chunks: AsyncIterator[list[T]]) -> None:
        self._chunks = chunks
        self._items: Iterator[T] = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            for item in self._items:  # the next one
                return item
            self._items = iter(await anext(self._chunks))
