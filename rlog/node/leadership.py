"""Who led a partition before, who leads now, and why that changed: one line of the log for each change.

Consensus announces every turn of a role (a pre-vote, a vote, a newer generation). A reader of the log wants
the change as a whole: when a leader is known again, who it is, who it was before, what ended that, and how
long this node knew of none.
"""

from dataclasses import dataclass

from rlog.raft.effects import RoleChanged

# A follower that learns that its leader's process is gone campaigns within a heartbeat.
HINT_S_MAX = 2.0


@dataclass(frozen=True, slots=True)
class LeaderChange:
    """old_leader: None when this node has not known one before. leaderless_s: as this node noticed it."""

    generation: int
    old_leader: int | None
    new_leader: int
    reason: str
    leaderless_s: float


class Leadership:
    """What one node knows of one partition's leaders. Times are loop seconds.

    hint_s_max: how long after a hint the loss of the leader is still put down to it.
    """

    __slots__ = ("_hint", "_hint_s_max", "_known", "_lost_at", "_lost_reason", "change_count")

    def __init__(self, now: float, *, hint_s_max: float = HINT_S_MAX) -> None:
        self._hint_s_max = hint_s_max
        self._known = (0, 0)  # generation and leader of the last change
        self._lost_at: float | None = now
        self._lost_reason = "this node has started"
        self._hint: tuple[float, str] | None = None
        self.change_count = 0

    @property
    def leaderless_since(self) -> float | None:
        """Since when no leader is known; None while one is."""
        return self._lost_at

    def hint(self, now: float, reason: str) -> None:
        """The leader seems to be gone. Should it be lost now, this is why."""
        if self._hint is None or now - self._hint[0] > self._hint_s_max:
            self._hint = now, reason

    def announced(self, now: float, effect: RoleChanged) -> LeaderChange | None:
        """Take what consensus announced; a change when by it another leadership became known."""
        if effect.leader == 0:
            if self._lost_at is None:
                self._lose(now, effect.reason)
            return None
        generation, old_leader = self._known
        if (generation, old_leader) == (effect.generation, effect.leader):
            return None
        if self._lost_at is None:
            self._lose(now, effect.reason)
        assert self._lost_at is not None
        change = LeaderChange(
            effect.generation, old_leader or None, effect.leader, self._lost_reason, now - self._lost_at
        )
        self._known = effect.generation, effect.leader
        self._lost_at = self._hint = None
        self.change_count += 1
        return change

    def _lose(self, now: float, reason: str) -> None:
        self._lost_at, self._lost_reason = now, reason
        if self._hint is not None and now - self._hint[0] <= self._hint_s_max:
            self._lost_at, self._lost_reason = self._hint
