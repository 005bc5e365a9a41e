"""Connections to the other nodes: who dials, what travels where, and what happens when one breaks.

Each node dials every peer twice, and sends only over the connections it dialed itself: *bulk* carries the
Appends and anchors, *control* everything else, so that a big transfer never delays a heartbeat. Empty Appends
are bulk too: they ask what arrived of those before them, and must not overtake them. Over a connection that
was dialed to it a node only answers the Hello and the pings. So there is no tie to break when both ends dial
at once, either end notices by itself that it cannot be heard, and each end redials on its own clock.

A link is up when both of its connections are. While it is down, or its bulk connection has more than
`peer_write_bytes_max` unsent, Appends are dropped, not queued: consensus sees from the replies what is
missing and sends it again (SAFETY 45).

All messages to one peer of one loop tick leave in one frame per connection.

A connection that is lost is redialed at once, then with a doubling, jittered pause. When the redial of the
control connection to a peer whose pinned uuid was seen there is *refused or reset*, nobody listens where that
peer used to: its process is dead. Only this is a hint that a leader is gone (SAFETY 40).
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from rlog.config import NodeConfig, PeerAddress
from rlog.errors import ProtocolError
from rlog.node.identity import Identity, PeerRefusedError
from rlog.observe.counters import NodeCounters, PeerCounters
from rlog.observe.events import address_text, emit
from rlog.raft.messages import Append, InstallAnchor, Message
from rlog.wire.foreign import ForeignProtocolError, foreign_protocol
from rlog.wire.frames import (
    JSON_BYTES_MAX,
    UNKNOWN_UUID,
    Envelope,
    ForeignClusterError,
    Frame,
    FrameKind,
    FrameReader,
    FrameWriter,
    NotAFrameError,
    cluster_hash,
    decode_json,
    decode_messages,
    encode_message,
)
from rlog.wire.peer import BULK, CHANNELS, CONTROL, EITHER, Hello, Refusal

if TYPE_CHECKING:
    from random import Random

log = logging.getLogger("rlog.node")

# A connection that was not made, or on which no identities were agreed, after this long is closed.
PATIENCE_S = 3.0
PING_S = 1.0
UNANSWERED_COUNT_MAX = 3
# A connection must have lived this long for its redial to begin without a pause.
STABLE_S = 1.0
UNREAD_PONGS_BYTES_MAX = 64 * 1024
# Connections that have not said who they are; the other nodes need two each.
STRANGERS_COUNT_MAX = 64
# How many appends of different partitions share a frame: their heads need room in it too.
APPENDS_PER_FRAME_MAX = 512


class PeerEvents(Protocol):
    """What the node wants to hear. Raising ProtocolError from `received` closes the connection."""

    def received(self, peer: int, envelopes: list[Envelope]) -> None: ...
    def peer_connected(self, peer: int) -> None: ...
    def peer_lost(self, peer: int) -> None: ...
    def peer_gone(self, peer: int) -> None:
        """Nobody listens any more where this peer's process was."""


