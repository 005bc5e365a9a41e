"""One long poll per node: keeps the cursors whose partitions that node leads filled ahead of their reader."""

from collections.abc import Callable
from typing import Final

from rlog.client.connection import Connection
from rlog.client.cursor import Cursor
from rlog.client.errors import ConnectionLost, RequestRefused
from rlog.client.router import Router
from rlog.errors import ProtocolError, RlogError
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka._hot import decode_fetch_response, encode_fetch_request
from rlog.wire.kafka.messages import Buffer, FetchedPartition, FetchPartition, FetchRequest

# While some partition is left out for want of memory, a poll of the others ends early, so that it can join
# soon.
PARTIAL_WAIT_MS: Final = 20
# Least that is asked for; with less room, a partition is left out.
FETCH_BYTES_MIN: Final = 64 * 1024
# Most that may be asked for: with the one batch that may exceed it an answer stays within RESPONSE_BYTES_MAX.
FETCH_BYTES_MAX: Final = 64 * 1024 * 1024

# The leader is another one, or cannot serve: ask who leads.
LEADER_CODES: Final = frozenset(
    {
        codes.NOT_LEADER_OR_FOLLOWER,
        codes.LEADER_NOT_AVAILABLE,
        codes.UNKNOWN_TOPIC_OR_PARTITION,
        codes.FENCED_LEADER_EPOCH,
        codes.KAFKA_STORAGE_ERROR,
    }
)
# The node needs a moment.
PATIENCE_CODES: Final = codes.RETRIABLE_NOT_PERSISTED | {codes.REQUEST_TIMED_OUT}

Question = list[tuple[Cursor, int]]  # (cursor, its version) in the order of the request


class Fetcher:
    """share_bytes: what one cursor may hold; fetch_bytes_max: what one answer may hold in all.

    on_records(cursor): records arrived. on_detached(): cursors need a leader again, or one has failed.
    on_ended(connection): it is over with this fetcher and its connection, called after the last on_detached.
    """

    def __init__(
        self,
        router: Router,
        connection: Connection,
        *,
        share_bytes: int,
        fetch_bytes_max: int,
        max_wait_ms: int,
        on_records: Callable[[Cursor], None],
        on_detached: Callable[[], None],
        on_ended: Callable[[Connection], None],
    ) -> None:
        self.connection = connection
        self.cursors: dict[int, Cursor] = {}
        self._router = router
        self._share_bytes = share_bytes
        self._fetch_bytes_max = fetch_bytes_max
        self._max_wait_ms = max_wait_ms
        self._on_records = on_records
        self._on_detached = on_detached
        self._on_ended = on_ended
        self._is_asking = False
        connection.watch(self._connection_ended)

    def add(self, cursor: Cursor) -> None:
        cursor.is_attached = True
        cursor.waiting = f"new records from {self.connection.address}"
        self.cursors[cursor.partition] = cursor

    def poll(self) -> None:
        """Ask for more, unless an answer is under way or every cursor is full."""
        if self._is_asking or not self.cursors:
            return
        active = [cursor for cursor in self.cursors.values() if not cursor.is_paused]
        for cursor in active:
            room_bytes = self._share_bytes - cursor.buffered_bytes
            cursor.is_full = room_bytes < min(FETCH_BYTES_MIN, self._share_bytes)
        hungry = [cursor for cursor in active if not cursor.is_full]
        if not hungry:
            return
        max_wait_ms = self._max_wait_ms
        if len(hungry) < len(active):
            max_wait_ms = min(max_wait_ms, PARTIAL_WAIT_MS)
        self._ask(hungry, max_wait_ms)

    def _ask(self, hungry: list[Cursor], max_wait_ms: int) -> None:
        question: Question = [(cursor, cursor.version) for cursor in hungry]
        partitions = [
            FetchPartition(
                cursor.partition,
                cursor.fetch_offset if cursor.fetch_offset is not None else 0,
                min(self._share_bytes - cursor.buffered_bytes, FETCH_BYTES_MAX),
                cursor.generation,
            )
            for cursor in hungry
        ]
        request = FetchRequest(
            max_wait_ms, 1, self._fetch_bytes_max, [(hungry[0].topic, partitions)], session_epoch=-1
        )
        version = self.connection.version(apis.FETCH)

        def encode(correlation: int) -> list[Buffer]:
            return encode_fetch_request(
                correlation, self._router.settings.client_id, request, version=version
            )

        def done(frame: Buffer | None, error: RlogError | None) -> None:
            self._answered(question, version, frame, error)

        self.connection.send(encode, done, answer_within_ms=max_wait_ms)
        self._is_asking = True

    def _answered(
        self, question: Question, version: int, frame: Buffer | None, error: RlogError | None
    ) -> None:
        self._is_asking = False
        if frame is not None:
            try:
                self._take(question, version, frame)
            except ProtocolError as broken:
                error = ConnectionLost(f"{self.connection.address} broke the protocol: {broken}")
                self.connection.abort(error)
        if error is None:
            self._turn(len(question))
            self.poll()

    def _connection_ended(self, error: RlogError) -> None:
        """Whether it was asking or not: cursors that are paused or full have to find a leader as well."""
        for cursor in list(self.cursors.values()):
            self._router.cache.doubt(cursor.topic, cursor.partition)
            self.detach(cursor, str(error))
        self._on_ended(self.connection)

    def _turn(self, count: int) -> None:
        """Nodes fill an answer in the order of the request: the next one starts with another partition."""
        if 0 < count <= len(self.cursors):
            first = next(iter(self.cursors))
            self.cursors[first] = self.cursors.pop(first)

    def _take(self, question: Question, version: int, frame: Buffer) -> None:
        answer = decode_fetch_response(frame, version)
        if answer.error != codes.NONE:
            raise ProtocolError(f"Fetch without a session was answered {codes.name_of(answer.error)}")
        answers = {partition.partition: partition for _, topic in answer.topics for partition in topic}
        for cursor, asked_version in question:
            partition = answers.get(cursor.partition)
            is_current = cursor.version == asked_version and self.cursors.get(cursor.partition) is cursor
            if partition is not None and is_current:
                self._take_partition(cursor, partition)

    def _take_partition(self, cursor: Cursor, partition: FetchedPartition) -> None:
        code = partition.error
        if code == codes.NONE:
            cursor.heard()
            cursor.end_offset = partition.hwm
            if partition.log_start_offset >= 0:
                cursor.start_offset = partition.log_start_offset
            if partition.records and cursor.push(partition.records[0]):
                self._on_records(cursor)
            return
        if code == codes.OFFSET_OUT_OF_RANGE:
            cursor.is_out_of_range = True
        elif code in LEADER_CODES:
            self._router.cache.doubt(cursor.topic, cursor.partition)
        elif code not in PATIENCE_CODES:
            cursor.error = RequestRefused(f"fetching from {cursor.name}", code)
        self.detach(cursor, f"{self.connection.address} answered {codes.name_of(code)}")

    def detach(self, cursor: Cursor, why: str) -> None:
        """The cursor needs to be attached again, here or at another node."""
        if self.cursors.get(cursor.partition) is cursor:
            del self.cursors[cursor.partition]
        cursor.is_attached = False
        cursor.waiting = why
        self._on_detached()

    def leaders_changed(self) -> None:
        """New metadata came. A node that is late to answer and no longer leads is not waited for."""
        cache = self._router.cache
        address = self.connection.address
        if self.connection.is_overdue and any(
            cache.has_moved(cursor.topic, cursor.partition, address) for cursor in self.cursors.values()
        ):
            self.connection.abort(ConnectionLost(f"{address} did not answer, and another node leads now"))
