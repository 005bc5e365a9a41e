"""Meta: what a node must never forget, for all its partitions, in two copies (SAFETY 52).

`meta.a` and `meta.b` hold the same chain of frames, one for each flush:

    header   8 "RLOGMETA" | 4 version | 4 crc32c of the 12 bytes before
    frame    4 body length | 4 crc32c | 8 sequence of its first record | body (JSON: [[kind, field …] …])

A frame's CRC continues the CRC of the frame before it, so a chain is valid up to its first bad byte and
nothing can be missing from its middle. The first frame is one record, a snapshot of everything; sequences
rise by one for ever, across compactions.

Each flush writes its frame to `a`, fdatasyncs it, and only then writes `b`. So at a crash the copies
differ in one way only: `b` lacks, or holds torn, what `a` holds whole; or `a` holds torn what `b` does not
hold at all. Every other difference is damage: one copy's is healed from the other, both copies' is refused
by name, for a vote may be lost. `judge` is this paragraph as code.

Starting always compacts: both copies are written anew (new file, fsync, rename, fsync of the directory), so
nothing that a page cache holds is trusted to be on disk (SAFETY 15).
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from random import Random
from struct import Struct
from typing import Any

from crc32c import crc32c

from rlog._core import DiskJob, File, Vfs
from rlog.errors import DataDirectoryError, InvariantBroken, StorageFailed

MAGIC = b"RLOGMETA"
VERSION = 1
HEADER = Struct(">8sII")
FRAME = Struct(">IIQ")
COPIES = ("meta.a", "meta.b")


@dataclass(slots=True)
class PartitionMeta:
    """What meta knows of one partition.

    slot: its place in the watermarks file.
    starts: (generation, start offset) of runs; may end with orphans, which recovery voids (SAFETY 3).
    cut_counter: how many cuts there ever were.
    unfinished_cut: bytes at or past this offset may still lie in the segments, and nothing newer does.
    anchor: the log begins here, at the anchor of this offset (SAFETY 26); 0 when it has all its records.
    log_start: readers may begin here; what is below counts as deleted.
    clean_end: the log end at an orderly shutdown, if that was the last thing that happened.
    """

    slot: int
    generation: int = 0
    vote: int = 0
    starts: list[tuple[int, int]] = field(default_factory=list)
    cut_counter: int = 0
    unfinished_cut: int | None = None
    anchor: int = 0
    log_start: int = 0
    suspect: bool = False
    clean_end: int | None = None


@dataclass(slots=True)
class MetaState:
    """Everything a snapshot record holds."""

    replica_uuid: str
    incarnation: int = 0
    partitions: dict[str, PartitionMeta] = field(default_factory=dict)
    pins: dict[int, str] = field(default_factory=dict)
    pins_confirmed: bool = False
    peer_incarnations: dict[int, int] = field(default_factory=dict)
    clock: list[Any] | None = None  # the fields of retention.ClockReading

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of_json(fields: dict[str, Any]) -> "MetaState":
        """KeyError or TypeError when `fields` is not of this version."""
        partitions = {}
        for name, values in fields["partitions"].items():
            partition = PartitionMeta(**values)
            partition.starts = [(generation, start) for generation, start in partition.starts]
            partitions[name] = partition
        return MetaState(
            replica_uuid=fields["replica_uuid"],
            incarnation=fields["incarnation"],
            partitions=partitions,
            pins={int(node): uuid for node, uuid in fields["pins"].items()},
            pins_confirmed=fields["pins_confirmed"],
            peer_incarnations={int(node): value for node, value in fields["peer_incarnations"].items()},
            clock=fields["clock"],
        )

    def apply(self, record: list[Any]) -> None:
        """Change the state as `record` says. An unknown kind is refused, never skipped (SAFETY 49)."""
        kind, *fields = record
        change = CHANGES.get(kind)
        if change is None:
            raise DataDirectoryError(f"meta holds a record of unknown kind {kind!r}: written by a newer rlog")
        change(self, *fields)


def _vote(state: MetaState, name: str, generation: int, vote: int) -> None:
    partition = state.partitions[name]
    changed = generation == partition.generation and partition.vote not in (0, vote)
    if generation < partition.generation or changed:
        raise InvariantBroken(
            f"{name}: vote {vote} in generation {generation} after "
            f"{partition.vote} in {partition.generation} (SAFETY 1, 2)"
        )
    partition.generation, partition.vote = generation, vote


def _start(state: MetaState, name: str, generation: int, offset: int) -> None:
    starts = state.partitions[name].starts
    if starts and (starts[-1][0] >= generation or starts[-1][1] >= offset):
        raise InvariantBroken(f"{name}: start ({generation}, {offset}) after {starts[-1]} (SAFETY 3)")
    starts.append((generation, offset))


def _cut(state: MetaState, name: str, offset: int, counter: int) -> None:
    partition = state.partitions[name]
    partition.starts = [start for start in partition.starts if start[1] < offset]
    partition.cut_counter = counter
    if partition.unfinished_cut is None or offset < partition.unfinished_cut:
        partition.unfinished_cut = offset


def _cut_done(state: MetaState, name: str, counter: int) -> None:
    partition = state.partitions[name]
    if partition.cut_counter == counter:
        partition.unfinished_cut = None


def _log_start(state: MetaState, name: str, offset: int) -> None:
    partition = state.partitions[name]
    if offset < partition.log_start:
        raise InvariantBroken(f"{name}: log start {offset} after {partition.log_start}")
    partition.log_start = offset


def _anchor(state: MetaState, name: str, offset: int) -> None:
    """The anchor file at `offset` is durable: what lies below it may go. The run before it is remembered."""
    partition = state.partitions[name]
    if not partition.anchor < offset <= partition.log_start:
        raise InvariantBroken(f"{name}: anchor {offset} after {partition.anchor} (SAFETY 26)")
    partition.anchor = offset
    while len(partition.starts) > 1 and partition.starts[1][1] < offset:
        del partition.starts[0]


def _install(state: MetaState, name: str, offset: int, generation: int, run_start: int, counter: int) -> None:
    """The whole log is replaced by the anchor at `offset`, which is durable: a cut of all there was."""
    partition = state.partitions[name]
    if offset <= partition.anchor:
        raise InvariantBroken(f"{name}: anchor {offset} installed over {partition.anchor} (SAFETY 25)")
    partition.anchor = partition.unfinished_cut = offset
    partition.log_start = max(partition.log_start, offset)
    partition.starts = [(generation, run_start)]
    partition.cut_counter = counter


def _partition(state: MetaState, name: str, slot: int) -> None:
    state.partitions[name] = PartitionMeta(slot)


def _suspect(state: MetaState, name: str, suspect: bool) -> None:
    state.partitions[name].suspect = suspect


def _pins(state: MetaState, pins: dict[str, str]) -> None:
    state.pins = {int(node): uuid for node, uuid in pins.items()}


def _pins_confirmed(state: MetaState) -> None:
    state.pins_confirmed = True


def _peer_incarnation(state: MetaState, node: int, incarnation: int) -> None:
    state.peer_incarnations[node] = max(incarnation, state.peer_incarnations.get(node, 0))


def _clean(state: MetaState, ends: dict[str, int]) -> None:
    for name, end in ends.items():
        state.partitions[name].clean_end = end


def _clock(state: MetaState, *reading: Any) -> None:
    state.clock = list(reading)


CHANGES: dict[str, Callable[..., None]] = {
    "vote": _vote,
    "start": _start,
    "cut": _cut,
    "cut_done": _cut_done,
    "log_start": _log_start,
    "anchor": _anchor,
    "install": _install,
    "partition": _partition,
    "suspect": _suspect,
    "pins": _pins,
    "pins_confirmed": _pins_confirmed,
    "peer_incarnation": _peer_incarnation,
    "clean": _clean,
    "clock": _clock,
}


def encode_frame(records: list[list[Any]], sequence: int, previous_crc: int) -> tuple[bytes, int]:
    """A frame of these records, the first of which has `sequence`; and its CRC, which the next one
    continues.
    """
    body = json.dumps(records, separators=(",", ":"), sort_keys=True).encode()
    crc = crc32c(FRAME.pack(len(body), 0, sequence) + body, previous_crc)
    return FRAME.pack(len(body), crc, sequence) + body, crc


@dataclass(slots=True)
class Chain:
    """The valid part of one copy. `damaged`: something other than zeros follows it."""

    records: list[list[Any]]
    last_sequence: int = 0
    damaged: bool = False


def read_chain(data: bytes) -> Chain:
    """The longest valid chain in `data`. DataDirectoryError when a newer rlog wrote it."""
    chain = Chain([])
    position = HEADER.size
    if len(data) >= HEADER.size:
        magic, version, crc = HEADER.unpack_from(data)
        if crc != crc32c(data[:12]) or magic != MAGIC:
            position = 0
        elif version != VERSION:
            raise DataDirectoryError(f"meta is of version {version}; this rlog reads version {VERSION}")
    previous_crc = 0
    while position and position + FRAME.size <= len(data):
        length, crc, sequence = FRAME.unpack_from(data, position)
        body = data[position + FRAME.size : position + FRAME.size + length]
        if len(body) < length or crc32c(FRAME.pack(length, 0, sequence) + body, previous_crc) != crc:
            break
        if chain.records and sequence != chain.last_sequence + 1:
            break
        records = json.loads(body)
        chain.records += records
        chain.last_sequence = sequence + len(records) - 1
        previous_crc = crc
        position += FRAME.size + length
    chain.damaged = any(data[position:] if chain.records else data)
    return chain


def judge(a: Chain, b: Chain) -> Chain | None:
    """The copy to believe; None when a fsynced record may be bad in both (SAFETY 52)."""
    if a.last_sequence > b.last_sequence:
        return None if a.damaged else a
    if a.last_sequence < b.last_sequence:
        return None if b.damaged else b
    # Equal: `a` may hold torn what was never begun in `b`; the other way round cannot come from a crash.
    return None if b.damaged or not a.records else a


class Meta:
    """The node's durable decisions. Loop thread only; the disk work leaves as jobs, one at a time.

    `save_*` change the state at once and return the sequence of their record; what depends on it waits until
    `flushed_sequence` reached that. An error of any job is final for the whole node.
    """

    def __init__(
        self, vfs: Vfs, directory: str, state: MetaState, *, bytes_max: int, sequence: int = 0
    ) -> None:
        self._vfs = vfs
        self._directory = directory
        self.state = state
        self._bytes_max = bytes_max
        self._sequence = sequence
        self._queued: list[list[Any]] = []
        self._crc = 0
        self._files: list[File] = []
        self._size = 0  # of each copy, queued records not included
        self._compacted_size = 0
        self._inflight: DiskJob | None = None
        self.flushed_sequence = sequence
        self.failed: StorageFailed | None = None

    @staticmethod
    def create(vfs: Vfs, directory: str, random: Random, *, bytes_max: int) -> "Meta":
        """A new identity, not on disk until `rewrite()`."""
        return Meta(vfs, directory, MetaState(f"{random.getrandbits(128):032x}"), bytes_max=bytes_max)

    @staticmethod
    def load(vfs: Vfs, directory: str, *, bytes_max: int) -> "Meta":
        """The state both copies prove; not writable until `rewrite()`. Raises DataDirectoryError."""
        chains = []
        for copy in COPIES:
            try:
                file = vfs.open(f"{directory}/{copy}")
            except FileNotFoundError:
                chains.append(Chain([]))
                continue
            chains.append(read_chain(file.pread(file.size(), 0)))
            file.close()
        chain = judge(*chains)
        if chain is None:
            raise DataDirectoryError(
                f"{directory}: both copies of meta are damaged or missing, so a vote may be lost. "
                "This replica must not vote again: remove its data directory, and it returns as a new one"
            )
        try:
            state = MetaState.of_json(chain.records[0][1])
            for record in chain.records[1:]:
                state.apply(record)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataDirectoryError(f"{directory}: meta holds a record this rlog does not know") from error
        return Meta(vfs, directory, state, bytes_max=bytes_max, sequence=chain.last_sequence)

    # ---- what it knows

    @property
    def replica_uuid(self) -> str:
        """32 hex digits, born with the data directory."""
        return self.state.replica_uuid

    @property
    def incarnation(self) -> int:
        """How often this data directory was opened; fsynced before anything else happens."""
        return self.state.incarnation

    @property
    def sequence(self) -> int:
        """Of the last record queued."""
        return self._sequence

    @property
    def pins(self) -> dict[int, str]:
        return self.state.pins

    @property
    def pins_confirmed(self) -> bool:
        return self.state.pins_confirmed

    @property
    def peer_incarnations(self) -> dict[int, int]:
        return self.state.peer_incarnations

    def vote(self, partition: str) -> tuple[int, int]:
        """(generation, vote) as last saved; vote 0 is none. Never below the log's last generation (SAFETY
        2).
        """
        meta = self.state.partitions[partition]
        return meta.generation, meta.vote

    # ---- what changes

    def queue(self, *record: Any) -> int:
        """Apply a record and queue it; returns its sequence."""
        self.state.apply(list(record))
        self._sequence += 1
        self._queued.append(list(record))
        return self._sequence

    def save_vote(self, partition: str, generation: int, vote: int) -> int:
        """Raises InvariantBroken when it would take back a generation or change a vote (SAFETY 1, 2)."""
        return self.queue("vote", partition, generation, vote)

    def save_pins(self, pins: dict[int, str]) -> int:
        return self.queue("pins", {str(node): uuid for node, uuid in pins.items()})

    def confirm_pins(self) -> int:
        return self.queue("pins_confirmed")

    def save_peer_incarnation(self, node_id: int, incarnation: int) -> int:
        return self.queue("peer_incarnation", node_id, incarnation)

    # ---- how it gets to disk

    def flush_job(self) -> DiskJob | None:
        """Write what is queued to `a`, sync it, then to `b`. None when nothing is queued or a job is under
        way.
        """
        if self._inflight is not None or self.failed is not None or not self._queued:
            return None
        first = self._sequence - len(self._queued) + 1
        data, self._crc = encode_frame(self._queued, first, self._crc)
        if self._size + len(data) > max(self._bytes_max, 4 * self._compacted_size):
            job = self._rewrite_job()
        else:
            job = DiskJob(self._vfs)
            for file in self._files:
                job.write(file, self._size, [data])
                job.fdatasync(file)
            self._size += len(data)
        self._queued.clear()
        job.tag = self._sequence
        self._inflight = job
        return job

    def flush_done(self, job: DiskJob) -> None:
        """Take the end of `flush_job`'s job. Raises StorageFailed: the whole node stops (SAFETY 52)."""
        assert job is self._inflight
        self._inflight = None
        if job.error:
            self.failed = StorageFailed.of("meta", job.error_operation, job.error)
            raise self.failed
        self.flushed_sequence = job.tag

    def _rewrite_job(self) -> DiskJob:
        """Compaction: a new file of one snapshot record for each copy, one after the other."""
        frame, self._crc = encode_frame([["snapshot", self.state.to_json()]], self._sequence, 0)
        header = MAGIC + VERSION.to_bytes(4, "big")
        data = header + crc32c(header).to_bytes(4, "big") + frame
        job = DiskJob(self._vfs)
        self._files = []
        for copy in COPIES:
            path = f"{self._directory}/{copy}"
            file = File(self._vfs, f"{path}.tmp")
            job.create(file)
            job.write(file, 0, [data])
            job.fsync(file)
            job.rename(f"{path}.tmp", path)
            job.fsync_dir(self._directory)
            self._files.append(file)
        self._size = self._compacted_size = len(data)
        return job

    def rewrite(self) -> None:
        """Blocking, at start: write both copies anew with everything known. Raises StorageFailed."""
        self._queued.clear()
        self._sequence += 1
        self._inflight = job = self._rewrite_job()
        job.tag = self._sequence
        job.run()
        self.flush_done(job)

    def flush(self) -> None:
        """Blocking, at start and orderly stop: everything queued is on disk afterwards."""
        job = self.flush_job()
        if job is not None:
            job.run()
            self.flush_done(job)

    def close(self) -> None:
        for file in self._files:
            file.close()
