"""What the tests of the embedded log share: logs on real files, and on the disk in memory."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random

from rlog._core import Vfs
from rlog.embedded.log import Log, open_in
from rlog.embedded.settings import Settings, World
from rlog.log.settings import LogSettings
from rlog.testing.disk import Disk

DIRECTORY = "/log"

# Small files and rounds, so that their boundaries are met often.
SMALL = LogSettings(
    segment_bytes_min=4096,
    segment_bytes_max=16384,
    tail_bytes_max=0,
    index_interval_bytes=256,
    round_bytes_max=4096,
    meta_bytes_max=4096,
)


def ticking_ms(start: int = 1_700_000_000_000) -> Callable[[], int]:
    """A wall clock that is a millisecond later at each look."""
    ticks: Iterator[int] = count(start)
    return lambda: next(ticks)


def world_of(vfs: Vfs, *, log_settings: LogSettings = SMALL, second_s: float = 0.25) -> World:
    """second_s: how much monotonic time passes between two looks at it."""
    ticks = count()

    def seconds() -> float:
        return next(ticks) * second_s

    return World(vfs, Random(7), ticking_ms(), log_settings, seconds, lambda: ("this start", seconds()))


def open_on(
    disk: Disk, path: str = DIRECTORY, *, settings: Settings | None = None, log_settings: LogSettings = SMALL
) -> Log:
    """A log on a disk in memory, or on one that fails on demand."""
    world = world_of(Vfs.of(disk), log_settings=log_settings)
    return open_in(path, settings or Settings(), world, on_system=False)


def values_of(log: Log) -> list[bytes | None]:
    """Everything that can be read, checked to be dense."""
    records = list(log.read())
    start = log.start_offset
    assert [record.offset for record in records] == list(range(start, start + len(records)))
    return [record.value for record in records]


def segments_of(path: Path) -> list[Path]:
    return sorted((path / "partitions/log").glob("*.log"))
