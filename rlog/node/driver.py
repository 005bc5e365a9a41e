"""Carries out what consensus decides, in the order it was decided, against log, meta and peers.

Only this file knows both worlds: raft speaks of offsets and generations, the log holds the bytes. Everything
a message promises was made durable before its Send is emitted, so a Send may leave at once; what one tick
sends to a peer leaves together at the end of the tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlog._core import SpanBuilder
from rlog.errors import CorruptLog, InvariantBroken, StorageFailed
from rlog.raft.effects import (
    Cut,
    Fatal,
    HwmMoved,
    RoleChanged,
    SaveVote,
    Send,
    SuspectCleared,
    Write,
    WriteStart,
)
from rlog.raft.messages import Append

if TYPE_CHECKING:
    from rlog._core import Span
    from rlog.config import NodeConfig
    from rlog.log.log import PartitionLog
    from rlog.log.meta import Meta
    from rlog.node.flusher import Flusher
    from rlog.node.partition import Partition
    from rlog.node.peers import Peers

logger = logging.getLogger("rlog.node")


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
        wake: Callable[[Partition], None],
        arm: Callable[[Partition], None],
    ) -> None:
        self.config = config
        self.voters = sorted(config.voters)
        self.now = now
        self.wake = wake
        self.arm = arm
        self._meta = meta
        self._flusher = flusher
        self._peers = peers
        self.wall_clock_ms = wall_clock_ms
        self._carriers: dict[type, Callable[[Partition, Any, Span | None], None]] = {
            SaveVote: self._save_vote,
            Send: self._send,
            Cut: self._cut,
            Write: self._write,
            WriteStart: self._write_start,
            HwmMoved: self._hwm_moved,
            RoleChanged: self._role_changed,
            SuspectCleared: self._suspect_cleared,
            Fatal: self._fatal,
        }

    def carry_out(self, partition: Partition, span: Span | None = None) -> None:
        """All effects of the input just given. span: the records that came with the message stepped."""
        failure: StorageFailed | CorruptLog | None = None
        for effect in partition.replica.take_effects():
            try:
                self._carriers[type(effect)](partition, effect, span)
            except (StorageFailed, CorruptLog) as error:
                # A read of records to send, most likely. The other effects, a vote say, do not depend on it.
                failure = error
        self.wake(partition)
        if failure is not None:
            partition.storage_failed(str(failure))

    def _save_vote(self, partition: Partition, effect: SaveVote, span: Span | None) -> None:
        sequence = self._meta.save_vote(partition.name, effect.generation, effect.vote)
        self._flusher.when_saved(sequence, lambda: partition.saved(effect.token))

    def _send(self, partition: Partition, effect: Send, span: Span | None) -> None:
        message = effect.message
        payload: list[memoryview] = []
        if type(message) is Append and message.end_offset > message.prev_offset:
            payload = partition.log.read(
                message.prev_offset,
                bytes_max=self.config.peer_frame_bytes_max,
                end_max=message.end_offset,
            )
        self._peers.links[effect.to].send(partition.number, message, payload)

    def _cut(self, partition: Partition, effect: Cut, span: Span | None) -> None:
        partition.log.cut(effect.offset)

    def _write(self, partition: Partition, effect: Write, span: Span | None) -> None:
        if span is None:
            raise InvariantBroken(f"{effect} without records")
        fresh = span if span.base_offset == effect.base_offset else span.span_from(effect.base_offset)
        if (fresh.end_offset, fresh.generation) != (effect.end_offset, effect.generation):
            raise InvariantBroken(
                f"{effect}, but the records end at {fresh.end_offset} in {fresh.generation}"
            )
        partition.log.append(fresh)

    def _write_start(self, partition: Partition, effect: WriteStart, span: Span | None) -> None:
        builder = SpanBuilder(effect.offset, effect.generation)
        builder.add_start(partition.append_clock.now_ms())
        partition.log.append(builder.build())

    def _hwm_moved(self, partition: Partition, effect: HwmMoved, span: Span | None) -> None:
        partition.hwm_moved(effect.hwm)

    def _role_changed(self, partition: Partition, effect: RoleChanged, span: Span | None) -> None:
        logger.info(
            "partition=%s node=%d role=%s generation=%d leader=%d reason=%s",
            partition.name,
            partition.replica.node_id,
            effect.role.value,
            effect.generation,
            effect.leader,
            effect.reason,
        )
        partition.role_changed(effect.role, effect.reason)

    def _suspect_cleared(self, partition: Partition, effect: SuspectCleared, span: Span | None) -> None:
        logger.info("partition=%s no longer suspect: it holds all that is committed", partition.name)
        partition.log.clear_suspect()

    def _fatal(self, partition: Partition, effect: Fatal, span: Span | None) -> None:
        raise InvariantBroken(effect.reason)
