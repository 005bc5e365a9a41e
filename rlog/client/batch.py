"""One batch of one partition, from its first record until its fate is known."""

import asyncio
from collections.abc import Generator
from struct import Struct
from typing import Final

import crc32c

from rlog._core import BatchBuilder
from rlog.client.errors import DeliveryFailed, afresh
from rlog.client.home import Home
from rlog.wire.kafka.messages import Buffer, PartitionReceipt

# Apache Kafka, message format v2: crc at 17 over everything from 21 on; producer id, epoch, sequence at 43.
CRC_POSITION: Final = 17
CRC_FROM: Final = 21
PRODUCER_POSITION: Final = 43
_CRC: Final = Struct(">I")
_PRODUCER: Final = Struct(">qhi")


class Batch:
    """Filled through its builder, then sent as `data` until it is resolved: acknowledged or given up.

    number: batches of one partition in the order in which they were started; they are sent, and sent again,
    in this order. base_sequence: -1 until it is first sent. is_outstanding: on the wire, not answered.
    is_uncertain: an attempt ended without an answer that tells whether the batch is in the log.
    receipt: what the node answered, once it is acknowledged.
    """

    __slots__ = (
        "base_sequence",
        "buffered_bytes",
        "builder",
        "count",
        "data",
        "deadline",
        "error",
        "home",
        "is_outstanding",
        "is_resolved",
        "is_seen",
        "is_uncertain",
        "number",
        "partition",
        "receipt",
        "topic",
        "waiters",
    )

    def __init__(
        self, home: Home, topic: str, partition: int, number: int, builder: BatchBuilder, deadline: float
    ) -> None:
        self.home = home
        self.topic = topic
        self.partition = partition
        self.number = number
        self.builder: BatchBuilder | None = builder
        self.data: Buffer = b""
        self.deadline = deadline
        self.buffered_bytes = 0  # what it holds of the producer's buffer_bytes_max
        self.count = 0
        self.base_sequence = -1
        self.is_outstanding = False
        self.is_uncertain = False
        self.is_resolved = False
        self.is_seen = False  # somebody got the error
        self.error: DeliveryFailed | None = None
        self.receipt: PartitionReceipt | None = None
        self.waiters: dict[asyncio.Future[None], None] = {}

    def close(self, producer_id: int, epoch: int, sequence: int) -> None:
        """Build the bytes, or give those that were built for another producer id this one."""
        self.base_sequence = sequence
        if self.builder is not None:
            self.builder.set_producer(producer_id, epoch, sequence)
            self.data = self.builder.build()
            self.builder = None
            return
        data = bytearray(self.data)
        _PRODUCER.pack_into(data, PRODUCER_POSITION, producer_id, epoch, sequence)
        _CRC.pack_into(data, CRC_POSITION, crc32c.crc32c(memoryview(data)[CRC_FROM:]))
        self.data = bytes(data)

    def resolve(self, receipt: PartitionReceipt | None, error: DeliveryFailed | None) -> None:
        """Its fate, one of the two; once."""
        assert not self.is_resolved
        assert (receipt is None) != (error is None)
        self.receipt = receipt
        self.error = error
        self.is_resolved = True  # last: other threads look at it (rlog.sync)
        self.builder = None
        self.data = b""
        waiters, self.waiters = self.waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def __await__(self) -> Generator[object, None, None]:
        """Wait for its fate; each waiter on a future of its own, so that cancelling one leaves the others.

        Raises WrongLoop or ForkedProcess where the client does not live: nobody would wake the waiter there.
        """
        if not self.is_resolved:
            self.home.check()
            waiter: asyncio.Future[None] = self.home.loop.create_future()
            self.waiters[waiter] = None
            try:
                yield from waiter
            finally:
                self.waiters.pop(waiter, None)

    def see_error(self) -> DeliveryFailed | None:
        self.is_seen = True
        return self.error

    def result(self) -> PartitionReceipt:
        """What the node answered. Raises what made the batch fail."""
        error = self.see_error()
        if error is not None:
            raise afresh(error)
        assert self.receipt is not None
        return self.receipt
