"""Nodes of one cluster in this process: real uvloop, real sockets, real files, real fdatasync."""

import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from rlog._core import BatchBuilder, Vfs, decode_values, iterate_batches
from rlog.config import NodeConfig, PeerAddress, TopicConfig
from rlog.errors import RlogError
from rlog.node.acknowledgements import ProduceResult
from rlog.node.node import Node
from rlog.node.partition import Partition
from rlog.node.process import open_env

DEADLINE_S = 20.0
TOPIC = "orders"


def on_uvloop(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on a uvloop of its own."""

    @functools.wraps(scenario)
    def run(*args: Any, **kwargs: Any) -> None:
        uvloop.run(asyncio.wait_for(scenario(*args, **kwargs), 60))

    return run


async def until(condition: Callable[[], Any], what: str, *, deadline_s: float = DEADLINE_S) -> Any:
    """Wait until `condition()` is true and return it; fail with `what` at the deadline."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        assert loop.time() < end, f"not in {deadline_s} s: {what}"
        await asyncio.sleep(0.002)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def batch(values: list[bytes], *, producer: tuple[int, int, int] = (-1, -1, -1)) -> bytes:
    """One encoded record batch. producer: (id, epoch, base sequence)."""
    producer_id, epoch, sequence = producer
    builder = BatchBuilder(
        batch_bytes_max=1_000_000, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence
    )
    assert builder.append_values(values, 0, 1_700_000_000_000) == len(values)
    return builder.build()


class Cluster:
    """Starts, stops and restarts nodes 1..count; ends all of them on leaving the context."""

    def __init__(
        self,
        directory: Path,
        *,
        count: int = 3,
        topics: dict[str, int | TopicConfig] | None = None,
        **settings: Any,
    ) -> None:
        ports = free_ports(2 * count)
        addresses = {
            n: PeerAddress("127.0.0.1", ports[2 * n - 2], "127.0.0.1", ports[2 * n - 1])
            for n in range(1, count + 1)
        }
        self.configs = {
            n: NodeConfig(
                cluster_id="test",
                node_id=n,
                data_dir=str(directory / str(n)),
                listen_port=address.kafka_port,
                peer_port=address.port,
                peers={other: there for other, there in addresses.items() if other != n},
                topics=topics or {TOPIC: 1},
                **settings,
            )
            for n, address in addresses.items()
        }
        self.nodes: dict[int, Node] = {}

    async def __aenter__(self) -> "Cluster":
        return self

    async def __aexit__(self, *_: object) -> None:
        for node_id in list(self.nodes):
            await self.stop(node_id)

    async def start(
        self,
        *node_ids: int,
        vfs: Vfs | None = None,
        wall_clock_ms: Callable[[], int] | None = None,
        uptime: Callable[[], tuple[str, float]] | None = None,
        **changes: Any,
    ) -> None:
        """Start these nodes (all, if none is named), with changes of their configuration."""
        for node_id in node_ids or self.configs:
            config = replace(self.configs[node_id], **changes)
            env = open_env(config)
            env = replace(
                env,
                vfs=vfs or env.vfs,
                wall_clock_ms=wall_clock_ms or env.wall_clock_ms,
                uptime=uptime or env.uptime,
            )
            node = Node(config, env)
            self.nodes[node_id] = node
            await node.start()

    async def stop(self, *node_ids: int) -> None:
        for node_id in node_ids or list(self.nodes):
            node = self.nodes.pop(node_id)
            await node.stop()
            node.env.close()

    def partition(self, node_id: int, index: int = 0) -> Partition:
        return self.nodes[node_id].partitions[TOPIC, index]

    async def leader(self, index: int = 0) -> Partition:
        """The partition on the node that leads it, once it serves."""

        def serving() -> Partition | None:
            found = [self.partition(n, index) for n in self.nodes if self.partition(n, index).serving]
            return max(found, key=lambda partition: partition.generation, default=None)

        return await until(serving, "a leader that serves")

    async def failure_of(self, node_id: int) -> RlogError:
        """What the node stopped of by itself."""
        await until(lambda: self.nodes[node_id].failure, f"node {node_id} fails")
        with pytest.raises(RlogError) as raised:
            await self.nodes[node_id].wait_closed()
        return raised.value

    async def all_hold(self, end_offset: int, index: int = 0) -> None:
        """Wait until every running node has committed and flushed up to `end_offset`."""
        for node_id in self.nodes:
            partition = self.partition(node_id, index)
            await until(
                lambda partition=partition: partition.hwm >= end_offset <= partition.log.flushed_offset,
                f"node {node_id} holds {end_offset}: {partition.describe()}",
            )


def send(
    partition: Partition, records: bytes, *, acks: int = -1, timeout_s: float = DEADLINE_S
) -> "asyncio.Future[ProduceResult]":
    """Produce; the future is the answer."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[ProduceResult] = loop.create_future()
    partition.produce(records, acks=acks, deadline=loop.time() + timeout_s, done=answer.set_result)
    return answer


def log_bytes(partition: Partition, end_offset: int) -> bytes:
    """The log of one replica from its start to `end_offset`, as it lies there."""
    data = b""
    at = partition.start_offset
    while at < end_offset:
        data += b"".join(
            bytes(piece) for piece in partition.log.read(at, bytes_max=1 << 20, end_max=end_offset)
        )
        at = iterate_batches(data)[-1].last_offset + 1
    return data


def values_of(partition: Partition, end_offset: int) -> list[bytes | None]:
    return decode_values(log_bytes(partition, end_offset))[0]
