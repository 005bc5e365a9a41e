"""The rounds of a log: what one of them writes, and what each job stands for: its tag, taken again when it
completes.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from rlog._core import Span
from rlog.log.anchor import Anchor
from rlog.log.segment import Segment
from rlog.log.tail import Piece


@dataclass(frozen=True, slots=True)
class Round:
    """What a job stands for when it completes.

    epoch: counts cuts; a job of an earlier one proves nothing (SAFETY 12). is_cut: it carried out all cuts.
    segment: the one whose file it writes to. sealed: the one it rolled away from. anchor: it made this one
    durable.
    """

    epoch: int
    end_offset: int
    size: int = 0
    is_cut: bool = False
    segment: Segment | None = None
    sealed: Segment | None = None
    anchor: Anchor | None = None

    def uses(self, segment: Segment) -> bool:
        """Whether its job needs the file of `segment` open."""
        return segment is self.segment or segment is self.sealed


class Taken(NamedTuple):
    """Whole batches that lie one behind the other, from `position` of their segment on, `size` bytes in all.

    end: the offset behind the last of them.
    """

    position: int
    buffers: list[Span | memoryview]
    size: int
    end: int


def take(queue: deque[Piece], start: int, bytes_max: int) -> Taken:
    """What follows offset `start` in `queue`, as far as one segment holds it and up to `bytes_max` bytes, but
    at least one batch. Pieces that are taken to their ends leave the queue."""
    segment = queue[0].segment
    buffers: list[Span | memoryview] = []
    position = -1
    size = 0
    room = bytes_max
    while queue and queue[0].segment is segment:
        piece = queue[0]
        whole: Span | memoryview = piece.span
        if start != piece.start or piece.end != piece.span.end_offset or piece.span.size > room:
            whole = piece.span.slice(start, piece.end, max(room, 1))
        if size and len(whole) > room:
            break
        if position < 0:
            position = piece.position
            if start != piece.start:
                position += len(piece.span.slice(piece.start, start))
        buffers.append(whole)
        size += len(whole)
        room -= len(whole)
        start = piece.span.boundary(start, len(whole), piece.end)
        if start < piece.end:
            break
        queue.popleft()
    return Taken(position, buffers, size, start)
