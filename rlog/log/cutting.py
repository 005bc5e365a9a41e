"""Carrying a cut out: after this job nothing of what was cut is left on disk (SAFETY 14).

Later segments and index files that reach past the cut are unlinked, the rest of the segment that holds it is
zeroed, all of it synced. The log syncs its lowered watermark in the same job, and only then has meta record
that the cut is done: before that, recovery carries it out again.
"""

from dataclasses import dataclass

from rlog._core import DiskJob, Vfs
from rlog.log.segment import Segment, index_name, segment_name


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut at `offset`, which lies at `position` of `segment`."""

    offset: int
    segment: Segment
    position: int


def add_cut(job: DiskJob, vfs: Vfs, directory: str, cut: Cut, removed: list[Segment]) -> None:
    """removed: the segments behind the one that is cut. Raises OSError: that one cannot be opened."""
    segment = cut.segment
    names = []
    for gone in removed:
        names += [segment_name(gone.base_offset)] + [index_name(gone.base_offset)] * gone.indexed
    if segment.indexed:
        names.append(index_name(segment.base_offset))
        segment.indexed = False
    for name in names:
        job.unlink(f"{directory}/{name}")
    if segment.created:
        if not segment.file.is_open:
            segment.file = vfs.open(f"{directory}/{segment_name(segment.base_offset)}")
        if segment.written > cut.position:
            job.zero(segment.file, cut.position, segment.written - cut.position)
            segment.written = cut.position
        job.fdatasync(segment.file)
    if names:
        job.fsync_dir(directory)
