"""aiokafka, which sends the oldest versions of some requests whatever a node offers."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

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
    in_thread,
)


class Aiokafka:
    name = "aiokafka"
    tells_offsets = True
    can_delete = True

    @property
    def version(self) -> str:
        return str(aiokafka.__version__)

    def produce(
        self, bootstrap: str, topic: str, records: Iterable[Record], how: How, acked: Acked | None = None
    ) -> None:
        asyncio.run(self._produce(bootstrap, topic, records, how, acked))

    async def _produce(
        self, bootstrap: str, topic: str, records: Iterable[Record], how: How, acked: Acked | None
    ) -> None:
        failures: list[BaseException] = []
        room = asyncio.Semaphore(UNDER_WAY_MAX)

        def done(value: bytes, future: asyncio.Future) -> None:
            room.release()
            if future.cancelled() or (error := future.exception()) is not None:
                failures.append(asyncio.CancelledError() if future.cancelled() else error)
            elif acked is not None and how.acks != 0:
                acked(value, future.result().partition, future.result().offset)

        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            # An idempotent producer waits for all, and refuses to be told anything else.
            **({"enable_idempotence": True} if how.idempotent else {"acks": how.acks}),
            compression_type=None if how.codec == "none" else how.codec,
            linger_ms=5,
            request_timeout_ms=DELIVERY_S * 1000,
        )
        await producer.start()
        try:
            async for record in in_thread(records):
                await room.acquire()
                future = await producer.send(topic, record.value, key=record.key)
                future.add_done_callback(partial(done, record.value))
                if failures:
                    break
            await producer.flush()
        finally:
            await producer.stop()
        if failures:
            raise NotDelivered(f"{len(failures)} failed, first: {failures[0]!r}")

    def consume(
        self, bootstrap: str, topic: str, partition: int, start: int, *, if_gone: IfGone = "error"
    ) -> Iterator[Found]:
        with asyncio.Runner() as runner:
            consumer = runner.run(_consumer(bootstrap, TopicPartition(topic, partition), start, if_gone))
            try:
                while batches := runner.run(_records_of(consumer)):
                    for record in batches:
                        yield Found(record.offset, record.key, record.value)
                raise TimeoutError(f"nothing came for {PATIENCE_S} s")
            except OffsetOutOfRangeError as error:
                raise Refused(repr(error)) from error
            finally:
                runner.run(consumer.stop())

    def bounds(self, bootstrap: str, topic: str) -> list[tuple[int, int]]:
        return asyncio.run(_bounds(bootstrap, [TopicPartition(topic, index) for index in range(PARTITIONS)]))

    def offsets_at(
        self, bootstrap: str, topic: str, partition: int, times_ms: Sequence[int]
    ) -> list[int | None]:
        return asyncio.run(_offsets_at(bootstrap, TopicPartition(topic, partition), times_ms))

    def delete_records(self, bootstrap: str, topic: str, below: Mapping[int, int]) -> None:
        asked = {TopicPartition(topic, each): RecordsToDelete(offset) for each, offset in below.items()}
        try:
            asyncio.run(_delete(bootstrap, asked))
        except KafkaError as error:
            raise Refused(repr(error)) from error


async def _consumer(
    bootstrap: str, partition: TopicPartition, start: int, if_gone: IfGone
) -> AIOKafkaConsumer:
    reset = "none" if if_gone == "error" else if_gone
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset=reset)
    await consumer.start()
    consumer.assign([partition])
    if start == EARLIEST:
        await consumer.seek_to_beginning()
    else:
        consumer.seek(partition, start)
    return consumer


async def _bounds(bootstrap: str, partitions: list[TopicPartition]) -> list[tuple[int, int]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        starts = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        return [(starts[each], ends[each]) for each in partitions]
    finally:
        await consumer.stop()


async def _offsets_at(bootstrap: str, partition: TopicPartition, times_ms: Sequence[int]) -> list[int | None]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        found = [(await consumer.offsets_for_times({partition: each}))[partition] for each in times_ms]
        return [None if each is None else each.offset for each in found]
    finally:
        await consumer.stop()


async def _delete(bootstrap: str, asked: dict[TopicPartition, RecordsToDelete]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_records(asked)
    finally:
        await admin.close()


async def _records_of(consumer: AIOKafkaConsumer) -> list:
    batches = await consumer.getmany(timeout_ms=PATIENCE_S * 1000)
    return [record for records in batches.values() for record in records]


DRIVER = Aiokafka()
