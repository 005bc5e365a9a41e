"""Against real nodes: one process with real sockets, and three simulated ones whose leader dies."""

import asyncio
from pathlib import Path
from random import Random

import uvloop

import rlog
from rlog.client import Consumer
from rlog.testing.checker import History
from rlog.testing.cluster import Cluster as SimCluster
from rlog.testing.executor import DiskSettings
from rlog.testing.invariants import Invariants
from rlog.testing.loop import Process, SimLoop
from rlog.testing.network import Network
from tests.harness.processes import running_cluster


async def read_all(consumer: Consumer, count: int) -> list[rlog.Record]:
    records: list[rlog.Record] = []
    while len(records) < count:
        records += await consumer.fetch()
    return records


async def check_conversation(bootstrap: str) -> None:
    async with rlog.connect(bootstrap) as cluster:
        async with cluster.producer("wide", compression="lz4") as producer:
            acks = [await producer.send(b"v%d" % each, key=b"k%d" % each) for each in range(2000)]
            places = {(receipt.partition, receipt.offset) for receipt in [await ack for ack in acks]}
        async with cluster.consumer("wide") as consumer:
            records = await read_all(consumer, 2000)
        assert {(record.partition, record.offset) for record in records} == places
        assert {record.value for record in records} == {b"v%d" % each for each in range(2000)}
        for partition in range(3):
            keys = [record.key or b"" for record in records if record.partition == partition]
            assert keys == sorted(keys, key=lambda key: int(key[1:])), "in order in each partition"

        values = [b"%d" % each for each in range(100_000)]
        async with cluster.producer("narrow") as producer:
            receipt = await (await producer.send_many(values))
        start = receipt.first_offset
        assert await cluster.end_offset("narrow") == start + 100_000
        async with cluster.consumer("narrow", partition=0, start=start) as consumer:
            got: list[bytes | None] = []
            while len(got) < len(values):
                got += await consumer.values()
        assert got == values
        (node_id,) = (await cluster.metadata()).nodes
        description = await cluster.describe_node(node_id)
        assert description["node_id"] == node_id


def test_a_real_process_over_real_sockets(tmp_path: Path) -> None:
    with (
        running_cluster(tmp_path, topics={"wide": 3, "narrow": 1}, nodes=1) as nodes,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(asyncio.wait_for(check_conversation(nodes.bootstrap), 60))


async def through_a_kill(cluster: SimCluster) -> tuple[list[int], list[bytes | None]]:
    """Writes and reads while the leader is killed twice; returns the acked offsets and what was read."""
    loop = asyncio.get_running_loop()
    offsets: list[int] = []
    async with (
        rlog.connect(cluster.bootstrap, random=Random(1), wall_clock_ms=lambda: 0) as client,
        client.producer("t") as producer,
        client.consumer("t", partition=0) as consumer,
    ):
        reader = asyncio.create_task(read_all(consumer, 3000))
        for number in range(3000):
            ack = await producer.send(b"%d" % number)
            if number % 10 == 0:
                await asyncio.sleep(0.001)
            if number % 3 == 0:
                offsets.append((await ack).offset)
            if number in (900, 1800):
                (leader, *_) = cluster.leaders()
                loop.call_soon(cluster.kill, leader)
                loop.call_later(3.0, cluster.start, leader)
        await producer.flush()
        records = await asyncio.wait_for(reader, 60)
    return offsets, [record.value for record in records]


def test_three_nodes_whose_leader_is_killed_twice() -> None:
    loop = SimLoop()
    network = Network(loop, Random(1))
    network.add_host("client")
    invariants = Invariants(3, History())
    cluster = SimCluster(network, Random(2), invariants, count=3, topics={"t": 1}, disk=DiskSettings())
    for node_id in cluster.node_ids:
        cluster.start(node_id)
    task = loop.create_task(through_a_kill(cluster), context=Process("client", 1).context())
    offsets, values = loop.run_until_complete(task)
    left = network.hosts["client"].connections
    loop.dispose()
    assert not loop.failures, "\n".join(loop.failures)
    assert not invariants.violations
    assert values == [b"%d" % number for number in range(3000)], "each once, in order"
    assert offsets == sorted(set(offsets))
    assert cluster.counts["kills"] == 2
    assert not left
