"""aiokafka, which sends the oldest versions of some requests whatever a node offers."""

import asyncio
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from rlog.wire import kafka
from tests.clients.conftest import Versions

RECORDS = 1500
TIMEOUT_S = 20

SETTINGS = {
    "aiokafka": {"acks": 1, "compression_type": "gzip"},
    "aiokafka-idempotent": {"enable_idempotence": True},
}


@pytest.mark.parametrize("topic", list(SETTINGS))
def test_what_is_produced_is_consumed(
    bootstrap: str, topic: str, versions_sent: Callable[[], Versions]
) -> None:
    async def main() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, **SETTINGS[topic])
        await producer.start()
        try:
            sent = [
                await producer.send(topic, b"value %d" % n, key=b"key %d" % (n % 20)) for n in range(RECORDS)
            ]
            receipts = await asyncio.gather(*sent)
        finally:
            await producer.stop()
        acked = {(receipt.partition, receipt.offset): n for n, receipt in enumerate(receipts)}
        assert len(acked) == RECORDS, "two records were acknowledged at one offset"

        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
        await consumer.start()
        try:
            partitions = [TopicPartition(topic, index) for index in range(3)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning()
            found = []
            while len(found) < RECORDS:
                batches = await consumer.getmany(timeout_ms=TIMEOUT_S * 1000)
                assert batches, f"{len(found)} of {RECORDS} records came"
                found += [record for records in batches.values() for record in records]
            assert sum((await consumer.end_offsets(partitions)).values()) == RECORDS
        finally:
            await consumer.stop()
        for record in found:
            number = acked[record.partition, record.offset]
            assert (record.value, record.key) == (b"value %d" % number, b"key %d" % (number % 20))
            assert record.partition == kafka.partition_of(record.key, 3)

    asyncio.run(asyncio.wait_for(main(), 2 * TIMEOUT_S))
    assert versions_sent() == {
        "ApiVersions": [0],
        "Fetch": [11],
        **({"InitProducerId": [0]} if "enable_idempotence" in SETTINGS[topic] else {}),
        "ListOffsets": [3],
        "Metadata": [5],
        "Produce": [7],
    }
