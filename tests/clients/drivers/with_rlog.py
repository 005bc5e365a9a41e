"""rlog's own client."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack

import rlog
from rlog.client import At, Below, DeliveryFailed, OffsetOutOfRange
from rlog.errors import RlogError
from tests.clients.drivers.base import (
    DELIVERY_S,
    EARLIEST,
    END,
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

ACKS = {-1: "all", 1: "leader", 0: "none"}


def may_send_again(error: DeliveryFailed, how: How) -> bool:
    """Without idempotence rlog's client gives up what may be written, and says so. Who would rather have a
    record twice than not at all sends it again, as other clients do by themselves; so do these drivers.
    """
    return not how.idempotent and error.outcome == "unknown"


def places_of(below: Mapping[int, int]) -> dict[int, Below]:
    return {partition: "latest" if offset == END else offset for partition, offset in below.items()}


class Rlog:
    name = "rlog"
    tells_offsets = True
    can_delete = True

    @property
    def version(self) -> str:
        return rlog.__version__

    def produce(
        self, bootstrap: str, topic: str, records: Iterable[Record], how: How, acked: Acked | None = None
    ) -> None:
        try:
            asyncio.run(self._produce(bootstrap, topic, records, how, acked))
        except RlogError as error:
            raise NotDelivered(repr(error)) from error

    async def _produce(
        self, bootstrap: str, topic: str, records: Iterable[Record], how: How, acked: Acked | None
    ) -> None:
        under_way: deque[tuple[Record, rlog.client.Ack]] = deque()

        async def send(record: Record) -> None:
            under_way.append((record, await producer.send(record.value, key=record.key)))

        async def settle() -> None:
            record, ack = under_way.popleft()
            try:
                receipt = await ack
            except DeliveryFailed as error:
                if not may_send_again(error, how):
                    raise
                await send(record)
                return
            if acked is not None and how.acks != 0:
                acked(record.value, receipt.partition, receipt.offset)

        async with (
            rlog.connect(bootstrap) as cluster,
            cluster.producer(
                topic,
                acks=ACKS[how.acks],
                compression=how.codec,
                idempotent=how.idempotent,
                delivery_timeout_ms=DELIVERY_S * 1000,
            ) as producer,
        ):
            async for record in in_thread(records):
                await send(record)
                if len(under_way) > UNDER_WAY_MAX:
                    await settle()
            while under_way:
                await settle()

    def consume(
        self, bootstrap: str, topic: str, partition: int, start: int, *, if_gone: IfGone = "error"
    ) -> Iterator[Found]:
        with asyncio.Runner() as runner:
            stack = AsyncExitStack()
            try:
                consumer = runner.run(_consumer(stack, bootstrap, topic, partition, start, if_gone))
                while records := runner.run(consumer.fetch(timeout_ms=PATIENCE_S * 1000)):
                    for record in records:
                        yield Found(record.offset, record.key, record.value)
                raise TimeoutError(f"nothing came for {PATIENCE_S} s")
            except OffsetOutOfRange as error:
                raise Refused(repr(error)) from error
            finally:
                runner.run(stack.aclose())

    def bounds(self, bootstrap: str, topic: str) -> list[tuple[int, int]]:
        return asyncio.run(_bounds(bootstrap, topic))

    def offsets_at(
        self, bootstrap: str, topic: str, partition: int, times_ms: Sequence[int]
    ) -> list[int | None]:
        return asyncio.run(_offsets_at(bootstrap, topic, partition, times_ms))

    def delete_records(self, bootstrap: str, topic: str, below: Mapping[int, int]) -> None:
        try:
            asyncio.run(_delete(bootstrap, topic, places_of(below)))
        except OffsetOutOfRange as error:
            raise Refused(repr(error)) from error


async def _bounds(bootstrap: str, topic: str) -> list[tuple[int, int]]:
    async with rlog.connect(bootstrap) as cluster:
        found = await cluster.offsets(topic)
    return [(bounds.start, bounds.end) for _, bounds in sorted(found.items())]


async def _offsets_at(
    bootstrap: str, topic: str, partition: int, times_ms: Sequence[int]
) -> list[int | None]:
    async with rlog.connect(bootstrap) as cluster:
        return [await cluster.offset_at(topic, partition, At(each)) for each in times_ms]


async def _delete(bootstrap: str, topic: str, below: Mapping[int, Below]) -> None:
    async with rlog.connect(bootstrap) as cluster:
        await cluster.delete_records(topic, below)


async def _consumer(
    stack: AsyncExitStack, bootstrap: str, topic: str, partition: int, start: int, if_gone: IfGone
) -> rlog.Consumer:
    cluster = await stack.enter_async_context(rlog.connect(bootstrap))
    wanted = cluster.consumer(
        topic,
        partition=partition,
        start="earliest" if start == EARLIEST else start,
        on_out_of_range="raise" if if_gone == "error" else if_gone,
    )
    return await stack.enter_async_context(wanted)


DRIVER = Rlog()
