"""What must happen to open logs when their process forks or ends without closing them.

A forked child has copies of the parent's descriptors, the one with the lock among them, and of its memory as
some other thread was changing it. It closes the descriptors, which leaves the parent's alone, and refuses all
else. At exit, logs that are still open are closed, so that the next opening finds a clean end; what was
acknowledged is on disk either way.
"""

import atexit
import logging
import os
from typing import Protocol
from weakref import WeakValueDictionary

from rlog.errors import ForkedProcess, RlogError

logger = logging.getLogger("rlog.embedded")


class Lives(Protocol):
    """An open log."""

    @property
    def path(self) -> str: ...
    def end(self) -> None:
        """Close it, blocking, from whatever thread. Idempotent."""

    def abandon(self) -> None:
        """Close the descriptors, in a forked child. Touches no lock: its holder may not exist here."""


_open: "WeakValueDictionary[int, Lives]" = WeakValueDictionary()


def opened(log: Lives) -> None:
    _open[id(log)] = log


def closed(log: Lives) -> None:
    _open.pop(id(log), None)


def forked(path: str, process_id: int) -> ForkedProcess:
    return ForkedProcess(
        f"{path} was opened by process {process_id}, of which this one is a fork: the log is the parent's. "
        "Append there, or open a log of another directory here"
    )


def _living() -> list[Lives]:
    # valuerefs() copies in one step: another thread may open a log meanwhile.
    return [log for reference in _open.valuerefs() if (log := reference()) is not None]


def _at_exit() -> None:
    for log in _living():
        try:
            log.end()
        except RlogError as error:
            logger.error("%s could not be closed at exit: %s", log.path, error)
        except Exception:  # the others are to be closed too
            logger.exception("%s could not be closed at exit", log.path)


def _in_child() -> None:
    for log in _living():
        log.abandon()
    _open.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_in_child)
