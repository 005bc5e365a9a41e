"""kafka-python."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from threading import Semaphore

import kafka
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.producer.future import RecordMetadata

from tests.clients.drivers.base import (
    DELIVERY_S,
    EARLIEST,
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


class KafkaPython:
    name = "kafka-python"
    tells_offsets = True
    can_delete = True

    @property
    def version(self) -> str:
        return str(kafka.__version__)

    def produce(
        self, bootstrap: str, topic: str, records: Iterable[Record], how: How, acked: Acked | None = None
    ) -> None:
        failures: list[Exception] = []
        room = Semaphore(UNDER_WAY_MAX)

        def delivered(value: bytes, metadata: RecordMetadata) -> None:
            room.release()
            if acked is not None and how.acks != 0:
                acked(value, metadata.partition, metadata.offset)

        def failed(error: Exception) -> None:
            room.release()
            failures.append(error)

        producer = KafkaProducer(
            bootstrap_servers=bootstrap.split(","),
            acks=how.acks,
            compression_type=None if how.codec == "none" else how.codec,
            enable_idempotence=how.idempotent,
            linger_ms=5,
            delivery_timeout_ms=DELIVERY_S * 1000,
        )
        try:
            for record in records:
                room.acquire()
                future = producer.send(topic, record.value, key=record.key)
                future.add_callback(partial(delivered, record.value))
                future.add_errback(failed)
                if failures:
                    break
            producer.flush(DELIVERY_S)
        finally:
            producer.close(DELIVERY_S)
        if failures:
            raise NotDelivered(f"{len(failures)} failed, first: {failures[0]!r}")

    def consume(
        self, bootstrap: str, topic: str, partition: int, start: int, *, if_gone: IfGone = "error"
    ) -> Iterator[Found]:
        consumer = KafkaConsumer(
            bootstrap_servers=bootstrap.split(","),
            consumer_timeout_ms=PATIENCE_S * 1000,
            auto_offset_reset="none" if if_gone == "error" else if_gone,
        )
        try:
            consumer.assign([TopicPartition(topic, partition)])
            if start == EARLIEST:
                consumer.seek_to_beginning()
            else:
                consumer.seek(TopicPartition(topic, partition), start)
            for record in consumer:
                yield Found(record.offset, record.key, record.value)
            raise TimeoutError(f"nothing came for {PATIENCE_S} s")
        except OffsetOutOfRangeError as error:
            raise Refused(repr(error)) from error
        finally:
            consumer.close()

    def bounds(self, bootstrap: str, topic: str) -> list[tuple[int, int]]:
        consumer = KafkaConsumer(bootstrap_servers=bootstrap.split(","))
        try:
            partitions = [TopicPartition(topic, index) for index in range(PARTITIONS)]
            starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            return [(starts[each], ends[each]) for each in partitions]
        finally:
            consumer.close()

    def offsets_at(
        self, bootstrap: str, topic: str, partition: int, times_ms: Sequence[int]
    ) -> list[int | None]:
        consumer = KafkaConsumer(bootstrap_servers=bootstrap.split(","))
        place = TopicPartition(topic, partition)
        try:
            found = [consumer.offsets_for_times({place: time_ms})[place] for time_ms in times_ms]
            return [None if each is None else each.offset for each in found]
        finally:
            consumer.close()

    def delete_records(self, bootstrap: str, topic: str, below: Mapping[int, int]) -> None:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","))
        try:
            admin.delete_records({TopicPartition(topic, each): offset for each, offset in below.items()})
        except KafkaError as error:
            raise Refused(repr(error)) from error
        finally:
            admin.close()


DRIVER = KafkaPython()
