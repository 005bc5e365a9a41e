"""What must hold in a running cluster at every step, checked after each handle of each node.

What docs/safety.md comes to: a replica's own `check()` · the high-water mark, the log start and the
generation only grow · flushed <= dirty · what is committed is flushed on a majority · one content for each
committed offset, on every replica (leader completeness and log matching) · a new leader holds everything
committed · what was flushed survives a crash, and so does what was deleted.

A handle that changed nothing costs one comparison per partition: the state of a replica is a tuple, and only
a different tuple is looked at.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from rlog._core import iterate_batches
from rlog.errors import InvariantBroken, RlogError
from rlog.raft.effects import Role
from rlog.testing.checker import History, Kind, Led, Persisted, Violation

READ_BYTES = 1 << 30  # "all of it", for reads of a range

# All that is looked at of a partition, in one call: it happens after every handle.
_LOOK = attrgetter(
    "replica.hwm",
    "replica.role",
    "replica.generation",
    "replica.end_offset",
    "replica.flushed_offset",
    "replica.held_log_start",
    "log.end_offset",
    "log.flushed_offset",
    "log.cut_counter",
    "log.base_offset",
    "fenced",
)


class Committed:
    """The committed log of one partition as first seen, and where its batches begin."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.place = {0: 0}  # batch base offset (and the end) to position in data
        self._ends: list[tuple[int, int]] = [(0, 0)]  # (generation, end of what was committed by then)

    def extend(self, data: bytes, generation: int) -> None:
        """`data` follows, first seen committed by a replica in `generation`."""
        if not data:
            return
        start, end = len(self.data), self._ends[-1][1]
        self.data += data
        for batch in iterate_batches(data, verify=False):
            end = batch.last_offset + 1
            self.place[end] = start + batch.position + batch.size
        self._ends.append((generation, end))

    def end_before(self, generation: int) -> int:
        """End of what was committed in earlier generations: what a leader of this one must hold.

        A leader that is late, elected by grants given before a newer generation began, need not hold more.
        """
        return max(end for committed_in, end in self._ends if committed_in < generation)


class _Seen:
    """One replica as it was after the last handle."""

    __slots__ = (
        "base", "cut_counter", "flushed", "hwm", "led_generation", "log", "partition", "state", "was_cut"
    )  # fmt: skip

    def __init__(self, partition: Any, flushed: int) -> None:
        self.partition = partition
        self.log = partition.log
        self.state: tuple[Any, ...] = ()
        self.hwm = 0
        self.base = self.log.base_offset
        self.led_generation = 0  # in which a commit of this leader was seen
        self.cut_counter = self.log.cut_counter
        self.flushed = flushed
        self.was_cut = False  # and nothing was flushed since


class Invariants:
    """Watches all nodes of a cluster of `voters`. What it finds goes to `violations` and into `history`."""

    def __init__(self, voters: int, history: History) -> None:
        self.violations: list[Violation] = []
        self.history = history
        self.majority = voters // 2 + 1
        self.cuts = 0
        self.trims = 0  # of files
        self.installs = 0  # of anchors, in the place of a log
        self.log_starts: dict[tuple[str, int], int] = {}  # as `flushed`, of what is known to be on disk
        # Told at once: (what, node id), where what is a moment of `faults.STRIKES`.
        self.listener: Callable[[str, int], None] = lambda what, node_id: None
        # Per (partition, node). The flushed end survives crashes and is lowered by cuts only.
        self.flushed: dict[tuple[str, int], int] = {}
        self._committed: dict[str, Committed] = {}

    def committed_of(self, partition: str) -> Committed:
        return self._committed.setdefault(partition, Committed())

    def violated(self, kind: Kind, partition: str, detail: str) -> None:
        violation = Violation(kind, partition, detail)
        if violation not in self.violations:
            self.violations.append(violation)


