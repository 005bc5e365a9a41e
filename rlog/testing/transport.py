"""One end of a simulated connection, as uvloop's TCP transport behaves; the network is in network.py.

* What is written in a tick reaches the kernel at the end of the tick. A process killed later than that has
  still sent it.
* A written bytearray or memoryview belongs to the transport until it is sent, as in uvloop: one that changes
  meanwhile fails the run.
* At most `window_bytes` are under way unread; beyond, the transport buffers and `pause_writing` is called.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from enum import Enum
from typing import TYPE_CHECKING, Any

from rlog.testing.loop import Process, SimulationError

if TYPE_CHECKING:
    from rlog.testing.network import Network

Buffer = bytes | bytearray | memoryview

# The size that a BufferedProtocol is asked for, as uvloop does.
READ_BYTES = 65536


class Mark(Enum):
    """What a stream carries besides bytes."""

    END = "end"
    RESET = "reset"


Item = bytes | Mark


class Stream:
    """One direction of a connection, on its way from the sender's kernel to the receiver's protocol."""

    __slots__ = ("arrival", "held", "identity", "receiver", "sender", "sent_until", "unread_bytes")

    def __init__(self, identity: int, sender: "SimTransport", receiver: "SimTransport") -> None:
        self.identity = identity
        self.sender = sender
        self.receiver = receiver
        self.arrival = 0.0  # of the last thing sent: what follows never overtakes it
        self.sent_until = 0.0  # the wire is busy until then, when bandwidth is limited
        self.held: list[Item] = []  # behind a blocked link or before a dark machine, in order
        self.unread_bytes = 0  # left the sender's kernel and not given to the receiver's protocol


class SimSocket:
    """What `get_extra_info("socket")` and `server.sockets` give: names and options, no I/O."""

    def __init__(self, name: tuple[str, int]) -> None:
        self._name = name

    def getsockname(self) -> tuple[str, int]:
        return self._name

    def setsockopt(self, *_: object) -> None:
        """Accepted and without effect."""


class SimTransport(asyncio.Transport):
    """One end of a connection, as uvloop's TCPTransport behaves."""

    def __init__(
        self, network: "Network", process: Process, context: Context, local: Any, remote: Any
    ) -> None:
        super().__init__(extra={"sockname": local, "peername": remote, "socket": SimSocket(local)})
        self.network = network
        self.loop = network.loop
        self.process = process
        self.context = context
        self.identity = 0
        self.protocol: Any = None
        self.outgoing: Stream
        self.peer: SimTransport
        self._buffer: deque[tuple[Buffer, bytes]] = deque()  # (as given, as it was then)
        self._buffer_bytes = 0
        self._flush_queued = False
        self._inbox: deque[Item] = deque()  # arrived while reading was paused
        self._is_reading = True
        self._is_closing = False
        self._is_lost = False
        self._eof_written = False
        self._fin_sent = False
        self._writing_paused = False
        self._low, self._high = 16 * 1024, 64 * 1024

    # -- asyncio.Transport

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self._is_closing or not self.process.alive

    def is_reading(self) -> bool:
        return self._is_reading and not self.is_closing()

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._soon(self._drain_inbox)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be >= low ({low}) must be >= 0")
        self._low, self._high = low, high
        self._update_flow()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return self._buffer_bytes

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: Buffer) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data: a bytes-like object is needed, not {type(data).__name__}")
        if self._eof_written:
            raise RuntimeError("cannot write after write_eof()")
        if self.is_closing() or not len(data):
            return
        if not isinstance(data, bytes):
            data = memoryview(data)
            data = data.cast("B") if data.nbytes else data
        self._buffer.append((data, bytes(data)))
        self._buffer_bytes += len(data)
        self._queue_flush()
        self._update_flow()

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        for data in list_of_data:
            self.write(data)

    def write_eof(self) -> None:
        if not self._eof_written and not self.is_closing():
            self._eof_written = True
            self._queue_flush()

    def close(self) -> None:
        if not self.is_closing():
            self._is_closing = True
            self._queue_flush()

    def abort(self) -> None:
        if self.process.alive and not self._is_lost:
            self._is_closing = True
            self.network.send(self.outgoing, Mark.RESET)
            self._soon(self.lose, None)

    # -- outwards

    def _soon(self, callback: Callable[..., object], *args: object) -> None:
        self.loop.call_soon(callback, *args, context=self.context)

    def _queue_flush(self) -> None:
        if not self._flush_queued:
            self._flush_queued = True
            self._soon(self._flush)

    def _flush(self) -> None:
        """End of the tick: what fits the window goes to the kernel, and so beyond a kill's reach."""
        self._flush_queued = False
        if self._is_lost:
            return
        chunks = []
        room = self.network.settings.window_bytes - self.outgoing.unread_bytes
        while self._buffer and room > 0:
            given, copy = self._buffer.popleft()
            if given is not copy and given != copy:
                raise SimulationError("a buffer was changed between write() and its sending")
            if len(copy) > room:
                rest = bytes(copy[room:])
                self._buffer.appendleft((rest, rest))
                copy = copy[:room]
            room -= len(copy)
            self._buffer_bytes -= len(copy)
            chunks.append(copy)
        if chunks:
            self.network.send(self.outgoing, chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if not self._buffer:
            self._end_of_buffer()
        self._update_flow()

    def _end_of_buffer(self) -> None:
        if (self._is_closing or self._eof_written) and not self._fin_sent:
            self._fin_sent = True
            self.network.send(self.outgoing, Mark.END)
        if self._is_closing:
            self.lose(None)

    def _update_flow(self) -> None:
        if not self._writing_paused and self._buffer_bytes > self._high:
            self._writing_paused = True
            self.protocol.pause_writing()
        elif self._writing_paused and self._buffer_bytes <= self._low and not self._is_lost:
            self._writing_paused = False
            self.protocol.resume_writing()

    def window_opened(self) -> None:
        if self._buffer and self.process.alive:
            self._queue_flush()

    # -- inwards; these run in this end's context, so a dead or frozen process sees none of them

    def connected(self) -> None:
        self.protocol.connection_made(self)

    def arrive(self, item: Item) -> None:
        if self._is_lost:
            if isinstance(item, bytes):  # nobody reads this any more
                self.network.send(self.outgoing, Mark.RESET)
        elif item is Mark.RESET:  # overtakes what waits to be read, as in the kernel
            self.lose(ConnectionResetError(104, "connection reset by peer"))
        elif self._inbox or not self._is_reading:
            self._inbox.append(item)
        else:
            self._deliver(item)

    def _drain_inbox(self) -> None:
        while self._inbox and self._is_reading and not self._is_lost:
            self._deliver(self._inbox.popleft())

    def _deliver(self, item: Item) -> None:
        if not isinstance(item, bytes):
            if not self._is_closing and not self.protocol.eof_received():
                self.close()
            return
        count = len(item)
        if self._is_closing:
            pass  # read and forgotten
        elif isinstance(self.protocol, asyncio.BufferedProtocol):
            count = self._fill(self.protocol, item)
        else:
            self.protocol.data_received(item)
        self.peer.outgoing.unread_bytes -= count
        self.peer.window_opened()

    def _fill(self, protocol: asyncio.BufferedProtocol, item: bytes) -> int:
        """Hand `item` to a BufferedProtocol until it pauses; the rest waits. Returns how much it took."""
        data = memoryview(item)
        while data and self._is_reading and not self._is_closing:
            target = memoryview(protocol.get_buffer(READ_BYTES)).cast("B")
            count = min(len(target), len(data))
            if not count:
                raise SimulationError("get_buffer() returned an empty buffer")
            target[:count] = data[:count]
            target.release()
            data = data[count:]
            protocol.buffer_updated(count)
        if data and not self._is_closing:
            self._inbox.appendleft(bytes(data))
            return len(item) - len(data)
        return len(item)

    def lose(self, error: Exception | None) -> None:
        """The connection is over for this end: tell its protocol, once."""
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        self._inbox.clear()
        self._buffer.clear()
        self._buffer_bytes = 0
        self.network.forget(self)
        self.protocol.connection_lost(error)
