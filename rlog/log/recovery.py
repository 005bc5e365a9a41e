"""Recovery: what one log is, judged by the evidence on disk (SAFETY 14, 18, 19).

First `examine` only reads. It walks the segments in order; a segment that has a successor was fdatasynced
before the successor got its name, so anything bad in it is rot. In the last one the first byte at which no
good batch starts is judged:

    below the watermark                                              rot      quarantined, left as it is
    a good batch of a later flush round follows                      rot
    only zero filler follows, in a file of full length               the end
    a whole sector of the batch was never written, full length       torn     the end; what follows is dropped
    anything else                                                    suspect  the end, but it may not campaign

A batch is good when structure, CRC, offset and *generation* are: the generation must be the one the durable
generation table (start and cut records in meta) gives for its offset. So neither cut bytes nor flips in the
16 header bytes that the CRC skips can pass.

The log begins at its anchor, if meta names one (SAFETY 26); an anchor that is damaged or missing is rot, and
what lies below a good one is left over from its deletion.

Then meta is rewritten (suspects are on record before their tail goes), and `repair` finishes what the crash
interrupted: files below the anchor and past an unfinished cut are removed, and a last segment holding
anything that is not known to be on disk is written into a *new* file, fsynced and renamed into place. A page
cache may hold bytes that no disk does; a no-op fsync would prove nothing. `repair` may itself be interrupted,
and run again.

Not handled here: mending rot from peers.
"""

from dataclasses import dataclass, field
from itertools import pairwise

from rlog._core import DiskJob, SegmentIndex, Vfs, judge_tail, scan_batches
from rlog.errors import DataDirectoryError
from rlog.generations import GenerationTable
from rlog.log.anchor import load_anchor
from rlog.log.meta import PartitionMeta
from rlog.log.producers import ProducerBatch, ProducerTable
from rlog.log.segment import (
    FILE_NAME,
    TEMPORARY,
    Segment,
    index_name,
    length_for,
    load_index,
    segment_name,
)
from rlog.log.settings import LogSettings
from rlog.log.unreadable import is_damage
from rlog.log.watermarks import Watermark

OFFSET_MAX = 2**63 - 1
COPY_BYTES = 4 << 20


class _Rot(Exception):
    """Proven rot: the message is for the operator."""


@dataclass(slots=True)
class Examined:
    """The verdict on one log.

    segments: oldest first; the last is the active one. generations: orphan starts voided (SAFETY 3).
    damage: why it is quarantined; then nothing on disk is touched. rewrite: the active segment must be
    written anew. remove: file names that must go. producers: the producer table at `producers_from`, encoded;
    appended: the batches of producers after it. base_append_time_ms: the anchor's. clean: it was shut down in
    an orderly way.
    """

    segments: list[Segment] = field(default_factory=list)
    end_offset: int = 0
    generations: GenerationTable = field(default_factory=GenerationTable)
    producers: bytes = b""
    producers_from: int = 0
    appended: list[ProducerBatch] = field(default_factory=list)
    base_append_time_ms: int = -1
    damage: str | None = None
    suspect: bool = False
    rewrite: bool = False
    remove: list[str] = field(default_factory=list)
    clean: bool = False


