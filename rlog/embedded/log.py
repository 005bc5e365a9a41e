"""`rlog.open`: a durable log in this process, for threads. `aio.py` is its twin for asyncio."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Self

from rlog._core import Record
from rlog.embedded import lifetime
from rlog.embedded.arguments import integer
from rlog.embedded.batches import Value, batches_of
from rlog.embedded.commit import GroupCommit
from rlog.embedded.reader import Reader, Start, check_end, chunks, offset_at, reader_of
from rlog.embedded.settings import BATCH_BYTES_MAX, Settings, TimestampType, World
from rlog.embedded.store import Store
from rlog.embedded.writer import GENERATION, Writer
from rlog.errors import BatchTooLarge
from rlog.log.segment import Segment
from rlog.moments import Time
from rlog.records import Compression, Headers, ListReceipt, Receipt


def open(
    path: str | os.PathLike[str],
    *,
    compression: Compression = "none",
    batch_bytes_max: int = BATCH_BYTES_MAX,
    timestamp_type: TimestampType = "create",
    retention_ms: int | None = None,
    retention_bytes: int | None = None,
) -> "Log":
    """Open the log in the directory `path`, making it if there is none; its parent must exist. Blocking.

    One process at a time has it open, and any number of threads use it. Close it, or use it with `with`.

    compression: of batches, "none", "gzip", "snappy", "lz4" or "zstd"; where it makes them smaller.
    batch_bytes_max: bytes of the largest batch before compression, at most 64 MiB; see `Log.append_many`.
    timestamp_type: "create" keeps the timestamps of who appends; "append" gives each record the time at which
    the log takes it, which never falls, whatever the wall clock does.
    retention_ms: delete what stands before the first record that is no older, by timestamps. A wall clock
    that jumps ahead is believed only after an hour in which the machine was up, with the log open or not.
    retention_bytes: delete whole segments from the front while the rest still holds as many bytes. Both are
    looked at with the first append, and then about each second while appending: a log that nobody appends to
    keeps what it has. None keeps everything.

    Raises DataDirectoryError when the directory is in use (the process is named), foreign, a cluster node's,
    of a newer version, read-only or not accessible; CorruptLog when what it holds is proven damaged, naming
    the offset; ConfigurationError for a setting that means nothing. Nothing stays open then.
    """
    settings = Settings(compression, batch_bytes_max, timestamp_type, retention_ms, retention_bytes)
    return open_in(path, settings, World.real())


def open_in(
    path: str | os.PathLike[str], settings: Settings, world: World, *, on_system: bool = True
) -> "Log":
    """`open` in a world of the caller's."""
    return Log(Store.open(path, world, on_system=on_system), settings, world)


