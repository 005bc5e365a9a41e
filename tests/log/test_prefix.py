"""A log's prefix goes while the log is used."""

from random import Random

import pytest

from rlog._core import DiskJob, Vfs
from rlog.errors import CorruptLog
from rlog.log.storage import Storage
from rlog.testing.disk import MemoryDisk

from .storage_kit import NAME, contents, make_span, open_storage, operations, settle


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
