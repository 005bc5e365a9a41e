"""`rlog verify`: is everything that a data directory holds sound? Reads only."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from rlog.cli.exits import FAILED, INTERRUPTED, STORAGE, errors_as_exits
from rlog.cli.interrupts import Interrupts
from rlog.cli.offline.directory import DataDirectory
from rlog.cli.offline.findings import Finding
from rlog.cli.offline.partition import PartitionReport, verify_partition
from rlog.cli.options import json_option
from rlog.cli.output import printing
from rlog.cli.progress import bar
from rlog.log.storage import PARTITIONS

DATETIME_MS_MAX = 253_402_300_799_999  # the end of the year 9999


@dataclass(slots=True)
class Report:
    """What was read so far. partitions_total: how many there are."""

    directory: DataDirectory
    partitions_total: int
    partitions: list[PartitionReport] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def findings(self) -> list[Finding]:
        found = list(self.directory.findings)
        for partition in self.partitions:
            found += partition.findings
        return found

    @property
    def verdict(self) -> str:
        """damaged, blemished or sound."""
        severities = {finding.severity for finding in self.findings}
        return "damaged" if "damage" in severities else "blemished" if severities else "sound"

    def fields(self) -> dict[str, Any]:
        """The answer of --json."""
        directory, state = self.directory, self.directory.state
        return {
            "directory": directory.path,
            "of": directory.kind,
            "in_use_by": directory.in_use_by,
            "replica_uuid": state.replica_uuid if state else None,
            "incarnation": state.incarnation if state else None,
            "verdict": self.verdict,
            "interrupted": self.interrupted,
            "findings": [finding.fields() for finding in self.findings],
            "partitions": [
                {name: value for name, value in partition.fields().items() if name != "findings"}
                for partition in self.partitions
            ],
            "partitions_total": self.partitions_total,
            "bytes": sum(partition.file_bytes for partition in self.partitions),
            "seconds": round(self.seconds, 3),
        }

    def show(self) -> None:
        directory, state = self.directory, self.directory.state
        who = (
            f"replica {state.replica_uuid}, incarnation {state.incarnation}" if state else "identity unknown"
        )
        click.echo(f"{directory.path}: data of {_a(directory.kind)}, {who}")
        if directory.in_use_by:
            click.echo(f"in use by {directory.in_use_by}: judged up to what is flushed, and left alone")
        for partition in self.partitions:
            for line in _lines(partition):
                click.echo(line)
        for finding in self.findings:
            click.echo(str(finding))
        done = f"{len(self.partitions)} of {self.partitions_total} partitions"
        size = sum(partition.file_bytes for partition in self.partitions)
        click.echo(f"{self.verdict}: {done}, {size:,} bytes of files read in {self.seconds:.2f} s")


def _lines(partition: PartitionReport) -> Iterator[str]:
    flushed = "flushed up to an unknown offset"
    if partition.flushed_offset is not None:
        flushed = f"flushed up to {partition.flushed_offset}"
    deleted = f", files from {partition.anchor}" if partition.anchor else ""
    yield f"{partition.name}: offsets {partition.start_offset} to {partition.end_offset}{deleted}, {flushed}"
    yield (
        f"  {partition.records:,} records in {partition.batches:,} batches, "
        f"{partition.control_batches:,} of them control; "
        f"{partition.bytes:,} bytes in {partition.segments} segments of {partition.file_bytes:,}"
    )
    runs, newest = partition.generations, partition.timestamp_ms_max
    if runs:
        moment = ""
        if 0 <= newest <= DATETIME_MS_MAX:
            moment = datetime.fromtimestamp(newest / 1000, UTC).isoformat(timespec="milliseconds")
        yield (
            f"  generation {runs[-1][0]} since offset {runs[-1][1]}, {len(runs)} in all"
            + f"; newest record of {moment}" * bool(moment)
        )
    if not partition.in_use:
        ended = "in order" if partition.clean else "not in order"
        yield f"  shut down {ended}; the next start would: {partition.recovery}"


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@click.command(name="verify")
@click.argument("directory", type=click.Path(readable=False, path_type=Path))
@json_option("One JSON object instead of a table.")
def command(directory: Path, as_json: bool) -> None:
    """Check everything in DIRECTORY: a node's data directory, or an embedded log's. Changes nothing.

    Reads both copies of meta, the watermarks, and every batch of every segment with its CRC, offset and
    generation, and says what the next start would do. Works on a directory in use too, on what is flushed.
    Ends with 0 when all is sound, 1 when only something is wrong that the next start makes anew, 4 when
    records or decisions are damaged or the directory was refused, 130 after Ctrl-C.
    """
    with errors_as_exits():
        found = DataDirectory.read(directory)
        report = Report(found, len(found.partitions))
        began = time.monotonic()
        try:
            with Interrupts(), bar("verifying", _size(found), in_bytes=True) as progress:
                _verify(found, report, progress.more)
        except KeyboardInterrupt:
            report.interrupted = True
        report.seconds = time.monotonic() - began
    with printing():
        if as_json:
            click.echo(json.dumps(report.fields(), indent=2))
        else:
            report.show()
    if report.interrupted:
        click.echo("rlog: interrupted", err=True)
        raise SystemExit(INTERRUPTED)
    raise SystemExit({"sound": 0, "blemished": FAILED, "damaged": STORAGE}[report.verdict])


def _verify(found: DataDirectory, report: Report, on_bytes: Callable[[int], None]) -> None:
    for name in found.partitions:
        try:
            report.partitions.append(verify_partition(found, name, on_bytes))
        except OSError as error:
            path = os.path.relpath(str(error.filename or found.path_of(name)), found.path)
            failed = PartitionReport(
                name, recovery="fail in the same way", in_use=found.in_use_by is not None
            )
            failed.findings.append(Finding("damage", path, f"it cannot be read: {error.strerror}"))
            report.partitions.append(failed)


def _size(found: DataDirectory) -> int:
    """Bytes of files to read, for the bar."""
    total = 0
    for top, _, names in os.walk(f"{found.path}/{PARTITIONS}"):
        for name in names:
            path = Path(top, name)
            total += path.stat().st_size if path.exists() else 0
    return total
