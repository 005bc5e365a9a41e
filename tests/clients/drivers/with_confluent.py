"""librdkafka, through confluent-kafka."""

from collections.abc import Iterable, Iterator

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from tests.clients.drivers.base import (
    CODECS,
    DELIVERY_S,
    PARTITIONS,
    PATIENCE_S,
    UNDER_WAY_MAX,
    Acked,
    Found,
    How,
    NotDelivered,
    Record,
)


class Confluent:
    name = "confluent-kafka"
    codecs = CODECS
    can_be_idempotent = True
    tells_offsets = True

    @property
    def version(self) -> str:
        return f"{confluent_kafka.__version__}, librdkafka {confluent_kafka.libversion()[0]}"

    def produce(
        self, bootstrap: str, topic: str, records: Iterable[Record], how: How, acked: Acked | None = None
    ) -> None:
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failures.append(error)
            elif acked is not None and how.acks != 0:
                acked(message.value(), message.partition(), message.offset())

        producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": how.acks,
                "compression.type": how.codec,
                "enable.idempotence": how.idempotent,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": UNDER_WAY_MAX,
                "message.timeout.ms": DELIVERY_S * 1000,
            }
        )
        for record in records:
            while len(producer) >= UNDER_WAY_MAX:
                producer.poll(0.05)
            producer.produce(topic, record.value, key=record.key, on_delivery=delivered)
            producer.poll(0)
            if failures:
                break
        left = producer.flush(DELIVERY_S)
        if failures or left:
            raise NotDelivered(f"{left} without an answer; {len(failures)} failed, first: {failures[:1]}")

    def consume(self, bootstrap: str, topic: str, partition: int, start: int) -> Iterator[Found]:
        consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False}
        )
        try:
            consumer.assign([TopicPartition(topic, partition, start)])
            while True:
                # The first alone, so that it is waited for; then what is there already.
                messages = consumer.consume(1, timeout=PATIENCE_S) + consumer.consume(2000, timeout=0)
                if not messages:
                    raise TimeoutError(f"nothing came for {PATIENCE_S} s")
                for message in messages:
                    if message.error() is not None:
                        raise NotDelivered(str(message.error()))
                    yield Found(message.offset(), message.key(), message.value())
        finally:
            consumer.close()

    def bounds(self, bootstrap: str, topic: str) -> list[tuple[int, int]]:
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused"})
        try:
            partitions = [TopicPartition(topic, index) for index in range(PARTITIONS)]
            return [consumer.get_watermark_offsets(each, timeout=PATIENCE_S) for each in partitions]
        finally:
            consumer.close()


DRIVER = Confluent()
