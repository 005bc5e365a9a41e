"""Group commit across threads: appenders that meet share one write and one fdatasync.

Who finds nobody at the disk leads: takes the open group, its own record in it, and runs the group's jobs on
its own thread; the GIL is free meanwhile, so others join the next group. When the leader is done it first
wakes one of those, which leads that group, and then everybody of its own. There is no timer, and no thread of
our own: alone, an append costs no change of threads.

Interrupts. Python runs signal handlers between any two steps of the main thread. A KeyboardInterrupt that
comes while the disk works, or while another thread leads, is raised once the fate of the append is known. One
that hits the few steps in between leaves the log in memory in a state that nobody knows: then it is fenced,
as after a disk error, and what was acknowledged is found again by reopening.
"""

import threading
from collections.abc import Callable, Iterable

from rlog.embedded.writer import Group, Job, Writer
from rlog.errors import OffsetConflict, RlogError


class GroupCommit:
    """mutex guards the writer and everything here; nobody does I/O under it.

    is_busy: somebody leads, or was told to. taken: the group of whoever leads. is_closed: nothing joins any
    more. changed: flushed further, idle, closed or fenced; signalled while somebody is `watching`.
    """

    def __init__(self, writer: Writer) -> None:
        self.mutex = threading.Lock()
        self.is_closed = False
        self._writer = writer
        self._is_busy = False
        self._taken: Group | None = None
        self._changed = threading.Condition(self.mutex)
        self._watching = 0

    # ---- changing the log

    def commit(self, join: Callable[[], Group], expect_offset: int | None = None) -> tuple[int, Group]:
        """Call `join`, a method of the writer with its arguments, and return when its group is on disk.

        Returns where the log ended before, the offset of the first record added; and the group.
        """
        try:
            with self.mutex:
                if self.is_closed:
                    raise self._writer.closed()
                self._writer.check(expect_offset)
                offset = self._writer.end_offset
                group, job, ticket = None, None, None
                try:
                    group = join()
                    if self._is_busy:
                        ticket = self._wait_with(group)
                    else:
                        job = self._take(group)
                except BaseException as error:
                    self._refused(error, offset, group)
                    raise
        except OffsetConflict:
            self._settle_others()
            raise
        self._settle(group, ticket, job)
        return offset, group

    def _take(self, group: Group) -> Job | None:
        """The caller leads: its first job."""
        self._is_busy = True
        self._taken = group
        return self._writer.take()

    def _wait_with(self, group: Group) -> threading.Lock:
        """A ticket to wait with until `group` is done, or is to be led: locked until then."""
        ticket = threading.Lock()
        ticket.acquire()
        group.waiters.append(ticket.release)
        return ticket

    def _refused(self, error: BaseException, end_offset: int, group: Group | None) -> None:
        """A record was refused; or else an interrupt, or a failure, came when it had joined, perhaps half."""
        if group is not None or not self._writer.ends_at(end_offset):
            if self._taken is group:
                self._taken = None
            self._fence(error)

    def _settle_others(self) -> None:
        """Who lost the race for an offset reads on from there: what won it must be on disk by then."""
        with self.mutex:
            group = self._taken if self._writer.open.is_empty else self._writer.open
            if group is None:
                return
            ticket = self._wait_with(group)
        self._settle(group, ticket, None, is_member=False)

    def _settle(
        self, group: Group, ticket: "threading.Lock | None", job: Job | None, *, is_member: bool = True
    ) -> None:
        """Return when `group` is on disk: lead it, or wait for that. Raises why it is not."""
        interrupt = None
        if ticket is not None:
            interrupt = _wait(ticket)
            if not group.is_done:
                interrupt = self._lead(group, None) or interrupt
        else:
            interrupt = self._lead(group, job)
        if interrupt is not None:
            raise interrupt
        if group.error is not None:
            raise self._writer.error_of(group.error, is_written=group.is_written and is_member)

    # ---- leading

    def _lead(self, group: Group, job: Job | None) -> BaseException | None:
        """Run the jobs of `group`, of which `job` is the first where it was taken already, then hand the lead
        on. Returns an interrupt that came meanwhile.
        """
        interrupt = None
        try:
            if job is None:
                with self.mutex:
                    if group is self._writer.open:  # and no fence has failed it meanwhile
                        job = self._take(group)
            while job is not None:
                interrupt = _run(job) or interrupt
                with self.mutex:
                    job = self._writer.job_done(job)
        except BaseException as error:  # a failed disk, or an interrupt in the middle of our own steps
            with self.mutex:
                self._fence(error)
            group.error = error
            interrupt = None if isinstance(error, RlogError) else error
        try:
            self._finish(group)
        except BaseException as error:  # an interrupt: nobody may be left asleep
            self._finish(group)
            interrupt = error
        return interrupt

    def _finish(self, group: Group) -> None:
        """Wake who leads next, then everybody of this group. May be called twice."""
        with self.mutex:
            group.is_done = True
            if self._taken is group:
                self._taken = None
                self._is_busy = not self._writer.open.is_empty
            if self._is_busy and self._taken is None:
                _wake(self._writer.open.waiters[:1])
            if self._watching:
                self._changed.notify_all()
        _wake(group.waiters)

    def _fence(self, error: BaseException) -> None:
        """Nothing more is written, and what waits for its turn is told so. The mutex is held."""
        group = self._writer.fence(error)
        group.error = error
        group.is_done = True
        if self._taken is None:
            self._is_busy = False  # who was told to lead finds the group done
        if self._watching:
            self._changed.notify_all()
        _wake(group.waiters)

    # ---- waiting

    def wait_until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Whether `condition` came true in time; looked at whenever something was flushed, or all ended."""
        with self.mutex:
            self._watching += 1
            try:
                return self._changed.wait_for(condition, timeout_s)
            finally:
                self._watching -= 1

    def close(self) -> None:
        """Let nothing join any more, and return when nobody is at the disk."""
        with self.mutex:
            self.is_closed = True
            self._changed.notify_all()
        self.wait_until(lambda: not self._is_busy, None)


def _run(job: Job) -> BaseException | None:
    """Run `job` to its end. Returns an interrupt that came meanwhile: the disk has answered all the same."""
    try:
        job.run()
    except BaseException as error:
        if not job.finished:
            raise
        return error
    return None


def _wait(ticket: threading.Lock) -> BaseException | None:
    """Wait until `ticket` is released. Returns an interrupt that came meanwhile."""
    interrupt = None
    while True:
        try:
            ticket.acquire()
            return interrupt
        except BaseException as error:
            interrupt = error


def _wake(waiters: Iterable[Callable[[], object]]) -> None:
    for wake in waiters:
        try:
            wake()
        except RuntimeError:
            pass  # woken before, when an interrupt came in the middle of it
