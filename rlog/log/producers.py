"""Idempotent producers: which of a producer's batches are in the log already (SAFETY 36).

A producer numbers its records: (producer id, epoch, sequence), the sequence per partition, wrapping from
2^31 - 1 to 0. The leader compares each batch with what that producer *appended* before, committed or not, and
answers a retry with the place of the first try instead of appending twice. (KIP-98; five batches, since
clients keep at most five in flight.)

The rules, for a batch of a producer:

* unknown here: accepted at any sequence, as Kafka does since 2.5 (KIP-360). A log may have forgotten an idle
  producer (`producers_max`), and a refusal would be fatal to it.
* of an older epoch: refused, a newer instance of the producer has fenced it.
* of a newer epoch: starts at sequence 0, and what the older epoch wrote is forgotten.
* equal to one of its last five batches in first and last sequence: a duplicate.
* anything else has to start right after its last sequence.

The table is a function of the log alone: equal logs give equal tables, whatever was cut in between
(SAFETY 13). So each append above the high-water mark leaves an undo step, and a cut takes the steps back.
Which producer is forgotten for a new one is also read from the log: the one whose last batch is the oldest.

A table is stored whole in every anchor and every index file, and sent to who installs an anchor. So each
producer is kept as the bytes of its entry there, and ten thousand of them are joined or split in a few
milliseconds. Entries stand in the order of their last batches:

    8 producer id | 2 epoch | 2 count, 1 to 5 | of each batch, oldest first:
    4 base sequence | 4 last sequence | 8 base offset | 8 last offset | 8 append time in ms, or -1

Not handled here: batches of the same tick that are not appended yet (the node's group), and expiry by time.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from rlog.errors import InvalidEpoch, InvariantBroken, OutOfOrder

__all__ = ["Duplicate", "Fresh", "InvalidEpoch", "OutOfOrder", "ProducerTable", "producer_batches"]

BATCHES_MAX = 5  # remembered per producer: what a client may have in flight
PRODUCERS_MAX = 10_000
SEQUENCE_MASK = 0x7FFF_FFFF

_PRODUCER = Struct(">qhH")
_BATCH = Struct(">iiqqq")
_LAST_BASE_OFFSET = Struct(">q16x")  # at the end of an entry
_FIRST, _SIZE = _PRODUCER.size, _BATCH.size

TABLE_BYTES_MAX = PRODUCERS_MAX * (_FIRST + BATCHES_MAX * _SIZE)
"""The largest table, stored."""

ProducerBatch = tuple[int, int, int, int, int, int, int]
"""As Span.producer_batches() lists them: (producer_id, epoch, base_sequence, last_sequence, base_offset,
last_offset, append_time_ms)."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """The batch is new: append it."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The batch is in the log already, at [base_offset, end_offset); not necessarily committed yet.

    append_time_ms: when a leader appended it; -1 where the timestamps are the producer's.
    """

    base_offset: int
    end_offset: int
    append_time_ms: int = -1


class _Undo(NamedTuple):
    """How to take back one append."""

    base_offset: int
    producer_id: int
    before: bytes | None
    forgotten: tuple[int, bytes] | None  # who had to go for it


_FRESH = Fresh()


class ProducerTable:
    """The idempotent producers of one partition's log.

    producers_max: how many are remembered. undo_max: how many appends can be taken back; a cut beyond that
    asks for a replay (only after a restart, with the high-water mark unknown, is so much uncommitted).
    """

    def __init__(self, *, producers_max: int = PRODUCERS_MAX, undo_max: int = 65_536) -> None:
        if producers_max < 1 or undo_max < 1:
            raise ValueError(f"producers_max={producers_max} and undo_max={undo_max} are at least 1")
        self._producers_max = producers_max
        self._undo_max = undo_max
        # Entries, never changed in place, so that an undo step can keep the one before.
        self._producers: OrderedDict[int, bytes] = OrderedDict()
        self._undo: deque[_Undo] = deque()  # ascending offsets, all at or above both marks below
        self._hwm = 0  # no cut goes below it
        self._undo_start = 0  # a cut below it cannot be undone step by step

    def __len__(self) -> int:
        return len(self._producers)

    def __eq__(self, other: object) -> bool:
        """Equal in what check() answers and in who will be forgotten first."""
        if not isinstance(other, ProducerTable):
            return NotImplemented
        return self._producers == other._producers

    def check(self, producer_id: int, epoch: int, base_sequence: int, count: int) -> Fresh | Duplicate:
        """Judge a batch of `count` records by the rules above; changes nothing.

        Raises OutOfOrder or InvalidEpoch: the batch must not be appended.
        """
        entry = self._producers.get(producer_id)
        if entry is None:
            return _FRESH
        _, known_epoch, _ = _PRODUCER.unpack_from(entry)
        if epoch != known_epoch:
            if epoch < known_epoch:
                raise InvalidEpoch(f"producer {producer_id}: epoch {epoch} was fenced by epoch {known_epoch}")
            if base_sequence != 0:
                raise OutOfOrder(
                    f"producer {producer_id}: epoch {epoch} starts at sequence {base_sequence}, not 0"
                )
            return _FRESH
        last_sequence = (base_sequence + count - 1) & SEQUENCE_MASK
        last = -1
        for first, last, base_offset, last_offset, time_ms in _BATCH.iter_unpack(entry[_FIRST:]):
            if first == base_sequence and last == last_sequence:
                return Duplicate(base_offset, last_offset + 1, time_ms)
        expected = (last + 1) & SEQUENCE_MASK
        if base_sequence != expected:
            raise OutOfOrder(
                f"producer {producer_id}: sequence {base_sequence} came where {expected} was due"
            )
        return _FRESH

    def appended(self, batches: Iterable[ProducerBatch]) -> None:
        """Take in what the log now holds, in the order of the log. The log is not judged: it is the truth."""
        for producer_id, epoch, base_sequence, last_sequence, base_offset, last_offset, time_ms in batches:
            if self._undo and base_offset <= self._undo[-1].base_offset:
                raise InvariantBroken(f"a batch at {base_offset} after one at {self._undo[-1].base_offset}")
            before = self._producers.pop(producer_id, None)
            batch = _BATCH.pack(base_sequence, last_sequence, base_offset, last_offset, time_ms)
            full = _PRODUCER.pack(producer_id, epoch, BATCHES_MAX)
            if before is not None and before.startswith(full):
                self._producers[producer_id] = full + before[_FIRST + _SIZE :] + batch
            else:
                self._producers[producer_id] = _grown(before, producer_id, epoch) + batch
            forgotten = None
            if len(self._producers) > self._producers_max:
                forgotten = self._producers.popitem(last=False)
            if base_offset >= self._hwm:
                self._undo.append(_Undo(base_offset, producer_id, before, forgotten))
                if len(self._undo) > self._undo_max:
                    self._undo_start = self._undo.popleft().base_offset + 1

    def encode(self) -> bytes:
        """As it is stored; nothing of how to undo appends is."""
        return b"".join(self._producers.values())

    @staticmethod
    def decode(data: bytes) -> "ProducerTable":
        """An equal table, whose batches cannot be taken back. Raises ValueError: `data` is not a table."""
        table = ProducerTable()
        table._producers.update(_entries(data))
        if table._producers:
            table._undo_start = _last_base_offset(next(reversed(table._producers.values()))) + 1
        return table

    def committed(self, hwm: int) -> None:
        """Nothing below `hwm` will be cut any more: undo steps for it go."""
        self._hwm = max(self._hwm, hwm)
        while self._undo and self._undo[0].base_offset < self._hwm:
            self._undo.popleft()

    def cut(self, offset: int) -> int:
        """The log now ends at `offset`, a batch boundary: forget what was appended from there on.

        Returns the offset from which the owner has to feed the log up to `offset` to appended() again:
        `offset` itself, so nothing, unless the cut goes back more than `undo_max` appends; then 0, for the
        start of the log, and the table is empty.
        Raises InvariantBroken for a cut below the high-water mark (SAFETY 7).
        """
        if offset < self._hwm:
            raise InvariantBroken(f"a cut at {offset}, below the high-water mark {self._hwm}")
        if offset < self._undo_start:
            self._producers.clear()
            self._undo.clear()
            self._undo_start = 0
            return 0
        while self._undo and self._undo[-1].base_offset >= offset:
            _, producer_id, before, forgotten = self._undo.pop()
            if before is None:
                del self._producers[producer_id]
            else:
                self._producers[producer_id] = before
            if forgotten is not None:
                self._producers[forgotten[0]] = forgotten[1]
        # Steps taken back leave a producer where its later batch put it: restore the order of last batches.
        by_last_batch = sorted(self._producers.items(), key=lambda item: _last_base_offset(item[1]))
        self._producers = OrderedDict(by_last_batch)
        return offset


def producer_batches(data: bytes) -> list[ProducerBatch]:
    """The batches that a stored table remembers, in the order of the log. Raises ValueError."""
    found = [
        (producer_id, _PRODUCER.unpack_from(entry)[1], *batch)
        for producer_id, entry in _entries(data)
        for batch in _BATCH.iter_unpack(entry[_FIRST:])
    ]
    return sorted(found, key=lambda batch: batch[4])


def _grown(entry: bytes | None, producer_id: int, epoch: int) -> bytes:
    """An entry of less than BATCHES_MAX batches, about to get one more; only those of `epoch` stay."""
    count = 0
    if entry is not None:
        _, known_epoch, known_count = _PRODUCER.unpack_from(entry)
        count = known_count if known_epoch == epoch else 0
    kept = entry[_FIRST:] if entry is not None and count else b""
    return _PRODUCER.pack(producer_id, epoch, count + 1) + kept


def _last_base_offset(entry: bytes) -> int:
    (offset,) = _LAST_BASE_OFFSET.unpack_from(entry, len(entry) - _LAST_BASE_OFFSET.size)
    return int(offset)


def _entries(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(producer id, entry) of each. Raises ValueError."""
    at, size = 0, len(data)
    while at < size:
        if size - at < _FIRST:
            raise ValueError("a producer table ends in the middle")
        producer_id, _, count = _PRODUCER.unpack_from(data, at)
        end = at + _FIRST + count * _SIZE
        if not 1 <= count <= BATCHES_MAX or end > size:
            raise ValueError(f"a producer with {count} batches, {size - at} bytes before its table ends")
        yield producer_id, data[at:end]
        at = end
