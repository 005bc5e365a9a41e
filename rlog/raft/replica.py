"""One replica of a partition's consensus group: the dispatcher of the pure core.

Inputs come in as method calls with the loop's time; what is to be done leaves as a list of effects, to be
carried out in order. The dispatcher decides generation and role once, then calls the one behaviour that
applies:

    generation.py       is the message of our generation?      election.py          who leads?
    heartbeat.py        does the leader live?                  replication.py       whose records go where?
    high_water_mark.py  what is committed?                     progress.py          what does a follower hold?
    log_start.py        what is deleted?

Not handled here: snapshots of state machines, changes of the voters, leadership transfer, reads.
"""

import math
from collections.abc import Sequence
from random import Random

from rlog.generations import GenerationTable
from rlog.raft import election, generation, heartbeat, high_water_mark, log_start, replication
from rlog.raft.effects import Effect, Role
from rlog.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallAnchor,
    Message,
    VoteRequest,
)
from rlog.raft.progress import Progress
from rlog.raft.state import LogReader, RaftSettings, State, check, stop

__all__ = ["LogReader", "RaftSettings", "Replica"]


class Replica:
    """Decides; does nothing itself. After each input, take the effects and carry them out in order."""

    __slots__ = ("_state",)

    def __init__(
        self,
        settings: RaftSettings,
        *,
        random: Random,
        log: LogReader,
        generation: int,
        vote: int,
        generations: Sequence[tuple[int, int]],
        start_offset: int,
        log_start: int,
        end_offset: int,
        flushed_offset: int,
        suspect: bool = False,
        now: float,
    ) -> None:
        """What recovery found. (generation, vote): the durable ones of `meta`. generations: (generation,
        start offset) of each run of the log. start_offset: where its files begin; log_start: where readers
        may. now: loop seconds. Everything known of the high-water mark is that what was deleted below
        `start_offset` was committed."""
        table = GenerationTable(generations)
        # The log may be ahead of meta: its records imply their generation (SAFETY 2), in which we did not
        # vote.
        clock = max(generation, table.last)
        low_ms, high_ms = settings.election_timeout_ms
        self._state = State(
            settings=settings,
            random=random,
            log=log,
            node_id=settings.node_id,
            peers=tuple(sorted(settings.voters - {settings.node_id})),
            heartbeat_s=settings.heartbeat_ms / 1000,
            timeout_min_s=low_ms / 1000,
            timeout_max_s=high_ms / 1000,
            generation=clock,
            vote=vote if clock == generation else 0,
            start_offset=start_offset,
            end_offset=end_offset,
            flushed_offset=flushed_offset,
            table=table,
            log_start=log_start,
            kept_log_start=log_start,
            saved_log_start=log_start,
            hwm=start_offset,
            is_suspect=suspect,
        )
        heartbeat.restart_election_timer(self._state, now)
        if not self._state.peers:
            # There is nobody to wait for.
            self._state.election_deadline = now

    # ---- what it knows -----------------------------------------------------------------------------------

    @property
    def node_id(self) -> int:
        return self._state.node_id

    @property
    def role(self) -> Role:
        return self._state.role

    @property
    def generation(self) -> int:
        return self._state.generation

    @property
    def vote(self) -> int:
        """Whom it votes for in this generation; 0 for nobody."""
        return self._state.vote

    @property
    def leader(self) -> int:
        """Node id; 0 when unknown."""
        return self._state.leader

    @property
    def hwm(self) -> int:
        """Everything below is known to be committed."""
        return self._state.hwm

    @property
    def start_offset(self) -> int:
        """Where the files begin, as the node said last."""
        return self._state.start_offset

    @property
    def log_start(self) -> int:
        """Below it all is deleted, for readers."""
        return self._state.log_start

    @property
    def saved_log_start(self) -> int:
        """The log start that this replica is known to have on disk."""
        return self._state.saved_log_start

    @property
    def held_log_start(self) -> int:
        """Leader: the log start that a majority is known to have on disk."""
        return self._state.held_log_start

    @property
    def end_offset(self) -> int:
        return self._state.end_offset

    @property
    def flushed_offset(self) -> int:
        return self._state.flushed_offset

    @property
    def suspect(self) -> bool:
        return self._state.is_suspect

    @property
    def serving(self) -> bool:
        """Whether it leads and its high-water mark is exact (SAFETY 32)."""
        return self._state.role is Role.LEADER and self._state.hwm >= self._state.serve_offset

    @property
    def deadline(self) -> float:
        """When `tick` has something to do next, in loop seconds; may move with any input."""
        if self._state.is_stopped:
            return math.inf
        if self._state.role is Role.LEADER:
            return self._state.heartbeat_deadline
        return self._state.election_deadline

    @property
    def heartbeats_missed(self) -> int:
        """How often, as the leader, a heartbeat was due to a peer that had not answered since the last."""
        return self._state.heartbeats_missed

    def progress(self) -> dict[int, tuple[int, int, float]]:
        """Leader: peer -> (match offset, flushed offset, loop seconds of its last answer); else empty."""
        return {
            peer: (known.match_offset, known.flushed_offset, known.contact)
            for peer, known in self._state.progress.items()
        }

    def take_effects(self) -> list[Effect]:
        """What the inputs since the last call want done, in order."""
        effects = self._state.effects
        self._state.effects = []
        return effects

    def check(self) -> None:
        """Raise InvariantBroken unless all invariants of the state hold."""
        check(self._state)

    # ---- inputs ------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time passed. Does nothing before `deadline`."""
        state = self._state
        if state.is_stopped or now < self.deadline:
            return
        if state.role is not Role.LEADER:
            election.timed_out(state, now)
        elif heartbeat.has_quorum(state, now):
            heartbeat.beat(state, now)
        else:
            generation.follow(
                state, now, 0, "no majority answered within the election timeout: stepping down"
            )

    def step(self, now: float, sender: int, message: Message) -> None:
        """A message of another voter arrived; anyone else's is ignored."""
        state = self._state
        if state.is_stopped or sender not in state.peers:
            return
        if message.generation != state.generation and not generation.settle(state, now, sender, message):
            return
        if isinstance(message, (AppendReply, HeartbeatReply)):
            if state.role is not Role.LEADER:
                return
            if isinstance(message, AppendReply):
                replication.answered(state, now, sender, message)
            else:
                heartbeat.answered(state, now, sender, message)
        elif isinstance(message, (Append, Heartbeat, InstallAnchor)):
            if not self._follows(now, sender, message):
                return
            if isinstance(message, Append):
                replication.received(state, sender, message)
            elif isinstance(message, InstallAnchor):
                replication.anchor_offered(state, message)
            else:
                heartbeat.heard(state, sender, message)
        elif isinstance(message, VoteRequest):
            election.vote_requested(state, now, sender, message)
        elif state.role is Role.CANDIDATE:
            election.vote_answered(state, now, sender, message)

    def saved(self, now: float, token: int) -> None:
        """The SaveVote of `token`, and all before it, are fsynced."""
        state = self._state
        if state.is_stopped or token <= state.saved_token:
            return
        if token > state.vote_token:
            stop(state, f"vote {token} saved, but only {state.vote_token} were asked for")
            return
        state.saved_token = token
        if state.is_saved:
            election.vote_saved(state, now)
            if state.reply_is_owed:
                replication.reply(state)

    def flushed(self, now: float, end_offset: int) -> None:
        """The log is flushed up to `end_offset`. Completions older than a cut never get here (SAFETY 12)."""
        state = self._state
        if state.is_stopped or state.failure or end_offset <= state.flushed_offset:
            return
        if end_offset > state.end_offset:
            stop(state, f"flushed up to {end_offset}, but the log ends at {state.end_offset}")
            return
        if state.is_installing and end_offset >= state.start_offset:
            # An installed anchor says where the log starts, too.
            state.kept_log_start = max(state.kept_log_start, state.start_offset)
            log_start.saved(state, state.start_offset)
        state.flushed_offset = end_offset
        if state.log_start > state.kept_log_start:
            log_start.keep(state)
        if state.role is Role.LEADER:
            high_water_mark.count(state)
        else:
            replication.flushed(state)

    def proposed(self, now: float, end_offset: int, size_bytes: int = 0) -> None:
        """The leader appended up to `end_offset` to its log in its generation. size_bytes: of these records
        (0: not known), for the bound of what is in flight."""
        state = self._state
        if state.is_stopped:
            return
        if state.role is not Role.LEADER or end_offset <= state.end_offset:
            stop(state, f"records up to {end_offset} appended by a {state.role.value} at {state.end_offset}")
            return
        replication.proposed(state, end_offset, size_bytes)

    def trim(self, now: float, offset: int) -> None:
        """Leader: delete what is below `offset`, at or below the high-water mark."""
        state = self._state
        if not state.is_stopped and state.role is Role.LEADER:
            log_start.trim(state, offset)

    def start_saved(self, now: float, offset: int) -> None:
        """The StartMoved to `offset` is fsynced."""
        if not self._state.is_stopped:
            log_start.saved(self._state, offset)

    def base_moved(self, now: float, start_offset: int) -> None:
        """The log's files begin at `start_offset` from now on: what was below cannot be read any more."""
        if not self._state.is_stopped:
            log_start.base_moved(self._state, start_offset)

    def peer_connected(self, now: float, peer: int) -> None:
        """A new connection to `peer` stands: what its last incarnation held is not known any more."""
        state = self._state
        if state.role is Role.LEADER:
            self._forget(peer)
            replication.probe(state, peer)
        elif state.role is Role.CANDIDATE and not state.is_stopped and peer not in state.granted:
            election.request_votes(state, peer)

    def peer_lost(self, now: float, peer: int) -> None:
        """The connection to `peer` is gone, with all that was in flight."""
        if self._state.role is Role.LEADER:
            self._forget(peer)

    def leader_gone(self, now: float) -> None:
        """This node's own redial of the leader's control connection was refused (SAFETY 40)."""
        if not self._state.is_stopped:
            election.leader_gone(self._state, now)

    def storage_failed(self, now: float, reason: str) -> None:
        """A write or fsync failed: never lead or acknowledge again (SAFETY 15, 16)."""
        state = self._state
        if state.is_stopped or state.failure:
            return
        state.failure = reason
        state.reply_is_owed = False
        if state.role is not Role.FOLLOWER:
            generation.follow(state, now, 0, f"storage failed: {reason}")

    # ---- decisions ---------------------------------------------------------------------------------------

    def _follows(self, now: float, sender: int, message: Append | Heartbeat | InstallAnchor) -> bool:
        """The sender leads our generation. Returns whether its message is to be handled."""
        state = self._state
        if state.leader != sender:
            if state.leader != 0:
                stop(state, f"both {state.leader} and {sender} lead generation {state.generation}")
                return False
            generation.follow(state, now, sender, f"{sender} leads")
            state.heard_at = now
        if state.heard_at > -math.inf or isinstance(message, Heartbeat):
            # A leader that is gone may still be heard by Appends that were under way; but the control
            # connection, which was refused, is what heartbeats come by.
            state.heard_at = now
            state.election_deadline = now + state.election_timeout_s
        # Acknowledging, and writing for another, ended with the first failure of the disk.
        return not state.failure

    def _forget(self, peer: int) -> None:
        state = self._state
        state.progress[peer] = Progress(state.end_offset, state.progress[peer].contact)
