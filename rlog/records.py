"""What a consumer gets and what a producer gets back: records and receipts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rlog._core import Record

__all__ = ["Compression", "Headers", "ListReceipt", "Receipt", "Record", "Waited"]

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
"""How the records of a batch are compressed."""

Headers = Sequence[tuple[str, bytes | None]]
"""Names and values, in the writer's order."""

Waited = Literal["majority", "leader", "disk", "none"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known of a record that was acknowledged.

    topic, partition: where it went.
    offset: its position in the partition's log; never changes. -1 when nobody waited for it (acks="none"), or
    when the node recognised a repeated batch but no longer knew where the first one is.
    generation: of the leader that took it; -1 when the server does not say.
    flushed_by: the nodes that the leader knew to have it on disk when it was acknowledged; empty when the
    server does not say.
    waited: what the acknowledgement waited for: a flushed majority, the leader's disk alone, the disk of an
    embedded log, or nothing. Of a broker that is not rlog's it is what was asked for, and means what that
    broker means by it.
    timestamp_ms: of the record, milliseconds since the epoch; -1 when it has none. The leader's time of the
    append where the topic stamps records with that.
    """

    topic: str
    partition: int
    offset: int
    generation: int = -1
    flushed_by: tuple[int, ...] = ()
    waited: Waited = "majority"
    timestamp_ms: int = -1


@dataclass(frozen=True, slots=True)
class ListReceipt:
    """What is known of all records of one list; they may have travelled in several batches.

    spans: (first offset, count) for each run of consecutive offsets, in the order of the list. An offset is
    -1 when nobody waited for it (acks="none"), or when the node recognised a repeated batch but no longer
    knew where the first one is.
    generation: of the leader that took the last of them. flushed_by: the nodes known to have all of them on
    disk. waited: the least that an acknowledgement waited for. timestamp_ms: of the last one. All these as in
    `Receipt`.
    """

    topic: str
    partition: int
    count: int
    spans: tuple[tuple[int, int], ...]
    generation: int = -1
    flushed_by: tuple[int, ...] = ()
    waited: Waited = "majority"
    timestamp_ms: int = -1

    @property
    def first_offset(self) -> int:
        return self.spans[0][0]

    @property
    def last_offset(self) -> int:
        """-1 when it is not known."""
        offset, count = self.spans[-1]
        return offset + count - 1 if offset >= 0 else -1

    def offsets(self) -> Iterator[int]:
        """The offset of each record, in the order of the list; -1 for one that is not known."""
        for offset, count in self.spans:
            yield from range(offset, offset + count) if offset >= 0 else [-1] * count
