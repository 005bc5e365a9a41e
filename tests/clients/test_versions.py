"""Which versions of which requests each client really sends: a node counts them, versions.toml says them.

A client's release that is not listed passes while it chooses as the newest listed one does. When its choice
changes this fails, and prints the table to put into versions.toml: look at what changed first.
"""

import socket
import tomllib
from collections import Counter
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from rlog.cli.local_cluster import LocalCluster
from rlog.wire import kafka
from tests.clients.drivers import CLIENTS, Driver, How
from tests.clients.drivers.base import EARLIEST
from tests.clients.ledger import record_of

TABLE = Path(__file__).parent / "versions.toml"
# The client that asks how often each request came.
OUR_OWN = "DescribeNode"

Versions = dict[str, list[int]]


def request_counts(cluster: LocalCluster) -> Counter[str]:
    """How many requests of which version all nodes have served: {"Produce 7": 12}."""
    total: Counter[str] = Counter()
    for node in cluster.nodes.values():
        with socket.create_connection(("127.0.0.1", node.kafka_port), timeout=5) as connection:
            connection.sendall(b"".join(kafka.encode_describe_node_request(1, "tests")))
            stream = connection.makefile("rb")
            size = int.from_bytes(stream.read(4), "big")
            total.update(kafka.decode_describe_node_response(stream.read(size))["requests"])
    return total


def versions_in(counts: Counter[str]) -> Versions:
    found: Versions = {}
    for name, version in sorted(each.split() for each in counts):
        if name != OUR_OWN:
            found.setdefault(name, []).append(int(version))
    return found


def as_toml(client: str, version: str, versions: Versions) -> str:
    return "\n".join(
        [f'["{client}"."{version}"]', *(f"{name} = {numbers}" for name, numbers in versions.items())]
    )


def difference(wanted: Versions, found: Versions) -> str:
    names = sorted(wanted.keys() | found.keys())
    changed = [
        f"{name} {wanted.get(name, 'not')} -> {found.get(name, 'not')}"
        for name in names
        if wanted.get(name) != found.get(name)
    ]
    return ", ".join(changed)


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_the_versions_a_client_sends_are_known(cluster: LocalCluster, client: Driver) -> None:
    topic = f"versions-{client.name}"
    before = request_counts(cluster)
    client.produce(cluster.bootstrap, topic, map(record_of, range(100)), How(idempotent=True))
    client.produce(cluster.bootstrap, topic, map(record_of, range(100)), How(acks=1))
    with closing(client.consume(cluster.bootstrap, topic, 0, EARLIEST)) as records:
        assert len(list(islice(records, 20))) == 20
    client.bounds(cluster.bootstrap, topic)
    client.offsets_at(cluster.bootstrap, topic, 0, [1])
    if client.can_delete:
        client.delete_records(cluster.bootstrap, topic, {0: 1})
    found = versions_in(request_counts(cluster) - before)

    known: dict[str, Versions] = tomllib.loads(TABLE.read_text()).get(client.name, {})
    wanted = known.get(client.version) or (list(known.values()) or [{}])[-1]
    paste = as_toml(client.name, client.version, found)
    assert found == wanted, (
        f"{client.name} {client.version} sends other versions than {TABLE.name} says "
        f"({difference(wanted, found)}); if that is well, put this there:\n\n{paste}\n"
    )


def test_a_change_is_told() -> None:
    wanted, found = {"Fetch": [11], "Metadata": [4]}, {"Fetch": [11], "Metadata": [8], "Produce": [7]}
    assert difference(wanted, wanted) == ""
    assert difference(wanted, found) == "Metadata [4] -> [8], Produce not -> [7]"
    assert tomllib.loads(as_toml("kcat", "1, x", found)) == {"kcat": {"1, x": found}}
