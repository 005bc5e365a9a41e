"""Deleting the beginning of an embedded log, by offset or size: what readers get, what a crash leaves."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import cast

import pytest

import rlog
from rlog._core import Vfs
from rlog.embedded.log import Log, open_in
from rlog.embedded.reader import check_end
from rlog.embedded.settings import Settings
from rlog.errors import ConfigurationError, LogClosed, OffsetOutOfRange, StorageFailed
from rlog.log.log import PartitionLog
from rlog.log.segment import Segment
from rlog.moments import At
from rlog.testing.disk import Fault, MemoryDisk
from tests.embedded.kit import open_on, segments_of, values_of, world_of


def value(number: int) -> bytes:
    return b"%d " % number * 50


def test_what_is_deleted_cannot_be_read_and_its_files_go(tmp_path: Path) -> None:
    with open_in(tmp_path / "orders", Settings(), world_of(Vfs.system())) as log:
        for number in range(200):
            log.append(value(number))
        before = segments_of(tmp_path / "orders")
        log.delete_before(150)
        assert (log.start_offset, log.end_offset) == (150, 200)
        assert next(log.read()).offset == 150
        for offset in (0, 149):
            with pytest.raises(OffsetOutOfRange, match="which holds 150 to 200: what came before"):
                log.read(offset)
        assert len(segments_of(tmp_path / "orders")) < len(before)
        log.delete_before(10)
        assert log.start_offset == 150, "it never goes back"
        with pytest.raises(OffsetOutOfRange):
            log.delete_before(201)
        assert log.append(b"next").offset == 200
    with open_in(tmp_path / "orders", Settings(), world_of(Vfs.system())) as log:
        assert values_of(log) == [*(value(number) for number in range(150, 200)), b"next"]
        log.delete_before(log.end_offset)
        assert (log.start_offset, log.end_offset, list(log.values())) == (201, 201, [])
        assert log.append(b"after all").offset == 201
    with pytest.raises(LogClosed):
        log.delete_before(202)


def test_a_start_inside_a_list_is_kept(tmp_path: Path) -> None:
    with rlog.open(tmp_path / "orders") as log:
        log.append_many([b"%d" % number for number in range(10)], atomic=True)
        log.delete_before(7)
        assert list(log.values()) == [b"7", b"8", b"9"]
    with rlog.open(tmp_path / "orders") as log:
        assert list(log.values()) == [b"7", b"8", b"9"]


def test_who_reads_below_the_start_is_told_so(tmp_path: Path) -> None:
    with open_in(tmp_path / "orders", Settings(), world_of(Vfs.system())) as log:
        for number in range(2000):
            log.append(value(number))
        reading, following = log.read_batches(), log.read_batches(follow=True)
        first = [next(reading), next(following)]
        log.delete_before(1990)
        for each in (reading, following):
            with pytest.raises(OffsetOutOfRange, match="was deleted"):
                list(each)
        assert [records[0].offset for records in first] == [0, 0]


def test_size_keeps_the_log_near_its_bound(tmp_path: Path) -> None:
    """Deleted while appending, and only whole files."""
    settings = Settings(retention_bytes=20_000)
    with open_in(tmp_path / "orders", settings, world_of(Vfs.system(), second_s=2.0)) as log:
        for number in range(1000):
            log.append(value(number))
        kept = values_of(log)
        assert kept == [value(number) for number in range(log.start_offset, 1000)]
        assert 20_000 <= sum(len(each) + 70 for each in kept) <= 60_000, "of batches of one record"
    assert sum(each.stat().st_size for each in segments_of(tmp_path / "orders")) <= 100_000
    with pytest.raises(ConfigurationError, match="retention_bytes=-1 is below 0"):
        rlog.open(tmp_path / "orders", retention_bytes=-1)


def test_age_goes_by_timestamps_and_a_clock_that_is_not_believed_at_once(tmp_path: Path) -> None:
    """Records are a minute apart; the wall clock then jumps ahead by a year."""
    minute_ms, wall_ms, running_s = 60_000, 1_700_000_000_000, 0.0
    world = replace(
        world_of(Vfs.system()),
        wall_clock_ms=lambda: wall_ms,
        monotonic_s=lambda: running_s,
        uptime=lambda: ("this start", running_s),
    )
    with open_in(tmp_path / "orders", Settings(retention_ms=10 * minute_ms), world) as log:
        for _ in range(60):
            wall_ms, running_s = wall_ms + minute_ms, running_s + 60
            log.append(b"x" * 100)
        assert 10 <= log.end_offset - log.start_offset <= 13
        wall_ms += 365 * 24 * 60 * minute_ms
        for _ in range(3):
            running_s += 60
            log.append(b"x")
        assert log.end_offset - log.start_offset > 8, "not everything at once"
        running_s += 3600
        log.append(b"x")
        assert log.end_offset - log.start_offset == 4, "but in the end"
    with pytest.raises(ConfigurationError, match="retention_ms=-5 is below 0"):
        rlog.open(tmp_path / "orders", retention_ms=-5)


def test_a_log_that_is_opened_for_a_moment_each_hour_forgets_what_is_old(tmp_path: Path) -> None:
    """The machine is up meanwhile; so its wall clock, an hour later each time, is no wonder."""
    hour_ms, wall_ms = 3_600_000, 1_700_000_000_000
    world = replace(
        world_of(Vfs.system()),
        wall_clock_ms=lambda: wall_ms,
        uptime=lambda: ("this start", wall_ms / 1000 - 1_600_000_000),
    )
    for hour in range(30):
        wall_ms += hour_ms
        with open_in(tmp_path / "orders", Settings(retention_ms=10 * hour_ms), world) as log:
            log.append(b"%d" % hour)
            assert log.end_offset - log.start_offset <= 11
            keeps = log.start_offset
    wall_ms += 100 * hour_ms
    with open_in(tmp_path / "orders", Settings(retention_ms=10 * hour_ms), world) as log:
        assert log.start_offset == keeps, "nothing goes before something comes"
        log.append(b"last")
        assert log.end_offset - log.start_offset == 1


def test_readers_beside_appends_and_deletion(tmp_path: Path) -> None:
    with open_in(tmp_path / "orders", Settings(), world_of(Vfs.system())) as log:
        log.append(value(0))

        def write() -> None:
            for number in range(1, 600):
                log.append(value(number))
                if number % 50 == 0:
                    log.delete_before(number - 20)

        def read() -> int:
            refused = 0
            while log.end_offset < 600:
                try:
                    for record in log.read():
                        assert record.value == value(record.offset)
                except OffsetOutOfRange:
                    refused += 1
            return refused

        with ThreadPoolExecutor(3) as pool:
            for future in [pool.submit(write), pool.submit(read), pool.submit(read)]:
                future.result(60)
        assert log.start_offset == 530


def test_a_deletion_that_returned_survives_any_power_cut() -> None:
    """And one that was under way leaves the log whole, from either start."""
    disk, random = MemoryDisk(Random(4)), Random(4)
    starts = [0]

    def check(operation: str, path: str) -> None:
        crashed = disk.copy()
        crashed.power_cut()
        with open_on(crashed) as log:
            assert log.start_offset in starts[-2:]
            assert values_of(log) == [value(number) for number in range(log.start_offset, 100)]

    with open_on(disk) as log:
        for number in range(100):
            log.append(value(number))
        disk.before = check
        for _ in range(6):
            starts.append(random.randrange(log.start_offset, 101))
            log.delete_before(starts[-1])
            starts[:-1] = []
        disk.before = None


def test_a_failed_deletion_fences() -> None:
    disk = MemoryDisk()
    log = open_on(disk)
    for number in range(100):
        log.append(value(number))
    disk.faults.append(Fault("fdatasync", 5, path="meta"))
    with pytest.raises(StorageFailed):
        log.delete_before(90)
    with pytest.raises(StorageFailed, match="takes no more"):
        log.append(b"no")
    log.close()
    disk.kill()
    with open_on(disk) as log:
        assert log.start_offset in (0, 90)


def test_the_async_twin_deletes_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with rlog.open_async(tmp_path / "orders", retention_bytes=1 << 20) as log:
            await log.append_many([b"%d" % number for number in range(10)])
            await asyncio.gather(log.delete_before(4), log.append(b"10"), log.delete_before(3))
            assert (log.start_offset, log.end_offset) == (4, 11)
            with pytest.raises(OffsetOutOfRange):
                await log.delete_before(12)

    asyncio.run(main())


# ---- beside another thread, at chosen moments


def filled(tmp_path: Path, name: str = "orders") -> Log:
    """Sixty records in several segments; timestamps are 1000, 1001 ..."""
    log = open_in(tmp_path / name, Settings(), world_of(Vfs.system()))
    for number in range(60):
        log.append(b"x" * 1000, timestamp_ms=1000 + number)
    assert len(segments_of(tmp_path / name)) > 3
    return log


def deleting_before(offset: int, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread deletes as the reader has looked at the start, and not yet at the segments."""
    look = log.segments_from
    is_first = True

    def segments_from(start: int) -> list[Segment]:
        nonlocal is_first
        if is_first:
            is_first = False
            log.delete_before(offset)
        return look(start)

    monkeypatch.setattr(log, "segments_from", segments_from)


