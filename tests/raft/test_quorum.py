"""The arithmetic of majorities against brute force."""

from itertools import combinations, product

import pytest

from rlog.raft.quorum import held_by_majority, majority, wins


@pytest.mark.parametrize("count", range(1, 8))
def test_two_majorities_share_a_voter_and_fewer_need_not(count: int) -> None:
    voters = range(count)
    majorities = list(combinations(voters, majority(count)))
    assert all(set(one) & set(other) for one in majorities for other in majorities)
    fewer = majority(count) - 1
    assert any(
        not set(one) & set(other)
        for one in combinations(voters, fewer)
        for other in combinations(voters, count - fewer)
    )


@pytest.mark.parametrize("count", range(1, 6))
def test_held_by_majority_is_the_highest_offset_that_enough_have_reached(count: int) -> None:
    for offsets in product(range(4), repeat=count):
        reached = [mark for mark in range(4) if sum(offset >= mark for offset in offsets) > count / 2]
        assert held_by_majority(offsets) == max(reached)


@pytest.mark.parametrize("count", range(1, 8))
def test_votes_win_with_a_trusted_majority_or_when_all_granted(count: int) -> None:
    for suspects in range(count + 1):
        for granted_by_suspects in range(suspects + 1):
            for trusted in range(count - suspects + 1):
                granted = trusted + granted_by_suspects
                expected = trusted * 2 > count or granted == count
                assert wins(granted, granted_by_suspects, count) == expected
