"""Clients whose bytes are well-formed and whose manners are not: too slow, too many, too much at once."""

import asyncio
import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zstandard

import rlog
from rlog.errors import RlogError
from rlog.log import format as batches
from rlog.records import Record
from rlog.wire import kafka
from rlog.wire.kafka import codes
from rlog.wire.kafka.messages import FetchPartition, FetchRequest, ListOffsetsPartition, ListOffsetsRequest
from tests.hardening.siege import MIB, Siege, all_until_closed, connect, resident_bytes
from tests.harness.processes import wait_for

GIB = 1 << 30
STALL_MS = 3000
CONNECTIONS_MAX = 10_000
SLOW = 5
SETTINGS = {
    "client_stall_ms": STALL_MS,
    "connection_count_max": CONNECTIONS_MAX,
    "clients_inflight_bytes_max": 64 * MIB,
    "request_bytes_max": 32 * MIB,
}
# Of a connection that says nothing: its objects, its buffer as far as it was used.
IDLE_BYTES_MAX = 16 * 1024


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    topics = {"history": 1, "bombs": 1}
    with Siege(tmp_path_factory.mktemp("siege"), topics, SETTINGS) as siege:
        yield siege


def produce(connection: socket.socket, topic: str, records: bytes) -> int:
    """The error code of partition 0."""
    connection.sendall(
        b"".join(kafka.encode_produce_request(1, "stranger", -1, 20_000, [(topic, [(0, records)])]))
    )
    [(_, [answer])] = kafka.decode_produce_response(frame_of(connection))
    return answer.error


def frame_of(connection: socket.socket) -> bytes:
    stream = connection.makefile("rb")
    return stream.read(int.from_bytes(stream.read(4), "big"))


def is_served(connection: socket.socket) -> bool:
    connection.sendall(b"".join(kafka.encode_describe_node_request(1, "stranger")))
    return kafka.decode_describe_node_response(frame_of(connection))["node_id"] > 0


def test_slow_senders_are_cut_off_and_stop_nobody(siege: Siege) -> None:
    """Each announces the largest request there may be and sends a byte now and then, which is progress of a
    kind; together they ask for far more room than there is."""
    with siege.assault(), ExitStack() as stack:
        slow = [stack.enter_context(connect(siege.leader)) for _ in range(SLOW)]
        for connection in slow:
            connection.sendall((32 * MIB).to_bytes(4, "big"))
        ended: set[int] = set()
        large = batches.encode_batch([Record("", 0, 0, 0, 1, None, bytes(900_000))])
        with connect(siege.leader_of("history")) as other:
            for _ in range(5):
                assert produce(other, "history", large) == codes.NONE
            deadline = time.monotonic() + 60
            while len(ended) < len(slow):
                assert time.monotonic() < deadline, f"only {len(ended)} of the slow senders were cut off"
                for number, connection in enumerate(slow):
                    if number not in ended and not trickled(connection):
                        ended.add(number)
                siege.wait_acks(20)
            assert produce(other, "history", large) == codes.NONE
    assert "no progress for 3 s: the rest of a request does not come" in siege.said()


def trickled(connection: socket.socket) -> bool:
    """One byte more was taken."""
    try:
        connection.send(b"\0")
        connection.setblocking(False)
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        connection.setblocking(True)


def test_consumers_that_never_read_are_cut_off_and_cost_a_bounded_memory(siege: Siege) -> None:
    """Sixty of them ask for 20 MB, ten times: more than sockets hold of what the disk gives in pieces. One
    that reads gets what it asks for while they hang there."""
    batch = batches.encode_batch([Record("", 0, 0, 0, 1, None, bytes(1_000_000))])
    node = siege.leader_of("history")
    with connect(node) as other:
        for _ in range(24):
            assert produce(other, "history", batch) == codes.NONE
    wanted = FetchRequest(0, 1, 20 * MIB, [("history", [FetchPartition(0, 0, 20 * MIB)])])
    request = b"".join(kafka.encode_fetch_request(1, "stranger", wanted))
    with siege.assault(growth_bytes_max=200 * MIB), ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(connect(node)).sendall(10 * request)
        assert len(asyncio.run(values_of(siege.cluster.bootstrap, "history"))) >= 24
        wait_for(
            lambda: "bytes of answers are not taken" in node.log_path.read_text(),
            "consumers that take nothing are cut off",
        )


