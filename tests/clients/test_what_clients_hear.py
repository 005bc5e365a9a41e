"""What the applications of librdkafka and others hear: where the cluster is, what is new, what went wrong."""

import asyncio
import json
import subprocess
from collections.abc import Callable

import aiokafka
import kafka
import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from kafka import KafkaConsumer

from rlog.cli.local_cluster import LocalCluster
from tests.clients.drivers import CLIENTS, Driver
from tests.clients.test_versions import request_counts
from tests.clients.ways import TOPICS
from tests.harness.processes import wait_for

TIMEOUT_S = 20.0


def consumer_of(bootstrap: str, **settings: str | int) -> Consumer:
    return Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False} | settings
    )


def kcat(bootstrap: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["kcat", "-b", bootstrap, *arguments]
    return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)


def test_a_consumer_at_the_end_gets_a_new_record_soon(cluster: LocalCluster) -> None:
    topic = "librdkafka-tail"
    consumer = consumer_of(cluster.bootstrap)
    producer = Producer({"bootstrap.servers": cluster.bootstrap})
    before = request_counts(cluster)
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_END)])
        # Its first Fetch means that it knows where the end is.
        wait_for(
            lambda: consumer.poll(0) is None and (request_counts(cluster) - before)["Fetch 11"] > 0,
            "the consumer fetches",
        )
        for number in range(5):
            producer.produce(topic, b"%d" % number)
            assert producer.flush(TIMEOUT_S) == 0
            message = consumer.poll(TIMEOUT_S)
            assert message is not None
            assert (message.error(), message.value(), message.offset()) == (None, b"%d" % number, number)
    finally:
        consumer.close()


def test_metadata_names_all_nodes_and_one_leader_for_each_partition(cluster: LocalCluster) -> None:
    metadata = AdminClient({"bootstrap.servers": cluster.bootstrap}).list_topics(timeout=TIMEOUT_S)
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


def test_kcat_lists_the_cluster(cluster: LocalCluster) -> None:
    listing = json.loads(kcat(cluster.bootstrap, "-L", "-J").stdout)
    assert sorted(broker["id"] for broker in listing["brokers"]) == sorted(cluster.nodes)
    assert {topic["topic"]: len(topic["partitions"]) for topic in listing["topics"]} == TOPICS


def test_errors_reach_the_application_by_name(cluster: LocalCluster) -> None:
    failures: list[str] = []
    topic = "librdkafka-errors"
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "message.max.bytes": 5_000_000})

    def delivered(error: KafkaError | None, _: Message) -> None:
        failures.append(error.name() if error else "no error")

    producer.produce(topic, bytes(2_000_000), on_delivery=delivered)
    assert producer.flush(TIMEOUT_S) == 0
    assert failures == ["MSG_SIZE_TOO_LARGE"]
    unknown = Producer({"bootstrap.servers": cluster.bootstrap, "topic.metadata.propagation.max.ms": 200})
    unknown.produce("no-such-topic", b"x", on_delivery=delivered)
    wait_for(lambda: unknown.poll(0.1) > 0, "the report of a topic that does not exist")
    assert failures[1:] == ["UNKNOWN_TOPIC_OR_PART"]


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_a_search_by_time_finds_the_very_first(cluster: LocalCluster, client: Driver) -> None:
    """Inside a compressed batch too, and where the producer's times go up and down."""
    topic = f"times-{client.name}"
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "compression.type": "zstd", "linger.ms": 50})
    for time in (1000, 3000, 2000, 5000):
        producer.produce(topic, b"x" * 100, timestamp=time)
    assert producer.flush(TIMEOUT_S) == 0
    found = client.offsets_at(cluster.bootstrap, topic, 0, [0, 1000, 1001, 2500, 3001, 5001])
    assert found == [0, 0, 1, 1, 3, None]


def joined_with_confluent(bootstrap: str) -> str:
    consumer = consumer_of(bootstrap)
    try:
        consumer.subscribe(["librdkafka-tail"])
        message = consumer.poll(TIMEOUT_S)
        assert message is not None
        return message.error().name()
    finally:
        consumer.close()


def joined_with_kcat(bootstrap: str) -> str:
    return kcat(bootstrap, "-G", "group", "librdkafka-tail").stderr.decode()


def joined_with_kafka_python(bootstrap: str) -> str:
    consumer = KafkaConsumer("librdkafka-tail", bootstrap_servers=bootstrap.split(","), group_id="group")
    try:
        with pytest.raises(kafka.errors.KafkaError) as refused:
            consumer.poll(int(TIMEOUT_S * 1000))
        return repr(refused.value)
    finally:
        consumer.close()


def joined_with_aiokafka(bootstrap: str) -> str:
    async def main() -> str:
        consumer = AIOKafkaConsumer("librdkafka-tail", bootstrap_servers=bootstrap, group_id="group")
        try:
            await consumer.start()
            return repr(await consumer.getone())
        except aiokafka.errors.KafkaError as refused:
            return repr(refused)
        finally:
            await consumer.stop()

    return asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


@pytest.mark.parametrize(
    "join", [joined_with_confluent, joined_with_kcat, joined_with_kafka_python, joined_with_aiokafka]
)
def test_who_would_join_a_group_is_refused_at_once(cluster: LocalCluster, join: Callable[[str], str]) -> None:
    """None waits in silence for a group that will not be."""
    refusal = join(cluster.bootstrap).upper().replace("_", "")
    assert "UNSUPPORTEDVERSION" in refusal or "API VERSION NOT SUPPORTED" in refusal
    said = "".join(node.log_path.read_text() for node in cluster.nodes.values())
    assert "there are no groups here: assign the partitions to read instead of subscribing" in said
