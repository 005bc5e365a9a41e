"""Deleting a partition's oldest records: asked for by a client (DeleteRecords), or by its retention settings.

Both move the log start, by consensus (raft/log_start.py). A client's request is answered when a majority has
the new start on disk: then no later leader shows the deleted records again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from rlog.wire.kafka import codes


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """error: a Kafka error code. log_start: the first offset that is left; -1 on an error."""

    error: int
    log_start: int = -1


WAITS_COUNT_MAX = 1000
"""Requests that may wait at once, per partition; more are refused, and may be sent again later."""

DeleteDone = Callable[[DeleteResult], None]


@dataclass(frozen=True, slots=True)
class _Wait:
    offset: int
    deadline: float
    done: DeleteDone


class Deletions:
    """The requests of one partition that wait for a majority to keep the new start."""

    __slots__ = ("_waits",)

    def __init__(self) -> None:
        self._waits: list[_Wait] = []

    @property
    def is_full(self) -> bool:
        return len(self._waits) >= WAITS_COUNT_MAX

    @property
    def deadline(self) -> float:
        """Loop seconds; when `expire` has something to do."""
        return min((wait.deadline for wait in self._waits), default=inf)

    def wait(self, offset: int, deadline: float, done: DeleteDone) -> None:
        self._waits.append(_Wait(offset, deadline, done))

    def held(self, log_start: int) -> None:
        """A majority keeps `log_start`."""
        self._answer(lambda wait: wait.offset <= log_start, DeleteResult(codes.NONE, log_start))

    def expire(self, now: float) -> None:
        self._answer(lambda wait: wait.deadline <= now, DeleteResult(codes.REQUEST_TIMED_OUT))

    def give_up(self) -> None:
        """Leadership ended: it is not known what will come of them; to ask again does no harm."""
        self._answer(lambda _: True, DeleteResult(codes.NOT_LEADER_OR_FOLLOWER))

    def _answer(self, is_due: Callable[[_Wait], bool], result: DeleteResult) -> None:
        due = [wait for wait in self._waits if is_due(wait)]
        self._waits = [wait for wait in self._waits if not is_due(wait)]
        for wait in due:
            wait.done(result)
