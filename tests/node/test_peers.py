"""Connections between nodes, and peers that misbehave: a connection ends with a reason, nothing moves."""

import asyncio
import logging

import pytest

from rlog.node.peers import _Outbound
from rlog.raft.messages import Heartbeat
from rlog.wire.frames import FrameKind, FrameReader, FrameWriter, cluster_hash, encode_message
from rlog.wire.peer import BULK, CONTROL, Hello

from .harness import TOPIC, Cluster, batch, on_uvloop, send, until

CLUSTER = cluster_hash("test")
ANONYMOUS = FrameWriter(cluster=CLUSTER, sender=3, incarnation=1)


class Stranger:
    """Dials a node and says what the test wants. Plays node 3 of the cluster, with its true uuid."""

    def __init__(self, cluster: Cluster, hello: Hello) -> None:
        self.cluster = cluster
        self.hello = hello
        self.target = bytes.fromhex(cluster.nodes[1].identity.uuid)

    @classmethod
    async def connect(cls, cluster: Cluster, hello: Hello) -> "Stranger":
        stranger = cls(cluster, hello)
        port = cluster.configs[1].peer_port
        stranger.reader, stranger.stream = await asyncio.open_connection("127.0.0.1", port)
        return stranger

    def frame(self, kind: FrameKind, head: bytes, **changes) -> bytes:
        fields = {
            "cluster": CLUSTER,
            "sender": 3,
            "incarnation": self.hello.incarnation,
            "target": self.target,
        } | changes
        return b"".join(FrameWriter(**fields).frame(kind, head))

    async def greet(self) -> None:
        writer = FrameWriter(cluster=CLUSTER, sender=3, incarnation=self.hello.incarnation)
        self.stream.write(writer.json(FrameKind.HELLO, self.hello.to_json()))
        frames = FrameReader(cluster=CLUSTER, frame_bytes_max=1 << 20)
        while True:
            data = await self.reader.read(frames.BUFFER_BYTES_MIN)
            assert data, "refused"
            frames.get_buffer()[: len(data)] = data
            for frame in frames.received(len(data)):
                assert frame.kind == FrameKind.HELLO
                return

    async def ended(self) -> bool:
        """The node closed the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.stream.close()
        return True


async def pinned_cluster(cluster: Cluster) -> Hello:
    """A cluster of which node 3 is down; returns the Hello that node 3 would say at its next start."""
    await cluster.start()
    await cluster.leader()
    node = cluster.nodes[3]
    hello = node.identity.hello(target=1, channel=CONTROL)
    await cluster.stop(3)
    fields = {name: getattr(hello, name) for name in Hello.__slots__}
    return Hello(**fields | {"incarnation": hello.incarnation + (1 << 32)})


MISADDRESSED = {
    "another target": ({"target": bytes(range(16))}, "misaddressed frame"),
    "another sender": ({"sender": 2}, "not of the hello"),
    "another incarnation": ({"incarnation": 1}, "not of the hello"),
    "another cluster": ({"cluster": cluster_hash("other")}, "another cluster"),
}


@pytest.mark.parametrize("case", MISADDRESSED)
@on_uvloop
async def test_a_frame_that_is_not_what_the_hello_promised_moves_nothing(tmp_path, caplog, case):
    """SAFETY 48."""
    changes, reason = MISADDRESSED[case]
    caplog.set_level(logging.INFO, logger="rlog.node")
    async with Cluster(tmp_path) as cluster:
        stranger = await Stranger.connect(cluster, await pinned_cluster(cluster))
        await stranger.greet()
        generation = cluster.partition(1).generation
        message = encode_message(0, Heartbeat(generation + 7, 0, 0, 0, 1))
        stranger.stream.write(stranger.frame(FrameKind.MESSAGES, message, **changes))
        assert await stranger.ended()
        assert reason in caplog.text
        assert cluster.partition(1).generation < generation + 7


@on_uvloop
async def test_the_same_frame_well_addressed_is_heard(tmp_path):
    """The control of the test above: it is the address that made the difference."""
    async with Cluster(tmp_path) as cluster:
        stranger = await Stranger.connect(cluster, await pinned_cluster(cluster))
        await stranger.greet()
        generation = cluster.partition(1).generation
        message = encode_message(0, Heartbeat(generation + 7, 0, 0, 0, 1))
        stranger.stream.write(stranger.frame(FrameKind.MESSAGES, message))
        assert await until(lambda: cluster.partition(1).generation >= generation + 7, "the message is heard")
        stranger.stream.close()


@on_uvloop
async def test_a_new_start_of_a_peer_ends_what_its_last_one_left_behind(tmp_path):
    """What an earlier incarnation still has under way must not count for the new one (SAFETY 4, 51)."""
    async with Cluster(tmp_path) as cluster:
        hello = await pinned_cluster(cluster)
        old = await Stranger.connect(cluster, hello)
        await old.greet()
        fields = {name: getattr(hello, name) for name in Hello.__slots__}
        later = {"incarnation": hello.incarnation + (1 << 32), "channel": BULK}
        new = await Stranger.connect(cluster, Hello(**fields | later))
        await new.greet()
        assert await asyncio.wait_for(old.ended(), 5)
        new.stream.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(100), "it looks like HTTP"),
        (b"GET / ", "it looks like HTTP: peer_port is for the other nodes, admin_port for HTTP"),
        (bytes.fromhex("16030102"), "it looks like TLS: peer_port speaks no TLS"),
        (bytes.fromhex("0000001700120003"), "it looks like a Kafka client: peer_port is for the other nodes"),
        (b"SSH-2.0-OpenSSH\r\n", "not a peer frame: it begins with b'SSH-'"),
        (ANONYMOUS.json(FrameKind.HELLO, ["x"]), "unreadable hello"),
        (ANONYMOUS.json(FrameKind.HELLO, {}), "malformed hello"),
        (b"".join(ANONYMOUS.frame(FrameKind.PING, b"")), "before the hello"),
    ],
    ids=["http", "short http", "tls", "kafka", "ssh", "a list", "an empty object", "a ping"],
)
@on_uvloop
async def test_who_does_not_greet_is_sent_away(tmp_path, caplog, data, reason):
    async with Cluster(tmp_path) as cluster:
        stranger = await Stranger.connect(cluster, await pinned_cluster(cluster))
        stranger.stream.write(data)
        assert await stranger.ended()
        assert reason in caplog.text
        assert (await send(await cluster.leader(), batch([b"unharmed"]))).error == 0


@on_uvloop
async def test_a_message_to_a_partition_that_does_not_exist_ends_the_connection(tmp_path, caplog):
    async with Cluster(tmp_path) as cluster:
        stranger = await Stranger.connect(cluster, await pinned_cluster(cluster))
        await stranger.greet()
        stranger.stream.write(stranger.frame(FrameKind.MESSAGES, encode_message(9, Heartbeat(1, 0, 0, 0, 1))))
        assert await stranger.ended()
        assert "a message to partition 9, of 1" in caplog.text


class Wire:
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        self.written = b""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.written += b"".join(parts)


@on_uvloop
async def test_pins_saved_while_an_answer_was_under_way_are_told_afterwards(tmp_path):
    """Nothing can be announced over a connection that is not established yet (SAFETY 20, the first boot)."""
    async with Cluster(tmp_path) as cluster:
        await cluster.start(1)
        node, wire = cluster.nodes[1], Wire()
        link = node.peers.links[2]
        connection = _Outbound(node.peers, 2, CONTROL, link._established)
        connection.connection_made(wire)
        node.identity.fsynced_pins = {number: f"{number:032x}" for number in (1, 2, 3)}
        node.peers.announce()
        assert b"%032x" % 3 not in wire.written
        link._established(connection)
        assert b"%032x" % 3 in wire.written
        del link.connections[CONTROL]
        connection.cancel_impatience()


@on_uvloop
async def test_a_dead_leaders_refused_redial_ends_the_wait_for_it(tmp_path):
    """SAFETY 40: with timeouts of many seconds, only the hint explains a new leader at once."""
    timeouts = {"election_timeout_min_ms": 8000, "election_timeout_max_ms": 9000}
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        await cluster.leader()
        await cluster.stop()
        await cluster.start(1, election_timeout_min_ms=600, election_timeout_max_ms=700)
        await cluster.start(2, 3, **timeouts)
        leader = await cluster.leader()
        assert leader.leader_id == 1
        for node_id in (2, 3):
            await until(lambda n=node_id: cluster.partition(n).leader_id == 1, f"node {node_id} follows")
        await cluster.stop(1)
        started = asyncio.get_running_loop().time()
        successor = await cluster.leader()
        assert successor.leader_id in (2, 3)
        assert asyncio.get_running_loop().time() - started < 4.0


@on_uvloop
async def test_a_slow_peer_costs_bounded_memory_and_catches_up(tmp_path):
    """Appends beyond `peer_write_bytes_max` are dropped, not queued, and sent again later (SAFETY 45)."""
    limits = {"peer_write_bytes_max": 2_000_000, "batch_bytes_max": 1_000_000}
    async with Cluster(tmp_path, **limits) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        slow = next(n for n in (1, 2, 3) if n != leader.leader_id)
        link = cluster.nodes[leader.leader_id].peers.links[slow]
        for connection in cluster.nodes[slow].peers.inbound:
            if connection.hello.node_id == leader.leader_id and connection.hello.channel != CONTROL:
                connection.transport.pause_reading()
                paused = connection
        largest = 0
        for number in range(60):
            assert (await send(leader, batch([b"%d" % number, bytes(900_000)]))).error == 0
            largest = max(largest, link.connections["bulk"].unsent_bytes())
        assert link.dropped_appends > 0
        assert largest <= 2_000_000
        paused.transport.resume_reading()
        await cluster.all_hold(120)
        assert cluster.nodes[slow].partitions[TOPIC, 0].hwm == 120


@on_uvloop
async def test_what_a_slow_peer_has_under_way_is_sent_once(tmp_path):
    """The question "do you hold all that was sent?" stays behind what it asks about (SAFETY 45)."""
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        await cluster.all_hold(leader.end_offset)
        slow = next(n for n in (1, 2, 3) if n != leader.leader_id)
        link = cluster.nodes[leader.leader_id].peers.links[slow]
        sizes: list[int] = []

        def count(number, message, payload, send=link.send):
            sizes.append(sum(map(len, payload)))
            send(number, message, payload)

        link.send = count
        (bulk,) = [
            connection
            for connection in cluster.nodes[slow].peers.inbound
            if connection.hello.node_id == leader.leader_id and connection.hello.channel != CONTROL
        ]
        bulk.transport.pause_reading()
        first = leader.end_offset
        for number in range(4):
            assert (await send(leader, batch([b"%d" % number, bytes(500_000)]))).error == 0
        answers = {leader.replica.progress()[slow][2]}
        await until(
            lambda: answers.add(leader.replica.progress()[slow][2]) or len(answers) > 5, "five heartbeats"
        )
        bulk.transport.resume_reading()
        await cluster.all_hold(first + 8)
        assert 2_000_000 < sum(sizes) < 2_100_000
