"""What nobody should send, on real nodes under load: refused with a reason, and felt by nobody else."""

import random
import socket
import struct
from collections.abc import Iterator

import pytest

from rlog.log import format as batches
from rlog.records import Record
from rlog.wire import kafka
from rlog.wire.frames import FrameKind, FrameWriter, cluster_hash
from rlog.wire.kafka import codes
from rlog.wire.peer import CONTROL, Hello
from tests.hardening.siege import MIB, Siege, all_until_closed, connect

TIMEOUT_S = 20
STRANGERS = 100
# About one host in a minute, of one kind.
LINES_MAX = 10
HTTP = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
# The beginning of a TLS 1.2 ClientHello.
TLS = bytes.fromhex("1603010200010001fc0303") + bytes(200)
BOTH_PORTS = pytest.mark.parametrize("peer_port", [False, True], ids=["client port", "peer port"])


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with Siege(tmp_path_factory.mktemp("siege"), topics={"other": 1, "bombs": 1}) as siege:
        yield siege


def ask(siege: Siege, topic: str, request: list) -> bytes:
    """The answer of the topic's leader to a whole request frame."""
    with connect(siege.leader_of(topic)) as connection:
        connection.sendall(b"".join(request))
        stream = connection.makefile("rb")
        return stream.read(int.from_bytes(stream.read(4), "big"))


def produce(siege: Siege, topic: str, records: bytes, *, partition: int = 0) -> int:
    """The error code of the partition's answer."""
    request = kafka.encode_produce_request(1, "stranger", -1, 10_000, [(topic, [(partition, records)])])
    [(_, [answer])] = kafka.decode_produce_response(ask(siege, topic if partition == 0 else "other", request))
    return answer.error


def record(value: bytes) -> Record:
    return Record("", 0, 0, 0, 1, None, value)


def batch(attributes: int = 0) -> bytes:
    """A good batch of one record, but for its attributes."""
    sealed = batches.encode_batch([record(b"x")])
    changed = sealed[:21] + struct.pack(">h", attributes) + sealed[23:]
    return changed[:17] + struct.pack(">I", batches.crc32c(changed[21:])) + changed[21:]


@BOTH_PORTS
@pytest.mark.parametrize(("name", "sent"), [("HTTP", HTTP), ("TLS", TLS)])
def test_http_and_tls_are_recognised(siege: Siege, name: str, sent: bytes, peer_port: bool) -> None:
    node = siege.cluster.nodes[2 if peer_port else 3]
    with siege.assault(), connect(node, peer_port=peer_port) as connection:
        connection.sendall(sent)
        answer = all_until_closed(connection)
    port = "peer_port" if peer_port else "listen_port"
    said = node.log_path.read_text()
    assert f"it looks like {name}: {port}" in said
    if name == "HTTP":
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"it looks like HTTP: " + port.encode() in answer


def test_clients_and_nodes_that_exchange_ports_are_told(siege: Siege) -> None:
    hello = b"".join(kafka.encode_api_versions_request(1, "lost", software_version="1", version=3))
    with siege.assault():
        with connect(siege.cluster.nodes[3], peer_port=True) as connection:
            connection.sendall(hello)
            assert all_until_closed(connection) == b""
        with connect(siege.cluster.nodes[3]) as connection:
            connection.sendall(b"".join(writer("test").frame(FrameKind.PING, b"")))
            assert all_until_closed(connection) == b""
    said = siege.cluster.nodes[3].log_path.read_text()
    assert "it looks like a Kafka client: peer_port is for the other nodes" in said
    assert "it looks like another rlog node: nodes connect to peer_port" in said


def writer(cluster_id: str) -> FrameWriter:
    return FrameWriter(cluster=cluster_hash(cluster_id), sender=2, incarnation=1)


