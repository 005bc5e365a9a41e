"""A log's prefix goes while the log is used."""

from errno import EIO, EMFILE, ENOSPC
from random import Random
from typing import cast

import pytest

from rlog._core import DiskJob, Vfs
from rlog.errors import CorruptLog, DataDirectoryError, InvariantBroken, ReadFailed, StorageFailed
from rlog.log.storage import Storage
from rlog.testing.disk import Fault, MemoryDisk

from .storage_kit import (
    NAME,
    SMALL,
    anchor_of,
    contents,
    make_span,
    open_storage,
    operations,
    run_one,
    settle,
)


def filled(vfs: Vfs, spans: int) -> Storage:
    """Committed spans of two records each, flushed one by one."""
    storage = open_storage(vfs)
    log = storage.logs[NAME]
    for _ in range(spans):
        log.append(make_span(log.end_offset, 1, size=100))
        settle(storage)
    log.committed(log.end_offset)
    return storage


@pytest.mark.parametrize("is_reopened", [False, True])
def test_what_is_appended_while_all_before_it_goes_is_kept(is_reopened: bool) -> None:
    """The active segment is to go: it must not take what comes while the anchor is on its way to disk."""
    vfs = Vfs.of(MemoryDisk(Random(1)))
    storage = filled(vfs, 3)
    log = storage.logs[NAME]
    log.trim(6)
    if is_reopened:
        storage.meta.flush()
        storage._lock.close()  # killed
        storage = open_storage(vfs)
        log = storage.logs[NAME]
        assert (log.base_offset, log.start_offset, log.end_offset) == (0, 6, 6)
        log.committed(6)
    else:
        storage.meta.flush()
    job = log.flush_job()
    assert job is not None
    assert any(".anchor" in operation for operation in operations(job))
    appended = make_span(6, 1)
    log.append(appended)
    job.run()
    log.flush_done(job)
    settle(storage)
    assert (log.base_offset, log.flushed_offset) == (6, 8)
    assert contents(log) == bytes(appended)
    storage.close()
    log = open_storage(vfs).logs[NAME]
    assert (log.damage, log.base_offset, log.end_offset) == (None, 6, 8)
    assert contents(log) == bytes(appended)


@pytest.mark.parametrize("is_closing", [False, True])
def test_an_anchor_that_cannot_be_made_quarantines_the_log_and_nothing_goes(is_closing: bool) -> None:
    """The producer table at the new base comes from the old anchor, where no index file has a newer one."""
    vfs = Vfs.of(MemoryDisk(Random(1)))
    storage = filled(vfs, 60)
    log = storage.logs[NAME]
    log.trim(40)
    settle(storage)
    base = log.base_offset
    assert 0 < base <= 40
    directory = f"/data/partitions/{NAME}"
    job = DiskJob(vfs)
    for name in vfs.listdir(directory):
        if not name.endswith(".log"):
            job.unlink(f"{directory}/{name}")
    job.run()
    log.trim(log.end_offset - 20)
    if not is_closing:
        with pytest.raises(CorruptLog, match="anchor"):
            settle(storage)
        assert log.flush_job() is None
    storage.close()
    assert log.damage is not None
    assert log.base_offset == base
    assert open_storage(vfs).logs[NAME].damage is not None


# --- a full disk (SAFETY 16)

STEPS_OF_AN_ANCHOR = ("open", "pwrite", "fsync", "rename", "fsync_dir")


def on_disk(vfs: Vfs) -> list[str]:
    return vfs.listdir(f"/data/partitions/{NAME}")


def no_room_for_anchors(disk: MemoryDisk, step: str, *, error: int = ENOSPC) -> None:
    path = ".anchor" if step != "fsync_dir" else NAME
    disk.faults.append(Fault(step, error, path))