@pytest.mark.parametrize("upto", [30, 60])
def test_what_is_deleted_as_it_is_to_be_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upto: int
) -> None:
    with filled(tmp_path) as log:
        deleting_before(upto, log, monkeypatch)
        with pytest.raises(OffsetOutOfRange, match="was deleted"):
            next(log.read(5))


def test_a_moment_is_found_where_it_is_whatever_is_deleted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path) as log:
        deleting_before(30, log, monkeypatch)
        assert log.offset_at(At(1035)) == 35
    with filled(tmp_path, "invoices") as log:
        deleting_before(30, log, monkeypatch)
        assert log.offset_at(At(1026)) == 30, "its file still has 26"
    with filled(tmp_path, "payments") as log:
        deleting_before(60, log, monkeypatch)
        assert log.offset_at(At(1035)) is None


def test_a_start_just_looked_up_is_not_refused(tmp_path: Path) -> None:
    """Nor a deletion below one that another thread has just moved."""
    with filled(tmp_path) as log:

        class Racing:
            """The log as it is while somebody deletes after each look at its start."""

            flushed_offset = 60

            def __init__(self) -> None:
                self.looks = 0

            @property
            def start_offset(self) -> int:
                self.looks += 10
                return self.looks

        log._store.log = cast("PartitionLog", Racing())
        log.read("earliest")
        log.read("latest")
        check_end(log._store, 10)
        log._store.log = log._store.storage.logs["log"]


@pytest.mark.parametrize("offset", [3.5, True, "4", None])
def test_what_is_no_offset_is_refused_and_not_written(tmp_path: Path, offset: object) -> None:
    """A start of 3.5 would be on disk, and no reader would find it."""
    wrong = cast("int", offset)
    with rlog.open(tmp_path / "orders") as log:
        log.append_many([b"x"] * 10)
        with pytest.raises(TypeError, match=re.escape(f"offset={offset!r} is not an integer")):
            log.delete_before(wrong)
        if offset is not None:
            with pytest.raises(TypeError, match="is not an integer"):
                log.append(b"x", expect_offset=wrong)
            with pytest.raises(TypeError, match="is not an integer"):
                log.read(end=wrong)
        with pytest.raises(ConfigurationError, match="start="):
            log.read(wrong)

    async def main() -> None:
        async with rlog.open_async(tmp_path / "orders") as log:
            with pytest.raises(TypeError, match="is not an integer"):
                await log.delete_before(wrong)

    asyncio.run(main())
    with rlog.open(tmp_path / "orders") as log:
        assert [record.offset for record in log.read()] == list(range(10))
