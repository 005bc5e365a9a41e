"""The embedded log beside SQLite, LMDB, RocksDB and the disk's own limit: durable appends, and scans.

Every store says of each commit that it is on disk: rlog by fdatasync, SQLite with WAL and synchronous=FULL,
LMDB with its default (sync), RocksDB with its WAL and sync=True. The limit is a loop of pwrite and fdatasync
over a preallocated file, writing as many bytes at a time as rlog does. All run in one process, in turns, so
that whatever else the machine does hits all of them; a figure is the median of its rounds.
"""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import click
import lmdb
from rocksdict import Options, Rdict, WriteBatch, WriteOptions

import rlog
from benchmarks.machine import machine
from rlog._core import BatchBuilder

ROW_BYTES = 100
COMMITS = {1: 1000, 100: 200, 10_000: 20}  # of each size, a round
SCAN_ROWS = 1_000_000
SCAN_COMMIT_ROWS = 10_000
BARE = "bare pwrite+fdatasync"
FIGURE_COLUMNS = 38
DURABILITY = "each commit: on disk (fdatasync, or the store's own sync) when the call returns"


class Store(Protocol):
    """One store, open in a directory of its own."""

    def commit(self, rows: list[bytes]) -> None: ...
    def scan(self) -> int:
        """How many values were read, each as bytes."""

    def close(self) -> None: ...


class Rlog:
    def __init__(self, directory: Path) -> None:
        self._log = rlog.open(directory / "log")

    def commit(self, rows: list[bytes]) -> None:
        if len(rows) == 1:
            self._log.append(rows[0])
        else:
            self._log.append_many(rows)

    def scan(self) -> int:
        return sum(len(values) for values in self._log.value_batches())

    def scan_records(self) -> int:
        return sum(len(records) for records in self._log.read_batches())

    def close(self) -> None:
        self._log.close()


class Sqlite:
    def __init__(self, directory: Path) -> None:
        self._connection = sqlite3.connect(directory / "sqlite.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, value BLOB)")

    def commit(self, rows: list[bytes]) -> None:
        if len(rows) == 1:
            self._connection.execute("INSERT INTO log (value) VALUES (?)", (rows[0],))
            return
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO log (value) VALUES (?)", ((row,) for row in rows))
        self._connection.execute("COMMIT")

    def scan(self) -> int:
        return sum(1 for _ in self._connection.execute("SELECT value FROM log ORDER BY id"))

    def close(self) -> None:
        self._connection.close()


class Lmdb:
    def __init__(self, directory: Path) -> None:
        self._environment = lmdb.open(str(directory / "lmdb"), map_size=8 << 30)
        self._next = 0

    def commit(self, rows: list[bytes]) -> None:
        first, self._next = self._next, self._next + len(rows)
        with self._environment.begin(write=True) as transaction:
            items = [(number.to_bytes(8, "big"), row) for number, row in enumerate(rows, start=first)]
            transaction.cursor().putmulti(items, append=True)

    def scan(self) -> int:
        with self._environment.begin() as transaction:
            return sum(1 for _ in transaction.cursor().iternext(keys=False, values=True))

    def close(self) -> None:
        self._environment.close()


class Rocks:
    def __init__(self, directory: Path) -> None:
        self._database = Rdict(str(directory / "rocks"), Options(raw_mode=True))
        synced = WriteOptions()
        synced.sync = True
        self._database.set_write_options(synced)
        self._next = 0

    def commit(self, rows: list[bytes]) -> None:
        batch = WriteBatch(raw_mode=True)
        for number, row in enumerate(rows, start=self._next):
            batch.put(number.to_bytes(8, "big"), row)
        self._next += len(rows)
        self._database.write(batch)

    def scan(self) -> int:
        return sum(1 for _ in self._database.values())

    def close(self) -> None:
        self._database.close()


