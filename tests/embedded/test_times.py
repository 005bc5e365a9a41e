"""Looking for moments in an embedded log."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

import rlog
from rlog._core import Vfs
from rlog.client import At
from rlog.embedded.log import open_in
from rlog.embedded.settings import Settings
from rlog.errors import ConfigurationError
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
