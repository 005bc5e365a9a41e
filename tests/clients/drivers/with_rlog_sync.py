"""rlog's own client, the blocking twin."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

import rlog
from rlog.client import At, DeliveryFailed, OffsetOutOfRange
from rlog.errors import RlogError
from tests.clients.drivers.base import (
    DELIVERY_S,
    EARLIEST,
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
from tests.clients.drivers.with_rlog import ACKS, may_send_again, places_of


class RlogSync:
    name = "rlog.sync"
    tells_offsets = True
    can_delete = True

    @property
    def version(self) -> str:
        return rlog.__version__

    def produce(
        self, bootstrap: str, topic: str, records: Iterable[Record], how: How, acked: Acked | None = None
    ) -> None:
        try:
            self._produce(bootstrap, topic, records, how, acked)
        except RlogError as error:
            raise NotDelivered(repr(error)) from error

    def _produce(
        self, bootstrap: str, topic: str, records: Iterable[Record], how: How, acked: Acked | None
    ) -> None:
        under_way: deque[tuple[Record, rlog.sync.Ack]] = deque()

        def send(record: Record) -> None:
            under_way.append((record, producer.send(record.value, key=record.key)))

        def settle() -> None:
            record, ack = under_way.popleft()
            try:
                receipt = ack.result()
            except DeliveryFailed as error:
                if not may_send_again(error, how):
                    raise
                send(record)
                return
            if acked is not None and how.acks != 0:
                acked(record.value, receipt.partition, receipt.offset)

        with (
            rlog.sync.connect(bootstrap) as cluster,
            cluster.producer(
                topic,
                acks=ACKS[how.acks],
                compression=how.codec,
                idempotent=how.idempotent,
                delivery_timeout_ms=DELIVERY_S * 1000,
            ) as producer,
        ):
            for record in records:
                send(record)
                if len(under_way) > UNDER_WAY_MAX:
                    settle()
            while under_way:
                settle()

    def consume(
        self, bootstrap: str, topic: str, partition: int, start: int, *, if_gone: IfGone = "error"
    ) -> Iterator[Found]:
        with (
            rlog.sync.connect(bootstrap) as cluster,
            cluster.consumer(
                topic,
                partition=partition,
                start="earliest" if start == EARLIEST else start,
                on_out_of_range="raise" if if_gone == "error" else if_gone,
            ) as consumer,
        ):
            try:
                while records := consumer.fetch(timeout_ms=PATIENCE_S * 1000):
                    for record in records:
                        yield Found(record.offset, record.key, record.value)
            except OffsetOutOfRange as error:
                raise Refused(repr(error)) from error
            raise TimeoutError(f"nothing came for {PATIENCE_S} s")

    def bounds(self, bootstrap: str, topic: str) -> list[tuple[int, int]]:
        with rlog.sync.connect(bootstrap) as cluster:
            return [(bounds.start, bounds.end) for _, bounds in sorted(cluster.offsets(topic).items())]

    def offsets_at(
        self, bootstrap: str, topic: str, partition: int, times_ms: Sequence[int]
    ) -> list[int | None]:
        with rlog.sync.connect(bootstrap) as cluster:
            return [cluster.offset_at(topic, partition, At(each)) for each in times_ms]

    def delete_records(self, bootstrap: str, topic: str, below: Mapping[int, int]) -> None:
        with rlog.sync.connect(bootstrap) as cluster:
            try:
                cluster.delete_records(topic, places_of(below))
            except OffsetOutOfRange as error:
                raise Refused(repr(error)) from error


DRIVER = RlogSync()
