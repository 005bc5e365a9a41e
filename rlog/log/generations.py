"""Which generation wrote which offsets of one log: `(generation, start offset)` runs, both rising.

In memory only generations that own a batch are listed, so the last entry is the *last generation* of votes
(SAFETY 3). The durable twin is the log's start records in meta.
"""

from bisect import bisect_right
from collections.abc import Iterable


class GenerationTable:
    """The runs of one log. Generations and start offsets both rise strictly; the first run starts the log."""

    __slots__ = ("_generations", "_starts")

    def __init__(self, entries: Iterable[tuple[int, int]] = ()) -> None:
        """entries: (generation, start_offset) pairs, rising in both."""
        self._generations: list[int] = []
        self._starts: list[int] = []
        for generation, start_offset in entries:
            self.start(generation, start_offset)

    def entries(self) -> list[tuple[int, int]]:
        """(generation, start_offset) of each run, oldest first."""
        return list(zip(self._generations, self._starts, strict=True))

    @property
    def last(self) -> int:
        """The generation of the last batch; 0 for an empty log."""
        return self._generations[-1] if self._generations else 0

    def at(self, offset: int) -> int:
        """The generation of the record at `offset`: of the last run that starts at or below it; 0 for
        none.
        """
        found = bisect_right(self._starts, offset)
        return self._generations[found - 1] if found else 0

    def run_end(self, offset: int, log_end: int) -> int:
        """Where the run that holds `offset` ends: the start of the next run, or `log_end`."""
        found = bisect_right(self._starts, offset)
        return self._starts[found] if found < len(self._starts) else log_end

    def run_before(self, offset: int) -> tuple[int, int]:
        """(generation, start offset) of the run that holds the record before `offset`, which exists."""
        found = bisect_right(self._starts, offset - 1) - 1
        return self._generations[found], self._starts[found]

    def start(self, generation: int, start_offset: int) -> None:
        """Begin a run. Pair assertion of the log's: generations never go back, no run is empty."""
        if self._generations:
            assert generation > self._generations[-1], (generation, self._generations[-1])
            assert start_offset > self._starts[-1], (start_offset, self._starts[-1])
        self._generations.append(generation)
        self._starts.append(start_offset)

    def prune(self, offset: int) -> None:
        """Forget the runs that end before `offset`; the one that holds the record before it stays."""
        while len(self._starts) > 1 and self._starts[1] < offset:
            del self._starts[0], self._generations[0]

    def replace(self, generation: int, start_offset: int) -> None:
        """Of all that was, one run is left."""
        self._generations[:] = [generation]
        self._starts[:] = [start_offset]

    def cut(self, offset: int) -> None:
        """Forget the runs that start at or past `offset`."""
        while self._starts and self._starts[-1] >= offset:
            self._starts.pop()
            self._generations.pop()
