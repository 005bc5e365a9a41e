"""Random lives of one log: appends, cuts, trims, installed anchors, votes, half-done jobs; kills, power cuts
and restarts."""

from collections.abc import Callable
from random import Random

import pytest

from rlog._core import Span, Vfs, iterate_batches
from rlog.log.settings import LogSettings
from rlog.testing.disk import MemoryDisk
from tests.log.storage_kit import (
    NAME,
    check_indexes,
    contents,
    find,
    first_at,
    make_span,
    open_storage,
    rebuilt_producers,
)
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
        self.spans = self.reopened = self.hwm = 0
        self.steps: list[tuple[Callable[[], None], int]] = [
            (self.append, 10),
            (self.cut, 6),
            (self.trim, 2),
            (self.install, 1),
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
        log, book = self.life.log, self.life.book
        if self.life.is_installing:
            return
        span = self.span(log.end_offset, max(1, log.last_generation + self.random.choice([0, 0, 1])))
        log.append(span)
        book.histories[-1] += single_batches(bytes(span))

    def span(self, base: int, generation: int) -> Span:
        random = self.random
        self.spans += 1
        return make_span(
            base,
            generation,
            seed=self.spans,
            batches=random.randint(1, 4),
            size=random.choice([10, 100, 300, 900, 3000]),
            producer=random.choice([None, (random.randint(0, 2), 0, random.randint(0, 100))]),
            append_time_ms=random.choice([-1, -1, self.spans]),
            times_ms=[random.choice([-1, self.spans, random.randint(0, 60)]) for _ in range(3)],
            compression=random.choice(["none", "none", "lz4"]),
        )

    def boundaries(self) -> list[int]:
        """Those that are not committed, and the last that is."""
        ends = [0, *(span.end_offset for span in self.life.book.histories[-1])]
        return [end for end in ends if end >= self.hwm]

    def cut(self) -> None:
        log = self.life.log
        ends = self.boundaries()[-8:]
        bases = [segment.base_offset for segment in log._segments if segment.base_offset >= self.hwm]
        offset = self.random.choice(self.random.choice([ends, bases or ends]))
        if offset < log.end_offset:
            self.life.cut(offset)
            self.look()

    def trim(self) -> None:
        """Commit something that is flushed, and delete something that is committed."""
        log = self.life.log
        flushed = [end for end in self.boundaries() if end <= log.flushed_offset]
        if flushed and not self.life.is_installing:
            self.hwm = self.random.choice(flushed)
            start = self.random.randint(max(0, self.hwm - 30), self.hwm)
            if start > log.start_offset:
                self.life.trim(self.hwm, start)

    def install(self) -> None:
        """The anchor of a leader whose log went its own way from what is committed here."""
        if self.life.is_installing:
            return
        history = [span for span in self.life.book.histories[-1] if span.end_offset <= self.hwm]
        generation = self.life.log.last_generation
        for _ in range(self.random.randint(1, 5)):
            generation += self.random.randint(0, 1)
            span = self.span(history[-1].end_offset if history else 0, generation + 1)
            history += single_batches(bytes(span))
        offset = self.random.choice([span.end_offset for span in history if span.end_offset > self.hwm])
        self.hwm = offset
        self.life.install(history, offset)

    def run_some(self) -> None:
        self.life.settle(steps=self.random.randint(1, 12))

    def vote(self) -> None:
        generation = max(self.life.storage.meta.vote(NAME)[0], self.life.log.last_generation)
        self.life.vote(generation + 1, self.random.randint(1, 3))

    def look(self) -> None:
        log = self.life.log
        history = self.life.book.histories[-1]
        written = b"".join(bytes(span) for span in history)
        assert contents(log) == b"".join(bytes(span) for span in history if span.end_offset > log.base_offset)
        assert log.producers == rebuilt_producers(iterate_batches(written, verify=False)), "SAFETY 13"
        check_indexes(log, self.settings)
        moment = self.random.randint(0, 60)
        assert find(log, moment, end_max=log.end_offset) == first_at(written, moment, log.start_offset)

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
        deleted = [span for span in book.found(self.life.log) if span.end_offset <= self.life.log.base_offset]
        book.histories = [[*deleted, *single_batches(contents(self.life.log))]]
        book.trimmed = [self.life.log.start_offset]
        self.hwm = self.life.log.base_offset
        book.acked = self.life.log.flushed_offset
        book.votes = [storage.meta.vote(NAME)]
        self.reopened += 1
        self.look()


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_any_life_recovers_to_a_state_the_rules_allow(first: int) -> None:
    """SAFETY 1, 2, 3, 13, 14, 17, 18, 19. A seed that fails is in the traceback."""
    for seed in range(first, first + 50):
        assert RandomLife(seed).live() >= 2
