"""Segment files: their names, their index files, and what the log keeps in memory of each.

A segment `<base offset, 20 digits>.log` is preallocated (zero filler), and holds a dense run of stamped
batches from byte 0. It gets its name only when it has its full length on disk (created as `.tmp`,
fallocated, fsynced, renamed), so a shorter one was shortened by someone else. Beside each segment but the
last lies an index file:

    4 "RLIX" | 4 version | 8 base offset | 8 end offset | 8 end position | 4 index bytes | 4 producer bytes
    index: 24-byte entries (offset, position, largest timestamp up to the next entry, -1: none)
    the producer table (producers.py) | 4 crc32c of all before

It is written without a sync as the segment is sealed, and rebuilt by a scan when it is absent or wrong.
"""

import re
from dataclasses import dataclass
from struct import Struct

from crc32c import crc32c

from rlog._core import DiskJob, File, SegmentIndex, Span, Vfs
from rlog.log.settings import LogSettings
from rlog.log.unreadable import read_whole

FILE_NAME = re.compile(r"([0-9]{20})\.(log|index|anchor)")
TEMPORARY = ".tmp"
INDEX_MAGIC = b"RLIX"
INDEX_VERSION = 3
INDEX_HEADER = Struct(">4sIQQQII")
CRC = Struct(">I")


def segment_name(base_offset: int) -> str:
    return f"{base_offset:020}.log"


def index_name(base_offset: int) -> str:
    return f"{base_offset:020}.index"


@dataclass(slots=True)
class Segment:
    """One segment of an open log.

    length: preallocated bytes. fill: where the next batch goes. written: no byte at or past it was ever
    handed to a job; between fill and written lie cut bytes, until zeroed. end_offset: end of the last
    batch in it. created: a job that creates the file was built (or the file was found). named: a file of its
    name may exist, this one or an empty one that it takes the name of. indexed: its index file may exist.
    """

    base_offset: int
    length: int
    file: File
    index: SegmentIndex
    end_offset: int
    fill: int = 0
    written: int = 0
    created: bool = False
    named: bool = False
    indexed: bool = False
    seal: bytes = b""

    @property
    def max_timestamp_ms(self) -> int:
        """The largest timestamp of its records, as their batches' headers have it; -1 when none has one."""
        return self.index.max_timestamp_ms

    @staticmethod
    def new(vfs: Vfs, directory: str, base_offset: int, length: int, settings: LogSettings) -> "Segment":
        file = File(vfs, f"{directory}/{segment_name(base_offset)}{TEMPORARY}")
        return Segment(base_offset, length, file, SegmentIndex(settings.index_interval_bytes), base_offset)

    def add(self, span: Span) -> None:
        """`span` follows what is in it."""
        self.index.add(span, self.fill)
        self.fill += span.size
        self.end_offset = span.end_offset

    def add_creation(self, job: DiskJob, directory: str) -> None:
        """Create, preallocate, sync, name, sync the name: all before a byte goes into it (SAFETY 17)."""
        name = f"{directory}/{segment_name(self.base_offset)}"
        job.create(self.file)
        job.fallocate(self.file, self.length)
        job.fsync(self.file)
        job.rename(name + TEMPORARY, name)
        job.fsync_dir(directory)
        self.created = self.named = True

    def add_index(self, job: DiskJob, vfs: Vfs, directory: str) -> None:
        """Write the index file of this full segment, unsynced: recovery rebuilds a bad one."""
        file = File(vfs, f"{directory}/{index_name(self.base_offset)}")
        job.create(file)
        job.write(file, 0, [self.seal])
        self.indexed = True
        self.seal = b""

    def encode_index(self, producers: bytes) -> bytes:
        """The index file of this segment as it is now. producers: the table at its end, encoded."""
        index = self.index.to_bytes()
        fields = (self.base_offset, self.end_offset, self.fill, len(index), len(producers))
        header = INDEX_HEADER.pack(INDEX_MAGIC, INDEX_VERSION, *fields)
        crc = crc32c(producers, crc32c(index, crc32c(header)))
        return b"".join((header, index, producers, CRC.pack(crc)))


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A decoded index file. producers: the table at its end, encoded."""

    index: SegmentIndex
    base_offset: int
    end_offset: int
    end_position: int
    producers: bytes


def decode_index(data: bytes, interval_bytes: int) -> IndexFile | None:
    """None when anything about it is wrong: then it is rebuilt."""
    if len(data) < INDEX_HEADER.size + CRC.size or CRC.unpack(data[-4:])[0] != crc32c(data[:-4]):
        return None
    magic, version, base, end, position, index_bytes, table_bytes = INDEX_HEADER.unpack_from(data)
    body = data[INDEX_HEADER.size : -4]
    if magic != INDEX_MAGIC or version != INDEX_VERSION or len(body) != index_bytes + table_bytes:
        return None
    index = SegmentIndex.from_bytes(body[:index_bytes], interval_bytes)
    return IndexFile(index, base, end, position, body[index_bytes:])


def load_index(vfs: Vfs, directory: str, base_offset: int, interval_bytes: int) -> IndexFile | None:
    """The index file of the segment `base_offset`; None when it is absent or wrong.

    Raises OSError where that cannot be known.
    """
    data = read_whole(vfs, f"{directory}/{index_name(base_offset)}")
    stored = None if data is None else decode_index(data, interval_bytes)
    return stored if stored is not None and stored.base_offset == base_offset else None


def length_for(size: int, previous_length: int, settings: LogSettings) -> int:
    """Bytes to preallocate for a segment whose first span has `size` bytes: doubling, but always enough."""
    length = min(max(2 * previous_length, settings.segment_bytes_min), settings.segment_bytes_max)
    while length < size:
        length *= 2
    return length


def next_length(last: Segment | None, size: int, settings: LogSettings, *, is_ended_early: bool) -> int:
    """Of the segment after `last`, for a first span of `size` bytes.

    is_ended_early: so that `last` can be deleted in time; then the next one is made for as much as it holds,
    and a log of which little is kept stays in small files.
    """
    if last is None:
        return length_for(size, 0, settings)
    if is_ended_early:
        return length_for(max(size, last.fill), 0, settings)
    return length_for(size, last.length, settings)
