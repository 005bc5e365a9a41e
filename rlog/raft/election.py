"""Who leads? Randomized timeouts, pre-vote, stickiness, the up-to-date check, and votes on disk first.

    timeout ──► ask first (pre-vote: same generation, nothing saved)
                  │ a majority would vote for us: none of them hears a leader
                  ▼
                take generation + 1 and our own vote ── saved() ──► ask for votes
                                                                      │ a majority granted
                                                                      ▼
                                                                    lead

Our own vote is saved before the first request leaves, not only before it counts: a candidate that lost its
unflushed tail in a crash must not be elected by grants that were given to the longer log, and after the save
it can only come back in a newer generation, where those grants are stale.

A pre-vote is refused by whoever hears a leader, so a replica that is cut off, or that can be heard but hears
nothing, never raises anybody's generation (SAFETY 40). Stickiness ends early only by `leader_gone`.
"""

import math

from rlog.raft import heartbeat, log_start, quorum, replication
from rlog.raft.effects import Role, WriteStart
from rlog.raft.messages import VoteReply, VoteRequest
from rlog.raft.progress import Progress
from rlog.raft.state import State, announce, save_vote, send


def leader_gone(state: State, now: float) -> None:
    """Our own redial of the leader was refused: ask for pre-votes soon, and grant them (SAFETY 40).

    The delay is random so that the survivors, who learn it at the same moment, do not split the vote.
    """
    if state.role is Role.FOLLOWER and state.leader != 0:
        state.heard_at = -math.inf
        soon = now + state.random.uniform(0, state.heartbeat_s)
        state.election_deadline = min(state.election_deadline, soon)


def timed_out(state: State, now: float) -> None:
    """No leader was heard for a whole timeout: ask the others whether they would vote for us."""
    heartbeat.restart_election_timer(state, now)
    if state.is_suspect or state.failure or state.is_installing:
        # It may have lost what it acknowledged, or cannot keep it, or has no log yet: it waits to be led
        # (SAFETY 15, 19, 25).
        if state.leader != 0:
            state.leader = 0
            announce(state, "the leader is silent; this replica does not campaign")
        return
    state.role = Role.CANDIDATE
    state.leader = 0
    state.match_offset = 0
    state.reply_is_owed = False
    state.grant_owed_to = 0
    state.is_asking_first = True
    state.granted_by_suspects.clear()
    state.granted = {state.node_id}
    announce(state, "no leader heard within the election timeout: asking for pre-votes")
    _continue(state, now)


def request_votes(state: State, peer: int) -> None:
    """Ask one peer for what this candidate needs now; nothing while its own vote is not saved (SAFETY 1)."""
    if state.is_asking_first:
        send(state, peer, VoteRequest(state.generation + 1, state.table.last, state.end_offset, pre=True))
    elif state.is_saved:
        send(state, peer, VoteRequest(state.generation, state.table.last, state.end_offset))


def vote_saved(state: State, now: float) -> None:
    """(generation, vote) is on disk: what waited for it may leave (SAFETY 1)."""
    if state.role is Role.CANDIDATE and not state.is_asking_first:
        state.granted.add(state.node_id)
        _continue(state, now)
    elif state.grant_owed_to:
        send(
            state,
            state.grant_owed_to,
            VoteReply(state.generation, True, suspect=state.is_suspect, log_start=state.log_start),
        )
        state.grant_owed_to = 0


