"""One cluster of three real node processes for all clients, and what those clients really send."""

import socket
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from rlog.cli.local_cluster import LocalCluster
from rlog.wire import kafka
from tests.harness.processes import running_cluster

# Each test has topics of its own, so that offsets start at 0.
TOPICS = {
    "confluent-all": 3,
    "confluent-one": 3,
    "confluent-none": 3,
    "confluent-idempotent": 3,
    "confluent-lz4": 3,
    "confluent-tail": 1,
    "kcat": 3,
    "kcat-idempotent": 1,
    "kafka-python": 3,
    "kafka-python-plain": 3,
    "aiokafka": 3,
    "aiokafka-idempotent": 3,
    "errors": 1,
}

Versions = dict[str, list[int]]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), topics=TOPICS) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def bootstrap(cluster: LocalCluster) -> str:
    return cluster.bootstrap


def request_counts(cluster: LocalCluster) -> Counter[str]:
    """How many requests of which version all nodes have answered: {"Produce 7": 12}."""
    total: Counter[str] = Counter()
    for node in cluster.nodes.values():
        with socket.create_connection(("127.0.0.1", node.kafka_port), timeout=5) as connection:
            connection.sendall(b"".join(kafka.encode_describe_node_request(1, "tests")))
            stream = connection.makefile("rb")
            size = int.from_bytes(stream.read(4), "big")
            total.update(kafka.decode_describe_node_response(stream.read(size))["requests"])
    return total


@pytest.fixture
def versions_sent(cluster: LocalCluster) -> Callable[[], Versions]:
    """Which versions of which requests came since the test began, this test's own questions left out."""
    before = request_counts(cluster)

    def since() -> Versions:
        found: Versions = {}
        for name_and_version in sorted(request_counts(cluster) - before):
            name, version = name_and_version.split()
            if name != "DescribeNode":
                found.setdefault(name, []).append(int(version))
        return found

    return since
