"""The blocking twin of `rlog.client.receipts`: acks whose `result()` waits for the receipt."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from rlog.client import receipts as client
from rlog.client.errors import DeadlineExceeded, afresh
from rlog.records import ListReceipt, Receipt
from rlog.sync.portal import Portal

Settle = Callable[[], Awaitable[None]]


class Ack:
    """`result()` is the `Receipt`, or raises why the record was given up.

    It may be asked late, several times, by any thread, or never: an error that nobody saw is raised by
    `flush()` and `close()`.
    """

    __slots__ = ("_ack", "_portal", "_refusal", "_settle", "is_seen")

    def __init__(self, portal: Portal, settle: Settle) -> None:
        """settle: awaited on the loop, it returns when the record is admitted or refused."""
        self._portal = portal
        self._settle = settle
        self._ack: client.Ack | None = None
        self._refusal: Exception | None = None
        self.is_seen = False  # the refusal

    def admitted(self, ack: client.Ack) -> None:
        self._ack = ack

    def refused(self, error: Exception) -> None:
        """The record could not be admitted: it is not sent."""
        self._refusal = error

    def raise_unseen(self) -> None:
        """The refusal that nobody got to see."""
        if self._refusal is not None and not self.is_seen:
            self.is_seen = True
            raise afresh(self._refusal)

    def done(self) -> bool:
        return self._refusal is not None or (self._ack is not None and self._ack.done())

    def result(self, timeout_ms: int | None = None) -> Receipt:
        """The receipt. It waits until the record is acknowledged or given up, by the delivery timeout.

        Raises DeliveryFailed, what `send` could not say at once, and DeadlineExceeded after `timeout_ms`:
        then it may be asked again.
        """
        if not self.done():
            self._portal.run(self._wait(timeout_ms))
        if self._refusal is not None:
            self.is_seen = True
            raise afresh(self._refusal)
        assert self._ack is not None
        return self._ack.result()

    async def _wait(self, timeout_ms: int | None) -> None:
        async with _within(timeout_ms):
            await self._settle()
            if self._ack is not None:
                await self._ack


class ListAck:
    """`result()` is the `ListReceipt` of a whole list, or raises the first `DeliveryFailed`."""

    __slots__ = ("_ack", "_portal")

    def __init__(self, portal: Portal, ack: client.ListAck) -> None:
        self._portal = portal
        self._ack = ack

    def done(self) -> bool:
        return self._ack.done()

    def result(self, timeout_ms: int | None = None) -> ListReceipt:
        """The receipt, as `Ack.result`."""
        if not self._ack.done():
            self._portal.run(self._wait(timeout_ms))
        return self._ack.result()

    async def _wait(self, timeout_ms: int | None) -> None:
        async with _within(timeout_ms):
            await self._ack


@asynccontextmanager
async def _within(timeout_ms: int | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"no acknowledgement came in {timeout_ms} ms; it may still come", outcome="unknown"
        ) from error
