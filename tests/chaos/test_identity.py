"""A wiped disk must not vote away what its former self had acknowledged (SAFETY 20)."""

import asyncio
import shutil
import time
from pathlib import Path

import rlog
from rlog.cli.local_cluster import LocalCluster
from tests.harness import running_cluster, wait_for
from tests.harness.workload import read_all

TOPIC = "chaos"
LEADERLESS_S = 4.0


async def write_one(bootstrap: str, value: bytes) -> int:
    async with rlog.connect(bootstrap) as cluster, cluster.producer(TOPIC) as producer:
        return (await (await producer.send(value, partition=0))).offset


def check_nobody_leads(cluster: LocalCluster, *, seconds: float) -> None:
    """Over several election timeouts."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert cluster.leader(TOPIC) is None, "a leader without the acknowledged entry"


def refusals(cluster: LocalCluster, node_id: int) -> list[str]:
    return [line for line in cluster.nodes[node_id].log_path.read_text().splitlines() if "refus" in line]


def test_a_wiped_replica_is_refused_by_name_and_elects_nobody(tmp_path: Path) -> None:
    with running_cluster(tmp_path, topics={TOPIC: 1}) as cluster:
        cluster.stop(3)
        asyncio.run(write_one(cluster.bootstrap, b"acknowledged by 1 and 2 alone"))
        cluster.stop(1, 2)
        shutil.rmtree(cluster.nodes[2].data_dir)
        before = len(refusals(cluster, 3))

        cluster.start(2, 3)
        wait_for(
            lambda: len(refusals(cluster, 3)) > before, "node 3 refuses the new replica under node 2's id"
        )
        check_nobody_leads(cluster, seconds=LEADERLESS_S)
        assert "node 2" in refusals(cluster, 3)[-1]

        cluster.start(1)
        wait_for(lambda: cluster.leader(TOPIC) is not None, "nodes 1 and 3 elect a leader", timeout_s=30)
        records = asyncio.run(read_all(cluster.bootstrap, TOPIC))
        assert [record.value for record in records] == [b"acknowledged by 1 and 2 alone"]


def test_a_data_directory_takes_one_process_at_a_time(tmp_path: Path) -> None:
    """SAFETY 50: the second process is refused, and harms nothing."""
    with running_cluster(tmp_path, topics={TOPIC: 1}) as cluster:
        first = cluster.nodes[1].process
        assert first is not None
        cluster.nodes[1].process = None
        cluster.start(1)
        second = cluster.nodes[1].process
        cluster.nodes[1].process = first
        assert second is not None
        assert second.wait(20) == 4, cluster.nodes[1].last_words()
        assert "in use" in cluster.nodes[1].last_words()
        assert asyncio.run(write_one(cluster.bootstrap, b"still here")) >= 0
