"""The consumer by assignment: reads one, some or all partitions of a topic from given places on.

It is never alive and silent: `state` says for each partition where it stands, what it waits for and how long
already; a leader that was silent for STALL_WARNING_SECONDS is told about in the log `rlog.client`, and one
that has not answered for `stall_timeout_ms` raises, whether other partitions move on or not.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

from rlog._core import Record, decode_records, decode_values
from rlog.client.connection import Connection
from rlog.client.cursor import Cursor, PartitionState, first_batch
from rlog.client.errors import (
    ClientClosed,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    LeaderUnavailable,
    OffsetOutOfRange,
    Retriable,
    UnknownPartition,
    afresh,
)
from rlog.client.fetcher import Fetcher
from rlog.client.offsets import list_offset_once
from rlog.client.positions import (
    OutOfRangePolicy,
    Start,
    check_start,
    wire_timestamp,
)
from rlog.client.retry import Backoff
from rlog.client.router import Router
from rlog.errors import CorruptBatch, ProtocolError, UnsupportedCodec
from rlog.moments import At, Time, datetime_of, timestamp_of
from rlog.wire.kafka.messages import Buffer

T = TypeVar("T")
# A leader that is silent for so long is told about in the log.
STALL_WARNING_SECONDS: Final = 5.0
# While nothing comes, silence is looked at so often (or four times in the stall timeout). Of what passes
# between two looks no more than this counts: a program that was busy elsewhere has heard nobody.
LOOK_SECONDS: Final = 1.0
logger = logging.getLogger("rlog.client")


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """See `Cluster.consumer`."""

    fetch_bytes_max: int
    prefetch_bytes_max: int
    max_wait_ms: int
    stall_timeout_ms: int
    on_out_of_range: OutOfRangePolicy


class Consumer:
    """Made by `Cluster.consumer`; read by one task at a time."""

    def __init__(
        self,
        router: Router,
        topic: str,
        partitions: Iterable[int] | None,
        start: Start | Mapping[int, Start],
        settings: ConsumerSettings,
        lane: str,
    ) -> None:
        self.topic = topic
        self._router = router
        self._partitions = partitions
        self._start = start
        self._settings = settings
        self._lane = lane
        self._cursors: dict[int, Cursor] = {}
        self._fetchers: dict[Connection, Fetcher] = {}
        self._arrived: deque[Cursor] = deque()  # one entry for each chunk that was fetched
        self._steering: asyncio.Task[None] | None = None
        self._backoff = Backoff(router.settings)
        self._reader: asyncio.Future[None] | None = None
        self._rest: list[Record] = []  # decoded for the iterator, reversed: the next one is last
        self._rest_cursor: Cursor | None = None
        self._last_read: tuple[int, int] | None = None  # (partition, offset) from which it was read
        self._looked_at = -math.inf  # for silent leaders, loop time
        self._progress_ms: int | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self, *, timeout_ms: int | None = None) -> None:
        """Look the topic up and begin to fetch; reading does this by itself.

        Raises UnknownTopic, UnknownPartition, DeadlineExceeded.
        """
        self._check_open()
        self._router.check_open()
        if self._cursors:
            return
        count = await self._router.load_topic(self.topic, self._router.deadline(timeout_ms))
        self._check_open()
        partitions = range(count) if self._partitions is None else self._partitions
        for each in partitions:
            if not 0 <= each < count:
                raise UnknownPartition(self.topic, each, count)
        start = self._start
        self._cursors = {
            each: Cursor(self.topic, each, start[each] if isinstance(start, Mapping) else start)
            for each in partitions
        }
        self._router.listen(self)
        self._steer_soon()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def _check_open(self) -> None:
        if self.is_closed:
            raise ClientClosed("the consumer is closed; make a new one")

    async def close(self) -> None:
        """End fetching and close its connections. It always returns; in a forked child it does nothing."""
        if self._router.home.is_forked:
            return
        if not self.is_closed:
            self._router.home.check()
            self._is_closed = True
            self._router.unlisten(self)
            if self._steering is not None:
                self._steering.cancel()
            self._wake()
            await self._router.pool.drop(self._lane)

    # -- reading

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        """The next record, waiting for as long as it takes. Raises as `fetch` does."""
        while (record := self.take_decoded()) is None:
            await self.decode_more()
        return record

    def take_decoded(self) -> Record | None:
        """The next record, if `decode_more` left one. This alone, of all reading, any thread may do."""
        rest = self._rest
        return rest.pop() if rest else None

    async def decode_more(self) -> None:
        """Wait for records to take, for as long as it takes. Raises as `fetch` does."""
        records = await self._fetch_records(None)
        records.reverse()
        self._rest = records

    async def fetch(self, *, timeout_ms: int | None = None) -> list[Record]:
        """The next records, as many as one answer held; empty when none came in time.

        timeout_ms: the client's request timeout when left out. Raises OffsetOutOfRange, LeaderUnavailable
        when a partition's leader was silent for the stall timeout, in one call or over several (reading may
        go on afterwards), CorruptBatch or UnsupportedCodec for a batch that cannot be read (what lies before
        it was returned; reading goes on with the same batch, fetched again; `seek` past it, to the offset
        that the error names, to give it up).
        """
        if self._rest:
            records, self._rest = self._rest, []
            records.reverse()
            self._last_read = (records[0].partition, records[0].offset)
            return records
        return await self._fetch_records(self._router.deadline(timeout_ms))

    async def values(self, *, timeout_ms: int | None = None) -> list[bytes | None]:
        """As `fetch`, the bare values only: the fastest way to read."""
        if self._rest:
            return [record.value for record in await self.fetch()]
        deadline = self._router.deadline(timeout_ms)
        return await self._read(
            deadline, lambda _, data, position: decode_values(data, from_offset=position)[0]
        )

    def unread(self) -> None:
        """What the last `fetch` or `values` returned, if anything, is fetched once more: nobody got it."""
        if self._last_read is not None:
            self.seek(*self._last_read)
            self._last_read = None

    async def _fetch_records(self, deadline: float | None) -> list[Record]:
        def decode(cursor: Cursor, data: Buffer, position: int) -> list[Record]:
            self._rest_cursor = cursor
            return decode_records(data, from_offset=position, topic=self.topic, partition=cursor.partition)

        return await self._read(deadline, decode)

    async def _read(
        self, deadline: float | None, decode: Callable[[Cursor, Buffer, int], list[T]]
    ) -> list[T]:
        """What the next chunk holds; one that holds nothing but control batches is passed over."""
        self._last_read = None
        while (chunk := await self._next_chunk(deadline)) is not None:
            cursor, data, position = chunk
            try:
                found = decode(cursor, data, position)
            except (CorruptBatch, UnsupportedCodec) as error:
                self._put_back(cursor, data, position, error)
                continue
            if found:
                self._last_read = (cursor.partition, position)
                self._progress_ms = self._router.settings.wall_clock_ms()
                return found
        return []

    def _put_back(
        self, cursor: Cursor, data: Buffer, position: int, error: CorruptBatch | UnsupportedCodec
    ) -> None:
        """A chunk could not be decoded: its batches are read one by one, and the bad one raises."""
        size, base_offset, next_offset = first_batch(data)
        if size < len(data):
            self._arrived.extendleft([cursor] * cursor.put_back(data, position))
            return
        self.seek(cursor.partition, position)  # so that it is fetched again, not skipped
        lost = f"offsets {max(base_offset, position)} to {next_offset - 1} of {cursor.name}"
        mend = f"to go on without them seek({cursor.partition}, {next_offset})"
        message = f"{lost} cannot be read: {error}; {mend}"
        if isinstance(error, UnsupportedCodec):
            raise UnsupportedCodec(message, codec=error.codec) from error
        raise CorruptBatch(message) from error

    async def _next_chunk(self, deadline: float | None) -> tuple[Cursor, Buffer, int] | None:
        """The oldest chunk fetched, and the offset to read it from; None at the deadline."""
        await self.open()
        if all(cursor.is_paused for cursor in self._cursors.values()) and deadline is None:
            raise ClientError("every partition is paused, so iterating would wait for ever; resume() first")
        while True:
            self._check_open()
            self._router.check_open()
            self._raise_failure()
            now = self._router.loop.time()
            look_at = self._check_stalled(now)
            while self._arrived:
                cursor = self._arrived.popleft()
                if cursor.chunks:
                    data, position = cursor.pop()
                    self._poll_all()
                    return cursor, data, position
            if deadline is not None and now >= deadline:
                return None
            await self._wait(look_at if deadline is None else min(look_at, deadline))

    def _raise_failure(self) -> None:
        for cursor in self._cursors.values():
            if cursor.error is not None and not cursor.chunks and not cursor.is_paused:
                raise afresh(cursor.error)

    def _check_stalled(self, now: float) -> float:
        """When to look again whether a leader is silent. Raises for each that was for the stall timeout, and
        then again after as long; before that, once, it is told in the log.
        """
        timeout = self._settings.stall_timeout_ms / 1000
        look_s = min(LOOK_SECONDS, timeout / 4)
        passed = min(now - self._looked_at, look_s)
        self._looked_at = now
        look_at = now + look_s
        for cursor in self._cursors.values():
            if cursor.is_paused or cursor.chunks:
                continue
            cursor.unheard_s += min(passed, now - cursor.waiting_since)
            if cursor.unheard_s >= timeout:
                cursor.unheard_s = 0.0
                raise LeaderUnavailable(
                    f"the leader of {cursor.name} did not answer for {self._settings.stall_timeout_ms} ms; "
                    f"waiting for: {cursor.waiting}",
                    topic=self.topic,
                    partition=cursor.partition,
                )
            if cursor.unheard_s >= STALL_WARNING_SECONDS and not cursor.is_stall_told:
                cursor.is_stall_told = True
                silent_s = now - cursor.waiting_since
                what = "%s: its leader has been silent for %.1f s; waiting for: %s"
                logger.warning(what, cursor.name, silent_s, cursor.waiting)
            look_at = min(look_at, now + timeout - cursor.unheard_s)
        return look_at

    async def _wait(self, until: float) -> None:
        if self._reader is not None:
            raise ClientError("the consumer is read by two tasks at once; give each task its own")
        self._reader = self._router.loop.create_future()
        timer = self._router.loop.call_at(until, self._wake)
        try:
            await self._reader
        finally:
            self._reader = None
            timer.cancel()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # -- where it stands

    def seek(self, partition: int, start: Start) -> None:
        """Read on from `start`, as in `Cluster.consumer`. Raises UnknownPartition; open() comes first."""
        self._router.check_open()
        cursor = self._cursor(partition)
        if self._rest_cursor is cursor:
            self._rest = []
        self._last_read = None
        cursor.seek(check_start(start))
        self._forget_arrived(cursor)
        for fetcher in self._fetchers.values():
            if fetcher.cursors.get(partition) is cursor:
                fetcher.detach(cursor, "seek")
        self._steer_soon()

    def seek_to_time(self, time: Time, *partitions: int) -> None:
        """Read on from the first record at or after `time`, in all partitions or in those named.

        A partition that has none yet is read from its end. Raises as `seek`.
        """
        for cursor in self._named(partitions):
            self.seek(cursor.partition, time)

    def pause(self, *partitions: int) -> None:
        """Return and fetch nothing more of these partitions, all when none is named, until `resume`."""
        for cursor in self._named(partitions):
            offset = self._decoded_offset(cursor)
            if offset is not None:
                self.seek(cursor.partition, offset)
            cursor.is_paused = True
            self._forget_arrived(cursor)

    def resume(self, *partitions: int) -> None:
        """End a `pause`; nothing was lost meanwhile, but what retention removed."""
        for cursor in self._named(partitions):
            if cursor.is_paused:
                cursor.is_paused = False
                cursor.wait_anew()
                self._arrived.extend([cursor] * len(cursor.chunks))
        self._poll_all()
        self._wake()

    def _named(self, partitions: tuple[int, ...]) -> list[Cursor]:
        self._router.check_open()
        return [self._cursor(each) for each in partitions or self._cursors]

    def _forget_arrived(self, cursor: Cursor) -> None:
        self._arrived = deque(each for each in self._arrived if each is not cursor)

    def _cursor(self, partition: int) -> Cursor:
        cursor = self._cursors.get(partition)
        if cursor is None:
            raise UnknownPartition(self.topic, partition, len(self._cursors))
        return cursor

    def position(self, partition: int = 0) -> int | None:
        """The offset of the next record to be returned; None while the start is being looked up."""
        cursor = self._cursor(partition)
        offset = self._decoded_offset(cursor)
        return cursor.position if offset is None else offset

    def _decoded_offset(self, cursor: Cursor) -> int | None:
        """Of the next record that is decoded already; another thread may take it meanwhile."""
        next_one = self._rest[-1:] if self._rest_cursor is cursor else []
        return next_one[0].offset if next_one else None

    @property
    def buffered_bytes(self) -> int:
        """What is fetched ahead of the reader and not decoded yet; see prefetch_bytes_max."""
        return sum(cursor.buffered_bytes for cursor in self._cursors.values())

    @property
    def state(self) -> tuple[PartitionState, ...]:
        """For each partition its position, lag, and what it waits for; empty before the topic is known."""
        patience_s = (self._settings.max_wait_ms + self._router.settings.suspect_after_ms) / 1000
        return tuple(
            cursor.state(self.position(cursor.partition), patience_s) for cursor in self._cursors.values()
        )

    @property
    def lag(self) -> int | None:
        """Records between the reader and the committed ends; None until every leader has answered once."""
        lags = [state.lag for state in self.state]
        known = [lag for lag in lags if lag is not None]
        return sum(known) if lags and len(known) == len(lags) else None

    @property
    def last_progress(self) -> datetime | None:
        """When records were last given to the reader, in UTC by this machine's clock; None before that."""
        return None if self._progress_ms is None else datetime_of(self._progress_ms)

    # -- finding the leaders

    def _poll_all(self) -> None:
        for fetcher in list(self._fetchers.values()):
            fetcher.poll()

    def _records_arrived(self, cursor: Cursor) -> None:
        self._backoff.reset()
        if cursor.is_paused:
            return
        self._arrived.append(cursor)
        self._wake()

    def leaders_changed(self) -> None:
        """New metadata came (see Router)."""
        for fetcher in list(self._fetchers.values()):
            fetcher.leaders_changed()

    def _steer_soon(self) -> None:
        if self._steering is None and not self.is_closed and not self._router.is_closed:
            self._steering = self._router.tasks.spawn(self._steer(), f"consume {self.topic}")

    async def _steer(self) -> None:
        """Attach every cursor that is not, to the node that leads its partition, until none is left."""
        try:
            while detached := [each for each in self._cursors.values() if self._needs_leader(each)]:
                is_hindered = False
                for cursor in detached:
                    is_hindered = not await self._attach(cursor) or is_hindered
                self._poll_all()
                if is_hindered:
                    await asyncio.sleep(self._backoff.pause())
        finally:
            self._steering = None
            self._wake()

    def _needs_leader(self, cursor: Cursor) -> bool:
        return not cursor.is_attached and cursor.error is None

    async def _attach(self, cursor: Cursor) -> bool:
        """One attempt; False when it has to be repeated."""
        version = cursor.version
        deadline = self._router.deadline(None)
        try:
            connection = await self._router.connection_once(
                self.topic, cursor.partition, self._lane, deadline
            )
            if cursor.fetch_offset is None or cursor.is_out_of_range:
                await self._place(cursor, version, deadline)
            _, cursor.generation = self._router.cache.leader(self.topic, cursor.partition)
            if not connection.usable:
                raise connection.error or ConnectionLost(f"{connection.address} was lost")
        except (Retriable, DeadlineExceeded, ProtocolError) as error:
            cursor.waiting = str(error)
            return False
        except ClientError as error:
            if cursor.version == version:
                cursor.error = error
            return True
        if cursor.version == version:
            self._fetcher(connection).add(cursor)
        return True

    async def _place(self, cursor: Cursor, version: int, deadline: float) -> None:
        """Find the offset to start from, or learn that the one asked for does not exist."""
        if cursor.fetch_offset is None:
            offset = await self._find(cursor, cursor.start, deadline)
            if cursor.version == version:
                cursor.fetch_offset = cursor.position = offset
                if cursor.start == "latest":
                    cursor.end_offset = offset
            return
        start_offset = await self._find(cursor, "earliest", deadline)
        end_offset = await self._find(cursor, "latest", deadline)
        if cursor.version != version:
            return
        cursor.is_out_of_range = False
        offset = cursor.fetch_offset
        if not start_offset <= offset <= end_offset:
            error = OffsetOutOfRange(self.topic, cursor.partition, offset, start_offset, end_offset)
            policy = self._settings.on_out_of_range
            if policy == "raise":
                raise error
            cursor.fetch_offset = start_offset if policy == "earliest" else end_offset
            if not cursor.chunks:  # what was fetched before is returned first
                cursor.position = cursor.fetch_offset
            logger.warning("%s Reading goes on at %d.", error, cursor.fetch_offset)

    async def _find(self, cursor: Cursor, start: Start, deadline: float) -> int:
        """The offset that a place stands for now."""
        if isinstance(start, int):
            return start
        ask = partial(list_offset_once, self._router, self.topic, cursor.partition, deadline=deadline)
        if not isinstance(start, datetime | At):
            return await ask(wire_timestamp(start))
        end_offset = await ask(wire_timestamp("latest"))  # first: nothing is skipped that comes meanwhile
        offset = await ask(timestamp_of(start))
        return offset if offset >= 0 else end_offset

    def _fetcher(self, connection: Connection) -> Fetcher:
        fetcher = self._fetchers.get(connection)
        if fetcher is None:
            settings = self._settings
            fetcher = self._fetchers[connection] = Fetcher(
                self._router,
                connection,
                share_bytes=max(1, settings.prefetch_bytes_max // len(self._cursors)),
                fetch_bytes_max=settings.fetch_bytes_max,
                max_wait_ms=settings.max_wait_ms,
                on_records=self._records_arrived,
                on_detached=self._steer_soon,
                on_ended=self._forget_fetcher,
            )
        return fetcher

    def _forget_fetcher(self, connection: Connection) -> None:
        self._fetchers.pop(connection, None)
