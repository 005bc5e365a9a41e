"""What a driver does: produce and consume, with one meaning for all clients."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal, NamedTuple, Protocol

# Of every topic that a driver is used with.
PARTITIONS = 3
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
EARLIEST = -2
END = -1
# What a consumer gets within this time, or it has failed. A leader's death takes some of it.
PATIENCE_S = 40
# How long a client may retry one record: a leader killed again and again is within its promise.
DELIVERY_S = 120
# Records given to a client and not yet acknowledged, where the client sets no bound of its own.
UNDER_WAY_MAX = 5000

IfGone = Literal["error", "earliest"]
"""What a consumer does at an offset that is not in the log: raise Refused, or read on at the log's start."""

Acked = Callable[[bytes, int, int], None]
"""acked(value, partition, offset) of a record whose client says where it went."""


class Record(NamedTuple):
    """Neither key nor value holds a newline, and the key no colon: kcat takes them as lines."""

    key: bytes
    value: bytes


class Found(NamedTuple):
    offset: int
    key: bytes
    value: bytes


class How(NamedTuple):
    """How to produce. acks: -1 (all), 1 or 0."""

    acks: int = -1
    codec: str = "none"
    idempotent: bool = False

    def __str__(self) -> str:
        acks = "all" if self.acks == -1 else self.acks
        return f"acks={acks},{self.codec}{',idempotent' if self.idempotent else ''}"


class NotDelivered(Exception):
    """The client reported that a record was not, or may not have been, written."""


class Refused(Exception):
    """A node said no, and the client told it; holds the client's words, with the protocol's name of the error
    in its own spelling.
    """


class ClientMissing(Exception):
    """The client is not on this machine; says how to install it."""


class Driver(Protocol):
    """A client. Keys choose partitions by murmur2, as Java's client does: each driver sets it so."""

    name: str
    tells_offsets: bool
    can_delete: bool
    """It has a request to delete records."""

    @property
    def version(self) -> str:
        """Of the client's library, and of librdkafka under it."""

    def produce(
        self, bootstrap: str, topic: str, records: Iterable[Record], how: How, acked: Acked | None = None
    ) -> None:
        """Send all of `records`; returns when each is acknowledged, with acks=0 when each is sent.

        Without idempotence too, what may be written is sent again, so that nothing is lost. `records` may
        block for a while. Raises NotDelivered.
        """

    def consume(
        self, bootstrap: str, topic: str, partition: int, start: int, *, if_gone: IfGone = "error"
    ) -> Iterator[Found]:
        """Records from offset `start` (or EARLIEST) on, by assignment, for ever.

        The client ends when this is closed. Raises TimeoutError when none comes for PATIENCE_S, and Refused.
        """

    def bounds(self, bootstrap: str, topic: str) -> list[tuple[int, int]]:
        """(start, committed end) of each partition, as the client asks for them."""

    def offsets_at(
        self, bootstrap: str, topic: str, partition: int, times_ms: Sequence[int]
    ) -> list[int | None]:
        """For each time the first record with it or a later one; None where there is none yet."""

    def delete_records(self, bootstrap: str, topic: str, below: Mapping[int, int]) -> None:
        """Delete what is below an offset of each partition; END: all that is committed. Raises Refused."""


async def in_thread(records: Iterable[Record], *, chunk: int = 500) -> AsyncIterator[Record]:
    """`records`, taken in a thread: an iterator that blocks does not hold up the loop."""
    taken = iter(records)
    while part := await asyncio.to_thread(lambda: list(islice(taken, chunk))):
        for record in part:
            yield record
