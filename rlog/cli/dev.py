"""`rlog dev`: a whole cluster on this machine, each node a process of its own."""

import contextlib
import json
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from rlog.cli.exits import UNREACHABLE, errors_as_exits, fail
from rlog.cli.local_cluster import HOST, LocalCluster, LocalNode, NodeEnded, NotReady
from rlog.cli.options import json_option
from rlog.cli.output import printing
from rlog.config import parse_topic
from rlog.errors import DataDirectoryError
from rlog.log.directory import check_directory, locked_by

READY_TIMEOUT_S = 60.0
POLL_S = 0.2


class _Stopped(BaseException):
    """SIGTERM or Ctrl-C arrived."""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(number: int, frame: FrameType | None) -> None:
    # Once only: a second Ctrl-C must not cut short the orderly end of the nodes.
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped


@click.command(name="dev")
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(1, 9), help="How many nodes.")
@click.option(
    "--data",
    "data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the nodes store; kept. Without it: a temporary directory, removed at the end.",
)
@click.option(
    "--port",
    default=9092,
    show_default=True,
    type=click.IntRange(0, 65000),
    help="The first node's port; the others follow, then the ports between nodes. 0: any that are free.",
)
@click.option("--admin", is_flag=True, help="With admin ports (HTTP), after the ports between nodes.")
@click.option("--topic", "topics", multiple=True, metavar="NAME:PARTITIONS", help="A topic; may be repeated.")
@json_option("The line as a JSON object, which names each node.")
def command(
    nodes: int, data: Path | None, port: int, admin: bool, topics: tuple[str, ...], as_json: bool
) -> None:
    """Run a cluster on this machine until Ctrl-C or SIGTERM.

    Prints one line, `ready bootstrap=HOST:PORT,...`, when every partition has a leader; with --admin it goes
    on with ` admin=HOST:PORT,...`. A node that ends by itself is named on standard error; the others go on as
    long as one is left.
    """
    with errors_as_exits():
        wanted = dict(parse_topic(topic) for topic in topics) or {"events": 1}
        previous = {number: signal.signal(number, _stop) for number in SIGNALS}
        try:
            with (
                _directory(data) as directory,
                LocalCluster(directory, nodes=nodes, topics=wanted, port=port, admin=admin) as cluster,
            ):
                _run(cluster, as_json=as_json)
        except _Stopped:
            return
        except NotReady as error:
            fail(str(error), exit_code=UNREACHABLE)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _directory(data: Path | None) -> Iterator[Path]:
    if data is not None:
        for warning in check_directory(data):
            click.echo(f"rlog: {warning}", err=True)
        # Before anything is written: another cluster's configurations lie there, too.
        for lock in sorted(data.glob("node-*/lock")):
            if (holder := locked_by(str(lock))) is not None:
                raise DataDirectoryError(
                    f"{lock.parent} is in use by {holder}: end that, or name another directory with --data"
                )
        yield data.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="rlog-dev-") as name:
        yield Path(name)


def _run(cluster: LocalCluster, *, as_json: bool) -> None:
    try:
        cluster.start()
        cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
        with printing():
            click.echo(json.dumps(_ready(cluster)) if as_json else _ready_text(cluster))
        _watch(cluster)
    except _Stopped:
        cluster.stop()


def _ready_text(cluster: LocalCluster) -> str:
    admin = f" admin={cluster.admin}" if cluster.admin else ""
    return f"ready bootstrap={cluster.bootstrap}{admin}"


def _ready(cluster: LocalCluster) -> dict[str, Any]:
    """The line of --json."""

    def of(node: LocalNode) -> dict[str, Any]:
        return {
            "node_id": node.node_id,
            "pid": node.pid,
            "bootstrap": f"{HOST}:{node.kafka_port}",
            "admin": f"{HOST}:{node.admin_port}" if node.admin_port else None,
            "data_dir": str(node.data_dir),
            "log": str(node.log_path),
        }

    return {
        "ready": True,
        "cluster_id": cluster.cluster_id,
        "bootstrap": cluster.bootstrap,
        "admin": cluster.admin or None,
        "nodes": [of(node) for node in cluster.nodes.values()],
    }


def _watch(cluster: LocalCluster) -> None:
    """Until a signal: name each node that ends. Raises NodeEnded when none is left."""
    running = set(cluster.nodes)
    while running:
        for node_id in sorted(running):
            process = cluster.nodes[node_id].process
            assert process is not None
            if process.poll() is not None:
                running.discard(node_id)
                click.echo(
                    f"node {node_id} (pid {process.pid}) ended with status {process.returncode}", err=True
                )
        time.sleep(POLL_S)
    raise NodeEnded("all nodes have ended")
