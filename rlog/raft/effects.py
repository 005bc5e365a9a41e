"""What the consensus core wants done. The node carries out effects in the order given.

Durability is a message back in, never a flag: the core holds a message back itself until `saved()` or
`flushed()` told it that what the message promises is on disk. So every Send here may leave at once.
"""

from dataclasses import dataclass
from enum import Enum

from rlog.raft.messages import Message


class Role(Enum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class SaveVote:
    """Fsync (generation, vote) in meta, then call `saved(token)`. `vote` is a node id, 0 for none."""

    generation: int
    vote: int
    token: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send to node `to`. An Append leaves with the log's bytes [prev_offset, end_offset); none if empty."""

    to: int
    message: Message


@dataclass(frozen=True, slots=True)
class Cut:
    """Truncate the log's tail at `offset`, a batch boundary at or above the high-water mark."""

    offset: int


@dataclass(frozen=True, slots=True)
class Write:
    """Follower: append [base_offset, end_offset) of the payload that came with the message being stepped."""

    base_offset: int
    end_offset: int
    generation: int


@dataclass(frozen=True, slots=True)
class WriteStart:
    """Leader: append a start-of-generation control batch at `offset` (one record; the core counts it)."""

    offset: int
    generation: int


@dataclass(frozen=True, slots=True)
class Install:
    """Follower: replace the whole log by the anchor that came with the message being stepped (SAFETY 25).

    Then `flushed(offset)`, once that is durable and the old log is gone.
    """

    offset: int
    generation: int
    run_start: int


@dataclass(frozen=True, slots=True)
class StartMoved:
    """Below `log_start` all is deleted: save that in meta, then call `start_saved(log_start)`."""

    log_start: int


@dataclass(frozen=True, slots=True)
class StartHeld:
    """Leader: a majority has it on disk that the log starts at `log_start` or above."""

    log_start: int


@dataclass(frozen=True, slots=True)
class HwmMoved:
    """Everything below `hwm` is committed."""

    hwm: int


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """leader: node id, 0 when unknown. reason: one line for the log."""

    role: Role
    generation: int
    leader: int
    reason: str


@dataclass(frozen=True, slots=True)
class SuspectCleared:
    """The log is trusted again: it holds, flushed, a commit of the current generation (SAFETY 19)."""


@dataclass(frozen=True, slots=True)
class Fatal:
    """A safety invariant would be violated (for example a cut at or below hwm): stop the partition."""

    reason: str


Effect = (
    SaveVote
    | Send
    | Cut
    | Write
    | WriteStart
    | Install
    | StartMoved
    | StartHeld
    | HwmMoved
    | RoleChanged
    | SuspectCleared
    | Fatal
)
