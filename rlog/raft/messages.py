"""What replicas of one partition say to each other. Every message carries a generation.

Offsets are log positions per record. `*_end` and `*_offset` used as a boundary are *exclusive ends*: a log
holding records 0..9 has end 10, and "prev_offset=10, prev_generation=4" says "the record before 10 (that
is 9) was written in generation 4". An empty log has end 0 and last generation 0. Boundaries are always
batch ends (SAFETY 10). One Append carries records of exactly one generation.

Payload bytes are not here: the node attaches the log's bytes [prev_offset, end_offset) to an Append as it
leaves, and hands the same range in with it as it arrives.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """Ask for a vote. With `pre`, only ask whether it would be given: nothing is persisted.

    generation: the generation campaigned for (the candidate's own + 1 when `pre`).
    last_generation, log_end: where the candidate's log ends, unflushed tail included (SAFETY 11).
    """

    generation: int
    last_generation: int
    log_end: int
    pre: bool = False


@dataclass(frozen=True, slots=True)
class VoteReply:
    """generation: for a granted pre-vote the generation asked for; otherwise the voter's own.

    suspect: the voter cannot prove that it still holds all that it acknowledged (SAFETY 19).
    log_start: below it the voter knows all to be deleted.
    """

    generation: int
    granted: bool
    pre: bool = False
    suspect: bool = False
    log_start: int = 0


@dataclass(frozen=True, slots=True)
class Append:
    """Records [prev_offset, end_offset) of `span_generation`; empty (a probe) when the two are equal."""

    generation: int
    prev_offset: int
    prev_generation: int
    end_offset: int
    span_generation: int
    hwm: int


@dataclass(frozen=True, slots=True)
class AppendReply:
    """The answer to an Append, sent again whenever more of it becomes flushed.

    accepted: the follower's log matched at prev.
    match_offset: end of what is verified against this leader in this generation (dirty).
    flushed_offset: end of the part of it that completed fsyncs cover; never above match_offset (SAFETY 4).
    conflict_offset, conflict_generation: when refused, where to probe next: the start of the follower's
    run of `conflict_generation`, or its log end (SAFETY 44: O(generations) round trips).
    """

    generation: int
    accepted: bool
    match_offset: int
    flushed_offset: int
    conflict_offset: int = 0
    conflict_generation: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """I lead in this generation. Checks (prev_offset, prev_generation) like an empty Append; cuts nothing.

    round: counts heartbeat rounds of this leader; echoed, so that an answer proves what it answers.
    log_start: below it all is deleted; it was committed.
    """

    generation: int
    prev_offset: int
    prev_generation: int
    hwm: int
    round: int
    log_start: int = 0


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """As AppendReply, for a Heartbeat; `round` is the one answered.

    log_start: what the follower has on disk of where the log starts.
    """

    generation: int
    accepted: bool
    match_offset: int
    flushed_offset: int
    round: int
    conflict_offset: int = 0
    conflict_generation: int = 0
    log_start: int = 0


@dataclass(frozen=True, slots=True)
class InstallAnchor:
    """The leader's log begins at `offset`: what a follower needs from before that, its anchor stands for.

    anchor_generation: of the record before `offset`, whose run begins at `run_start`. The node attaches the
    anchor's bytes. Answered by an AppendReply. log_start: as a Heartbeat's.
    """

    generation: int
    offset: int
    anchor_generation: int
    run_start: int
    log_start: int


Message = VoteRequest | VoteReply | Append | AppendReply | Heartbeat | HeartbeatReply | InstallAnchor
