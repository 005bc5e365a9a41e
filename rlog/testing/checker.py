"""What a log promised, checked against what its clients and replicas saw: pure functions over a history.

Usable for any test of a log, simulated or real: record what each client asked and was told, read the log back
at the end from every replica, and hand it all to `check`. Values must be unique over the whole history: they
are how a record is recognised.

| kind | what happened | promise broken |
|---|---|---|
| lost | acknowledged, and not in the log where the receipt said | 1, 2 |
| duplicate | one value of an idempotent producer twice in the log | 4 |
| inconsistent | two records seen at one (partition, offset) | 2 |
| phantom | a record in the log, or seen by a reader, that nobody wrote or that is not in the log | 2, 5 |
| revived | reported as *not* written (outcome "no"), and in the log | 4 |
| backwards | a reader's offsets did not grow | 2 |
| gap | a reader was not shown a committed record between two that it was shown | 2 |
| undeleted | a record below an acknowledged deletion, in the log or seen by a later reader | 2 |
| reordered | acknowledged before another write began, and behind it; or a producer's own order not kept | 2 |
| two leaders | one generation of one partition led by two incarnations | 3 |
| generation | a generation went backwards on some disk | 3 |
| diverged | two replicas differ below the high-water mark | 2, 6 |
| invariant | what must hold inside a node at every step did not | |
| failure | an exception that nothing handled | |
| stuck | with all faults healed, nothing was committed in time | |

(The numbers are those of the guarantees in the documentation.)
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

Kind = Literal[
    "lost",
    "duplicate",
    "inconsistent",
    "phantom",
    "revived",
    "backwards",
    "gap",
    "undeleted",
    "reordered",
    "two leaders",
    "generation",
    "diverged",
    "invariant",
    "failure",
    "stuck",
]


@dataclass(frozen=True, slots=True)
class Write:
    """One record that a producer was asked to write. Times are seconds of one clock.

    completed: when the outcome was known; infinite while it is not (then `outcome` is "unknown").
    offset: where the receipt says the record is; None unless `outcome` is "ok".
    """

    producer: str
    partition: str
    value: bytes
    invoked: float
    completed: float = inf
    outcome: Literal["ok", "no", "unknown"] = "unknown"
    offset: int | None = None
    idempotent: bool = True


@dataclass(frozen=True, slots=True)
class Read:
    """One record as a reader got it. `session` names one uninterrupted sequence of reads of a partition."""

    session: str
    partition: str
    offset: int
    value: bytes
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Deletion:
    """Somebody asked to delete what lies below `offset`. completed: when it was acknowledged, if it was."""

    partition: str
    offset: int
    invoked: float
    completed: float = inf


@dataclass(frozen=True, slots=True)
class Led:
    """`node` in its `incarnation` acted as leader of a partition in a generation."""

    node: int
    incarnation: int
    partition: str
    generation: int


@dataclass(frozen=True, slots=True)
class Persisted:
    """The generation that was found on the disk of a node, in the order of looking."""

    node: int
    partition: str
    generation: int


@dataclass(frozen=True, slots=True)
class Copy:
    """One replica's log as read back at the end. `batches` maps a base offset to the batch's bytes.

    start: the first offset that is not deleted.
    """

    node: int
    partition: str
    hwm: int
    batches: Mapping[int, bytes]
    records: Mapping[int, bytes]  # data records only: offset to value
    start: int = 0


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise; `detail` names the records, so that the trace can be searched for them."""

    kind: Kind
    partition: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.partition}: {self.detail}"


@dataclass(slots=True)
class History:
    """Everything seen in one run. Reads and generations are in the order in which they were seen.

    starts: the offset from which a session asked to read, where it named one. began: when it did.
    """

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    deletions: list[Deletion] = field(default_factory=list)
    leaders: list[Led] = field(default_factory=list)
    generations: list[Persisted] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)


Log = Mapping[int, bytes]


def check(history: History) -> list[Violation]:
    """All violations of a finished history. The final log of a partition is its longest committed copy."""
    found = [*two_leaders(history.leaders), *generations_backwards(history.generations)]
    found.extend(diverged_copies(history.copies))
    finals = final_logs(history.copies)
    starts = {copy.partition: copy.start for copy in longest_copies(history.copies)}
    found.extend(over_deleted(starts, history.deletions))
    found.extend(undeleted(history, starts))
    partitions = {write.partition for write in history.writes} | {read.partition for read in history.reads}
    for partition in sorted(partitions | set(finals)):
        log = finals.get(partition, {})
        start = starts.get(partition, 0)
        writes = [write for write in history.writes if write.partition == partition]
        reads = [read for read in history.reads if read.partition == partition]
        found.extend(lost_writes(writes, log, start))
        found.extend(duplicates(writes, log))
        found.extend(revived_writes(writes, log))
        found.extend(inconsistent_offsets(writes, reads, log))
        found.extend(phantoms(partition, writes, reads, log, start))
        found.extend(broken_sessions(reads, log, history.starts))
        found.extend(reordered_writes(writes, log))
    return found


