"""What a producer gives back: an ack to await, and the receipt that it becomes."""

from collections.abc import Generator, Sequence
from typing import Final

from rlog.client.batch import Batch
from rlog.client.errors import afresh
from rlog.records import ListReceipt, Receipt, Waited
from rlog.wire.kafka.messages import PartitionReceipt

# What an acknowledgement waited for, the weakest first.
STRENGTHS: Final[tuple[Waited, ...]] = ("none", "leader", "majority")


class Ack:
    """Await it for the `Receipt`; raises `DeliveryFailed` when the record was given up.

    The offset is -1 when the node recognised a repeated batch but no longer knew where the first one is.

    It may be awaited late, several times, or never: an error that nobody saw is raised by `flush()` and
    `close()`.
    """

    __slots__ = ("_batch", "_index", "_timestamp_ms")

    def __init__(self, batch: Batch, index: int, timestamp_ms: int) -> None:
        self._batch = batch
        self._index = index
        self._timestamp_ms = timestamp_ms

    def done(self) -> bool:
        return self._batch.is_resolved

    def result(self) -> Receipt:
        """The receipt of an ack that is done; raises as awaiting it does."""
        batch = self._batch
        answer = batch.result()
        return Receipt(
            batch.topic,
            batch.partition,
            offset_in(answer, self._index),
            answer.generation,
            answer.flushed_by,
            answer.waited,
            timestamp_in(answer, self._timestamp_ms),
        )

    def __await__(self) -> Generator[object, None, Receipt]:
        yield from self._batch.__await__()
        return self.result()


class ListAck:
    """Await it for the `ListReceipt` of a whole list; raises the first `DeliveryFailed`."""

    __slots__ = ("_parts", "_timestamp_ms")

    def __init__(self, parts: Sequence[tuple[Batch, int, int]], timestamp_ms: int) -> None:
        """parts: (batch, index of the first record in it, number of records), in order."""
        self._parts = parts
        self._timestamp_ms = timestamp_ms

    def done(self) -> bool:
        return all(batch.is_resolved for batch, _, _ in self._parts)

    def result(self) -> ListReceipt:
        """The receipt of an ack that is done; raises as awaiting it does."""
        errors = [error for batch, _, _ in self._parts if (error := batch.see_error()) is not None]
        if errors:
            raise afresh(errors[0])
        answers = [batch.result() for batch, _, _ in self._parts]
        first, last = self._parts[0][0], answers[-1]
        return ListReceipt(
            first.topic,
            first.partition,
            sum(count for _, _, count in self._parts),
            self._spans(),
            last.generation,
            tuple(node for node in last.flushed_by if all(node in each.flushed_by for each in answers)),
            min((each.waited for each in answers), key=STRENGTHS.index),
            timestamp_in(last, self._timestamp_ms),
        )

    def __await__(self) -> Generator[object, None, ListReceipt]:
        for batch, _, _ in self._parts:
            yield from batch.__await__()
        return self.result()

    def _spans(self) -> tuple[tuple[int, int], ...]:
        spans: list[tuple[int, int]] = []
        for batch, index, count in self._parts:
            offset = offset_in(batch.result(), index)
            if spans and spans[-1][0] >= 0 and sum(spans[-1]) == offset:
                spans[-1] = (spans[-1][0], spans[-1][1] + count)
            else:
                spans.append((offset, count))
        return tuple(spans)


def offset_in(answer: PartitionReceipt, index: int) -> int:
    """The offset of one record of the batch that was answered so."""
    return answer.base_offset + index if answer.base_offset >= 0 else -1


def timestamp_in(answer: PartitionReceipt, timestamp_ms: int) -> int:
    """The leader's time of the append where it stamps records with that (LogAppendTime), or the sender's."""
    return answer.log_append_time_ms if answer.log_append_time_ms >= 0 else timestamp_ms
