"""kafka-python: idempotent, as it is by default, and not."""

from collections.abc import Callable

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from rlog.wire import kafka
from tests.clients.conftest import Versions

RECORDS = 1500
TIMEOUT_S = 20

SETTINGS = {
    "kafka-python": {},
    "kafka-python-plain": {"enable_idempotence": False, "acks": 1, "compression_type": "lz4"},
}


@pytest.mark.parametrize("topic", list(SETTINGS))
def test_what_is_produced_is_consumed(
    bootstrap: str, topic: str, versions_sent: Callable[[], Versions]
) -> None:
    servers = bootstrap.split(",")
    producer = KafkaProducer(bootstrap_servers=servers, linger_ms=5, **SETTINGS[topic])
    try:
        futures = [
            producer.send(topic, b"value %d" % n, key=b"key %d" % (n % 20), headers=[("n", b"%d" % n)])
            for n in range(RECORDS)
        ]
        producer.flush(TIMEOUT_S)
        acked = {(f.get(TIMEOUT_S).partition, f.get(TIMEOUT_S).offset): n for n, f in enumerate(futures)}
    finally:
        producer.close(TIMEOUT_S)
    assert len(acked) == RECORDS, "two records were acknowledged at one offset"

    consumer = KafkaConsumer(bootstrap_servers=servers, consumer_timeout_ms=TIMEOUT_S * 1000)
    try:
        partitions = [TopicPartition(topic, index) for index in range(3)]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        found = [record for _, record in zip(range(RECORDS), consumer, strict=False)]
        assert sum(consumer.end_offsets(partitions).values()) == RECORDS
        assert set(consumer.beginning_offsets(partitions).values()) == {0}
    finally:
        consumer.close()
    assert len(found) == RECORDS
    for record in found:
        number = acked[record.partition, record.offset]
        assert (record.value, record.key) == (b"value %d" % number, b"key %d" % (number % 20))
        assert record.headers == [("n", b"%d" % number)]
        assert record.partition == kafka.partition_of(record.key, 3)

    assert versions_sent() == {
        "ApiVersions": [3],
        "Fetch": [11],
        **({} if "enable_idempotence" in SETTINGS[topic] else {"InitProducerId": [1]}),
        "ListOffsets": [4],
        "Metadata": [8],
        "Produce": [7],
    }
