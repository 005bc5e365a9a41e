"""Reading an embedded log: whole chunks of flushed batches, from descriptors of the reader's own.

So a reader takes nothing from the appenders but a look at where the segments are, and what retention deletes
under it stays readable until the reader is told. Each batch is checked before its records are given out:
structure, CRC, generation, and that offsets follow one another (SAFETY 55).
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, Literal, Protocol, TypeVar

from rlog._core import File, Record, Vfs, decode_records, decode_values, find_batches
from rlog.embedded.arguments import integer
from rlog.embedded.store import Store
from rlog.embedded.writer import GENERATION
from rlog.errors import ConfigurationError, CorruptBatch, CorruptLog, LogClosed, OffsetOutOfRange
from rlog.log.segment import Segment
from rlog.log.time_search import search_interval
from rlog.log.unreadable import unreadable
from rlog.moments import At, Time, timestamp_of

T = TypeVar("T")

Start = Literal["earliest", "latest"] | int | datetime | At
"""Where to read from: an end of the log, an offset, or the first record with a timestamp at or after a
moment. Should there be none yet, reading starts at the end."""

CHUNK_BYTES_MIN: Final = 16 << 10  # the first chunk: often one record is wanted
CHUNK_BYTES_MAX: Final = 256 << 10  # the next ones: large enough to hide a call, small enough for a cache


class Readable(Protocol):
    """What a reader needs of an open log."""

    def check_readable(self) -> None:
        """Raises LogClosed, ForkedProcess."""

    def segments_from(self, offset: int) -> list[Segment]:
        """See PartitionLog.segments_from; safe beside appenders."""


class Reader:
    """One way through the log, from `offset` on, up to `end`; for ever where that is None. For one thread."""

    def __init__(self, log: Readable, store: Store, vfs: Vfs, offset: int, end: int | None) -> None:
        self.offset = offset
        self._log = log
        self._store = store
        self._vfs = vfs
        self._end = end
        self._file: File | None = None
        self._segment: Segment | None = None
        self._batch_offset = 0  # of the batch at _position in _segment
        self._position = 0
        self._chunk_bytes = CHUNK_BYTES_MIN

    def records(self) -> list[Record]:
        """The next records, one chunk; [] at the end, or where nothing more is flushed yet."""
        return self._next(
            lambda data, offset: decode_records(
                data, from_offset=offset, verify=False, topic=self._store.name
            )
        )

    def values(self) -> list[bytes | None]:
        """As records(), the bare values."""
        return self._next(lambda data, offset: decode_values(data, from_offset=offset, verify=False)[0])

    def _next(self, decode: Callable[[memoryview, int], list[T]]) -> list[T]:
        self._log.check_readable()
        start, flushed = self.offset, self._store.log.flushed_offset
        end = flushed if self._end is None else min(self._end, flushed)
        check_range(self._store, start)
        if start >= end:
            return []
        data, reached = self.fetch(start, flushed)
        found = decode(data, start)
        if len(found) != reached - start:
            raise self._corrupt(f"{reached - start} records are due, and {len(found)} are there")
        del found[end - start :]
        self.offset = min(reached, end)
        return found

    def fetch(self, start: int, flushed: int) -> tuple[memoryview, int]:
        """Whole batches from the one that holds `start`, below `flushed`, and their end offset."""
        try:
            if self._segment is None or start >= self._segment.end_offset:
                self._open(start)
            assert self._file is not None
            assert self._segment is not None
            end_max = min(flushed, self._segment.end_offset)
            length = self._chunk_bytes
            while True:
                data = self._file.pread(length, self._position)
                first, last, reached, missing = self._find(data, start, end_max)
                if not missing:
                    break
                if missing <= length or len(data) < length:
                    raise CorruptBatch("the batch reaches past the end of its segment", position=0)
                length = missing
                # The next batches are likely as big: read those at once, with some room.
                self._chunk_bytes = missing + missing // 8
        except (CorruptBatch, OSError) as error:
            check_range(self._store, start)  # its file may just have been deleted
            raise unreadable(self._store.path, start, error, name=self._store.name) from error
        self._batch_offset = reached
        self._position += last
        self._chunk_bytes = max(self._chunk_bytes, min(4 * self._chunk_bytes, CHUNK_BYTES_MAX))
        return memoryview(data)[first:last], reached

    def _find(self, data: bytes, start: int, end_max: int) -> tuple[int, int, int, int]:
        """See find_batches(). Good batches before a bad one are found, so that an error names its offset."""
        try:
            return find_batches(data, self._batch_offset, start, GENERATION, self._chunk_bytes, end_max)
        except CorruptBatch as error:
            good = data[: error.position]
            found = find_batches(good, self._batch_offset, start, GENERATION, self._chunk_bytes, end_max)
            if found[1] == 0:
                raise
            return found

    def _open(self, offset: int) -> None:
        """The segment that holds `offset`, at a batch a little before it."""
        segments = self._log.segments_from(offset)
        if not segments or offset < segments[0].base_offset:
            check_range(self._store, offset)  # it was just deleted
            raise CorruptBatch("no segment holds it")
        segment = segments[0]
        self._file = self._vfs.open(self._store.segment_path(segment))
        self._segment = segment
        self._batch_offset, self._position = segment.index.find(offset) or (segment.base_offset, 0)

    def _corrupt(self, why: str) -> CorruptLog:
        return CorruptLog(
            f"{self._store.path}: offset {self.offset} cannot be read: {why}",
            partition=self._store.name,
            offset=self.offset,
        )


def offset_at(log: Readable, store: Store, vfs: Vfs, time: Time) -> int | None:
    """The first record on disk with a timestamp at or after `time`; None when there is none."""
    log.check_readable()
    timestamp_ms = timestamp_of(time)

    def walk(start: int, bytes_max: int, end_max: int) -> Iterator[tuple[memoryview, int]]:
        reader = Reader(log, store, vfs, start, None)
        while start < end_max:
            data, start = reader.fetch(start, end_max)
            yield data, start

    start, flushed = 0, store.log.flushed_offset
    while start < flushed:
        segments = log.segments_from(start)
        start = max(start, store.log.start_offset)  # looked at later: what is deleted by then is no matter
        try:
            found, start = search_interval(walk, segments, timestamp_ms, start, flushed)
        except OffsetOutOfRange:  # deleted meanwhile
            continue
        if found is not None:
            return found[0]
    return None


def reader_of(
    log: Readable, store: Store, vfs: Vfs, *, start: Start, end: int | None, follow: bool
) -> Reader:
    """Raises ConfigurationError for arguments that mean nothing, OffsetOutOfRange, and what `log` refuses."""
    log.check_readable()
    if follow and end is not None:
        raise ConfigurationError("follow=True has no end: leave out one of them")
    flushed = store.log.flushed_offset
    if start == "earliest":
        offset = store.log.start_offset
    elif start == "latest":
        offset = flushed
    elif isinstance(start, datetime | At):
        found = offset_at(log, store, vfs, start)
        offset = flushed if found is None else found
    else:
        try:
            offset = integer("start", start)
        except TypeError:
            raise ConfigurationError(
                f"start={start!r} is neither 'earliest', 'latest', an offset, an aware datetime, nor At(...)"
            ) from None
        check_range(store, offset)  # the others are in the log, or were a moment ago
    if not follow:
        end = flushed if end is None else min(integer("end", end), flushed)
    return Reader(log, store, vfs, offset, end)


def check_range(store: Store, offset: int) -> None:
    """Raises OffsetOutOfRange for an offset below the start or past the end of what is on disk."""
    if offset < store.log.start_offset:
        raise _out_of_range(store, offset, "what came before the start was deleted")
    check_end(store, offset)


def check_end(store: Store, offset: int) -> None:
    """Raises OffsetOutOfRange for an offset past the end of what is on disk."""
    if offset > store.log.flushed_offset:
        raise _out_of_range(store, offset, "nothing is stored there yet")


def _out_of_range(store: Store, offset: int, why: str) -> OffsetOutOfRange:
    start, end = store.log.start_offset, store.log.flushed_offset
    return OffsetOutOfRange(
        f"offset {offset} is not in {store.path}, which holds {start} to {end}: {why}",
        offset=offset,
        start_offset=start,
        end_offset=end,
    )


def chunks(read: Callable[[], list[T]], more: Callable[[], bool] | None) -> Iterator[list[T]]:
    """What `read` gives, until it gives nothing; then, where `more` is given, until that says no.

    So a reading that follows ends with the log, also when that is closed as it reads.
    """
    while True:
        try:
            found = read()
        except LogClosed:
            if more is None:
                raise
            return
        if found:
            yield found
        elif more is None or not more():
            return
