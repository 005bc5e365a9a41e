"""`rlog produce`: lines, or JSON objects, from a file or standard input into a topic."""

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import click

from rlog.cli.exits import FAILED, INTERRUPTED, USAGE, errors_as_exits, explain, fail
from rlog.cli.input import TooLong, as_bytes, pieces
from rlog.cli.interrupts import Interrupts
from rlog.cli.options import bootstrap_option, json_option, timeout_option
from rlog.cli.output import printing
from rlog.cli.progress import Bar, bar
from rlog.cli.record_json import BadRecord, NewRecord, decode
from rlog.cli.session import connected, run
from rlog.client import Ack, Acks, ClientError, Compression, Producer
from rlog.errors import Outcome, RlogError
from rlog.records import Receipt, Waited

STDIN = 0
UNANSWERED_MAX = 20_000
BATCH_BYTES_MAX = 1 << 20
JSON_LINE_BYTES_MAX = 4 * BATCH_BYTES_MAX  # base64 and escapes make more of the same bytes
BAR_EVERY = 1000
WHAT_WAS_WAITED_FOR: dict[Waited, str] = {
    "majority": "flushed on a majority",
    "leader": "flushed by the leader alone",
    "disk": "flushed",
    "none": "unanswered",
}


@dataclass(slots=True)
class Failure:
    """The first input record that was not acknowledged. `line` counts from 1."""

    line: int
    outcome: Outcome
    error: str


@dataclass(slots=True)
class Report:
    """What was done; filled in as it goes on. failed, unknown: records by the outcome of their error.

    read: records that were taken from the input, each of which is in one of acknowledged, failed and unknown
    at the end. One that Ctrl-C kept from being sent is not: it stays in the input.
    waited: records by what their acknowledgement waited for, as the receipts say (`rlog.Receipt.waited`): a
    node may ask for more than `acks` does.
    """

    topic: str
    acks: Acks
    read: int = 0
    acknowledged: int = 0
    waited: dict[Waited, int] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0
    failed: int = 0
    unknown: int = 0
    first_failure: Failure | None = None
    interrupted: bool = False
    partitions: dict[int, list[int]] = field(default_factory=dict)
    """Partition -> [first offset, last offset, records] of what was acknowledged; -1: offset not known."""

    def acknowledge(self, receipt: Receipt, size: int) -> None:
        self.acknowledged += 1
        self.waited[receipt.waited] = self.waited.get(receipt.waited, 0) + 1
        self.bytes += size
        span = self.partitions.setdefault(receipt.partition, [receipt.offset, receipt.offset, 0])
        span[1] = max(span[1], receipt.offset)
        span[2] += 1

    def fail(self, line: int, outcome: Outcome, error: BaseException) -> None:
        if outcome == "unknown":
            self.unknown += 1
        else:
            self.failed += 1
        if self.first_failure is None or line < self.first_failure.line:
            self.first_failure = Failure(line, outcome, explain(error))

    def fields(self) -> dict[str, Any]:
        """The answer of --report json."""
        spans = {
            str(partition): {"first_offset": first, "last_offset": last, "records": count}
            for partition, (first, last, count) in sorted(self.partitions.items())
        }
        return {**asdict(self), "seconds": round(self.seconds, 3), "partitions": spans}

    def text(self) -> str:
        verb = "sent" if self.acks == "none" else "acknowledged"
        return (
            f"{self.acknowledged:,} of {self.read:,} records {verb} ({self.bytes:,} bytes)"
            f"{self._waited_text()}, in {self.seconds:.2f} s"
        )

    def _waited_text(self) -> str:
        kinds = sorted(self.waited.items(), key=lambda item: -item[1])
        if len(kinds) == 1:
            return f", each {WHAT_WAS_WAITED_FOR[kinds[0][0]]}"
        return "".join(f", {count:,} {WHAT_WAS_WAITED_FOR[waited]}" for waited, count in kinds)


def _acks(context: click.Context, parameter: click.Parameter, value: str) -> str:
    return {"-1": "all", "1": "leader", "0": "none"}.get(value, value)


@click.command(name="produce")
@click.argument("topic")
@click.argument("file", required=False,
                type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))  # fmt: skip
