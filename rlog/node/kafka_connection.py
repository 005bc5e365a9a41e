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

What is answered and not taken is bounded too, by the same number of bytes: while the answers of all
connections hold that much, a Fetch finds no records (see fetch.py).

A connection is cut when a request that it began is not whole, or an answer moves on by less than TAKE_BYTES,
for `client_stall_ms`; while others wait for the room that it holds, for SHED_SECONDS. One that sends bytes
that are not a request is closed; the reason is logged. An error of a partition never closes a connection, but
for acks=0, where closing is the only answer there is.
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
from rlog.wire.foreign import HEAD_BYTES, foreign_protocol
from rlog.wire.kafka import FrameReceiver, Reader, apis

log = logging.getLogger("rlog.node")

WRITE_BYTES_HIGH = 1024 * 1024
# What a connection may read before the budget is looked at again: one receive buffer.
READ_BYTES = 64 * 1024
# Whoever takes less of its answers than this in `client_stall_ms` takes nothing.
TAKE_BYTES = 64 * 1024
SMALL, MEDIUM, LARGE = range(3)
# Above any batch that producers send by default.
LARGE_BYTES = 4 * 1024 * 1024
SHED_SECONDS = 5.0
# How the frame of a Fetch begins.
FETCH_KEY = apis.FETCH.to_bytes(2, "big")


class Server(Protocol):
    """What a connection needs of the KafkaServer."""

    node: ServedNode
    loop: asyncio.AbstractEventLoop
    budget: "Budget"
    answers: "Answers"

    @property
    def kafka_address(self) -> tuple[str, int]:
        """Where this node tells clients to connect."""

    def connected(self, connection: "Connection") -> None: ...
    def disconnected(self, connection: "Connection") -> None: ...
    def handle(self, request: "Request", reader: Reader) -> None:
        """Start the request. Raises ProtocolError when it is not one that can be answered."""


class Budget:
    """Bytes of requests that all connections share. One that finds no room waits, first come, first served
    among those that want as much.

    Who wants little does not wait for who wants much, or a few that announce the largest request and send
    none would stop everyone. So a *large* frame (above LARGE_BYTES) takes room of its own, half as much as
    `bytes_max` or one such frame; a *medium* one (that does not fit into the receive buffer) leaves an eighth
    to the *small*. In all at most `bytes_max`, half of it again, and one request are in use.

    Invariant: while a connection waits some bytes are in use, so a later `give` wakes it.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._shared_bytes = 0
        self._large_bytes = 0
        # By what they want: little, medium, much.
        self._waiting: tuple[dict[Connection, None], ...] = ({}, {}, {})

    @property
    def used_bytes(self) -> int:
        return self._shared_bytes + self._large_bytes

    @property
    def waiting_count(self) -> int:
        return sum(map(len, self._waiting))

    def has_room(self, connection: "Connection", wanted: int) -> bool:
        """Is there room for `wanted` bytes? If not, its `update_reading` is called when there may be.

        With nothing in use anything fits: the largest request is served even under the smallest budget.
        """
        queue = self._waiting[_size_class(wanted)]
        is_first = not queue or next(iter(queue)) is connection
        if is_first and self._fits(wanted):
            queue.pop(connection, None)
            return True
        queue[connection] = None
        return False

    def _fits(self, wanted: int) -> bool:
        if _size_class(wanted) == LARGE:
            return self._large_bytes == 0 or self._large_bytes + wanted <= self.bytes_max // 2
        kept_bytes = self.bytes_max // 8 if _size_class(wanted) == MEDIUM else 0
        return self._shared_bytes == 0 or self._shared_bytes + wanted <= self.bytes_max - kept_bytes

    def reserve(self, count: int) -> None:
        """For one frame, before its bytes are read."""
        if _size_class(count) == LARGE:
            self._large_bytes += count
        else:
            self._shared_bytes += count

    def release(self, count: int) -> None:
        """The frame that this was reserved for is there, or will not be."""
        if _size_class(count) == LARGE:
            self._large_bytes -= count
        else:
            self._shared_bytes -= count
        self._wake()

    def take(self, count: int) -> None:
        self._shared_bytes += count

    def give(self, count: int) -> None:
        self._shared_bytes -= count
        self._wake()

    def leave(self, connection: "Connection") -> None:
        """The connection does not want to read any more."""
        for queue in self._waiting:
            queue.pop(connection, None)

    def _wake(self) -> None:
        for queue in self._waiting:
            while queue:
                connection = next(iter(queue))
                connection.update_reading()
                if connection in queue:
                    break


def _size_class(count: int) -> int:
    if count <= READ_BYTES:
        return SMALL
    return MEDIUM if count <= LARGE_BYTES else LARGE


class Answers:
    """Bytes of answers that are read from disk, or ready, and that their clients have not taken; of all
    connections."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0
        self.is_short = False
        """Room was asked for and not there, since the last `shed`."""
        self.holders: dict[Connection, None] = {}

    @property
    def free_bytes(self) -> int:
        return self.bytes_max - self.used_bytes

    def room(self, wanted: int) -> int:
        """Bytes that may be answered now; 0 when those are fewer than `wanted`."""
        if self.used_bytes + wanted > self.bytes_max:
            for connection in list(self.holders):
                connection.settle_answers()
        room = self.free_bytes
        self.is_short = self.is_short or room < wanted
        return room if room >= wanted else 0


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

    def fail(self, reason: str) -> None:
        """Instead of an answer, where there is none: by a fault of this program, which was logged."""
        self.connection.close(reason, logging.ERROR, cause="internal_error")


