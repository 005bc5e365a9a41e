"""Power cuts and kills at every operation of the disk: what was acknowledged is there, in order, and no more
than was being written; a list that fits into a batch is there as a whole or not at all.
"""

from collections.abc import Callable
from random import Random

import pytest

from rlog.embedded.log import Log
from rlog.embedded.settings import Settings
from rlog.errors import DataDirectoryError, StorageFailed
from rlog.testing.disk import MemoryDisk
from tests.embedded.kit import open_on, values_of
from tests.log.test_crash_points import subsets


class Book:
    """acknowledged: values that the log said are stored. pending: those of the append that goes on."""

    def __init__(self) -> None:
        self.acknowledged: list[bytes] = []
        self.pending: list[bytes] = []

    def append(self, log: Log, value: bytes) -> None:
        self.pending = [value]
        log.append(value)
        self.acknowledged += self.pending
        self.pending = []

    def append_many(self, log: Log, values: list[bytes]) -> None:
        self.pending = values
        log.append_many(values, atomic=True)
        self.acknowledged += self.pending
        self.pending = []

    def judge(self, log: Log) -> None:
        found = values_of(log)
        assert found in (self.acknowledged, self.acknowledged + self.pending)


def life_of_single_records(disk: MemoryDisk, book: Book) -> None:
    for life in range(3):
        with open_on(disk) as log:
            for number in range(6):
                book.append(log, b"%d-%d " % (life, number) * 60)


def life_of_lists(disk: MemoryDisk, book: Book) -> None:
    """They fill segments, and are bigger than a sector and than a round."""
    settings = Settings(compression="lz4", batch_bytes_max=20_000)
    with open_on(disk, settings=settings) as log:
        for number in range(5):
            random = Random(number)
            book.append_many(log, [random.randbytes(50) for _ in range(5 + 40 * number)])
            book.append(log, b"between")


LIVES = [life_of_single_records, life_of_lists]


def crash_everywhere(
    life: Callable[[MemoryDisk, Book], None], check: Callable[[MemoryDisk, Book, Random], None]
) -> int:
    """Live, and `check` a copy of the disk before each changing operation and at the end."""
    random, book, points = Random(5), Book(), 0

    def crash(operation: str, path: str) -> None:
        nonlocal points
        points += 1
        check(disk.copy(), book, random)

    disk = MemoryDisk(Random(9))
    disk.before = crash
    life(disk, book)
    disk.before = None
    crash("end", "")
    return points


def open_crashed(disk: MemoryDisk) -> Log:
    return open_on(disk, settings=Settings(batch_bytes_max=20_000))


@pytest.mark.parametrize("life", LIVES)
def test_every_power_cut_keeps_what_was_acknowledged(life: Callable[[MemoryDisk, Book], None]) -> None:
    def check(disk: MemoryDisk, book: Book, random: Random) -> None:
        for choices in subsets(disk, random):
            crashed = disk.copy()
            crashed.power_cut(choices)
            log = open_crashed(crashed)
            book.judge(log)
            found = values_of(log)
            crashed.power_cut([0] * len(crashed.unsynced()))
            with open_crashed(crashed) as log:
                assert values_of(log) == found, "SAFETY 18: what recovery counted was on disk"

    assert crash_everywhere(life, check) > 60


@pytest.mark.parametrize("life", LIVES)
def test_every_kill_keeps_all_that_was_written(life: Callable[[MemoryDisk, Book], None]) -> None:
    def check(disk: MemoryDisk, book: Book, random: Random) -> None:
        disk.kill()
        with open_crashed(disk) as log:
            book.judge(log)
            log.append(b"goes on")

    assert crash_everywhere(life, check) > 60


def test_power_cuts_while_it_opens_and_closes_change_nothing() -> None:
    def check(disk: MemoryDisk, book: Book, random: Random) -> None:
        disk.power_cut()
        for _ in range(3):
            disk.cut_at = disk.operations + random.randrange(25)
            try:
                open_crashed(disk).close()
            except (DataDirectoryError, StorageFailed):
                assert disk.operations == disk.cut_at, "refused while the power was on"
            disk.power_cut()
        book.judge(open_crashed(disk))

    assert crash_everywhere(life_of_single_records, check) > 60