def test_a_node_of_another_cluster_is_refused_without_a_flood_of_lines(siege: Siege) -> None:
    hello = Hello(
        cluster_id="elsewhere", node_id=2, uuid="0" * 32, incarnation=1, target=1, channel=CONTROL,
        topics={}, voters=(1, 2, 3),
    )  # fmt: skip
    node = siege.cluster.nodes[1]
    with siege.assault():
        for _ in range(STRANGERS):
            with connect(node, peer_port=True) as connection:
                connection.sendall(writer("elsewhere").json(FrameKind.HELLO, hello.to_json()))
                assert b"cluster_id differ" in all_until_closed(connection)
    assert 1 <= node.log_path.read_text().count("peer frame of another cluster") <= LINES_MAX


CONTROL_BIT, TRANSACTIONAL_BIT, APPEND_TIME_BIT = 0x20, 0x10, 0x08


@pytest.mark.parametrize(
    ("records", "error"),
    [
        (batch(CONTROL_BIT), codes.CORRUPT_MESSAGE),
        (batch(CONTROL_BIT | TRANSACTIONAL_BIT), codes.CORRUPT_MESSAGE),
        (batch(TRANSACTIONAL_BIT), codes.CORRUPT_MESSAGE),
        (batch(APPEND_TIME_BIT), codes.INVALID_TIMESTAMP),
        (batch(7), codes.CORRUPT_MESSAGE),
        (batches.start_batch(0, 1, 1), codes.CORRUPT_MESSAGE),
        (batch()[:-1] + b"?", codes.CORRUPT_MESSAGE),
        (batch()[:-1], codes.CORRUPT_MESSAGE),
        (batch() + b"?", codes.CORRUPT_MESSAGE),
        (b"", codes.INVALID_RECORD),
    ],
    ids=["control", "end of transaction", "transactional", "append time", "codec 7", "start of generation",
         "wrong crc", "cut off", "more behind it", "empty"],
)  # fmt: skip
def test_batches_that_only_a_node_may_write_or_nobody(siege: Siege, records: bytes, error: int) -> None:
    """Refused by name; nothing of them is in the log, whose end stays."""
    leader = siege.leader_of("other").node_id
    before = siege.cluster.replica(leader, "other")
    with siege.assault():
        assert codes.name_of(produce(siege, "other", records)) == codes.name_of(error)
    assert before is not None
    assert siege.cluster.replica(leader, "other") == before


def test_what_is_too_large_or_for_nobody_is_refused_by_name(siege: Siege) -> None:
    large = batches.encode_batch([record(bytes(2 * MIB))])
    with siege.assault():
        assert produce(siege, "other", large) == codes.MESSAGE_TOO_LARGE
        assert produce(siege, "other", batch(), partition=1) == codes.UNKNOWN_TOPIC_OR_PARTITION
        unknown = kafka.encode_produce_request(1, "stranger", -1, 1000, [("nowhere", [(0, batch())])])
        [(_, [answer])] = kafka.decode_produce_response(ask(siege, "other", unknown))
        assert answer.error == codes.UNKNOWN_TOPIC_OR_PARTITION
        assert produce(siege, "other", batch()) == codes.NONE, "the good one of the same make is taken"


# The floods come last: a node that has warned of this host ten times says no more for a minute.


@BOTH_PORTS
def test_garbage(siege: Siege, peer_port: bool) -> None:
    pieces = random.Random(peer_port)
    with siege.assault():
        for number in range(STRANGERS):
            with connect(siege.leader, peer_port=peer_port) as connection:
                connection.sendall(pieces.randbytes(pieces.randint(60, 3000)))
                if number % 2:
                    connection.shutdown(socket.SHUT_WR)
                    all_until_closed(connection)
    assert "muted_s=" in siege.said()
    assert len(siege.said()) < 100_000, "a flood of lines"


def test_frames_above_the_caps_take_no_memory(siege: Siege) -> None:
    too_large = (512 * MIB).to_bytes(4, "big")
    header = bytearray(b"".join(writer("test").frame(FrameKind.MESSAGES, b"")))
    header[44:48] = too_large
    with siege.assault(growth_bytes_max=32 * MIB):
        for sent, peer_port in ((too_large + bytes(1000), False), (bytes(header), True)):
            for _ in range(STRANGERS):
                with connect(siege.leader, peer_port=peer_port) as connection:
                    connection.sendall(sent)
                    assert len(all_until_closed(connection)) < 1000, "closed, with a reason at most"
