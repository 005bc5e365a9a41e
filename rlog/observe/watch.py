"""What a node's process looks at from time to time: is the loop late, is a partition without a leader?

Only in production: it measures the real loop. The lateness of a timer that is due each `LOOK_S` is how long
something blocked the loop; heartbeats and answers waited that long too.
"""

import asyncio
import logging
from collections.abc import Callable

from rlog.observe.counters import Histogram
from rlog.observe.events import emit

logger = logging.getLogger("rlog.node")

LOOK_S = 0.1
# A loop that is late by a heartbeat or more is worth a line; not more often than this.
LATE_S = 0.1
LINE_EVERY_S = 10.0
# An election takes about a second; without a leader for longer than this something is wrong.
LEADERLESS_S = 5.0
LEADERLESS_LOOK_S = 1.0
NAMED_MAX = 5


class Watch:
    """Begins at once, until `close`. now: seconds, finer than the loop's clock.

    leaderless: names of the partitions that have known of no leader for the seconds given.
    """

    def __init__(
        self,
        *,
        node_id: int,
        lag: Histogram,
        now: Callable[[], float],
        leaderless: Callable[[float], list[str]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._node_id = node_id
        self._lag = lag
        self._now = now
        self._leaderless = leaderless
        self._muted_until = {"loop_late": 0.0, "no_leader": 0.0}
        self._due = now() + LOOK_S
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = self._now()
        late_s = max(0.0, now - self._due)
        self._lag.observe(late_s)
        if late_s >= LATE_S and now >= self._muted_until["loop_late"]:
            self._muted_until["loop_late"] = now + LINE_EVERY_S
            emit(logger, logging.WARNING, "loop_late", node=self._node_id, late_ms=round(late_s * 1000))
        if now >= self._muted_until["no_leader"]:
            names = self._leaderless(LEADERLESS_S)
            self._muted_until["no_leader"] = now + (LINE_EVERY_S if names else LEADERLESS_LOOK_S)
            if names:
                first = ", ".join(names[:NAMED_MAX])
                emit(
                    logger,
                    logging.WARNING,
                    "no_leader",
                    node=self._node_id,
                    partitions=len(names),
                    first=first,
                    for_s_min=LEADERLESS_S,
                )
        self._due = now + LOOK_S
        self._timer = self._loop.call_later(LOOK_S, self._look)
