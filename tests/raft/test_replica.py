"""What one replica does by itself: its edges, its clock, what it refuses, and what it costs."""

import math
import subprocess
import sys
from random import Random

import pytest

from rlog.errors import ConfigurationError
from rlog.raft.effects import Effect, Fatal, HwmMoved, Role, Send
from rlog.raft.messages import Append, AppendReply, Heartbeat, HeartbeatReply, VoteReply, VoteRequest
from rlog.raft.replica import RaftSettings, Replica
from tests.raft.model import ModelLog
from tests.raft.test_logs import log_of, replica_of

FORBIDDEN = {"asyncio", "socket", "ssl", "selectors", "subprocess", "threading", "uvloop"}


def fatals(replica: Replica) -> list[str]:
    return [effect.reason for effect in replica.take_effects() if isinstance(effect, Fatal)]


def leading(heartbeat_ms: int = 100) -> Replica:
    replica = replica_of(1, ModelLog(), 0, heartbeat_ms=heartbeat_ms)
    now = replica.deadline
    replica.tick(now)
    replica.step(now, 2, VoteReply(1, True, pre=True))
    replica.saved(now, 1)
    replica.step(now, 2, VoteReply(1, True))
    assert replica.role is Role.LEADER
    for peer in (2, 3):
        replica.step(now, peer, AppendReply(1, True, 0, 0))
    replica.take_effects()
    return replica


