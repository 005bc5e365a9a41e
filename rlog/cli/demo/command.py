"""The command: options, the cluster around the run, the exit status."""

import asyncio
import json
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import uvloop

from rlog.cli.demo.result import Result
from rlog.cli.demo.run import TOPIC, Run
from rlog.cli.demo.show import Show
from rlog.cli.demo.source import Source
from rlog.cli.demo.verify import compare_replicas
from rlog.cli.exits import FAILED, INTERRUPTED, errors_as_exits
from rlog.cli.local_cluster import LocalCluster
from rlog.cli.output import OutputFailed, printing
from rlog.errors import ConfigurationError, RlogError
from rlog.log.storage import read_partition

RECORDS = 2_000_000
NODES = 3


@click.command(name="demo")
@click.option("--input", "input_path", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Lines to write. Without it: the sources of Python's standard library.")  # fmt: skip
@click.option("--records", default=RECORDS, show_default=True, type=click.IntRange(1000),
              help="How many; the lines are repeated up to it.")  # fmt: skip
@click.option("--data", type=click.Path(file_okay=False, path_type=Path),
              help="Where the nodes store. Default: a temporary directory, removed at the end.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object on standard output.")
def command(input_path: Path | None, records: int, data: Path | None, as_json: bool) -> None:
    """Three nodes on real disks; the leader is killed under load; nothing acknowledged may be lost.

    Produces lines of text, kills the leader's process (SIGKILL) when 40 % are acknowledged, restarts it,
    consumes everything back, and compares the replicas' files byte for byte. Ends with 0 when all held, 1
    when something did not, 130 after Ctrl-C.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # also where a shell has set Ctrl-C to be ignored
    with errors_as_exits(), Show(quiet_stdout=as_json) as show:
        result = Result(records=records)
        try:
            source = Source.file(input_path, records) if input_path else Source.standard_library(records)
            _demonstrate(source, data, result, show)
        except KeyboardInterrupt:
            result.interrupted = True
        except ExceptionGroup as errors:
            if errors.split(OutputFailed)[1] is not None:
                raise
            raise next(_leaves(errors)) from errors
        with printing():
            show.summary(result)
            if as_json:
                click.echo(json.dumps(result.report(), indent=2))
    if result.interrupted:
        raise SystemExit(INTERRUPTED)
    raise SystemExit(0 if result.is_good() else FAILED)


def _demonstrate(source: Source, data: Path | None, result: Result, show: Show) -> None:
    """Fills in `result`; what goes wrong becomes its problems."""
    with tempfile.TemporaryDirectory(prefix="rlog-demo-", dir=_disk()) as temporary:
        directory = (data or Path(temporary)).resolve()
        if any(directory.glob("node-*")):
            raise ConfigurationError(f"{directory} holds nodes already: give --data an empty directory")
        with LocalCluster(directory, nodes=NODES, topics={TOPIC: 1}, cluster_id="demo") as cluster:
            try:
                cluster.start()
                cluster.wait_ready()
                show.event(f"{NODES} nodes are up: {cluster.bootstrap}")
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(Run(cluster, source, result, show).run())
                _compare_disks(cluster, result, show)
                result.finished = True
            except* RlogError as errors:
                for error in _leaves(errors):
                    result.problem(str(error))
            result.judge()


def _compare_disks(cluster: LocalCluster, result: Result, show: Show) -> None:
    """Stop the nodes, and read their segment files."""
    statuses = cluster.stop()
    for node_id, status in statuses.items():
        if status != 0:
            result.problem(f"node {node_id} ended with status {status} when it was asked to stop")
    partition = f"{TOPIC}-0"
    replicas = [read_partition(str(node.data_dir), partition, result.hwm) for node in cluster.nodes.values()]
    compare_replicas(replicas, list(cluster.nodes), result)
    show.event(f"compared {result.replicas_compared} replicas on disk: {result.replica_bytes:,} bytes each")


def _leaves(errors: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _disk() -> str | None:
    """Where temporary files are kept on a disk rather than in memory; None: the default place."""
    durable = Path("/var/tmp")
    return str(durable) if durable.is_dir() else None