@bootstrap_option
@json_option("Each line is a JSON object, as `consume --json` prints them.")
@click.option("-K", "--key-separator", "separator", callback=as_bytes, metavar="TEXT",
              help=r"What stands before it in a line is the key. \t, \0 and so on as in C.")  # fmt: skip
@click.option("-D", "--delimiter", default=r"\n", show_default=True, callback=as_bytes, metavar="TEXT",
              help="What ends a record; any bytes but it may stand in one.")  # fmt: skip
@click.option("-p", "--partition", type=click.IntRange(0),
              help="All into this one. Default: what a JSON line says, or by the key.")  # fmt: skip
@click.option("--acks", default="all", show_default=True, callback=_acks, metavar="|".join(get_args(Acks)),
              type=click.Choice([*get_args(Acks), "-1", "0", "1"]),
              help="What an acknowledgement waits for; all: flushed on a majority.")  # fmt: skip
@click.option("-z", "--compression", default="none", show_default=True,
              type=click.Choice(get_args(Compression)), help="Of batches.")  # fmt: skip
@click.option("--report", "report_form", type=click.Choice(["text", "json"]),
              help="At the end: text on standard error, or JSON on standard output. Default: text, but json "
                   "with --json.")  # fmt: skip
@click.option("--delivery-timeout", "delivery_timeout_s", default=30.0, show_default=True,
              type=click.FloatRange(0.1, 3600), help="Seconds until a record is given up.")  # fmt: skip
@timeout_option
def command(topic: str, file: Path | None, bootstrap: str, as_json: bool, separator: bytes | None,
            delimiter: bytes, partition: int | None, acks: Acks, compression: Compression,
            report_form: str | None, delivery_timeout_s: float, timeout_s: float) -> None:  # fmt: skip
    """Write the lines of FILE, or of standard input, to TOPIC, one record each.

    Ends with 0 when every record was acknowledged, 1 when one was not: the first such line is named, and
    whether it may be in the log (outcome: no or unknown). At Ctrl-C it reads no further, waits for what was
    sent, and ends with 130; a second Ctrl-C ends it at once.
    """
    with errors_as_exits(), _opened(file) as descriptor:
        if as_json and (separator is not None or delimiter != b"\n"):
            raise click.UsageError(
                "with --json leave --key-separator and --delimiter: each line says its key"
            )
        job = _Produce(
            Report(topic, acks),
            descriptor=descriptor,
            delimiter=delimiter,
            separator=separator,
            as_json=as_json,
            partition=partition,
            compression=compression,
            delivery_timeout_ms=int(delivery_timeout_s * 1000),
        )
        run(lambda interrupts: job.run(interrupts, bootstrap, timeout_s))
    with printing():
        _print(job.report, report_form or ("json" if as_json else "text"))
    if job.report.interrupted:
        raise SystemExit(INTERRUPTED)
    raise SystemExit(FAILED if job.report.first_failure is not None else 0)


@contextmanager
def _opened(file: Path | None) -> Iterator[int]:
    """The descriptor to read from; a file that cannot be opened ends the command."""
    if file is None or str(file) == "-":
        yield STDIN
        return
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", exit_code=USAGE)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _print(report: Report, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(report.fields()))
    else:
        click.echo(report.text(), err=True)
    failure = report.first_failure
    if failure is not None:
        others = report.failed + report.unknown - 1
        click.echo(
            f"rlog: record {failure.line} of the input was not acknowledged (outcome: {failure.outcome}): "
            f"{failure.error}" + (f"; nor were {others:,} after it" if others else ""),
            err=True,
        )


