"""What a producer gives back: an ack to await, and the receipt that it becomes."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from rlog.client.batch import Batch
from rlog.records import Receipt


@dataclass(frozen=True, slots=True)
class ListReceipt:
    """All records of one `send_many` are committed.

    spans: (first offset, count) for each run of consecutive offsets, in the order of the list. An offset is
    -1 when the node recognised a repeated batch but no longer knew where the first one is.
    """

    topic: str
    partition: int
    count: int
    spans: tuple[tuple[int, int], ...]

    @property
    def first_offset(self) -> int:
        return self.spans[0][0]

    @property
    def last_offset(self) -> int:
        offset, count = self.spans[-1]
        return offset + count - 1

    def offsets(self) -> Iterator[int]:
        """The offset of each record, in the order of the list."""
        for offset, count in self.spans:
            yield from range(offset, offset + count)


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

    def __await__(self) -> Generator[object, None, Receipt]:
        batch = self._batch
        yield from batch.__await__()
        offset = batch.offset_of(self._index)
        return Receipt(batch.topic, batch.partition, offset, timestamp_ms=self._timestamp_ms)


class ListAck:
    """Await it for the `ListReceipt` of a whole list; raises the first `DeliveryFailed`."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[tuple[Batch, int, int]]) -> None:
        """parts: (batch, index of the first record in it, number of records), in order."""
        self._parts = parts

    def done(self) -> bool:
        return all(batch.is_resolved for batch, _, _ in self._parts)

    def __await__(self) -> Generator[object, None, ListReceipt]:
        for batch, _, _ in self._parts:
            yield from batch.__await__()
        errors = [error for batch, _, _ in self._parts if (error := batch.see_error()) is not None]
        if errors:
            raise errors[0]
        spans: list[tuple[int, int]] = []
        for batch, index, count in self._parts:
            offset = batch.offset_of(index)
            if spans and offset >= 0 and sum(spans[-1]) == offset:
                spans[-1] = (spans[-1][0], spans[-1][1] + count)
            else:
                spans.append((offset, count))
        first = self._parts[0][0]
        return ListReceipt(first.topic, first.partition, sum(count for _, count in spans), tuple(spans))
