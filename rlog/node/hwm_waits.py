"""Readers that wait for a partition's high-water mark to rise: long polls.

Each is called back once: when the mark is above what it has seen, when leadership ends, or when the node
stops. It looks again, and asks to wait again if it must.
"""

from __future__ import annotations

from collections.abc import Callable


class HwmWait:
    """One reader's."""

    __slots__ = ("_waits", "above", "callback")

    def __init__(self, waits: HwmWaits, above: int, callback: Callable[[], None]) -> None:
        self._waits = waits
        self.above = above
        self.callback = callback

    def cancel(self) -> None:
        """The callback is not called after this."""
        self._waits.forget(self)


class HwmWaits:
    """All of one partition. `len()`: how many wait."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[HwmWait, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, above: int, callback: Callable[[], None], *, is_over: bool) -> HwmWait:
        """is_over: there is nothing to wait for, so the callback is called before this returns."""
        wait = HwmWait(self, above, callback)
        if is_over:
            callback()
        else:
            self._waiting[wait] = None
        return wait

    def forget(self, wait: HwmWait) -> None:
        self._waiting.pop(wait, None)

    def wake(self, hwm: int | None = None) -> None:
        """Whoever waits for less than `hwm`; everybody when it is None."""
        for wait in [wait for wait in self._waiting if hwm is None or wait.above < hwm]:
            if wait in self._waiting:  # an earlier callback may have cancelled it
                del self._waiting[wait]
                wait.callback()
