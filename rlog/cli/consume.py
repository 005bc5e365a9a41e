"""`rlog consume`: a topic's records on standard output, raw or as JSON."""

import asyncio
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import click

from rlog.cli.exits import INTERRUPTED, errors_as_exits
from rlog.cli.input import as_bytes
from rlog.cli.interrupts import Interrupts
from rlog.cli.options import bootstrap_option, json_option, timeout_option
from rlog.cli.places import parse_place
from rlog.cli.record_json import encode
from rlog.cli.session import connected, run
from rlog.client import At, Cluster, Consumer, LeaderUnavailable, OffsetOutOfRange, Record, Start
from rlog.errors import ConfigurationError, RlogError

POLL_S = 0.1


@dataclass(slots=True)
class Printer:
    """Writes records to standard output; `records` counts them. Raises OutputFailed."""

    as_json: bool
    delimiter: bytes
    separator: bytes | None
    records: int = 0

    def write(self, records: Iterable[Record]) -> None:
        parts = bytearray()
        count = 0
        for record in records:
            parts += self._form(record)
            count += 1
        output = sys.stdout.buffer
        output.write(parts)
        output.flush()
        self.records += count

    def _form(self, record: Record) -> bytes:
        if self.as_json:
            return json.dumps(encode(record), ensure_ascii=False).encode() + b"\n"
        key = (record.key or b"") + self.separator if self.separator is not None else b""
        return key + (record.value or b"") + self.delimiter


@click.command(name="consume")
@click.argument("topic")
@bootstrap_option
@click.option("-o", "--from", "from_text", default="earliest", show_default=True, metavar="PLACE",
              help="earliest, latest, an OFFSET, or a TIME: ISO 8601, or how long ago, as -1h.")  # fmt: skip
@click.option("--until", "until_text", metavar="PLACE",
              help="end: as far as the log goes now; or an OFFSET or TIME, which is not printed any more. "
                   "Default: go on for ever.")  # fmt: skip
@click.option("-e", "--exit", "until_end", is_flag=True, help="The same as --until end.")
@click.option("-c", "--count", type=click.IntRange(1), help="End after so many records.")
@click.option("-p", "--partition", "partitions", multiple=True, type=click.IntRange(0),
              help="Only this one; may be repeated. Default: all.")  # fmt: skip
@json_option("One JSON object a line, with key, headers, offset and time; `produce --json` reads them.")
@click.option("-K", "--key-separator", "separator", callback=as_bytes, metavar="TEXT",
              help="Print the key and this before each value.")  # fmt: skip
@click.option("-D", "--delimiter", default=r"\n", show_default=True, callback=as_bytes, metavar="TEXT",
              help="Print it behind each value.")  # fmt: skip
@timeout_option
def command(topic: str, bootstrap: str, from_text: str, until_text: str | None, until_end: bool,
            count: int | None, partitions: tuple[int, ...], as_json: bool, separator: bytes | None,
            delimiter: bytes, timeout_s: float) -> None:  # fmt: skip
    """Print the records of TOPIC: their values, one a line; or all of them, with --json.

    Goes on for ever, unless --count, --until or -e says where to end. Ends with 0 there, and quietly when the
    reader of its output does (`| head`); with 130 at Ctrl-C, after saying how many records it printed.
    """
    with errors_as_exits():
        now = datetime.now(UTC)
        if until_end and until_text not in (None, "end"):
            raise ConfigurationError("-e and --until name two ends: leave one of them")
        until = "end" if until_end else until_text
        job = _Consume(
            topic,
            Printer(as_json, delimiter, separator),
            partitions=partitions,
            start=parse_place(from_text, option="--from", now=now),
            until=_until(until, now) if until is not None else None,
            count=count,
            patience_s=timeout_s,
        )
        run(lambda interrupts: job.run(interrupts, bootstrap))
    raise SystemExit(job.status)


