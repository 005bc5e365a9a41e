"""`rlog bench`: commit throughput and latency in half a minute, and what they mean: durability first.

Everything runs on this machine, three nodes and the client on the same cores and the same disk: it shows what
this machine gives, not what three of them would. `make bench` measures longer, and beside other programs.
"""

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click

import rlog
from rlog.cli.bench_embedded import Group, groups_of, measure
from rlog.cli.exits import INTERRUPTED, UNREACHABLE, errors_as_exits, fail
from rlog.cli.interrupts import Interrupts
from rlog.cli.local_cluster import LocalCluster, NotReady
from rlog.cli.options import json_option, timeout_option
from rlog.cli.output import printing
from rlog.cli.progress import Bar, bar
from rlog.cli.session import connected, run
from rlog.client import ListAck, Producer
from rlog.log.directory import MOUNTS, check_directory, mount_of

TOPIC = "bench"
NODES = 3
CHUNK = 10_000
CHUNK_BYTES_MAX = 1 << 20
UNANSWERED_CHUNKS = 16
DISK_WRITES = 300
DISK_WRITE_BYTES = 128
LATENCY_RECORDS_MIN = 20


@dataclass(slots=True)
class Report:
    """What was measured so far; None: not yet. Rates are records/s of each round, times are microseconds."""

    durability: str
    machine: dict[str, str | int]
    warnings: list[str]
    record_bytes: int
    disk_us: dict[str, float] | None = None
    rates: list[float] = field(default_factory=list)
    latencies: list[dict[str, float]] = field(default_factory=list)
    groups: list[Group] | None = None
    interrupted: bool = False

    def fields(self) -> dict[str, Any]:
        """The answer of --json."""
        told = {
            "durability": self.durability,
            "machine": self.machine,
            "warnings": self.warnings,
            "disk": self.disk_us and {"write_bytes": DISK_WRITE_BYTES, **_rounded(self.disk_us)},
        }
        if self.groups is not None:
            measured = {"embedded": [group.fields() for group in self.groups]}
        else:
            measured = self._measured()
        return {**told, **measured, "interrupted": self.interrupted}

    def _measured(self) -> dict[str, Any]:
        """Of a cluster."""
        return {
            "throughput": {
                "record_bytes": self.record_bytes,
                "records_s": round(median(self.rates)) if self.rates else None,
                "payload_mb_s": round(self._megabytes_s(), 1) if self.rates else None,
                "rounds_records_s": [round(rate) for rate in self.rates],
            },
            "latency": {
                "record_bytes": self.record_bytes,
                **_rounded(self._latency()),
                "rounds": [_rounded(each) for each in self.latencies],
            },
        }

    def _megabytes_s(self) -> float:
        return median(self.rates) * self.record_bytes / 1e6

    def _latency(self) -> dict[str, float]:
        """Medians over the rounds."""
        names = self.latencies[0] if self.latencies else {}
        return {name: median(each[name] for each in self.latencies) for name in names}

    def lines(self) -> Iterator[str]:
        yield f"durability   {self.durability}"
        yield "machine      " + ", ".join(f"{name} {value}" for name, value in self.machine.items())
        yield from (f"WARNING      {warning}" for warning in self.warnings)
        if self.disk_us is not None:
            yield (
                f"disk         a write of {DISK_WRITE_BYTES} bytes and its fdatasync: "
                f"p50 {self.disk_us['p50_us']:,.0f} us, p99 {self.disk_us['p99_us']:,.0f} us"
            )
        yield from (group.line() for group in self.groups or () if group.rates)
        if self.rates:
            yield (
                f"throughput   {median(self.rates):,.0f} records/s of {self.record_bytes} bytes, "
                f"{self._megabytes_s():,.1f} MB/s; rounds {', '.join(f'{rate:,.0f}' for rate in self.rates)}"
            )
        if self.latencies:
            latency = self._latency()
            yield (
                f"latency      one record at a time, from send to receipt: p50 {latency['p50_us']:,.0f} us, "
                f"p99 {latency['p99_us']:,.0f} us; medians of {len(self.latencies)} rounds"
            )