class Connection(asyncio.BufferedProtocol):
    """One client. The module's text says when it reads and when it is closed."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.peer = "?"
        self.search_turns: deque[Callable[[], None]] = deque()  # of searches by time: the first is under way
        self._receiver = FrameReceiver(server.node.config.request_bytes_max)
        self._frames: deque[bytes | bytearray] = deque()  # read and not started: at most one receive buffer
        self._requests: deque[Request] = deque()  # started and not answered, in order
        self._inflight_bytes = 0  # of both; taken from the budget
        self._reserved_bytes = 0  # for a frame that is not complete; taken from the budget
        self._held_bytes = 0  # of answers that are ready and wait for an earlier one
        self._answer_bytes = 0  # of answers, ready or written and perhaps not taken; counted in `answers`
        self._unsent_bytes = 0  # when answers moved on last
        self._frame_began: float | None = None  # since when the rest of a frame is read for
        self._write_paused = False
        self._read_paused = False
        self._starting = False
        self._flush_is_due = False
        self._closing = False
        self._cause: CloseReason = "lost"  # why it ended, as it is counted
        self._taken_at = server.loop.time()  # when answers moved on last
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
        self.server.node.counters.client_received_bytes += nbytes
        try:
            frames = self._receiver.received(nbytes)
        except ProtocolError as error:
            self._refuse(error)
            return
        if frames or self._frame_began is None:
            is_part = self._receiver.pending_bytes > 0 or self._receiver.unread(1) != b""
            self._frame_began = self.server.loop.time() if is_part else None
        for frame in frames:
            self.server.budget.take(len(frame))
            self._inflight_bytes += len(frame)
        if frames:
            self._release()
        self._frames.extend(frames)
        self._start_requests()

    def pause_writing(self) -> None:
        self._write_paused = True
        self.update_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        self.settle_answers()
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
        self._release()
        self.server.budget.give(self._inflight_bytes)
        self._inflight_bytes = 0
        self._transport = None
        self._held_bytes = 0
        self.settle_answers()

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
        self._frames.clear()
        self.server.budget.leave(self)
        self._say(level, "client_closed", reason, cause=cause)
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection; what is not sent is lost."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def abort_if_stalled(self, now: float, stall_seconds: float) -> None:
        """Cut it if it neither completed a request nor took of its answers for `stall_seconds`."""
        unsent_bytes = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if unsent_bytes == 0 or not 0 <= self._unsent_bytes - unsent_bytes < TAKE_BYTES:
            self._unsent_bytes, self._taken_at = unsent_bytes, now
        if unsent_bytes > 0 and now - self._taken_at > stall_seconds:
            self._cut(f"no progress for {stall_seconds:.0f} s: {unsent_bytes} bytes of answers are not taken")
        began = self._frame_began if not self._read_paused else None
        if began is not None and now - began > stall_seconds:
            self._cut(f"no progress for {stall_seconds:.0f} s: the rest of a request does not come")

    @property
    def holds_room(self) -> bool:
        """For a large request that is under way."""
        return self._reserved_bytes > 0

    def settle_answers(self) -> None:
        """Count again which of its answers the client has not taken."""
        unsent_bytes = self._transport.get_write_buffer_size() if self._transport is not None else 0
        self._count_answers(self._held_bytes + unsent_bytes)

    def answered(self, answer_bytes: int) -> None:
        """A request got its answer. All that come in one turn of the loop (one commit) leave in one write."""
        if self._transport is None:
            return  # nobody is there to take it
        self._held_bytes += answer_bytes
        self._count_answers(self._answer_bytes + answer_bytes)
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
            if self._frame_began is not None:
                self._frame_began = self.server.loop.time()
            self._transport.resume_reading()
        elif not may_read and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    # --- inside ---
    def _say(self, level: int, event: str, reason: str, *, cause: CloseReason | None = None) -> None:
        node_id = self.server.node.config.node_id
        emit(log, level, event, node=node_id, address=self.peer, cause=cause, reason=reason)

    def _refuse(self, error: ProtocolError) -> None:
        """What came is no frame; perhaps something else is known that it could be."""
        foreign = foreign_protocol(self._receiver.unread(HEAD_BYTES), "client")
        if foreign is not None and self._transport is not None and not self._requests:
            self._transport.write(foreign.answer)
        self.close(str(foreign or error))

    def _cut(self, reason: str) -> None:
        self.close(reason, cause="stalled")
        self.abort()

    def _count_answers(self, count: int) -> None:
        answers = self.server.answers
        answers.used_bytes += count - self._answer_bytes
        self._answer_bytes = count
        if count > 0:
            answers.holders[self] = None
        else:
            answers.holders.pop(self, None)

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
        budget.reserve(pending_bytes)
        self._reserved_bytes = pending_bytes
        return True

    def _release(self) -> None:
        reserved_bytes, self._reserved_bytes = self._reserved_bytes, 0
        if reserved_bytes:
            self.server.budget.release(reserved_bytes)

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
            self.settle_answers()
        self._inflight_bytes -= done_bytes
        self.server.budget.give(done_bytes)