def _until(text: str, now: datetime) -> Start:
    if text == "end":
        return "latest"
    place = parse_place(text, option="--until", now=now)
    if isinstance(place, str):
        raise ConfigurationError(f"--until {text}: write end, an offset or a time")
    return place


class NoSuchPlace(RlogError):
    """As OffsetOutOfRange, in the words of the command line."""

    def __init__(self, error: OffsetOutOfRange) -> None:
        start, end = error.start_offset, error.end_offset
        holds = f"holds offsets {start} to {end - 1}" if start < end else f"is empty, its next offset {end}"
        super().__init__(
            f"offset {error.offset} of {error.topic}-{error.partition} is not in the log, which {holds}: "
            f"name another place with --from (earliest, latest, an offset, a time)"
        )


@dataclass(slots=True)
class _Consume:
    """One run. `ends`: per partition the offset to stop at, once they are known; None: never."""

    topic: str
    printer: Printer
    partitions: tuple[int, ...]
    start: Start
    until: Start | None
    count: int | None
    patience_s: float
    status: int = 0
    ends: dict[int, int] = field(default_factory=dict)

    async def run(self, interrupts: Interrupts, bootstrap: str) -> None:
        try:
            async with connected(bootstrap, self.topic, self.patience_s) as cluster:
                if self.until is not None:
                    self.ends = await self._find_ends(cluster, self.until)
                consumer = cluster.consumer(
                    self.topic,
                    partition=self.partitions or None,
                    start=self.start,
                    stall_timeout_ms=int(self.patience_s * 1000),
                )
                async with consumer:
                    await self._print(consumer)
        except OffsetOutOfRange as error:
            raise NoSuchPlace(error) from error
        except asyncio.CancelledError:
            if not interrupts.arrived:
                raise
            click.echo(f"rlog: interrupted after {self.printer.records:,} records", err=True)
            self.status = INTERRUPTED

    async def _find_ends(self, cluster: Cluster, until: Start) -> dict[int, int]:
        """A moment that no record has reached yet ends where the log does now."""
        now = {each: bounds.end for each, bounds in (await cluster.offsets(self.topic)).items()}
        wanted = self.partitions or tuple(now)
        ends = {each: now[each] for each in wanted if each in now}
        if isinstance(until, int):
            return dict.fromkeys(ends, until)
        if isinstance(until, At | datetime):
            for each in ends:
                found = await cluster.offset_at(self.topic, each, until)
                ends[each] = ends[each] if found is None else found
        return ends

    async def _print(self, consumer: Consumer) -> None:
        """Raises LeaderUnavailable where there is an end to reach, and it is not reached."""
        while not self._is_done(consumer):
            try:
                records = await self._fetch(consumer)
            except LeaderUnavailable as error:
                if self.until is not None:
                    raise
                click.echo(f"rlog: {error}; still trying", err=True)
                continue
            if self.until is not None:
                records = [each for each in records if each.offset < self.ends[each.partition]]
            if self.count is not None:
                del records[self.count - self.printer.records :]
            self.printer.write(records)

    async def _fetch(self, consumer: Consumer) -> list[Record]:
        """The next records; none when the end was reached: behind the last one there may be control batches.

        Longer than the consumer's patience, so that a silent leader raises.
        """
        fetching = asyncio.create_task(consumer.fetch(timeout_ms=int(2000 * self.patience_s)))
        try:
            while not fetching.done():
                await asyncio.wait({fetching}, timeout=POLL_S)
                # In this order: what a finished fetch holds is not printed yet.
                if not fetching.done() and self._is_done(consumer):
                    return []
            return fetching.result()
        finally:
            fetching.cancel()

    def _is_done(self, consumer: Consumer) -> bool:
        if self.count is not None and self.printer.records >= self.count:
            return True
        if self.until is None:
            return False
        reached = {state.partition: state.position for state in consumer.state}
        return all((reached.get(each) or 0) >= end for each, end in self.ends.items())
