"""Many threads on one log: they share rounds, win or lose an offset cleanly; readers see whole prefixes."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import rlog
from rlog._core import DiskJob
from rlog.embedded import commit
from rlog.embedded.log import Log
from rlog.errors import LogClosed, OffsetConflict
from rlog.testing.disk import MemoryDisk
from tests.embedded.kit import open_on, values_of

TIMEOUT_S = 60


def run_threads(*targets: Callable[[], object]) -> list[object]:
    """What each returned, all at the same time; the first error is raised."""
    with ThreadPoolExecutor(len(targets)) as pool:
        futures = [pool.submit(target) for target in targets]
        return [future.result(TIMEOUT_S) for future in futures]


class SlowDisk(MemoryDisk):
    """Holds fdatasyncs of segments while `held`; says when one has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = 0
        self.held = False
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def fdatasync(self, fd: int) -> None:
        if ".log" in self._open[fd][1]:
            self.syncs += 1
            if self.held:
                self.begun.set()
                assert self.go_on.wait(TIMEOUT_S)
        super().fdatasync(fd)

    def hold(self) -> None:
        self.begun.clear()
        self.go_on.clear()
        self.held = True

    def release(self) -> None:
        self.held = False
        self.go_on.set()


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(TIMEOUT_S * 100):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it never came true")


def queued(log: Log) -> int:
    """Records that joined the open group."""
    return log._writer.open.end_offset - log._writer.open.start_offset


def test_who_meets_at_the_disk_shares_one_round(disk: SlowDisk) -> None:
    log = open_on(disk)
    log.append(b"first")
    disk.hold()
    before = disk.syncs
    threads = [threading.Thread(target=log.append, args=(b"%d" % number,)) for number in range(20)]
    threads[0].start()
    assert disk.begun.wait(TIMEOUT_S)
    for thread in threads[1:]:
        thread.start()
    until(lambda: queued(log) == 19)
    assert log.end_offset == 1, "readers see only what is flushed"
    disk.release()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert disk.syncs - before == 2, "one for the first, one for the nineteen that came meanwhile"
    assert sorted(values_of(log)[1:]) == sorted(b"%d" % number for number in range(20))


def test_nothing_returns_before_its_own_fdatasync(disk: SlowDisk) -> None:
    log = open_on(disk)
    log.append(b"first")
    disk.hold()
    done = threading.Event()
    thread = threading.Thread(target=lambda: (log.append(b"second"), done.set()))
    thread.start()
    assert disk.begun.wait(TIMEOUT_S)
    assert not done.is_set()
    assert not log.wait(1, timeout_ms=0)
    crashed = disk.copy()
    crashed.power_cut([0] * len(crashed.unsynced()))
    assert values_of(open_on(crashed)) == [b"first"]
    disk.release()
    thread.join(TIMEOUT_S)
    crashed = disk.copy()
    crashed.power_cut([0] * len(crashed.unsynced()))
    assert values_of(open_on(crashed)) == [b"first", b"second"]


def test_every_receipt_names_where_its_record_is(tmp_path: Path) -> None:
    with rlog.open(tmp_path / "orders") as log:

        def write(name: int) -> dict[int, bytes]:
            written = {}
            for number in range(60):
                value = b"%d-%d" % (name, number)
                written[log.append(value).offset] = value
                if number % 20 == 0:
                    values = [b"%d-%d-%d" % (name, number, each) for each in range(50)]
                    offsets = log.append_many(values).offsets()
                    written.update(zip(offsets, values, strict=True))
            return written

        expected: dict[int, bytes] = {}
        for written in run_threads(*(lambda name=name: write(name) for name in range(12))):
            expected |= written
        assert len(expected) == 12 * (60 + 3 * 50)
        assert values_of(log) == [expected[offset] for offset in range(len(expected))]
    with rlog.open(tmp_path / "orders") as log:
        assert values_of(log) == [expected[offset] for offset in range(len(expected))]


def test_of_those_who_expect_one_offset_exactly_one_appends(tmp_path: Path) -> None:
    """Optimistic concurrency: each loser reads what won, and tries again after it."""
    threads, rounds = 8, 25

    with rlog.open(tmp_path / "events") as log:
        barrier = threading.Barrier(threads)

        def race(name: int) -> int:
            conflicts = []
            for number in range(rounds):
                barrier.wait(TIMEOUT_S)
                try:
                    log.append(b"%d" % name, expect_offset=number)
                except OffsetConflict as conflict:
                    conflicts.append((conflict.expected, conflict.actual, log.end_offset))
                barrier.wait(TIMEOUT_S)
            assert all(expected < actual <= end for expected, actual, end in conflicts), "what won is on disk"
            return rounds - len(conflicts)

        wins = run_threads(*(lambda name=name: race(name) for name in range(threads)))
        assert sum(wins) == rounds == log.end_offset
        assert [values_of(log).count(b"%d" % name) for name in range(threads)] == wins


