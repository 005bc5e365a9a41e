"""Pairs of logs: who may get whose vote, and how one becomes the other."""

from itertools import combinations_with_replacement, pairwise
from random import Random

import pytest

from rlog.generations import GenerationTable
from rlog.raft.effects import Cut, Send, Write
from rlog.raft.messages import Append, AppendReply, Heartbeat, VoteReply, VoteRequest
from rlog.raft.replica import RaftSettings, Replica
from tests.raft.model import Batch, ModelLog

VOTERS = frozenset({1, 2, 3})


def replica_of(node_id: int, log: ModelLog, generation: int, **settings: int) -> Replica:
    return Replica(
        RaftSettings(node_id, VOTERS, **settings),
        random=Random(node_id),
        log=log,
        generation=generation,
        vote=0,
        generations=log.generations(),
        start_offset=0,
        log_start=0,
        end_offset=log.end_offset,
        flushed_offset=log.flushed_offset,
        now=0.0,
    )


def log_of(generations: tuple[int, ...]) -> ModelLog:
    return ModelLog([Batch(at, at + 1, each, f"{at} {each}") for at, each in enumerate(generations)])


ALL_LOGS = [log for size in range(5) for log in combinations_with_replacement((1, 2, 3), size)]


@pytest.mark.parametrize("pre", [True, False])
def test_a_vote_goes_only_to_a_log_that_is_up_to_date(pre: bool) -> None:
    """All pairs of logs: last generation first, then length, the unflushed tail included (SAFETY 11)."""
    for mine in ALL_LOGS:
        for flushed in range(len(mine) + 1):
            for theirs in ALL_LOGS:
                log = log_of(mine)
                log.flushed_offset = flushed
                voter = replica_of(1, log, 5)
                voter.step(10.0, 2, VoteRequest(6, theirs[-1] if theirs else 0, len(theirs), pre))
                if not pre:
                    voter.saved(10.0, 2)
                answers = [each.message for each in voter.take_effects() if isinstance(each, Send)]
                older = (mine[-1:] or (0,)) > (theirs[-1:] or (0,))
                same = (mine[-1:] or (0,)) == (theirs[-1:] or (0,))
                expected = not older and not (same and len(mine) > len(theirs))
                assert answers == [VoteReply(6 if expected or not pre else 5, expected, pre)], (mine, theirs)


def grow(random: Random, nodes: int) -> list[list[Batch]]:
    """Logs as many failed leaderships leave them: each appends to one log and copies a prefix to others."""
    logs: list[list[Batch]] = [[] for _ in range(nodes)]
    generation = 0
    for _ in range(random.randint(1, 12)):
        generation += random.randint(1, 2)
        leader = random.choice(logs)
        for _ in range(random.randint(1, 5)):
            base = leader[-1].end if leader else 0
            end = base + random.randint(1, 9)
            leader.append(Batch(base, end, generation, f"{base} {generation}"))
        for log in logs:
            if log is not leader and random.random() < 0.4:
                log[:] = leader[: random.randint(0, len(leader))]
    return logs


def elected(log: ModelLog, generation: int) -> Replica:
    """A leader of the generation after, with what it sent to peer 3 dropped."""
    leader = replica_of(1, log, generation, append_bytes_max=3000)
    leader.tick(leader.deadline)
    leader.step(1.0, 2, VoteReply(generation + 1, True, pre=True))
    leader.saved(1.0, 1)
    leader.step(1.0, 2, VoteReply(generation + 1, True))
    return leader


@pytest.mark.parametrize("seed", range(300))
def test_any_log_becomes_the_leaders_in_as_many_round_trips_as_generations(seed: int) -> None:
    """SAFETY 8, 9, 10, 44: probes only, until they agree; every boundary named is a batch end of its log."""
    random = Random(seed)
    mine, theirs = grow(random, 2)
    leader_log, log = ModelLog(mine), ModelLog(theirs)
    generation = max((batch.generation for batch in mine + theirs), default=0)
    leader, follower = elected(leader_log, generation), replica_of(3, log, generation)
    now, probes, cuts = 2.0, 0, 0
    inbox = [each.message for each in leader.take_effects() if isinstance(each, Send) and each.to == 3][-1:]
    if leader.end_offset > leader_log.end_offset:
        start = leader_log.end_offset
        leader_log.append(Batch(start, start + 1, generation + 1, "start"))
    for _ in range(200):
        if not inbox:
            break
        message = inbox.pop(0)
        assert isinstance(message, Append)
        payload = leader_log.slice(message.prev_offset, message.end_offset)
        probes += not payload
        follower.step(now, 1, message)
        follower.saved(now, 1)
        for effect in follower.take_effects():
            if isinstance(effect, Cut):
                cuts += 1
                removed = log.cut(effect.offset)
                assert not set(removed[:1]) & set(mine), "cut what the leader holds"
            elif isinstance(effect, Write):
                for batch in payload:
                    if batch.base >= effect.base_offset:
                        log.append(batch)
                assert log.end_offset == effect.end_offset
            elif isinstance(effect, Send):
                assert isinstance(effect.message, AppendReply)
                leader.step(now, 3, effect.message)
        inbox += [each.message for each in leader.take_effects() if isinstance(each, Send) and each.to == 3]
    runs = len(leader_log.generations())
    assert probes <= runs + 2, f"{probes} probes for {runs} generations"
    assert cuts <= 1
    shared = len(leader_log.batches)
    if log.generations() != leader_log.generations():
        # An idle leader, whose whole log the follower holds: its tail is not cut before something conflicts.
        assert log.batches[:shared] == leader_log.batches
        assert leader.end_offset == 0
    else:
        assert log.batches == leader_log.batches


def test_the_generation_table_equals_its_rebuild_after_any_cut() -> None:
    """SAFETY 13."""
    for seed in range(200):
        random = Random(seed)
        log = ModelLog(grow(random, 3)[0])
        table = GenerationTable(log.generations())
        for _ in range(3):
            offset = random.choice([0, *(batch.end for batch in log.batches)])
            log.cut(offset)
            table.cut(offset)
            assert table.entries() == log.generations()
            for low, high in pairwise([0, *(batch.end for batch in log.batches)]):
                assert {table.before(at) for at in range(low + 1, high + 1)} == {
                    log.batches[log.index(low)].generation
                }


@pytest.mark.parametrize("seed", range(100))
def test_delayed_messages_of_this_leader_never_cut(seed: int) -> None:
    """SAFETY 8: everything a leader ever sent, again and in any order, changes nothing that is held."""
    random = Random(seed)
    sizes = [random.randint(1, 5) for _ in range(12)]
    ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    spans = [(low, high) for index, low in enumerate(ends) for high in ends[index:]]
    appends = [Append(4, low, 4 if low else 0, high, 4, random.choice(ends)) for low, high in spans]
    beats = [Heartbeat(4, low, 4 if low else 0, random.choice(ends), 1) for low, _ in spans]
    follower = replica_of(3, ModelLog(), 4)
    for message in random.sample([*appends, *beats], 60):
        end, hwm = follower.end_offset, follower.hwm
        follower.step(1.0, 1, message)
        follower.check()
        effects = follower.take_effects()
        assert not any(isinstance(effect, Cut) for effect in effects)
        assert follower.end_offset >= end
        assert follower.hwm >= hwm