@pytest.mark.parametrize(
    ("step", "error"), [*((step, ENOSPC) for step in STEPS_OF_AN_ANCHOR), ("open", EMFILE)]
)
def test_a_disk_without_room_for_an_anchor_keeps_the_records_until_it_has_some(step: str, error: int) -> None:
    disk = MemoryDisk(Random(1))
    vfs = Vfs.of(disk)
    storage = filled(vfs, 60)
    log = storage.logs[NAME]
    whole = contents(log)
    no_room_for_anchors(disk, step, error=error)
    log.trim(80)
    settle(storage)
    assert (bool(log.shortage), log.failed, log.base_offset) == (True, None, 0)
    assert contents(log) == whole
    log.append(make_span(log.end_offset, 1))
    settle(storage)
    assert log.flushed_offset == log.end_offset, "a log that is short of room for an anchor goes on"
    assert log.base_offset == 0, "and does not try at every round"
    log.try_again()
    settle(storage)
    assert not log.shortage
    assert 0 < log.base_offset <= 80
    kept, base = contents(log), log.base_offset
    storage.close()
    log = open_storage(vfs).logs[NAME]
    assert (log.damage, log.base_offset, contents(log)) == (None, base, kept)
    assert not [name for name in on_disk(vfs) if name.endswith(".tmp")]


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("step", STEPS_OF_AN_ANCHOR)
def test_a_disk_without_room_for_an_installed_anchor_keeps_the_old_log(step: str, is_killed: bool) -> None:
    """SAFETY 25: until the anchor is on record nothing of the old log goes, and nothing counts as flushed."""
    disk = MemoryDisk(Random(1))
    vfs = Vfs.of(disk)
    storage = filled(vfs, 5)
    log = storage.logs[NAME]
    old = contents(log)
    anchor = anchor_of([make_span(0, 1), make_span(2, 2, producer=(7, 0, 0), records=98)], 100)
    no_room_for_anchors(disk, step)
    log.install(anchor)
    settle(storage)
    assert (bool(log.shortage), log.failed, log.flushed_offset, log.is_clean) == (True, None, 0, False)
    assert not run_one(storage), "it does not try at once again"
    if is_killed:
        storage._lock.close()
        log = open_storage(vfs).logs[NAME]
        assert (log.damage, log.base_offset, contents(log)) == (None, 0, old)
        return
    log.try_again()
    settle(storage)
    assert (bool(log.shortage), log.base_offset, log.flushed_offset) == (False, 100, 100)
    log.append(make_span(100, 2))
    settle(storage)
    kept = contents(log)
    storage.close()
    log = open_storage(vfs).logs[NAME]
    assert (log.damage, log.base_offset, contents(log)) == (None, 100, kept)


def test_an_anchor_for_which_there_is_no_room_is_no_matter_to_the_one_installed_meanwhile() -> None:
    disk = MemoryDisk(Random(1))
    storage = filled(Vfs.of(disk), 60)
    log = storage.logs[NAME]
    log.trim(80)
    storage.meta.flush()
    job = log.flush_job()
    assert job is not None
    assert any(".anchor" in operation for operation in operations(job))
    log.install(anchor_of([make_span(0, 1), make_span(2, 2, records=998)], 1000))
    no_room_for_anchors(disk, "pwrite")
    job.run()
    assert job.error == ENOSPC
    assert not log.flush_done(job)
    log.try_again()
    settle(storage)
    assert (log.failed, log.base_offset, log.flushed_offset) == (None, 1000, 1000)


def test_any_other_error_of_an_anchors_file_is_final() -> None:
    """SAFETY 15."""
    disk = MemoryDisk(Random(1))
    storage = filled(Vfs.of(disk), 60)
    log = storage.logs[NAME]
    no_room_for_anchors(disk, "fsync", error=EIO)
    log.trim(80)
    with pytest.raises(StorageFailed, match="fsync"):
        settle(storage)
    assert log.flush_job() is None


# --- what an anchor keeps


@pytest.mark.parametrize("append_time_ms", [-1, 1_800_000_000_000])
@pytest.mark.parametrize("deleted", [40, 60])
def test_the_last_append_time_outlives_the_record_that_had_it(deleted: int, append_time_ms: int) -> None:
    """Also when a cut takes all that came after the anchor, and on who installs it."""
    vfs = Vfs.of(MemoryDisk(Random(1)))
    storage = open_storage(vfs)
    log = storage.logs[NAME]
    assert log.last_append_time_ms() == -1
    for number in range(30):
        stamp = append_time_ms if append_time_ms < 0 else append_time_ms + number
        log.append(make_span(log.end_offset, 1, size=100, append_time_ms=stamp))
        settle(storage)
    newest = log.last_append_time_ms()
    assert newest == (append_time_ms if append_time_ms < 0 else append_time_ms + 29)
    log.committed(log.end_offset)
    log.trim(deleted)
    settle(storage)
    assert 0 < log.base_offset <= deleted
    before_base = append_time_ms if append_time_ms < 0 else append_time_ms + log.base_offset // 2 - 1
    assert log.anchor().append_time_ms == before_base
    assert log.last_append_time_ms() == newest
    anchor = log.anchor()
    storage.close()
    log = open_storage(vfs).logs[NAME]
    assert log.last_append_time_ms() == newest
    if log.base_offset < log.end_offset:
        log.cut(log.base_offset)
        assert log.last_append_time_ms() == before_base
    installing = open_storage(Vfs.of(MemoryDisk(Random(2)))).logs[NAME]
    installing.install(anchor)
    assert installing.last_append_time_ms() == before_base


