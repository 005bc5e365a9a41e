"""How long records take from the leader's append to their commit, measured once per turn of the loop."""

from collections import deque
from collections.abc import Callable

from rlog.observe.counters import Histogram

# Groups appended and not committed; more than this are possible only with a great many tiny turns in flight,
# and then the oldest are not measured.
GROUPS_MAX = 65_536


class CommitTimer:
    """now: seconds, finer than the loop's clock."""

    __slots__ = ("_appended", "_latency", "_now")

    def __init__(self, latency: Histogram, now: Callable[[], float]) -> None:
        self._latency = latency
        self._now = now
        self._appended: deque[tuple[int, float]] = deque(maxlen=GROUPS_MAX)  # (end offset, when), rising

    def appended(self, end_offset: int) -> None:
        self._appended.append((end_offset, self._now()))

    def committed(self, hwm: int) -> None:
        appended = self._appended
        if appended and appended[0][0] <= hwm:
            now = self._now()
            while appended and appended[0][0] <= hwm:
                self._latency.observe(now - appended.popleft()[1])

    def forget(self) -> None:
        """This replica leads no more: what happens to the rest it does not learn in time."""
        self._appended.clear()
