"""A world for consensus cores: logs, disks, votes, and what must hold in it after every step.

The world carries out the effects of real `Replica`s on simple models: a log is a list of batches, a disk is
the list of batches that survive a crash. How messages travel, and when flushes and saves complete, is left
to subclasses (a script in `script.py`, chance in `chance.py`). What must hold is checked here, against a
record of everything that ever happened.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from rlog.raft.effects import (
    Cut,
    Effect,
    Fatal,
    HwmMoved,
    Install,
    Role,
    RoleChanged,
    SaveVote,
    Send,
    StartHeld,
    StartMoved,
    SuspectCleared,
    Write,
    WriteStart,
)
from rlog.raft.messages import Append, AppendReply, HeartbeatReply, InstallAnchor, Message
from rlog.raft.quorum import majority
from rlog.raft.replica import RaftSettings, Replica

RECORD_BYTES = 100


@dataclass(frozen=True, slots=True)
class Batch:
    base: int
    end: int
    generation: int
    content: str

    @property
    def size(self) -> int:
        return (self.end - self.base) * RECORD_BYTES


class ModelLog:
    """What PartitionLog promises, without bytes. One flush in flight, as in the real one.

    Deleted batches are remembered, so that all that is checked of logs can be checked; but nobody may ask for
    one below `base_offset`.
    """

    def __init__(self, batches: Sequence[Batch] = (), base_offset: int = 0) -> None:
        self.batches = list(batches)
        self.base_offset = base_offset
        # What a crash leaves: the log as the last completed flush found it.
        self.disk = list(batches)
        self.flushed_offset = self.end_offset
        self.cut_counter = 0
        # (the batches that it writes, cut counter) of the flush under way.
        self.job: tuple[list[Batch], int] | None = None
        # The first error is final: nothing is flushed any more (SAFETY 15).
        self.is_failed = False

    @property
    def end_offset(self) -> int:
        return self.batches[-1].end if self.batches else 0

    def generations(self) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        for batch in self.batches:
            if not runs or runs[-1][0] != batch.generation:
                runs.append((batch.generation, batch.base))
        while len(runs) > 1 and runs[1][1] < self.base_offset:
            del runs[0]
        return runs

    def index(self, offset: int) -> int:
        """Index of the batch that starts at `offset`, which must be a batch boundary (SAFETY 10)."""
        assert offset >= self.base_offset, f"{offset} is deleted, below {self.base_offset}"
        index = bisect_left(self.batches, offset, key=lambda batch: batch.base)
        assert offset == (self.batches[index].base if index < len(self.batches) else self.end_offset), offset
        return index

    def boundary(self, start: int, *, bytes_max: int, end_max: int) -> int:
        end, size = start, 0
        for index in range(self.index(start), len(self.batches)):
            batch = self.batches[index]
            size += batch.size
            if batch.end > end_max or batch.generation != self.batches[self.index(start)].generation:
                break
            if size > bytes_max and end > start:
                break
            end = batch.end
        return end

    def slice(self, start: int, end: int) -> tuple[Batch, ...]:
        return tuple(self.batches[self.index(start) : self.index(end)])

    def append(self, batch: Batch) -> None:
        assert batch.base == self.end_offset, (batch, self.end_offset)
        assert self.flushed_offset >= self.base_offset, "appended while an anchor is installed"
        self.batches.append(batch)

    def cut(self, offset: int) -> list[Batch]:
        index = self.index(offset)
        removed = self.batches[index:]
        del self.batches[index:]
        self.flushed_offset = min(self.flushed_offset, offset)
        self.cut_counter += 1
        return removed

    def install(self, batches: Sequence[Batch]) -> None:
        """All that an anchor stands for takes the place of the log."""
        self.batches = list(batches)
        self.base_offset = self.end_offset
        self.flushed_offset = 0
        self.cut_counter += 1

    def start_flush(self) -> bool:
        if self.is_failed or self.job is not None or self.flushed_offset == self.end_offset:
            return False
        self.job = (list(self.batches), self.cut_counter)
        return True

    def finish_flush(self) -> bool:
        """Whether flushed_offset moved: a completion older than a cut moves nothing (SAFETY 12)."""
        assert self.job is not None
        self.disk, cut_counter = self.job
        self.job = None
        if cut_counter != self.cut_counter:
            return False
        self.flushed_offset = self.disk[-1].end if self.disk else 0
        return True


@dataclass
class Node:
    """One process and its disk. `replica` is None while it is down."""

    node_id: int
    log: ModelLog
    replica: Replica | None = None
    # (generation, vote) as fsynced, and those asked for but not yet fsynced, oldest first.
    vote: tuple[int, int] = (0, 0)
    unsaved: list[SaveVote] = field(default_factory=list)
    suspect: bool = False
    # Where its log starts, as fsynced and as asked for. Where its files begin, as a crash leaves it.
    log_start: int = 0
    unsaved_start: int = 0
    base_offset: int = 0
    # What was on its disk, flushed and perhaps acknowledged, until it rotted (SAFETY 19).
    rotten: list[Batch] = field(default_factory=list)

    @property
    def alive(self) -> Replica:
        assert self.replica is not None, f"{self.node_id} is down"
        return self.replica


@dataclass(frozen=True, slots=True)
class Envelope:
    sender: int
    to: int
    message: Message
    payload: tuple[Batch, ...]


class World:
    """Nodes, and the invariants over all that they ever did."""

    def __init__(self, count: int, seed: int, **settings: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.voters = frozenset(range(1, count + 1))
        self.settings = settings
        self.nodes = {node_id: Node(node_id, ModelLog()) for node_id in sorted(self.voters)}
        # Ever: who led each generation, the one content of each (offset, generation) with the record before
        # it, what is committed, and the highest mark that leaders of each generation counted.
        self.leaders: dict[int, int] = {}
        self.contents: dict[tuple[int, int], tuple[Batch, int]] = {}
        self.committed: list[Batch] = []
        self.counted: dict[int, int] = {}
        # What was told to be deleted.
        self.deleted = 0
        self.contents_made = 0
        self.messages_sent = 0

    # ---- for subclasses ----------------------------------------------------------------------------------

    def on_send(self, envelope: Envelope) -> None:
        """A message left."""

    def on_save(self, node: Node) -> None:
        """A vote is to be saved: `finish_save` later."""

    def on_start(self, node: Node) -> None:
        """A log start is to be saved: `finish_start` later."""

    def on_write(self, node: Node) -> None:
        """The log has something to flush: `finish_flush` later."""

    def on_event(self, node: Node, effect: Effect) -> None:
        """Something to tell happened."""

    # ---- inputs ------------------------------------------------------------------------------------------

    def start(self, node: Node) -> None:
        """Recovery: what is on disk is the log, and all of it counts as flushed."""
        node.log = ModelLog(node.log.disk, node.base_offset)
        node.unsaved.clear()
        node.unsaved_start = node.log_start
        node.replica = Replica(
            RaftSettings(node.node_id, self.voters, **self.settings),
            random=Random(self.random.getrandbits(64)),
            log=node.log,
            generation=node.vote[0],
            vote=node.vote[1],
            generations=node.log.generations(),
            start_offset=node.base_offset,
            log_start=node.log_start,
            end_offset=node.log.end_offset,
            flushed_offset=node.log.flushed_offset,
            suspect=node.suspect,
            now=self.now,
        )
        assert node.replica.generation >= node.log.generations()[-1][0] if node.log.batches else True
        self.settle(node)

    def crash(self, node: Node) -> None:
        node.replica = None

    def deliver(self, envelope: Envelope) -> None:
        node = self.nodes[envelope.to]
        if node.replica is not None:
            node.replica.step(self.now, envelope.sender, envelope.message)
            self.settle(node, envelope.payload)

    def tick(self, node: Node) -> None:
        node.alive.tick(self.now)
        self.settle(node)

    def finish_save(self, node: Node) -> None:
        if node.unsaved:
            last = node.unsaved[-1]
            self.persist(node, last)
            node.unsaved.clear()
            node.alive.saved(self.now, last.token)
            self.settle(node)

    def finish_start(self, node: Node) -> None:
        """The log start that was asked for is on disk."""
        if node.unsaved_start > node.log_start:
            node.log_start = node.unsaved_start
            node.alive.start_saved(self.now, node.log_start)
            self.settle(node)

    def trim(self, node: Node, offset: int) -> None:
        """The leader deletes what is below `offset`."""
        node.alive.trim(self.now, offset)
        self.settle(node)

    def drop_files(self, node: Node, offset: int) -> None:
        """The files below `offset` go, as whole segments do: what is committed, flushed and deleted there."""
        assert offset <= min(node.log_start, node.log.flushed_offset, node.alive.hwm)
        node.base_offset = node.log.base_offset = offset
        node.alive.base_moved(self.now, offset)
        self.settle(node)

    def persist(self, node: Node, save: SaveVote) -> None:
        assert save.generation >= node.vote[0], "the generation on disk fell"
        node.vote = (save.generation, save.vote)

    def finish_flush(self, node: Node) -> bool:
        moved = node.log.finish_flush()
        if moved:
            # An anchor that was installed is on record with the flush that ends it.
            node.base_offset = node.log.base_offset
            node.log_start = max(node.log_start, node.base_offset)
        if moved and node.replica is not None:
            node.replica.flushed(self.now, node.log.flushed_offset)
            self.settle(node)
        return moved

    def propose(self, node: Node, records: Sequence[int], *, sized: bool = True) -> None:
        """The leader appends one batch of each size in `records`, and tells its replica once."""
        log, replica = node.log, node.alive
        assert replica.role is Role.LEADER
        start = log.end_offset
        for count in records:
            self.append(node, self.make(log.end_offset, log.end_offset + count, replica.generation))
        size = (log.end_offset - start) * RECORD_BYTES
        replica.proposed(self.now, log.end_offset, size if sized else 0)
        self.settle(node)

    def make(self, base: int, end: int, generation: int) -> Batch:
        self.contents_made += 1
        return Batch(base, end, generation, f"c{self.contents_made}")

    # ---- effects -----------------------------------------------------------------------------------------

    def settle(self, node: Node, payload: tuple[Batch, ...] = ()) -> None:
        """Carry out the effects of one input, in order; then everything must hold."""
        replica = node.alive
        for effect in replica.take_effects():
            self.carry_out(node, effect, payload)
        replica.check()
        self.check(node)

    def carry_out(self, node: Node, effect: Effect, payload: tuple[Batch, ...]) -> None:
        log = node.log
        if isinstance(effect, Send):
            self.send(node, effect)
            return
        if isinstance(effect, SaveVote):
            node.unsaved.append(effect)
            self.on_save(node)
        elif isinstance(effect, Cut):
            for batch in log.cut(effect.offset):
                assert batch not in self.committed[-1000:], f"{node.node_id} cut a committed {batch}"
        elif isinstance(effect, Write):
            written = [batch for batch in payload if batch.base >= effect.base_offset]
            assert written, "a write without its payload"
            assert (written[0].base, written[-1].end) == (effect.base_offset, effect.end_offset)
            for batch in written:
                assert batch.generation == effect.generation
                self.append(node, batch)
        elif isinstance(effect, WriteStart):
            assert effect.offset == log.end_offset
            self.append(node, Batch(effect.offset, effect.offset + 1, effect.generation, "start"))
        elif isinstance(effect, Install):
            assert payload[-1].end == effect.offset > 0
            assert payload[-1].generation == effect.generation
            kept = node.log.batches[: len(self.committed)]
            assert payload[-1] not in kept, f"{node.node_id} held what the anchor stands for (SAFETY 25)"
            node.log.install(payload)
            self.on_write(node)
        elif isinstance(effect, StartMoved):
            assert effect.log_start <= min(node.alive.hwm, node.log.flushed_offset)
            node.unsaved_start = effect.log_start
            self.on_start(node)
        elif isinstance(effect, StartHeld):
            holders = [each for each in self.nodes.values() if each.log_start >= effect.log_start]
            assert len(holders) >= majority(len(self.voters)), f"{effect} by {len(holders)}"
            self.deleted = max(self.deleted, effect.log_start)
        elif isinstance(effect, HwmMoved):
            self.hwm_moved(node, effect.hwm)
        elif isinstance(effect, RoleChanged):
            self.role_changed(node, effect)
        elif isinstance(effect, SuspectCleared):
            node.suspect = False
        else:
            assert isinstance(effect, Fatal)
            self.fatal(node, effect)
        self.on_event(node, effect)

    def fatal(self, node: Node, effect: Fatal) -> None:
        raise AssertionError(f"{node.node_id}: {effect.reason}")

    def append(self, node: Node, batch: Batch) -> None:
        """(offset, generation) names one content, and one predecessor, for ever: so logs match (SAFETY
        28)."""
        before = node.log.batches[-1].generation if node.log.batches else 0
        named = self.contents.setdefault((batch.base, batch.generation), (batch, before))
        assert named == (batch, before), f"{node.node_id} holds {batch} after {before}, elsewhere {named}"
        node.log.append(batch)
        self.on_write(node)

    def send(self, node: Node, effect: Send) -> None:
        message, replica = effect.message, node.alive
        assert effect.to in self.voters - {node.node_id}
        payload: tuple[Batch, ...] = ()
        if isinstance(message, Append) and message.end_offset > message.prev_offset:
            payload = node.log.slice(message.prev_offset, message.end_offset)
            assert {batch.generation for batch in payload} == {message.span_generation}
        elif isinstance(message, InstallAnchor):
            assert message.offset == node.log.base_offset
            payload = tuple(node.log.batches[: node.log.index(message.offset)])
        elif isinstance(message, (AppendReply, HeartbeatReply)) and message.accepted:
            self.promised(node, effect.to, message)
        if replica.role is not Role.FOLLOWER and replica.role is Role.LEADER:
            assert node.vote == (replica.generation, node.node_id), "it leads by a vote that is not on disk"
        self.messages_sent += 1
        self.on_send(Envelope(node.node_id, effect.to, message, payload))

    def promised(self, node: Node, leader_id: int, reply: AppendReply | HeartbeatReply) -> None:
        """What a follower calls flushed is on its disk and the same as its leader's (SAFETY 4)."""
        assert node.vote[0] == reply.generation, "a promise in a generation that is not on disk"
        assert reply.flushed_offset <= min(reply.match_offset, node.log.flushed_offset)
        leader = self.nodes[leader_id]
        if leader.replica is None or leader.replica.generation != reply.generation:
            return
        if leader.replica.role is Role.LEADER:
            for claimed, mine in (
                (reply.flushed_offset, node.log.disk),
                (reply.match_offset, node.log.batches),
            ):
                assert _up_to(mine, claimed) == _up_to(leader.log.batches, claimed)

    # ---- what must hold ----------------------------------------------------------------------------------

    def role_changed(self, node: Node, effect: RoleChanged) -> None:
        if effect.role is Role.LEADER:
            first = self.leaders.setdefault(effect.generation, node.node_id)
            assert first == node.node_id, f"{first} and {node.node_id} led generation {effect.generation}"
            assert not node.suspect
            mine = node.log.batches[: len(self.committed)]
            assert mine == self.committed, f"{node.node_id} leads without all that was committed"

    def hwm_moved(self, node: Node, hwm: int) -> None:
        replica = node.alive
        assert hwm <= node.log.end_offset
        mine = node.log.batches[: node.log.index(hwm)]
        known = min(len(mine), len(self.committed))
        assert mine[:known] == self.committed[:known], f"{node.node_id} committed something else"
        if len(mine) > known:
            assert replica.role is Role.LEADER, "a follower knows a commit before its leader"
            for batch in mine[known:]:
                holders = [
                    each
                    for each in self.nodes.values()
                    if is_among(each.log.disk, batch) or batch in each.rotten
                ]
                assert len(holders) >= majority(len(self.voters)), f"{batch} is flushed on {len(holders)}"
            self.committed.extend(mine[known:])
        if replica.role is Role.LEADER:
            assert mine[-1].generation == replica.generation, "an old generation committed by counting"
            self.counted[replica.generation] = hwm

    def check(self, node: Node) -> None:
        replica = node.alive
        assert replica.end_offset == node.log.end_offset
        assert replica.flushed_offset == node.log.flushed_offset
        if replica.serving:
            assert replica.log_start >= self.deleted, "a leader serves what was told to be deleted"
            older = [mark for generation, mark in self.counted.items() if generation < replica.generation]
            assert replica.hwm >= max(older, default=0), "a leader serves a mark that went back (SAFETY 32)"


def is_among(batches: list[Batch], batch: Batch) -> bool:
    """batches: of one log, in its order."""
    place = bisect_left(batches, batch.base, key=lambda each: each.base)
    return place < len(batches) and batches[place] == batch


def _up_to(batches: list[Batch], offset: int) -> list[Batch]:
    count = bisect_left(batches, offset, key=lambda batch: batch.base)
    assert not count or batches[count - 1].end == offset, f"{offset} is no batch end"
    return batches[:count]
