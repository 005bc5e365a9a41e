"""`rlog.open_async`: the embedded log on an asyncio loop, which does not wait for the disk to write.

Tasks that append in one turn of the loop, or while the disk works, form a group, as threads do (commit.py).
The group's jobs run on a native thread that never takes the GIL; their completion wakes the loop. Opening,
closing and reading go to the loop's executor. Only where old records are deleted, the loop itself reads a
little of them. It needs a loop that watches file descriptors, as asyncio's own and uvloop do.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Final, Self

from rlog._core import DiskJob, DiskPool, Record
from rlog.embedded import lifetime
from rlog.embedded.arguments import integer
from rlog.embedded.batches import Value, batches_of
from rlog.embedded.chunks import Chunks, Each
from rlog.embedded.reader import Reader, Start, check_end, offset_at, reader_of
from rlog.embedded.room import Room
from rlog.embedded.settings import BATCH_BYTES_MAX, Settings, TimestampType, World
from rlog.embedded.store import Store
from rlog.embedded.writer import GENERATION, Group, Job, Writer
from rlog.errors import BatchTooLarge, ConfigurationError, OffsetConflict, RlogError, WrongLoop
from rlog.log.segment import Segment
from rlog.moments import At, Time
from rlog.records import Compression, Headers, ListReceipt, Receipt

QUEUED_BYTES_MAX: Final = 64 << 20
RECORD_BYTES: Final = 100  # about what a record that waits takes besides its value and key


def open_async(
    path: str | os.PathLike[str],
    *,
    compression: Compression = "none",
    batch_bytes_max: int = BATCH_BYTES_MAX,
    timestamp_type: TimestampType = "create",
    retention_ms: int | None = None,
    retention_bytes: int | None = None,
    queued_bytes_max: int = QUEUED_BYTES_MAX,
) -> "Opening":
    """The log in the directory `path`: enter it with `async with`, or `await` it and close it.

    queued_bytes_max: bytes of records that may wait for the disk; beyond, appends first wait for room. The
    rest, and what entering raises: see `rlog.open`.
    """
    settings = Settings(compression, batch_bytes_max, timestamp_type, retention_ms, retention_bytes)
    if queued_bytes_max < 1:
        raise ConfigurationError(f"queued_bytes_max={queued_bytes_max} lets nothing through: name more")
    return Opening(path, settings, World.real(), queued_bytes_max=queued_bytes_max)


class Opening:
    """What `open_async` returns: an AsyncLog once it is awaited or entered."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Settings,
        world: World,
        *,
        queued_bytes_max: int = QUEUED_BYTES_MAX,
        on_system: bool = True,
    ) -> None:
        self._open = partial(Store.open, path, world, on_system=on_system)
        self._make = partial(AsyncLog, settings=settings, world=world, queued_bytes_max=queued_bytes_max)
        self._log: AsyncLog | None = None

    async def _opened(self) -> "AsyncLog":
        opening = asyncio.get_running_loop().run_in_executor(None, self._open)
        try:
            store = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_abandon)
            raise
        return self._make(store)

    def __await__(self) -> Generator[object, None, "AsyncLog"]:
        return self._opened().__await__()

    async def __aenter__(self) -> "AsyncLog":
        self._log = await self._opened()
        return self._log

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._log is not None
        await self._log.close()


