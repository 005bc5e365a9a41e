"""Anchors: what stands for the deleted prefix of a log (SAFETY 26).

An anchor says what the log was at a batch boundary: the generation of the record before it, the time that a
leader stamped on it, and the producer table there. Anchor and remaining records together give everything that
the whole log gave. It lies beside the segments, in `<offset, 20 digits>.anchor`, and is fsynced before meta
names it, which is before the first byte of the prefix goes. A follower that lags behind the start of its
leader's log installs the leader's anchor.

    4 "RLAN" | 4 version | 8 offset | 4 generation | 8 run start | 8 append time | 4 table bytes
    the producer table (producers.py) | 4 crc32c of all before

generation: of the record before `offset`; run start: where its run begins; append time: see `Anchor`.
"""

from dataclasses import dataclass
from struct import Struct

from crc32c import crc32c

from rlog._core import DiskJob, File, Vfs
from rlog.log.producers import TABLE_BYTES_MAX
from rlog.log.unreadable import read_whole

MAGIC = b"RLAN"
VERSION = 2
HEADER = Struct(">4sIQIQqI")
CRC = Struct(">I")

ANCHOR_BYTES_MAX = HEADER.size + TABLE_BYTES_MAX + CRC.size
"""The largest anchor; it travels in one frame."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The log up to `offset`, a batch boundary above 0.

    generation: of the record before it, whose run begins at `run_start`. append_time_ms: what a leader
    stamped on that record; -1 when it has its producer's time. producers: the producer table at `offset`, as
    ProducerTable.encode() has it.
    """

    offset: int
    generation: int
    run_start: int
    append_time_ms: int = -1
    producers: bytes = b""

    def encode(self) -> bytes:
        fields = (self.offset, self.generation, self.run_start, self.append_time_ms, len(self.producers))
        header = HEADER.pack(MAGIC, VERSION, *fields)
        crc = crc32c(self.producers, crc32c(header))
        return b"".join((header, self.producers, CRC.pack(crc)))


def decode_anchor(data: bytes) -> Anchor | None:
    """None when anything about it is wrong. The producer table is not looked into."""
    if len(data) < HEADER.size + CRC.size or CRC.unpack(data[-4:])[0] != crc32c(memoryview(data)[:-4]):
        return None
    magic, version, offset, generation, run_start, append_time_ms, size = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or size != len(data) - HEADER.size - CRC.size:
        return None
    return Anchor(offset, generation, run_start, append_time_ms, data[HEADER.size : -4])


def anchor_name(offset: int) -> str:
    return f"{offset:020}.anchor"


def load_anchor(vfs: Vfs, directory: str, offset: int) -> Anchor | None:
    """The anchor at `offset`; None when it is absent or wrong. Raises OSError where that cannot be known."""
    data = read_whole(vfs, f"{directory}/{anchor_name(offset)}")
    anchor = None if data is None else decode_anchor(data)
    return anchor if anchor is not None and anchor.offset == offset else None


def add_anchor(job: DiskJob, vfs: Vfs, directory: str, anchor: Anchor) -> None:
    """Write the file, sync it, name it, sync the name (SAFETY 17)."""
    path = f"{directory}/{anchor_name(anchor.offset)}"
    file = File(vfs, f"{path}.tmp")
    job.create(file)
    job.write(file, 0, [anchor.encode()])
    job.fsync(file)
    job.rename(f"{path}.tmp", path)
    job.fsync_dir(directory)
