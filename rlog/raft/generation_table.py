"""Which generation wrote which stretch of the log: what conflicts and probes are decided on.

A *run* is a stretch of neighbouring records of one generation. Because (offset, generation) names one content
for ever (SAFETY 28), and a generation's only leader starts writing at one offset, two logs that both hold a
run of generation g hold it from the same offset on, and are equal below every offset at which both hold g.
So two logs are compared by their runs alone, and a divergence of a million records costs no more round trips
than there are generations in it (SAFETY 44).

How a probe is answered and what is probed next:

    follower, asked about (prev, g) and not holding it:  `hint`
        the highest offset h <= min(prev, its end) below which its record is of a generation <= g
    leader, told (h, hg):  `probe_after`
        if it has a run of hg too, the logs agree up to where the shorter of the two runs ends; else the end
        of its last run below hg, to be asked about next

Each answer makes the leader ask about an older generation, or about a shorter prefix that must match.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class GenerationTable:
    """The runs of one log in order. Only generations that own a record are here (SAFETY 3)."""

    __slots__ = ("generations", "starts")

    def __init__(self, entries: Sequence[tuple[int, int]] = ()) -> None:
        """entries: (generation, start offset) of each run, both strictly rising."""
        self.generations: list[int] = []
        self.starts: list[int] = []
        for generation, start in entries:
            self.append(generation, start)

    @property
    def last(self) -> int:
        """Generation of the last record; 0 when the log is empty."""
        return self.generations[-1] if self.generations else 0

    def entries(self) -> list[tuple[int, int]]:
        return list(zip(self.generations, self.starts, strict=True))

    def append(self, generation: int, start: int) -> None:
        """Records from `start` on are of `generation`; nothing changes when the last run already is."""
        if self.generations and self.generations[-1] == generation:
            return
        assert generation > self.last, (generation, self.generations)
        assert not self.starts or start > self.starts[-1], (start, self.starts)
        self.generations.append(generation)
        self.starts.append(start)

    def cut(self, offset: int) -> None:
        """Forget the runs that start at or past `offset`."""
        while self.starts and self.starts[-1] >= offset:
            self.starts.pop()
            self.generations.pop()

    def before(self, offset: int) -> int:
        """Generation of the record `offset - 1`; 0 when there is none."""
        run = bisect_left(self.starts, offset) - 1
        return self.generations[run] if run >= 0 else 0

    def run_before(self, offset: int) -> tuple[int, int]:
        """(generation, start) of the run that holds the record `offset - 1`, which exists."""
        run = bisect_left(self.starts, offset) - 1
        return self.generations[run], self.starts[run]

    def prune(self, offset: int) -> None:
        """Forget the runs that end before `offset`; the one that holds the record before it stays."""
        while len(self.starts) > 1 and self.starts[1] < offset:
            del self.starts[0], self.generations[0]

    def replace(self, generation: int, start: int) -> None:
        """Of all that was, one run is left."""
        self.generations[:] = [generation]
        self.starts[:] = [start]

    def run_end(self, offset: int, log_end: int) -> int:
        """Where the run that holds record `offset` ends."""
        following = bisect_right(self.starts, offset)
        return self.starts[following] if following < len(self.starts) else log_end

    def hint(self, offset: int, generation: int) -> tuple[int, int]:
        """The highest (h, generation before h) with h <= offset and that generation <= `generation`."""
        run = bisect_left(self.starts, offset) - 1
        while run >= 0 and self.generations[run] > generation:
            offset = self.starts[run]
            run -= 1
        return (offset, self.generations[run]) if run >= 0 else (offset, 0)

    def probe_after(self, hint_offset: int, hint_generation: int, log_end: int) -> int:
        """The offset to ask about next, given a follower's hint; always a batch end of this log.

        With a run of the hint's generation on both sides the lower of its two ends is a batch end of both
        logs; otherwise a run's end is one by nature, even where it lies past `hint_offset`.
        """
        run = bisect_right(self.generations, hint_generation) - 1
        if run < 0:
            return 0
        end = self.starts[run + 1] if run + 1 < len(self.starts) else log_end
        return min(end, hint_offset) if self.generations[run] == hint_generation else end
