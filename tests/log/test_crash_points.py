"""Power cuts and kills at every file operation of a scripted life, with every (or many) subsets kept.

A `Life` runs a script on a MemoryDisk and keeps book of what a recovery owes: what was flushed must be there,
what was saved in meta must be known, cut bytes must not be back. Before each changing file operation the disk
is copied and crashed in several ways; whatever comes up is judged by that book.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod
from random import Random
from typing import Any

import pytest

from rlog._core import BatchInfo, DiskJob, Span, Vfs, iterate_batches
from rlog.errors import DataDirectoryError
from rlog.log.log import PartitionLog
from rlog.log.storage import Storage
from rlog.testing.disk import MemoryDisk
from tests.log.storage_kit import NAME, anchor_of, contents, make_span, open_storage, rebuilt_producers

SUBSETS_MAX = 32  # below it all are tried, above it this many at random, and the two extremes
DIRECTORY = "/data"


@dataclass
class Book:
    """What a recovery owes.

    histories: logs that may be found (any prefix of any, at a batch boundary, what is deleted left out); more
    than one while it is open whether a cut is durable. acked: offset up to which the last of them must be
    found. trimmed: the log starts that may be found, the durable one first.
    votes: those that may be found, the durable one first. uuid: of the replica, once it was told to anyone.
    """

    histories: list[list[Span]] = field(default_factory=lambda: [[]])
    acked: int = 0
    votes: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    trimmed: list[int] = field(default_factory=lambda: [0])
    incarnation: int = 0
    uuid: str = ""

    def judge(self, storage: Storage) -> None:
        log = storage.logs[NAME]
        assert (log.damage, log.suspect) == (None, False), (log.damage, log.suspect)
        assert log.flushed_offset == log.end_offset
        assert log.base_offset <= log.start_offset
        assert log.start_offset in self.trimmed, f"log start {log.start_offset}, not of {self.trimmed}"
        infos = self.batches_of(log)
        assert log.end_offset >= self.acked, f"acked up to {self.acked}, found {log.end_offset}"
        runs: dict[int, int] = {}
        for info in infos:
            runs.setdefault(info.generation, info.base_offset)
        entries = log.generations.entries()
        assert entries == list(runs.items())[-len(entries) :], "SAFETY 3: generations that own a batch"
        assert not runs or entries[0][1] < log.base_offset or len(entries) == len(runs), "SAFETY 26"
        assert log.producers == rebuilt_producers(infos), "SAFETY 13"
        generation, vote = storage.meta.vote(NAME)
        assert (generation, vote) in self.votes or generation == log.last_generation, "SAFETY 1"
        assert generation >= max(self.votes[0][0], log.last_generation), "SAFETY 2"
        assert storage.meta.incarnation > self.incarnation
        if self.uuid:
            assert storage.meta.replica_uuid == self.uuid

    def batches_of(self, log: PartitionLog) -> list[BatchInfo]:
        """All that was ever written to a log that may be found, deleted records included."""
        infos = iterate_batches(b"".join(map(bytes, self.found(log))))
        return [info for info in infos if info.last_offset < log.end_offset]

    def found(self, log: PartitionLog) -> list[Span]:
        """The history that this log is a part of."""
        found, base = contents(log), log.base_offset
        for history in reversed(self.histories):
            kept = b"".join(
                span.slice(max(base, span.base_offset)) for span in history if span.end_offset > base
            )
            if kept.startswith(found):
                return history
        raise AssertionError("not a prefix of any history")


class Life:
    """Runs a script on one disk, one job at a time, keeping `book`."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.book = Book()
        self.storage: Storage
        self._vote_sequence = 0
        self._cut_sequence = 0
        self._trim_sequence = 0
        self._random = Random(5)
        self._meta_job: DiskJob | None = None
        self._log_job: DiskJob | None = None
        self.is_installing = False

    @property
    def log(self) -> PartitionLog:
        return self.storage.logs[NAME]

    def open(self) -> None:
        self.take_over(open_storage(Vfs.of(self.disk), DIRECTORY))

    def take_over(self, storage: Storage) -> None:
        """Go on with `storage`, just opened; jobs of before are forgotten."""
        self.storage = storage
        self._meta_job = self._log_job = None
        self.is_installing = False
        self._vote_sequence = self._cut_sequence = self._trim_sequence = 0
        self.book.incarnation = storage.meta.incarnation
        self.book.uuid = storage.meta.replica_uuid

    def close(self) -> None:
        self.storage.close()
        self.disk.kill()

    def append(self, generation: int, **shape: Any) -> None:
        span = make_span(self.log.end_offset, generation, **{"seed": self.log.cut_counter, **shape})
        self.log.append(span)
        self.book.histories[-1].append(span)

    def cut(self, offset: int) -> None:
        self.book.histories.append([span for span in self.book.histories[-1] if span.end_offset <= offset])
        self.book.acked = min(self.book.acked, offset)
        self.log.cut(offset)
        self._cut_sequence = self.storage.meta._sequence

    def trim(self, hwm: int, offset: int) -> None:
        self.log.committed(hwm)
        self._trim_sequence = self.log.trim(offset)
        if self.log.start_offset != self.book.trimmed[-1]:
            self.book.trimmed.append(self.log.start_offset)

    def install(self, history: list[Span], offset: int) -> None:
        """The anchor at `offset` of another log, which ends there."""
        self.book.histories.append([span for span in history if span.end_offset <= offset])
        self.book.acked = 0
        self.log.install(anchor_of(history, offset))
        self.log.committed(offset)
        self.book.trimmed.append(self.log.start_offset)
        self.is_installing = True

    def vote(self, generation: int, vote: int) -> None:
        self.book.votes.append((generation, vote))
        self._vote_sequence = self.storage.meta.save_vote(NAME, generation, vote)

    def settle(self, steps: int = 1 << 30) -> None:
        """Run jobs of meta and of the log side by side, one operation at a time, until there is none; or only
        `steps` operations, which leaves what is under way in flight."""
        for _ in range(steps):
            self._meta_job = self._meta_job or self.storage.meta.flush_job()
            self._log_job = self._log_job or self.log.flush_job()
            if self._meta_job is not None and (self._log_job is None or self._random.random() < 0.5):
                if not self._meta_job.step():
                    self._meta_job = self._meta_done(self._meta_job)
            elif self._log_job is not None:
                if not self._log_job.step():
                    self._log_job = self._log_done(self._log_job)
            else:
                return

    def _meta_done(self, job: DiskJob) -> None:
        self.storage.meta.flush_done(job)
        if self.storage.meta.flushed_sequence >= self._vote_sequence:
            self.book.votes = self.book.votes[-1:]
        if self.storage.meta.flushed_sequence >= self._cut_sequence and not self.is_installing:
            self.book.histories = self.book.histories[-1:]
        if self.storage.meta.flushed_sequence >= self._trim_sequence and not self.is_installing:
            self.book.trimmed = self.book.trimmed[-1:]

    def _log_done(self, job: DiskJob) -> None:
        self.log.flush_done(job)
        self.book.acked = self.log.flushed_offset
        if self.is_installing and self.book.acked:
            self.is_installing = False
            self.book.histories = self.book.histories[-1:]
            self.book.trimmed = self.book.trimmed[-1:]

    def sync_watermarks(self) -> None:
        job = self.storage.watermark_job()
        if job is not None:
            job.run()
            self.storage.watermark_done(job)