def test_a_deletion_near_the_front_opens_no_file_behind_it() -> None:
    """A log may have a thousand segments, and the index file of each a megabyte of producers."""

    class Watched(MemoryDisk):
        opened: list[str]

        def open(self, path: str, new: bool) -> int:
            self.opened.append(path.rpartition("/")[2])
            return super().open(path, new)

    disk = Watched(Random(1))
    disk.opened = []
    storage = filled(Vfs.of(disk), 200)
    log = storage.logs[NAME]
    second, third = [segment.base_offset for segment in log._segments[1:3]]
    log.trim(third)
    disk.opened.clear()
    settle(storage)
    assert log.base_offset == third
    assert [name for name in disk.opened if name.endswith(".index")] == [f"{second:020}.index"]


def test_what_is_deleted_as_it_comes_takes_no_large_files() -> None:
    """Files double in size for a log that grows, not for one that is emptied again and again."""
    vfs = Vfs.of(MemoryDisk(Random(1)))
    storage = filled(vfs, 3)
    log = storage.logs[NAME]
    for _ in range(10):
        log.trim(log.end_offset)
        log.append(make_span(log.end_offset, 1, size=100))
        settle(storage)
        log.committed(log.end_offset)
    assert [segment.length for segment in log._segments] == [SMALL.segment_bytes_min]
    for _ in range(100):
        log.append(make_span(log.end_offset, 1, size=100))
        settle(storage)
    lengths = [segment.length for segment in log._segments]
    assert lengths[:3] == [4096, 8192, 16384], "it grows: they double"
    kept = contents(log)
    storage._lock.close()  # killed
    assert contents(open_storage(vfs).logs[NAME]) == kept


# --- what the system does not let us read


@pytest.mark.parametrize("path", [".log", ".index", ".anchor"])
def test_without_descriptors_an_anchor_is_made_later_and_nothing_is_damaged(path: str) -> None:
    disk = MemoryDisk(Random(1))
    storage = filled(Vfs.of(disk), 60)
    log = storage.logs[NAME]
    log.trim(40)
    settle(storage)
    before = log.base_offset
    if path == ".anchor":  # the producer table is taken from there where no index file has one
        for segment in log._segments:
            segment.indexed = False
    disk.faults.append(Fault("open", EMFILE, path, times=1000))
    log.trim(log.end_offset - 20)
    settle(storage)
    assert "Too many open files" in log.shortage
    assert "ulimit -n" in log.shortage
    assert (log.failed, log.damage, log.base_offset) == (None, None, before)
    if path != ".index":
        with pytest.raises(ReadFailed, match="Too many open files") as caught:
            log.anchor() if path == ".anchor" else contents(log)
        assert caught.value.errno == EMFILE
    assert log.damage is None
    disk.faults.clear()
    log.append(make_span(log.end_offset, 1, size=100))
    log.try_again()
    settle(storage)
    assert (log.shortage, log.damage) == ("", None)
    assert log.base_offset > before


@pytest.mark.parametrize("path", [".log", ".index", ".anchor"])
def test_an_opening_without_descriptors_is_refused_by_name_and_judges_nothing(path: str) -> None:
    disk = MemoryDisk(Random(1))
    storage = filled(Vfs.of(disk), 60)
    log = storage.logs[NAME]
    log.trim(40)
    settle(storage)
    expected = contents(log)
    storage.close()
    disk.faults.append(Fault("open", EMFILE, path, times=1000))
    with pytest.raises(DataDirectoryError, match="raise the number of open files"):
        open_storage(Vfs.of(disk))
    disk.faults.clear()
    log = open_storage(Vfs.of(disk)).logs[NAME]
    assert (log.damage, log.suspect) == (None, False)
    assert contents(log) == expected


def test_what_is_no_offset_is_never_written_as_one() -> None:
    log = filled(Vfs.of(MemoryDisk(Random(1))), 3).logs[NAME]
    for offset in (3.5, True):
        with pytest.raises(InvariantBroken, match="trim at"):
            log.trim(cast("int", offset))
    assert log.start_offset == 0


def test_the_error_that_fenced_a_log_does_not_grow() -> None:
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    disk.faults.append(Fault("fdatasync", EIO, ".log"))
    log.append(make_span(0, 1))
    with pytest.raises(StorageFailed):
        settle(storage)
    raised = []
    for _ in range(2):
        with pytest.raises(StorageFailed) as caught:
            log.append(make_span(2, 1))
        raised.append(caught.value)
    assert raised[0] is not raised[1]
    assert raised[0].errno == EIO
