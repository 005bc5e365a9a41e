"""In-memory TCP between named hosts, with the faults that real networks and real kernels have.

A `Link` is one direction between two hosts. It delays (base latency plus seeded jitter), limits bandwidth if
asked, and may be *blocked*: bytes, connection requests and closes then wait without a word until it is healed
or the connection dies, as behind a firewall that drops packets. Links of both directions are independent.

A connection is two `SimTransport`s, each feeding one `_Stream`:

* bytes arrive in order per direction, in chunks unrelated to the writes (joined per tick, split at random);
* what was written in a tick reaches the kernel at the end of the tick. A process killed later than that has
  still sent it; a power cut takes with it what no packet carried yet;
* as in uvloop, a written bytearray or memoryview belongs to the transport until sent: one that changes
  meanwhile fails the run;
* at most `window_bytes` are under way unread; beyond, the transport buffers and `pause_writing` is called.

A killed process resets its connections, and connecting to it is refused. A host without power says nothing at
all; once it is back it answers packets of old connections with a reset.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any
from zlib import crc32

from rlog.testing.loop import Process, SimLoop, SimulationError, current_process

Buffer = bytes | bytearray | memoryview

EPHEMERAL_PORT_FIRST = 49152
# The size that a BufferedProtocol is asked for, as uvloop does.
READ_BYTES = 65536
# A connection request that meets silence is repeated like TCP's SYN, from this interval on, doubling.
CONNECT_RETRY_SECONDS = 0.2
CONNECT_RETRY_SECONDS_MAX = 3.2
# Held bytes leave within this time after a link heals: the sender's retransmission timer.
RETRANSMIT_SECONDS_MAX = 0.2


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """latency: seconds one way; jitter: mean of an exponential on top; split: chance to split a chunk.

    bandwidth_bytes: per second and connection direction, None for no limit.
    """

    latency: float = 0.0002
    jitter: float = 0.0001
    split: float = 0.02
    bandwidth_bytes: float | None = None
    window_bytes: int = 256 * 1024


class Host:
    """A machine: its power, its listening sockets and its connections, in the order they were made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_power = True
        self.listeners: dict[int, SimServer] = {}
        self.connections: dict[int, SimTransport] = {}
        self._port = EPHEMERAL_PORT_FIRST

    def free_port(self) -> int:
        self._port += 1
        return self._port


class SimServer(asyncio.AbstractServer):
    """A listening socket."""

    def __init__(self, network: "Network", host: Host, port: int, factory: Callable[[], Any]) -> None:
        self.network = network
        self.host = host
        self.port = port
        self.factory = factory
        self.process = current_process()
        self.context = copy_context()
        self._closed = network.loop.create_future()

    @property
    def sockets(self) -> tuple["SimSocket", ...]:
        return () if self._closed.done() else (SimSocket((self.host.name, self.port)),)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self.network.loop

    def is_serving(self) -> bool:
        return not self._closed.done()

    async def start_serving(self) -> None:
        """It serves from its creation on."""

    async def serve_forever(self) -> None:
        await asyncio.shield(self._closed)

    def close(self) -> None:
        if self.host.listeners.get(self.port) is self:
            del self.host.listeners[self.port]
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)


class SimSocket:
    """What `get_extra_info("socket")` and `server.sockets` give: names and options, no I/O."""

    def __init__(self, name: tuple[str, int]) -> None:
        self._name = name

    def getsockname(self) -> tuple[str, int]:
        return self._name

    def setsockopt(self, *_: object) -> None:
        """Accepted and without effect."""


class Mark(Enum):
    """What a stream carries besides bytes."""

    END = "end"
    RESET = "reset"


Item = bytes | Mark


class _Stream:
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


class Link:
    """One direction between two hosts."""

    def __init__(self) -> None:
        self.is_blocked = False
        self.extra_latency = 0.0
        self.held: dict[
            int, _Stream
        ] = {}  # streams with held items, in the order in which they began to wait


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
        self.outgoing: _Stream
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


