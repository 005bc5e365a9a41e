"""Times, as clients see them: the first record after a moment, and whose clock stamped a record."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from random import Random

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as AioPartition
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Consumer, Producer
from confluent_kafka import TopicPartition as ConfluentPartition
from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as KafkaPartition

import rlog
from rlog.cli.local_cluster import LocalCluster
from rlog.client import At
from tests.clients.drivers import CLIENTS, Driver, driver
from tests.harness.processes import running_cluster

NOON_MS = 1_760_000_000_000
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
BATCHES, RECORDS = 20, 20
TIMEOUT_S = 20
STAMPED = ("stamped-confluent", "stamped-kafka-python", "stamped-aiokafka")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three nodes; the topics of STAMPED have their leaders' times."""
    topics = {"times": 1, **dict.fromkeys(STAMPED, 1)}
    tables = {topic: {"timestamp_type": "append"} for topic in STAMPED}
    with running_cluster(tmp_path_factory.mktemp("times"), topics=topics, tables=tables) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def times(nodes: LocalCluster) -> list[int]:
    """The timestamp of the record at each offset of "times": in no order, in batches of all compressions."""
    random = Random(4)
    stamps = [NOON_MS + random.randint(0, 20 * index) for index in range(BATCHES * RECORDS)]

    for number in range(BATCHES):
        compression = COMPRESSIONS[number % len(COMPRESSIONS)]
        producer = Producer(
            {"bootstrap.servers": nodes.bootstrap, "compression.type": compression, "linger.ms": 20}
        )
        for stamp in stamps[number * RECORDS : (number + 1) * RECORDS]:
            producer.produce("times", b"order " * 20, partition=0, timestamp=stamp)
        assert producer.flush(TIMEOUT_S) == 0
    return stamps


def first_at(times: list[int], moment: int) -> tuple[int, int] | None:
    """(offset, timestamp) of the first record that late."""
    return next(((offset, stamp) for offset, stamp in enumerate(times) if stamp >= moment), None)


MOMENTS = [
    0,
    NOON_MS - 1,
    *(NOON_MS + step for step in range(0, 8200, 331)),
    NOON_MS + 20 * BATCHES * RECORDS,
]


def consumer_of(bootstrap: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused",
            "enable.auto.commit": False,
            "check.crcs": True,
        }
    )


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_every_client_finds_the_first_record_after_a_moment(
    nodes: LocalCluster, times: list[int], client: Driver
) -> None:
    expected = [first_at(times, moment) for moment in MOMENTS]
    found = client.offsets_at(nodes.bootstrap, "times", 0, MOMENTS)
    assert found == [None if each is None else each[0] for each in expected]


def test_kcat_starts_at_a_moment(nodes: LocalCluster, times: list[int]) -> None:
    """-o s@MILLISECONDS: from there on, and e@MILLISECONDS: up to there."""
    driver("kcat")
    moment, until = NOON_MS + 2000, NOON_MS + 4000
    first, end = first_at(times, moment), first_at(times, until)
    assert first is not None
    assert end is not None
    command = ["kcat", "-C", "-b", nodes.bootstrap, "-t", "times", "-p", "0", "-f", "%o %T\n"]
    command += ["-o", f"s@{moment}", "-o", f"e@{until}"]
    said = subprocess.run(command, capture_output=True, check=True, timeout=TIMEOUT_S, text=True).stdout
    rows = [tuple(map(int, line.split())) for line in said.splitlines()]
    assert rows == [(offset, times[offset]) for offset in range(first[0], end[0])]


async def check_rlog(bootstrap: str, times: list[int]) -> None:
    async with rlog.connect(bootstrap) as cluster:
        for moment in MOMENTS:
            expected = first_at(times, moment)
            offset = await cluster.offset_at("times", 0, At(moment))
            assert offset == (None if expected is None else expected[0])
            if expected is not None and moment > 0:
                async for record in cluster.consumer("times", partition=0, start=At(moment)):
                    assert (record.offset, record.timestamp_ms) == expected
                    break