def _rounded(times: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in times.items()}


@click.command(name="bench")
@click.option("-b", "--bootstrap", metavar="HOST:PORT,...",
              help="Measure this cluster. Default: three nodes of its own on this machine.")  # fmt: skip
@click.option("--embedded", is_flag=True, help="Measure an embedded log (rlog.open): no server, one process.")
@click.option("--topic", default=TOPIC, show_default=True, help="With --bootstrap: written to, partition 0.")
@click.option("--data", default="/var/tmp", show_default=True,
              type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="On the disk to measure; a directory is made in it, and removed.")  # fmt: skip
@click.option("--record-bytes", default=100, show_default=True, type=click.IntRange(1, 500_000),
              help="Of each value.")  # fmt: skip
@click.option(
    "--rounds", default=5, show_default=True, type=click.IntRange(1, 100), help="Medians are over them."
)
@click.option(
    "--seconds", default=1.5, show_default=True, type=click.FloatRange(0.1, 60), help="Of each round."
)
@json_option("One JSON object instead of lines.")
@timeout_option
def command(bootstrap: str | None, embedded: bool, topic: str, data: Path, record_bytes: int, rounds: int,
            seconds: float, as_json: bool, timeout_s: float) -> None:  # fmt: skip
    """Measure how many records are committed per second, and how long one takes.

    Says first what an acknowledgement means, what it was measured on, and how long the disk takes to flush.
    At Ctrl-C it prints what was measured until then, and ends with 130.
    """
    with errors_as_exits():
        if embedded and bootstrap is not None:
            raise click.UsageError("an embedded log has no address: leave --embedded or --bootstrap")
        report = Report(
            durability=_durability(bootstrap, embedded),
            machine=_machine(data),
            warnings=check_directory(data),
            record_bytes=record_bytes,
            groups=groups_of(record_bytes) if embedded else None,
        )
        plan = Plan(rounds, seconds, record_bytes, timeout_s)
        try:
            if report.groups is not None:
                _measure_embedded(report, report.groups, data, plan)
            else:
                _measure(report, bootstrap, topic, data, plan)
        except KeyboardInterrupt:
            report.interrupted = True
        except NotReady as error:
            fail(str(error), exit_code=UNREACHABLE)
    with printing():
        if as_json:
            click.echo(json.dumps(report.fields(), indent=2))
        else:
            for line in report.lines():
                click.echo(line)
    if report.interrupted:
        click.echo("rlog: interrupted", err=True)
        raise SystemExit(INTERRUPTED)


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    seconds: float
    record_bytes: int
    timeout_s: float


def _durability(bootstrap: str | None, embedded: bool) -> str:
    if embedded:
        return "each append: fdatasync completed before it returns, one record or a whole list"
    if bootstrap is None:
        return f"each acknowledgement: fdatasync completed on a majority of {NODES} nodes"
    return f"acks=all at {bootstrap}: on rlog, fdatasync completed on a majority of its nodes"


def _measure_embedded(report: Report, groups: list[Group], data: Path, plan: Plan) -> None:
    """Raises KeyboardInterrupt: what was measured is in the report."""
    with (
        bar("disk", 1 + plan.rounds) as progress,
        Interrupts(),
        tempfile.TemporaryDirectory(prefix="rlog-bench-", dir=data) as name,
    ):
        report.disk_us = _disk(Path(name, "disk"))
        measure(groups, Path(name), rounds=plan.rounds, seconds=plan.seconds, progress=progress)


def _measure(report: Report, bootstrap: str | None, topic: str, data: Path, plan: Plan) -> None:
    """Raises KeyboardInterrupt: what was measured is in the report."""
    with bar("disk", 1 + 2 * plan.rounds) as progress:
        with Interrupts(), tempfile.TemporaryDirectory(prefix="rlog-bench-", dir=data) as name:
            if bootstrap is None:
                report.disk_us = _disk(Path(name, "disk"))
            progress.at(1, name="starting")
        with _cluster(bootstrap, topic, data) as address:
            run(lambda interrupts: _commit(report, address, topic, plan, progress, interrupts))
    if report.interrupted:
        raise KeyboardInterrupt


