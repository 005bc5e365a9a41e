"""What a consumer gets and what a producer gets back: records and receipts."""

from dataclasses import dataclass
from typing import Literal

from rlog._core import Record

__all__ = ["Receipt", "Record", "Waited"]


Waited = Literal["majority", "leader", "none"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known of a record that was acknowledged.

    topic, partition: where it went.
    offset: its position in the partition's log; never changes. -1 when nobody waited for it (acks=0).
    generation: of the leader that took it; -1 when the server does not say.
    flushed_by: the nodes that the leader knew to have it on disk when it was acknowledged; empty when the
    server does not say.
    waited: what the acknowledgement waited for: a flushed majority, the leader's disk alone, or nothing. Of a
    broker that is not rlog's it is what was asked for, and means what that broker means by it.
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
