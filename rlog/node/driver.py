"""Carries out what consensus decides, in the order it was decided, against log, meta and peers.

Only this file knows both worlds: raft speaks of offsets and generations, the log holds the bytes. Everything
a message promises was made durable before its Send is emitted, so a Send may leave at once; what one tick
sends to a peer leaves together at the end of the tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlog._core import Span, SpanBuilder
from rlog.errors import CorruptLog, InvariantBroken, ProtocolError, ReadFailed, StorageFailed
from rlog.log.anchor import Anchor, decode_anchor
from rlog.log.producers import ProducerTable
from rlog.observe.events import emit
from rlog.raft.effects import (
    Cut,
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
from rlog.raft.messages import Append, InstallAnchor
from rlog.wire.frames import Envelope, checked_span

if TYPE_CHECKING:
    from rlog.config import NodeConfig
    from rlog.log.log import PartitionLog
    from rlog.log.meta import Meta
    from rlog.node.flusher import Flusher
    from rlog.node.partition import Partition
    from rlog.node.peers import Peers
    from rlog.observe.counters import NodeCounters

logger = logging.getLogger("rlog.node")

Payload = Span | Anchor | None
"""What came with a message: the records of an Append, the anchor of an InstallAnchor, or nothing."""


def payload_of(envelope: Envelope) -> Payload:
    """What a message carries, verified to be exactly what it announces. Raises ProtocolError."""
    _, message, data = envelope
    if data is None:
        return None
    if isinstance(message, InstallAnchor):
        anchor = decode_anchor(bytes(data))
        announced = (message.offset, message.anchor_generation, message.run_start)
        if anchor is None or (anchor.offset, anchor.generation, anchor.run_start) != announced:
            raise ProtocolError(f"a damaged anchor, or another one than announced: {announced}")
        try:
            ProducerTable.decode(anchor.producers)
        except ValueError as error:
            raise ProtocolError(f"the anchor at offset {anchor.offset}: {error}") from error
        return anchor
    assert isinstance(message, Append)
    return checked_span(message, data)


class Boundaries:
    """What consensus may ask of a log: rlog.raft.state.LogReader."""

    def __init__(self, log: PartitionLog) -> None:
        self._log = log

    def boundary(self, start: int, *, bytes_max: int, end_max: int) -> int:
        return self._log.boundary(start, bytes_max=bytes_max, end_max=end_max, one_generation=True)


class Driver:
    """Shared by all partitions of a node.

    now: loop seconds. wall_clock_ms: for timestamps of records. wake(partition): look at it at the end of
    this tick. arm(partition): its deadline may have moved closer.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        meta: Meta,
        flusher: Flusher,
        peers: Peers,
        now: Callable[[], float],
        wall_clock_ms: Callable[[], int],
        stopwatch_s: Callable[[], float],
        counters: NodeCounters,
        wake: Callable[[Partition], None],
        arm: Callable[[Partition], None],
    ) -> None:
        self.config = config
        self.voters = sorted(config.voters)
        self.now = now
        self.stopwatch_s = stopwatch_s
        self.counters = counters
        self.wake = wake
        self.arm = arm
        self._meta = meta
        self._flusher = flusher
        self._peers = peers
        self.wall_clock_ms = wall_clock_ms
        self._carriers: dict[type, Callable[[Partition, Any, Payload], None]] = {
            SaveVote: self._save_vote,
            Send: self._send,
            Cut: self._cut,
            Write: self._write,
            WriteStart: self._write_start,
            Install: self._install,
            StartMoved: self._start_moved,
            StartHeld: self._start_held,
            HwmMoved: self._hwm_moved,
            RoleChanged: self._role_changed,
            SuspectCleared: self._suspect_cleared,
            Fatal: self._fatal,
        }

    def carry_out(self, partition: Partition, payload: Payload = None) -> None:
        """All effects of the input just given. payload: what came with the message stepped."""
        failure: StorageFailed | CorruptLog | ReadFailed | None = None
        for effect in partition.replica.take_effects():
            try:
                self._carriers[type(effect)](partition, effect, payload)
            except (StorageFailed, CorruptLog, ReadFailed) as error:
                # A read of records to send, most likely. The other effects, a vote say, do not depend on it.
                failure = error
        self.wake(partition)
        if failure is not None:
            partition.storage_failed(str(failure))

    def _save_vote(self, partition: Partition, effect: SaveVote, payload: Payload) -> None:
        if effect.vote == partition.replica.node_id:
            partition.counters.elections_started += 1
        sequence = self._meta.save_vote(partition.name, effect.generation, effect.vote)
        self._flusher.when_saved(sequence, lambda: partition.saved(effect.token))

    def _send(self, partition: Partition, effect: Send, received: Payload) -> None:
        message = effect.message
        payload: list[memoryview] = []
        try:
            if type(message) is InstallAnchor:
                payload = [memoryview(partition.log.anchor().encode())]
            elif type(message) is Append and message.end_offset > message.prev_offset:
                payload = partition.log.read(
                    message.prev_offset,
                    bytes_max=self.config.peer_frame_bytes_max,
                    end_max=message.end_offset,
                )
        except ReadFailed as error:  # as if the network had lost it
            partition.unreadable(error)
            return
        self._peers.links[effect.to].send(partition.number, message, payload)

    def _cut(self, partition: Partition, effect: Cut, payload: Payload) -> None:
        partition.counters.cuts += 1
        partition.counters.cut_records += partition.log.end_offset - effect.offset
        partition.log.cut(effect.offset)

    def _write(self, partition: Partition, effect: Write, payload: Payload) -> None:
        if not isinstance(payload, Span):
            raise InvariantBroken(f"{effect} without records")
        same_base = payload.base_offset == effect.base_offset
        fresh = payload if same_base else payload.span_from(effect.base_offset)
        if (fresh.end_offset, fresh.generation) != (effect.end_offset, effect.generation):
            raise InvariantBroken(
                f"{effect}, but the records end at {fresh.end_offset} in {fresh.generation}"
            )
        partition.log.append(fresh)
        partition.counters.replicated_records += fresh.end_offset - fresh.base_offset
        partition.counters.replicated_bytes += fresh.size

    def _write_start(self, partition: Partition, effect: WriteStart, payload: Payload) -> None:
        builder = SpanBuilder(effect.offset, effect.generation)
        builder.add_start(partition.append_clock.now_ms())
        partition.log.append(builder.build())

    def _install(self, partition: Partition, effect: Install, payload: Payload) -> None:
        if not isinstance(payload, Anchor):
            raise InvariantBroken(f"{effect} without an anchor")
        emit(
            logger,
            logging.WARNING,
            "installed",
            partition=partition.name,
            node=partition.replica.node_id,
            offset=effect.offset,
            reason="the log ended before the leader's begins: it continues at this offset",
        )
        partition.log.install(payload)

    def _start_moved(self, partition: Partition, effect: StartMoved, payload: Payload) -> None:
        partition.counters.deleted_records += max(0, effect.log_start - partition.log.start_offset)
        sequence = partition.log.trim(effect.log_start)
        self._flusher.when_saved(sequence, lambda: partition.start_saved(effect.log_start))

    def _start_held(self, partition: Partition, effect: StartHeld, payload: Payload) -> None:
        partition.deletions.held(effect.log_start)

    def _hwm_moved(self, partition: Partition, effect: HwmMoved, payload: Payload) -> None:
        partition.hwm_moved(effect.hwm)

    def _role_changed(self, partition: Partition, effect: RoleChanged, payload: Payload) -> None:
        emit(
            logger,
            logging.DEBUG,
            "role_changed",
            partition=partition.name,
            node=partition.replica.node_id,
            role=effect.role.value,
            generation=effect.generation,
            leader=effect.leader or None,
            reason=effect.reason,
        )
        if effect.role is Role.LEADER:
            partition.counters.elections_won += 1
        change = partition.leadership.announced(self.now(), effect)
        if change is not None:
            emit(
                logger,
                logging.INFO,
                "leader_changed",
                partition=partition.name,
                node=partition.replica.node_id,
                generation=change.generation,
                old_leader=change.old_leader,
                new_leader=change.new_leader,
                reason=change.reason,
                leaderless_ms=round(change.leaderless_s * 1000),
            )
        partition.role_changed(effect.role, effect.reason)

    def _suspect_cleared(self, partition: Partition, effect: SuspectCleared, payload: Payload) -> None:
        emit(
            logger,
            logging.INFO,
            "suspect_cleared",
            partition=partition.name,
            node=partition.replica.node_id,
            reason="the log holds all that is committed",
        )
        partition.log.clear_suspect()

    def _fatal(self, partition: Partition, effect: Fatal, payload: Payload) -> None:
        raise InvariantBroken(effect.reason)
