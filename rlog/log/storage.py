"""One data directory: its lock, its format, meta, watermarks and the logs of its partitions.

    lock                       held by the one process that uses the directory (SAFETY 50)
    format                     "rlog data directory", the format's number, and whose it is (SAFETY 49)
    meta.a meta.b              votes, generation starts, cuts, pins … (meta.py)
    watermarks                 how far each log is known to be flushed (watermarks.py)
    partitions/<topic>-<n>/    segments, their index files (segment.py), an anchor (anchor.py)

Opening is blocking, and in this order: lock, format, meta, examine every log (reading only), rewrite meta
with the next incarnation and what was found, repair the logs, new watermarks. Each step may be
interrupted; the next opening then finds the same or less to do.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from random import Random
from typing import Final, Literal, get_args

from rlog._core import DiskJob, File, Vfs, iterate_batches
from rlog.errors import CorruptLog, DataDirectoryError, StorageFailed
from rlog.log.directory import holder_of, refusal
from rlog.log.log import PartitionLog
from rlog.log.meta import COPIES, Meta
from rlog.log.recovery import Examined, Examiner, repair
from rlog.log.segment import FILE_NAME
from rlog.log.settings import LogSettings
from rlog.log.watermarks import SLOT_BYTES, Watermarks, decode_slot, encode_slot, name_crc

__all__ = ["LogSettings", "Storage", "partition_digest", "read_partition"]

FORMAT_TEXT = re.compile(r"rlog data directory\nformat ([0-9]+)\n(.*)", re.DOTALL)
FORMAT = 1
PARTITIONS = "partitions"

Kind = Literal["a cluster node", "an embedded log"]
NODE: Final = "a cluster node"
EMBEDDED: Final = "an embedded log"


class Storage:
    """The open data directory of one node. Loop thread only.

    meta: the node's durable decisions. logs: by partition name, in the order they were asked for.
    The node runs `meta.flush_job()` and each log's `flush_job()` through its DiskExecutor, and asks all of
    them again after every completion: a log's next job may wait for meta, and a finished cut queues a meta
    record.
    """

    def __init__(self, vfs: Vfs, directory: str, lock: File, meta: Meta, watermarks: Watermarks) -> None:
        self.directory = directory
        self.meta = meta
        self.logs: dict[str, PartitionLog] = {}
        self._vfs = vfs
        self._lock = lock
        self._watermarks = watermarks

    @staticmethod
    def open(
        vfs: Vfs,
        directory: str,
        *,
        random: Random,
        partitions: Sequence[str],
        settings: LogSettings | None = None,
        kind: Kind = NODE,
    ) -> "Storage":
        """Open (or create) `directory` for these partitions; others that it holds are left alone. Blocking.

        Raises DataDirectoryError: in use, foreign, of another kind or a newer version, damaged meta, or not
        accessible.
        Rot of one partition does not raise: it sets that log's `damage`.
        """
        settings = settings or LogSettings()
        try:
            _make_directory(vfs, directory)
            lock = _take_lock(vfs, directory)
            try:
                _check_format(vfs, directory, random, settings, kind)
                return _open_locked(vfs, directory, lock, partitions, settings)
            except BaseException:
                lock.close()
                raise
        except (OSError, StorageFailed) as error:
            raise refusal(directory, error) from error

    @property
    def failed(self) -> StorageFailed | None:
        """The error that is final for all logs: of meta (SAFETY 52), or of the watermarks, where each of
        their rounds writes, and a later sync may succeed without having written that (SAFETY 15).
        """
        return self.meta.failed or self._watermarks.failed

    def watermark_job(self) -> DiskJob | None:
        """Sync the watermarks: to be run about each second. None when there is nothing to do."""
        return self._watermarks.sync_job()

    def watermark_done(self, job: DiskJob) -> None:
        """Take the end of `watermark_job`'s job. Raises StorageFailed: no watermark can be relied on any
        more.
        """
        self._watermarks.sync_done(job)

    def close(self) -> None:
        """Orderly, blocking: flush what is queued, record the clean shutdown, unlock.

        Jobs handed out before must have been completed. A log that failed or is damaged is just closed, and
        recovered at the next opening. Idempotent.
        """
        if not self._lock.is_open:
            return
        try:
            self._close_clean()
        finally:
            self._close_files()
            self._lock.unlock()

    def reopen(self, settings: LogSettings) -> "Storage":
        """What a crash and an opening would make of it, the lock being kept all the while. Blocking.

        For an owner that does not know what state it is in; it takes what is returned instead, and no job may
        be under way. Raises DataDirectoryError.
        """
        self._close_files()
        try:
            return _open_locked(self._vfs, self.directory, self._lock, list(self.logs), settings)
        except (OSError, StorageFailed) as error:
            raise refusal(self.directory, error) from error

    def drop(self) -> None:
        """Close every descriptor and unlock, recording nothing: the next opening recovers. Idempotent."""
        self._close_files()
        self._lock.unlock()

    def abandon(self) -> None:
        """Close every descriptor and write nothing, as if the process had ended; what a forked child does
        with the copies that it has, for which the lock is not its own to give up. Idempotent."""
        self._close_files()
        self._lock.close()

    def _close_files(self) -> None:
        for log in self.logs.values():
            log.close()
        self.meta.close()
        self._watermarks.close()

    def _close_clean(self) -> None:
        self.meta.flush()
        for log in self.logs.values():
            try:
                while (job := log.flush_job()) is not None:
                    job.run()
                    log.flush_done(job)
                    self.meta.flush()
            except StorageFailed as error:
                if error is not log.failed:
                    raise
                # fenced: it stays out of the record below, so the next opening recovers it
            except CorruptLog:
                continue  # quarantined: likewise
        job = self._watermarks.sync_job()
        if job is not None:
            job.run()
            self._watermarks.sync_done(job)
        ends = {name: log.end_offset for name, log in self.logs.items() if log.is_clean}
        if self.meta.failed is None:
            self.meta.queue("clean", ends)
            self.meta.flush()


def _make_directory(vfs: Vfs, directory: str) -> None:
    """Make sure that it exists, and will after a power cut: it may have been made by a process that died."""
    with suppress(FileExistsError):
        vfs.mkdir(directory)
    vfs.fsync_dir(directory.rpartition("/")[0] or ("/" if directory.startswith("/") else "."))


def _take_lock(vfs: Vfs, directory: str) -> File:
    try:
        return vfs.lock(f"{directory}/lock")
    except BlockingIOError as error:
        holder = holder_of(f"{directory}/lock")
        raise DataDirectoryError(
            f"{directory} is in use by {holder}: end that, or name another directory"
        ) from error


def _open_locked(
    vfs: Vfs, directory: str, lock: File, partitions: Sequence[str], settings: LogSettings
) -> Storage:
    meta = Meta.load(vfs, directory, bytes_max=settings.meta_bytes_max)
    slots = Watermarks.load(vfs, directory)
    found = _examine(vfs, directory, meta, slots, partitions, settings)
    meta.state.incarnation += 1
    meta.rewrite()
    for name, examined in found.items():
        if examined.damage is None:
            repair(vfs, f"{directory}/{PARTITIONS}/{name}", examined, settings)
    _finish_cuts(meta, found)
    watermarks = Watermarks(vfs, directory)
    watermarks.create(_new_slots(meta, slots, found))
    storage = Storage(vfs, directory, lock, meta, watermarks)
    for name, examined in found.items():
        storage.logs[name] = PartitionLog(
            name,
            vfs,
            f"{directory}/{PARTITIONS}/{name}",
            meta=meta,
            watermarks=watermarks,
            settings=settings,
            found=examined,
        )
    return storage


def _check_format(vfs: Vfs, directory: str, random: Random, settings: LogSettings, kind: Kind) -> None:
    """Accept a directory of this format and kind, make a new one of an empty one, refuse everything else."""
    names = vfs.listdir(directory)
    if "format" in names:
        file = vfs.open(f"{directory}/format")
        text = file.pread(4096, 0).decode("utf-8", "replace")
        file.close()
        match = FORMAT_TEXT.fullmatch(text)
        if match is not None and int(match[1]) != FORMAT:
            raise DataDirectoryError(
                f"{directory} has format {match[1]}; this rlog reads format {FORMAT}: "
                "use the rlog that wrote it"
            )
        found = match[2].strip().removeprefix("of ") if match is not None else ""
        if found not in get_args(Kind):
            raise DataDirectoryError(
                f"{directory}/format is not that of an rlog data directory: name another directory"
            )
        if found != kind:
            raise DataDirectoryError(
                f"{directory} is the data directory of {found}, not of {kind}: name another directory"
            )
        return
    # What a first opening may leave behind when interrupted; it wrote `format` last, before any partition.
    ours = {"lock", *COPIES, *(f"{copy}.tmp" for copy in COPIES), "format.tmp"}
    foreign = [name for name in names if name not in ours]
    if foreign:
        raise DataDirectoryError(
            f"{directory} is not an rlog data directory: it holds {foreign[0]!r}; "
            "name another, or an empty one"
        )
    Meta.create(vfs, directory, random, bytes_max=settings.meta_bytes_max).rewrite()
    file = File(vfs, f"{directory}/format.tmp")
    job = DiskJob(vfs)
    job.create(file)
    job.write(file, 0, [f"rlog data directory\nformat {FORMAT}\nof {kind}\n".encode()])
    job.fsync(file)
    job.rename(f"{directory}/format.tmp", f"{directory}/format")
    job.fsync_dir(directory)
    job.run()
    if job.error:
        raise OSError(job.error, f"{job.error_operation} failed")


def _examine(
    vfs: Vfs, directory: str, meta: Meta, slots: bytes, partitions: Sequence[str], settings: LogSettings
) -> dict[str, Examined]:
    """Judge each log, reading only, and put what was found into meta's state, for the rewrite to make
    durable.
    """
    _make_directory(vfs, f"{directory}/{PARTITIONS}")
    created = False
    found = {}
    for name in partitions:
        path = f"{directory}/{PARTITIONS}/{name}"
        if name not in meta.state.partitions:
            taken = [partition.slot for partition in meta.state.partitions.values()]
            _make_partition(vfs, path)
            meta.state.apply(["partition", name, max(taken, default=-1) + 1])
            created = True
        partition = meta.state.partitions[name]
        sector = slots[partition.slot * SLOT_BYTES : (partition.slot + 1) * SLOT_BYTES]
        examined = Examiner(vfs, path, partition, decode_slot(sector, name_crc(name)), settings).examine()
        found[name] = examined
        if examined.damage is None:
            partition.starts = examined.generations.entries()
            partition.suspect = examined.suspect
            partition.clean_end = None
            if examined.generations.last > partition.generation:
                partition.generation, partition.vote = examined.generations.last, 0  # SAFETY 2
    if created:
        vfs.fsync_dir(f"{directory}/{PARTITIONS}")
    return found


def _make_partition(vfs: Vfs, path: str) -> None:
    """A directory for a partition that meta does not know: new, or left empty by an interrupted opening."""
    try:
        vfs.mkdir(path)
    except FileExistsError as error:
        if any(FILE_NAME.fullmatch(name) for name in vfs.listdir(path)):
            raise DataDirectoryError(
                f"{path} holds segments, but meta does not know the partition"
            ) from error


def _finish_cuts(meta: Meta, found: dict[str, Examined]) -> None:
    """The repairs have finished every recorded cut (SAFETY 14): say so, durably."""
    for name, examined in found.items():
        partition = meta.state.partitions[name]
        if examined.damage is None and partition.unfinished_cut is not None:
            meta.queue("cut_done", name, partition.cut_counter)
    meta.flush()


def _new_slots(meta: Meta, slots: bytes, found: dict[str, Examined]) -> dict[int, bytes]:
    """Every recovered log is flushed to its end; slots of damaged and of other partitions stay as they
    are.
    """
    new = {}
    for name, partition in meta.state.partitions.items():
        examined = found.get(name)
        if examined is None or examined.damage is not None:
            new[partition.slot] = slots[partition.slot * SLOT_BYTES : (partition.slot + 1) * SLOT_BYTES]
            continue
        base, length = 0, 0
        if examined.segments:
            base, length = examined.segments[-1].base_offset, examined.segments[-1].length
        new[partition.slot] = encode_slot(
            name_crc(name), partition.cut_counter, examined.end_offset, base, length
        )
    return new


def read_partition(
    directory: str, partition: str, upto: int, *, vfs: Vfs | None = None
) -> Iterator[memoryview]:
    """Offline, read-only: the batches of a log from where its files begin up to boundary `upto`, checked, in
    big pieces.

    For comparing replicas byte for byte: equal logs give equal bytes, whatever their segments. Takes no lock.
    Raises CorruptLog when a batch is bad or missing.
    """
    vfs = vfs or Vfs.system()
    path = f"{directory}/{PARTITIONS}/{partition}"
    offset = -1
    for name in vfs.listdir(path):
        match = FILE_NAME.fullmatch(name)
        if match is None or match[2] != "log" or offset >= upto:
            continue
        if offset < 0:
            offset = int(match[1])
        file = vfs.open(f"{path}/{name}")
        data = memoryview(file.pread(file.size(), 0))
        file.close()
        end = 0
        while offset < upto and end + 61 <= len(data) and int.from_bytes(data[end : end + 8]) == offset:
            offset += int.from_bytes(data[end + 23 : end + 27]) + 1
            end += int.from_bytes(data[end + 8 : end + 12]) + 12
        iterate_batches(data[:end])
        yield data[:end]
    if offset != upto and (upto, offset) != (0, -1):
        raise CorruptLog(f"{path} ends at {offset}, not {upto}", partition=partition, offset=offset)


def partition_digest(directory: str, partition: str, upto: int, *, vfs: Vfs | None = None) -> str:
    """SHA-256 of what `read_partition` gives: equal on all replicas for an `upto` at or below the hwm."""
    digest = sha256()
    for piece in read_partition(directory, partition, upto, vfs=vfs):
        digest.update(piece)
    return digest.hexdigest()