def test_a_counter_kept_by_expected_offsets_loses_no_step(tmp_path: Path) -> None:
    with rlog.open(tmp_path / "counter") as log:

        def count() -> None:
            for _ in range(20):
                while True:
                    end = log.end_offset
                    value = int(next(log.values(end - 1)) or b"0") if end else 0
                    try:
                        log.append(b"%d" % (value + 1), expect_offset=end)
                        break
                    except OffsetConflict:
                        continue

        run_threads(*[count] * 6)
        assert values_of(log) == [b"%d" % number for number in range(1, 121)]


def test_readers_beside_appenders_see_dense_growing_prefixes(tmp_path: Path) -> None:
    with rlog.open(tmp_path / "orders") as log:
        finished = threading.Event()

        def write(name: int) -> None:
            for number in range(100):
                log.append(b"%d-%d" % (name, number))

        def read() -> int:
            seen: list[bytes | None] = []
            while not finished.is_set():
                values = values_of(log)
                assert values[: len(seen)] == seen
                seen = values
            return len(seen)

        def write_all() -> None:
            try:
                run_threads(*(lambda name=name: write(name) for name in range(4)))
            finally:
                finished.set()

        run_threads(write_all, read, read)
        assert log.end_offset == 400


def test_followers_get_everything_in_order_and_end_with_the_log(tmp_path: Path) -> None:
    log = rlog.open(tmp_path / "orders")
    log.append(b"0")

    def follow() -> list[bytes | None]:
        return list(log.values(follow=True))

    def write() -> None:
        for number in range(1, 200):
            log.append(b"%d" % number)
        assert log.wait(199, timeout_ms=0)
        log.close()

    *followed, _ = run_threads(follow, follow, write)
    for values in followed:
        assert values == [b"%d" % number for number in range(len(values))], "whole, up to the closing"


def test_waiting_for_an_offset_ends_by_the_record_the_clock_or_the_closing(tmp_path: Path) -> None:
    log = rlog.open(tmp_path / "orders")
    assert not log.wait(0, timeout_ms=1)
    answers = run_threads(lambda: log.wait(0), lambda: log.append(b"a"))
    assert answers[0] is True
    with pytest.raises(LogClosed):
        run_threads(lambda: log.wait(1), lambda: until(lambda: log._commit._watching > 0) or log.close())


def test_closing_waits_for_those_at_the_disk_and_refuses_the_rest(disk: SlowDisk) -> None:
    log = open_on(disk)
    log.append(b"first")
    disk.hold()
    outcomes: list[object] = []

    def append(value: bytes) -> None:
        try:
            outcomes.append(log.append(value).offset)
        except LogClosed:
            outcomes.append("refused")

    threads = [threading.Thread(target=append, args=(b"%d" % number,)) for number in range(3)]
    threads[0].start()
    assert disk.begun.wait(TIMEOUT_S)
    for thread in threads[1:]:
        thread.start()
    until(lambda: queued(log) == 2)
    closers = [threading.Thread(target=log.close) for _ in range(2)]
    for closer in closers:
        closer.start()
    until(lambda: log.is_closed)
    append(b"late")
    assert outcomes == ["refused"]
    disk.release()
    for thread in [*threads, *closers]:
        thread.join(TIMEOUT_S)
    assert sorted(outcomes[1:]) == [1, 2, 3]
    disk.kill()
    assert len(values_of(open_on(disk))) == 4


class Interrupted:
    """A job during which a signal comes: its handler runs as soon as the disk has answered."""

    def __init__(self, job: DiskJob) -> None:
        self._job = job

    def run(self) -> None:
        self._job.run()
        signal.raise_signal(signal.SIGINT)

    @property
    def finished(self) -> bool:
        return self._job.finished


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, as in a program."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_at_the_disk_is_raised_once_the_record_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = commit._run
    monkeypatch.setattr(commit, "_run", lambda job: run(Interrupted(job)))
    with rlog.open(tmp_path / "orders") as log:
        with pytest.raises(KeyboardInterrupt):
            log.append(b"mine")
        monkeypatch.undo()
        assert log.append(b"next").offset == 1
        assert values_of(log) == [b"mine", b"next"]


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_while_another_leads_is_raised_once_the_record_is_safe(disk: SlowDisk) -> None:
    log = open_on(disk)
    log.append(b"first")
    disk.hold()

    def interrupt() -> None:
        until(lambda: queued(log) == 1)
        for _ in range(3):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        disk.release()

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(log.append, b"leader's")
        assert disk.begun.wait(TIMEOUT_S)
        interrupter = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            log.append(b"mine")
        assert leader.result(TIMEOUT_S).offset == 1
        interrupter.result(TIMEOUT_S)
    assert values_of(log)[:3] == [b"first", b"leader's", b"mine"]
