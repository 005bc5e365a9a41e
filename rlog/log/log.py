"""One partition's log: append, cut, trim, read, and the jobs that bring it to disk.

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
* The deletion of a prefix (prefix.py) is made of jobs between the rounds. An anchor that replaces the whole
  log (SAFETY 25) goes like a cut: anchor file, record in meta, files gone, and only then a new byte.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rlog._core import DiskJob, Span, Vfs, WriteRound
from rlog.errors import CorruptLog, InvariantBroken, ReadFailed, StorageFailed
from rlog.log.anchor import Anchor
from rlog.log.cutting import Cut, add_cut
from rlog.log.meta import Meta
from rlog.log.prefix import Prefix
from rlog.log.producers import ProducerTable
from rlog.log.reader import Reader
from rlog.log.recovery import Examined
from rlog.log.rounds import Round, take
from rlog.log.segment import Segment, next_length
from rlog.log.settings import LogSettings
from rlog.log.short_way import ShortWay
from rlog.log.tail import Piece, Tail
from rlog.log.time_search import TimeStep, search_interval
from rlog.log.watermarks import SLOT_BYTES, Watermarks, encode_slot, name_crc


class PartitionLog:
    """The log of one partition. Offsets used as boundaries are exclusive ends and batch boundaries.

    base_offset <= flushed_offset <= end_offset, except while an anchor is installed, when nothing is flushed.
    [flushed_offset, end_offset) is dirty. start_offset: see prefix.py.
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
        self.end_offset = found.end_offset
        self.flushed_offset = found.end_offset
        self.generations = found.generations
        self.producers = ProducerTable.decode(found.producers)
        self.producers.appended(found.appended)
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
        self._prefix = Prefix(
            name, vfs, directory, meta=meta, segments=self._segments, append_time_ms=found.base_append_time_ms
        )
        self._hwm = self.base_offset  # nothing below it is ever cut (SAFETY 7)
        self._written_offset = self.end_offset  # end of what was handed to jobs
        self._queue: deque[Piece] = deque()  # pieces from _written_offset on
        self._inflight: DiskJob | None = None
        self._meta_barrier = 0  # meta sequence that the next job waits for
        self._epoch = 0
        self._is_segment_ended = False  # the next append begins a new one
        self._pending_cut: Cut | None = None  # the lowest that is not carried out on disk yet
        self._pending_anchor: Anchor | None = None  # to replace the whole log
        self._is_anchor_recorded = False
        self._removed: list[Segment] = []  # segments to unlink with it
        self._short_way = ShortWay(name, vfs, self._segments, self._state, watermarks, settings)
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
        self.locate, self.disk_read = self._reader.locate, self._reader.disk_read

    @property
    def base_offset(self) -> int:
        """Where the files begin: a batch boundary. Nothing below it can be read."""
        return self._prefix.base_offset

    @property
    def start_offset(self) -> int:
        """The first offset that readers may ask for; perhaps inside a batch (SAFETY 10)."""
        return self._prefix.start_offset

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
            and self._pending_anchor is None
            and self._prefix.is_settled
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
        if start != self.end_offset or generation < self.generations.last or self._pending_anchor is not None:
            raise InvariantBroken(f"{self.name}: {span!r} appended to a log that ends at {self.end_offset}")
        if generation != self.generations.last:
            self.generations.start(generation, start)
            self._meta_barrier = self._meta.queue("start", self.name, generation, start)
        size = span.size
        segment = self._segments[-1] if self._segments else None
        if segment is None or segment.fill + size > segment.length or self._is_segment_ended:
            segment = self._roll(segment, size)
            self._is_segment_ended = False
        piece = Piece(span, start, end, segment, segment.fill)
        segment.add(span)
        self.end_offset = end
        self.queued_bytes += size
        self._queue.append(piece)
        self._tail.add(piece)
        batches = span.producer_batches()
        if batches:
            self.producers.appended(batches)

    def _check_usable(self) -> None:
        if self.failed is not None:
            raise StorageFailed(str(self.failed), errno=self.failed.errno)  # not one that grows
        if self.damage is not None:
            raise CorruptLog(f"{self.name}: {self.damage}", partition=self.name, offset=self.end_offset)

    def _roll(self, last: Segment | None, size: int) -> Segment:
        """A new active segment in memory; the job that first writes to it creates it."""
        length = next_length(last, size, self._settings, is_ended_early=self._is_segment_ended)
        if last is not None and last.fill:
            last.seal = last.encode_index(self.producers.encode())
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
        seam = self._reader.seam(offset)
        self._epoch += 1
        self._meta_barrier = self._meta.queue("cut", self.name, offset, self.cut_counter + 1)
        while self._segments[-1].base_offset > offset:
            removed = self._segments.pop()
            if removed.named:
                self._removed.append(removed)
        segment = self._segments[-1]
        segment.fill, segment.end_offset, segment.seal = position, offset, b""
        segment.index.cut(offset)
        for span, at in seam:
            segment.index.add(span, at)
        if self._pending_cut is None or offset < self._pending_cut.offset:
            self._pending_cut = Cut(offset, segment, position)
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
        try:
            self.producers, self._producers_from = self._producers_at(offset)
        except ReadFailed as error:  # the rest is cut already
            self.failed = StorageFailed(str(error), errno=error.errno)
            raise self.failed from error
        self.producers.committed(self._hwm)

    def _producers_at(self, offset: int) -> tuple[ProducerTable, int]:
        """The table at boundary `offset`, and from where on it can be cut step by step."""
        with self._quarantining():
            return self._reader.producers_at(
                offset, self.base_offset, lambda: self.anchor().producers if self.base_offset else b""
            )

    def trim(self, offset: int) -> int:
        """Delete what is below `offset`: readers may not begin there from now on; files follow by later jobs.

        At or below the start nothing changes. Returns the sequence of the meta record that makes it durable.
        Raises InvariantBroken above what is committed and flushed, StorageFailed or CorruptLog when fenced.
        """
        self._check_usable()
        if offset > min(self._hwm, self.flushed_offset) and offset > self.start_offset:
            raise InvariantBroken(
                f"{self.name}: trim at {offset} with hwm {self._hwm}, flushed {self.flushed_offset}"
            )
        active = self._segments[-1] if self._segments else None
        if active is not None and 2 * (offset - active.base_offset) > active.end_offset - active.base_offset:
            self.end_segment(0)  # so that it can go in time
        return self._prefix.trim(offset)

    def end_segment(self, bytes_min: int) -> None:
        """The next append begins a new segment, if the active one holds records of more than `bytes_min`."""
        if self._segments and self._segments[-1].fill > bytes_min:
            self._is_segment_ended = True

    def start_keeping(self, bytes_min: int) -> int:
        """The highest segment boundary from which on the log still holds `bytes_min` bytes."""
        size = 0
        for segment in reversed(self._segments[1:]):
            size += segment.fill
            if size >= bytes_min:
                return segment.base_offset
        return self.base_offset

    @property
    def size_bytes(self) -> int:
        """Of its batches, those not yet flushed included: what retention by size goes by."""
        return sum(segment.fill for segment in self._segments)

    @property
    def newest_timestamp_ms(self) -> int:
        """The largest timestamp of all that is left; -1 when there is none."""
        return max((segment.max_timestamp_ms for segment in self._segments), default=-1)

    def last_append_time_ms(self) -> int:
        """What a leader stamped on the last record, be it deleted; -1: it has, or had, its producer's time.

        Raises CorruptLog.
        """
        if self.end_offset == self.base_offset:
            return self._prefix.append_time_ms
        with self._quarantining():
            return self._reader.append_time_before(self.end_offset)

    @property
    def shortage(self) -> str:
        """Why an anchor could not be made: what it stands for is not deleted yet, or not installed."""
        return self._prefix.shortage

    def try_again(self) -> None:
        """It may be over now. To be called about each second while there is a `shortage`."""
        self._prefix.shortage = ""

    def anchor(self) -> Anchor:
        """What stands for the deleted prefix, from its file. Blocking. Raises CorruptLog, ReadFailed."""
        with self._quarantining():
            return self._prefix.anchor()

    def install(self, anchor: Anchor) -> None:
        """Replace the whole log, in memory at once, on disk by the next jobs: it is empty, and begins at
        `anchor`. Nothing may be appended before that is flushed.

        Raises InvariantBroken at or below the high-water mark (SAFETY 25), and while another is under way.
        """
        self._check_usable()
        if anchor.offset <= self._hwm or self._pending_anchor is not None:
            raise InvariantBroken(
                f"{self.name}: anchor {anchor.offset} installed over hwm {self._hwm} (SAFETY 25)"
            )
        self._epoch += 1
        self._pending_anchor, self._is_anchor_recorded = anchor, False
        for removed in self._removed:
            self._prefix.doom(removed)
        self._removed, self._pending_cut = [], None
        self._prefix.replace(anchor)
        self._queue.clear()
        self._tail.clear()
        self._reader.forget()
        self.queued_bytes = self._inflight.tag.size if self._inflight is not None else 0
        self.end_offset = self._written_offset = anchor.offset
        self.flushed_offset = 0
        self.generations.replace(anchor.generation, anchor.run_start)
        self.producers = ProducerTable.decode(anchor.producers)
        self._producers_from = anchor.offset

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

        Raises StorageFailed, or CorruptLog where an anchor needs what is bad, at most once: the log is fenced
        from then on.
        """
        if (
            self._inflight is not None
            or self.failed is not None
            or self.damage is not None
            or self._watermarks.failed is not None
            or self._meta.flushed_sequence < self._meta_barrier
        ):
            return None
        if self._pending_anchor is not None:
            self._inflight = self._install_job(self._pending_anchor)
        elif self._pending_cut is not None:
            self._inflight = self._cut_job(self._pending_cut)
        else:
            self._inflight = self._prefix_job()
            if self._inflight is None and self._queue:
                self._inflight = self._write_job()
        return self._inflight

    def _prefix_job(self) -> DiskJob | None:
        """The next step of deleting what was trimmed, if there is one."""
        job = self._prefix.unlink_job()
        if job is not None:
            job.tag = Round(self._epoch, self.flushed_offset)
            return job
        flushed = min(self.flushed_offset, self._hwm)
        base = self._prefix.next_base(flushed, None if flushed < self.end_offset else flushed)
        if base is None:
            return None
        if base == self.end_offset:
            # The active segment goes once the anchor is durable: what is appended meanwhile stays out of it.
            self.end_segment(0)
        try:
            with self._quarantining():
                table = self._encoded_producers_at(base)
                append_time_ms = self._reader.append_time_before(base)
        except ReadFailed as error:
            self._prefix.shortage = str(error)
            return None
        anchor = Anchor(base, *self.generations.run_before(base), append_time_ms, table)
        job = self._prefix.anchor_job(anchor)
        job.tag = Round(self._epoch, self.flushed_offset, anchor=anchor)
        return job

    def _encoded_producers_at(self, base: int) -> bytes:
        if base == self.end_offset:
            return self.producers.encode()
        beside = self._reader.producers_beside(base)
        return beside if beside is not None else self._producers_at(base)[0].encode()

    def _install_job(self, anchor: Anchor) -> DiskJob | None:
        """First the anchor's file; then, when meta has it on record, everything else goes (SAFETY 25).

        None while the disk has no room for the file: the old log stays, and nothing is flushed.
        """
        if not self._is_anchor_recorded:
            if self.shortage:
                return None
            job = self._prefix.anchor_job(anchor)
            job.tag = Round(self._epoch, 0, anchor=anchor)
            return job
        job = DiskJob(self._vfs)
        self._prefix.add_unlinks(job)
        self._add_watermark(job, anchor.offset)
        job.fdatasync(self._watermarks.file)
        job.tag = Round(self._epoch, anchor.offset, is_cut=True)
        return job

    def _write_job(self) -> DiskJob:
        """One vectored write of what is queued for one segment, one fdatasync, one watermark."""
        segment = self._queue[0].segment
        job = DiskJob(self._vfs)
        sealed = None if segment.created else self._add_roll(job, segment)
        room = self._settings.round_bytes_max
        position, buffers, size, end = take(self._queue, self._written_offset, room)
        job.write(segment.file, position, buffers, batches=True)
        job.fdatasync(segment.file)
        self._add_watermark(job, end)
        job.sync_if_sparse(self._watermarks.file)
        segment.written = max(segment.written, position + size)
        self._written_offset = end
        job.tag = Round(self._epoch, end, size, segment=segment, sealed=sealed)
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
        slot = encode_slot(self._name_crc, self._state.cut_counter, flushed_offset, base, length)
        job.write(self._watermarks.file, self._state.slot * SLOT_BYTES, [slot])

    def _cut_job(self, cut: Cut) -> DiskJob:
        """Raises StorageFailed."""
        job = DiskJob(self._vfs)
        removed, self._removed = self._removed, []
        try:
            add_cut(job, self._vfs, self._directory, cut, removed)
        except OSError as error:  # half built: what it took from `_removed` would never be unlinked
            self.failed = StorageFailed(f"{self.name}: {error}", errno=error.errno or 0)
            raise self.failed from error
        self._add_watermark(job, self._written_offset)
        job.fdatasync(self._watermarks.file)
        job.tag = Round(self._epoch, self._written_offset, is_cut=True, segment=cut.segment)
        return job

    def flush_done(self, job: DiskJob) -> bool:
        """Take the end of `flush_job`'s job; whether `flushed_offset` moved.

        Raises StorageFailed, at most once: the log is fenced from then on (SAFETY 15).
        """
        assert job is self._inflight
        self._inflight = None
        done: Round = job.tag
        self.queued_bytes -= done.size
        if job.error and not (done.anchor is not None and self._prefix.tolerates(job)):
            raise self._fail(job)
        self._watermarks.dirty = True
        if done.sealed is not None:
            done.sealed.file.close()  # opened again when it is read, or cut back into
        if done.epoch != self._epoch or job.error:
            return False  # SAFETY 12: built before a cut, so it proves nothing
        if done.anchor is not None:
            self._anchored(done.anchor)
        if done.is_cut:
            self._pending_cut = self._pending_anchor = None
            self._meta_barrier = self._meta.queue("cut_done", self.name, self.cut_counter)
        moved = done.end_offset > self.flushed_offset
        self.flushed_offset = max(self.flushed_offset, done.end_offset)
        self._tail.trim(self.flushed_offset)
        return moved

    def _fail(self, job: DiskJob | WriteRound) -> StorageFailed:
        self.failed = StorageFailed.of(self.name, job.error_operation, job.error)
        if self._watermarks.file.path in job.error_operation:
            self._watermarks.failed = self.failed
        return self.failed

    def _anchored(self, anchor: Anchor) -> None:
        """The anchor's file is durable: put it on record."""
        if self._pending_anchor is None:
            self._prefix.anchored(anchor)
            self.generations.prune(anchor.offset)
            return
        fields = (anchor.offset, anchor.generation, anchor.run_start, self.cut_counter + 1)
        self._meta_barrier = self._meta.queue("install", self.name, *fields)
        self._is_anchor_recorded = True

    def write_through(self, span: Span) -> WriteRound | None:
        """A round that appends `span`: run it, then call `written_through`; until then only read.

        None when there is more to do than that (short_way.py); then append() is the way.
        """
        if self._meta.flushed_sequence < self._meta_barrier or span.generation != self.last_generation:
            return None
        return self._short_way.round(span) if self.is_clean and not self._is_segment_ended else None

    def written_through(self, done: WriteRound) -> None:
        """Take the end of `write_through`'s round. Raises StorageFailed: the log is fenced from then on."""
        if done.error:
            raise self._fail(done)
        self._short_way.done(done.span)
        self.end_offset = self._written_offset = self.flushed_offset = done.span.end_offset
        self.producers.appended(done.span.producer_batches())

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

    def search_time(self, timestamp_ms: int, *, start: int, end_max: int) -> TimeStep:
        """One step of the search for the first record below `end_max` at `timestamp_ms` or later, at or
        past `start` and the log's start. It reads one interval of the index at most.

        Raises CorruptLog, and CorruptBatch for records that do not parse, or decompress to too much.
        """
        start = max(start, self.start_offset)
        segments = self.segments_from(start)
        return search_interval(self._walk, segments, timestamp_ms, start, min(end_max, self.end_offset))

    def segments_from(self, offset: int) -> list[Segment]:
        """From the one that holds `offset` on, for readers with descriptors of their own."""
        return self._segments[self._reader.place_of(offset) :]

    def _walk(self, start: int, bytes_max: int, end_max: int) -> Iterator[tuple[memoryview, int]]:
        """(batches, their end offset) from `start` on."""
        if not self.base_offset <= start <= self.end_offset:
            raise ValueError(f"{self.name}: offset {start} not in [{self.base_offset}, {self.end_offset}]")
        with self._quarantining():
            yield from self._reader.walk(start, bytes_max, min(end_max, self.end_offset))

    @contextmanager
    def _quarantining(self) -> Iterator[None]:
        """What is found damaged in it quarantines the log."""
        try:
            yield
        except CorruptLog as error:
            self.damage = str(error).removeprefix(f"{self.name}: ")
            raise

    def _may_close(self, segment: Segment) -> bool:
        is_used = self._inflight is not None and self._inflight.tag.uses(segment)
        return not is_used and segment.end_offset <= self.flushed_offset

    def close(self) -> None:
        for segment in self._segments:
            segment.file.close()
