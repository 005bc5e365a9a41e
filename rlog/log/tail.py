"""The recent records of a log, in memory: what was appended last, flushed or not, dense up to the log end.

Live readers and followers are served from here without touching the disk. Unflushed pieces are always kept;
of the flushed ones, the newest up to a bound.
"""

from bisect import bisect_right
from dataclasses import dataclass

from rlog._core import Span
from rlog.log.segment import Segment


@dataclass(slots=True)
class Piece:
    """A span in memory, of which [start, end) counts (a cut shortens it); at `position` of `segment`."""

    span: Span
    start: int
    end: int
    segment: Segment
    position: int


class Tail:
    """Pieces in the order of the log, each starting where the one before it ends."""

    __slots__ = ("_bytes_max", "_pieces", "_size", "_starts")

    def __init__(self, bytes_max: int) -> None:
        """bytes_max: of flushed pieces, about that many bytes are kept."""
        self._bytes_max = bytes_max
        self._pieces: list[Piece] = []
        self._starts: list[int] = []  # of the pieces, for bisection
        self._size = 0  # bytes

    @property
    def start_offset(self) -> int | None:
        """Where the first piece starts; None when there is none."""
        return self._starts[0] if self._starts else None

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return self._size

    def add(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._starts.append(piece.start)
        self._size += piece.span.size

    def find(self, offset: int) -> Piece | None:
        """The piece that holds the record at `offset`; None when it lies before all of them."""
        found = bisect_right(self._starts, offset) - 1
        return self._pieces[found] if found >= 0 else None

    def cut(self, offset: int) -> None:
        """Forget what lies at or past `offset`; a piece that reaches over it keeps its first batches."""
        while self._pieces and self._pieces[-1].start >= offset:
            self._size -= self._pieces.pop().span.size
            self._starts.pop()
        if self._pieces and self._pieces[-1].end > offset:
            self._pieces[-1].end = offset

    def trim(self, flushed_offset: int) -> None:
        """Forget the oldest flushed pieces, in one go to a little below the bound, once above it."""
        if self._size <= self._bytes_max:
            return
        target = self._bytes_max - self._bytes_max // 8
        count = 0
        while self._size > target and self._pieces[count].end <= flushed_offset:
            self._size -= self._pieces[count].span.size
            count += 1
            if count == len(self._pieces):
                break
        del self._pieces[:count], self._starts[:count]

    def clear(self) -> None:
        self._pieces.clear()
        self._starts.clear()
        self._size = 0
