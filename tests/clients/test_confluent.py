"""librdkafka, through confluent-kafka: produces with all kinds of acks, consumes by assignment."""

from collections.abc import Callable

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from rlog.cli.local_cluster import LocalCluster
from rlog.wire import kafka
from tests.clients.conftest import Versions
from tests.harness.processes import wait_for

RECORDS = 3000
TIMEOUT_S = 20.0

SETTINGS = {
    "confluent-all": {"acks": "all"},
    "confluent-one": {"acks": 1},
    "confluent-none": {"acks": 0},
    "confluent-idempotent": {"enable.idempotence": True},
    "confluent-lz4": {"enable.idempotence": True, "compression.type": "lz4", "linger.ms": 5},
}


def value_of(number: int) -> bytes:
    return b"value-%d-" % number + b"x" * (number % 300)


def consumer_of(bootstrap: str) -> Consumer:
    return Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False})


def consume(bootstrap: str, topic: str, partitions: int, count: int) -> list[Message]:
    consumer = consumer_of(bootstrap)
    try:
        consumer.assign([TopicPartition(topic, index, OFFSET_BEGINNING) for index in range(partitions)])
        found: list[Message] = []
        while len(found) < count:
            batch = consumer.consume(count, timeout=TIMEOUT_S if not found else 5.0)
            assert batch, f"{len(found)} of {count} records came"
            assert [message.error() for message in batch if message.error()] == []
            found += batch
        return found
    finally:
        consumer.close()


@pytest.mark.parametrize("topic", list(SETTINGS))
def test_what_is_produced_is_consumed(
    cluster: LocalCluster, bootstrap: str, topic: str, versions_sent: Callable[[], Versions]
) -> None:
    offsets: dict[bytes, tuple[int, int]] = {}
    errors: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            errors.append(error)
        else:
            offsets[message.value()] = (message.partition(), message.offset())

    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"} | SETTINGS[topic])
    for number in range(RECORDS):
        key = b"key-%d" % (number % 50)
        producer.produce(
            topic, value_of(number), key=key, headers={"n": b"%d" % number}, on_delivery=delivered
        )
    assert producer.flush(TIMEOUT_S) == 0
    assert errors == []
    assert len(offsets) == RECORDS

    found = consume(bootstrap, topic, 3, RECORDS)
    assert sorted(message.value() for message in found) == sorted(value_of(n) for n in range(RECORDS))
    for message in found:
        number = int(message.headers()[0][1])
        assert message.headers() == [("n", b"%d" % number)]
        assert message.value() == value_of(number)
        assert message.key() == b"key-%d" % (number % 50)
        assert message.partition() == kafka.partition_of(message.key(), 3)
        if topic != "confluent-none":  # without acknowledgements the producer never learns offsets
            assert offsets[message.value()] == (message.partition(), message.offset())
    for partition in range(3):
        got = [message.offset() for message in found if message.partition() == partition]
        assert got == list(range(len(got))), "offsets have a gap or a repetition"

    is_idempotent = "enable.idempotence" in SETTINGS[topic]
    assert versions_sent() == {
        "ApiVersions": [3],
        "Fetch": [11],
        **({"InitProducerId": [1]} if is_idempotent else {}),
        "ListOffsets": [4],
        "Metadata": [8],
        "Produce": [7],
    }


def test_a_consumer_at_the_end_gets_a_new_record_soon(
    bootstrap: str, versions_sent: Callable[[], Versions]
) -> None:
    topic = "confluent-tail"
    consumer = consumer_of(bootstrap)
    producer = Producer({"bootstrap.servers": bootstrap})
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_END)])
        # Its first Fetch means that it knows where the end is.
        wait_for(lambda: consumer.poll(0) is None and "Fetch" in versions_sent(), "the consumer fetches")
        for number in range(5):
            producer.produce(topic, b"%d" % number)
            assert producer.flush(TIMEOUT_S) == 0
            message = consumer.poll(TIMEOUT_S)
            assert message is not None
            assert (message.error(), message.value(), message.offset()) == (None, b"%d" % number, number)
        partition = TopicPartition(topic, 0)
        assert consumer.get_watermark_offsets(partition, timeout=TIMEOUT_S) == (0, 5)
    finally:
        consumer.close()


def test_metadata_names_all_nodes_and_one_leader_for_each_partition(
    cluster: LocalCluster, bootstrap: str
) -> None:
    metadata = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=TIMEOUT_S)
    addresses = {broker.id: (broker.host, broker.port) for broker in metadata.brokers.values()}
    assert addresses == {node.node_id: ("127.0.0.1", node.kafka_port) for node in cluster.nodes.values()}
    assert set(metadata.topics) == set(cluster.topics)
    for topic, count in cluster.topics.items():
        partitions = metadata.topics[topic].partitions
        assert sorted(partitions) == list(range(count))
        for partition in partitions.values():
            assert partition.error is None
            assert partition.leader in cluster.nodes
            assert sorted(partition.replicas) == sorted(cluster.nodes)


def test_errors_reach_the_application_by_name(bootstrap: str) -> None:
    failures: list[str] = []
    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 5_000_000})

    def delivered(error: KafkaError | None, _: Message) -> None:
        failures.append(error.name() if error else "no error")

    producer.produce("errors", bytes(2_000_000), on_delivery=delivered)
    assert producer.flush(TIMEOUT_S) == 0
    assert failures == ["MSG_SIZE_TOO_LARGE"]
    unknown = Producer({"bootstrap.servers": bootstrap, "topic.metadata.propagation.max.ms": 200})
    unknown.produce("no-such-topic", b"x", on_delivery=delivered)
    wait_for(lambda: unknown.poll(0.1) > 0, "the report of a topic that does not exist")
    assert failures[1:] == ["UNKNOWN_TOPIC_OR_PART"]

    consumer = consumer_of(bootstrap)
    try:
        # There is no time index yet, and no offset is made up.
        with pytest.raises(KafkaException, match="UNSUPPORTED_VERSION"):
            consumer.offsets_for_times([TopicPartition("errors", 0, 1_700_000_000_000)], timeout=TIMEOUT_S)
    finally:
        consumer.close()