def life_of_appends_votes_and_rolls(life: Life) -> None:
    life.open()
    life.append(1)
    life.settle()
    life.vote(2, 3)
    life.storage.meta.save_pins({node: f"{node:032x}" for node in range(1, 30)})  # a frame of three sectors
    life.settle()
    for number in range(4):
        life.append(2, batches=2, size=200, producer=(77, 0, 4 * number))
        if number % 2:
            life.settle()
    life.sync_watermarks()
    for _ in range(6):
        life.append(2, size=350)
    life.settle()
    life.close()
    life.open()
    life.append(3)
    life.settle()


def life_of_cuts(life: Life) -> None:
    life.open()
    for number in range(7):
        life.append(1, size=400, producer=(5, 0, 2 * number))
        life.settle()
    assert len(life.log._segments) == 2
    life.cut(12)  # inside the active segment
    life.append(2, size=300)
    life.settle()
    life.cut(4)  # back into the full one
    life.settle()
    life.vote(3, 1)
    life.append(3, size=100, producer=(5, 1, 0))
    life.append(3, size=700, batches=2)
    life.settle()
    life.cut(6)
    life.append(3, size=30)  # the same generation goes on
    life.cut(6)
    life.append(4, size=60)
    life.settle()


def life_of_late_completions(life: Life) -> None:
    """Cuts while a round is under way, before, between and after its operations, and while a cut is."""
    life.open()
    life.append(1, size=300)
    life.settle()
    for generation in range(2, 9):
        life.append(generation, size=250, producer=(3, 0, 4 * generation))
        life.append(generation, size=250, producer=(3, 0, 4 * generation + 2))
        life.settle(steps=5 + generation)
        start = life.log.generations.entries()[-1][1]
        life.cut(start + 2 * (generation % 2))
        life.append(generation, size=70 * generation, batches=2) if generation % 2 else None
        life.settle(steps=3 * generation)
        life.vote(generation, 1)
    life.settle()


