"""`rlog status`: what each node says of each partition."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from rlog.cli.describe import NodeState, ReplicaState, describe, split_address
from rlog.cli.exits import FAILED, UNREACHABLE, USAGE, fail
from rlog.cli.options import bootstrap_option, json_option
from rlog.errors import ProtocolError

ADDRESSES_MAX = 64


@dataclass(frozen=True, slots=True)
class Seen:
    """One replica of one partition. lag: records that its leader has and it has not flushed."""

    node_id: int
    state: ReplicaState
    lag: int | None


@click.command(name="status")
@bootstrap_option
@json_option("One JSON object instead of a table.")
@click.option("--timeout", "timeout_s", default=2.0, show_default=True, help="Seconds to wait for each node.")
def command(bootstrap: str, as_json: bool, timeout_s: float) -> None:
    """Show per partition the leader, and per replica role, generation, high-water mark and lag.

    Asks the nodes named by --bootstrap, and no others.
    Ends with 0 when every partition has a leader, 1 when one has none, 3 when no node answered.
    """
    try:
        addresses = [split_address(part) for part in bootstrap.split(",")][:ADDRESSES_MAX]
    except ValueError as error:
        fail(f"--bootstrap: {error}", exit_code=USAGE)
    nodes, silent = ask(addresses, timeout_s=timeout_s)
    partitions = by_partition(nodes)
    if as_json:
        click.echo(json.dumps(report(nodes, silent, partitions), indent=2))
    else:
        show(partitions, silent)
    if not nodes:
        fail("no node answered; is the cluster running at these addresses?", exit_code=UNREACHABLE)
    leaderless = [
        f"{topic}-{index}" for (topic, index), seen in partitions.items() if leader_of(seen) is None
    ]
    if leaderless:
        fail(f"no leader: {', '.join(leaderless)}", exit_code=FAILED)


def ask(addresses: Sequence[tuple[str, int]], *, timeout_s: float) -> tuple[list[NodeState], dict[str, str]]:
    """The states of the nodes that answered, by node id; and why each other address did not."""

    def one(address: tuple[str, int]) -> NodeState | str:
        try:
            return describe(*address, timeout_s=timeout_s)
        except (OSError, ProtocolError) as error:
            return str(error) or type(error).__name__

    with ThreadPoolExecutor(len(addresses)) as pool:
        answers = dict(zip(addresses, pool.map(one, addresses), strict=True))
    nodes = {answer.node_id: answer for answer in answers.values() if isinstance(answer, NodeState)}
    silent = {f"{host}:{port}": why for (host, port), why in answers.items() if isinstance(why, str)}
    return [nodes[node_id] for node_id in sorted(nodes)], silent


def by_partition(nodes: Sequence[NodeState]) -> dict[tuple[str, int], list[Seen]]:
    gathered: dict[tuple[str, int], list[tuple[int, ReplicaState]]] = {}
    for node in nodes:
        for state in node.partitions:
            gathered.setdefault((state.topic, state.partition), []).append((node.node_id, state))
    return {key: _with_lag(gathered[key]) for key in sorted(gathered)}


def _with_lag(states: Sequence[tuple[int, ReplicaState]]) -> list[Seen]:
    leading = [state for _, state in states if state.role == "leader"]
    leader = max(leading, key=lambda state: state.generation) if leading else None
    return [
        Seen(node_id, state, max(0, leader.end_offset - state.flushed_offset) if leader else None)
        for node_id, state in states
    ]


def leader_of(seen: Sequence[Seen]) -> Seen | None:
    """The replica that leads in the highest generation any of them knows."""
    leading = [each for each in seen if each.state.role == "leader"]
    return max(leading, key=lambda each: each.state.generation) if leading else None


def report(
    nodes: Sequence[NodeState], silent: dict[str, str], partitions: dict[tuple[str, int], list[Seen]]
) -> dict[str, Any]:
    """The answer of --json."""
    return {
        "nodes": [
            {
                "node_id": node.node_id,
                "cluster_id": node.cluster_id,
                "incarnation": node.incarnation,
                "uuid": node.uuid,
                "version": node.version,
            }
            for node in nodes
        ],
        "silent": silent,
        "partitions": [
            {
                "topic": topic,
                "partition": index,
                "leader": leader.node_id if (leader := leader_of(seen)) else None,
                "generation": max(each.state.generation for each in seen),
                "hwm": max(each.state.hwm for each in seen),
                "replicas": [_replica_report(each) for each in seen],
            }
            for (topic, index), seen in partitions.items()
        ],
    }


def _replica_report(seen: Seen) -> dict[str, Any]:
    state = seen.state
    return {
        "node_id": seen.node_id,
        "role": state.role,
        "generation": state.generation,
        "start_offset": state.start_offset,
        "hwm": state.hwm,
        "end_offset": state.end_offset,
        "flushed_offset": state.flushed_offset,
        "lag": seen.lag,
        "trouble": state.trouble,
    }


def show(partitions: dict[tuple[str, int], list[Seen]], silent: dict[str, str]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("partition", "leader", "node", "role", "generation", "high-water mark", "lag", "trouble"):
        table.add_column(
            name, justify="right" if name in ("generation", "high-water mark", "lag") else "left"
        )
    for (topic, index), seen in partitions.items():
        leader = leader_of(seen)
        for number, each in enumerate(seen):
            first = number == 0
            table.add_row(
                f"{topic}-{index}" if first else "",
                (str(leader.node_id) if leader else "none") if first else "",
                str(each.node_id),
                each.state.role,
                str(each.state.generation),
                str(each.state.hwm),
                "?" if each.lag is None else str(each.lag),
                each.state.trouble or "",
            )
    if partitions:
        Console(soft_wrap=True).print(table)
    for address, why in silent.items():
        click.echo(f"{address} does not answer: {why}", err=True)