@contextmanager
def _cluster(bootstrap: str | None, topic: str, data: Path) -> Iterator[str]:
    """The address to measure; a cluster of its own lives as long as this. Raises NotReady."""
    if bootstrap is not None:
        yield bootstrap
        return
    with (
        tempfile.TemporaryDirectory(prefix="rlog-bench-", dir=data) as name,
        LocalCluster(Path(name), nodes=NODES, topics={topic: 1}, cluster_id="bench") as cluster,
    ):
        with Interrupts():
            cluster.start()
            cluster.wait_ready()
        yield cluster.bootstrap


def _disk(path: Path) -> dict[str, float]:
    """One small write and its fdatasync at a time, over bytes that were written before."""
    data = os.urandom(DISK_WRITE_BYTES)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.pwrite(descriptor, bytes(DISK_WRITES * DISK_WRITE_BYTES), 0)
        os.fsync(descriptor)
        micros = []
        for number in range(DISK_WRITES):
            begin = time.perf_counter()
            os.pwrite(descriptor, data, number * DISK_WRITE_BYTES)
            os.fdatasync(descriptor)
            micros.append((time.perf_counter() - begin) * 1e6)
    finally:
        os.close(descriptor)
    return _percentiles(micros)


async def _commit(
    report: Report, address: str, topic: str, plan: Plan, progress: Bar, interrupts: Interrupts
) -> None:
    values = [
        os.urandom(plan.record_bytes) for _ in range(max(1, min(CHUNK, CHUNK_BYTES_MAX // plan.record_bytes)))
    ]
    try:
        async with connected(address, topic, plan.timeout_s) as cluster, cluster.producer(topic) as producer:
            await (
                await producer.send_many(values, partition=0)
            )  # the first batch opens files and connections
            for number in range(plan.rounds):
                progress.at(1 + number, name="throughput")
                report.rates.append(await _throughput(producer, values, plan.seconds))
            for number in range(plan.rounds):
                progress.at(1 + plan.rounds + number, name="latency")
                report.latencies.append(await _latency(producer, values[0], plan.seconds))
    except asyncio.CancelledError:
        if not interrupts.arrived:
            raise
        report.interrupted = True


async def _throughput(producer: Producer, values: list[bytes], seconds: float) -> float:
    """Records/s from the first send to the last acknowledgement; so many lists in flight that none waits."""
    begin = time.perf_counter()
    unanswered: list[ListAck] = []
    count = 0
    while time.perf_counter() - begin < seconds:
        unanswered.append(await producer.send_many(values, partition=0))
        if len(unanswered) >= UNANSWERED_CHUNKS:
            await unanswered.pop(0)
        count += len(values)
    for acknowledgement in unanswered:
        await acknowledgement
    return count / (time.perf_counter() - begin)


async def _latency(producer: Producer, value: bytes, seconds: float) -> dict[str, float]:
    """One record at a time; at least LATENCY_RECORDS_MIN, however long they take."""
    end = time.perf_counter() + seconds
    micros: list[float] = []
    while time.perf_counter() < end or len(micros) < LATENCY_RECORDS_MIN:
        begin = time.perf_counter()
        await (await producer.send(value, partition=0))
        micros.append((time.perf_counter() - begin) * 1e6)
    return _percentiles(micros)


def _percentiles(micros: list[float]) -> dict[str, float]:
    cuts = quantiles(micros, n=100)
    return {"p50_us": cuts[49], "p99_us": cuts[98], "max_us": max(micros)}


def _machine(data: Path) -> dict[str, str | int]:
    """What it was measured on."""
    kind, source = mount_of(data.resolve(), MOUNTS.read_text())
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": f"{kind} on {source}",
        "python": sys.version.split()[0],
        "rlog": rlog.__version__,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