class Bare:
    """The limit: pwrite and fdatasync, of as many bytes as rlog writes for these rows."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / "bare", os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(self._file, 0, 64 << 20)
        os.fsync(self._file)
        self._position = 0
        self._data: dict[int, bytes] = {}

    def commit(self, rows: list[bytes]) -> None:
        data = self._data.get(len(rows))
        if data is None:
            builder = BatchBuilder(batch_bytes_max=64 << 20)
            builder.append_values(rows, 0, time.time_ns() // 1_000_000)
            data = self._data[len(rows)] = builder.build()
        os.pwrite(self._file, data, self._position)
        os.fdatasync(self._file)
        self._position += len(data)

    def close(self) -> None:
        os.close(self._file)


APPENDERS: dict[str, Callable[[Path], Any]] = {
    "rlog": Rlog,
    BARE: Bare,
    "SQLite": Sqlite,
    "LMDB": Lmdb,
    "RocksDB": Rocks,
}


def rows_of(count: int) -> list[bytes]:
    return [os.urandom(ROW_BYTES) for _ in range(count)]


def commit_rates(directory: Path, rounds: int, warm_up: int = 1) -> dict[str, dict[int, list[float]]]:
    """Rows a second of each store, for each size of a commit, one figure a round. Stores take turns."""
    rows = {size: rows_of(size) for size in COMMITS}
    rates: dict[str, dict[int, list[float]]] = {name: {size: [] for size in COMMITS} for name in APPENDERS}
    for number in range(warm_up + rounds):
        names = list(APPENDERS)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            place = directory / f"{number}-{name[:4].strip()}"
            place.mkdir()
            store = APPENDERS[name](place)
            for size, count in COMMITS.items():
                store.commit(rows[size])  # the first commit creates files
                begin = time.perf_counter()
                for _ in range(count):
                    store.commit(rows[size])
                rate = size * count / (time.perf_counter() - begin)
                if number >= warm_up:
                    rates[name][size].append(rate)
            store.close()
            shutil.rmtree(place)
    return rates


def scan_rates(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Rows a second of reading everything from a hot page cache."""
    rows = rows_of(SCAN_COMMIT_ROWS)
    scans: dict[str, Callable[[], int]] = {}
    stores = []
    for name in APPENDERS:
        if name.startswith("bare"):
            continue
        place = directory / f"scan-{name}"
        place.mkdir()
        store = APPENDERS[name](place)
        stores.append(store)
        for _ in range(SCAN_ROWS // SCAN_COMMIT_ROWS):
            store.commit(rows)
        scans[f"{name}, values"] = store.scan
        if isinstance(store, Rlog):
            scans["rlog, records"] = store.scan_records
    rates: dict[str, list[float]] = {name: [] for name in scans}
    for number in range(1 + rounds):
        for name, scan in scans.items():
            begin = time.perf_counter()
            count = scan()
            seconds = time.perf_counter() - begin
            assert count == SCAN_ROWS, (name, count)
            if number:
                rates[name].append(count / seconds)
    for store in stores:
        store.close()
    return rates


def spread(rates: list[float]) -> dict[str, int]:
    return {"median": round(median(rates)), "min": round(min(rates)), "max": round(max(rates))}


def bench(directory: Path, *, rounds: int) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    commits = commit_rates(directory, rounds)
    scans = scan_rates(directory, rounds)
    limit = commits[BARE]
    shares = {
        size: [ours / theirs for ours, theirs in zip(commits["rlog"][size], limit[size], strict=True)]
        for size in COMMITS
    }
    return {
        "durability": DURABILITY,
        "machine": {
            **machine(directory),
            "sqlite": sqlite3.sqlite_version,
            "lmdb": ".".join(map(str, lmdb.version())),
            "rocksdict": version("rocksdict"),
        },
        "load_average_before": round(load_before, 2),
        "row_bytes": ROW_BYTES,
        "rounds": rounds,
        "commit_rows_s": {
            name: {size: spread(rates) for size, rates in sizes.items()} for name, sizes in commits.items()
        },
        "share_of_bare": {size: round(median(each), 3) for size, each in shares.items()},
        "scan_rows_s": {name: spread(rates) for name, rates in scans.items()},
        "warnings": list(warnings_of(commits)),
    }


def warnings_of(commits: dict[str, dict[int, list[float]]]) -> Iterator[str]:
    """Where the limit was no limit: the disk gave other programs more in its turns than in a store's."""
    for name, sizes in commits.items():
        for size, rates in sizes.items():
            if name != BARE and median(rates) > median(commits[BARE][size]):
                yield (
                    f"at {size:,} a commit {name} was faster than the bare loop: the disk was not the same "
                    "for both, so compare nothing of this run; measure again on an idle machine"
                )


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    yield f"durability: {report['durability']}"
    yield "machine: " + ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    yield f"load average before: {report['load_average_before']}"
    yield f"medians of {report['rounds']} rounds (min to max)"
    heads = "".join(f"{f'{size:,} a commit':>{FIGURE_COLUMNS}}" for size in COMMITS)
    yield f"{'rows/s, rows of 100 B':24}{heads}"
    for name, sizes in report["commit_rows_s"].items():
        yield f"{name:24}" + "".join(f"{_figure(each):>{FIGURE_COLUMNS}}" for each in sizes.values())
    yield "rlog / bare, same round:" + "".join(
        f"{share:>{FIGURE_COLUMNS}.2f}" for share in report["share_of_bare"].values()
    )
    for name, each in report["scan_rows_s"].items():
        yield f"{'scan: ' + name:24}{_figure(each):>{FIGURE_COLUMNS}}"
    for warning in report["warnings"]:
        yield f"WARNING: {warning}"


def _figure(each: dict[str, int]) -> str:
    return f"{each['median']:,} ({each['min']:,} to {each['max']:,})"


def show(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        for line in lines_of(report):
            click.echo(line)
