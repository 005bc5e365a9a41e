"""The clock of generations: every message carries one, and the newer one always wins.

A message of a newer generation makes us a follower in it; a request of an older one is answered with ours,
so that a stale leader or candidate steps down; a reply of an older one is about a matter that is over. Two
messages carry a generation that nobody is in yet, and move no clock: a pre-vote and its grant. One is
refused without taking its generation: a request for votes while we hear a leader (SAFETY 40).
"""

from rlog.raft import heartbeat
from rlog.raft.effects import Role
from rlog.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallAnchor,
    Message,
    VoteReply,
    VoteRequest,
)
from rlog.raft.state import State, announce, save_vote, send


def settle(state: State, now: float, sender: int, message: Message) -> bool:
    """Bring us and a message of another generation together. Returns whether it is still to be handled."""
    if message.generation < state.generation:
        bounce(state, sender, message)
        return False
    if isinstance(message, VoteRequest):
        if message.pre:
            return True
        if heartbeat.hears_leader(state, now):
            send(state, sender, VoteReply(state.generation, False, suspect=state.is_suspect))
            return False
    elif isinstance(message, VoteReply) and message.pre and message.granted:
        return True
    adopt(state, now, message.generation, f"{sender} is in generation {message.generation}")
    return True


def bounce(state: State, sender: int, message: Message) -> None:
    """Tell a stale sender which generation it is; say nothing to a stale reply."""
    if isinstance(message, (Append, InstallAnchor)):
        send(state, sender, AppendReply(state.generation, False, 0, 0))
    elif isinstance(message, Heartbeat):
        send(state, sender, HeartbeatReply(state.generation, False, 0, 0, message.round))
    elif isinstance(message, VoteRequest):
        send(state, sender, VoteReply(state.generation, False, message.pre, suspect=state.is_suspect))


def adopt(state: State, now: float, generation: int, reason: str) -> None:
    """Enter a newer generation as a follower that has not voted."""
    save_vote(state, generation, 0)
    follow(state, now, 0, reason)


def follow(state: State, now: float, leader: int, reason: str) -> None:
    """Become a follower of `leader` (0: unknown) in the current generation.

    What was verified holds against one leader only, and progress belongs to one leadership: both start anew.
    """
    led = state.role is Role.LEADER
    state.role = Role.FOLLOWER
    state.leader = leader
    state.match_offset = 0
    state.reported_offset = -1
    state.reply_is_owed = False
    state.grant_owed_to = 0
    state.progress = {}
    state.granted.clear()
    state.granted_by_suspects.clear()
    if led or state.election_deadline <= now:
        heartbeat.restart_election_timer(state, now)
    announce(state, reason)
