"""Every client, with every kind of acks and every codec it has: what it produces it consumes."""

import socket
from contextlib import closing
from itertools import islice

import pytest

from rlog.cli.local_cluster import LocalCluster
from rlog.wire import kafka
from rlog.wire.kafka import codes
from rlog.wire.kafka.messages import FetchPartition, FetchRequest
from tests.clients.drivers import Driver, How
from tests.clients.drivers.base import CODECS, EARLIEST, PARTITIONS
from tests.clients.ledger import key_of, number_of, record_of
from tests.clients.ways import MATRIX, ids, topic_of

RECORDS = 400
# Of a batch's attributes (message format v2).
CODEC_BITS, CONTROL_BIT = 0x07, 0x20


@pytest.mark.parametrize(("client", "how"), MATRIX, indirect=["client"], ids=ids(MATRIX))
def test_what_is_produced_is_consumed(cluster: LocalCluster, client: Driver, how: How) -> None:
    topic = topic_of(client.name, how)
    acked: dict[bytes, tuple[int, int]] = {}
    client.produce(
        cluster.bootstrap,
        topic,
        map(record_of, range(RECORDS)),
        how,
        lambda value, partition, offset: acked.update({value: (partition, offset)}),
    )
    assert len(acked) == (RECORDS if client.tells_offsets and how.acks != 0 else 0)
    wanted: dict[int, list[int]] = {index: [] for index in range(PARTITIONS)}
    for number in range(RECORDS):
        wanted[kafka.partition_of(key_of(number), PARTITIONS)].append(number)
    for partition, numbers in wanted.items():
        with closing(client.consume(cluster.bootstrap, topic, partition, EARLIEST)) as records:
            found = list(islice(records, len(numbers)))
        assert [number_of(each.value) for each in found] == numbers
        assert [each.offset for each in found] == list(range(len(numbers)))
        assert [(each.key, each.value) for each in found] == [record_of(number) for number in numbers]
        assert acked == {} or all(acked[each.value] == (partition, each.offset) for each in found)
    with closing(client.consume(cluster.bootstrap, topic, PARTITIONS - 1, len(found) // 2)) as records:
        assert next(records) == found[len(found) // 2]
    bounds = [(0, len(numbers)) for numbers in wanted.values()]
    assert client.bounds(cluster.bootstrap, topic) == bounds
    codecs = stored_codecs(cluster, topic)
    assert how.codec in codecs
    # A batch that its codec would make larger is sent as it is.
    assert codecs <= {how.codec, "none"}


def stored_codecs(cluster: LocalCluster, topic: str) -> set[str]:
    """Of the batches in all partitions, read from the leaders as they are stored."""
    found: set[str] = set()
    for partition in range(PARTITIONS):
        leader = cluster.leader(topic, partition)
        assert leader is not None
        stored = memoryview(fetch_bytes(cluster.nodes[leader[0]].kafka_port, topic, partition))
        while stored:
            attributes = int.from_bytes(stored[21:23], "big")
            if not attributes & CONTROL_BIT:
                found.add(CODECS[attributes & CODEC_BITS])
            stored = stored[12 + int.from_bytes(stored[8:12], "big") :]
    return found


def fetch_bytes(port: int, topic: str, partition: int) -> bytes:
    """The batches of a partition, from offset 0."""
    wanted = FetchRequest(0, 1, 1 << 20, [(topic, [FetchPartition(partition, 0, 1 << 20)])])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"".join(kafka.encode_fetch_request(1, "tests", wanted)))
        stream = connection.makefile("rb")
        answer = stream.read(int.from_bytes(stream.read(4), "big"))
    [(_, [fetched])] = kafka.decode_fetch_response(answer).topics
    assert fetched.error == codes.NONE
    return b"".join(fetched.records)
