"""The deleted prefix of a log: where readers may begin, where the files begin, and how the latter follows.

Two places, both of which only grow:

    base_offset    a batch boundary: the oldest segment begins here, and consensus knows nothing below it
    start_offset   what readers see (SAFETY 10): at or above base_offset, perhaps inside a batch

`trim` moves the start, durably and at once; deleting follows in three steps, each a job or record of its own:

    the anchor at the new base is written and fsynced     crash: an anchor that nobody names, removed
    meta names it                                         crash: segments below the base, removed
    segments and index files below it are unlinked

Only whole segments go, and only what is flushed and committed (SAFETY 7). Files are unlinked, never used
again (SAFETY 53); who reads one has it open or has its bytes already (SAFETY 55).
"""

import errno
from bisect import bisect_right

from rlog._core import DiskJob, Vfs
from rlog.errors import CorruptLog, InvariantBroken, StorageFailed
from rlog.log.anchor import Anchor, add_anchor, anchor_name, load_anchor
from rlog.log.directory import mend_of
from rlog.log.meta import Meta
from rlog.log.segment import Segment, index_name, segment_name
from rlog.log.unreadable import refused

SHORTAGES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})


class Prefix:
    """What is deleted of one log. The owner runs one job of it at a time, and reports its end."""

    def __init__(
        self,
        name: str,
        vfs: Vfs,
        directory: str,
        *,
        meta: Meta,
        segments: list[Segment],
        append_time_ms: int,
    ) -> None:
        state = meta.state.partitions[name]
        self.base_offset = state.anchor
        self.start_offset = max(state.log_start, state.anchor)
        self.append_time_ms = append_time_ms  # of the record before the base, as its anchor has it
        self.shortage = ""  # why an anchor could not be made; nothing is tried before the owner takes it back
        self._name = name
        self._vfs = vfs
        self._directory = directory
        self._meta = meta
        self._segments = segments  # shared with the log
        self._doomed: list[str] = []  # files below the base, once meta has named its anchor
        self._doomed_barrier = 0  # the meta sequence of that

    @property
    def is_settled(self) -> bool:
        """No file below the base is left to be unlinked."""
        return not self._doomed

    def trim(self, offset: int) -> int:
        """Readers may not begin below `offset` any more. Returns the meta sequence that makes it durable.

        Raises InvariantBroken for what is no offset: a record of it could never be taken back.
        """
        if type(offset) is not int:
            raise InvariantBroken(f"{self._name}: trim at {offset!r}")
        self.shortage = ""
        if offset <= self.start_offset:
            return self._meta.sequence
        self.start_offset = offset
        return self._meta.queue("log_start", self._name, offset)

    def next_base(self, flushed_offset: int, idle_end: int | None) -> int | None:
        """The highest base that the start allows, if above the present one.

        flushed_offset: at or below it everything is flushed and committed. idle_end: the end of the log when
        all of it is, and nothing is under way: then even the active segment may go.
        """
        if self.start_offset == self.base_offset or self._doomed or self.shortage:
            return None
        if idle_end is not None and self.start_offset >= idle_end:
            return idle_end if idle_end > self.base_offset else None
        limit = min(self.start_offset, flushed_offset)
        found = bisect_right(self._segments, limit, key=lambda segment: segment.base_offset) - 1
        if found < 1 or not self._segments[found].created:
            return None
        return self._segments[found].base_offset

    def anchor_job(self, anchor: Anchor) -> DiskJob:
        """Make the anchor of the new base durable."""
        job = DiskJob(self._vfs)
        add_anchor(job, self._vfs, self._directory, anchor)
        return job

    def tolerates(self, job: DiskJob) -> bool:
        """Whether an anchor could not be written for want of room, or of a descriptor: nothing depends on it
        yet (SAFETY 16).
        """
        if job.error in SHORTAGES:
            failed = StorageFailed.of(self._name, job.error_operation, job.error)
            self.shortage = f"{failed}{mend_of(job.error)}"
        return job.error in SHORTAGES

    def anchor(self) -> Anchor:
        """What stands for the deleted prefix, from its file. Blocking. Raises CorruptLog, ReadFailed."""
        what = f"{self._name}: its anchor at offset {self.base_offset}"
        try:
            found = load_anchor(self._vfs, self._directory, self.base_offset)
        except OSError as error:
            raise refused(f"{what} cannot be read: {error}", error) from error
        if found is None:
            raise CorruptLog(f"{what} is damaged or missing", partition=self._name, offset=self.base_offset)
        return found

    def anchored(self, anchor: Anchor) -> None:
        """The anchor is durable: name it, and forget what lies below."""
        self._doom_files(anchor.offset)
        self._doomed_barrier = self._meta.queue("anchor", self._name, anchor.offset)
        self.base_offset = anchor.offset
        self.append_time_ms = anchor.append_time_ms

    def _doom_files(self, base_offset: int) -> None:
        if self.base_offset:
            self._doomed.append(anchor_name(self.base_offset))
        # A segment that begins at the base, and is empty, keeps its name: the next one would take it.
        while self._segments and self._segments[0].base_offset < base_offset:
            gone = self._segments.pop(0)
            gone.file.close()
            self.doom(gone)

    def doom(self, segment: Segment) -> None:
        """Its files go with the next job; one under way may still write to them."""
        if segment.named:
            self._doomed.append(segment_name(segment.base_offset))
        if segment.indexed:
            self._doomed.append(index_name(segment.base_offset))

    def unlink_job(self) -> DiskJob | None:
        """Unlink what lies below the base; None when there is nothing, or meta has not named the base yet."""
        if not self._doomed or self._meta.flushed_sequence < self._doomed_barrier:
            return None
        job = DiskJob(self._vfs)
        self.add_unlinks(job)
        return job

    def add_unlinks(self, job: DiskJob) -> None:
        for name in self._doomed:
            job.unlink(f"{self._directory}/{name}")
        job.fsync_dir(self._directory)
        self._doomed = []

    def replace(self, anchor: Anchor) -> None:
        """The whole log goes; `anchor` stands for it. Its record in meta is the owner's."""
        if self.base_offset:
            self._doomed.append(anchor_name(self.base_offset))
        for segment in self._segments:
            self.doom(segment)
        self._segments.clear()
        self.shortage = ""
        self.base_offset = anchor.offset
        self.start_offset = max(self.start_offset, anchor.offset)
        self.append_time_ms = anchor.append_time_ms