class Log:
    """Made by `rlog.open`. All methods may be called by any thread, and block.

    path: of the directory, absolute. name: its last part, and the `topic` of records and receipts.
    """

    def __init__(self, store: Store, settings: Settings, world: World) -> None:
        self.path = store.path
        self.name = store.name
        self._store = store
        self._settings = settings
        self._vfs = world.vfs
        self._wall_clock_ms = world.wall_clock_ms
        self._process_id = os.getpid()
        self._writer = Writer(store, settings, world, waits=True)
        self._commit = GroupCommit(self._writer)
        self._closing = threading.RLock()  # a signal handler may close what its thread is closing
        self._is_released = False
        lifetime.opened(self)

    # ---- appending

    def append(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
        *,
        expect_offset: int | None = None,
    ) -> Receipt:
        """Append one record. It is on disk (fdatasync has completed) when this returns.

        Threads that append at the same time share one write and one fdatasync.

        timestamp_ms: milliseconds since the epoch; now when left out. expect_offset: append only if the log
        ends there, so that the record gets this offset; of several threads that expect the same one, one
        appends. Should it end elsewhere: OffsetConflict, and what others appended can be read by then.

        Raises BatchTooLarge, TypeError, LogClosed, ForkedProcess: nothing was stored. StorageFailed: the disk
        failed; `outcome` says whether the record may be stored, and the log takes no more. KeyboardInterrupt,
        or whatever else a signal handler raises: the record may be stored, and the log goes on.
        """
        self._check_process()
        if timestamp_ms is None:
            timestamp_ms = self._wall_clock_ms()
        try:
            join = partial(self._writer.add, value, key, headers, timestamp_ms)
            offset, group = self._commit.commit(join, expect_offset)
        except BatchTooLarge as error:
            raise self._settings.too_large(error) from None
        if group.append_time_ms >= 0:
            timestamp_ms = group.append_time_ms
        return Receipt(self.name, 0, offset, GENERATION, (), "disk", timestamp_ms)

    def append_many(
        self,
        values: Iterable[Value],
        *,
        timestamp_ms: int | None = None,
        expect_offset: int | None = None,
        atomic: bool = False,
    ) -> ListReceipt:
        """Append many records at once, with consecutive offsets; all are on disk when this returns.

        values: bytes (or None, or `NewRecord` where there is a key, headers or a timestamp of its own). A
        list or tuple of bytes alone is the fast way.

        What fits into one batch of `batch_bytes_max` bytes is all or nothing, whatever happens. More becomes
        several batches, in order: after a crash in the middle the log ends after one of them. `atomic=True`
        refuses that with BatchTooLarge instead. timestamp_ms, expect_offset and errors: see `append`;
        ValueError for no values at all.
        """
        self._check_process()
        if timestamp_ms is None:
            timestamp_ms = self._wall_clock_ms()
        builders, last_ms = batches_of(values, timestamp_ms, self._settings, atomic=atomic)
        offset, group = self._commit.commit(partial(self._writer.add_batches, builders), expect_offset)
        count = sum(builder.count for builder in builders)
        if group.append_time_ms >= 0:
            last_ms = group.append_time_ms
        return ListReceipt(self.name, 0, count, ((offset, count),), GENERATION, (), "disk", last_ms)

    def delete_before(self, offset: int) -> None:
        """Delete the records below `offset`: none of them can be read once this returns, nor after a crash.

        Disk space follows as whole files of them go. Nothing happens when the log starts at or past `offset`.
        Who is reading below it gets OffsetOutOfRange. Raises that for an offset past the end, too.
        """
        self._check_process()
        offset = integer("offset", offset)
        check_end(self._store, offset)
        self._commit.commit(partial(self._writer.trim, offset))

    # ---- reading

    @property
    def start_offset(self) -> int:
        """Offset of the first record that can be read; `end_offset` when there is none."""
        return self._store.log.start_offset

    @property
    def end_offset(self) -> int:
        """The offset after the last record on disk: what the next one gets, if nobody is appending."""
        return self._store.log.flushed_offset

    def offset_at(self, time: Time) -> int | None:
        """The first record with a timestamp at or after `time`; None when there is none yet.

        time: an aware datetime, or `rlog.client.At(timestamp_ms)`. Exact, whatever the order of timestamps.
        Raises ConfigurationError, CorruptLog, LogClosed, ForkedProcess.
        """
        return offset_at(self, self._store, self._vfs, time)

    def read(
        self, start: Start = "earliest", *, end: int | None = None, follow: bool = False
    ) -> Iterator[Record]:
        """The records from `start` on, up to and without offset `end`: where the log ends now, if left out.

        follow: wait at the end for what is appended later, until the log is closed; no `end` then.

        Raises OffsetOutOfRange for an offset that is not in the log, at once, or later when what was to be
        read next has been deleted; CorruptLog naming the offset of what the disk has changed; LogClosed,
        ForkedProcess.
        """
        return chain.from_iterable(self.read_batches(start, end=end, follow=follow))

    def read_batches(
        self, start: Start = "earliest", *, end: int | None = None, follow: bool = False
    ) -> Iterator[list[Record]]:
        """As `read`, in lists as they come from disk: the fast way to many records."""
        reader = self._reader(start, end, follow)
        return chunks(reader.records, self._follower(reader) if follow else None)

    def values(
        self, start: Start = "earliest", *, end: int | None = None, follow: bool = False
    ) -> Iterator[bytes | None]:
        """As `read`, the bare values."""
        return chain.from_iterable(self.value_batches(start, end=end, follow=follow))

    def value_batches(
        self, start: Start = "earliest", *, end: int | None = None, follow: bool = False
    ) -> Iterator[list[bytes | None]]:
        """As `read_batches`, the bare values: the fastest way."""
        reader = self._reader(start, end, follow)
        return chunks(reader.values, self._follower(reader) if follow else None)

    def wait(self, offset: int, timeout_ms: int | None = None) -> bool:
        """Wait until the record at `offset` is there; False when it is not, after `timeout_ms`.

        Raises LogClosed when the log is closed meanwhile, StorageFailed when no record can come any more.
        """
        self.check_readable()
        commit, writer = self._commit, self._writer
        commit.wait_until(
            lambda: self.end_offset > offset or commit.is_closed or writer.failure is not None,
            None if timeout_ms is None else timeout_ms / 1000,
        )
        if self.end_offset > offset:
            return True
        self.check_readable()
        if writer.failure is not None:
            raise writer.error_of(writer.failure, is_written=False)
        return False

    def _reader(self, start: Start, end: int | None, follow: bool) -> Reader:
        return reader_of(self, self._store, self._vfs, start=start, end=end, follow=follow)

    def _follower(self, reader: Reader) -> Callable[[], bool]:
        """Wait for more than `reader` has read; False once the log is closed."""

        def more() -> bool:
            self._commit.wait_until(
                lambda: (
                    self.end_offset > reader.offset
                    or self._commit.is_closed
                    or self._writer.failure is not None
                ),
                None,
            )
            if self._commit.is_closed:
                return False
            if self.end_offset <= reader.offset and self._writer.failure is not None:
                raise self._writer.error_of(self._writer.failure, is_written=False)
            return True

        return more

    def check_readable(self) -> None:
        """Raises LogClosed, ForkedProcess."""
        self._check_process()
        if self._commit.is_closed:
            raise self._writer.closed()

    def segments_from(self, offset: int) -> list[Segment]:
        with self._commit.mutex:
            return self._store.log.segments_from(offset)

    # ---- its life

    @property
    def is_closed(self) -> bool:
        return self._commit.is_closed

    def close(self) -> None:
        """Wait for appends under way, then close the files. Idempotent.

        What was acknowledged is on disk, closed or not; an opening after it need not look for the end. In a
        forked child it closes the child's descriptors, and leaves the parent's log alone. Raises
        StorageFailed when the clean end could not be recorded; the files are closed all the same.

        In a signal handler that interrupts an append of its own thread it returns at once, and the append
        closes the log as it ends.
        """
        if os.getpid() != self._process_id:
            self.abandon()
            return
        if not self._commit.close(self.close):
            return
        with self._closing:
            if self._is_released:
                return
            try:
                self._is_released = True
                lifetime.closed(self)
                if not self._commit.is_torn:
                    self._store.close()
            finally:
                self._store.drop()

    end = close

    def abandon(self) -> None:
        """In a forked child: close what it has inherited."""
        self._store.abandon()

    def _check_process(self) -> None:
        if os.getpid() != self._process_id:
            raise lifetime.forked(self.path, self._process_id)

    def __enter__(self) -> Self:
        self.check_readable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else f"[{self.start_offset}, {self.end_offset})"
        return f"<rlog.Log {self.path} {state}>"
