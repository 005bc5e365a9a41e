"""Group commit across threads: appenders that meet share one write and one fdatasync.

Who finds nobody at the disk leads: takes the open group, its own record in it, and runs the group's jobs on
its own thread; the GIL is free meanwhile, so others join the next group. When the leader is done it first
wakes one of those, which leads that group, and then everybody of its own. There is no timer, and no thread of
our own: alone, an append costs no change of threads (docs/decisions has the figures).

Interrupts. Python runs signal handlers between any two steps of the main thread, and what they raise may come
anywhere. It leaves the log as usable as it was, by these rules:

* What decides is shared state, changed by single steps: a record has joined or has not, a call leads or does
  not. Nothing is looked up in variables of the call that was interrupted.
* Once the group is taken, an interrupt is kept, and raised when the fate of the append is known. Where it hit
  the middle of the leader's own steps, what memory holds is worth nothing: the files are opened anew, as
  after a crash but without giving the lock away, and what they lack of the group is written again.
* A call that is interrupted before that leaves its place in order: its record may have joined, and is written
  with the next group; who was to be woken is woken.

So whoever catches KeyboardInterrupt goes on with the log, and finds out by reading whether that one append is
in it. Only what interrupts the handling of an interrupt, several times within microseconds, is not provided
for.

A handler may close the log while it interrupts an append: that ends first, and closes the files. It may not
append then: it would wait for itself, and is refused.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Final

from rlog.embedded.writer import Group, Job, Writer
from rlog.errors import OffsetConflict, Reentered, RlogError, StorageFailed

logger = logging.getLogger("rlog.embedded")

Wake = Callable[[], object]

RETAKES_MAX: Final = 8  # what fails as often is no interrupt


class GroupCommit:
    """mutex guards the writer and everything here. Nobody does I/O under it, but to mend, and where old
    records are deleted: then a little of them is read.

    leader: what wakes the call that leads, or that was told to; None: nobody does. taken: the group that the
    leader brings to disk; where there is no leader, what an interrupted one has left. ended: groups of which
    somebody may have to be woken yet. is_closed: nothing joins any more. changed: flushed further, idle,
    closed or fenced; signalled while somebody is `watching`.
    """

    def __init__(self, writer: Writer) -> None:
        self.mutex = threading.Lock()
        self.is_closed = False
        self._writer = writer
        self._leader: Wake | None = None
        self._taken: Group | None = None
        self._ended: list[Group] = []
        self._changed = threading.Condition(self.mutex)
        self._watching = 0
        self._left_to_close: Callable[[], None] | None = None

    @property
    def is_torn(self) -> bool:
        """Whether an interrupt has left what the writer holds in memory half changed."""
        taken = self._taken
        return taken is not None and not taken.is_done and taken is not self._writer.open

    # ---- changing the log

    def commit(self, join: Callable[[], Group], expect_offset: int | None = None) -> tuple[int, Group]:
        """Call `join`, a method of the writer with its arguments, and return when its group is on disk.

        Returns where the log ended before, the offset of the first record added; and the group. Raises
        Reentered.
        """
        try:
            return self._commit(join, expect_offset)
        finally:
            if self._left_to_close is not None:
                self._close_for_handler()

    def _commit(self, join: Callable[[], Group], expect_offset: int | None) -> tuple[int, Group]:
        if self._interrupts_itself():
            raise Reentered(
                "a signal handler appended to the log, or deleted from it, in the midst of an append of its "
                "own thread: let it set a flag, and append where that is looked at"
            )
        ticket = threading.Lock()
        wake = ticket.release
        try:
            try:
                with self.mutex:
                    if self.is_closed:
                        raise self._writer.closed()
                    self._writer.check(expect_offset)
                    offset = self._writer.open.end_offset
                    group = join()
                    self._come(ticket, wake, group)
            except OffsetConflict:
                self._settle_others(ticket, wake)
                raise
            self._settle(ticket, wake, group)
        except BaseException:
            while True:
                try:
                    self._leave(wake)
                    break
                except BaseException:  # a second interrupt: nobody may be left asleep
                    continue
            raise
        return offset, group

    def _come(self, ticket: threading.Lock, wake: Wake, group: Group) -> None:
        """The caller leads if nobody does; else it waits with `group`, until that is done or is to be led."""
        if self._leader is None:
            self._leader = wake
        else:
            ticket.acquire()
            group.waiters.append(wake)

    def _settle_others(self, ticket: threading.Lock, wake: Wake) -> None:
        """Who lost the race for an offset reads on from there: what won it must be on disk by then."""
        with self.mutex:
            group = self._taken if self._writer.open.is_empty else self._writer.open
            if group is None:
                return
            self._come(ticket, wake, group)
        self._settle(ticket, wake, group, is_member=False)

    def _settle(self, ticket: threading.Lock, wake: Wake, group: Group, *, is_member: bool = True) -> None:
        """Return when `group` is on disk: lead it, or wait for that. Raises why it is not."""
        interrupt: BaseException | None = None
        while self._leader is not wake and not group.is_done:
            try:
                ticket.acquire()
            except BaseException as error:
                interrupt = error
        if self._leader is wake:
            interrupt = self._lead(wake, group) or interrupt
        if interrupt is not None:
            raise interrupt
        if group.error is not None:
            raise self._writer.error_of(group.error, is_written=group.is_written and is_member)

    def _leave(self, wake: Wake) -> None:
        """The caller goes, wherever an error or an interrupt met it. May be called again."""
        with self.mutex:
            open_group = self._writer.open
            for group in (self._taken, open_group):
                if group is not None and wake in group.waiters:
                    group.waiters.remove(wake)
            if self._leader is wake:
                if self._writer.failure is not None:
                    self._fence(self._writer.failure)
                self._hand_on()
            elif self._leader is not None:
                _wake([self._leader])
            self._wake_ended()
            if self._watching:
                self._changed.notify_all()

    # ---- leading

    def _lead(self, wake: Wake, group: Group) -> BaseException | None:
        """Bring groups to disk until `group` is, then hand the lead on. Returns an interrupt that came
        meanwhile.
        """
        interrupt = None
        retakes = 0
        while not group.is_done:
            job = None
            try:
                with self.mutex:
                    job = self._begin()
                while job is not None:
                    interrupt = _run(job) or interrupt
                    with self.mutex:
                        job = self._writer.job_done(job)
                self._finish(group)
            except RlogError as error:
                self._fail(error)
            except BaseException as error:
                interrupt = error
                retakes += 1
                if job is not None and job.finished and job.error:  # SAFETY 15: no interrupt hides it
                    self._fail(StorageFailed.of(self._writer.name, job.error_operation, job.error))
                elif retakes > RETAKES_MAX:
                    self._fail(error)
        if self._leader is wake:
            with self.mutex:
                self._hand_on()
                if self._watching:
                    self._changed.notify_all()
        return interrupt

    def _begin(self) -> Job | None:
        """The first job of the open group, or of one whose taking was interrupted. The mutex is held."""
        if self.is_torn:
            assert self._taken is not None
            return self._writer.retake(self._taken)
        self._taken = self._writer.open
        return self._writer.take()

    def _finish(self, own: Group) -> None:
        """The group taken is on disk. Wake who leads next, if the leader's own group is, then everybody."""
        with self.mutex:
            group = self._taken
            assert group is not None
            group.is_done = True
            self._ended.append(group)
            self._taken = None
            if own.is_done:
                self._hand_on()
            self._wake_ended()
            if self._watching:
                self._changed.notify_all()

    def _hand_on(self) -> None:
        """Whoever waits longest leads from now on; nobody, where nobody waits."""
        waiters = self._writer.open.waiters
        if self.is_torn:
            assert self._taken is not None
            waiters = self._taken.waiters or waiters
        else:
            self._taken = None
        self._leader = waiters[0] if waiters else None
        _wake(waiters[:1])

    def _fail(self, error: BaseException) -> None:
        with self.mutex:
            self._fence(error)

    def _fence(self, error: BaseException) -> None:
        """Nothing more is written, and who waits is told so. May be called again."""
        writer = self._writer
        if writer.failure is None:
            writer.failure = error
        for group in (self._taken, writer.open):
            if group is not None and not group.is_done:
                group.error = error
                group.is_done = True
                self._ended.append(group)
        self._taken = None
        writer.fence(error)
        if self._watching:
            self._changed.notify_all()
        self._wake_ended()

    def _wake_ended(self) -> None:
        for group in self._ended:
            _wake(group.waiters)
        self._ended.clear()

    # ---- waiting

    def wait_until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Whether `condition` came true in time; looked at whenever something was flushed, or all ended."""
        with self.mutex:
            self._watching += 1
            try:
                return self._changed.wait_for(condition, timeout_s)
            finally:
                self._watching -= 1

    def close(self, release: Callable[[], None]) -> bool:
        """Let nothing join any more, and return when nobody is at the disk.

        False for a signal handler that interrupts an append of its own thread: it must not wait for that,
        which calls `release` as it ends.
        """
        if self._interrupts_itself():
            self.is_closed = True
            self._left_to_close = release
            return False
        with self.mutex:
            self.is_closed = True
            self._changed.notify_all()
        self.wait_until(lambda: self._leader is None, None)
        return True

    def _interrupts_itself(self) -> bool:
        """Whether the caller is a signal handler, in the middle of a commit or a close of its own thread.

        Python runs handlers in the main thread alone. Only the stack says what they interrupted: a note of it
        could be missing, or left behind, where the interrupt comes between two steps.
        """
        if self._leader is None and not self.mutex.locked():
            return False
        if threading.get_ident() != threading.main_thread().ident:
            return False
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            if frame.f_code in _WAITING and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        return False

    def _close_for_handler(self) -> None:
        release, self._left_to_close = self._left_to_close, None
        if release is not None:
            try:
                release()
            except RlogError:  # the append has its own fate, and whoever closed has gone on
                logger.exception("closing in a signal handler")


def _run(job: Job) -> BaseException | None:
    """Run `job` to its end. Returns an interrupt that came meanwhile: the disk has answered all the same."""
    try:
        job.run()
    except BaseException as error:
        if not job.finished:
            raise
        return error
    return None


def _wake(waiters: Iterable[Wake]) -> None:
    for wake in waiters:
        try:
            wake()
        except RuntimeError:
            pass  # it is awake: woken before an interrupt, or never asleep


_WAITING: Final = (GroupCommit._commit.__code__, GroupCommit.close.__code__)
