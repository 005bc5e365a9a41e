"""When is a record committed? When a majority has *flushed* it, counted in the leader's own generation.

The leader counts itself by its own flushed offset, like everyone (SAFETY 5), also when it is the only voter.
Records of older generations commit only together with one of its own (SAFETY 6; Raft, figure 8).
"""

from rlog.raft import log_start
from rlog.raft.effects import HwmMoved, SuspectCleared
from rlog.raft.quorum import held_by_majority
from rlog.raft.state import State


def count(state: State) -> None:
    """Leader: move the mark to what a majority has flushed."""
    flushed = [progress.flushed_offset for progress in state.progress.values()]
    flushed.append(state.flushed_offset)
    held = held_by_majority(flushed)
    if held > state.hwm and held > state.own_start_offset:
        _move(state, held)


def follow(state: State, leader_hwm: int, verified_offset: int) -> None:
    """Follower: the leader's mark, as far as *this* message verified our log (SAFETY 10)."""
    hwm = min(leader_hwm, verified_offset)
    if hwm > state.hwm:
        _move(state, hwm)
    if state.is_suspect:
        clear_suspect(state)


def clear_suspect(state: State) -> None:
    """Trust a suspect replica again once it holds, flushed, a commit of the current generation (SAFETY 19).

    That commit proves a majority without its lost acknowledgements, and log matching proves the rest.
    """
    held = min(state.hwm, state.match_offset, state.flushed_offset)
    if held > 0 and state.table.before(held) == state.generation:
        state.is_suspect = False
        state.effects.append(SuspectCleared())


def _move(state: State, hwm: int) -> None:
    assert state.hwm < hwm <= state.end_offset
    state.hwm = hwm
    state.effects.append(HwmMoved(hwm))
    if state.log_start > state.kept_log_start:
        log_start.keep(state)
