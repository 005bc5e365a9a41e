"""Everything one replica knows, and the invariants that bind it.

The behaviour files hold plain functions over this state; `replica.py` calls them. Nothing here does I/O or
reads a clock: times are loop seconds handed in, randomness is an injected `Random`.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Protocol

from rlog.errors import ConfigurationError, InvariantBroken
from rlog.generations import GenerationTable
from rlog.raft.effects import Effect, Fatal, Role, RoleChanged, SaveVote, Send
from rlog.raft.messages import Message
from rlog.raft.progress import Progress

HEARTBEATS_PER_TIMEOUT_MIN = 3
"""A timeout of fewer heartbeats takes one lost message for a dead leader."""


class LogReader(Protocol):
    """Pure questions about the replica's own log, answered at once and without I/O."""

    def boundary(self, start: int, *, bytes_max: int, end_max: int) -> int:
        """End of the batches from batch boundary `start` on: of the generation of record `start`, at most
        `bytes_max` bytes but at least one batch, ending at or below `end_max`; `start` when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """What one replica is told. Node ids are positive; 0 stands for "none".

    An Append that is not known to be flushed is charged its size, or `append_bytes_max` when that is not
    known, against `inflight_bytes_max`; so these two bound what a follower holds unflushed.
    """

    node_id: int
    voters: frozenset[int]
    heartbeat_ms: int = 100
    election_timeout_ms: tuple[int, int] = (500, 1000)
    append_bytes_max: int = 1024 * 1024
    inflight_bytes_max: int = 16 * 1024 * 1024
    inflight_count_max: int = 64

    def __post_init__(self) -> None:
        low, high = self.election_timeout_ms
        if self.node_id not in self.voters or min(self.voters) <= 0:
            raise ConfigurationError(f"node id {self.node_id} is not one of the voters {sorted(self.voters)}")
        if self.heartbeat_ms <= 0 or low < HEARTBEATS_PER_TIMEOUT_MIN * self.heartbeat_ms or high <= low:
            raise ConfigurationError(
                f"election_timeout_ms {low}..{high} must rise and start at {HEARTBEATS_PER_TIMEOUT_MIN} "
                f"heartbeats or more (heartbeat_ms is {self.heartbeat_ms})"
            )
        if min(self.append_bytes_max, self.inflight_bytes_max, self.inflight_count_max) <= 0:
            raise ConfigurationError(
                "append_bytes_max, inflight_bytes_max and inflight_count_max are above 0"
            )


@dataclass(slots=True)
class State:
    settings: RaftSettings
    random: Random
    log: LogReader
    node_id: int
    # The other voters, in the order in which messages leave.
    peers: tuple[int, ...]
    heartbeat_s: float
    timeout_min_s: float
    timeout_max_s: float

    # Generation and vote only change through `save_vote`; the generation never falls (SAFETY 2). `vote` is 0
    # or the one node that this replica votes for in `generation`.
    generation: int
    vote: int
    # (generation, vote) is on disk when saved_token >= vote_token. No grant, no request for votes and no
    # accepting reply leaves before that (SAFETY 1).
    vote_token: int = 0
    saved_token: int = 0

    # start_offset <= hwm <= end_offset, flushed_offset <= end_offset; all are batch ends (SAFETY 10).
    # end_offset is the dirty end: what the log was told to hold.
    start_offset: int = 0
    end_offset: int = 0
    flushed_offset: int = 0
    # Runs of the log up to end_offset; its last generation <= generation.
    table: GenerationTable = field(default_factory=GenerationTable)
    # Where readers may begin (see log_start.py): known here; handed to the disk, as far as our log is flushed
    # and committed; on disk. start_offset <= log_start; saved <= kept <= log_start.
    log_start: int = 0
    kept_log_start: int = 0
    saved_log_start: int = 0
    # Leader: on disk of a majority.
    held_log_start: int = 0
    # Everything below is committed. Never falls while this replica lives; volatile across restarts.
    hwm: int = 0

    # LEADER: leader == node_id. CANDIDATE: leader == 0. FOLLOWER: leader is 0 until it is heard.
    role: Role = Role.FOLLOWER
    leader: int = 0
    # Not a leader: when to stand for election. Kept one drawn timeout after the leader was heard.
    election_deadline: float = math.inf
    election_timeout_s: float = 0.0
    # When `leader` was last heard; -inf once it is known to be gone (SAFETY 40).
    heard_at: float = -math.inf

    # Follower: end of what is verified against `leader` in `generation`; 0 again at every new generation. Not
    # below it, nor above end_offset, ever cut. What it reports flushed is min(flushed_offset, match_offset)
    # (SAFETY 4): a flushed tail that diverges from the leader's does not count.
    match_offset: int = 0
    # The flushed end that the leader was told last; a reply is due when there is more.
    reported_offset: int = -1
    # A reply to the leader waits for the generation to be saved.
    reply_is_owed: bool = False
    # The candidate whose grant waits for the vote to be saved; 0 for none.
    grant_owed_to: int = 0

    # Candidate: `is_asking_first` while it only asks whether it would be elected (pre-vote).
    is_asking_first: bool = False
    granted: set[int] = field(default_factory=set)
    granted_by_suspects: set[int] = field(default_factory=set)

    # Leader: where its log ended when it was elected, so the offset of its generation's first record. Only
    # offsets above it commit by counting (SAFETY 6).
    own_start_offset: int = 0
    # Its high-water mark is exact once hwm >= this (SAFETY 32).
    serve_offset: int = 0
    # One per peer; empty unless leading.
    progress: dict[int, Progress] = field(default_factory=dict)
    heartbeat_deadline: float = math.inf
    # Counts the heartbeats of this leader.
    round: int = 0
    # How often a heartbeat was due to a peer that had not answered since the one before. For observers only.
    heartbeats_missed: int = 0

    # Recovery could not prove that nothing acknowledged is missing (SAFETY 19).
    is_suspect: bool = False
    # Why this replica neither leads nor acknowledges again; empty while it is healthy (SAFETY 15, 16).
    failure: str = ""
    # A Fatal was issued: no input changes anything any more.
    is_stopped: bool = False

    effects: list[Effect] = field(default_factory=list)

    @property
    def voter_count(self) -> int:
        return len(self.peers) + 1

    @property
    def is_installing(self) -> bool:
        """An anchor takes the place of the log, and is not durable yet."""
        return self.flushed_offset < self.start_offset

    @property
    def is_saved(self) -> bool:
        return self.saved_token >= self.vote_token


def send(state: State, to: int, message: Message) -> None:
    state.effects.append(Send(to, message))


def save_vote(state: State, generation: int, vote: int) -> None:
    """Take (generation, vote), to be fsynced before anything that rests on it leaves (SAFETY 1, 2)."""
    assert generation > state.generation or (generation == state.generation and state.vote in (0, vote))
    state.generation = generation
    state.vote = vote
    state.vote_token += 1
    state.effects.append(SaveVote(generation, vote, state.vote_token))


def announce(state: State, reason: str) -> None:
    state.effects.append(RoleChanged(state.role, state.generation, state.leader, reason))


def stop(state: State, reason: str) -> None:
    """A broken invariant is not an error to handle: the partition stops and never proceeds."""
    state.is_stopped = True
    state.failure = state.failure or reason
    state.role = Role.FOLLOWER
    state.leader = 0
    state.progress = {}
    state.effects.append(Fatal(reason))


def check(state: State) -> None:
    """Raise InvariantBroken unless every invariant above holds. For after each input, where it is tested."""
    table, role = state.table, state.role
    rules = {
        "start <= hwm <= end": state.start_offset <= state.hwm <= state.end_offset,
        "start <= log start": state.start_offset <= state.log_start,
        "log start saved <= kept <= known": state.saved_log_start <= state.kept_log_start <= state.log_start,
        "flushed <= end": state.flushed_offset <= state.end_offset,
        "match <= end": state.match_offset <= state.end_offset,
        "saved <= asked": state.saved_token <= state.vote_token,
        "runs rise": _rises(table.generations) and _rises(table.starts),
        "every run owns a record": not table.starts or table.starts[-1] < state.end_offset,
        "log's generation <= own": table.last <= state.generation,
        "leader knows itself": (role is Role.LEADER) == (state.leader == state.node_id),
        "only a leader has progress": (role is Role.LEADER) == bool(state.progress) or not state.peers,
        "leader voted for itself, on disk": role is not Role.LEADER
        or (state.vote == state.node_id and state.is_saved),
        "candidate has no leader": role is not Role.CANDIDATE or state.leader == 0,
        "candidate votes for itself": role is not Role.CANDIDATE
        or state.is_asking_first
        or state.vote == state.node_id,
        "neither suspect nor failed campaigns": role is Role.FOLLOWER
        or not (state.is_suspect or state.failure),
        "grant waits for the vote": not state.grant_owed_to or state.grant_owed_to == state.vote,
    }
    if role is Role.LEADER:
        rules["log start <= end"] = state.log_start <= state.end_offset
        rules["own generation starts at its election"] = (
            table.last < state.generation or table.starts[-1] == state.own_start_offset
        )
        for peer, progress in state.progress.items():
            rules[f"progress of {peer}"] = (
                progress.flushed_offset <= progress.match_offset <= progress.next_offset <= state.end_offset
                and progress.inflight_bytes == sum(charge for _, charge in progress.inflight)
                and len(progress.inflight) <= state.settings.inflight_count_max
            )
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise InvariantBroken(f"replica {state.node_id}, generation {state.generation}: {', '.join(broken)}")


def _rises(values: list[int]) -> bool:
    return all(low < high for low, high in pairwise(values))
