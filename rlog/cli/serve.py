"""`rlog serve`: one node, until SIGTERM or Ctrl-C."""

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from rlog import __version__
from rlog.cli.describe import split_address
from rlog.cli.exits import errors_as_exits
from rlog.cli.options import json_option
from rlog.cli.output import OutputFailed, printing
from rlog.cli.ports import why_not_listening
from rlog.config import NodeConfig, load_config, parse_topic
from rlog.errors import ConfigurationError
from rlog.log.directory import check_directory, locked_by
from rlog.node import process
from rlog.node.node import Node
from rlog.node.observed import ObservedNode
from rlog.observe.events import LogFormat, log_to_stderr

STDIN = 0
READY_POLL_S = 0.05


@click.command(name="serve")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="A TOML file.")
@click.option("--cluster-id", help="The cluster's name, the same on all its nodes.")
@click.option("--node-id", type=int, help="This node's number in the cluster, 1 or above.")
@click.option("--data-dir", help="Where this node stores; its own, on a local disk.")
@click.option("--listen", metavar="HOST:PORT", help="Where Kafka clients connect.")
@click.option("--advertise", metavar="HOST:PORT", help="Where clients are told to connect, if elsewhere.")
@click.option("--peer-listen", metavar="HOST:PORT", help="Where the other nodes connect.")
@click.option("--peer", "peers", multiple=True, metavar="ID=HOST:PORT,KAFKAHOST:PORT",
              help="Another node: where it listens to nodes, and to clients. One for each.")  # fmt: skip
@click.option("--admin", metavar="HOST:PORT", help="HTTP: /metrics, /healthz, /ready, /status.")
@click.option("--topic", "topics", multiple=True, metavar="NAME:PARTITIONS", help="A topic; may be repeated.")
@click.option("--check", is_flag=True, help="Start nothing: say what is wrong or doubtful, and end.")
@json_option("One JSON object a line: when it is ready; or, with --check, what was found.")
@click.option("--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", default="text", type=click.Choice(["text", "json"]),
              help="What standard error gets: lines for people, or a JSON object each.")  # fmt: skip
@click.option("--stop-on-eof", is_flag=True, help="End, in order, when standard input closes.")
def command(
    config_path: Path | None,
    check: bool,
    as_json: bool,
    log_level: str,
    log_format: LogFormat,
    stop_on_eof: bool,
    **flags: Any,
) -> None:
    """Run one node. Flags win over RLOG_* environment variables, those over the file.

    With --json it prints one line when clients may be sent here, as /ready has it; without, nothing.
    Ends with 0 after SIGTERM or Ctrl-C, 2 when the configuration is wrong, 4 when the data directory is
    refused or the disk fails. With --check it starts nothing, and ends with 0, 2 or 4 likewise.
    """
    log_to_stderr(log_level, log_format)
    with errors_as_exits():
        config = load_config(config_path, **overrides(**flags))
        if check:
            process.raise_descriptor_limit(config)
            _check(config, as_json=as_json)
            return
        run(config, stop_on_eof=stop_on_eof, as_json=as_json)


def _check(config: NodeConfig, *, as_json: bool) -> None:
    """Print the warnings that a start would log. Raises DataDirectoryError where a start would."""
    warnings = [*config.warnings(), *check_directory(config.data_dir)]
    user = locked_by(f"{config.data_dir}/lock")
    if as_json:
        names = {"cluster_id": config.cluster_id, "node_id": config.node_id}
        click.echo(json.dumps({**names, "warnings": warnings, "in_use_by": user}))
        return
    for warning in warnings:
        click.echo(f"rlog: warning: {warning}", err=True)
    click.echo(
        f"node {config.node_id} of cluster {config.cluster_id!r} may start"
        + (f"; just now {config.data_dir} is in use by {user}" if user else "")
    )