def test_rlogs_own_client_finds_it_and_starts_there(nodes: LocalCluster, times: list[int]) -> None:
    asyncio.run(asyncio.wait_for(check_rlog(nodes.bootstrap, times), 3 * TIMEOUT_S))


def is_now(timestamp_ms: int) -> bool:
    return abs(timestamp_ms - time.time() * 1000) < TIMEOUT_S * 1000


def test_confluent_kafka_sees_whose_clock_it_was(nodes: LocalCluster, times: list[int]) -> None:
    reports = []
    producer = Producer({"bootstrap.servers": nodes.bootstrap, "enable.idempotence": True})
    producer.produce(
        "stamped-confluent", b"v", timestamp=5, on_delivery=lambda _, message: reports.append(message)
    )
    assert producer.flush(TIMEOUT_S) == 0
    kind, stamp = reports[0].timestamp()
    assert kind == TIMESTAMP_LOG_APPEND_TIME
    assert is_now(stamp)
    consumer = consumer_of(nodes.bootstrap)
    try:
        for topic, expected in (
            ("stamped-confluent", (TIMESTAMP_LOG_APPEND_TIME, stamp)),
            ("times", (TIMESTAMP_CREATE_TIME, times[0])),
        ):
            consumer.assign([ConfluentPartition(topic, 0, 0)])
            message = consumer.poll(TIMEOUT_S)
            assert message is not None
            assert message.timestamp() == expected
    finally:
        consumer.close()


def test_kafka_python_sees_whose_clock_it_was(nodes: LocalCluster) -> None:
    servers = nodes.bootstrap.split(",")
    producer = KafkaProducer(bootstrap_servers=servers)
    receipt = producer.send("stamped-kafka-python", b"v", timestamp_ms=5).get(TIMEOUT_S)
    producer.close(TIMEOUT_S)
    assert is_now(receipt.timestamp)
    consumer = KafkaConsumer(bootstrap_servers=servers, consumer_timeout_ms=TIMEOUT_S * 1000)
    try:
        consumer.assign([KafkaPartition("stamped-kafka-python", 0)])
        consumer.seek_to_beginning()
        record = next(consumer)
        assert (record.timestamp_type, record.timestamp) == (1, receipt.timestamp)
    finally:
        consumer.close()


def test_aiokafka_sees_whose_clock_it_was(nodes: LocalCluster) -> None:
    async def main() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=nodes.bootstrap)
        await producer.start()
        receipt = await producer.send_and_wait("stamped-aiokafka", b"v", timestamp_ms=5)
        await producer.stop()
        assert receipt.timestamp_type == 1
        assert is_now(receipt.timestamp)
        consumer = AIOKafkaConsumer(bootstrap_servers=nodes.bootstrap)
        await consumer.start()
        try:
            consumer.assign([AioPartition("stamped-aiokafka", 0)])
            await consumer.seek_to_beginning()
            record = await asyncio.wait_for(consumer.getone(), TIMEOUT_S)
            assert (record.timestamp_type, record.timestamp) == (1, receipt.timestamp)
        finally:
            await consumer.stop()

    asyncio.run(asyncio.wait_for(main(), 2 * TIMEOUT_S))


def test_a_question_by_time_finds_the_next_leader(nodes: LocalCluster, times: list[int]) -> None:
    """The leader that the client knows is killed; the next one gives the same answer, in its generation."""

    async def main() -> None:
        async with rlog.connect(nodes.bootstrap) as cluster:
            moment = NOON_MS + 4000
            expected = first_at(times, moment)
            assert expected is not None
            assert await cluster.offset_at("times", 0, At(moment)) == expected[0]
            leader = nodes.leader("times")
            assert leader is not None
            nodes.kill(leader[0])
            try:
                assert await cluster.offset_at("times", 0, At(moment), timeout_ms=20_000) == expected[0]
                async for record in cluster.consumer("times", partition=0, start=At(moment)):
                    assert record.offset == expected[0]
                    break
            finally:
                nodes.start(leader[0])

    asyncio.run(asyncio.wait_for(main(), 3 * TIMEOUT_S))
    nodes.wait_ready(timeout_s=30)
