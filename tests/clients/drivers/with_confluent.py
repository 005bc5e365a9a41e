"""librdkafka, through confluent-kafka."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import confluent_kafka
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from tests.clients.drivers.base import (
    DELIVERY_S,
    PARTITIONS,
    PATIENCE_S,
    UNDER_WAY_MAX,
    Acked,
    Found,
    How,
    IfGone,
    NotDelivered,
    Record,
    Refused,
)


class Confluent:
    name = "confluent-kafka"
    tells_offsets = True
    can_delete = True

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

    def consume(
        self, bootstrap: str, topic: str, partition: int, start: int, *, if_gone: IfGone = "error"
    ) -> Iterator[Found]:
        consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": if_gone,
            }
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
                        raise Refused(str(message.error()))
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

    def offsets_at(
        self, bootstrap: str, topic: str, partition: int, times_ms: Sequence[int]
    ) -> list[int | None]:
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused"})
        try:
            # One question for each: librdkafka takes one time for a partition.
            asked = [[TopicPartition(topic, partition, time_ms)] for time_ms in times_ms]
            found = [consumer.offsets_for_times(each, timeout=PATIENCE_S)[0] for each in asked]
            for each in found:
                if each.error is not None:
                    raise Refused(str(each.error))
            return [None if each.offset == OFFSET_END else each.offset for each in found]
        finally:
            consumer.close()

    def delete_records(self, bootstrap: str, topic: str, below: Mapping[int, int]) -> None:
        admin = AdminClient({"bootstrap.servers": bootstrap})
        asked = [TopicPartition(topic, partition, offset) for partition, offset in below.items()]
        try:
            for answer in admin.delete_records(asked, request_timeout=PATIENCE_S).values():
                answer.result(PATIENCE_S)
        except KafkaException as error:
            raise Refused(str(error)) from error


DRIVER = Confluent()
