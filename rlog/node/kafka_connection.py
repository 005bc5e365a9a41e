"""One client connection of the Kafka door, and what keeps it and all of them together bounded.

A connection starts the requests it reads in their order and writes the answers in that order, however they
finish. It stops reading while any of these holds, so that pressure reaches the client's socket:

* its requests under way are too many (`connection_inflight_count_max`) or too large
  (`connection_inflight_bytes_max`);
* it does not take its answers: with WRITE_BYTES_HIGH unsent, or ready behind one that is not, no further
  request is started. A Fetch is started only when all before it are answered (its answer could not leave
  earlier anyway), so a consumer that never reads costs one answer and no more;
* all connections together hold `clients_inflight_bytes_max`. Room for a frame larger than the receive buffer
  is taken before its bytes are read, in the order of asking; whoever got room may finish its frame, so those
  that wait always move on.

A connection that holds bytes and makes no progress for `client_stall_ms` is cut. One that sends bytes that
are not a request is closed; the reason is logged. An error of a partition never closes a connection, but for
acks=0, where closing is the only answer there is.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from rlog.errors import ProtocolError
from rlog.node.serving import Buffer, ServedNode
from rlog.observe.counters import CloseReason
from rlog.observe.events import address_text, emit
from rlog.wire.kafka import FrameReceiver, Reader, apis

log = logging.getLogger("rlog.node")

WRITE_BYTES_HIGH = 1024 * 1024
# What a connection may read before the budget is looked at again: one receive buffer.
READ_BYTES = 64 * 1024
# How the frame of a Fetch begins.
FETCH_KEY = apis.FETCH.to_bytes(2, "big")


class Server(Protocol):
    """What a connection needs of the KafkaServer."""

    node: ServedNode
    loop: asyncio.AbstractEventLoop
    budget: "Budget"

    @property
    def kafka_address(self) -> tuple[str, int]:
        """Where this node tells clients to connect."""

    def connected(self, connection: "Connection") -> None: ...
    def disconnected(self, connection: "Connection") -> None: ...
    def handle(self, request: "Request", reader: Reader) -> None:
        """Start the request. Raises ProtocolError when it is not one that can be answered."""


class Budget:
    """Bytes that all connections share. A connection that finds no room waits, first come, first served.

    Invariant: while a connection waits some bytes are in use, so a later `give` wakes it.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0
        self._waiting: dict[Connection, None] = {}

    def has_room(self, connection: "Connection", wanted: int) -> bool:
        """Is there room for `wanted` bytes? If not, its `update_reading` is called when there may be.

        With nothing in use anything fits: the largest request is served even under the smallest budget.
        """
        first = not self._waiting or next(iter(self._waiting)) is connection
        if first and (self.used_bytes == 0 or self.used_bytes + wanted <= self.bytes_max):
            self._waiting.pop(connection, None)
            return True
        self._waiting[connection] = None
        return False

    def take(self, count: int) -> None:
        self.used_bytes += count

    def give(self, count: int) -> None:
        self.used_bytes -= count
        while self._waiting and (self.used_bytes == 0 or self.used_bytes < self.bytes_max):
            connection = next(iter(self._waiting))
            connection.update_reading()
            if connection in self._waiting:
                break

    def leave(self, connection: "Connection") -> None:
        """The connection does not want to read any more."""
        self._waiting.pop(connection, None)


class Request:
    """One request and the place of its answer in the connection's order.

    A handler calls `answer` exactly once, now or later. One that waits sets `cancel`, which is called instead
    when the connection is lost first.
    """

    __slots__ = ("api_key", "buffers", "cancel", "connection", "correlation_id", "size", "version")

    def __init__(self, connection: "Connection", size: int) -> None:
        self.connection = connection
        self.size = size
        self.api_key = -1
        self.version = -1
        self.correlation_id = -1
        self.buffers: list[Buffer] | None = None
        self.cancel: Callable[[], None] | None = None

    @property
    def node(self) -> ServedNode:
        return self.connection.server.node

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.connection.server.loop

    def count_error(self, error: int) -> None:
        """One partition of the answer has this error code."""
        self.node.counters.request_errors[self.api_key, error] += 1

    def answer(self, buffers: list[Buffer]) -> None:
        """The frame of the answer; an empty list when there is none (acks=0).

        The buffers belong to the transport from here on: uvloop keeps references until they are sent.
        """
        assert self.buffers is None, "a request is answered once"
        self.buffers = buffers
        self.cancel = None
        self.connection.answered(sum(map(len, buffers)))


