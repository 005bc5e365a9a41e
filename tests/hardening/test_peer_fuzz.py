"""The peer port of real nodes under mutated frames: from strangers, and from who knows all that a node knows.

What is tested is that garbage never crashes, hangs, leaks or corrupts. Nodes trust each other's word: there
is no defence against one that lies well. So what is forged here is malformed, contradicts itself, or belongs
to a past generation, and is never what a peer could rightly send.
"""

import json
import socket
import struct
from collections.abc import Callable, Iterator
from random import Random

import pytest

from rlog.cli.local_cluster import LocalNode
from rlog.log import format as batches
from rlog.log.meta import read_chain
from rlog.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallAnchor,
    Message,
    VoteReply,
    VoteRequest,
)
from rlog.records import Record
from rlog.wire.frames import (
    CRC,
    CRC_AT,
    HEADER,
    HEADER_BYTES,
    FrameKind,
    FrameWriter,
    cluster_hash,
    encode_message,
)
from rlog.wire.peer import CHANNELS, Hello
from tests.hardening import fuzz
from tests.hardening.siege import MIB, Siege, all_until_closed, connect

TOPICS = {"orders": 1}
LINES_MAX = 200  # ten a minute of each kind and peer or address
MEGABYTE_OF_JSON = b'{"topics":[' + b"1," * 400_000 + b"1]}"


@pytest.fixture
def siege(tmp_path) -> Iterator[Siege]:
    with Siege(tmp_path, topics={}) as siege:
        yield siege


class Forger:
    """Speaks as `me`, a node that lives, to `target`."""

    def __init__(self, siege: Siege, random: Random, me: int, target: int) -> None:
        states = {node_id: siege.cluster.describe(node_id) for node_id in siege.cluster.nodes}
        self.random = random
        self.node: LocalNode = siege.cluster.nodes[target]
        self.uuids = {node_id: state["uuid"] for node_id, state in states.items() if state is not None}
        # No node tells this; the target's own disk does.
        records = read_chain((self.node.data_dir / "meta.a").read_bytes()).records
        incarnation = max(what[2] for what in records if what[:2] == ["peer_incarnation", me])
        self.writer = FrameWriter(cluster=cluster_hash("test"), sender=me, incarnation=incarnation)
        self.hello = Hello(
            cluster_id="test", node_id=me, uuid=self.uuids[me], incarnation=incarnation, target=target,
            channel=random.choice(CHANNELS), topics=TOPICS, voters=(1, 2, 3), pins=self.uuids,
            pins_confirmed=True,
        )  # fmt: skip

    def greeted(self) -> socket.socket:
        """A connection on which both have said Hello."""
        connection = connect(self.node, peer_port=True)
        connection.sendall(self.writer.json(FrameKind.HELLO, self.hello.to_json()))
        head = connection.recv(HEADER_BYTES, socket.MSG_WAITALL)
        (length,) = struct.unpack_from(">I", head, 44)
        self.answer = head + connection.recv(length - HEADER_BYTES, socket.MSG_WAITALL)
        assert head[5] == FrameKind.HELLO, f"a true Hello is answered by one, not {self.answer!r}"
        self.writer.target = bytes.fromhex(self.uuids[self.hello.target])
        return connection

    def frame(self, kind: FrameKind, head: bytes, payload: bytes = b"") -> bytes:
        return b"".join(self.writer.frame(kind, head, [memoryview(payload)], len(payload)))


def resealed(frame: bytes) -> bytes:
    """With lengths and checksum that fit what is in it now, as far as there is a head at all."""
    changed = bytearray(frame)
    if len(changed) < HEADER_BYTES:
        return bytes(changed)
    fields = list(HEADER.unpack_from(changed))
    fields[-2] = len(changed)
    fields[-1] = min(fields[-1], len(changed) - HEADER_BYTES)
    HEADER.pack_into(changed, 0, *fields)
    covered = bytes(changed[:CRC_AT] + changed[HEADER_BYTES : HEADER_BYTES + fields[-1]])
    CRC.pack_into(changed, CRC_AT, batches.crc32c(covered))
    return bytes(changed)


def past_message(random: Random) -> Message:
    """Of a generation before the first, with anything in it."""

    def offset() -> int:
        return random.choice(fuzz.INT64)

    generation, other = random.choice((0, -1, -(2**31))), random.choice(fuzz.INT32)
    end = random.randrange(5)
    kinds: list[Callable[[], Message]] = [
        lambda: VoteRequest(generation, other, offset(), random.random() < 0.5),
        lambda: VoteReply(generation, True, random.random() < 0.5, False, offset()),
        lambda: Append(generation, end, other, end, other, offset()),
        lambda: AppendReply(generation, True, offset(), offset(), offset(), other),
        lambda: Heartbeat(generation, offset(), other, offset(), offset(), offset()),
        lambda: HeartbeatReply(generation, True, offset(), offset(), offset(), offset(), other, offset()),
        lambda: InstallAnchor(generation, offset(), other, offset(), offset()),
    ]
    return random.choice(kinds)()


