"""Ctrl-C at every step of a call: the log goes on, and holds what was acknowledged, once and in order."""

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from rlog._core import Vfs
from rlog.embedded.log import Log, open_in
from rlog.embedded.settings import Settings, TimestampType
from rlog.embedded.writer import Group, Job, Writer
from rlog.errors import OffsetConflict, StorageFailed
from rlog.testing.disk import Fault, MemoryDisk
from tests.embedded.interrupting import interrupted
from tests.embedded.kit import open_on, values_of, world_of

TIMEOUT_S = 60


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: it is opened and flushed a thousand times, and nothing here cuts power."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def small(path: Path, settings: Settings | None = None) -> Log:
    """A log of small files, which rolls, compacts meta and keeps house often."""
    return open_in(path, settings or Settings(), world_of(Vfs.system()))


def many(prefix: bytes) -> list[bytes]:
    """Several batches, and more than one round takes."""
    return [prefix + b"-%d" % number + b"." * 500 for number in range(12)]


CALLS: dict[str, Callable[[Log, bytes], object]] = {
    "append": lambda log, value: log.append(value),
    "append to the end": lambda log, value: log.append(value, expect_offset=log.end_offset),
    "append_many": lambda log, value: log.append_many(many(value)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("timestamp_type", ["create", "append"])
def test_an_append_interrupted_anywhere(directory: Path, name: str, timestamp_type: TimestampType) -> None:
    settings = Settings(timestamp_type=timestamp_type, batch_bytes_max=2000)
    log = small(directory / "log", settings)
    expected: list[bytes | None] = []
    step, raised = 0, 0
    while True:
        mine = b"mine %d" % step
        there_was, did_raise = interrupted(lambda value=mine: CALLS[name](log, value), step)
        raised += did_raise
        written: list[bytes | None] = [*many(mine)] if name == "append_many" else [mine]
        acknowledged = log.append(b"next %d" % step).offset
        found = list(log.values(len(expected)))
        assert found in ([*written, b"next %d" % step], [b"next %d" % step]), (step, found)
        assert did_raise or len(found) > 1, "acknowledged, and not there"
        expected += found
        assert acknowledged == len(expected) - 1
        if not there_was:
            break
        step += 1
    # In a generator that is being dropped Python can only report it, and goes on.
    assert 50 < raised <= step
    assert values_of(log) == expected
    log.close()
    with small(directory / "log", settings) as log:
        assert values_of(log) == expected


def test_the_first_append_interrupted_anywhere(directory: Path) -> None:
    """It makes the first segment, and a record in meta."""
    step = 0
    there_was = True
    while there_was:
        path = directory / f"log-{step}"
        with small(path) as log:
            there_was, _ = interrupted(lambda log=log: log.append(b"first"), step)
            assert log.append(b"second").offset == log.end_offset - 1
            found = values_of(log)
        assert found in ([b"first", b"second"], [b"second"])
        with small(path) as log:
            assert values_of(log) == found
        step += 1
    assert step > 100


def test_a_deletion_interrupted_anywhere(directory: Path) -> None:
    log = small(directory / "log")
    step = 0
    there_was = True
    while there_was:
        end = log.append_many([b"%d" % number + b"." * 300 for number in range(8)]).last_offset + 1
        start = log.start_offset
        there_was, did_raise = interrupted(lambda end=end: log.delete_before(end - 2), step)
        log.append(b"next")
        assert log.start_offset in ({start, end - 2} if did_raise else {end - 2})
        assert values_of(log)[-1] == b"next"
        assert log.end_offset == end + 1
        step += 1
    log.close()
    with small(directory / "log") as log:
        assert (log.start_offset, log.end_offset) == (end - 2, end + 1)
    assert step > 100


def test_an_interrupted_closing_may_be_asked_again_and_lets_the_directory_go(directory: Path) -> None:
    step = 0
    there_was = True
    while there_was:
        log = small(directory / "log")
        log.append(b"%d" % step)
        there_was, _ = interrupted(log.close, step)
        log.close()
        step += 1
    with small(directory / "log") as log:
        assert values_of(log) == [b"%d" % number for number in range(step)]
    assert step > 50


def test_an_interrupted_opening_leaves_nothing_open(directory: Path) -> None:
    with small(directory / "log") as log:
        log.append(b"first")
    step = 0
    there_was = True
    while there_was:
        there_was, _ = interrupted(lambda: small(directory / "log"), step)
        with small(directory / "log") as log:
            assert values_of(log) == [b"first"]
        step += 1
    assert step > 200


def test_a_leader_interrupted_among_threads_leaves_nobody_asleep(directory: Path) -> None:
    """The others append, follow and lose races meanwhile; none of them hears of it."""
    with small(directory / "log") as log:
        ended = threading.Event()

        def append(name: int) -> dict[int, bytes]:
            written = {}
            while not ended.is_set():
                value = b"%d-%d" % (name, len(written))
                written[log.append(value).offset] = value
            return written

        def race() -> dict[int, bytes]:
            written = {}
            while not ended.is_set():
                with suppress(OffsetConflict):
                    written[log.append(b"race", expect_offset=log.end_offset).offset] = b"race"
            return written

        with ThreadPoolExecutor(4) as pool:
            others = [pool.submit(append, 1), pool.submit(append, 2), pool.submit(race)]
            follower = pool.submit(lambda: list(log.values(follow=True)))
            acknowledged: dict[int, bytes] = {}
            try:
                for step in range(200):
                    interrupted(lambda step=step: log.append(b"mine %d" % step), step % 70)
                    acknowledged[log.append(b"next %d" % step).offset] = b"next %d" % step
            finally:
                ended.set()
                for other in others:
                    acknowledged |= other.result(TIMEOUT_S)
                values = values_of(log)
                log.close()
            followed = follower.result(TIMEOUT_S)
    assert {offset: values[offset] for offset in acknowledged} == acknowledged
    assert followed == values[: len(followed)]
    unheard = [value for offset, value in enumerate(values) if offset not in acknowledged]
    assert len(unheard) == len(set(unheard)) <= 200
    assert all(value is not None and value.startswith(b"mine ") for value in unheard)
    with small(directory / "log") as log:
        assert values_of(log) == values


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_disk_error_is_not_hidden_by_an_interrupt(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """SAFETY 15: opening the files anew would read what the disk has not kept."""
    disk = MemoryDisk()
    log = open_on(disk)
    log.append(b"first")
    disk.faults.append(Fault("fdatasync", errno.EIO, path=".log"))
    step = Writer.job_done

    def interrupted_step(writer: Writer, job: Job) -> Job | None:
        if when == "before":
            raise KeyboardInterrupt
        with suppress(StorageFailed):
            step(writer, job)
        raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "job_done", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        log.append(b"lost")
    monkeypatch.undo()
    with pytest.raises(StorageFailed, match="takes no more appends; this was not stored") as caught:
        log.append(b"no")
    assert caught.value.errno == errno.EIO


def test_what_fails_again_and_again_is_no_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_on(MemoryDisk())
    log.append(b"first")

    def fail(writer: Writer, group: Group) -> Job | None:
        raise MemoryError

    monkeypatch.setattr(Writer, "_begin", fail)
    with pytest.raises(MemoryError):
        log.append(b"second")
    monkeypatch.undo()
    with pytest.raises(StorageFailed, match="MemoryError"):
        log.append(b"third")
    assert list(log.values()) == [b"first"]