class Connection(asyncio.BufferedProtocol):
    """One client. The module's text says when it reads and when it is closed."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.peer = "?"
        self._receiver = FrameReceiver(server.node.config.request_bytes_max)
        self._frames: deque[bytes | bytearray] = deque()  # read and not started: at most one receive buffer
        self._requests: deque[Request] = deque()  # started and not answered, in order
        self._inflight_bytes = 0  # of both; taken from the budget
        self._reserved_bytes = 0  # for a frame that is not complete; taken from the budget
        self._held_bytes = 0  # of answers that are ready and wait for an earlier one
        self._unsent_bytes = 0  # as the last look for a stall found it
        self._write_paused = False
        self._read_paused = False
        self._starting = False
        self._flush_is_due = False
        self._closing = False
        self._cause: CloseReason = "lost"  # why it ended, as it is counted
        self._progress = server.loop.time()
        self._transport: asyncio.Transport | None = None

    # --- asyncio calls these ---
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BYTES_HIGH)
        self.peer = address_text(transport.get_extra_info("peername"))
        self.server.connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._receiver.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            return
        self._progress = self.server.loop.time()
        self.server.node.counters.client_received_bytes += nbytes
        try:
            frames = self._receiver.received(nbytes)
        except ProtocolError as error:
            self.close(str(error))
            return
        for frame in frames:
            self.server.budget.take(len(frame) - self._reserved_bytes)
            self._reserved_bytes = 0
            self._inflight_bytes += len(frame)
        self._frames.extend(frames)
        self._start_requests()

    def pause_writing(self) -> None:
        self._write_paused = True
        self._progress = self.server.loop.time()
        self.update_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._start_requests()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._cause = "by_client" if exc is None else "lost"
            if exc is not None:
                self._say(logging.INFO, "client_lost", str(exc))
        self.server.node.counters.clients_closed[self._cause] += 1
        self._closing = True
        self._frames.clear()
        requests, self._requests = self._requests, deque()
        for request in requests:
            if request.cancel is not None:
                request.cancel()
        self.server.disconnected(self)
        self.server.budget.leave(self)
        self.server.budget.give(self._inflight_bytes + self._reserved_bytes)
        self._inflight_bytes = self._reserved_bytes = 0

    # --- the server and the handlers call these ---
    def close(
        self, reason: str, level: int = logging.WARNING, *, cause: CloseReason = "protocol_error"
    ) -> None:
        """Send the answers that are ready, then close. Requests still under way stay unanswered.

        cause: as it is counted.
        """
        if self._closing:
            return
        self._write_answers()
        self._closing = True
        self._cause = cause
        self._progress = self.server.loop.time()
        self._frames.clear()
        self.server.budget.leave(self)
        self._say(level, "client_closed", reason)
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection; what is not sent is lost."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def abort_if_stalled(self, now: float, stall_seconds: float) -> None:
        """Cut it if it neither sent the rest of a frame nor took any of its answers for `stall_seconds`."""
        unsent_bytes = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if unsent_bytes < self._unsent_bytes:
            self._progress = now
        self._unsent_bytes = unsent_bytes
        sending_to_us = self._receiver.pending_bytes > 0 and not self._read_paused
        if (unsent_bytes > 0 or sending_to_us) and now - self._progress > stall_seconds:
            self.close(f"no progress for {stall_seconds:.0f} s", cause="stalled")
            self.abort()

    def answered(self, answer_bytes: int) -> None:
        """A request got its answer. All that come in one turn of the loop (one commit) leave in one write."""
        self._held_bytes += answer_bytes
        if not self._starting and not self._flush_is_due:
            self._flush_is_due = True
            self.server.loop.call_soon(self._flush)

    def update_reading(self) -> None:
        """Read on or pause, as the bounds say."""
        if self._closing or self._transport is None:
            return
        may_read = self._may_read()
        if may_read and self._read_paused:
            self._read_paused = False
            self._progress = self.server.loop.time()
            self._transport.resume_reading()
        elif not may_read and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    # --- inside ---
    def _say(self, level: int, event: str, reason: str) -> None:
        emit(log, level, event, node=self.server.node.config.node_id, address=self.peer, reason=reason)

    def _flush(self) -> None:
        self._flush_is_due = False
        self._write_answers()
        self._start_requests()

    def _may_read(self) -> bool:
        config = self.server.node.config
        budget = self.server.budget
        if (
            self._write_paused
            or self._frames
            or len(self._requests) >= config.connection_inflight_count_max
            or self._inflight_bytes >= config.connection_inflight_bytes_max
        ):
            budget.leave(self)
            return False
        if self._reserved_bytes > 0:
            return True
        pending_bytes = self._receiver.pending_bytes
        if not budget.has_room(self, pending_bytes or READ_BYTES):
            return False
        budget.take(pending_bytes)
        self._reserved_bytes = pending_bytes
        return True

    def _start_requests(self) -> None:
        """Start what may be started; answers that are there at once leave in one write."""
        self._starting = True
        while self._may_start():
            self._start(self._frames.popleft())
            if not self._may_start():
                self._write_answers()  # which may be what was missing
        self._starting = False
        self.update_reading()

    def _may_start(self) -> bool:
        return (
            bool(self._frames)
            and not self._write_paused
            and self._held_bytes < WRITE_BYTES_HIGH
            and len(self._requests) < self.server.node.config.connection_inflight_count_max
            and not (self._requests and self._frames[0].startswith(FETCH_KEY))
        )

    def _start(self, frame: bytes | bytearray) -> None:
        request = Request(self, len(frame))
        self._requests.append(request)
        try:
            self.server.handle(request, Reader(frame))
        except ProtocolError as error:
            name = apis.NAMES.get(request.api_key, f"API key {request.api_key}")
            self.close(f"{name} version {request.version}: {error}")

    def _write_answers(self) -> None:
        """Answers leave in the order of the requests; one that is not ready holds back those behind it."""
        buffers: list[Buffer] = []
        done_bytes = 0
        while self._requests and (ready := self._requests[0].buffers) is not None:
            buffers += ready
            done_bytes += self._requests.popleft().size
        if self._closing or self._transport is None:
            return
        if buffers:
            sent_bytes = sum(map(len, buffers))
            self._held_bytes -= sent_bytes
            self.server.node.counters.client_sent_bytes += sent_bytes
            self._transport.writelines(buffers)
        self._inflight_bytes -= done_bytes
        self.server.budget.give(done_bytes)
