"""The short way to disk, for an owner that appends one span and waits: an embedded log with one appender.

It does what a round does, in the same order (log.py): the span, fdatasync, the watermark. But nothing is
queued, and the job is not built anew. It is open only to a log that keeps nothing in memory, and only while
there is nothing to do but to write to the active segment.
"""

from rlog._core import Span, Vfs, WriteRound
from rlog.errors import InvariantBroken
from rlog.log.meta import PartitionMeta
from rlog.log.segment import Segment
from rlog.log.settings import LogSettings
from rlog.log.watermarks import SLOT_BYTES, Watermarks, encode_slot, name_crc


class ShortWay:
    """segments: shared with the log."""

    def __init__(
        self,
        name: str,
        vfs: Vfs,
        segments: list[Segment],
        state: PartitionMeta,
        watermarks: Watermarks,
        settings: LogSettings,
    ) -> None:
        self._name_crc = name_crc(name)
        self._vfs = vfs
        self._segments = segments
        self._state = state
        self._watermarks = watermarks
        self._round_bytes_max = settings.round_bytes_max
        self._is_closed = settings.tail_bytes_max > 0
        self._round: WriteRound | None = None

    def round(self, span: Span) -> WriteRound | None:
        """The round that writes `span`; None when it takes more than that."""
        if self._is_closed or not self._segments or self._watermarks.failed is not None:
            return None
        segment = self._segments[-1]
        if not segment.created or span.size > min(segment.length - segment.fill, self._round_bytes_max):
            return None
        if span.base_offset != segment.end_offset:
            raise InvariantBroken(f"{span!r} appended to a log that ends at {segment.end_offset}")
        if self._round is None or self._round.segment is not segment.file:
            position = self._state.slot * SLOT_BYTES
            self._round = WriteRound(self._vfs, segment.file, self._watermarks.file, position)
        base, length, counter = segment.base_offset, segment.length, self._state.cut_counter
        self._round.load(
            span, segment.fill, encode_slot(self._name_crc, counter, span.end_offset, base, length)
        )
        return self._round

    def done(self, span: Span) -> None:
        """It is flushed."""
        segment = self._segments[-1]
        segment.add(span)
        segment.written = segment.fill
        self._watermarks.dirty = True
