"""The consumer by assignment: reads one or all partitions of a topic from given offsets on.

It is never alive and silent: `state()` says for each partition where it stands and what it waits for, and a
partition whose leader has not answered for `stall_timeout_ms` raises.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from rlog._core import Record, decode_records, decode_values
from rlog.client.connection import Connection
from rlog.client.cursor import Cursor, PartitionState, Start
from rlog.client.errors import (
    ClientClosed,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    LeaderUnavailable,
    OffsetOutOfRange,
    Retriable,
    UnknownPartition,
)
from rlog.client.fetcher import Fetcher
from rlog.client.offsets import list_offset_once
from rlog.client.retry import Backoff
from rlog.client.router import Router
from rlog.errors import CorruptBatch, ProtocolError
from rlog.wire.kafka.messages import Buffer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """See `Cluster.consumer`."""

    fetch_bytes_max: int
    prefetch_bytes_max: int
    max_wait_ms: int
    stall_timeout_ms: int


class Consumer:
    """Made by `Cluster.consumer`; read by one task at a time."""

    def __init__(
        self,
        router: Router,
        topic: str,
        partition: int | None,
        start: Start,
        settings: ConsumerSettings,
        lane: str,
    ) -> None:
        self.topic = topic
        self._router = router
        self._partition = partition
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
        self.is_closed = False

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
        if self._cursors:
            return
        count = await self._router.load_topic(self.topic, self._router.deadline(timeout_ms))
        self._check_open()
        if self._partition is not None and not 0 <= self._partition < count:
            raise UnknownPartition(self.topic, self._partition, count)
        partitions = range(count) if self._partition is None else [self._partition]
        self._cursors = {each: Cursor(self.topic, each, self._start) for each in partitions}
        self._router.listen(self)
        self._steer_soon()

    def _check_open(self) -> None:
        if self.is_closed:
            raise ClientClosed("the consumer is closed; make a new one")

    async def close(self) -> None:
        """End fetching and close its connections. It always returns."""
        if not self.is_closed:
            self.is_closed = True
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
        while not self._rest:
            records = await self._fetch_records(None)
            records.reverse()
            self._rest = records
        return self._rest.pop()

    async def fetch(self, *, timeout_ms: int | None = None) -> list[Record]:
        """The next records, as many as one answer held; empty when none came in time.

        timeout_ms: the client's request timeout when left out. Raises OffsetOutOfRange, LeaderUnavailable
        when a partition's leader was silent for the stall timeout (reading may go on afterwards),
        CorruptBatch (reading goes on with the same batch, fetched again; `seek` past it to give it up).
        """
        if self._rest:
            records, self._rest = self._rest, []
            records.reverse()
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

    async def _fetch_records(self, deadline: float | None) -> list[Record]:
        def decode(cursor: Cursor, data: Buffer, position: int) -> list[Record]:
            self._rest_cursor = cursor
            return decode_records(data, from_offset=position, topic=self.topic, partition=cursor.partition)

        return await self._read(deadline, decode)

    async def _read(
        self, deadline: float | None, decode: Callable[[Cursor, Buffer, int], list[T]]
    ) -> list[T]:
        """What the next chunk holds; one that holds nothing but control batches is passed over."""
        while (chunk := await self._next_chunk(deadline)) is not None:
            cursor, data, position = chunk
            try:
                found = decode(cursor, data, position)
            except CorruptBatch:
                self.seek(cursor.partition, position)  # so that it is fetched again, not skipped
                raise
            if found:
                return found
        return []

    async def _next_chunk(self, deadline: float | None) -> tuple[Cursor, Buffer, int] | None:
        """The oldest chunk fetched, and the offset to read it from; None at the deadline."""
        await self.open()
        began = self._router.loop.time()
        while True:
            self._check_open()
            self._router.check_open()
            self._raise_failure()
            while self._arrived:
                cursor = self._arrived.popleft()
                if cursor.chunks:
                    data, position = cursor.pop()
                    self._poll_all()
                    return cursor, data, position
            now = self._router.loop.time()
            if deadline is not None and now >= deadline:
                return None
            stalled_at = self._check_stalled(began, now)
            await self._wait(stalled_at if deadline is None else min(stalled_at, deadline))

    def _raise_failure(self) -> None:
        for cursor in self._cursors.values():
            if cursor.error is not None and not cursor.chunks:
                raise cursor.error

    def _check_stalled(self, began: float, now: float) -> float:
        """When the next partition's leader will have been silent for too long. Raises if one has."""
        timeout = self._settings.stall_timeout_ms / 1000
        earliest = now + timeout
        for cursor in self._cursors.values():
            limit = max(cursor.heard_at, began) + timeout
            if now >= limit:
                raise LeaderUnavailable(
                    f"the leader of {cursor.name} did not answer for {self._settings.stall_timeout_ms} ms; "
                    f"waiting for: {cursor.waiting}",
                    topic=self.topic,
                    partition=cursor.partition,
                )
            earliest = min(earliest, limit)
        return earliest

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
        """Read on from `start`: an offset, "earliest" or "latest". Raises UnknownPartition; open() comes
        first.
        """
        cursor = self._cursor(partition)
        if self._rest_cursor is cursor:
            self._rest = []
        cursor.seek(start)
        for fetcher in self._fetchers.values():
            if fetcher.cursors.get(partition) is cursor:
                fetcher.detach(cursor, "seek")
        self._steer_soon()

    def _cursor(self, partition: int) -> Cursor:
        cursor = self._cursors.get(partition)
        if cursor is None:
            raise UnknownPartition(self.topic, partition, len(self._cursors))
        return cursor

    def position(self, partition: int = 0) -> int | None:
        """The offset of the next record to be returned; None while the start is being looked up."""
        cursor = self._cursor(partition)
        if self._rest and self._rest_cursor is cursor:
            return self._rest[-1].offset
        return cursor.position

    @property
    def buffered_bytes(self) -> int:
        """What is fetched ahead of the reader and not decoded yet; see prefetch_bytes_max."""
        return sum(cursor.buffered_bytes for cursor in self._cursors.values())

    def state(self) -> list[PartitionState]:
        """For each partition its position, lag, and what it waits for."""
        return [cursor.state(self.position(cursor.partition)) for cursor in self._cursors.values()]

    # -- finding the leaders

    def _poll_all(self) -> None:
        for fetcher in list(self._fetchers.values()):
            fetcher.poll()

    def _records_arrived(self, cursor: Cursor) -> None:
        self._backoff.reset()
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
            cursor.error = error
            return True
        if cursor.version == version:
            self._fetcher(connection).add(cursor)
        return True

    async def _place(self, cursor: Cursor, version: int, deadline: float) -> None:
        """Find the offset to start from, or learn that the one asked for does not exist."""
        if cursor.fetch_offset is None:
            offset = await self._offset(cursor, str(cursor.start), deadline)
            if cursor.version == version:
                cursor.fetch_offset = cursor.position = offset
            return
        start_offset = await self._offset(cursor, "earliest", deadline)
        end_offset = await self._offset(cursor, "latest", deadline)
        if cursor.version == version:
            cursor.is_out_of_range = False
            if not start_offset <= cursor.fetch_offset <= end_offset:
                offset = cursor.fetch_offset
                raise OffsetOutOfRange(self.topic, cursor.partition, offset, start_offset, end_offset)

    async def _offset(self, cursor: Cursor, which: str, deadline: float) -> int:
        return await list_offset_once(self._router, self.topic, cursor.partition, which, deadline)

    def _fetcher(self, connection: Connection) -> Fetcher:
        for known in [each for each in self._fetchers if not each.usable]:
            del self._fetchers[known]
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
            )
        return fetcher
