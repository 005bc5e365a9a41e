"""`rlog status`: what each node says of each partition."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from rlog.cli.describe import Address, describe_with_nodes, split_address
from rlog.cli.exits import FAILED, UNREACHABLE, USAGE, fail
from rlog.cli.interrupts import Interrupts
from rlog.cli.options import bootstrap_option, json_option
from rlog.cli.output import printing
from rlog.errors import ProtocolError
from rlog.wire.kafka.describe_node import NodeDescription, ReplicaDescription

ADDRESSES_MAX = 64
REPLICA_FIELDS = ("role", "generation", "start_offset", "hwm", "end_offset", "flushed_offset")


@dataclass(frozen=True, slots=True)
class Seen:
    """One partition, as those of its replicas that answered have it, by node id.

    leader: the node that the newest generation names of which a leader is known, be it by the leader itself
    or by who follows it; None when nobody knows one. generation: the newest of all.
    """

    replicas: Mapping[int, ReplicaDescription]
    leader: int | None
    generation: int

    @classmethod
    def of(cls, replicas: Mapping[int, ReplicaDescription]) -> "Seen":
        known = [
            (each["generation"], leader)
            for each in replicas.values()
            if (leader := each["leader"]) is not None
        ]
        return cls(
            replicas,
            leader=max(known)[1] if known else None,
            generation=max(each["generation"] for each in replicas.values()),
        )

    def lag(self, node_id: int) -> int | None:
        """Records that the leader has and this replica has not flushed; None when the leader says nothing."""
        leader = self.replicas.get(self.leader) if self.leader is not None else None
        if leader is None or leader["role"] != "leader":
            return None
        return max(0, leader["end_offset"] - self.replicas[node_id]["flushed_offset"])


@dataclass(slots=True)
class Answers:
    """nodes: by node id, what was said. silent: by address, why nothing was."""

    nodes: dict[int, NodeDescription] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)

    def partitions(self) -> dict[tuple[str, int], Seen]:
        gathered: dict[tuple[str, int], dict[int, ReplicaDescription]] = {}
        for node_id, node in sorted(self.nodes.items()):
            for replica in node["partitions"]:
                gathered.setdefault((replica["topic"], replica["partition"]), {})[node_id] = replica
        return {key: Seen.of(gathered[key]) for key in sorted(gathered)}


@click.command(name="status")
@bootstrap_option
@json_option("One JSON object instead of a table.")
@click.option("--timeout", "timeout_s", default=2.0, show_default=True, type=click.FloatRange(0.1, 3600),
              help="Seconds to wait for each node.")  # fmt: skip
def command(bootstrap: str, as_json: bool, timeout_s: float) -> None:
    """Show per partition the leader, and per replica role, generation, high-water mark and lag.

    Asks the nodes named by --bootstrap, and those that they name: one that answers is enough.
    Ends with 0 when every partition has a leader, 1 when one has none, 3 when no node answered.
    """
    try:
        addresses = [split_address(part) for part in bootstrap.split(",")][:ADDRESSES_MAX]
    except ValueError as error:
        fail(f"--bootstrap: {error}", exit_code=USAGE)
    with Interrupts():
        answers = ask(addresses, timeout_s=timeout_s)
    partitions = answers.partitions()
    with printing():
        if as_json:
            click.echo(json.dumps(report(answers, partitions), indent=2))
        else:
            show(answers, partitions)
    if not answers.nodes:
        fail("no node answered; is the cluster running at these addresses?", exit_code=UNREACHABLE)
    leaderless = [f"{topic}-{index}" for (topic, index), seen in partitions.items() if seen.leader is None]
    if leaderless:
        fail(f"no leader: {', '.join(leaderless)}", exit_code=FAILED)


def ask(addresses: Sequence[Address], *, timeout_s: float) -> Answers:
    """What the nodes at these addresses say, and the others of their cluster where clients find those."""
    answers = Answers()
    with ThreadPoolExecutor(ADDRESSES_MAX) as pool:

        def round_of(asked: Iterable[Address]) -> dict[int, Address]:
            named: dict[int, Address] = {}
            unique = list(dict.fromkeys(asked))
            for address, answer in zip(
                unique, pool.map(lambda each: _one(each, timeout_s), unique), strict=True
            ):
                if isinstance(answer, str):
                    answers.silent[f"{address[0]}:{address[1]}"] = answer
                else:
                    description, nodes = answer
                    answers.nodes[description["node_id"]] = description
                    named |= nodes
            return named

        named = round_of(addresses)
        round_of(
            address
            for node_id, address in sorted(named.items())
            if node_id not in answers.nodes and address not in addresses
        )
    return answers


def _one(address: Address, timeout_s: float) -> tuple[NodeDescription, dict[int, Address]] | str:
    """Why not, when it does not answer."""
    try:
        return describe_with_nodes(*address, timeout_s=timeout_s)
    except (OSError, ProtocolError) as error:
        return str(error) or type(error).__name__


def report(answers: Answers, partitions: Mapping[tuple[str, int], Seen]) -> dict[str, Any]:
    """The answer of --json."""
    return {
        "nodes": [
            {name: node.get(name) for name in ("node_id", "cluster_id", "incarnation", "uuid", "version")}
            for _, node in sorted(answers.nodes.items())
        ],
        "silent": answers.silent,
        "partitions": [
            {
                "topic": topic,
                "partition": index,
                "leader": seen.leader,
                "generation": seen.generation,
                "hwm": max(each["hwm"] for each in seen.replicas.values()),
                "replicas": [
                    {
                        "node_id": node_id,
                        **{name: each.get(name) for name in REPLICA_FIELDS},
                        "lag": seen.lag(node_id),
                        "trouble": trouble_of(each),
                    }
                    for node_id, each in seen.replicas.items()
                ],
            }
            for (topic, index), seen in partitions.items()
        ],
    }


def trouble_of(replica: ReplicaDescription) -> str | None:
    """Why it is out of service, or not quite in it."""
    return replica.get("failed") or replica.get("damage") or ("suspect" if replica.get("suspect") else None)


def show(answers: Answers, partitions: Mapping[tuple[str, int], Seen]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("partition", "leader", "node", "role", "generation", "high-water mark", "lag", "trouble"):
        table.add_column(
            name, justify="right" if name in ("generation", "high-water mark", "lag") else "left"
        )
    for (topic, index), seen in partitions.items():
        for number, (node_id, replica) in enumerate(seen.replicas.items()):
            first, lag = number == 0, seen.lag(node_id)
            table.add_row(
                f"{topic}-{index}" if first else "",
                ("none" if seen.leader is None else str(seen.leader)) if first else "",
                str(node_id),
                replica["role"],
                str(replica["generation"]),
                str(replica["hwm"]),
                "?" if lag is None else str(lag),
                trouble_of(replica) or "",
            )
    if partitions:
        Console(soft_wrap=True).print(table)
    elif answers.nodes:
        click.echo("no topic is configured: a topic is declared under [topics] at every node", err=True)
    for address, why in answers.silent.items():
        click.echo(f"{address} does not answer: {why}", err=True)
