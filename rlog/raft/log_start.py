"""Where does the log begin? Deleting a prefix is the leader's word, kept by a majority like a vote.

Two places (SAFETY 10): `log_start` is what readers see, decided by the leader (`trim`); `start_offset` is the
batch boundary at which this replica's own files begin, which follows as whole segments fall below it.

The leader's log start travels with its heartbeats, and each replica puts it on disk as far as it holds what
is committed there: so it never points past a log that comes back from a crash. Replies tell how far it is on
disk, and votes do too: a new leader was granted by a majority, so it knows every start that any majority
kept. What was told to a client as deleted is never seen again.

A follower whose log ends below the leader's `start_offset` cannot be caught up by records: it installs the
leader's anchor (SAFETY 25, 26), which replaces its log. Everything below an anchor was committed. So no
replica needs to compare anything below its own start with a leader's: it is the same (leader completeness).
"""

from rlog.raft.effects import Role, StartHeld, StartMoved
from rlog.raft.messages import InstallAnchor
from rlog.raft.quorum import held_by_majority
from rlog.raft.state import State, send, stop


def trim(state: State, offset: int) -> None:
    """Leader: delete what is below `offset`, which is committed."""
    if offset > state.hwm:
        stop(state, f"trim at {offset} with hwm {state.hwm}")
        return
    learn(state, offset)


def learn(state: State, log_start: int) -> None:
    """A log start that a leader decided. It was committed there; here it waits until it is known to be."""
    if log_start > state.log_start:
        state.log_start = log_start
        keep(state)


def keep(state: State) -> None:
    """Put the start on disk, as far as our own log is flushed and committed."""
    start = min(state.log_start, state.hwm, state.flushed_offset)
    if start > state.kept_log_start:
        state.kept_log_start = start
        state.effects.append(StartMoved(start))


def saved(state: State, log_start: int) -> None:
    """Our log start is on disk up to `log_start`."""
    state.saved_log_start = max(state.saved_log_start, log_start)
    count(state)


def count(state: State) -> None:
    """Leader: how far a majority has it on disk."""
    if state.role is not Role.LEADER:
        return
    starts = [progress.log_start for progress in state.progress.values()]
    held = held_by_majority([*starts, state.saved_log_start])
    if held > state.held_log_start:
        state.held_log_start = held
        state.effects.append(StartHeld(held))


def base_moved(state: State, start_offset: int) -> None:
    """The files below `start_offset` are gone, here alone. Who still needs them gets the anchor."""
    if not state.start_offset < start_offset <= state.log_start or start_offset > state.hwm:
        stop(state, f"files below {start_offset} are gone: log start {state.log_start}, hwm {state.hwm}")
        return
    state.start_offset = start_offset
    state.table.prune(start_offset)
    for peer, progress in state.progress.items():
        if progress.next_offset < start_offset:
            offer_anchor(state, peer)


def offer_anchor(state: State, peer: int) -> None:
    """Leader: the peer may lack what our log does not hold any more."""
    offset = state.start_offset
    generation, run_start = state.table.run_before(offset)
    state.progress[peer].probe(offset)
    send(state, peer, InstallAnchor(state.generation, offset, generation, run_start, state.log_start))
