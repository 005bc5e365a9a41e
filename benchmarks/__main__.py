"""`python -m benchmarks [--json]`: the floor benchmark: what was measured, on what, and how durable.

`python -m benchmarks embedded [--json]`: the embedded log beside other stores (embedded.py).
"""

import asyncio
import json
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import click
import uvloop

from benchmarks.commit import THROUGHPUT_RECORD_BYTES, TOPIC, latency, throughput
from benchmarks.disk import measure
from benchmarks.machine import machine
from rlog.cli.exits import errors_as_exits
from rlog.cli.local_cluster import LocalCluster
from scripts.extras import requirements

NODES = 3
DURABILITY = "each acknowledgement: fdatasync completed on a majority of 3 nodes"


@click.group(invoke_without_command=True)
@click.option("--records", default=2_000_000, show_default=True, help="Records of each throughput run.")
@click.option("--latency-records", default=2_000, show_default=True, help="Records of each latency run.")
@click.option(
    "--runs", default=5, show_default=True, type=click.IntRange(1), help="Medians are taken over them."
)
@click.option("--data", default="/var/tmp", show_default=True, help="Where to store; on the disk to measure.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def main(
    context: click.Context, records: int, latency_records: int, runs: int, data: str, as_json: bool
) -> None:
    """Commit throughput and depth-one latency, beside what the disk can do."""
    if context.invoked_subcommand is not None:
        return
    with errors_as_exits(), tempfile.TemporaryDirectory(prefix="rlog-bench-", dir=data) as name:
        report = bench(Path(name), records=records, latency_records=latency_records, runs=runs)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        show(report)


@main.command("embedded")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="Medians are over them.")
@click.option("--data", default="/var/tmp", show_default=True, help="Where to store; on the disk to measure.")
@click.option("--json", "as_json", is_flag=True)
def embedded(rounds: int, data: str, as_json: bool) -> None:
    """Durable appends and scans of rlog.open, SQLite, LMDB and RocksDB, beside what the disk can do."""
    try:
        from benchmarks.embedded import bench, show
    except ModuleNotFoundError as missing:
        needed = " ".join(shlex.quote(each) for each in requirements(["bench"]))
        raise click.UsageError(
            f"{missing.name} is not installed: {sys.executable} -m pip install {needed}"
        ) from None

    with errors_as_exits(), tempfile.TemporaryDirectory(prefix="rlog-bench-", dir=data) as name:
        show(bench(Path(name), rounds=rounds), as_json=as_json)


def bench(directory: Path, *, records: int, latency_records: int, runs: int) -> dict[str, Any]:
    limits = {writers: measure(directory, writers=writers) for writers in (1, NODES)}
    with LocalCluster(directory, nodes=NODES, topics={TOPIC: 1}, cluster_id="bench") as cluster:
        cluster.start()
        cluster.wait_ready()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rates = runner.run(throughput(cluster.bootstrap, records=records, runs=runs))
            depth_one = runner.run(latency(cluster.bootstrap, records=latency_records, runs=runs))
    rate = median(rates)
    megabytes_s = rate * THROUGHPUT_RECORD_BYTES / 1e6
    return {
        "durability": DURABILITY,
        "machine": machine(directory),
        "throughput": {
            "record_bytes": THROUGHPUT_RECORD_BYTES,
            "records_per_run": records,
            "runs_records_s": [round(each) for each in rates],
            "median_records_s": round(rate),
            "payload_mb_s": round(megabytes_s, 1),
            "share_of_three_writers": round(megabytes_s / limits[NODES].large_mb_s, 3),
        },
        "latency": {
            **{name: round(value, 1) for name, value in asdict(depth_one).items()},
            "times_bare_write": round(depth_one.p50_us / limits[1].small_us, 2),
            "times_three_writers": round(depth_one.p50_us / limits[NODES].small_us, 2),
        },
        "disk": [asdict(limit) for limit in limits.values()],
    }


def show(report: dict[str, Any]) -> None:
    click.echo(f"durability: {report['durability']}")
    click.echo("machine: " + ", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    for limit in report["disk"]:
        click.echo(
            f"disk, {limit['writers']} writer(s): 128 B write+fdatasync p50 {limit['small_us']:,.0f} us, "
            f"1 MiB writes {limit['large_mb_s']:,.0f} MB/s each"
        )
    rate, depth_one = report["throughput"], report["latency"]
    click.echo(
        f"commit throughput: {rate['median_records_s']:,} records/s of {rate['record_bytes']} B, "
        f"{rate['payload_mb_s']} MB/s: {rate['share_of_three_writers']:.2f} of each of three bare writers; "
        f"runs {rate['runs_records_s']}"
    )
    click.echo(
        f"depth-one latency: p50 {depth_one['p50_us']:,.0f} us, "
        f"{depth_one['times_bare_write']:.1f} times a bare write+fdatasync; "
        f"p99 {depth_one['p99_us']:,.0f} us, max {depth_one['max_us']:,.0f} us"
    )


if __name__ == "__main__":
    main()
