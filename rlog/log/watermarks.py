"""Flushed watermarks: how far each log is known to be on disk, in a file of their own (SAFETY 19).

One sector of 512 bytes per partition, so that a slot is written as a whole or not at all:

    4 "RLWM" | 4 crc32c of the partition's name | 8 cut counter | 8 flushed offset
    8 base offset of the active segment | 8 its preallocated length | 4 crc32c of the 40 bytes before

Each flush round writes its slot after its fdatasync, without a sync of its own: exact after a process
kill, and as old as the last `watermark_job` after a power cut. A watermark may be low, never high: it
names what an fdatasync that succeeded covers. Where recovery must rely on a slot (a new segment, a cut, a
round whose bytes could pass for torn) the job syncs the file too, before anything depends on it.
"""

from dataclasses import dataclass
from struct import Struct, error

from crc32c import crc32c

from rlog._core import DiskJob, File, Vfs
from rlog.errors import StorageFailed

NAME = "watermarks"
MAGIC = b"RLWM"
SLOT_BYTES = 512
SLOT = Struct(">4sIQQQQ")
CRC = Struct(">I")


@dataclass(frozen=True, slots=True)
class Watermark:
    """One slot. Offsets are ends; segment_length is in bytes."""

    cut_counter: int
    flushed_offset: int
    segment_base: int
    segment_length: int


def encode_slot(
    name_crc: int, cut_counter: int, flushed: int, segment_base: int, segment_length: int
) -> bytes:
    data = SLOT.pack(MAGIC, name_crc, cut_counter, flushed, segment_base, segment_length)
    return data + CRC.pack(crc32c(data))


def decode_slot(data: bytes, name_crc: int) -> Watermark | None:
    """None when the slot is damaged or of another partition: then nothing is known."""
    try:
        magic, stored_name_crc, *fields = SLOT.unpack_from(data)
        (crc,) = CRC.unpack_from(data, SLOT.size)
    except error:
        return None
    if magic != MAGIC or stored_name_crc != name_crc or crc != crc32c(data[: SLOT.size]):
        return None
    return Watermark(*fields)


def name_crc(partition: str) -> int:
    return crc32c(partition.encode())


class Watermarks:
    """The open file. dirty: a round wrote a slot since the last sync. failed: an error on it, which is final
    (SAFETY 15): recovery relies on slots that a later sync may never write, of whichever log.
    """

    def __init__(self, vfs: Vfs, directory: str) -> None:
        self._vfs = vfs
        self._directory = directory
        self._path = f"{directory}/{NAME}"
        self.file = File(vfs, f"{self._path}.tmp")
        self.dirty = False
        self.failed: StorageFailed | None = None

    @staticmethod
    def load(vfs: Vfs, directory: str) -> bytes:
        """All slots as found; empty when the file is lost."""
        try:
            file = vfs.open(f"{directory}/{NAME}")
        except FileNotFoundError:
            return b""
        data = file.pread(file.size(), 0)
        file.close()
        return data

    def create(self, slots: dict[int, bytes]) -> None:
        """Blocking, at start: a new file with these slots, synced, in the place of the old one."""
        data = bytearray(SLOT_BYTES * (max(slots, default=0) + 1))
        for number, slot in slots.items():
            data[number * SLOT_BYTES : number * SLOT_BYTES + len(slot)] = slot
        job = DiskJob(self._vfs)
        job.create(self.file)
        job.write(self.file, 0, [bytes(data)])
        job.fsync(self.file)
        job.rename(f"{self._path}.tmp", self._path)
        job.fsync_dir(self._directory)
        job.run()
        if job.error:
            raise OSError(job.error, f"{job.error_operation} failed")

    def sync_job(self) -> DiskJob | None:
        """Fdatasync the file when a slot changed. None when none did, or the file failed."""
        if not self.dirty or self.failed is not None:
            return None
        self.dirty = False
        job = DiskJob(self._vfs)
        job.fdatasync(self.file)
        return job

    def sync_done(self, job: DiskJob) -> None:
        """Raises StorageFailed: the watermarks on disk may be old, and recovery relies on their age."""
        if job.error:
            self.failed = StorageFailed.of("watermarks", job.error_operation, job.error)
            raise self.failed

    def close(self) -> None:
        self.file.close()
