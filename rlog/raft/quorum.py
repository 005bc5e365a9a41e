"""The arithmetic of majorities. Everything that counts voters counts them here."""

from collections.abc import Iterable


def majority(voter_count: int) -> int:
    """The smallest number of voters any two sets of which share a voter."""
    return voter_count // 2 + 1


def held_by_majority(offsets: Iterable[int]) -> int:
    """The highest offset that a majority has reached. offsets: one of each voter, the leader's included."""
    ordered = sorted(offsets)
    return ordered[(len(ordered) - 1) // 2]


def wins(granted: int, granted_by_suspects: int, voter_count: int) -> bool:
    """Whether votes make a leader.

    A suspect replica may have lost records that it acknowledged, so its vote does not stand for their
    absence. It counts only when every voter has answered and granted (SAFETY 19): then the candidate's log is
    at least as long as every log that is left, so what survives anywhere is in it.

    granted: all granted votes, the candidate's own and those by suspects included.
    """
    return granted - granted_by_suspects >= majority(voter_count) or granted == voter_count
