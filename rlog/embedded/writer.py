"""Where an embedded log grows: records join the open group, a group is taken, its jobs run one by one.

    add …  add …  ──► Group ──► take() ──► job, job_done(job) until there is no next one ──► group.is_done

Offsets are assigned as records join, in the same critical section that compares `expect_offset`. All records
of a group share one write and one fdatasync. Nothing here waits, and nothing here is thread-safe: the
threads' way (commit.py) calls it under its mutex, asyncio's way (aio.py) on its loop.

What is atomic. One batch is: recovery keeps it whole or drops it whole. Single records join the last batch of
the group; a list gets batches of its own, exactly one if it fits.

After an error nothing more is written (SAFETY 15). What was handed to the disk ends as *unknown*, what was
not as *no*.
"""

import logging
from collections.abc import Callable
from functools import partial
from itertools import starmap
from typing import Final

from rlog._core import BatchBuilder, DiskJob, Span, WriteRound
from rlog.embedded.arguments import integer
from rlog.embedded.settings import Settings, World
from rlog.embedded.store import Store
from rlog.errors import (
    CorruptLog,
    InvariantBroken,
    LogClosed,
    OffsetConflict,
    Outcome,
    ReadFailed,
    RlogError,
    StorageFailed,
)
from rlog.log.retention import ClockReading, RetentionClock, wanted_start
from rlog.records import Headers

logger = logging.getLogger("rlog.embedded")

GENERATION: Final = 1  # an embedded log has one writer at a time, which never cuts: no other is needed
Job = DiskJob | WriteRound

HOUSEKEEPING_S: Final = 1.0  # while appending, retention is looked at and watermarks are synced (SAFETY 19)


class Group:
    """Appends that share one write and one fdatasync.

    batches: (builder, first offset, generation) of each, from start_offset on. shared: the last of them, if
    further single records may join it. spans: of the batches, in their order, once it is taken.
    append_time_ms: the time of its records, where the log stamps them; else -1.
    trim_to: delete what is below it, if that is above the log's start; or None.
    room_bytes: of the room for bytes that wait (room.py), what its records take.
    waiters: to be called once `is_done`; the first one also to be told that it leads. is_written: its bytes
    may have reached the disk. error: why it failed, or None.
    """

    __slots__ = (
        "append_time_ms",
        "batches",
        "error",
        "is_done",
        "is_written",
        "room_bytes",
        "shared",
        "spans",
        "start_offset",
        "trim_to",
        "waiters",
    )

    def __init__(self, start_offset: int) -> None:
        self.start_offset = start_offset
        self.batches: list[tuple[BatchBuilder, int, int]] = []
        self.shared: BatchBuilder | None = None
        self.spans: list[Span] = []
        self.append_time_ms = -1
        self.trim_to: int | None = None
        self.waiters: list[Callable[[], object]] = []
        self.room_bytes = 0
        self.is_written = False
        self.is_done = False
        self.error: BaseException | None = None

    @property
    def end_offset(self) -> int:
        """The offset after its last record."""
        if not self.batches:
            return self.start_offset
        builder, offset, _ = self.batches[-1]
        return offset + builder.count

    @property
    def is_empty(self) -> bool:
        """Nobody asked for anything."""
        return not self.batches and self.trim_to is None


