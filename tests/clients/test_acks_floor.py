"""acks_floor = "leader", as clients meet it: acks=1 waits for less, acks=all for as much as ever."""

import re
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import pytest

from rlog.cli.local_cluster import LocalCluster
from tests.clients.drivers import CLIENTS, Driver, How
from tests.clients.drivers.base import PARTITIONS
from tests.clients.ledger import record_of
from tests.harness.processes import running_cluster, wait_for

RECORDS = 300
FLOOR, USUAL = "floor", "usual"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    topics = {f"{client}-{kind}": PARTITIONS for client in CLIENTS for kind in (FLOOR, USUAL)}
    tables = {f"{client}-{FLOOR}": {"acks_floor": "leader"} for client in CLIENTS}
    directory = tmp_path_factory.mktemp("floor")
    with running_cluster(directory, topics=topics, admin=True, tables=tables) as cluster:
        yield cluster


def leader_acks(nodes: LocalCluster, topic: str) -> int:
    """Produce requests to the topic that a leader's disk alone was enough for, of all nodes' metrics."""
    total = 0
    for node in nodes.nodes.values():
        with urllib.request.urlopen(f"http://127.0.0.1:{node.admin_port}/metrics", timeout=5) as answer:
            said = answer.read().decode()
        counts = re.findall(r'^rlog_leader_acks_total\{.*topic="([^"]+)".*\} (\d+)', said, re.MULTILINE)
        total += sum(int(count) for name, count in counts if name == topic)
    return total


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_one_disk_is_enough_where_the_topic_says_so_and_only_for_acks_1(
    nodes: LocalCluster, client: Driver
) -> None:
    floor, usual = f"{client.name}-{FLOOR}", f"{client.name}-{USUAL}"

    def sends(topic: str, how: How) -> bool:
        """True when a leader's disk alone was enough for some request."""
        offsets: list[int] = []
        records = map(record_of, range(RECORDS))
        client.produce(nodes.bootstrap, topic, records, how, lambda *acked: offsets.append(acked[2]))
        assert len(offsets) == (RECORDS if client.tells_offsets else 0)
        assert min(offsets, default=0) >= 0, "the leader knows the offset at once"
        return leader_acks(nodes, topic) > 0

    assert not sends(usual, How(acks=1))
    assert not sends(floor, How())
    assert not sends(floor, How(idempotent=True))
    # Now and then the followers are faster than the leader's own disk.
    wait_for(lambda: sends(floor, How(acks=1)), "a leader's disk is faster than a follower's")


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_without_acks_records_come_as_they_were_sent(nodes: LocalCluster, client: Driver) -> None:
    """Nobody is killed here: none is lost, though nobody would have said so."""
    topic = f"{client.name}-{USUAL}"
    [*_, (_, end)] = client.bounds(nodes.bootstrap, topic)
    client.produce(nodes.bootstrap, topic, map(record_of, range(RECORDS)), How(acks=0))
    with closing(client.consume(nodes.bootstrap, topic, PARTITIONS - 1, end)) as records:
        assert len(list(islice(records, 50))) == 50