def head_of(random: Random, message: Message, payload_bytes: int = 0) -> bytes:
    return encode_message(random.choice((0, 0, 0, 1)), message, payload_bytes)


# --- each gives the bytes that are sent after a true Hello, for a frame that is refused or means nothing ---


def a_past_message(forger: Forger) -> bytes:
    message = past_message(forger.random)
    payload = forger.random.randbytes(20) if isinstance(message, InstallAnchor) else b""
    return forger.frame(FrameKind.MESSAGES, head_of(forger.random, message, len(payload)), payload)


def a_mutated_past_message(forger: Forger) -> bytes:
    """Only its end is cut, or bytes are put behind it: its generation stays past."""
    head = head_of(forger.random, past_message(forger.random))
    changed = head[: forger.random.randrange(len(head))] if forger.random.random() < 0.5 else head
    return forger.frame(FrameKind.MESSAGES, changed + forger.random.choice((b"", b"\0", b"\xff" * 9)))


def a_message_to_nowhere(forger: Forger) -> bytes:
    number = forger.random.choice((1, 2, 2**16, 2**32 - 1))
    return forger.frame(FrameKind.MESSAGES, encode_message(number, past_message(forger.random)))


def an_unknown_message(forger: Forger) -> bytes:
    kind = forger.random.choice((0, 8, 9, 127, 255))
    return forger.frame(FrameKind.MESSAGES, bytes((kind,)) + forger.random.randbytes(40))


def an_append_that_contradicts_itself(forger: Forger) -> bytes:
    """Even of the highest generation: it is refused before it is looked at."""
    random = forger.random
    good = batches.encode_batch([Record("", 0, 0, 0, 1, None, b"x" * 20)])
    bad = random.choice((
        fuzz.mutated(random, good[:17] + bytes(4) + good[21:]),
        batches.seal(batches.Header(7, 0, 3, 0, 0, 0, 5, 5, -1, -1, -1, 2), b"?" * 9),
        batches.seal(batches.Header(9, 0, 3, 0, 0x20, 4, 5, 5, -1, -1, -1, 5), b""),
    ))  # fmt: skip
    append = Append(2**31 - 1, 7, 1, random.choice((8, 9, 2**62)), 3, 0)
    announced = len(bad) + random.choice((0, -1, 1, 1000))
    return forger.frame(FrameKind.MESSAGES, head_of(random, append, announced), bad)


def an_anchor_that_is_none(forger: Forger) -> bytes:
    junk = forger.random.randbytes(forger.random.choice((1, 50, 5000)))
    install = InstallAnchor(2**31 - 1, 10**9, 1, 0, 10**9)
    return forger.frame(FrameKind.MESSAGES, head_of(forger.random, install, len(junk)), junk)


def a_changed_header(forger: Forger) -> bytes:
    """Any of its fields; the checksum is right."""
    frame = bytearray(forger.frame(FrameKind.PING, b""))
    at, size = forger.random.choice(((0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 16), (32, 4), (36, 8)))
    frame[at : at + size] = forger.random.randbytes(size)
    if frame[5] == FrameKind.MESSAGES:
        frame[5] = 99
    return resealed(bytes(frame))


def a_changed_length(forger: Forger) -> bytes:
    frame = bytearray(forger.frame(FrameKind.PING, b""))
    at = forger.random.choice((44, 48))
    frame[at : at + 4] = (forger.random.choice(fuzz.INT32) % 2**32).to_bytes(4, "big")
    covered = bytes(frame[:CRC_AT])
    CRC.pack_into(frame, CRC_AT, batches.crc32c(covered))
    return bytes(frame) + forger.random.randbytes(100)


def a_frame_out_of_place(forger: Forger) -> bytes:
    kind = forger.random.choice((FrameKind.PONG, FrameKind.REFUSAL))
    return forger.frame(kind, forger.random.choice((b"", b"{}", b"[1]", MEGABYTE_OF_JSON)))


def what_the_node_itself_said(forger: Forger) -> bytes:
    return forger.answer


def another_hello(forger: Forger) -> bytes:
    return forger.frame(FrameKind.HELLO, hello_bytes(forger))


def a_flood_of_pings(forger: Forger) -> bytes:
    return forger.frame(FrameKind.PING, b"") * 2000