class Writer:
    """waits: whoever runs a job waits for it, so a round may take the short way, and be no DiskJob.

    name: of the log. open: the group that records join. failure: why nothing more is written, or None.
    """

    def __init__(self, store: Store, settings: Settings, world: World, *, waits: bool) -> None:
        self._monotonic_s = world.monotonic_s
        self._wall_clock_ms = world.wall_clock_ms
        self._waits = waits
        self._store = store
        self._storage = store.storage
        self._log = store.log
        self.name = store.name
        self._path = store.path
        self._settings = settings
        self._metas_job = False
        self._watermarks_job = False
        self._kept_house_s = -HOUSEKEEPING_S
        self._uptime = world.uptime
        stamps = settings.timestamp_type == "append"
        self._append_time_ms = self._log.last_append_time_ms() if stamps else -1
        self._retention_clock = self._clock_of_meta()
        self.open = Group(self._log.end_offset)
        self.failure: BaseException | None = None

    @property
    def end_offset(self) -> int:
        """Of everything that joined a group."""
        return self.open.end_offset

    # ---- joining the open group: by one step each, so that an interrupt comes before it or after

    def check(self, expect_offset: int | None) -> None:
        """May something be added now, at that offset? Raises OffsetConflict, or what fenced the log."""
        if self.failure is not None:
            raise self.error_of(self.failure, is_written=False)
        if expect_offset is not None and integer("expect_offset", expect_offset) != self.end_offset:
            raise OffsetConflict(
                f"{self._path} ends at offset {self.end_offset}, not {expect_offset}: somebody else "
                "appended. Read what is new, and decide again",
                expected=expect_offset,
                actual=self.end_offset,
            )

    def closed(self) -> LogClosed:
        return LogClosed(f"{self._path} was closed: open it again")

    def add(self, value: bytes | None, key: bytes | None, headers: Headers, timestamp_ms: int) -> Group:
        """One record, in a batch that it may share. Raises TypeError, BatchTooLarge; it is not added then."""
        headers = tuple(headers)  # an iterator would be empty for the second batch that is tried
        group = self.open
        builder = group.shared
        if builder is None or not builder.append(value, key, headers, timestamp_ms):
            builder = self._settings.builder()
            builder.append(value, key, headers, timestamp_ms)
            group.shared = None  # never one that is not the last
            group.batches.append((builder, group.end_offset, GENERATION))
            group.shared = builder
        return group

    def add_batches(self, builders: list[BatchBuilder]) -> Group:
        """Batches that nothing else joins; each holds at least one record."""
        group = self.open
        batches = []
        offset = group.end_offset
        for builder in builders:
            batches.append((builder, offset, GENERATION))
            offset += builder.count
        group.shared = None
        group.batches += batches
        return group

    def trim(self, offset: int) -> Group:
        """Delete what is below `offset`, which is at or below what is flushed."""
        group = self.open
        group.trim_to = max(group.trim_to or 0, offset)
        return group

    # ---- bringing a group to disk

    def take(self) -> Job | None:
        """Close the open group and queue its batches for the disk. Returns the first job."""
        group = self.open
        self.open = Group(group.end_offset)
        group.is_written = True
        return self._begin(group)

    def retake(self, group: Group) -> Job | None:
        """Go on with a group of which nobody knows how far it came: somebody was interrupted. Blocking.

        The files are opened anew, and what they do not hold is queued. Raises what opening does, and the
        error that was final before (SAFETY 15).
        """
        failed = self._log.failed or self._storage.failed
        if failed is not None:
            raise failed
        self._store.reopen()
        self._storage, self._log = self._store.storage, self._store.log
        self._metas_job = self._watermarks_job = False
        self._retention_clock = self._clock_of_meta()
        return self._begin(group)

    def _begin(self, group: Group) -> Job | None:
        log = self._log
        if group.trim_to is not None:
            self._trim(group.trim_to)
        if self._settings.timestamp_type == "append" and group.append_time_ms < 0:
            # It never falls: what was appended after a moment is one suffix of the log.
            self._append_time_ms = max(self._append_time_ms, self._wall_clock_ms())
            group.append_time_ms = self._append_time_ms
        self._build(group)
        spans, start = group.spans, group.start_offset
        if log.end_offset != start:  # taken again: a part of it is there
            spans = [span for span in spans if span.base_offset >= log.end_offset]
            start = spans[0].base_offset if spans else group.end_offset
        if log.end_offset != start:
            raise InvariantBroken(f"{self._path}: records from {start} on, and a log up to {log.end_offset}")
        if self._waits and len(spans) == 1 and group.trim_to is None:
            writing = log.write_through(spans[0])
            if writing is not None:
                return writing
        for span in spans:
            log.append(span)
        return self.next_job()

    def _build(self, group: Group) -> None:
        """Stamp its batches. Each is built once, and its span kept by the same step: no Python in between."""
        of_builder: Callable[[BatchBuilder, int, int], Span] = Span.of_builder
        if group.append_time_ms >= 0:
            of_builder = partial(Span.of_builder, append_time_ms=group.append_time_ms)
        group.spans.extend(starmap(of_builder, group.batches[len(group.spans) :]))

    def next_job(self) -> DiskJob | None:
        """What to run next; None when everything taken is flushed."""
        job = self._queued_job()
        if job is None and self._is_time_to_keep_house():
            self._kept_house_s = self._monotonic_s()
            self._retain()
            job = self._queued_job()
            if job is None:
                job = self._storage.watermark_job()
                self._watermarks_job = job is not None
        if job is None and self._log.flushed_offset != self._log.end_offset:
            raise InvariantBroken(
                f"{self._path}: nothing to run, but {self._log.flushed_offset} is not the end"
            )
        return job

    def _queued_job(self) -> DiskJob | None:
        job = self._storage.meta.flush_job()
        self._metas_job = job is not None
        return job if job is not None else self._log.flush_job()

    def _is_time_to_keep_house(self) -> bool:
        return self._monotonic_s() - self._kept_house_s >= HOUSEKEEPING_S

    def job_done(self, job: Job) -> Job | None:
        """Take the end of a job; returns the next one. Raises StorageFailed: fence()."""
        if isinstance(job, WriteRound):
            self._log.written_through(job)
            return self.next_job() if self._is_time_to_keep_house() else None
        if self._metas_job:
            self._metas_job = False
            self._storage.meta.flush_done(job)
        elif self._watermarks_job:
            self._watermarks_job = False
            self._storage.watermark_done(job)
        else:
            self._log.flush_done(job)
        return self.next_job()

    def _clock_of_meta(self) -> RetentionClock:
        saved = self._storage.meta.state.clock
        reading = ClockReading(*saved) if saved is not None else None
        return RetentionClock(reading, is_new=self._log.end_offset == 0)

    def _retain(self) -> None:
        """Delete what the settings do not want kept."""
        settings, log = self._settings, self._log
        if log.shortage:
            log.try_again()
        if settings.retention_ms is None and settings.retention_bytes is None:
            return
        now_ms = self._retention_clock.now_ms(self._wall_clock_ms(), *self._uptime())
        reading = self._retention_clock.take_unsaved() if settings.retention_ms is not None else None
        if reading is not None:
            self._storage.meta.queue("clock", *reading)
        bytes_min = -1 if settings.retention_bytes is None else settings.retention_bytes
        age_ms = -1 if settings.retention_ms is None else settings.retention_ms
        try:
            start = wanted_start(log, log.flushed_offset, bytes_min, age_ms, now_ms)
        except ReadFailed as error:
            logger.warning("%s: what is old is not deleted yet: %s", self._path, error)
            return
        if start > log.start_offset:
            self._trim(start)

    def _trim(self, offset: int) -> None:
        self._log.committed(self._log.flushed_offset)
        self._log.trim(offset)

    def fence(self, failure: BaseException) -> Group:
        """Nothing more is written, whatever failed first. Returns the group that was open, never to be
        written.
        """
        if self.failure is None:
            self.failure = failure
        group = self.open
        self.open = Group(group.end_offset)
        return group

    def error_of(self, failure: BaseException, *, is_written: bool) -> RlogError:
        """What an append is told that a failure, of its own group or of one before it, ended."""
        outcome: Outcome = "unknown" if is_written else "no"
        fate = "whether this was stored is found out by reopening" if is_written else "this was not stored"
        if isinstance(failure, CorruptLog):
            error: RlogError = CorruptLog(str(failure), partition=failure.partition, offset=failure.offset)
        else:
            number = failure.errno if isinstance(failure, StorageFailed) else 0
            why = str(failure) or type(failure).__name__
            error = StorageFailed(
                f"{self._path}: {why}. The log takes no more appends; {fate}. Mend the cause, open it again",
                errno=number,
            )
        error.outcome = outcome
        error.__cause__ = failure
        return error
