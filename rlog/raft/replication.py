"""How records reach the followers, and how a follower's log becomes the leader's.

Leader: probe until the logs are known to agree somewhere, then pipeline. It sends as it appends, never
waiting for its own disk. Follower: accept only what follows a record that it shares with the leader (SAFETY
9), cut only at the first record that differs (SAFETY 8), answer when it is flushed.

Every Append of a generation is a true statement about its leader's log for ever, as that log only grows. So
one that is late, doubled or overtaken can be refused or be old news, but never wrong.
"""

from rlog.raft import high_water_mark, log_start
from rlog.raft.effects import Cut, HwmMoved, Install, Write
from rlog.raft.messages import Append, AppendReply, HeartbeatReply, InstallAnchor
from rlog.raft.probing import hint, probe_after
from rlog.raft.progress import Progress
from rlog.raft.state import State, send, stop

# ---- leader ------------------------------------------------------------------------------------------------


def proposed(state: State, end_offset: int, size_bytes: int) -> None:
    """Our log grew to `end_offset` by records of our generation: send them."""
    start = state.end_offset
    settings = state.settings
    state.table.append(state.generation, start)
    state.end_offset = end_offset
    append: Append | None = None
    for peer in state.peers:
        progress = state.progress[peer]
        if progress.next_offset == start and 0 < size_bytes <= settings.append_bytes_max:
            # The steady case: this peer has all the rest, and one Append carries what is new to all of them.
            if progress.admits(size_bytes, settings.inflight_bytes_max, settings.inflight_count_max):
                if append is None:
                    append = _append(state, start, end_offset)
                send(state, peer, append)
                progress.sent(end_offset, size_bytes)
        else:
            replicate(state, peer, progress)


def replicate(state: State, peer: int, progress: Progress) -> None:
    """Send as much as may be under way. Bounded by inflight_count_max."""
    settings = state.settings
    charge = settings.append_bytes_max
    while progress.next_offset < state.end_offset and progress.admits(
        charge, settings.inflight_bytes_max, settings.inflight_count_max
    ):
        start = progress.next_offset
        end = state.log.boundary(start, bytes_max=settings.append_bytes_max, end_max=state.end_offset)
        if end <= start:
            return
        send(state, peer, _append(state, start, end))
        progress.sent(end, charge)


def probe(state: State, peer: int) -> None:
    """Ask whether the peer holds everything up to its `next_offset`; one is always possible (SAFETY 45)."""
    offset = state.progress[peer].next_offset
    send(state, peer, _append(state, offset, offset))


def answered(state: State, now: float, sender: int, reply: AppendReply | HeartbeatReply) -> None:
    """Leader: what a follower holds, or where to ask next."""
    progress = state.progress[sender]
    progress.contact = now
    if reply.accepted:
        if reply.match_offset > state.end_offset or reply.flushed_offset > reply.match_offset:
            stop(state, f"{sender} claims {reply.match_offset} verified of {state.end_offset} records")
            return
        flushed_before = progress.flushed_offset
        progress.accepted(reply.match_offset, reply.flushed_offset)
        if progress.flushed_offset > flushed_before:
            high_water_mark.count(state)
        if progress.replicating:
            replicate(state, sender, progress)
        else:
            # It holds less than was asked about, and did not refuse: the probe was lost, or is on its way.
            probe(state, sender)
        return
    offset = probe_after(state.table, reply.conflict_offset, reply.conflict_generation, state.end_offset)
    if offset < state.start_offset:
        log_start.offer_anchor(state, sender)
        return
    progress.probe(offset)
    probe(state, sender)


def _append(state: State, start: int, end: int) -> Append:
    table = state.table
    generation = state.generation
    if start > state.own_start_offset:
        return Append(generation, start, generation, end, generation, state.hwm)
    span_generation = table.before(start + 1) if end > start else generation
    return Append(generation, start, table.before(start), end, span_generation, state.hwm)


# ---- follower ----------------------------------------------------------------------------------------------


def holds(state: State, offset: int, generation: int) -> bool:
    """Whether our log has a record of `generation` just before `offset` (SAFETY 9).

    What is deleted here was committed, so the leader has, or had, the same.
    """
    if offset < state.start_offset:
        return True
    return offset <= state.end_offset and state.table.before(offset) == generation


