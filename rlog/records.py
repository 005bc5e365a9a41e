"""What a consumer gets and what a producer gets back: records and receipts."""

from dataclasses import dataclass

from rlog._core import Record

__all__ = ["Receipt", "Record"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that a record is committed: flushed on a majority, at this offset for ever.

    topic, partition: where it went.
    offset: its position in the partition's log; never changes.
    generation: of the leader that took it; -1 when the server does not say.
    timestamp_ms: of the record, milliseconds since the epoch; -1 when it has none.
    """

    topic: str
    partition: int
    offset: int
    generation: int
    timestamp_ms: int