class Examiner:
    """Judges one partition directory. `watermark` is None when its slot is lost: then less can be proven."""

    def __init__(
        self,
        vfs: Vfs,
        directory: str,
        meta: PartitionMeta,
        watermark: Watermark | None,
        settings: LogSettings,
    ) -> None:
        self._vfs = vfs
        self._directory = directory
        self._meta = meta
        self._settings = settings
        self._generations = GenerationTable(meta.starts)
        self._cut = meta.unfinished_cut
        if watermark is not None and watermark.cut_counter != meta.cut_counter and self._cut is None:
            watermark = None  # a finished cut has synced its watermark: this slot is not what was written
        self._watermark = watermark
        flushed = watermark.flushed_offset if watermark is not None else 0
        if self._cut is not None:
            flushed = min(flushed, self._cut)
        self._flushed = max(flushed, meta.clean_end or 0, meta.anchor)
        self._base = meta.anchor
        self._found = Examined(
            end_offset=meta.anchor,
            producers_from=meta.anchor,
            suspect=meta.suspect,
            clean=meta.clean_end is not None,
        )

    def examine(self) -> Examined:
        """Raises DataDirectoryError for files that are not ours, OSError where the system lets nobody read
        them; rot is reported in the result.
        """
        found = self._found
        try:
            bases = self._list()
            self._load_anchor()
            self._walk(bases)
        except _Rot as rot:
            found.damage = str(rot)
        except OSError as error:
            if not is_damage(error):
                raise
            found.damage = f"cannot be read: {error}"
        found.generations = GenerationTable(
            [start for start in self._generations.entries() if start[1] < found.end_offset]
        )
        return found

    def _list(self) -> list[int]:
        """Base offsets of the segments that count; what is left over, below the anchor, or past an unfinished
        cut, goes."""
        bases = []
        for name in self._vfs.listdir(self._directory):
            if name.endswith(TEMPORARY):
                self._found.remove.append(name)
                continue
            match = FILE_NAME.fullmatch(name)
            if match is None:
                raise DataDirectoryError(f"{self._directory}/{name} is not a file of this version of rlog")
            base, kind = int(match[1]), match[2]
            is_other_anchor = kind == "anchor" and base != self._base
            is_past_cut = self._cut is not None and base > self._cut
            if base < self._base or is_past_cut or is_other_anchor:
                self._found.remove.append(name)
            elif kind == "log":
                bases.append(base)
        if bases and index_name(bases[-1]) in self._vfs.listdir(self._directory):
            self._found.remove.append(index_name(bases[-1]))  # of before a cut, or of a lost successor
        return bases

    def _load_anchor(self) -> None:
        if not self._base:
            return
        anchor = load_anchor(self._vfs, self._directory, self._base)
        if anchor is None or anchor.generation != self._generations.at(self._base - 1):
            raise _Rot(f"its anchor at offset {self._base} is damaged or missing")
        self._found.producers = anchor.producers
        self._found.base_append_time_ms = anchor.append_time_ms

    def _walk(self, bases: list[int]) -> None:
        slot = self._watermark
        if not bases:
            has_had_segment = slot is not None and slot.segment_length and slot.segment_base >= self._base
            if self._flushed > self._base or (has_had_segment and self._cut != self._base):
                raise _Rot("its segments are missing")
            return
        if bases[0] != self._base:
            raise _Rot(f"its first segment is missing: the log starts at {self._base}, not at {bases[0]}")
        for base, end in pairwise(bases):
            self._sealed(base, end)
        self._active(bases[-1])

    def _open(self, base: int) -> Segment:
        file = self._vfs.open(f"{self._directory}/{segment_name(base)}")
        index = SegmentIndex(self._settings.index_interval_bytes)
        return Segment(base, file.size(), file, index, base, created=True, named=True)

    def _scan(self, segment: Segment, data: bytes, end_max: int) -> None:
        """Walk over good batches from the segment's base, run by run of the generation table."""
        position, offset = 0, segment.base_offset
        while offset < end_max:
            generation = self._generations.at(offset)
            run_end = min(self._generations.run_end(offset, OFFSET_MAX), end_max)
            if generation == 0:
                break
            position, offset = scan_batches(
                data, position, offset, generation, run_end, segment.index, self._found.appended
            )
            if offset < run_end:
                break
        segment.fill = segment.written = position
        segment.end_offset = self._found.end_offset = offset

    def _sealed(self, base: int, end: int) -> None:
        """A segment with a successor: trusted through its index file, or else scanned whole."""
        segment = self._open(base)
        stored = load_index(self._vfs, self._directory, base, self._settings.index_interval_bytes)
        if stored is not None and stored.end_offset == end and stored.end_position <= segment.length:
            segment.index = stored.index
            segment.fill = segment.written = stored.end_position
            segment.end_offset = self._found.end_offset = end
            segment.indexed = True
            self._found.producers = stored.producers
        else:
            self._scan(segment, segment.file.pread(segment.length, 0), end)
            table = ProducerTable.decode(self._found.producers)
            table.appended(self._found.appended)
            self._found.producers, self._found.appended = table.encode(), []
            segment.seal = segment.encode_index(self._found.producers)
        self._found.producers_from = end
        segment.file.close()
        self._found.segments.append(segment)
        if segment.end_offset != end:
            raise _Rot(f"the batch at offset {segment.end_offset} in the full segment {base} is damaged")

    def _active(self, base: int) -> None:
        """The last segment: scanned whole, its end judged."""
        found = self._found
        segment = self._open(base)
        found.segments.append(segment)
        data = segment.file.pread(segment.length, 0)
        self._scan(segment, data, OFFSET_MAX if self._cut is None else self._cut)
        end = segment.end_offset
        if end < self._flushed:
            raise _Rot(f"the batch at offset {end} is damaged: the log was flushed up to {self._flushed}")
        slot = self._watermark
        if slot is not None and slot.segment_base > base and self._cut is None:
            raise _Rot(f"the segment {slot.segment_base} is missing")
        length = length_for(segment.length, 0, self._settings)
        if slot is not None and slot.segment_base == base:
            length = slot.segment_length
        full = segment.length >= length
        segment.length = length
        if end == self._cut:
            found.rewrite = True
            return
        verdict = judge_tail(data, segment.fill, end, self._settings.round_bytes_max)
        if verdict == "later":
            raise _Rot(f"the batch at offset {end} is damaged: a good batch of a later flush follows it")
        proven = full and (verdict == "end" or (verdict == "torn" and slot is not None))
        found.suspect = found.suspect or not proven
        found.rewrite = not proven or verdict != "end" or end > self._flushed


def repair(vfs: Vfs, directory: str, found: Examined, settings: LogSettings) -> None:
    """Blocking: bring the files into the state `examine` found. Idempotent. Raises OSError."""
    job = DiskJob(vfs)
    if found.rewrite:
        old = found.segments[-1]
        new = Segment.new(vfs, directory, old.base_offset, old.length, settings)
        new.index, new.end_offset, new.fill, new.written = old.index, old.end_offset, old.fill, old.fill
        job.create(new.file)
        job.fallocate(new.file, new.length)
        for position in range(0, old.fill, COPY_BYTES):
            job.write(new.file, position, [old.file.pread(min(COPY_BYTES, old.fill - position), position)])
        job.fsync(new.file)
        name = f"{directory}/{segment_name(new.base_offset)}"
        job.rename(name + TEMPORARY, name)
        new.created = new.named = True
        found.segments[-1] = new
    for name in found.remove:
        if not (found.rewrite and name == segment_name(found.segments[-1].base_offset) + TEMPORARY):
            job.unlink(f"{directory}/{name}")
    for segment in found.segments[:-1]:
        if not segment.indexed:
            segment.add_index(job, vfs, directory)
    if len(job) or not found.clean:
        job.fsync_dir(directory)  # also for names that a killed process left in the page cache alone
        job.run()
    if job.error:
        raise OSError(job.error, f"{job.error_operation} failed")
