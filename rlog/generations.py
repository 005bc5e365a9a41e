"""Which generation wrote which stretch of a log: consensus decides by it, storage reads and recovers by it.

A *run* is a stretch of neighbouring records of one generation. Only generations that own a record are here,
so the last entry is the *last generation* of votes (SAFETY 3). The durable twin is the log's start records in
meta. Pure, like all that `rlog.raft` rests on.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable


class GenerationTable:
    """The runs of one log, oldest first; generations and start offsets both rise strictly."""

    __slots__ = ("generations", "starts")

    def __init__(self, entries: Iterable[tuple[int, int]] = ()) -> None:
        """entries: (generation, start offset) of each run, both strictly rising."""
        self.generations: list[int] = []
        self.starts: list[int] = []
        for generation, start in entries:
            self.start(generation, start)

    def entries(self) -> list[tuple[int, int]]:
        """(generation, start offset) of each run, oldest first."""
        return list(zip(self.generations, self.starts, strict=True))

    @property
    def last(self) -> int:
        """Generation of the last record; 0 when the log is empty."""
        return self.generations[-1] if self.generations else 0

    def at(self, offset: int) -> int:
        """Generation of the record at `offset`, or of the last run when that is past the end; 0 for none."""
        run = bisect_right(self.starts, offset) - 1
        return self.generations[run] if run >= 0 else 0

    def before(self, offset: int) -> int:
        """Generation of the record `offset - 1`; 0 when there is none."""
        run = bisect_left(self.starts, offset) - 1
        return self.generations[run] if run >= 0 else 0

    def run_before(self, offset: int) -> tuple[int, int]:
        """(generation, start) of the run that holds the record `offset - 1`, which exists."""
        run = bisect_left(self.starts, offset) - 1
        return self.generations[run], self.starts[run]

    def run_end(self, offset: int, log_end: int) -> int:
        """Where the run that holds record `offset` ends: the start of the next one, or `log_end`."""
        following = bisect_right(self.starts, offset)
        return self.starts[following] if following < len(self.starts) else log_end

    def start(self, generation: int, start: int) -> None:
        """Begin a run. Generations never go back, and no run is empty."""
        assert generation > self.last, (generation, self.generations)
        assert not self.starts or start > self.starts[-1], (start, self.starts)
        self.generations.append(generation)
        self.starts.append(start)

    def append(self, generation: int, start: int) -> None:
        """Records from `start` on are of `generation`; nothing changes when the last run already is."""
        if generation != self.last:
            self.start(generation, start)

    def cut(self, offset: int) -> None:
        """Forget the runs that start at or past `offset`."""
        while self.starts and self.starts[-1] >= offset:
            self.starts.pop()
            self.generations.pop()

    def prune(self, offset: int) -> None:
        """Forget the runs that end before `offset`; the one that holds the record before it stays."""
        while len(self.starts) > 1 and self.starts[1] < offset:
            del self.starts[0], self.generations[0]

    def replace(self, generation: int, start: int) -> None:
        """Of all that was, one run is left."""
        self.generations[:] = [generation]
        self.starts[:] = [start]
