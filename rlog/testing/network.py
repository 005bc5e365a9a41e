"""In-memory TCP between named hosts, with the faults that real networks and real kernels have.

A `Link` is one direction between two hosts. It delays (base latency plus seeded jitter), limits bandwidth if
asked, and may be *blocked*: bytes, connection requests and closes then wait without a word until it is healed
or the connection dies, as behind a firewall that drops packets. Links of both directions are independent.

A connection is two `SimTransport`s, each feeding one `Stream`. Bytes arrive in order per direction, in chunks
unrelated to the writes (joined per tick, split at random).

A killed process resets its connections, and connecting to it is refused. A host without power says nothing at
all; once it is back it answers packets of old connections with a reset.
"""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from random import Random
from typing import Any
from zlib import crc32

from rlog.testing.loop import Process, SimLoop, current_process
from rlog.testing.transport import Item, Mark, SimSocket, SimTransport, Stream

EPHEMERAL_PORT_FIRST = 49152
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


class Link:
    """One direction between two hosts."""

    def __init__(self) -> None:
        self.is_blocked = False
        self.extra_latency = 0.0
        self.held: dict[int, Stream] = {}  # streams with held items, in the order in which they began to wait


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
            end.outgoing = Stream(end.identity, end, end.peer)
            self.hosts[end.process.host].connections[end.identity] = end

    def forget(self, transport: SimTransport) -> None:
        self.hosts[transport.process.host].connections.pop(transport.identity, None)

    # -- packets

    def _latency(self, source: str, target: str) -> float:
        settings = self.settings
        extra = self.link(source, target).extra_latency
        return settings.latency + extra + self.random.expovariate(1.0) * (settings.jitter + extra / 4)

    def send(self, stream: Stream, item: Item) -> None:
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

    def _carry(self, stream: Stream, item: Item, latency: float) -> None:
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

    def _arrive_at(self, stream: Stream, item: Item, when: float) -> None:
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
