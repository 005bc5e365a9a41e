"""Ctrl-C and SIGTERM: the first ends the work in order, the second ends the process at once.

The handler is Python's own, not the event loop's: it also runs while a write to a slow pipe blocks the loop.
"""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def raise_interrupt() -> None:
    raise KeyboardInterrupt


class Interrupts:
    """Inside it the first signal calls `first`, and the system ends the process at the next one.

    first: raises KeyboardInterrupt when left out. arrived: whether there was one.
    """

    def __init__(self, first: Callable[[], None] = raise_interrupt) -> None:
        self.arrived = False
        self._first = first
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Also where a shell has set Ctrl-C to be ignored, as it does for what it starts in the background.
        self._previous = {number: signal.signal(number, self._arrive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self.arrived = True
        self._first()
