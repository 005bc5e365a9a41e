"""Looking for moments in an embedded log."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

import rlog
from rlog._core import Vfs, iterate_batches
from rlog.client import At
from rlog.embedded.log import open_in
from rlog.embedded.settings import Settings
from rlog.errors import ConfigurationError
from rlog.log.storage import read_partition
from tests.embedded.kit import world_of


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_the_first_record_at_or_after_a_moment_whatever_the_order(tmp_path: Path, compression: str) -> None:
    random = Random(3)
    times: list[int] = []
    settings = Settings(compression=compression)
    with open_in(tmp_path / "orders", settings, world_of(Vfs.system())) as log:
        assert log.offset_at(At(0)) is None
        for number in range(150):
            batch = [
                1000 * number + random.randrange(-3000, 3000) + 10_000 for _ in range(random.randint(1, 4))
            ]
            log.append_many([rlog.NewRecord(b"x" * 60, timestamp_ms=time) for time in batch])
            times += batch
        for deleted in (0, 100):
            log.delete_before(deleted)
            for wanted in (0, 1, 12_345, *times[::17], max(times), max(times) + 1):
                found = [offset for offset, time in enumerate(times) if offset >= deleted and time >= wanted]
                assert log.offset_at(At(wanted)) == (found[0] if found else None)
                starts = [record.offset for record in log.read(At(wanted))]
                assert starts[:1] == found[:1], "and reading begins there, or at the end"


def test_moments_are_aware_datetimes(tmp_path: Path) -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    with rlog.open(tmp_path / "orders") as log:
        log.append(b"before", timestamp_ms=int(moment.timestamp() * 1000) - 1)
        log.append(b"then", timestamp_ms=int(moment.timestamp() * 1000))
        assert log.offset_at(moment) == 1
        assert list(log.values(moment)) == [b"then"]
        with pytest.raises(ConfigurationError, match="has no time zone"):
            log.offset_at(datetime(2024, 5, 6))

    async def main() -> None:
        async with rlog.open_async(tmp_path / "orders") as log:
            assert await log.offset_at(moment) == 1
            assert [value async for value in log.values(moment)] == [b"then"]
            with pytest.raises(ConfigurationError, match="has no time zone"):
                await log.offset_at(datetime(2024, 5, 6))

    asyncio.run(main())


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_log_that_stamps_gives_times_that_never_fall(tmp_path: Path, compression: str) -> None:
    """Whatever the caller says, and whatever the wall clock does; the receipt names the time."""
    now = 5000
    world = replace(world_of(Vfs.system()), wall_clock_ms=lambda: now)
    settings = Settings(compression=compression, timestamp_type="append")
    with open_in(tmp_path / "orders", settings, world) as log:
        assert log.append(b"a", timestamp_ms=9_999_999).timestamp_ms == 5000
        now = 1000
        assert log.append_many([b"b" * 99, rlog.NewRecord(b"c" * 99, timestamp_ms=1)]).timestamp_ms == 5000
        now = 7000
        assert log.append(b"d").timestamp_ms == 7000
        assert [record.timestamp_ms for record in log.read()] == [5000, 5000, 5000, 7000]
        assert log.offset_at(At(5001)) == 3
    now = 6000
    with open_in(tmp_path / "orders", settings, world) as log:
        assert log.append(b"e").timestamp_ms == 7000, "not even when it is opened again"
    pieces = read_partition(str(tmp_path / "orders"), "log", 5)
    batches = [batch for piece in pieces for batch in iterate_batches(piece)]
    assert len(batches) == 4
    assert all(batch.attributes & 0x08 for batch in batches), "LogAppendTime"
    with pytest.raises(ConfigurationError, match="timestamp_type='mine' is neither"):
        rlog.open(tmp_path / "orders", timestamp_type="mine")


def test_the_async_twin_stamps_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with rlog.open_async(tmp_path / "orders", timestamp_type="append") as log:
            receipt = await log.append(b"a", timestamp_ms=1)
            many = await log.append_many([b"b"], timestamp_ms=2)
            times = [record.timestamp_ms async for record in log.read()]
            assert times == [receipt.timestamp_ms, many.timestamp_ms]
            assert times[0] > 1_700_000_000_000

    asyncio.run(main())