def life_of_trims(life: Life) -> None:
    """Prefixes go inside a batch, at a segment's end, and up to the log's end; before and after a restart."""
    life.open()
    for number in range(18):
        life.append(1 + number // 5, size=350, producer=(5 + number % 2, 0, 2 * (number // 2)))
    life.settle()
    assert len(life.log._segments) == 3
    life.trim(20, 3)
    life.settle()
    assert life.log.base_offset == 0
    life.trim(30, 17)
    life.append(4, size=200)
    life.settle()
    assert life.log.base_offset == 10
    life.close()
    life.open()
    life.cut(34)
    life.append(5, size=300)
    life.trim(33, 33)
    life.settle()
    life.trim(life.log.end_offset, life.log.end_offset)
    life.settle()
    assert life.log._segments == []
    life.append(6, size=100, producer=(5, 0, 50))
    life.settle()


def life_of_installs(life: Life) -> None:
    """The anchors of leaders take the place of a log: one with a divergent tail, one in mid-flight, one that
    has an anchor already."""
    leader = [
        make_span(2 * number, 1 + number // 3, size=200, producer=(9, 0, 2 * number)) for number in range(40)
    ]
    life.open()
    for _ in range(12):
        life.append(1, size=350, seed=1)
    life.settle()
    life.install(leader, 22)  # inside what it holds
    life.settle()
    life.append(leader[11].generation, size=150, producer=(9, 0, 22))
    life.settle(steps=3)
    life.install(leader, 48)
    life.settle(steps=2)
    life.settle()
    for number in range(3):
        life.append(20 + number, size=900)
    life.settle()
    life.install([*leader, make_span(80, 30)], 82)
    life.settle()
    life.append(31, size=100)
    life.settle()


def subsets(disk: MemoryDisk, random: Random) -> Iterator[list[int]]:
    """Outcomes of a power cut: for each unsynced effect, which version is kept."""
    counts = disk.unsynced()
    if prod(counts) <= SUBSETS_MAX:
        yield from (list(choice) for choice in product(*(range(count) for count in counts)))
        return
    yield [0] * len(counts)
    yield [count - 1 for count in counts]
    for _ in range(SUBSETS_MAX - 2):
        yield [random.randrange(count) for count in counts]


def crash_everywhere(
    script: Callable[[Life], None], check: Callable[[MemoryDisk, Book, Random], None]
) -> int:
    """Run `script`, and `check` a copy of the disk before each changing operation and at the end."""
    random = Random(11)
    points = 0

    def crash(operation: str, path: str) -> None:
        nonlocal points
        points += 1
        check(disk, life.book, random)

    disk = MemoryDisk(Random(3))
    disk.before = crash
    life = Life(disk)
    script(life)
    crash("end", "")
    return points


SCRIPTS = [
    life_of_appends_votes_and_rolls,
    life_of_cuts,
    life_of_late_completions,
    life_of_trims,
    life_of_installs,
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_power_cut_recovers_to_a_state_the_rules_allow(script: Callable[[Life], None]) -> None:
    """SAFETY 1, 2, 3, 13, 14, 17, 18, 19: and recovering twice is recovering once."""

    def check(disk: MemoryDisk, book: Book, random: Random) -> None:
        for choices in subsets(disk, random):
            crashed = disk.copy()
            crashed.power_cut(choices)
            storage = open_storage(Vfs.of(crashed), DIRECTORY)
            book.judge(storage)
            found, incarnation = contents(storage.logs[NAME]), storage.meta.incarnation
            crashed.power_cut([0] * len(crashed.unsynced()))
            again = open_storage(Vfs.of(crashed), DIRECTORY)
            book.judge(again)
            assert contents(again.logs[NAME]) == found, "SAFETY 18: what recovery counted was on disk"
            assert again.meta.incarnation == incarnation + 1

    assert crash_everywhere(script, check) > 80


@pytest.mark.parametrize("script", SCRIPTS)
def test_power_cuts_during_recovery_change_nothing(script: Callable[[Life], None]) -> None:
    def check(disk: MemoryDisk, book: Book, random: Random) -> None:
        for _ in range(2):
            crashed = disk.copy()
            crashed.power_cut()
            for _ in range(3):
                crashed.cut_at = crashed.operations + random.randrange(30)
                try:
                    open_storage(Vfs.of(crashed), DIRECTORY)
                except DataDirectoryError:
                    assert crashed.operations == crashed.cut_at, "refused while the power was on"
                crashed.power_cut()
            book.judge(open_storage(Vfs.of(crashed), DIRECTORY))

    assert crash_everywhere(script, check) > 80


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_kill_loses_nothing_that_was_written(script: Callable[[Life], None]) -> None:
    """kill -9 keeps the page cache. SAFETY 18: a power cut right after recovery keeps what it counted."""

    def check(disk: MemoryDisk, book: Book, random: Random) -> None:
        killed = disk.copy()
        killed.kill()
        storage = open_storage(Vfs.of(killed), DIRECTORY)
        book.judge(storage)
        found = contents(storage.logs[NAME])
        killed.power_cut([0] * len(killed.unsynced()))
        storage = open_storage(Vfs.of(killed), DIRECTORY)
        book.judge(storage)
        assert contents(storage.logs[NAME]) == found

    assert crash_everywhere(script, check) > 80
