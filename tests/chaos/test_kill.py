"""kill -9 on real processes under load: nothing acknowledged is lost or there twice (SAFETY 35, 36)."""

import asyncio
from pathlib import Path

from rlog.cli.local_cluster import LocalCluster
from tests.harness import running_cluster
from tests.harness.workload import Load, check_history, check_replicas, eventually, read_all

TOPIC = "chaos"
ACKS_BETWEEN_FAULTS = 3000


async def caught_up(cluster: LocalCluster) -> int:
    """Wait until all nodes have flushed the same log, all of it committed; its end."""
    ends: set[tuple[int, int]] = set()

    def same() -> bool:
        ends.clear()
        for node_id in cluster.nodes:
            replica = cluster.replica(node_id, TOPIC)
            ends.add((replica["flushed_offset"], replica["hwm"]) if replica else (-1, 0))
        return len(ends) == 1 and all(flushed == hwm for flushed, hwm in ends)

    await eventually(same, "all replicas hold the same committed log")
    return ends.pop()[0]


async def verify(cluster: LocalCluster, load: Load) -> None:
    """After the load ended: read back, compare with its history, and compare the files."""
    end = await caught_up(cluster)
    check_history(load.history, await read_all(cluster.bootstrap, TOPIC))
    statuses = await asyncio.to_thread(cluster.stop)
    assert statuses == dict.fromkeys(cluster.nodes, 0)
    check_replicas(cluster, TOPIC, end=end)


def test_each_node_in_turn_is_killed(tmp_path: Path) -> None:
    async def scenario(cluster: LocalCluster) -> None:
        async with Load(cluster.bootstrap, TOPIC) as load:
            for node_id in cluster.nodes:
                await load.acked(ACKS_BETWEEN_FAULTS)
                await asyncio.to_thread(cluster.kill, node_id)
                await load.acked(ACKS_BETWEEN_FAULTS)
                cluster.start(node_id)
                await asyncio.to_thread(cluster.wait_ready)
        assert len(load.history.acked) >= 6 * ACKS_BETWEEN_FAULTS
        await verify(cluster, load)

    with running_cluster(tmp_path, topics={TOPIC: 1}) as cluster:
        asyncio.run(scenario(cluster))


def test_the_leader_is_killed_again_and_again(tmp_path: Path) -> None:
    async def scenario(cluster: LocalCluster) -> None:
        generations = []
        async with Load(cluster.bootstrap, TOPIC) as load:
            for _ in range(4):
                await load.acked(ACKS_BETWEEN_FAULTS)
                leader = await asyncio.to_thread(cluster.leader, TOPIC)
                assert leader is not None
                generations.append(leader[1])
                await asyncio.to_thread(cluster.kill, leader[0])
                await load.acked(ACKS_BETWEEN_FAULTS)
                cluster.start(leader[0])
                await asyncio.to_thread(cluster.wait_ready)
        assert generations == sorted(set(generations)), "each kill makes a new generation"
        await verify(cluster, load)

    with running_cluster(tmp_path, topics={TOPIC: 1}, settings={"segment_bytes_max": 1 << 20}) as cluster:
        asyncio.run(scenario(cluster))


def test_all_nodes_are_killed_at_once(tmp_path: Path) -> None:
    async def scenario(cluster: LocalCluster) -> None:
        async with Load(cluster.bootstrap, TOPIC) as load:
            for _ in range(2):
                await load.acked(ACKS_BETWEEN_FAULTS)
                await asyncio.to_thread(cluster.kill)
                cluster.start()
                await asyncio.to_thread(cluster.wait_ready)
            await load.acked(ACKS_BETWEEN_FAULTS)
        await verify(cluster, load)

    with running_cluster(tmp_path, topics={TOPIC: 1}) as cluster:
        asyncio.run(scenario(cluster))


def test_a_frozen_leader_is_replaced_and_follows_when_it_wakes(tmp_path: Path) -> None:
    """SIGSTOP: its connections stay open, silent. Awake again, its old generation is refused (SAFETY 28)."""

    async def scenario(cluster: LocalCluster) -> None:
        async with Load(cluster.bootstrap, TOPIC) as load:
            await load.acked(ACKS_BETWEEN_FAULTS)
            first = await asyncio.to_thread(cluster.leader, TOPIC)
            assert first is not None
            frozen, generation = first
            cluster.pause(frozen)
            await load.acked(ACKS_BETWEEN_FAULTS)
            cluster.resume(frozen)
            await load.acked(ACKS_BETWEEN_FAULTS)
            await asyncio.to_thread(cluster.wait_ready)
            second = await asyncio.to_thread(cluster.leader, TOPIC)
            assert second is not None
            assert second[1] > generation
        await verify(cluster, load)

    with running_cluster(tmp_path, topics={TOPIC: 1}) as cluster:
        asyncio.run(scenario(cluster))


def test_a_leader_alone_acknowledges_nothing(tmp_path: Path) -> None:
    """Its followers killed, then itself; without it they go on: what it took alone was never acknowledged."""

    async def scenario(cluster: LocalCluster) -> None:
        async with Load(cluster.bootstrap, TOPIC) as load:
            await load.acked(ACKS_BETWEEN_FAULTS)
            found = await asyncio.to_thread(cluster.leader, TOPIC)
            assert found is not None
            followers = [node_id for node_id in cluster.nodes if node_id != found[0]]
            await asyncio.to_thread(cluster.kill, *followers)
            await load.silence(seconds=0.3)
            replica = await asyncio.to_thread(cluster.replica, found[0], TOPIC)
            assert replica is not None
            assert replica["flushed_offset"] > replica["hwm"], "it holds flushed records that nobody else has"
            await asyncio.to_thread(cluster.kill, found[0])
            cluster.start(*followers)
            await load.acked(ACKS_BETWEEN_FAULTS)
            cluster.start(found[0])
            await asyncio.to_thread(cluster.wait_ready)
        await verify(cluster, load)

    with running_cluster(tmp_path, topics={TOPIC: 1}) as cluster:
        asyncio.run(scenario(cluster))