async def values_of(bootstrap: str, topic: str) -> list[bytes | None]:
    values: list[bytes | None] = []
    async with rlog.connect(bootstrap) as cluster:
        end = await cluster.end_offset(topic, 0)
        async with cluster.consumer(topic, partition=0) as consumer, asyncio.timeout(60):
            while (consumer.position() or 0) < end:
                values += await consumer.values(timeout_ms=5000)
    return values


def bomb(plain_bytes: int) -> bytes:
    """A batch of one record whose zstd frame, some hundred kilobytes, unpacks to `plain_bytes`."""
    piece = bytes(MIB)
    head = batches.encode_varint(plain_bytes) + b"\0\0\0\x01" + batches.encode_varint(plain_bytes - 20)
    squeezing = zstandard.ZstdCompressor(level=1).compressobj()
    payload = squeezing.compress(head)
    for _ in range(plain_bytes // MIB):
        payload += squeezing.compress(piece)
    payload += squeezing.flush()
    return batches.seal(batches.Header(0, 0, -1, 0, batches.ZSTD, 0, 5, 5, -1, -1, -1, 1), payload)


def test_a_decompression_bomb_is_stored_and_never_unpacked(siege: Siege) -> None:
    """Its bytes go through as they are; who looks into it does so with a cap."""
    batch = bomb(4 * GIB)
    assert len(batch) < MIB
    node = siege.leader_of("bombs")
    with siege.assault(), connect(node) as connection:
        assert produce(connection, "bombs", batch) == codes.NONE
        asked = ListOffsetsRequest([("bombs", [ListOffsetsPartition(0, 3)])])
        connection.sendall(b"".join(kafka.encode_list_offsets_request(1, "stranger", asked)))
        assert kafka.decode_list_offsets_response(frame_of(connection))
        with pytest.raises(RlogError, match="decompress"):
            asyncio.run(values_of(siege.cluster.bootstrap, "bombs"))


def test_ten_thousand_idle_connections_are_held_and_no_more(siege: Siege) -> None:
    node = siege.cluster.nodes[next(n for n in siege.cluster.nodes if n != siege.leader.node_id)]
    before = resident_bytes(node)
    with siege.assault(growth_bytes_max=CONNECTIONS_MAX * IDLE_BYTES_MAX), ExitStack() as stack:
        held = [stack.enter_context(connect(node)) for _ in range(CONNECTIONS_MAX - 6)]
        assert is_served(held[0])
        assert is_served(held[-1])
        each = (resident_bytes(node) - before) // len(held)
        assert each < IDLE_BYTES_MAX, f"{each} bytes for each"
        refused = itertools.takewhile(lambda _: not was_refused(stack, siege, node), range(40))
        assert len(list(refused)) < 40, "more than connection_count_max were taken"
        siege.wait_acks()
    assert f"there are {CONNECTIONS_MAX} connections already" in node.log_path.read_text()
    wait_for(lambda: siege.cluster.describe(node.node_id) is not None, "the node takes connections again")


def was_refused(stack: ExitStack, siege: Siege, node) -> bool:
    connection = stack.enter_context(connect(node))
    connection.settimeout(0.2)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def test_connections_that_come_and_go_leave_nothing(siege: Siege) -> None:
    node = siege.leader
    with siege.assault(growth_bytes_max=32 * MIB):
        for number in range(3000):
            with connect(node) as connection:
                if number % 3 == 0:
                    connection.sendall((100 + number).to_bytes(4, "big") + b"\0\x03")
                elif number % 3 == 1:
                    assert is_served(connection)
        with connect(node) as connection:
            connection.sendall(b"\xff\xff\xff\xff")
            all_until_closed(connection)
    descriptors = list(Path(f"/proc/{node.pid}/fd").iterdir())
    assert len(descriptors) < 100