def hello_bytes(forger: Forger) -> bytes:
    """A Hello with a field that lies, is of another type, or is not there; or JSON that is none."""
    random = forger.random
    fields = forger.hello.to_json()
    lies = (None, -1, 2**70, "x", [], {}, [[1]], {"a": 1}, True, 1.5, "\ud800", "0" * 32, "é" * 9)
    name = random.choice(("uuid", "incarnation", "target", "channel", "pins", "pins_confirmed", "node_id"))
    if random.random() < 0.2:
        del fields[name]
    elif name in ("incarnation", "uuid") or random.random() < 0.8:
        # Never one of the right kind: a later incarnation would be believed.
        fields[name] = random.choice([lie for lie in lies if type(lie) is not type(fields[name])])
    whole = json.dumps(fields).encode()
    return random.choice((
        whole,
        whole,
        whole[: random.randrange(len(whole))],
        b"[" * 100_000,
        b'{"a":' * 50_000,
        MEGABYTE_OF_JSON,
        b"\xff\xfe" + whole,
        whole.replace(b"1", b"9" * 5000, 1),
        b"null",
        b"NaN",
    ))  # fmt: skip


AFTER_HELLO = (
    a_past_message,
    a_mutated_past_message,
    a_message_to_nowhere,
    an_unknown_message,
    an_append_that_contradicts_itself,
    an_anchor_that_is_none,
    a_changed_header,
    a_changed_length,
    a_frame_out_of_place,
    what_the_node_itself_said,
    another_hello,
    a_flood_of_pings,
)


def instead_of_hello(forger: Forger) -> bytes:
    """By someone who knows the cluster's name, or not even that."""
    random = forger.random
    hello = forger.writer.json(FrameKind.HELLO, forger.hello.to_json())
    stranger = FrameWriter(cluster=forger.writer.cluster, sender=random.choice((0, 4, 1)), incarnation=1)
    return random.choice((
        lambda: forger.frame(FrameKind.HELLO, hello_bytes(forger)),
        lambda: forger.frame(FrameKind.MESSAGES, head_of(random, past_message(random))),
        lambda: resealed(hello[: random.randrange(HEADER_BYTES, len(hello))]),
        lambda: hello[: random.randrange(len(hello))],
        lambda: stranger.json(FrameKind.HELLO, {**forger.hello.to_json(), "uuid": "ab" * 16}),
        lambda: stranger.json(FrameKind.HELLO, {**forger.hello.to_json(), "node_id": stranger.sender}),
        lambda: random.randbytes(random.randint(1, 300)),
        lambda: announced(forger, random.choice((2 * MIB, 15 * MIB, 2**32 - 1))),
    ))()  # fmt: skip


def announced(forger: Forger, length: int) -> bytes:
    """The beginning of a frame of that length."""
    frame = bytearray(forger.frame(random_kind(forger), b""))
    frame[44:48] = length.to_bytes(4, "big")
    return bytes(frame) + bytes(100_000)


def random_kind(forger: Forger) -> FrameKind:
    return forger.random.choice((FrameKind.HELLO, FrameKind.MESSAGES))


def send(connection: socket.socket, data: bytes, random: Random) -> None:
    """In one piece or in many; then perhaps wait to be answered or cut off."""
    try:
        for piece in (data,) if random.random() < 0.8 else (data[:1], data[1:57], data[57:]):
            connection.sendall(piece)
        if random.random() < 0.2:
            connection.shutdown(socket.SHUT_WR)
            all_until_closed(connection)
    except OSError:
        return  # cut off as it sent: that is the answer


def test_frames_that_no_peer_sends_change_nothing(siege: Siege) -> None:
    leader = siege.leader.node_id
    one, two = sorted(set(siege.cluster.nodes) - {leader})
    with siege.assault():
        for random in fuzz.rounds():
            # One node alone is displaced by its forger: the other two may rightly go on as they are.
            forger = Forger(siege, random, one, random.choice((leader, two)))
            if random.random() < 0.3:
                with connect(forger.node, peer_port=True) as connection:
                    send(connection, instead_of_hello(forger), random)
                continue
            with forger.greeted() as connection:
                for _ in range(random.randint(1, 3)):
                    send(connection, random.choice(AFTER_HELLO)(forger), random)
    siege.check_log_lines(lines_max=LINES_MAX)


def test_connections_that_never_say_who_they_are_are_few_and_short(siege: Siege) -> None:
    """More than may wait at once, each announcing a frame: they get no room for it, and the nodes go on."""
    node = siege.leader
    with siege.assault(growth_bytes_max=64 * MIB):
        held = [connect(node, peer_port=True) for _ in range(400)]
        try:
            random = Random(fuzz.SEED)
            forger = Forger(siege, random, min(set(siege.cluster.nodes) - {node.node_id}), node.node_id)
            for connection in held:
                send(connection, announced(forger, 15 * MIB)[:60_000], Random(3))
            siege.wait_acks()
            for connection in held:
                assert len(all_until_closed(connection)) < 1000
        finally:
            for connection in held:
                connection.close()
    assert "connections have not said who they are" in node.log_path.read_text()
    siege.check_log_lines(lines_max=LINES_MAX)