def longest_copies(copies: Iterable[Copy]) -> list[Copy]:
    """Per partition, the copy with the highest high-water mark."""
    best: dict[str, Copy] = {}
    for copy in copies:
        if copy.partition not in best or copy.hwm > best[copy.partition].hwm:
            best[copy.partition] = copy
    return list(best.values())


def final_logs(copies: Iterable[Copy]) -> dict[str, Log]:
    """Per partition, the committed data records of the longest copy."""
    return {
        copy.partition: {
            offset: value for offset, value in copy.records.items() if copy.start <= offset < copy.hwm
        }
        for copy in longest_copies(copies)
    }


def over_deleted(starts: Mapping[str, int], deletions: Iterable[Deletion]) -> Iterator[Violation]:
    """Nothing is deleted that nobody asked to delete."""
    asked: dict[str, int] = {}
    for deletion in deletions:
        asked[deletion.partition] = max(deletion.offset, asked.get(deletion.partition, 0))
    for partition, start in starts.items():
        if start > asked.get(partition, 0):
            yield Violation("lost", partition, f"the log starts at {start}, asked for was {asked}")


def undeleted(history: History, starts: Mapping[str, int]) -> Iterator[Violation]:
    """What was acknowledged as deleted is not in the log, nor seen by a session that began later."""
    for deletion in history.deletions:
        if deletion.completed < inf and starts.get(deletion.partition, deletion.offset) < deletion.offset:
            detail = f"deleted below {deletion.offset}, the log starts at {starts[deletion.partition]}"
            yield Violation("undeleted", deletion.partition, detail)
    for read in history.reads:
        for deletion in history.deletions:
            began = history.began.get(read.session, -inf)
            is_later = deletion.partition == read.partition and began > deletion.completed
            if is_later and read.offset < deletion.offset:
                detail = f"{read.session} read {read.offset}, deleted below {deletion.offset} before it began"
                yield Violation("undeleted", read.partition, detail)


def lost_writes(writes: Iterable[Write], log: Log, start: int = 0) -> Iterator[Violation]:
    """Each acknowledged record is at the offset of its receipt, unless that is deleted, below `start`.

    Where the receipt has no offset, it is somewhere, or nothing can be said of it.
    """
    values = set(log.values())
    for write in writes:
        if write.outcome != "ok" or (write.offset is not None and write.offset < start):
            continue
        if write.offset is None and start:
            continue
        if write.offset is None and write.value not in values:
            yield Violation("lost", write.partition, f"{_show(write.value)} was acked and is nowhere")
        elif write.offset is not None and log.get(write.offset) != write.value:
            there = _show(log.get(write.offset))
            detail = f"{_show(write.value)} acked at {write.offset}, there is {there}"
            yield Violation("lost", write.partition, detail)


def duplicates(writes: Iterable[Write], log: Log) -> Iterator[Violation]:
    """No value of an idempotent producer is in the log twice, however often the client retried."""
    places = _places(log)
    for write in writes:
        if write.idempotent and len(places.get(write.value, ())) > 1:
            yield Violation("duplicate", write.partition, f"{_show(write.value)} at {places[write.value]}")


def revived_writes(writes: Iterable[Write], log: Log) -> Iterator[Violation]:
    """What was reported as not written is not in the log."""
    places = _places(log)
    for write in writes:
        if write.outcome == "no" and write.value in places:
            yield Violation(
                "revived", write.partition, f"{_show(write.value)} refused, found at {places[write.value]}"
            )


def inconsistent_offsets(writes: Iterable[Write], reads: Iterable[Read], log: Log) -> Iterator[Violation]:
    """One offset holds one record, for all receipts, all readers, and the log at the end."""
    seen: dict[int, tuple[bytes, str]] = {offset: (value, "the log") for offset, value in log.items()}
    claims = [
        (write.partition, write.offset, write.value, f"a receipt of {write.producer}")
        for write in writes
        if write.outcome == "ok" and write.offset is not None
    ]
    claims += [(read.partition, read.offset, read.value, f"reader {read.session}") for read in reads]
    for partition, offset, value, who in claims:
        other, said = seen.setdefault(offset, (value, who))
        if other != value:
            detail = f"offset {offset} is {_show(value)} to {who}, {_show(other)} to {said}"
            yield Violation("inconsistent", partition, detail)


def phantoms(
    partition: str, writes: Iterable[Write], reads: Iterable[Read], log: Log, start: int = 0
) -> Iterator[Violation]:
    """Every record in the log was written by somebody, and every record read is in the log, or was."""
    written = {write.value for write in writes}
    for offset, value in log.items():
        if value not in written:
            yield Violation("phantom", partition, f"{_show(value)} at {offset} was written by nobody")
    for read in reads:
        if read.offset >= start and read.offset not in log:
            detail = f"{read.session} read {_show(read.value)} at {read.offset}, which is not in the log"
            yield Violation("phantom", partition, detail)