class NodeWatch:
    """One incarnation of one node; call it after each of its handles."""

    def __init__(self, all_nodes: Invariants, node_id: int, incarnation: int, node: Any) -> None:
        self._all = all_nodes
        self._node_id = node_id
        self._incarnation = incarnation
        self._node = node
        self._seen: list[_Seen] = []
        self._moments: list[str] = []  # of this handle, for the listener
        self.is_stopping = False  # an orderly stop fences every partition

    def __call__(self) -> None:
        if not self._seen:
            self._begin()
        for seen in self._seen:
            state = _LOOK(seen.partition)
            if state != seen.state:
                before, seen.state = seen.state, state
                self._changed(seen, before)
        if self._moments:  # last: who listens may end this process
            moments, self._moments = self._moments, []
            for what in moments:
                self._all.listener(what, self._node_id)

    def _begin(self) -> None:
        for partition in list(self._node.partitions.values()):
            key = (partition.name, self._node_id)
            flushed = self._all.flushed.get(key, 0)
            if partition.log.end_offset < flushed:
                self._violated(
                    partition.name, f"flushed up to {flushed}, {partition.log.end_offset} came back"
                )
            log_start = self._all.log_starts.get(key, 0)
            if partition.log.start_offset < log_start:
                detail = f"log start {log_start} kept, {partition.log.start_offset} came back"
                self._violated(partition.name, detail, "undeleted")
            seen = _Seen(partition, flushed)
            self._seen.append(seen)
            self._generation_on_disk(seen)

    def _violated(self, partition: str, detail: str, kind: Kind = "invariant") -> None:
        where = f"node {self._node_id} (incarnation {self._incarnation})"
        self._all.violated(kind, partition, f"{where}: {detail}")

    def _changed(self, seen: _Seen, before: tuple[Any, ...]) -> None:
        partition, replica, log = seen.partition, seen.partition.replica, seen.log
        name = partition.name
        try:
            replica.check()
        except (AssertionError, InvariantBroken) as error:
            self._violated(name, f"check() failed: {error!r}")
        if not replica.flushed_offset <= log.flushed_offset <= log.end_offset == replica.end_offset:
            ends = (replica.flushed_offset, log.flushed_offset, log.end_offset, replica.end_offset)
            self._violated(name, f"flushed (core, log) and end (log, core) out of order: {ends}")
        if partition.fenced is not None and not self.is_stopping:
            self._violated(name, f"fenced: {partition.fenced}")
        self._check_start(seen)
        self._check_flushed(seen)
        if replica.role is Role.LEADER and (not before or before[1:3] != (replica.role, replica.generation)):
            self._elected(seen)
        if replica.hwm < seen.hwm:
            self._violated(name, f"high-water mark went from {seen.hwm} to {replica.hwm}")
        elif replica.hwm > seen.hwm:
            self._check_majority(seen)
            if replica.role is Role.LEADER and seen.led_generation != replica.generation:
                seen.led_generation = replica.generation
                self._moments.append("first commit")
            self._check_content(seen, seen.hwm, replica.hwm)
            seen.hwm = replica.hwm

    def _check_start(self, seen: _Seen) -> None:
        """Files go only below what is committed and to be deleted; an anchor replaces only what lags."""
        replica, log, name = seen.partition.replica, seen.log, seen.partition.name
        if not log.base_offset <= min(replica.hwm, log.start_offset):
            places = (log.base_offset, log.start_offset, replica.hwm)
            self._violated(name, f"base, log start and high-water mark out of order: {places}")
        if log.base_offset < seen.base:
            self._violated(name, f"its files begin at {log.base_offset}, and began at {seen.base}")
        if log.base_offset > seen.base:
            self._all.trims += 1
            self._all.installs += log.flushed_offset == 0
            seen.base = log.base_offset
            self._moments.append("base moved")
        if replica.saved_log_start > replica.log_start:
            self._violated(name, f"log start {replica.saved_log_start} saved of {replica.log_start}")
        self._all.log_starts[name, self._node_id] = replica.saved_log_start

    def _generation_on_disk(self, seen: _Seen) -> None:
        """Called when the generation is known to be fsynced: as found at start, and once it leads."""
        persisted = Persisted(self._node_id, seen.partition.name, seen.partition.replica.generation)
        self._all.history.generations.append(persisted)

    def _check_flushed(self, seen: _Seen) -> None:
        """Keep what the disk said it holds; only a cut takes from it."""
        if seen.log.cut_counter != seen.cut_counter:
            seen.cut_counter = seen.log.cut_counter
            seen.flushed = min(seen.flushed, seen.log.flushed_offset)
            seen.was_cut = True
            self._all.cuts += 1
        elif seen.was_cut and seen.log.flushed_offset > seen.flushed:
            seen.was_cut = False
            self._moments.append("flush after a cut")
        seen.flushed = max(seen.flushed, seen.log.flushed_offset)
        self._all.flushed[seen.partition.name, self._node_id] = seen.flushed

    def _elected(self, seen: _Seen) -> None:
        name, replica = seen.partition.name, seen.partition.replica
        self._all.history.leaders.append(Led(self._node_id, self._incarnation, name, replica.generation))
        self._moments.append("elected with a tail" if replica.hwm < replica.end_offset else "elected")
        self._generation_on_disk(seen)
        end, required = seen.log.end_offset, self._all.committed_of(name).end_before(replica.generation)
        if end < required:
            detail = f"leads generation {replica.generation} with {end} of {required} committed"
            self._violated(name, detail, "lost")
        else:
            self._check_content(seen, replica.hwm, required)

    def _check_majority(self, seen: _Seen) -> None:
        """What a high-water mark covers, a majority of disks holds (as far as they told)."""
        name, hwm = seen.partition.name, seen.partition.replica.hwm
        holders = sum(1 for key, end in self._all.flushed.items() if key[0] == name and end >= hwm)
        if holders < self._all.majority:
            self._violated(name, f"high-water mark {hwm} is flushed on {holders} only")

    def _check_content(self, seen: _Seen, start: int, end: int) -> None:
        """[start, end) of this replica is what was committed first at these offsets."""
        committed, name = self._all.committed_of(seen.partition.name), seen.partition.name
        start = max(start, seen.log.base_offset)
        try:
            data = b"".join(seen.log.read(start, bytes_max=READ_BYTES, end_max=end)) if start < end else b""
        except RlogError as error:
            self._violated(name, f"cannot read [{start}, {end}): {error}", "lost")
            return
        place = committed.place.get(start)
        if place is None:
            self._violated(name, f"high-water mark {start} is inside a batch of another replica", "diverged")
            return
        known = bytes(committed.data[place : place + len(data)])
        if data[: len(known)] != known:
            self._violated(name, f"[{start}, {end}) differs from what was committed there", "diverged")
            return
        committed.extend(data[len(known) :], seen.partition.replica.generation)
        if end not in committed.place:
            self._violated(
                name, f"a read of [{start}, {end}) gave {len(data)} bytes, not up to {end}", "lost"
            )