class _Connection(asyncio.BufferedProtocol, ABC):
    """What both ends share: frames in, frames out, one reason for the end."""

    def __init__(self, peers: Peers) -> None:
        self.peers = peers
        self.transport: asyncio.Transport | None = None
        self.hello: Hello | None = None
        self.reader = peers.new_reader()
        self.writer = peers.new_writer(UNKNOWN_UUID)
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self._impatience = loop.call_later(PATIENCE_S, self.end, "no hello in time")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.received_bytes(nbytes)
        try:
            for frame in self.reader.received(nbytes):
                if self.closed.done() or self.transport is None or self.transport.is_closing():
                    return
                self._receive(frame)
        except ProtocolError as error:
            self.protocol_broken(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.cancel_impatience()
        if not self.closed.done():
            self.closed.set_result(exc)

    def end(self, reason: str) -> None:
        """Close, with a reason in the log."""
        if self.transport is not None and not self.transport.is_closing():
            self._say("peer_connection_closed", reason)
            self.transport.abort()

    def write(self, buffers: Sequence[bytes | memoryview]) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.writelines(buffers)

    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def received_bytes(self, count: int) -> None:
        """Count what a known peer sends."""
        link = self.peers.links.get(self.hello.node_id) if self.hello is not None else None
        if link is not None:
            link.counters.received_bytes += count

    def cancel_impatience(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def check_sender(self, frame: Frame) -> Hello:
        """SAFETY 48: each frame after the Hello is from the one who said it, and meant for this replica."""
        if self.hello is None:
            raise ProtocolError(f"{frame.kind.name.lower()} before the hello")
        if (frame.sender, frame.incarnation) != (self.hello.node_id, self.hello.incarnation):
            raise ProtocolError(
                f"frame of node {frame.sender} incarnation {frame.incarnation}, not of the hello's"
            )
        if frame.target != self.peers.uuid:
            raise ProtocolError(f"misaddressed frame: it is for replica uuid {frame.target.hex()}")
        return self.hello

    def parse_hello(self, frame: Frame) -> Hello:
        hello = Hello.from_json(decode_json(frame))
        if (frame.sender, frame.incarnation) != (hello.node_id, hello.incarnation):
            raise ProtocolError("the hello contradicts its own frame")
        if frame.target not in (UNKNOWN_UUID, self.peers.uuid):
            raise ProtocolError(f"misaddressed hello: it is for replica uuid {frame.target.hex()}")
        return hello

    def refuse(self, refusal: Refusal) -> None:
        """Tell the other end why, then close."""
        if self.transport is not None and not self.transport.is_closing():
            self._say("peer_connection_refused", refusal.reason)
            self.transport.write(self.writer.json(FrameKind.REFUSAL, refusal.to_json()))
            self.transport.close()

    def protocol_broken(self, error: ProtocolError) -> None:
        self.end(str(error))

    def _say(self, event: str, reason: str) -> None:
        """A warning that names the other end, as far as it is known who that is."""
        peer = self.hello.node_id if self.hello is not None else None
        name = self.transport.get_extra_info("peername") if self.transport is not None else None
        address = address_text(name)
        emit(log, logging.WARNING, event, node=self.peers.node_id, peer=peer, address=address, reason=reason)

    @abstractmethod
    def _receive(self, frame: Frame) -> None:
        """A whole frame. Raises ProtocolError to close the connection."""


class _Inbound(_Connection):
    """A peer dialed us: it sends messages, we answer its Hello and its pings."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.peers.inbound[self] = None
        # Who has not said who it is needs no room for messages.
        self.reader.frame_bytes_max = min(JSON_BYTES_MAX, self.reader.frame_bytes_max)
        if self.peers.strangers_count > STRANGERS_COUNT_MAX:
            self.end(f"{STRANGERS_COUNT_MAX} connections have not said who they are")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.peers.inbound.pop(self, None)

    def protocol_broken(self, error: ProtocolError) -> None:
        foreign = foreign_protocol(error.head, "peer") if isinstance(error, NotAFrameError) else None
        if self.hello is None and foreign is not None:
            self.send_away(foreign)
        elif self.hello is None:
            # The other end is not a peer yet; let it know, it may be a configuration to mend.
            self.refuse(Refusal(str(error), EITHER))
        else:
            self.end(str(error))

    def _say(self, event: str, reason: str) -> None:
        if self.hello is None:
            self.peers.counters.peers_refused += 1
        super()._say(event, reason)

    def send_away(self, foreign: ForeignProtocolError) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self._say("peer_connection_refused", str(foreign))
            self.transport.write(foreign.answer)
            self.transport.close()

    def _receive(self, frame: Frame) -> None:
        if frame.kind == FrameKind.HELLO:
            self._greet(self.parse_hello(frame))
            return
        hello = self.check_sender(frame)
        if frame.kind == FrameKind.MESSAGES:
            self.peers.received(hello.node_id, decode_messages(frame.head, frame.payload))
        elif frame.kind == FrameKind.PING:
            if self.unsent_bytes() > UNREAD_PONGS_BYTES_MAX:
                raise ProtocolError("pings are sent, their answers are not read")
            self.write(self.writer.frame(FrameKind.PONG, b""))
        else:
            raise ProtocolError(f"unexpected {frame.kind.name.lower()}")

    def _greet(self, hello: Hello) -> None:
        if self.hello is not None and (self.hello.node_id, self.hello.uuid, self.hello.channel) != (
            hello.node_id,
            hello.uuid,
            hello.channel,
        ):
            raise ProtocolError("a second hello from someone else")
        try:
            self.peers.identity.receive(hello, lambda: self._welcome(hello))
        except PeerRefusedError as error:
            self.refuse(error.refusal)

    def _welcome(self, hello: Hello) -> None:
        """The Hello is accepted, and the incarnation it names is fsynced here."""
        first = self.hello is None
        self.cancel_impatience()
        self.hello = hello
        self.writer.target = bytes.fromhex(hello.uuid)
        if first:
            self.reader.frame_bytes_max = self.peers.config.peer_frame_bytes_max
            self.peers.end_replaced(hello, by=self)
            answer = self.peers.identity.hello(target=hello.node_id, channel=hello.channel)
            self.write([self.writer.json(FrameKind.HELLO, answer.to_json())])


class _Outbound(_Connection):
    """We dialed a peer: our Hello first, messages once it is answered."""

    def __init__(
        self, peers: Peers, peer: int, channel: str, established: Callable[[_Outbound], None]
    ) -> None:
        super().__init__(peers)
        self.peer = peer
        self.channel = channel
        self._established = established
        self._said: Hello | None = None
        self._unanswered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.say_hello()

    def say_hello(self) -> None:
        self._said = self.peers.identity.hello(target=self.peer, channel=self.channel)
        self.write([self.writer.json(FrameKind.HELLO, self._said.to_json())])

    def say_what_changed(self) -> None:
        """While the answer to our Hello was under way nothing could be announced here."""
        if self._said != self.peers.identity.hello(target=self.peer, channel=self.channel):
            self.say_hello()

    def ping(self) -> None:
        """Ask for a sign of life: TCP alone would wait for minutes for a peer that was cut off in silence."""
        if self._unanswered == UNANSWERED_COUNT_MAX:
            self.end(f"node {self.peer} answers no pings")
            return
        self._unanswered += 1
        self.write(self.writer.frame(FrameKind.PING, b""))

    def protocol_broken(self, error: ProtocolError) -> None:
        if isinstance(error, ForeignClusterError):
            self.peers.identity.refused_by(self.peer, Refusal(str(error), EITHER))
        self.end(str(error))

    def _receive(self, frame: Frame) -> None:
        if frame.kind == FrameKind.REFUSAL:
            refusal = Refusal.from_json(decode_json(frame))
            self.peers.identity.refused_by(self.peer, refusal)
            self.end(f"node {self.peer} refuses: {refusal.reason}")
        elif frame.kind == FrameKind.HELLO and self.hello is None:
            self._welcomed(self.parse_hello(frame))
        elif frame.kind == FrameKind.PONG:
            self.check_sender(frame)
            self._unanswered = 0
        else:
            raise ProtocolError(f"unexpected {frame.kind.name.lower()}")

    def _welcomed(self, hello: Hello) -> None:
        if hello.node_id != self.peer:
            raise ProtocolError(f"node {hello.node_id} answers where node {self.peer} was dialed")

        def accepted() -> None:
            if self.closed.done():
                return
            self.cancel_impatience()
            self.hello = hello
            self.writer.target = bytes.fromhex(hello.uuid)
            self.peers.end_replaced(hello)
            self._established(self)

        try:
            self.peers.identity.receive(hello, accepted, is_answer=True)
        except PeerRefusedError as error:
            self.end(error.refusal.reason)


class PeerLink:
    """Our two connections to one peer, and what leaves over them at the end of this tick."""

    def __init__(self, peers: Peers, peer: int, address: PeerAddress) -> None:
        self.peers = peers
        self.peer = peer
        self.address = address
        self.connections: dict[str, _Outbound] = {}
        self.is_up = False
        self._seen_alive = False
        self._control_head: list[bytes] = []
        self._bulk_head: list[bytes] = []
        self._bulk_payload: list[memoryview] = []
        self._bulk_bytes = 0
        self.dropped_appends = 0
        self.counters = PeerCounters()

    # ------------------------------------------------------------------------------------------- sending

    def send(self, partition: int, message: Message, payload: Sequence[memoryview]) -> None:
        """Queue for the end of this tick; what the peer cannot take now is dropped."""
        self.peers.unflushed[self] = None
        if not isinstance(message, Append | InstallAnchor):
            self._control_head.append(encode_message(partition, message))
            return
        size = sum(map(len, payload))
        bulk = self.connections.get(BULK)
        unsent_bytes_max = self.peers.config.peer_write_bytes_max - self._bulk_bytes
        if bulk is None or bulk.unsent_bytes() + size > unsent_bytes_max:
            self.dropped_appends += 1
            return
        full = len(self._bulk_head) >= APPENDS_PER_FRAME_MAX
        if full or self._bulk_bytes + size > self.peers.frame_payload_bytes_max:
            self._flush_bulk()
        self._bulk_head.append(encode_message(partition, message, size))
        self._bulk_payload.extend(payload)
        self._bulk_bytes += size

    @property
    def unsent_bytes(self) -> int:
        return sum(connection.unsent_bytes() for connection in self.connections.values())

    def flush(self) -> None:
        """One frame per connection for all that was sent in this tick."""
        if self._bulk_head:
            self._flush_bulk()
        if self._control_head:
            head, self._control_head = b"".join(self._control_head), []
            control = self.connections.get(CONTROL)
            # Small messages too are dropped when the peer takes nothing: every one of them is repeated.
            if control is not None and control.unsent_bytes() < self.peers.config.peer_write_bytes_max:
                self._write(control, control.writer.frame(FrameKind.MESSAGES, head))

    def _flush_bulk(self) -> None:
        head, payload, size = b"".join(self._bulk_head), self._bulk_payload, self._bulk_bytes
        self._bulk_head, self._bulk_payload, self._bulk_bytes = [], [], 0
        bulk = self.connections.get(BULK)
        if bulk is not None:
            self._write(bulk, bulk.writer.frame(FrameKind.MESSAGES, head, payload, size))

    def _write(self, connection: _Outbound, frame: Sequence[bytes | memoryview]) -> None:
        self.counters.sent_bytes += sum(map(len, frame))
        connection.write(frame)

    # ------------------------------------------------------------------------------------------- dialing

    async def keep_connected(self, channel: str) -> None:
        """Dial, wait for the end of the connection, dial again; until cancelled."""
        config, random = self.peers.config, self.peers.random
        pause_s = 0.0
        while True:
            if pause_s:
                await asyncio.sleep(pause_s * (0.5 + random.random() / 2))
            dialed_at = asyncio.get_running_loop().time()
            lived, error = await self._connect_once(channel)
            if (
                channel == CONTROL
                and not lived
                and isinstance(error, (ConnectionRefusedError, ConnectionResetError))
            ):
                self._nobody_listens()
            if lived and asyncio.get_running_loop().time() - dialed_at > STABLE_S:
                pause_s = 0.0  # A peer that restarts, or is dead: find out at once which.
            else:
                pause_s = min(max(2 * pause_s, config.redial_min_ms / 1000), config.redial_max_ms / 1000)

    async def _connect_once(self, channel: str) -> tuple[bool, Exception | None]:
        """(the connection was established, what ended it)."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_S):
                _, connection = await loop.create_connection(
                    lambda: _Outbound(self.peers, self.peer, channel, self._established),
                    self.address.host,
                    self.address.port,
                )
        except (OSError, TimeoutError) as error:
            return False, error
        try:
            error_or_none = await connection.closed
        finally:
            if connection.transport is not None:
                connection.transport.abort()
        established = self.connections.get(channel) is connection
        if established:
            self._lost(channel, error_or_none)
        return established, error_or_none

    def _nobody_listens(self) -> None:
        if self._seen_alive:
            self.peers.events.peer_gone(self.peer)

    def _established(self, connection: _Outbound) -> None:
        self.connections[connection.channel] = connection
        self._seen_alive = True
        if connection.channel == CONTROL:
            connection.say_what_changed()
        if len(self.connections) == len(CHANNELS):
            self.is_up = True
            emit(log, logging.INFO, "peer_connected", node=self.peers.node_id, peer=self.peer)
            self.peers.events.peer_connected(self.peer)

    def _lost(self, channel: str, error: Exception | None) -> None:
        del self.connections[channel]
        if self.is_up:
            self.is_up = False
            self.counters.losses += 1
            reason = f"{channel} connection: {error or 'closed'}"
            emit(log, logging.INFO, "peer_lost", node=self.peers.node_id, peer=self.peer, reason=reason)
            self.peers.events.peer_lost(self.peer)
        if channel == CONTROL and BULK in self.connections:
            self.connections[BULK].end("the control connection is lost")


class Peers:
    """All connections of one node to the others."""

    def __init__(
        self, config: NodeConfig, *, random: Random, counters: NodeCounters, events: PeerEvents
    ) -> None:
        self.config = config
        self.random = random
        self.counters = counters
        self.events = events
        self.node_id = config.node_id
        self.identity: Identity
        self.uuid = UNKNOWN_UUID
        self.links: dict[int, PeerLink] = {
            peer: PeerLink(self, peer, address) for peer, address in sorted(config.peers.items())
        }
        self.unflushed: dict[PeerLink, None] = {}
        self.inbound: dict[_Inbound, None] = {}
        # Room for the header and the heads of the messages that share the frame.
        self.frame_payload_bytes_max = config.peer_frame_bytes_max - 32 * 1024
        self._cluster = cluster_hash(config.cluster_id)
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ping_timer: asyncio.TimerHandle | None = None

    def new_reader(self) -> FrameReader:
        return FrameReader(cluster=self._cluster, frame_bytes_max=self.config.peer_frame_bytes_max)

    def new_writer(self, target: bytes) -> FrameWriter:
        incarnation = self.identity.incarnation
        return FrameWriter(cluster=self._cluster, sender=self.node_id, incarnation=incarnation, target=target)

    async def start(self, identity: Identity) -> None:
        """Listen and dial. Raises OSError when the address cannot be listened on."""
        self.identity = identity
        self.uuid = bytes.fromhex(identity.uuid)
        loop = asyncio.get_running_loop()
        if not self.links:
            return
        self._server = await loop.create_server(
            lambda: _Inbound(self), self.config.peer_host, self.config.peer_port
        )
        for link in self.links.values():
            for channel in CHANNELS:
                self._tasks.append(loop.create_task(link.keep_connected(channel)))
        self._ping_timer = loop.call_later(PING_S, self._ping)

    async def stop(self) -> None:
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            try:
                await task
            except asyncio.CancelledError:
                if not task.cancelled():
                    raise
        for connection in list(self.inbound):
            if connection.transport is not None:
                connection.transport.abort()

    @property
    def strangers_count(self) -> int:
        return sum(connection.hello is None for connection in self.inbound)

    def announce(self) -> None:
        """What the Hello says has changed."""
        for link in self.links.values():
            if CONTROL in link.connections:
                link.connections[CONTROL].say_hello()

    def flush(self) -> None:
        """Send what was queued in this tick."""
        if self.unflushed:
            for link in self.unflushed:
                link.flush()
            self.unflushed.clear()

    def received(self, peer: int, envelopes: list[Envelope]) -> None:
        # Before the pin table is confirmed nobody votes, grants or acknowledges (SAFETY 20).
        if self.identity.confirmed:
            self.events.received(peer, envelopes)

    def end_replaced(self, hello: Hello, *, by: _Inbound | None = None) -> None:
        """One inbound connection per (peer, channel), and none of another start of the peer: what a dead
        process left under way must not count for the living one (SAFETY 4, 51)."""
        for other in list(self.inbound):
            known = other.hello
            if known is None or known.node_id != hello.node_id:
                continue
            if known.incarnation != hello.incarnation:
                other.end("the peer has started anew")
            elif by is not None and other is not by and known.channel == hello.channel:
                other.end("replaced by a newer connection")

    def _ping(self) -> None:
        for link in self.links.values():
            if CONTROL in link.connections:
                link.connections[CONTROL].ping()
        self._ping_timer = asyncio.get_running_loop().call_later(PING_S, self._ping)
