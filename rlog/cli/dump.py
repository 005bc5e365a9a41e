"""`rlog dump`: the batches and records in a data directory, as text or JSON. Reads only."""

import difflib
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from rlog.cli.exits import INTERRUPTED, STORAGE, USAGE, errors_as_exits, fail
from rlog.cli.interrupts import Interrupts
from rlog.cli.offline.directory import DataDirectory
from rlog.cli.offline.dumping import Batch, batches, index_fields, meta_fields, record_trouble
from rlog.cli.options import json_option
from rlog.cli.output import printing
from rlog.cli.record_json import encode
from rlog.log.directory import refusal
from rlog.records import Record

DATETIME_MS_MAX = 253_402_300_799_999  # the end of the year 9999
SHOWN_BYTES_MAX = 200
NAMES_MAX = 10


@click.command(name="dump")
@click.argument("directory", type=click.Path(readable=False, path_type=Path))
@click.option("--partition", "partition", metavar="NAME", help="Only this one, as orders-0. Default: all.")
@click.option("--from", "from_offset", default=0, type=click.IntRange(0), metavar="OFFSET",
              help="Begin with the batch that holds it.")  # fmt: skip
@click.option("-c", "--count", type=click.IntRange(1), help="End after so many records in each partition; of "
              "batches with --headers-only.")  # fmt: skip
@click.option("--headers-only", is_flag=True, help="Batches, not the records in them.")
@click.option("--records", "records_only", is_flag=True,
              help="Records alone, not the batches; with --json as `consume --json` has them.")  # fmt: skip
@click.option("--meta", "show_meta", is_flag=True, help="Instead: meta and the watermarks, as JSON.")
@click.option("--index", "show_index", is_flag=True, help="Instead: index files and anchors, as JSON.")
@json_option("One JSON object a line.")
def command(directory: Path, partition: str | None, from_offset: int, count: int | None, headers_only: bool,
            records_only: bool, show_meta: bool, show_index: bool, as_json: bool) -> None:  # fmt: skip
    """Print what DIRECTORY holds: a node's data directory, or an embedded log's. Changes nothing.

    Also of a directory in use: up to what is flushed. What is damaged is named in its place. Ends with 0, 2
    when there is no such partition, 4 when something was damaged or the directory was refused, 130 after
    Ctrl-C.
    """
    if sum((headers_only, records_only, show_meta, show_index)) > 1:
        raise click.UsageError("--headers-only, --records, --meta and --index: choose one")
    with errors_as_exits():
        found = DataDirectory.read(directory)
        if found.in_use_by:
            click.echo(f"rlog: in use by {found.in_use_by}: up to what is flushed, and left alone", err=True)
        dump = _Dump(found, from_offset, count, headers_only, records_only, as_json, sys.stdout.buffer)
        try:
            with Interrupts(), printing():
                if show_meta:
                    click.echo(json.dumps(meta_fields(found), indent=2))
                    raise SystemExit(STORAGE * (found.state is None))
                for name in _wanted(found, partition):
                    if show_index:
                        for fields in index_fields(found, name):
                            click.echo(json.dumps({"partition": name, **fields}))
                    else:
                        dump.partition(name)
        except KeyboardInterrupt:
            click.echo(f"rlog: interrupted after {dump.printed:,} records", err=True)
            raise SystemExit(INTERRUPTED) from None
        except OSError as error:
            raise refusal(found.path, error) from error
    raise SystemExit(STORAGE if dump.damaged else 0)


def _wanted(found: DataDirectory, partition: str | None) -> list[str]:
    if found.state is None:
        fail(f"{found.path}: {found.findings[-1]}", exit_code=STORAGE)
    if partition is None:
        return found.partitions
    if partition not in found.partitions:
        near = difflib.get_close_matches(partition, found.partitions, n=1)
        mend = (
            f"did you mean {near[0]!r}?" if near else f"it holds {', '.join(found.partitions[:10]) or 'none'}"
        )
        fail(f"{found.path} has no partition {partition!r}: {mend}", exit_code=USAGE)
    return [partition]


@dataclass(slots=True)
class _Dump:
    """Prints. printed: records (batches, with headers_only) in all partitions."""

    directory: DataDirectory
    from_offset: int
    count: int | None
    headers_only: bool
    records_only: bool
    as_json: bool
    output: BinaryIO
    printed: int = 0
    damaged: bool = False

    def partition(self, name: str) -> None:
        if not self.as_json:
            self._line(f"# {name}")
        left = self.count if self.count is not None else sys.maxsize
        for batch in batches(self.directory, name, self.from_offset):
            left -= self._batch(name, batch, left)
            if left <= 0:
                return

    def _batch(self, name: str, batch: Batch, most: int) -> int:
        """Print it, and up to `most` of its records; how many counted."""
        if batch.info is None:
            self._damage(name, batch, batch.why)
            return 0
        if not self.records_only:
            fields = {"batch": {"partition": name, **batch.fields()}}
            self._line(json.dumps(fields) if self.as_json else _batch_line(batch))
        if self.headers_only:
            self.printed += 1
            return 1
        records, why = record_trouble(batch, name, self.from_offset)
        if why is not None:
            self._damage(name, batch, why)
        for record in records[:most]:
            if self.as_json:
                fields = encode(record)
                self._line(
                    json.dumps(fields if self.records_only else {"record": fields}, ensure_ascii=False)
                )
            else:
                self._line(_record_line(record))
            self.printed += 1
        return len(records)

    def _damage(self, name: str, batch: Batch, why: str | None) -> None:
        self.damaged = True
        text = f"DAMAGE partitions/{name}/{batch.file}, byte {batch.position}: {why}"
        if self.records_only:
            click.echo(text, err=True)
        else:
            fields = {"batch": {"partition": name, **batch.fields(), "damage": why}}
            self._line(json.dumps(fields) if self.as_json else text)

    def _line(self, text: str) -> None:
        self.output.write(text.encode() + b"\n")


def _batch_line(batch: Batch) -> str:
    info = batch.info
    assert info is not None
    kind = "control" if info.is_control else "batch"
    line = (
        f"{kind} {info.base_offset} to {info.last_offset}: generation {info.generation}, "
        f"{info.count} records, {info.size} bytes at {batch.file}:{batch.position}"
    )
    if batch.fields()["compression"] != "none":
        line += f", {batch.fields()['compression']}"
    if info.producer_id >= 0:
        line += f", producer {info.producer_id} epoch {info.producer_epoch} sequence {info.base_sequence}"
    return line


def _record_line(record: Record) -> str:
    headers = "".join(f" {name}={_shown(value)}" for name, value in record.headers)
    key = f" {_shown(record.key)}:" if record.key is not None else ""
    return f"  {record.offset} {_moment(record.timestamp_ms)}{key} {_shown(record.value)}{headers}"


def _moment(timestamp_ms: int) -> str:
    if not 0 <= timestamp_ms <= DATETIME_MS_MAX:
        return str(timestamp_ms)
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _shown(data: bytes | None) -> str:
    """As on one line: text quoted, other bytes escaped; a long one shortened."""
    if data is None:
        return "null"
    more = f"... ({len(data)} bytes)" if len(data) > SHOWN_BYTES_MAX else ""
    try:
        text = json.dumps(
            data[:SHOWN_BYTES_MAX].decode("utf-8", "strict" if not more else "ignore"), ensure_ascii=False
        )
    except UnicodeDecodeError:
        text = repr(data[:SHOWN_BYTES_MAX])
    return text + more
