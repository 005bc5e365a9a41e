"""Checks what came back against what went in, and the replicas against each other."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from rlog.cli.demo.result import Result
from rlog.records import Record

UNKNOWN_OFFSET = -1  # acknowledged as a repetition whose first offset the node no longer knew
NOT_ACKNOWLEDGED = -2


class Checker:
    """Compares consumed records, in order, with the input that one producer sent in order.

    offsets[i]: where input record i was acknowledged, UNKNOWN_OFFSET or NOT_ACKNOWLEDGED. An acknowledged
    record must appear once, at its offset, after its predecessors; another one once in its place, or be
    absent.
    """

    def __init__(
        self, expected: Iterable[tuple[bytes, bytes]], offsets: "array[int]", result: Result
    ) -> None:
        self._expected = iter(expected)
        self._offsets = offsets
        self._result = result
        self._position = 0
        self._next_offset = 0

    def see(self, record: Record) -> None:
        if record.offset < self._next_offset:
            self._result.problem(f"offset {record.offset} came after offset {self._next_offset - 1}")
        self._next_offset = record.offset + 1
        self._result.consumed += 1
        found = (record.key, record.value)
        for expected in self._expected:
            at = self._offsets[self._position]
            self._position += 1
            if expected == found:
                if at not in (NOT_ACKNOWLEDGED, UNKNOWN_OFFSET, record.offset):
                    self._result.problem(
                        f"acknowledged at offset {at}, found at {record.offset}: {_short(found)}"
                    )
                return
            if at != NOT_ACKNOWLEDGED:
                self._result.problem(
                    f"offset {record.offset} holds {_short(found)} instead of {_short(expected)}"
                )
                return
        self._result.problem(f"offset {record.offset} holds a record too many: {_short(found)}")

    def end(self) -> None:
        """All was consumed: what is still expected is missing."""
        missing = sum(1 for _ in self._remaining_acknowledged())
        if missing:
            self._result.problem(f"{missing} acknowledged records are missing at the end of the log")

    def _remaining_acknowledged(self) -> Iterator[int]:
        for _ in self._expected:
            if self._offsets[self._position] != NOT_ACKNOWLEDGED:
                yield self._position
            self._position += 1


def _short(record: tuple[bytes | None, bytes | None]) -> str:
    key, value = record
    return f"{(key or b'').decode(errors='replace')} {(value or b'')[:40]!r}"


def compare_replicas(
    replicas: Sequence[Iterable[bytes | memoryview]], node_ids: Sequence[int], result: Result
) -> None:
    """Each replica's bytes, in chunks of any sizes, must be the same."""
    position = 0
    for parts in zip_longest(*(rechunked(replica) for replica in replicas), fillvalue=b""):
        if any(part != parts[0] for part in parts):
            for node_id, part in zip(node_ids, parts, strict=True):
                if part != parts[0]:
                    where = position + _first_difference(part, parts[0])
                    result.problem(f"node {node_id}'s log differs from node {node_ids[0]}'s at byte {where}")
            return
        position += len(parts[0])
    result.replica_bytes = position
    result.replicas_compared = len(replicas)


def rechunked(parts: Iterable[bytes | memoryview], size: int = 1 << 20) -> Iterator[bytes]:
    """The same bytes in chunks of `size`; the last one may be shorter."""
    held = bytearray()
    for part in parts:
        held += part
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def _first_difference(left: bytes, right: bytes) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )
