"""Reading a log: recent records from memory, older ones from their segment, each batch checked.

A read yields whole batches from the one that holds the offset asked for. What comes from disk is verified:
structure, CRC, and the generation that the durable table gives for its offset (SAFETY 19, 55). Anything wrong
is a CorruptLog, for the owner of the log to act upon. What the system does not let us read is a ReadFailed,
and says nothing about the log.

Whoever must not wait for the disk takes a `DiskRead` and has it run elsewhere.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rlog._core import File, Span, Vfs, find_batches, iterate_batches
from rlog.errors import CorruptBatch, InvariantBroken
from rlog.generations import GenerationTable
from rlog.log.producers import ProducerTable
from rlog.log.segment import IndexFile, Segment, load_index, segment_name
from rlog.log.settings import LogSettings
from rlog.log.tail import Tail
from rlog.log.unreadable import refused, unreadable

APPEND_TIME_BIT = 0x08  # of a batch's attributes
READ_BYTES_MAX = 4 << 20  # of what is read to be looked at only


@dataclass(frozen=True, slots=True)
class DiskRead:
    """A read of batches of one segment and one generation, planned: it shares nothing with its log any more.

    So it may run on any thread, whatever becomes of the log meanwhile; what is committed stays as it is, or
    its file goes. The batch at byte `position` of the file has base offset `offset`, `room_bytes` of batches
    follow from there on. `start`, `bytes_max`, `end_max`: what is asked for, as in `Reader.walk`.
    """

    vfs: Vfs
    path: str
    offset: int
    position: int
    room_bytes: int
    start: int
    bytes_max: int
    end_max: int
    generation: int
    interval_bytes: int

    def run(self) -> tuple[memoryview, int] | None:
        """(batches, their end offset), from a descriptor of its own; None where they cannot be had.

        Then the log itself has to look again: it knows whether they were deleted meanwhile.
        """
        try:
            file = self.vfs.open(self.path)
            try:
                data, first, last, end = self.fetch(file)
            finally:
                file.close()
        except (CorruptBatch, OSError):
            return None
        return memoryview(data)[first:last], end

    def fetch(self, file: File) -> tuple[bytes, int, int, int]:
        """(data, first, last, end offset): see find_batches(). Raises CorruptBatch, OSError."""
        length = self.bytes_max + self.interval_bytes
        while True:
            length = min(length, self.room_bytes)
            data = file.pread(length, self.position)
            if len(data) < length:  # its segment is preallocated, so this much was there once
                raise CorruptBatch("the file is shorter than what was written to it", position=len(data))
            first, last, end, missing = find_batches(
                data, self.offset, self.start, self.generation, self.bytes_max, self.end_max
            )
            if not missing:
                return data, first, last, end
            if missing <= len(data) or missing > self.room_bytes:
                raise CorruptBatch("the batch reaches past the end of its segment", position=0)
            length = missing


class Reader:
    """Reads from what it shares with its log: the tail, the segments and the generation table.

    may_close: whether the file of a segment that is not the last may be closed now; not while it holds what
    is not flushed, or a job under way uses it.
    """

    def __init__(
        self,
        name: str,
        vfs: Vfs,
        directory: str,
        *,
        segments: list[Segment],
        tail: Tail,
        generations: GenerationTable,
        settings: LogSettings,
        may_close: Callable[[Segment], bool],
    ) -> None:
        self._name = name
        self._vfs = vfs
        self._directory = directory
        self._segments = segments
        self._tail = tail
        self._generations = generations
        self._index_interval_bytes = settings.index_interval_bytes
        self._may_close = may_close
        self._last_read: tuple[tuple[int, int, int], memoryview, int] | None = None

    def forget(self) -> None:
        """The log was cut: nothing that was read before may be given again."""
        self._last_read = None

    def walk(self, start: int, bytes_max: int, end_max: int) -> Iterator[tuple[memoryview, int]]:
        """(batches, their end offset), from memory where possible; ends at or below `end_max`.

        At most `bytes_max` bytes, but at least one batch. Raises CorruptLog, ReadFailed.
        """
        first = True
        while start < end_max:
            piece = self._tail.find(start)
            if piece is None:
                view, end = self._read_disk(start, bytes_max, end_max)
            else:
                end = piece.span.boundary(start, bytes_max, min(end_max, piece.end))
                view = piece.span.slice(start, end)
            if end == start or (not first and len(view) > bytes_max):
                return
            yield view, end
            bytes_max -= len(view)
            if bytes_max <= 0:
                return
            start = end
            first = False

    def place_of(self, offset: int) -> int:
        """Index of the segment that holds the record at `offset`; of the first one for what is deleted."""
        return max(0, bisect_right(self._segments, offset, key=lambda segment: segment.base_offset) - 1)

    def locate(self, offset: int) -> tuple[Segment, int, int]:
        """(segment, offset, position) of a batch at or a little before the record at `offset`."""
        segment = self._segments[self.place_of(offset)]
        batch_offset, position = segment.index.find(offset) or (segment.base_offset, 0)
        return segment, batch_offset, position

    def position_of(self, offset: int) -> int:
        """Where in its segment the batch that starts at boundary `offset` lies.

        Raises InvariantBroken off a boundary (SAFETY 10), CorruptLog, ReadFailed.
        """
        if offset == self._segments[self.place_of(offset)].base_offset:
            return 0
        piece = self._tail.find(offset - 1)
        if piece is not None:
            end = piece.span.boundary(piece.start, piece.span.size, offset)
            position = piece.position + len(piece.span.slice(piece.start, end))
        else:
            _, _, last, end, position = self._fetch(offset - 1, 1, offset)
            position += last
        if end != offset:
            raise InvariantBroken(f"{self._name}: {offset} is not a batch boundary (SAFETY 10)")
        return position

    def seam(self, offset: int) -> list[tuple[Span, int]]:
        """The batches before a cut at `offset` that share an index entry with some behind it, and where each
        span of them lies in its segment: the index has to be told of them anew.

        Raises CorruptLog, ReadFailed.
        """
        segment = self._segments[self.place_of(offset)]
        start, position = segment.index.seam(offset) or (offset, 0)
        spans = []
        for view, _ in self.walk(start, segment.fill, offset):
            spans.append((Span.parse(view), position))
            position += len(view)
        return spans

    def producers_at(
        self, offset: int, base_offset: int, base_producers: Callable[[], bytes]
    ) -> tuple[ProducerTable, int]:
        """The producer table at boundary `offset`: from the last one stored before it, beside a segment or in
        the anchor (`base_producers`, at `base_offset`), and the log from there on; and that place.

        Raises CorruptLog, ReadFailed.
        """
        table, start = self._stored_producers(offset) or (
            ProducerTable.decode(base_producers()),
            base_offset,
        )
        end = start
        while end < offset:
            for view, reached in self.walk(end, READ_BYTES_MAX, offset):
                table.appended(Span.parse(view).producer_batches())
                end = reached
        return table, start

    def producers_beside(self, offset: int) -> bytes | None:
        """The producer table at segment boundary `offset`, encoded; None where no index file has it.

        Raises ReadFailed.
        """
        segment = self._segments[self.place_of(offset - 1)]
        if segment.end_offset != offset or not segment.indexed:
            return None
        stored = self._index_file(segment)
        return stored.producers if stored is not None and stored.end_offset == offset else None

    def _stored_producers(self, offset: int) -> tuple[ProducerTable, int] | None:
        """The last table that lies beside a segment which ends at or below `offset`, and where that is."""
        for segment in reversed(self._segments):
            if segment.end_offset <= offset and segment.indexed:
                stored = self._index_file(segment)
                if stored is not None and stored.end_offset == segment.end_offset:
                    return ProducerTable.decode(stored.producers), stored.end_offset
        return None

    def _index_file(self, segment: Segment) -> IndexFile | None:
        try:
            return load_index(self._vfs, self._directory, segment.base_offset, 1)
        except OSError as error:
            raise refused(f"{self._name}: {error}", error) from error

    def append_time_before(self, offset: int) -> int:
        """What a leader stamped on the record before boundary `offset`; -1: it has its producer's time.

        Raises CorruptLog, ReadFailed.
        """
        ((batch, _),) = self.walk(offset - 1, 1, offset)
        (info,) = iterate_batches(batch, verify=False)
        return info.max_timestamp if info.attributes & APPEND_TIME_BIT or info.is_control else -1

    def _open_segment_of(self, offset: int) -> Segment:
        """The segment that holds the record at `offset`, its file open; at most one full one stays so."""
        segment = self._segments[self.place_of(offset)]
        if not segment.file.is_open:
            for other in self._segments[:-1]:
                if self._may_close(other):
                    other.file.close()
            segment.file = self._vfs.open(f"{self._directory}/{segment_name(segment.base_offset)}")
        return segment

    def _read_disk(self, start: int, bytes_max: int, end_max: int) -> tuple[memoryview, int]:
        """Batches of one segment and one generation. The last read is kept: a leader asks for the boundary
        first, then for the bytes."""
        end_max = self._disk_end(end_max)
        key = (start, bytes_max, end_max)
        if self._last_read is None or self._last_read[0] != key:
            data, first, last, end, _ = self._fetch(start, bytes_max, end_max)
            self._last_read = key, memoryview(data)[first:last], end
        return self._last_read[1], self._last_read[2]

    def disk_read(self, start: int, *, bytes_max: int, end_max: int) -> DiskRead | None:
        """What of `walk` waits for the disk, one piece of it; None where memory has the record at `start`."""
        if self._tail.find(start) is not None:
            return None
        return self._plan(start, bytes_max, self._disk_end(end_max))

    def _disk_end(self, end_max: int) -> int:
        """From there on memory has them."""
        start_offset = self._tail.start_offset
        return end_max if start_offset is None else min(end_max, start_offset)

    def _plan(self, start: int, bytes_max: int, end_max: int) -> DiskRead:
        segment, offset, position = self.locate(start)
        end_max = min(end_max, segment.end_offset)
        return DiskRead(
            vfs=self._vfs,
            path=f"{self._directory}/{segment_name(segment.base_offset)}",
            offset=offset,
            position=position,
            room_bytes=segment.fill - position,
            start=start,
            bytes_max=bytes_max,
            end_max=min(end_max, self._generations.run_end(start, end_max)),
            generation=self._generations.at(start),
            interval_bytes=self._index_interval_bytes,
        )

    def _fetch(self, start: int, bytes_max: int, end_max: int) -> tuple[bytes, int, int, int, int]:
        """(data, first, last, end offset, position of data in its segment): see find_batches()."""
        try:
            segment = self._open_segment_of(start)
            plan = self._plan(start, bytes_max, end_max)
            return *plan.fetch(segment.file), plan.position
        except (CorruptBatch, OSError) as error:
            raise unreadable(self._name, start, error, name=self._name) from error