def overrides(
    *,
    cluster_id: str | None,
    node_id: int | None,
    data_dir: str | None,
    listen: str | None,
    advertise: str | None,
    peer_listen: str | None,
    admin: str | None,
    peers: tuple[str, ...],
    topics: tuple[str, ...],
) -> dict[str, Any]:
    """The settings that the flags name; None where a flag is absent. Raises ConfigurationError."""
    listen_host, listen_port = _address("--listen", listen)
    advertised_host, advertised_port = _address("--advertise", advertise)
    peer_host, peer_port = _address("--peer-listen", peer_listen)
    admin_host, admin_port = _address("--admin", admin)
    return {
        "cluster_id": cluster_id,
        "node_id": node_id,
        "data_dir": data_dir,
        "listen_host": listen_host,
        "listen_port": listen_port,
        "advertised_host": advertised_host,
        "advertised_port": advertised_port,
        "peer_host": peer_host,
        "peer_port": peer_port,
        "admin_host": admin_host,
        "admin_port": admin_port,
        "peers": _table("--peer", map(_peer, peers)),
        "topics": _table("--topic", map(parse_topic, topics)),
    }


def _table(flag: str, entries: Iterable[tuple[str, Any]]) -> dict[str, Any] | None:
    """None without entries: the flag is absent. Raises ConfigurationError when one is named twice."""
    table: dict[str, Any] = {}
    for name, entry in entries:
        if name in table:
            raise ConfigurationError(f"{flag} names {name} twice: leave one of them")
        table[name] = entry
    return table or None


def _address(flag: str, text: str | None) -> tuple[str, int] | tuple[None, None]:
    return _split(flag, text) if text is not None else (None, None)


def _split(flag: str, text: str) -> tuple[str, int]:
    try:
        return split_address(text)
    except ValueError as error:
        raise ConfigurationError(f"{flag}: {error}") from error


def _peer(text: str) -> tuple[str, dict[str, str | int]]:
    node_id, _, addresses = text.partition("=")
    parts = addresses.split(",")
    if not node_id.isdigit() or len(parts) != 2:
        raise ConfigurationError(
            f"--peer {text!r}: write ID=HOST:PORT,KAFKAHOST:PORT, for example 2=192.0.2.2:9192,192.0.2.2:9092"
        )
    (host, port), (kafka_host, kafka_port) = (_split("--peer", part) for part in parts)
    return node_id, {"host": host, "port": port, "kafka_host": kafka_host, "kafka_port": kafka_port}


def run(config: NodeConfig, *, stop_on_eof: bool, as_json: bool) -> None:
    """The node's whole life, until it is asked to end. Raises what it failed of."""
    failures: list[OutputFailed] = []

    def listening(node: Node) -> None:
        if stop_on_eof:
            _stop_at_end_of_input(node)
        if as_json:
            _say_when_ready(node, failures)

    try:
        process.run(config, ready=listening)
    except OSError as error:
        raise ConfigurationError(why_not_listening(config, error)) from error
    if failures:
        raise failures[0]


def _say_when_ready(node: Node, failures: list[OutputFailed]) -> None:
    """Print the line of --json as soon as clients may be sent here. When it cannot be, the node stops."""
    if ObservedNode(node, version=__version__, warnings=()).not_ready():
        if not node.is_stopping:
            asyncio.get_running_loop().call_later(READY_POLL_S, _say_when_ready, node, failures)
        return
    host, port = node.door.kafka_address
    line = {
        "ready": True,
        "cluster_id": node.config.cluster_id,
        "node_id": node.node_id,
        "pid": os.getpid(),
        "bootstrap": f"{host}:{port}",
    }
    try:
        with printing():
            click.echo(json.dumps(line))
    except OutputFailed as error:
        failures.append(error)
        node.stop_soon()


def _stop_at_end_of_input(node: Node) -> None:
    loop = asyncio.get_running_loop()

    def on_input() -> None:
        if not os.read(STDIN, 4096):
            loop.remove_reader(STDIN)
            node.stop_soon()

    loop.add_reader(STDIN, on_input)