def vote_requested(state: State, now: float, sender: int, request: VoteRequest) -> None:
    """A request in our generation, or a pre-vote for a later one. It always gets an answer."""
    may_grant = (
        not state.failure and not heartbeat.hears_leader(state, now) and _is_up_to_date(state, request)
    )
    if request.pre:
        granted = may_grant and request.generation > state.generation
        named = request.generation if granted else state.generation
        send(
            state,
            sender,
            VoteReply(named, granted, pre=True, suspect=state.is_suspect, log_start=state.log_start),
        )
        if not granted and state.is_asking_first and state.role is Role.CANDIDATE:
            # Its log is behind ours, so it would vote for us; when we asked, it may still have heard the
            # leader. It has given that up by now, so ask again rather than wait for the next timeout.
            request_votes(state, sender)
        return
    if not may_grant or state.vote not in (0, sender):
        send(
            state,
            sender,
            VoteReply(state.generation, False, suspect=state.is_suspect, log_start=state.log_start),
        )
        return
    if state.role is Role.CANDIDATE:
        state.role = Role.FOLLOWER
        announce(state, f"voting for {sender}")
    heartbeat.restart_election_timer(state, now)
    if state.vote == 0:
        save_vote(state, state.generation, sender)
    state.grant_owed_to = sender
    if state.is_saved:
        vote_saved(state, now)


def _answer(state: State, to: int, generation: int, *, granted: bool, pre: bool = False) -> None:
    send(state, to, VoteReply(generation, granted, pre, state.is_suspect, state.log_start))


def vote_answered(state: State, now: float, sender: int, reply: VoteReply) -> None:
    """An answer to this candidate. Answers to what it no longer asks count nothing."""
    if reply.pre != state.is_asking_first:
        return
    if not reply.granted:
        if not reply.pre:
            # A majority would have voted for us, yet this one voted for another candidate: the vote is
            # split. Waiting out a whole timeout would not make the next one less so; a short random time
            # does. If the other candidate wins, its heartbeat comes first.
            soon = now + state.random.uniform(state.heartbeat_s / 2, state.heartbeat_s * 2)
            state.election_deadline = min(state.election_deadline, soon)
        return
    if reply.pre and reply.generation != state.generation + 1:
        return
    # A majority of these knows of every start that a majority kept.
    log_start.learn(state, reply.log_start)
    state.granted.add(sender)
    if reply.suspect:
        state.granted_by_suspects.add(sender)
    _advance(state, now)


def _continue(state: State, now: float) -> None:
    """Our own vote is in: go on if it is enough, else ask the others."""
    if not _advance(state, now):
        for peer in state.peers:
            request_votes(state, peer)


def _advance(state: State, now: float) -> bool:
    """Take the next step if the votes allow it. Returns whether they did."""
    if not quorum.wins(len(state.granted), len(state.granted_by_suspects), state.voter_count):
        return False
    if state.is_asking_first:
        _campaign(state)
    else:
        _lead(state, now)
    return True


def _campaign(state: State) -> None:
    state.is_asking_first = False
    state.granted.clear()
    state.granted_by_suspects.clear()
    save_vote(state, state.generation + 1, state.node_id)
    announce(state, "a majority would vote for this replica: campaigning")


def _lead(state: State, now: float) -> None:
    """Elected. The log goes on where it ends; nothing in it is ever cut by its leader (SAFETY 16)."""
    state.role = Role.LEADER
    state.leader = state.node_id
    state.own_start_offset = state.serve_offset = state.end_offset
    state.progress = {peer: Progress(state.end_offset, now) for peer in state.peers}
    state.round = state.held_log_start = 0
    heartbeat.schedule(state, now)
    announce(state, "elected")
    if state.hwm < state.end_offset:
        # Something in the log is not known to be committed, and only a record of our own generation can
        # settle it by counting (SAFETY 6). Until it does, our mark is not exact (SAFETY 32). With the whole
        # log known committed, leader completeness makes our end the true mark and no record is needed.
        state.effects.append(WriteStart(state.end_offset, state.generation))
        state.table.append(state.generation, state.end_offset)
        state.end_offset += 1
        state.serve_offset = state.end_offset
    log_start.count(state)  # a single voter is a majority
    for peer in state.peers:
        replication.probe(state, peer)


def _is_up_to_date(state: State, request: VoteRequest) -> bool:
    """Last generation first, then the end, our unflushed tail included (SAFETY 11)."""
    return (request.last_generation, request.log_end) >= (state.table.last, state.end_offset)