def test_the_core_loads_nothing_that_does_io() -> None:
    """By what importing it really loads, errors included; the static side is in test_tidy."""
    code = "import sys, rlog.raft.replica; print('\\n'.join(sys.modules))"
    bare = subprocess.run(
        [sys.executable, "-c", "import sys, random; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not FORBIDDEN & (set(loaded.stdout.split()) - set(bare.stdout.split()))
    assert not {
        name for name in loaded.stdout.split() if name.startswith(("rlog.node", "rlog.log", "rlog.wire"))
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"node_id": 4},
        {"voters": frozenset({0, 1})},
        {"election_timeout_ms": (250, 500)},
        {"election_timeout_ms": (500, 500)},
        {"heartbeat_ms": 0},
        {"inflight_count_max": 0},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        RaftSettings(**{"node_id": 1, "voters": frozenset({1, 2, 3}), **settings})


def test_the_generation_starts_at_what_the_disk_implies() -> None:
    """SAFETY 2: the larger of meta's and the log's; a vote holds in its own generation only."""

    def started(generation: int, vote: int) -> Replica:
        log = log_of((1, 5))
        return Replica(
            RaftSettings(1, frozenset({1, 2, 3})), random=Random(1), log=log, generation=generation,
            vote=vote, generations=log.generations(), start_offset=0, log_start=0, end_offset=2,
            flushed_offset=2, now=0.0,
        )  # fmt: skip

    assert (started(3, 2).generation, started(3, 2).vote) == (5, 0)
    assert (started(5, 2).generation, started(5, 2).vote) == (5, 2)
    assert (started(7, 3).generation, started(7, 3).vote) == (7, 3)


def test_heartbeats_leave_on_the_grid() -> None:
    replica = leading(heartbeat_ms=70)
    for _ in range(2000):
        due = replica.deadline
        assert math.isclose(due / 0.07, round(due / 0.07), abs_tol=1e-6)
        replica.tick(due - 1e-4)
        assert not replica.take_effects()
        replica.tick(due)
        beats = [effect.message for effect in replica.take_effects() if isinstance(effect, Send)]
        assert [type(beat) for beat in beats] == [Heartbeat, Heartbeat]
        assert due < replica.deadline <= due + 0.0701
        for peer in (2, 3):
            replica.step(due, peer, HeartbeatReply(1, True, 0, 0, beats[0].round))


def test_election_timeouts_differ() -> None:
    """SAFETY 46: replicas of many partitions do not stand in lock step."""
    deadlines = {replica_of(node_id, ModelLog(), 0).deadline for node_id in (1, 2, 3)}
    assert len(deadlines) == 3
    assert all(0.5 <= deadline <= 1.0 for deadline in deadlines)


def test_strangers_are_ignored() -> None:
    replica = replica_of(1, ModelLog(), 0)
    replica.step(0.0, 9, VoteRequest(50, 40, 30))
    replica.step(0.0, 1, Heartbeat(50, 0, 0, 0, 1))
    assert not replica.take_effects()
    assert replica.generation == 0


def test_a_second_leader_of_a_generation_stops_the_partition() -> None:
    follower = replica_of(3, ModelLog(), 4)
    follower.step(0.0, 1, Heartbeat(4, 0, 0, 0, 1))
    follower.take_effects()
    follower.step(0.0, 2, Heartbeat(4, 0, 0, 0, 1))
    assert fatals(follower) == ["both 1 and 2 lead generation 4"]
    leader = leading()
    leader.step(1.0, 2, Append(1, 0, 0, 0, 1, 0))
    assert fatals(leader) == ["both 1 and 2 lead generation 1"]
    leader.tick(math.inf)
    leader.proposed(2.0, 10)
    leader.flushed(2.0, 10)
    leader.step(2.0, 2, VoteRequest(9, 9, 9))
    assert not leader.take_effects(), "it never proceeds"
    assert leader.deadline == math.inf


def test_nothing_committed_is_cut_the_partition_stops() -> None:
    """SAFETY 7: an append that conflicts below the mark, or below what its own leader verified, is no
    order."""
    follower = replica_of(3, log_of((1, 1, 1)), 4)
    follower.step(0.0, 1, Heartbeat(4, 3, 1, 3, 1))
    assert HwmMoved(3) in follower.take_effects()
    follower.step(0.0, 1, Append(5, 1, 1, 2, 4, 3))
    assert fatals(follower) == ["cut at 1 would remove verified records: hwm 3, match 0"]
    other = replica_of(3, log_of((1, 1, 1)), 4)
    other.step(0.0, 1, Append(4, 3, 1, 3, 4, 0))
    other.step(0.0, 1, Append(4, 1, 1, 2, 4, 0))
    assert fatals(other) == ["cut at 1 would remove verified records: hwm 0, match 3"]


def test_impossible_reports_stop_the_partition() -> None:
    leader = leading()
    leader.flushed(1.0, 1)
    assert fatals(leader) == ["flushed up to 1, but the log ends at 0"]
    leader = leading()
    leader.step(1.0, 2, AppendReply(1, True, 7, 7))
    assert fatals(leader) == ["2 claims 7 verified of 0 records"]
    leader = leading()
    leader.saved(1.0, 9)
    assert fatals(leader) == ["vote 9 saved, but only 1 were asked for"]
    follower = replica_of(2, ModelLog(), 0)
    follower.proposed(0.0, 5)
    assert fatals(follower) == ["records up to 5 appended by a follower at 0"]


def test_the_steady_state_costs_one_message_each_way_for_a_follower() -> None:
    """Per tick: one Append to each follower, one answer for each flush, nothing else; no save."""
    leader, effects = leading(), list[Effect]()
    follower = replica_of(2, ModelLog(), 1)
    follower.step(0.0, 1, Append(1, 0, 0, 0, 1, 0))
    follower.take_effects()
    for tick in range(1, 51):
        leader.proposed(2.0, tick * 10, 1000)
        appends = leader.take_effects()
        assert [effect.to for effect in appends if isinstance(effect, Send)] == [2, 3]
        assert len(appends) == 2
        assert isinstance(appends[0], Send)
        follower.step(2.0, 1, appends[0].message)
        assert not [effect for effect in follower.take_effects() if isinstance(effect, Send)]
        follower.flushed(2.0, tick * 10)
        (answer,) = follower.take_effects()
        assert isinstance(answer, Send)
        leader.flushed(2.0, tick * 10)
        leader.step(2.0, 2, answer.message)
        effects = leader.take_effects()
        assert effects == [HwmMoved(tick * 10)]
        leader.step(2.0, 3, answer.message)
        assert not leader.take_effects()


def test_a_heartbeat_that_was_not_answered_before_the_next_is_counted() -> None:
    replica = leading()
    for beat in (1, 2, 3):
        now = replica.deadline
        replica.tick(now)
        replica.step(now + 0.01, 2, HeartbeatReply(1, True, 0, 0, beat))  # and 3 is silent
    assert replica.heartbeats_missed == 2
    for beat in (4, 5):
        for peer in (2, 3):
            replica.step(replica.deadline - 0.01, peer, HeartbeatReply(1, True, 0, 0, beat - 1))
        replica.tick(replica.deadline)
    assert replica.heartbeats_missed == 2
