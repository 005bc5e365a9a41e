"""One partition's log: append, cut, read, and the jobs that bring it to disk.

Everything here runs on the loop; bytes reach the disk only through DiskJobs, one under way per log. What was
queued meanwhile forms the next round. The order that the rules ask for is kept by construction:

* A start or cut record is queued in meta as the change is made, and no job leaves while one of this log is
  not flushed there (`_meta_barrier`; SAFETY 3, 14).
* A cut first gets a job of its own, which zeroes the tail, removes later segments, syncs them, and syncs the
  lowered watermark. Only when meta also holds that it is done may a new byte be written. So recovery finds
  either an unfinished cut and no newer byte, or no cut byte (SAFETY 14).
* A round writes to one segment and fdatasyncs it; then its watermark. When it rolls, the full segment is
  fdatasynced before its successor gets a name (SAFETY 17), so a segment with a successor is all flushed.
* A completion counts only if no cut came after its job was built (SAFETY 12); an error is final (SAFETY 15).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from rlog._core import DiskJob, Span, Vfs
from rlog.errors import CorruptLog, InvariantBroken, StorageFailed
from rlog.log.meta import Meta
from rlog.log.producers import ProducerTable
from rlog.log.reader import Reader
from rlog.log.recovery import Examined
from rlog.log.segment import Segment, index_name, length_for, load_index, segment_name
from rlog.log.settings import LogSettings
from rlog.log.tail import Piece, Tail
from rlog.log.watermarks import SLOT_BYTES, Watermarks, encode_slot, name_crc


@dataclass(frozen=True, slots=True)
class _Cut:
    """A cut at `offset`, which lies at `position` of `segment`."""

    offset: int
    segment: Segment
    position: int


@dataclass(frozen=True, slots=True)
class _Round:
    """What a job stands for when it completes.

    is_cut: it carried out cuts up to `cut_counter`. sealed: the segment it rolled away from.
    """

    cut_counter: int
    end_offset: int
    size: int
    is_cut: bool = False
    sealed: Segment | None = None


class PartitionLog:
    """The log of one partition. Offsets used as boundaries are exclusive ends and batch boundaries.

    start_offset <= flushed_offset <= end_offset. [flushed_offset, end_offset) is dirty.
    suspect: recovery could not prove that nothing is missing at the end (SAFETY 19).
    damage: why the log is quarantined, or None. failed: the error that fenced it, or None.
    producers: the producer table of everything appended (SAFETY 13).
    """

    def __init__(
        self,
        name: str,
        vfs: Vfs,
        directory: str,
        *,
        meta: Meta,
        watermarks: Watermarks,
        settings: LogSettings,
        found: Examined,
    ) -> None:
        self.name = name
        self.start_offset = 0
        self.end_offset = found.end_offset
        self.flushed_offset = found.end_offset
        self.generations = found.generations
        self.producers = ProducerTable()
        self.producers.appended(found.producers)
        self._producers_from = found.producers_from  # a cut below it needs a rebuild of the table
        self.suspect = found.suspect
        self.damage = found.damage
        self.failed: StorageFailed | None = None
        self.queued_bytes = 0
        self._vfs = vfs
        self._directory = directory
        self._meta = meta
        self._state = meta.state.partitions[name]
        self._watermarks = watermarks
        self._name_crc = name_crc(name)
        self._settings = settings
        self._segments = found.segments
        self._hwm = 0  # nothing below it is ever cut (SAFETY 7)
        self._written_offset = self.end_offset  # end of what was handed to jobs
        self._queue: deque[Piece] = deque()  # pieces from _written_offset on
        self._inflight: DiskJob | None = None
        self._meta_barrier = 0  # meta sequence that the next job waits for
        self._pending_cut: _Cut | None = None  # the lowest that is not carried out on disk yet
        self._removed: list[Segment] = []  # segments to unlink with it
        self._tail = Tail(settings.tail_bytes_max)
        self._reader = Reader(
            name,
            vfs,
            directory,
            segments=self._segments,
            tail=self._tail,
            generations=self.generations,
            settings=settings,
            may_close=self._may_close,
        )

    @property
    def last_generation(self) -> int:
        """The generation of the last batch; 0 for an empty log."""
        return self.generations.last

    @property
    def cut_counter(self) -> int:
        return self._state.cut_counter

    @property
    def is_clean(self) -> bool:
        """Everything appended is flushed, every cut is carried out, and nothing is wrong."""
        return (
            self.flushed_offset == self.end_offset
            and self._pending_cut is None
            and self._inflight is None
            and self.failed is None
            and self.damage is None
        )

    # ---- changing it

    def append(self, span: Span) -> None:
        """Queue `span` for the next round. Raises StorageFailed or CorruptLog when the log is fenced.

        It never pushes back: the caller looks at `queued_bytes`.
        """
        self._check_usable()
        start, end, generation = span.base_offset, span.end_offset, span.generation
        if start != self.end_offset or generation < self.generations.last:
            raise InvariantBroken(f"{self.name}: {span!r} appended to a log that ends at {self.end_offset}")
        if generation != self.generations.last:
            self.generations.start(generation, start)
            self._meta_barrier = self._meta.queue("start", self.name, generation, start)
        size = span.size
        segment = self._segments[-1] if self._segments else None
        if segment is None or segment.fill + size > segment.length:
            segment = self._roll(segment, size)
        piece = Piece(span, start, end, segment, segment.fill)
        segment.index.add(span, segment.fill)
        segment.fill += size
        segment.end_offset = end
        self.end_offset = end
        self.queued_bytes += size
        self._queue.append(piece)
        self._tail.add(piece)
        batches = span.producer_batches()
        if batches:
            self.producers.appended(batches)

    def _check_usable(self) -> None:
        if self.failed is not None:
            raise self.failed
        if self.damage is not None:
            raise CorruptLog(f"{self.name}: {self.damage}", partition=self.name, offset=self.end_offset)

    def _roll(self, last: Segment | None, size: int) -> Segment:
        """A new active segment in memory; the job that first writes to it creates it."""
        length = length_for(size, last.length if last is not None else 0, self._settings)
        if last is not None and last.fill:
            last.seal = last.encode_index(self.producers.batches())
        segment = Segment.new(self._vfs, self._directory, self.end_offset, length, self._settings)
        if last is not None and not last.fill:
            self._segments.pop()  # empty and too small: the new one takes its name
            segment.named = last.named
        self._segments.append(segment)
        return segment

    def cut(self, offset: int) -> None:
        """Forget everything at or past `offset`, in memory at once (SAFETY 13), on disk by the next job.

        Raises InvariantBroken below the high-water mark (SAFETY 7) or off a batch boundary.
        """
        self._check_usable()
        if offset < self._hwm or offset > self.end_offset:
            raise InvariantBroken(f"{self.name}: cut at {offset} with hwm {self._hwm}, end {self.end_offset}")
        if offset == self.end_offset:
            return
        position = self._reader.position_of(offset)
        self._meta_barrier = self._meta.queue("cut", self.name, offset, self.cut_counter + 1)
        while self._segments[-1].base_offset > offset:
            removed = self._segments.pop()
            if removed.named:
                self._removed.append(removed)
        segment = self._segments[-1]
        segment.fill, segment.end_offset, segment.seal = position, offset, b""
        segment.index.cut(offset)
        if self._pending_cut is None or offset < self._pending_cut.offset:
            self._pending_cut = _Cut(offset, segment, position)
        self.end_offset = offset
        self.flushed_offset = min(self.flushed_offset, offset)
        self._written_offset = min(self._written_offset, offset)
        self._cut_memory(offset)
        self.generations.cut(offset)
        self._cut_producers(offset)

    def _cut_memory(self, offset: int) -> None:
        """Shorten queue and tail, which hold the same pieces."""
        self._reader.forget()
        while self._queue and self._queue[-1].start >= offset:
            self._queue.pop()
        self._tail.cut(offset)
        if self._queue and self._queue[0].end <= self._written_offset:
            self._queue.popleft()
        self.queued_bytes = self._inflight.tag.size if self._inflight is not None else 0
        for piece in self._queue:
            self.queued_bytes += len(piece.span.slice(max(piece.start, self._written_offset), piece.end))

    def _cut_producers(self, offset: int) -> None:
        """Take the producer table back to `offset`; from the log where it cannot be undone step by step."""
        if offset >= self._producers_from and self.producers.cut(offset) == offset:
            return
        self.producers = ProducerTable()
        start = 0
        for segment in reversed(self._segments):
            stored = (
                load_index(self._vfs, self._directory, segment.base_offset, 1) if segment.indexed else None
            )
            if stored is not None and stored.end_offset <= offset:
                start = stored.end_offset
                self.producers.appended(stored.producers)
                break
        self._producers_from = start
        while start < offset:
            for view in self.read(start, bytes_max=self._settings.round_bytes_max, end_max=offset):
                span = Span.parse(view)
                self.producers.appended(span.producer_batches())
                start = span.end_offset
        self.producers.committed(self._hwm)

    def committed(self, hwm: int) -> None:
        """`hwm` is the high-water mark: the log is never cut below it, and need not remember how to."""
        if hwm > self._hwm:
            if hwm > self.end_offset:
                raise InvariantBroken(f"{self.name}: hwm {hwm} is past the log end {self.end_offset}")
            self._hwm = hwm
            self.producers.committed(hwm)

    def clear_suspect(self) -> None:
        """The log holds, flushed, an entry committed in the current leader's generation (SAFETY 19)."""
        if self.suspect:
            self.suspect = False
            self._meta.queue("suspect", self.name, False)

    # ---- bringing it to disk

    def flush_job(self) -> DiskJob | None:
        """The next round. None when nothing is queued, a job is under way, the log is fenced, or its meta
        records are not flushed yet: ask again after each completion, of this log or of meta.

        Raises StorageFailed, at most once: the log is fenced from then on.
        """
        if (
            self._inflight is not None
            or self.failed is not None
            or self.damage is not None
            or self._watermarks.failed is not None
            or self._meta.flushed_sequence < self._meta_barrier
        ):
            return None
        if self._pending_cut is not None:
            try:
                self._inflight = self._cut_job(self._pending_cut)
            except OSError as error:  # half built: what it took from `_removed` would never be unlinked
                self.failed = StorageFailed(f"{self.name}: {error}", errno=error.errno or 0)
                raise self.failed from error
        elif self._queue:
            self._inflight = self._write_job()
        return self._inflight

    def _write_job(self) -> DiskJob:
        """One vectored write of what is queued for one segment, one fdatasync, one watermark."""
        segment = self._queue[0].segment
        job = DiskJob(self._vfs)
        start = self._written_offset
        sealed = None if segment.created else self._add_roll(job, segment)
        buffers: list[Span | memoryview] = []
        position = -1
        size = 0
        room = self._settings.round_bytes_max
        while self._queue and self._queue[0].segment is segment:
            piece = self._queue[0]
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
            self._queue.popleft()
        job.write(segment.file, position, buffers, batches=True)
        job.fdatasync(segment.file)
        self._add_watermark(job, start)
        job.sync_if_sparse(self._watermarks.file)
        segment.written = max(segment.written, position + size)
        self._written_offset = start
        job.tag = _Round(self.cut_counter, start, size, sealed=sealed)
        return job

    def _add_roll(self, job: DiskJob, segment: Segment) -> Segment | None:
        """Seal the full segment (returned), create the next. Its length is on record before any of its bytes
        is acked, so that recovery can tell a shortened file (SAFETY 19)."""
        place = self._segments.index(segment)
        previous = self._segments[place - 1] if place else None
        if previous is not None and previous.seal:
            previous.add_index(job, self._vfs, self._directory)
        if previous is not None and previous.file.is_open:
            # Live readers are served from the tail in memory. Writing into memory that is cached already, and
            # not into ever more of it, was measured to take a sixth of the processor time on a virtual host.
            job.uncache(previous.file)
        segment.add_creation(job, self._directory)
        self._add_watermark(job, self._written_offset)
        job.fdatasync(self._watermarks.file)
        return previous

    def _add_watermark(self, job: DiskJob, flushed_offset: int) -> None:
        active = next((segment for segment in reversed(self._segments) if segment.created), None)
        base, length = (active.base_offset, active.length) if active is not None else (0, 0)
        slot = encode_slot(self._name_crc, self.cut_counter, flushed_offset, base, length)
        job.write(self._watermarks.file, self._state.slot * SLOT_BYTES, [slot])

    def _cut_job(self, cut: _Cut) -> DiskJob:
        """Carry a cut out: nothing of it is left on disk when this job is done (SAFETY 14)."""
        job = DiskJob(self._vfs)
        removed, self._removed = self._removed, []
        segment = cut.segment
        names = []
        for gone in removed:
            names += [segment_name(gone.base_offset)] + [index_name(gone.base_offset)] * gone.indexed
        if segment.indexed:
            names.append(index_name(segment.base_offset))
            segment.indexed = False
        for name in names:
            job.unlink(f"{self._directory}/{name}")
        if segment.created:
            if not segment.file.is_open:
                segment.file = self._vfs.open(f"{self._directory}/{segment_name(segment.base_offset)}")
            if segment.written > cut.position:
                job.zero(segment.file, cut.position, segment.written - cut.position)
                segment.written = cut.position
            job.fdatasync(segment.file)
        if names:
            job.fsync_dir(self._directory)
        self._add_watermark(job, self._written_offset)
        job.fdatasync(self._watermarks.file)
        job.tag = _Round(self.cut_counter, self._written_offset, 0, is_cut=True)
        return job

    def flush_done(self, job: DiskJob) -> bool:
        """Take the end of `flush_job`'s job; whether `flushed_offset` moved.

        Raises StorageFailed, at most once: the log is fenced from then on (SAFETY 15).
        """
        assert job is self._inflight
        self._inflight = None
        done: _Round = job.tag
        self.queued_bytes -= done.size
        if job.error:
            self.failed = StorageFailed(f"{self.name}: {job.error_operation} failed", errno=job.error)
            if self._watermarks.file.path in job.error_operation:
                self._watermarks.failed = self.failed
            raise self.failed
        self._watermarks.dirty = True
        if done.sealed is not None:
            done.sealed.file.close()  # opened again when it is read, or cut back into
        if done.cut_counter != self.cut_counter:
            return False  # SAFETY 12: built before a cut, so it proves nothing
        if done.is_cut:
            self._pending_cut = None
            self._meta_barrier = self._meta.queue("cut_done", self.name, done.cut_counter)
        moved = done.end_offset > self.flushed_offset
        self.flushed_offset = max(self.flushed_offset, done.end_offset)
        self._tail.trim(self.flushed_offset)
        return moved

    # ---- reading it

    def read(self, start: int, *, bytes_max: int, end_max: int) -> list[memoryview]:
        """Whole batches from the one that contains `start`, ending at or below `end_max`.

        At most `bytes_max` bytes, but at least one batch; [] when there is none. Raises CorruptLog when what
        is on disk is bad: the log is quarantined from then on.
        """
        return [view for view, _ in self._walk(start, bytes_max, end_max)]

    def boundary(self, start: int, *, bytes_max: int, end_max: int, one_generation: bool = False) -> int:
        """Where `read` would end, a batch boundary; `start` when it would return nothing.

        one_generation: stop where the generation of the record at `start` ends.
        """
        if one_generation:
            end_max = min(end_max, self.generations.run_end(start, self.end_offset))
        for _, end in self._walk(start, bytes_max, end_max):
            start = end
        return start

    def _walk(self, start: int, bytes_max: int, end_max: int) -> Iterator[tuple[memoryview, int]]:
        """(batches, their end offset) from `start` on."""
        if not self.start_offset <= start <= self.end_offset:
            raise ValueError(f"{self.name}: offset {start} not in [{self.start_offset}, {self.end_offset}]")
        try:
            yield from self._reader.walk(start, bytes_max, min(end_max, self.end_offset))
        except CorruptLog as error:
            self.damage = str(error).removeprefix(f"{self.name}: ")
            raise

    def _may_close(self, segment: Segment) -> bool:
        """A job under way writes to its segment, whichever that is."""
        return self._inflight is None and segment.end_offset <= self.flushed_offset

    def close(self) -> None:
        for segment in self._segments:
            segment.file.close()
