"""The leader's pulse: it keeps followers from campaigning, carries the high-water mark, shows what was lost.

Heartbeats leave on a grid (whole multiples of the interval of the loop's clock), so that all partitions
that a node leads fire in one tick and share one frame per peer. A leader that a majority did not answer
within the shortest election timeout steps down (check-quorum, SAFETY 40): by then the others may have
elected another.
"""

import math

from rlog.raft import high_water_mark, log_start, quorum, replication
from rlog.raft.effects import Role
from rlog.raft.messages import Heartbeat, HeartbeatReply
from rlog.raft.state import State, send


def schedule(state: State, now: float) -> None:
    """Set the next heartbeat to the next point of the grid."""
    interval = state.heartbeat_s
    state.heartbeat_deadline = (math.floor(now / interval) + 1) * interval
    if state.heartbeat_deadline <= now:
        # The quotient was rounded across a grid point.
        state.heartbeat_deadline += interval


def restart_election_timer(state: State, now: float) -> None:
    """Draw a new timeout from now on."""
    state.election_timeout_s = state.random.uniform(state.timeout_min_s, state.timeout_max_s)
    state.election_deadline = now + state.election_timeout_s


def hears_leader(state: State, now: float) -> bool:
    """Whether there is a leader that we have no reason to give up (SAFETY 40)."""
    if state.role is Role.LEADER:
        return True
    return state.leader != 0 and now - state.heard_at < state.timeout_min_s


def has_quorum(state: State, now: float) -> bool:
    """Leader: whether a majority, itself included, answered within the shortest election timeout."""
    heard = 1 + sum(now - progress.contact < state.timeout_min_s for progress in state.progress.values())
    return heard >= quorum.majority(state.voter_count)


def beat(state: State, now: float) -> None:
    """Leader, at a point of the grid: tell every follower."""
    last_beat = state.heartbeat_deadline - state.heartbeat_s
    schedule(state, now)
    state.round += 1
    for peer in state.peers:
        progress = state.progress[peer]
        state.heartbeats_missed += progress.contact < last_beat
        progress.round_offset = progress.next_offset
        prev = progress.match_offset if progress.match_offset >= state.start_offset else 0
        before = state.table.before(prev)
        send(
            state,
            peer,
            Heartbeat(state.generation, prev, before, state.hwm, state.round, state.log_start),
        )


def heard(state: State, sender: int, message: Heartbeat) -> None:
    """Follower: the leader lives. A heartbeat verifies up to its prev and cuts nothing (SAFETY 8)."""
    log_start.learn(state, message.log_start)
    if not replication.holds(state, message.prev_offset, message.prev_generation):
        offset, conflicting = replication.conflict(state, message.prev_offset, message.prev_generation)
        send(
            state,
            sender,
            HeartbeatReply(
                state.generation,
                False,
                state.match_offset,
                replication.reportable(state),
                message.round,
                offset,
                conflicting,
                state.saved_log_start,
            ),
        )
        return
    state.match_offset = max(state.match_offset, message.prev_offset)
    high_water_mark.follow(state, message.hwm, message.prev_offset)
    if not state.is_saved:
        state.reply_is_owed = True
        return
    state.reported_offset = replication.reportable(state)
    send(
        state,
        sender,
        HeartbeatReply(
            state.generation,
            True,
            state.match_offset,
            state.reported_offset,
            message.round,
            log_start=state.saved_log_start,
        ),
    )


def answered(state: State, now: float, sender: int, reply: HeartbeatReply) -> None:
    """Leader: a follower lives. What it holds tells whether something sent to it was lost (SAFETY 45)."""
    replication.answered(state, now, sender, reply)
    if state.is_stopped or not reply.accepted or reply.round != state.round:
        return
    progress = state.progress[sender]
    if reply.log_start > progress.log_start:
        progress.log_start = reply.log_start
        log_start.learn(state, reply.log_start)  # an earlier leader's word that only a minority kept
        log_start.count(state)
    if progress.replicating and reply.match_offset < progress.round_offset:
        replication.probe(state, sender)
