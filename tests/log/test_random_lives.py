"""Random lives of one log: appends, cuts, votes and half-done jobs, with kills, power cuts and restarts."""

from collections.abc import Callable
from random import Random

import pytest

from rlog._core import Span, Vfs, iterate_batches
from rlog.log.settings import LogSettings
from rlog.testing.disk import MemoryDisk
from tests.log.storage_kit import NAME, contents, make_span, open_storage, rebuilt_producers
from tests.log.test_crash_points import DIRECTORY, Life

SEEDS = 400
STEPS = 60


def single_batches(data: bytes) -> list[Span]:
    """One span for each batch, so that a history may be cut at any boundary."""
    return [
        Span.parse(data[info.position : info.position + info.size])
        for info in iterate_batches(data, verify=False)
    ]


class RandomLife:
    """A Life whose next step is drawn: small files and rounds, so that all boundaries are met often."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.settings = LogSettings(
            segment_bytes_min=self.random.choice([512, 1024, 4096]),
            segment_bytes_max=self.random.choice([4096, 8192, 65536]),
            tail_bytes_max=self.random.choice([0, 300, 2048, 100_000]),
            index_interval_bytes=self.random.choice([1, 256, 4096]),
            round_bytes_max=self.random.choice([1, 400, 1500, 4096, 20_000]),
            meta_bytes_max=self.random.choice([300, 4096]),
        )
        self.disk = MemoryDisk(self.random)
        self.life = Life(self.disk)
        self.spans = self.reopened = 0
        self.steps: list[tuple[Callable[[], None], int]] = [
            (self.append, 10),
            (self.cut, 6),
            (self.run_some, 8),
            (self.life.settle, 2),
            (self.life.sync_watermarks, 1),
            (self.vote, 1),
            (self.look, 2),
            (self.power_cut, 1),
            (self.kill, 1),
            (self.close, 1),
        ]

    def live(self) -> int:
        """How many recoveries were judged."""
        self.reopen()
        steps, weights = zip(*self.steps, strict=True)
        for step in self.random.choices(steps, weights, k=STEPS):
            step()
        self.power_cut()
        return self.reopened

    def append(self) -> None:
        random, log, book = self.random, self.life.log, self.life.book
        self.spans += 1
        span = make_span(
            log.end_offset,
            max(1, log.last_generation + random.choice([0, 0, 1])),
            seed=self.spans,
            batches=random.randint(1, 4),
            size=random.choice([10, 100, 300, 900, 3000]),
            producer=random.choice([None, (random.randint(0, 2), 0, random.randint(0, 100))]),
            append_time_ms=random.choice([-1, self.spans]),
        )
        log.append(span)
        book.histories[-1] += single_batches(bytes(span))

    def cut(self) -> None:
        log = self.life.log
        ends = [0, *(span.end_offset for span in self.life.book.histories[-1])][-8:]
        bases = [segment.base_offset for segment in log._segments]
        offset = self.random.choice(self.random.choice([ends, bases or ends]))
        if offset < log.end_offset:
            self.life.cut(offset)
            self.look()

    def run_some(self) -> None:
        self.life.settle(steps=self.random.randint(1, 12))

    def vote(self) -> None:
        generation = max(self.life.storage.meta.vote(NAME)[0], self.life.log.last_generation)
        self.life.vote(generation + 1, self.random.randint(1, 3))

    def look(self) -> None:
        log = self.life.log
        written = b"".join(bytes(span) for span in self.life.book.histories[-1])
        assert contents(log) == written
        assert log.producers == rebuilt_producers(iterate_batches(written, verify=False)), "SAFETY 13"

    def power_cut(self) -> None:
        self.disk.power_cut()
        self.reopen()

    def kill(self) -> None:
        self.disk.kill()
        self.reopen()

    def close(self) -> None:
        self.life.settle()
        self.life.close()
        self.reopen()

    def reopen(self) -> None:
        storage = open_storage(Vfs.of(self.disk), DIRECTORY, settings=self.settings)
        book = self.life.book
        book.judge(storage)
        self.life.take_over(storage)
        book.histories = [single_batches(contents(self.life.log))]
        book.acked = self.life.log.flushed_offset
        book.votes = [storage.meta.vote(NAME)]
        self.reopened += 1


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_any_life_recovers_to_a_state_the_rules_allow(first: int) -> None:
    """SAFETY 1, 2, 3, 13, 14, 17, 18, 19. A seed that fails is in the traceback."""
    for seed in range(first, first + 50):
        assert RandomLife(seed).live() >= 2