class Network:
    """All hosts, links and connections. Everything random is drawn from `random`, in the order of events."""

    def __init__(self, loop: SimLoop, random: Random, settings: NetworkSettings | None = None) -> None:
        self.loop = loop
        self.random = random
        self.settings = NetworkSettings() if settings is None else settings
        self.hosts: dict[str, Host] = {}
        self.resets = 0
        self._links: dict[tuple[str, str], Link] = {}
        self._connections = 0
        loop.network = self

    def add_host(self, name: str) -> Host:
        self.hosts[name] = host = Host(name)
        return host

    def link(self, source: str, target: str) -> Link:
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = Link()
        return link

    # -- asyncio's side

    def listen(self, factory: Callable[[], Any], host_name: object, port: int) -> SimServer:
        host = self.hosts[current_process().host]
        if host_name not in (None, "", "0.0.0.0", "::", host.name):
            raise OSError(99, f"cannot assign requested address {host_name}")
        port = port or host.free_port()
        if port in host.listeners:
            raise OSError(98, f"address already in use: {host.name}:{port}")
        server = SimServer(self, host, port, factory)
        host.listeners[port] = server
        return server

    async def connect(self, factory: Callable[[], Any], name: str, port: int) -> tuple[SimTransport, Any]:
        process = current_process()
        server = await self._handshake(process.host, name, port)
        source = self.hosts[process.host]
        local, remote = (source.name, source.free_port()), (name, port)
        near = SimTransport(self, process, copy_context(), local, remote)
        far = SimTransport(self, server.process, server.context.copy(), remote, local)
        self._join(near, far)
        near.protocol = factory()
        far.loop.call_soon(self._accept, server, far, context=far.context)
        near.connected()
        return near, near.protocol

    async def _handshake(self, source: str, name: str, port: int) -> SimServer:
        """Until both directions and both machines let a SYN and its answer through."""
        retry = CONNECT_RETRY_SECONDS
        while True:
            await asyncio.sleep(self._latency(source, name))
            target = self.hosts.get(name)
            if target is None:
                raise OSError(113, f"no host {name}")
            there, back = self.link(source, name), self.link(name, source)
            if target.has_power and not there.is_blocked and not back.is_blocked:
                server = target.listeners.get(port)
                await asyncio.sleep(self._latency(name, source))
                if server is None or not server.is_serving() or not server.process.alive:
                    raise ConnectionRefusedError(111, f"connection refused by {name}:{port}")
                return server
            await asyncio.sleep(retry)
            retry = min(2 * retry, CONNECT_RETRY_SECONDS_MAX)

    def _accept(self, server: SimServer, transport: SimTransport) -> None:
        transport.protocol = server.factory()
        transport.connected()

    def _join(self, near: SimTransport, far: SimTransport) -> None:
        near.peer, far.peer = far, near
        for end in (near, far):
            self._connections += 1
            end.identity = self._connections
            end.outgoing = _Stream(end.identity, end, end.peer)
            self.hosts[end.process.host].connections[end.identity] = end

    def forget(self, transport: SimTransport) -> None:
        self.hosts[transport.process.host].connections.pop(transport.identity, None)

    # -- packets

    def _latency(self, source: str, target: str) -> float:
        settings = self.settings
        extra = self.link(source, target).extra_latency
        return settings.latency + extra + self.random.expovariate(1.0) * (settings.jitter + extra / 4)

    def send(self, stream: _Stream, item: Item) -> None:
        """Put a chunk, the end of the stream or a reset on the wire."""
        source, target = stream.sender.process.host, stream.receiver.process.host
        if isinstance(item, bytes):
            stream.unread_bytes += len(item)
            self.loop.trace.add(self.loop.time(), f"send {source} {target} {len(item)} {crc32(item):08x}")
        link = self.link(source, target)
        if link.is_blocked or stream.held or not self.hosts[target].has_power:
            stream.held.append(item)
            link.held[stream.identity] = stream
        elif not stream.receiver.process.alive:
            if isinstance(item, bytes):  # the kernel of a machine that is up answers for a dead process
                self.send(stream.receiver.outgoing, Mark.RESET)
        else:
            self._carry(stream, item, self._latency(source, target))

    def _carry(self, stream: _Stream, item: Item, latency: float) -> None:
        now = self.loop.time()
        if isinstance(item, bytes):
            if self.settings.bandwidth_bytes is not None:
                start = max(now, stream.sent_until)
                stream.sent_until = start + len(item) / self.settings.bandwidth_bytes
                latency += stream.sent_until - now
            if len(item) > 1 and self.random.random() < self.settings.split:
                middle = self.random.randrange(1, len(item))
                self._arrive_at(stream, item[:middle], now + latency)
                item = item[middle:]
                latency += self._latency(stream.sender.process.host, stream.receiver.process.host)
        self._arrive_at(stream, item, now + latency)

    def _arrive_at(self, stream: _Stream, item: Item, when: float) -> None:
        stream.arrival = max(stream.arrival, when)
        receiver = stream.receiver
        self.loop.call_at(stream.arrival, receiver.arrive, item, context=receiver.context)

    # -- faults

    def block(self, source: str, target: str) -> None:
        """Silence one direction: nothing is lost yet, nothing arrives."""
        self.link(source, target).is_blocked = True

    def heal(self, source: str, target: str) -> None:
        link = self.link(source, target)
        link.is_blocked = False
        self._release(link, target)

    def heal_all(self) -> None:
        for (source, target), link in list(self._links.items()):
            link.extra_latency = 0.0
            if link.is_blocked:
                self.heal(source, target)

    def _release(self, link: Link, target: str) -> None:
        """What was held goes out with the sender's next retransmission."""
        if link.is_blocked or not self.hosts[target].has_power:
            return
        streams = list(link.held.values())
        link.held.clear()
        for stream in streams:
            items, stream.held = stream.held, []
            if not stream.receiver.process.alive:
                self.send(stream.receiver.outgoing, Mark.RESET)
                continue
            delay = self.random.uniform(0, RETRANSMIT_SECONDS_MAX)
            for item in items:
                self._carry(stream, item, delay)

    def reset(self, transport: SimTransport) -> None:
        """A middlebox resets both ends of a connection, whatever the links carry."""
        self.resets += 1
        for end in (transport, transport.peer):
            error = ConnectionResetError(104, "connection reset by peer")
            self.loop.call_soon(end.lose, error, context=end.context)

    def connections_between(self, one: str, other: str) -> list[SimTransport]:
        """The ends on host `one` of its connections with host `other`, oldest first."""
        ends = self.hosts[one].connections.values()
        return [end for end in ends if end.peer.process.host == other]

    def process_killed(self, process: Process) -> None:
        """The kernel closes what a killed process held: some peers read an end, some a reset."""
        host = self.hosts[process.host]
        for port, server in list(host.listeners.items()):
            if server.process is process:
                del host.listeners[port]
        for end in [end for end in host.connections.values() if end.process is process]:
            self.forget(end)
            self.loop.keep(end)
            self.send(end.outgoing, self.random.choice((Mark.END, Mark.RESET)))

    def power_cut(self, host_name: str) -> None:
        """The machine falls silent: what no packet carries yet is gone, and nobody is told."""
        host = self.hosts[host_name]
        host.has_power = False
        host.listeners.clear()
        for end in host.connections.values():
            self.loop.keep(end)
        host.connections.clear()
        for (source, _), link in self._links.items():
            if source == host_name:
                for stream in link.held.values():
                    stream.held.clear()
                link.held.clear()

    def power_on(self, host_name: str) -> None:
        """The machine answers again; packets for connections that it forgot earn a reset."""
        self.hosts[host_name].has_power = True
        for (_, target), link in list(self._links.items()):
            if target == host_name:
                self._release(link, target)