def conflict(state: State, offset: int, generation: int) -> tuple[int, int]:
    """Where the leader is to ask next; never about what is deleted here."""
    found = hint(state.table, min(offset, state.end_offset), generation)
    if found[0] < state.start_offset:
        return state.start_offset, state.table.before(state.start_offset)
    return found


def reportable(state: State) -> int:
    """What we may call flushed: on our disk *and* the same as the leader's (SAFETY 4)."""
    return min(state.flushed_offset, state.match_offset)


def received(state: State, sender: int, message: Append) -> None:
    """Follower: an Append of the current leader, lost (to be sent again) while an anchor is installed."""
    if state.is_installing:
        return
    if not holds(state, message.prev_offset, message.prev_generation):
        offset, generation = conflict(state, message.prev_offset, message.prev_generation)
        send(
            state,
            sender,
            AppendReply(state.generation, False, state.match_offset, reportable(state), offset, generation),
        )
        return
    match_before = state.match_offset
    written = _write(state, message)
    if state.is_stopped:
        return
    state.match_offset = max(match_before, message.end_offset, state.start_offset)
    high_water_mark.follow(state, message.hwm, message.end_offset)
    # What extends the verified log is answered when it is flushed; anything else (a probe, a duplicate, the
    # first that fits) at once, as no flush may follow.
    if not written or message.prev_offset != match_before:
        reply(state)


def anchor_offered(state: State, message: InstallAnchor) -> None:
    """Follower: hold what the anchor stands for already, or let it replace our log (SAFETY 25)."""
    if state.is_installing:
        return
    offset, generation = message.offset, message.anchor_generation
    if holds(state, offset, generation):
        state.match_offset = max(state.match_offset, offset, state.start_offset)
        reply(state)
        return
    if offset <= state.hwm:
        stop(state, f"anchor ({offset}, {generation}) contradicts what is committed up to {state.hwm}")
        return
    state.effects.append(Install(offset, generation, message.run_start))
    state.table.replace(generation, message.run_start)
    state.start_offset = state.end_offset = state.hwm = offset
    state.flushed_offset = state.match_offset = 0
    state.log_start = max(state.log_start, offset)
    state.effects.append(HwmMoved(offset))


def flushed(state: State) -> None:
    """Follower: more is on disk. Tell the leader what of it counts."""
    if state.match_offset < state.start_offset:
        state.match_offset = state.start_offset  # an anchor has been installed
    if state.leader and reportable(state) > state.reported_offset:
        reply(state)
    if state.is_suspect:
        high_water_mark.clear_suspect(state)


def reply(state: State) -> None:
    """Tell the leader what we hold; after our generation is saved (SAFETY 1)."""
    state.reply_is_owed = not state.is_saved
    if state.is_saved:
        state.reported_offset = reportable(state)
        send(
            state,
            state.leader,
            AppendReply(state.generation, True, state.match_offset, state.reported_offset),
        )


def _write(state: State, message: Append) -> bool:
    """Make [prev, end) of our log the leader's. Returns whether anything was written.

    What we hold of the span's generation is what it brings (SAFETY 28), so writing starts where our run of it
    ends: at our log's end, or at the first record of another generation, which is cut with all behind it.
    """
    base, end, generation = message.prev_offset, message.end_offset, message.span_generation
    base = max(base, min(state.start_offset, end))
    if base < state.end_offset and state.table.before(base + 1) == generation:
        base = state.table.run_end(base, state.end_offset)
    if base >= end:
        return False
    if base < state.end_offset:
        if base < state.hwm or base < state.match_offset:
            stop(
                state,
                f"cut at {base} would remove verified records: hwm {state.hwm}, match {state.match_offset}",
            )
            return False
        _cut(state, base)
    state.effects.append(Write(base, end, generation))
    state.table.append(generation, base)
    state.end_offset = end
    return True


def _cut(state: State, offset: int) -> None:
    """Lower everything that knows the tail, in one step, before anything overwrites it (SAFETY 13)."""
    state.effects.append(Cut(offset))
    state.end_offset = offset
    state.flushed_offset = min(state.flushed_offset, offset)
    state.table.cut(offset)