class _Produce:
    """One run: a task reads and sends, another collects what was acknowledged.

    Reading stops at the first record that fails, at Ctrl-C, and at the end; then what was sent is waited for.
    """

    def __init__(
        self,
        report: Report,
        *,
        descriptor: int,
        delimiter: bytes,
        separator: bytes | None,
        as_json: bool,
        partition: int | None,
        compression: Compression,
        delivery_timeout_ms: int,
    ) -> None:
        self.report = report
        self._descriptor = descriptor
        self._delimiter = delimiter
        self._separator = separator
        self._as_json = as_json
        self._partition = partition
        self._compression = compression
        self._delivery_timeout_ms = delivery_timeout_ms
        self._unanswered: deque[tuple[int, int, Ack]] = deque()  # (line, bytes, ack)
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._read_bytes = 0

    async def run(self, interrupts: Interrupts, bootstrap: str, timeout_s: float) -> None:
        """Raises ClientError when the topic cannot be reached at all."""
        report = self.report
        async with (
            connected(bootstrap, report.topic, timeout_s) as cluster,
            cluster.producer(
                report.topic,
                acks=report.acks,
                idempotent=report.acks == "all",
                compression=self._compression,
                delivery_timeout_ms=self._delivery_timeout_ms,
                batch_bytes_max=BATCH_BYTES_MAX,
            ) as producer,
        ):
            began = time.monotonic()
            status = os.fstat(self._descriptor)
            with bar("reading", status.st_size or None, in_bytes=True) as progress:
                self._reading = asyncio.create_task(self._read(producer, progress))
                collecting = asyncio.create_task(self._collect())
                await self._outlast(self._reading, interrupts, progress)
                self._changed.set()
                await self._outlast(collecting, interrupts, progress)
            report.seconds = time.monotonic() - began
            for task in (self._reading, collecting):
                if not task.cancelled():
                    task.result()

    async def _outlast(self, task: "asyncio.Task[None]", interrupts: Interrupts, progress: Bar) -> None:
        """Wait for the end of `task`; Ctrl-C ends the reading, nothing else."""
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                assert self._reading is not None
                self._reading.cancel()
                if not interrupts.arrived:
                    raise
                self.report.interrupted = True
                waiting = len(self._unanswered)
                progress.say(
                    f"rlog: interrupted; waiting for {waiting:,} records that were sent; Ctrl-C again ends "
                    "it at once"
                )

    # Reading and sending

    async def _read(self, producer: Producer, progress: Bar) -> None:
        report = self.report
        async for line in self._lines(progress):
            number = report.read + 1
            try:
                record = self._parse(line)
                ack = await producer.send(
                    record.value,
                    record.key,
                    record.headers,
                    partition=record.partition if self._partition is None else self._partition,
                    timestamp_ms=record.timestamp_ms,
                )
            except (BadRecord, ClientError) as error:
                report.read = number
                report.fail(number, error.outcome if isinstance(error, RlogError) else "no", error)
                return
            report.read = number  # only now: one that is cancelled while it waits for room was not sent
            size = len(record.value or b"") + len(record.key or b"")
            self._unanswered.append((number, size, ack))
            self._changed.set()
            if len(self._unanswered) >= UNANSWERED_MAX:
                self._room.clear()
                await self._room.wait()

    async def _lines(self, progress: Bar) -> AsyncIterator[bytes]:
        bytes_max = JSON_LINE_BYTES_MAX if self._as_json else BATCH_BYTES_MAX
        try:
            async for lines in pieces(self._descriptor, self._delimiter, bytes_max=bytes_max):
                for line in lines:
                    yield line
                self._read_bytes += sum(map(len, lines)) + len(lines) * len(self._delimiter)
                progress.at(self._read_bytes, name=f"{self.report.acknowledged:,} acknowledged")
        except TooLong:
            self.report.read += 1
            why = BadRecord(f"it has more than {bytes_max:,} bytes; is --delimiter the right one?")
            self.report.fail(self.report.read, "no", why)

    def _parse(self, line: bytes) -> NewRecord:
        if self._as_json:
            return decode(line)
        if self._separator is None:
            return NewRecord(line)
        key, separator, value = line.partition(self._separator)
        return NewRecord(value, key) if separator else NewRecord(line)

    # What became of it

    async def _collect(self) -> None:
        """Take the acks in order until reading has ended and none is left."""
        assert self._reading is not None
        while True:
            while not self._unanswered:
                if self._reading.done():
                    return
                self._changed.clear()
                await self._changed.wait()
            line, size, ack = self._unanswered[0]
            try:
                receipt = await ack
            except RlogError as error:
                self.report.fail(line, error.outcome, error)
                self._reading.cancel()
            else:
                self.report.acknowledge(receipt, size)
            self._unanswered.popleft()
            if len(self._unanswered) <= UNANSWERED_MAX // 2:
                self._room.set()