def broken_sessions(reads: Iterable[Read], log: Log, starts: Mapping[str, int]) -> Iterator[Violation]:
    """The offsets of a session grow, begin where it asked to, and skip no record of the log."""
    sessions: dict[str, list[Read]] = {}
    for read in reads:
        sessions.setdefault(read.session, []).append(read)
    offsets = sorted(log)
    for session, sequence in sessions.items():
        expected = starts.get(session, sequence[0].offset)  # the next record is the first one from here on
        for read in sequence:
            skipped = offsets[bisect_left(offsets, expected) : bisect_left(offsets, read.offset)]
            if read.offset < expected:
                detail = f"{session} read {read.offset}, expected {expected} or above"
                yield Violation("backwards", read.partition, detail)
            elif skipped:
                yield Violation("gap", read.partition, f"{session} got {read.offset} but not {skipped[:3]}")
            expected = read.offset + 1


def reordered_writes(writes: Sequence[Write], log: Log) -> Iterator[Violation]:
    """Real time: acknowledged before the other began means a lower offset. And each producer's own order.

    A write of unknown outcome counts where the log shows it, but as the later of a pair only: the producer
    gave it up, and it may surface at any time. A producer's own writes keep the order of `writes`.
    """
    places = _places(log)
    where = {write.value: places[write.value][0] for write in writes if write.value in places}
    yield from _real_time_order(writes, where)
    last: dict[str, Write] = {}
    for write in writes:
        if not write.idempotent or write.value not in where:
            continue
        before = last.get(write.producer)
        if before is not None and where[before.value] > where[write.value]:
            detail = (
                f"{write.producer} wrote {_show(before.value)} first, at {where[before.value]}, "
                f"then {_show(write.value)}, at {where[write.value]}"
            )
            yield Violation("reordered", write.partition, detail)
        if write.outcome == "ok":
            last[write.producer] = write


def _real_time_order(writes: Iterable[Write], where: Mapping[bytes, int]) -> Iterator[Violation]:
    events = [(write.invoked, 1, write) for write in writes if write.value in where]
    events += [
        (write.completed, 0, write) for write in writes if write.outcome == "ok" and write.value in where
    ]
    highest: Write | None = None  # of all acknowledged so far
    for _, begins, write in sorted(events, key=lambda event: (event[0], -event[1])):
        if not begins:
            if highest is None or where[write.value] > where[highest.value]:
                highest = write
        elif highest is not None and where[write.value] < where[highest.value]:
            detail = (
                f"{_show(highest.value)} was acked at {where[highest.value]} before "
                f"{_show(write.value)} began, which is at {where[write.value]}"
            )
            yield Violation("reordered", write.partition, detail)


def two_leaders(leaders: Iterable[Led]) -> Iterator[Violation]:
    """One generation of a partition is led by one incarnation of one node."""
    first: dict[tuple[str, int], Led] = {}
    for led in leaders:
        other = first.setdefault((led.partition, led.generation), led)
        if (other.node, other.incarnation) != (led.node, led.incarnation):
            detail = (
                f"generation {led.generation} by node {other.node} (incarnation {other.incarnation}) "
                f"and node {led.node} (incarnation {led.incarnation})"
            )
            yield Violation("two leaders", led.partition, detail)


def generations_backwards(found: Iterable[Persisted]) -> Iterator[Violation]:
    """The generation on a disk never shrinks, whatever happened to the machine."""
    highest: dict[tuple[int, str], int] = {}
    for item in found:
        before = highest.get((item.node, item.partition), 0)
        if item.generation < before:
            detail = f"node {item.node} went from {before} to {item.generation}"
            yield Violation("generation", item.partition, detail)
        highest[item.node, item.partition] = max(before, item.generation)


def diverged_copies(copies: Iterable[Copy]) -> Iterator[Violation]:
    """Below both high-water marks, two replicas hold the same bytes."""
    references: dict[str, Copy] = {}
    for copy in sorted(copies, key=lambda copy: -copy.hwm):
        reference = references.setdefault(copy.partition, copy)
        for offset in sorted({*reference.batches, *copy.batches}):
            if offset < max(copy.start, reference.start):
                continue
            if offset >= min(copy.hwm, reference.hwm):
                break
            if copy.batches.get(offset) != reference.batches.get(offset):
                detail = f"nodes {reference.node} and {copy.node} differ at offset {offset}"
                yield Violation("diverged", copy.partition, detail)
                break


def _places(log: Log) -> dict[bytes, list[int]]:
    places: dict[bytes, list[int]] = {}
    for offset in sorted(log):
        places.setdefault(log[offset], []).append(offset)
    return places


def _show(value: bytes | None) -> str:
    return "nothing" if value is None else repr(value[:40].decode("utf-8", "backslashreplace"))
