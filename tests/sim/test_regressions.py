"""What the simulation found, in the shortest form that still shows it."""

import asyncio
from random import Random

from rlog.testing.checker import History
from rlog.testing.cluster import Cluster
from rlog.testing.executor import DiskSettings
from rlog.testing.invariants import Invariants
from rlog.testing.loop import SimLoop
from rlog.testing.network import Network


def quiet_cluster(loop: SimLoop) -> Cluster:
    """Three nodes, started, and nothing goes wrong by itself."""
    network = Network(loop, Random(1))
    cluster = Cluster(
        network,
        Random(2),
        Invariants(3, History()),
        count=3,
        topics={"orders": 2},
        disk=DiskSettings(slow_chance=0),
    )
    for node_id in cluster.node_ids:
        cluster.start(node_id)
    loop.run_until_complete(asyncio.sleep(3))
    return cluster


def test_a_partition_whose_invariant_broke_does_not_keep_its_node_busy() -> None:
    """Its election timer was due for ever, and the node's loop never came back from it."""
    loop = SimLoop()
    cluster = quiet_cluster(loop)
    key = ("orders", 0)
    nodes = [machine.node for machine in cluster.machines.values() if machine.node is not None]
    leader = next(node for node in nodes if node.partitions[key].is_leader)
    leader.partitions[key].invariant_broken("as a test")
    before = loop.handles_run
    loop.run_until_complete(asyncio.sleep(5))
    assert loop.failures == []  # where the time limit of a test that hangs would end up
    assert 0 < loop.handles_run - before < 20_000
    assert [node for node in nodes if node.partitions[key].is_leader] not in ([], [leader])
    loop.dispose()