def _abandon(opening: "asyncio.Future[Store]") -> None:
    """Nobody waits any more for what was opened."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abandon()


class AsyncLog:
    """What `rlog.open_async` opens; for any number of tasks of one event loop.

    path: of the directory, absolute. name: its last part, and the `topic` of records and receipts.
    """

    def __init__(self, store: Store, *, settings: Settings, world: World, queued_bytes_max: int) -> None:
        self.path = store.path
        self.name = store.name
        self._is_closed = False
        self._is_released = False
        self._store = store
        self._settings = settings
        self._vfs = world.vfs
        self._wall_clock_ms = world.wall_clock_ms
        self._process_id = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(store, settings, world, waits=False)
        self._mutex = threading.Lock()  # over steps of the log: readers in the executor look at its segments
        self._room = Room(queued_bytes_max)
        self._watchers: dict[asyncio.Future[None], None] = {}  # woken when anything was flushed, or all ended
        self._is_busy = False
        self._taken: Group | None = None
        self._closing: asyncio.Task[None] | None = None
        self._pool = DiskPool(1, queued_jobs_max=1)
        self._loop.add_reader(self._pool.fileno(), self._completed)
        lifetime.opened(self)

    # ---- appending

    async def append(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
        *,
        expect_offset: int | None = None,
    ) -> Receipt:
        """Append one record; see `Log.append`. Cancelled, it may be stored nevertheless."""
        self._check_open()
        if timestamp_ms is None:
            timestamp_ms = self._wall_clock_ms()
        size = RECORD_BYTES + len(value or b"") + len(key or b"")
        if headers:
            headers = tuple(headers)
            size += sum(len(name) + len(content or b"") for name, content in headers)
        await self._room.take(size)
        try:
            join = partial(self._writer.add, value, key, headers, timestamp_ms)
            offset, group = await self._commit(join, expect_offset, size)
        except BatchTooLarge as error:
            raise self._settings.too_large(error) from None
        if group.append_time_ms >= 0:
            timestamp_ms = group.append_time_ms
        return Receipt(self.name, 0, offset, GENERATION, (), "disk", timestamp_ms)

    async def append_many(
        self,
        values: Iterable[Value],
        *,
        timestamp_ms: int | None = None,
        expect_offset: int | None = None,
        atomic: bool = False,
    ) -> ListReceipt:
        """Append many records at once; see `Log.append_many`. Cancelled, they may be stored nevertheless."""
        self._check_open()
        if timestamp_ms is None:
            timestamp_ms = self._wall_clock_ms()
        builders, last_ms = batches_of(values, timestamp_ms, self._settings, atomic=atomic)
        size = sum(builder.size for builder in builders)
        await self._room.take(size)
        join = partial(self._writer.add_batches, builders)
        offset, group = await self._commit(join, expect_offset, size)
        count = sum(builder.count for builder in builders)
        if group.append_time_ms >= 0:
            last_ms = group.append_time_ms
        return ListReceipt(self.name, 0, count, ((offset, count),), GENERATION, (), "disk", last_ms)

    async def delete_before(self, offset: int) -> None:
        """Delete the records below `offset`; see `Log.delete_before`."""
        self._check_open()
        offset = integer("offset", offset)
        check_end(self._store, offset)
        await self._commit(partial(self._writer.trim, offset))

    async def _commit(
        self, join: Callable[[], Group], expect_offset: int | None = None, size: int = 0
    ) -> tuple[int, Group]:
        """As GroupCommit.commit(). size: of the room that was taken for it."""
        try:
            self._check_open()
            self._writer.check(expect_offset)
            offset = self._writer.end_offset
            group = join()
        except BaseException as error:
            self._room.give(size)
            if isinstance(error, OffsetConflict):
                await self._settle_others()
            raise
        group.room_bytes += (
            size  # given back as it ends: until then they wait, whether their task does or not
        )
        if not self._is_busy:
            self._is_busy = True
            self._loop.call_soon(self._begin)  # whoever appends in this turn of the loop comes along
        await self._settled(group)
        return offset, group

    async def _settle_others(self) -> None:
        """Who lost the race for an offset reads on from there: what won it must be on disk by then."""
        group = self._taken if self._writer.open.is_empty else self._writer.open
        if group is not None:
            await self._settled(group, is_member=False)

    async def _settled(self, group: Group, *, is_member: bool = True) -> None:
        """Return when `group` is on disk. Raises why it is not."""
        settled: asyncio.Future[None] = self._loop.create_future()
        group.waiters.append(partial(_wake, settled))
        await settled
        if group.error is not None:
            raise self._writer.error_of(group.error, is_written=group.is_written and is_member)

    # ---- the disk

    def _begin(self) -> None:
        self._taken = self._writer.open
        with self._fencing():
            with self._mutex:
                job = self._writer.take()
            self._go_on(job)

    def _go_on(self, job: Job | None) -> None:
        """Run the next job of the group; when there is none, begin with the next group."""
        if job is not None:
            assert isinstance(job, DiskJob)
            self._pool.submit(job)
            return
        group, self._taken = self._taken, None
        assert group is not None
        self._is_busy = not self._writer.open.is_empty
        try:
            if self._is_busy:
                self._begin()
        finally:
            self._end(group)
            self._wake_watchers()

    def _completed(self) -> None:
        for job in self._pool.drain():
            with self._fencing():
                with self._mutex:
                    following = self._writer.job_done(job)
                self._go_on(following)

    @contextmanager
    def _fencing(self) -> Iterator[None]:
        """Whatever goes wrong, nobody may be left waiting. What is no error of rlog's goes on to the loop."""
        try:
            yield
        except RlogError as error:
            self._fence(error)
        except BaseException as error:
            self._fence(error)
            raise

    def _fence(self, error: BaseException) -> None:
        """Nothing more is written, and who waits is told so."""
        groups = [self._taken, self._writer.fence(error)]
        self._taken, self._is_busy = None, False
        for group in groups:
            if group is not None:
                group.error = error
                self._end(group)
        self._wake_watchers()

    def _end(self, group: Group) -> None:
        group.is_done = True
        if group.room_bytes:
            self._room.give(group.room_bytes)
        for wake in group.waiters:
            wake()

    # ---- reading

    @property
    def start_offset(self) -> int:
        """See `Log.start_offset`."""
        return self._store.log.start_offset

    @property
    def end_offset(self) -> int:
        """See `Log.end_offset`."""
        return self._store.log.flushed_offset

    async def offset_at(self, time: Time) -> int | None:
        """The first record with a timestamp at or after `time`; see `Log.offset_at`."""
        self._check_open()
        return await self._loop.run_in_executor(None, offset_at, self, self._store, self._vfs, time)

    def read(
        self, start: Start = "earliest", *, end: int | None = None, follow: bool = False
    ) -> AsyncIterator[Record]:
        """The records from `start` on; see `Log.read`."""
        return Each(self.read_batches(start, end=end, follow=follow))

    def read_batches(
        self, start: Start = "earliest", *, end: int | None = None, follow: bool = False
    ) -> AsyncIterator[list[Record]]:
        """As `read`, in lists as they come from disk; see `Log.read_batches`."""
        return Chunks(self._opening(start, end, follow), Reader.records, self._more if follow else None)

    def values(
        self, start: Start = "earliest", *, end: int | None = None, follow: bool = False
    ) -> AsyncIterator[bytes | None]:
        """As `read`, the bare values."""
        return Each(self.value_batches(start, end=end, follow=follow))

    def value_batches(
        self, start: Start = "earliest", *, end: int | None = None, follow: bool = False
    ) -> AsyncIterator[list[bytes | None]]:
        """As `read_batches`, the bare values."""
        return Chunks(self._opening(start, end, follow), Reader.values, self._more if follow else None)

    async def wait(self, offset: int, timeout_ms: int | None = None) -> bool:
        """Wait until the record at `offset` is there; see `Log.wait`."""
        self._check_open()
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                while self.end_offset <= offset:
                    self._check_writable()
                    await self._watch()
                    self.check_readable()
        except TimeoutError:
            return False
        return True

    def _opening(self, start: Start, end: int | None, follow: bool) -> Callable[[], Reader]:
        """To be called in the executor, for a moment is looked for on the disk; the rest is checked here."""
        self._check_open()
        opening = partial(reader_of, self, self._store, self._vfs, start=start, end=end, follow=follow)
        if isinstance(start, datetime | At):
            return opening
        reader = opening()
        return lambda: reader

    async def _more(self, reader: Reader) -> bool:
        """Wait for more than `reader` has read; False once the log is closed."""
        while self.end_offset <= reader.offset and not self.is_closed:
            self._check_writable()
            await self._watch()
        return not self.is_closed

    async def _watch(self) -> None:
        """Return when something was flushed, or all ended."""
        watcher: asyncio.Future[None] = self._loop.create_future()
        self._watchers[watcher] = None
        try:
            await watcher
        finally:
            self._watchers.pop(watcher, None)

    def _wake_watchers(self) -> None:
        watchers, self._watchers = self._watchers, {}
        for watcher in watchers:
            _wake(watcher)

    def _check_writable(self) -> None:
        """Raises StorageFailed when no record can come any more."""
        self._writer.check(None)

    def check_readable(self) -> None:
        """Raises LogClosed, ForkedProcess."""
        if os.getpid() != self._process_id:
            raise lifetime.forked(self.path, self._process_id)
        if self.is_closed:
            raise self._writer.closed()

    def segments_from(self, offset: int) -> list[Segment]:
        """See PartitionLog.segments_from; from any thread."""
        with self._mutex:
            return self._store.log.segments_from(offset)

    # ---- its life

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    async def close(self) -> None:
        """Wait for appends under way, then close the files. Idempotent; see `Log.close`."""
        if os.getpid() != self._process_id:
            self.abandon()
            return
        self._check_loop()
        if self._closing is None:
            self._is_closed = True
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._room.refuse(self._writer.closed())
        self._wake_watchers()
        try:
            while self._is_busy:
                await self._watch()
        except asyncio.CancelledError:  # with all tasks of its loop, which ends
            self._loop.remove_reader(self._pool.fileno())
            try:
                self._release()
            finally:
                self._fence(self._writer.closed())
            raise
        self._loop.remove_reader(self._pool.fileno())
        lifetime.closed(self)
        self._pool.close()  # idle: nothing to wait for
        self._is_released = True
        await self._loop.run_in_executor(None, self._store.close)

    def end(self) -> None:
        """At exit: when the loop runs no more. One that still does, in a daemon thread, is left alone."""
        if not self._loop.is_running():
            self._is_closed = True
            self._release()

    def _release(self) -> None:
        """Close at once, blocking: the job under way is waited for, and nothing more is begun. Idempotent."""
        if self._is_released:
            return
        self._is_released = True
        lifetime.closed(self)
        self._pool.close()
        try:
            for job in self._pool.drain():
                self._writer.job_done(job)
        finally:
            self._store.close()

    def abandon(self) -> None:
        """In a forked child: close what it has inherited."""
        self._store.abandon()

    def _check_open(self) -> None:
        self.check_readable()
        self._check_loop()

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoop(
                f"{self.path} was opened on another event loop: from another thread use "
                "asyncio.run_coroutine_threadsafe(..., loop); a log for threads is rlog.open()"
            )

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else f"[{self.start_offset}, {self.end_offset})"
        return f"<rlog.AsyncLog {self.path} {state}>"


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
