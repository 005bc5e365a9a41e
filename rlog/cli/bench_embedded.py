"""What `rlog bench --embedded` measures: an embedded log beside what the bare disk takes for the same bytes.

One after the other in each round, for groups of one, a hundred and ten thousand records: the same bytes
written to a file that is there and flushed; then the log, which also frames, checksums and indexes them.
Where the disk flushes at another speed from minute to minute, as virtual ones do, the two still compare.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import rlog
from rlog.cli.progress import Bar

GROUPS = (1, 100, 10_000)
GROUP_BYTES_MAX = 4 << 20
COMMITS_MIN = 5
BARE_FILE_BYTES = 8 << 20


@dataclass(slots=True)
class Group:
    """Commits of so many records each. Times are microseconds of one commit, per round: p50 and p99."""

    records: int
    record_bytes: int
    rates: list[float] = field(default_factory=list)
    commits_us: list[tuple[float, float]] = field(default_factory=list)
    bare_us: list[tuple[float, float]] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """Medians over the rounds; null where none was finished."""
        return {
            "records": self.records,
            "record_bytes": self.record_bytes,
            "records_s": round(median(self.rates)) if self.rates else None,
            "rounds_records_s": [round(rate) for rate in self.rates],
            "p50_us": _median(self.commits_us, 0),
            "p99_us": _median(self.commits_us, 1),
            "bare_p50_us": _median(self.bare_us, 0),
            "bare_p99_us": _median(self.bare_us, 1),
        }

    def line(self) -> str:
        told = self.fields()
        return (
            f"append       {self.records:,} a commit: {told['records_s']:,} records/s of {self.record_bytes} "
            f"bytes; a commit p50 {told['p50_us']:,.0f} us, p99 {told['p99_us']:,.0f} us; its bytes alone, "
            f"written and flushed: p50 {told['bare_p50_us']:,.0f} us, p99 {told['bare_p99_us']:,.0f} us"
        )


def _median(times: list[tuple[float, float]], which: int) -> float | None:
    return round(median(each[which] for each in times), 1) if times else None


def groups_of(record_bytes: int) -> list[Group]:
    """Those that a batch has room for."""
    return [Group(count, record_bytes) for count in GROUPS if count * record_bytes <= GROUP_BYTES_MAX]


def measure(groups: list[Group], directory: Path, *, rounds: int, seconds: float, progress: Bar) -> None:
    """Fill in `groups`; a round lasts `seconds` for the log, and as long for the bare file."""
    each_s = seconds / len(groups)
    with rlog.open(directory / "log") as log:
        log.append_many([bytes(100)] * 1000)  # the first one opens files
        for number in range(rounds):
            for group in groups:
                progress.at(1 + number, name=f"{group.records:,} a commit")
                values = [os.urandom(group.record_bytes) for _ in range(group.records)]
                group.bare_us.append(_percentiles(_bare(directory / "bare", b"".join(values), each_s)))
                begin = time.perf_counter()
                times = _timed(_commit_of(log, values), each_s)
                group.rates.append(len(times) * group.records / (time.perf_counter() - begin))
                group.commits_us.append(_percentiles(times))


def _commit_of(log: rlog.Log, values: list[bytes]) -> Callable[[], object]:
    return partial(log.append, values[0]) if len(values) == 1 else partial(log.append_many, values)


def _bare(path: Path, data: bytes, seconds: float) -> list[float]:
    """Over bytes that were written before: then a flush changes no inode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, bytes(BARE_FILE_BYTES), 0)
        os.fsync(descriptor)
        positions = _positions(len(data))

        def commit() -> None:
            os.pwrite(descriptor, data, next(positions))
            os.fdatasync(descriptor)

        return _timed(commit, seconds)
    finally:
        os.close(descriptor)


def _positions(size: int) -> Iterator[int]:
    while True:
        yield from range(0, BARE_FILE_BYTES - size + 1, size)


def _timed(commit: Callable[[], object], seconds: float) -> list[float]:
    """Microseconds of each; at least COMMITS_MIN, however long they take."""
    end = time.perf_counter() + seconds
    times: list[float] = []
    while time.perf_counter() < end or len(times) < COMMITS_MIN:
        begin = time.perf_counter()
        commit()
        times.append((time.perf_counter() - begin) * 1e6)
    return times


def _percentiles(micros: list[float]) -> tuple[float, float]:
    cuts = quantiles(micros, n=100)
    return cuts[49], cuts[98]
