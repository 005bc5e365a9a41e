"""What the jobs of a log stand for: the tag of each, taken again when it completes."""

from dataclasses import dataclass

from rlog.log.anchor import Anchor
from rlog.log.segment import Segment


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut at `offset`, which lies at `position` of `segment`."""

    offset: int
    segment: Segment
    position: int


@dataclass(frozen=True, slots=True)
class Round:
    """What a job stands for when it completes.

    epoch: counts cuts; a job of an earlier one proves nothing (SAFETY 12). is_cut: it carried out all cuts.
    sealed: the segment it rolled away from. anchor: it made this one durable.
    """

    epoch: int
    end_offset: int
    size: int = 0
    is_cut: bool = False
    sealed: Segment | None = None
    anchor: Anchor | None = None
