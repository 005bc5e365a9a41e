"""Frames, bounds and pressure: what a connection may cost, whatever its client does."""

import asyncio
import random
import tracemalloc

import pytest

from rlog._core import BatchBuilder
from rlog.errors import ProtocolError
from rlog.wire import kafka
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka.messages import FetchPartition, FetchRequest
from tests.wire.fakes import LOOPS, Door, FakeNode, FakePartition, FrameClient, Outcome, run, until

MIB = 1024 * 1024


def batch(size: int) -> bytes:
    builder = BatchBuilder(batch_bytes_max=2 * size + 1000)
    assert builder.append(bytes(size), timestamp_ms=1)
    return builder.build()


def produce(records: bytes, number: int = 1) -> list:
    return kafka.encode_produce_request(number, "c", -1, 1000, [("t", [(0, records)])])


# --- the receiver alone ---
def feed(receiver: kafka.FrameReceiver, data: bytes, pieces: random.Random) -> list[bytes]:
    """Give `data` to the receiver in pieces of random size; all frames that come out."""
    frames: list[bytes] = []
    while data:
        target = receiver.get_buffer(-1)
        assert len(target) > 0
        count = min(len(data), len(target), pieces.choice([1, 3, 100, 5000, 70_000]))
        target[:count] = data[:count]
        frames += receiver.received(count)
        data = data[count:]
    return frames


@pytest.mark.parametrize("seed", range(8))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(seed: int) -> None:
    pieces = random.Random(seed)
    sizes = [0, 1, 10, 50_000, 65_532, 65_533, 65_537, 200_000, 3]
    frames = [pieces.randbytes(pieces.choice(sizes)) for _ in range(40)]
    receiver = kafka.FrameReceiver(200_000)
    found = feed(receiver, b"".join(len(f).to_bytes(4, "big") + f for f in frames), pieces)
    assert found == frames
    assert receiver.pending_bytes == 0


def test_a_frame_stays_good_while_later_ones_arrive() -> None:
    receiver = kafka.FrameReceiver(MIB)
    [large] = feed(receiver, (100_000).to_bytes(4, "big") + b"L" * 100_000, random.Random(1))
    [small] = feed(receiver, (5).to_bytes(4, "big") + b"small", random.Random(1))
    view = memoryview(large)[10:20]
    for _ in range(3):
        feed(receiver, (100_000).to_bytes(4, "big") + b"X" * 100_000, random.Random(1))
    assert (view, small) == (b"L" * 10, b"small")


@pytest.mark.parametrize("size", [-1, -(2**31), 1001, 2**31 - 1])
def test_a_size_that_cannot_be_is_refused_before_memory_is_taken(size: int) -> None:
    receiver = kafka.FrameReceiver(1000)
    with pytest.raises(ProtocolError, match="accepted are 0 to 1000"):
        feed(receiver, size.to_bytes(4, "big", signed=True), random.Random(1))
    assert receiver.pending_bytes == 0


def test_a_large_frame_takes_memory_when_it_is_read_and_not_before() -> None:
    receivers = [kafka.FrameReceiver(100 * MIB) for _ in range(20)]
    tracemalloc.start()
    try:
        for receiver in receivers:
            assert feed(receiver, (100 * MIB).to_bytes(4, "big") + b"some", random.Random(1)) == []
            assert receiver.pending_bytes == 100 * MIB
        assert tracemalloc.get_traced_memory()[1] < MIB
        assert len(receivers[0].get_buffer(-1)) == 100 * MIB - 4
        assert tracemalloc.get_traced_memory()[1] >= 100 * MIB
    finally:
        tracemalloc.stop()


# --- connections ---
def garbage(name: str) -> bytes:
    def framed(body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + body

    header = b"\0\x03\0\x08\0\0\0\1\xff\xff"
    return {
        "http": b"GET / HTTP/1.1\r\n\r\n",
        "too large": (101 * MIB).to_bytes(4, "big"),
        "tls": bytes.fromhex("1603010200010001fc0303"),
        "peer": b"RLPF" + bytes(52),
        "negative": b"\xff\xff\xff\xff",
        "empty": framed(b""),
        "half a header": framed(b"\0\x03\0"),
        "unknown API": framed(b"\x03\xe8\0\0\0\0\0\1\xff\xff"),
        "unknown version": framed(b"\0\x03\0\x63\0\0\0\1\xff\xff"),
        "body ends early": framed(header),
        "huge array": framed(header + b"\x7f\xff\xff\xff"),
        "left over": framed(header + b"\0\0\0\0" + b"\0\0\0" + b"?"),
        "null topic": framed(header + b"\0\0\0\1\xff\xff" + b"\0\0\0"),
        "no UTF-8": framed(header + b"\0\0\0\1\0\1\xff" + b"\0\0\0"),
        "odd client id": framed(b"\0\x03\0\x08\0\0\0\1\xff\xfe"),
    }[name]


GARBAGE = {
    "http": "it looks like HTTP: listen_port is for Kafka clients, admin_port for HTTP",
    "tls": "it looks like TLS: listen_port speaks no TLS: set the client's security.protocol to PLAINTEXT",
    "peer": "it looks like another rlog node: nodes connect to peer_port",
    "too large": "frame of 105906176 bytes",
    "negative": "frame of -1 bytes",
    "empty": "frame ends early",
    "half a header": "frame ends early",
    "unknown API": "API key 1000 version 0: not served",
    "unknown version": "Metadata version 99: not served",
    "body ends early": "Metadata version 8: frame ends early",
    "huge array": "array of 2147483647 elements",
    "left over": "1 bytes left after the message",
    "null topic": "null where a string is required",
    "no UTF-8": "is not UTF-8",
    "odd client id": "string of length -2",
}


@pytest.mark.parametrize("loop", list(LOOPS))
@pytest.mark.parametrize("name", list(GARBAGE))
def test_garbage_closes_its_connection_with_the_reason_and_no_other(
    name: str, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Door(FakeNode()) as door:
            client, other = await door.client(), await door.client()
            await other.ask(kafka.encode_describe_node_request(1, "c"))
            client.send([garbage(name)])
            answer = await client.closed()
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n") if name == "http" else answer == b""
            assert await other.ask(kafka.encode_describe_node_request(1, "c"))

    run(main(), loop)
    assert GARBAGE[name] in caplog.text
    assert "client_closed" in caplog.text


def test_answers_already_given_leave_before_a_connection_is_closed() -> None:
    async def main() -> None:
        async with Door(FakeNode()) as door:
            client = await door.client()
            client.send(kafka.encode_describe_node_request(5, "c"))
            await until(lambda: door.server.request_counts.total() == 1)
            client.send([b"\xff\xff\xff\xff"])
            assert kafka.correlation_id((await client.closed())[4:]) == 5

    run(main())


@pytest.mark.parametrize("loop", list(LOOPS))
def test_large_requests_arrive_whole(loop: str) -> None:
    async def main() -> None:
        async with Door(FakeNode()) as door:
            client = await door.client()
            records = batch(900_000)
            for number in range(3):
                answer = await client.ask(produce(records, number))
                assert kafka.correlation_id(answer) == number
                assert kafka.decode_produce_response(answer)[0][1][0].error == codes.NONE

    run(main(), loop)


async def turns(witness: FrameClient, count: int = 30) -> None:
    """Let the node go on: another client is served `count` times."""
    for _ in range(count):
        await witness.ask(kafka.encode_describe_node_request(1, "witness"))


@pytest.mark.parametrize("loop", list(LOOPS))
def test_requests_under_way_are_bounded_by_count(loop: str) -> None:
    async def main() -> None:
        node = FakeNode(connection_inflight_count_max=4)
        slow = node.partitions["t", 0]
        slow.holds = True
        async with Door(node) as door:
            client, witness = await door.client(), await door.client()
            for number in range(10):
                client.send(produce(batch(1), number))
            await until(lambda: len(slow.pending) == 4)
            await turns(witness)
            assert len(slow.pending) == 4
            for rest in (8, 10):
                slow.commit()
                await until(lambda rest=rest: slow.end_offset == rest)
            slow.commit()
            assert [kafka.correlation_id(await client.frame()) for _ in range(10)] == list(range(10))

    run(main(), loop)


@pytest.mark.parametrize("loop", list(LOOPS))
def test_requests_under_way_are_bounded_by_bytes(loop: str) -> None:
    async def main() -> None:
        node = FakeNode(connection_inflight_bytes_max=2 * MIB)
        slow = node.partitions["t", 0]
        slow.holds = True
        async with Door(node) as door:
            client, witness = await door.client(), await door.client()
            for number in range(50):
                client.send(produce(batch(500_000), number))
            await until(lambda: len(slow.pending) >= 4)
            await turns(witness)
            assert len(slow.pending) <= 6, "the node kept reading"
            assert door.server.budget.used_bytes < 4 * MIB
            slow.holds = False
            slow.commit()
            assert [kafka.correlation_id(await client.frame()) for _ in range(50)] == list(range(50))

    run(main(), loop)


def test_all_connections_share_a_budget_and_all_get_their_turn() -> None:
    async def main() -> None:
        node = FakeNode(clients_inflight_bytes_max=3 * MIB)
        slow = node.partitions["t", 0]
        slow.holds = True
        async with Door(node) as door:
            clients = [await door.client() for _ in range(12)]
            for client in clients:
                client.send(produce(batch(900_000)))
            await until(lambda: len(slow.pending) == 3)
            assert door.server.budget.used_bytes <= 3 * MIB
            small = await door.client()
            small.send(produce(batch(10)))
            slow.holds = False
            slow.commit()
            for client in (*clients, small):
                answer = kafka.decode_produce_response(await client.frame())
                assert answer[0][1][0].error == codes.NONE

    run(main())


def test_a_client_that_waits_for_the_budget_may_leave() -> None:
    async def main() -> None:
        node = FakeNode(clients_inflight_bytes_max=MIB)
        slow = node.partitions["t", 0]
        slow.holds = True
        async with Door(node) as door:
            first, second, third = [await door.client() for _ in range(3)]
            first.send(produce(batch(900_000)))
            await until(lambda: len(slow.pending) == 1)
            second.send(produce(batch(900_000)))
            third.send(produce(batch(900_000)))
            await until(lambda: door.server.budget.waiting_count == 2)
            second.close()
            slow.holds = False
            slow.commit()
            assert await third.frame()
            await until(lambda: door.server.connection_count == 2)

    run(main())


@pytest.mark.parametrize("loop", list(LOOPS))
def test_a_consumer_that_never_reads_costs_one_answer(loop: str) -> None:
    async def main() -> None:
        node = FakeNode()
        partition = node.partitions["t", 0]
        data = batch(800_000)
        for _ in range(8):
            partition.append(data, 1)
        partition.commit()
        looks = []
        real_read = partition.read
        partition.read = lambda *asked: looks.append(asked) or real_read(*asked)
        async with Door(node) as door:
            client = await door.client()
            client.writer.transport.pause_reading()
            request = FetchRequest(0, 1, 50 * MIB, [("t", [FetchPartition(0, 0, 50 * MIB)])])
            for _ in range(50):
                client.send(kafka.encode_fetch_request(1, "c", request))
            await until(lambda: len(looks) > 0)
            [connection] = door.server._connections
            await turns(await door.client())
            # The kernel's socket buffers take some; what is above them is one answer.
            assert len(looks) <= 3, "answers pile up"
            assert connection._transport.get_write_buffer_size() <= 8 * len(data) + 1000
            client.writer.transport.resume_reading()
            for _ in range(50):
                assert len(await client.frame()) > 8 * len(data)

    run(main(), loop)


def test_a_fetch_behind_an_unanswered_request_is_not_started() -> None:
    async def main() -> None:
        node = FakeNode()
        slow, other = node.partitions["t", 0], node.partitions["t", 1]
        other.append(batch(800_000), 1)
        other.commit()
        slow.holds = True
        looks = []
        real_read = other.read
        other.read = lambda *asked: looks.append(asked) or real_read(*asked)
        async with Door(node) as door:
            client, witness = await door.client(), await door.client()
            request = FetchRequest(0, 1, 50 * MIB, [("t", [FetchPartition(1, 0, 50 * MIB)])])
            client.send(produce(batch(10), 1))
            for number in range(2, 20):
                client.send(kafka.encode_fetch_request(number, "c", request))
            await until(lambda: len(slow.pending) == 1)
            await turns(witness)
            assert looks == [], "an answer is held back behind an earlier one"
            slow.commit()
            assert [kafka.correlation_id(await client.frame()) for _ in range(1, 20)] == list(range(1, 20))

    run(main())


def test_answers_held_back_by_an_earlier_one_are_bounded() -> None:
    """Answers of 200 kB that cost next to nothing to make: 1 MiB of them waits, the rest is not started."""

    async def main() -> None:
        node = FakeNode()
        node.describe = lambda: {"node_id": 1, "text": "x" * 200_000}
        slow = node.partitions["t", 0]
        slow.holds = True
        async with Door(node) as door:
            client, witness = await door.client(), await door.client()
            client.send(produce(batch(10), 0))
            for number in range(1, 60):
                client.send(kafka.encode_describe_node_request(number, "c"))
            await until(lambda: len(slow.pending) == 1)
            await turns(witness, 10)
            started = door.server.request_counts[apis.DESCRIBE_NODE, 0] - 10
            assert 1 <= started < 10, "answers that cannot leave pile up"
            slow.commit()
            assert [kafka.correlation_id(await client.frame()) for _ in range(60)] == list(range(60))

    run(main())


def test_a_connection_lost_while_it_waits_for_the_budget_holds_up_nobody() -> None:
    async def main() -> None:
        node = FakeNode(clients_inflight_bytes_max=MIB)
        slow = node.partitions["t", 0]
        slow.holds = True
        async with Door(node) as door:
            first, second, third = [await door.client() for _ in range(3)]
            first.send(produce(batch(900_000)))
            await until(lambda: len(slow.pending) == 1)
            for number, client in ((1, second), (2, third)):
                client.send(produce(batch(900_000)))
                await until(lambda number=number: door.server.budget.waiting_count == number)
            next(iter(door.server.budget._waiting[1])).abort()
            await until(lambda: door.server.connection_count == 2)
            slow.holds = False
            slow.commit()
            assert await third.frame()

    run(main())


def test_a_client_that_takes_nothing_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        node = FakeNode(client_stall_ms=200)
        partition = node.partitions["t", 0]
        for _ in range(12):
            partition.append(batch(900_000), 1)
        partition.commit()
        async with Door(node) as door:
            client = await door.client()
            client.writer.transport.pause_reading()
            request = FetchRequest(0, 1, 50 * MIB, [("t", [FetchPartition(0, 0, 50 * MIB)])])
            client.send(kafka.encode_fetch_request(1, "c", request))
            await until(lambda: door.server.connection_count == 1)
            await until(lambda: door.server.connection_count == 0)

    run(main())
    assert "no progress for" in caplog.text


def test_half_a_large_request_does_not_hold_its_room_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        node = FakeNode(client_stall_ms=200)
        async with Door(node) as door:
            client, idle = await door.client(), await door.client()
            client.send([(50 * MIB).to_bytes(4, "big") + bytes(100)])
            await until(lambda: door.server.budget.used_bytes == 50 * MIB)
            await until(lambda: door.server.connection_count == 1)
            assert door.server.budget.used_bytes == 0
            assert await idle.ask(kafka.encode_describe_node_request(1, "c")), "an idle client was cut off"

    run(main())
    assert "no progress for" in caplog.text


def test_connections_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Door(FakeNode(connection_count_max=2)) as door:
            first, second = await door.client(), await door.client()
            for client in (first, second):
                await client.ask(kafka.encode_describe_node_request(1, "c"))
            third = await door.client()
            assert await third.closed() == b""
            assert await first.ask(kafka.encode_describe_node_request(1, "c"))

    run(main())
    assert "there are 2 connections already (connection_count_max)" in caplog.text


def test_stop_returns_although_a_client_never_reads() -> None:
    async def main() -> None:
        node = FakeNode()
        partition = node.partitions["t", 0]
        for _ in range(12):
            partition.append(batch(900_000), 1)
        partition.commit()
        async with Door(node) as door:
            client, waiting = await door.client(), await door.client()
            client.writer.transport.pause_reading()
            request = FetchRequest(0, 1, 50 * MIB, [("t", [FetchPartition(0, 0, 50 * MIB)])])
            client.send(kafka.encode_fetch_request(1, "c", request))
            later = FetchRequest(60_000, 1, MIB, [("t", [FetchPartition(1, 0, MIB)])])
            waiting.send(kafka.encode_fetch_request(1, "c", later))
            await until(lambda: len(node.partitions["t", 1].waiters) == 1)
            started = asyncio.get_running_loop().time()
            await door.server.stop()
            assert asyncio.get_running_loop().time() - started < 3
            assert door.server.connection_count == 0
            assert node.partitions["t", 1].waiters == []

    run(main())


@pytest.mark.parametrize("loop", list(LOOPS))
def test_what_was_answered_as_the_node_stops_still_leaves(loop: str) -> None:
    """A partition that stops answers whoever waits, in the very turn of the loop that closes its door."""

    async def main() -> None:
        node = FakeNode()
        partition = node.partitions["t", 0]
        partition.holds = True
        async with Door(node) as door:
            client = await door.client()
            client.send(produce(batch(1), 5))
            await until(lambda: len(partition.pending) == 1)
            partition.commit()
            await door.server.stop()
            answer = await client.closed()
            assert kafka.correlation_id(answer[4:]) == 5

    run(main(), loop)


def test_records_whose_client_left_before_their_commit_are_not_kept() -> None:
    """The log has its copy; the request's bytes left the budget with the client."""

    class Waits(FakePartition):
        def produce(self, records, *, acks, deadline, done) -> None:
            self.pending.append((done, Outcome(0)))

    async def main() -> None:
        node = FakeNode()
        partition = node.partitions["t", 0] = Waits()
        async with Door(node) as door:
            frame = b"".join(produce(batch(4 * MIB)))
            tracemalloc.start()
            try:
                for number in range(1, 6):
                    client = await door.client()
                    client.send([frame])
                    await until(lambda number=number: len(partition.pending) == number)
                    client.close()
                    await until(lambda: door.server.connection_count == 0)
                door.clients.clear()
                assert tracemalloc.get_traced_memory()[0] < 4 * MIB
            finally:
                tracemalloc.stop()

    run(main())


def test_an_answer_whose_client_is_gone_is_counted_for_nobody() -> None:
    async def main() -> None:
        node = FakeNode()
        slow = node.partitions["t", 0]
        slow.holds = True
        async with Door(node) as door:
            client = await door.client()
            client.send(produce(batch(100)))
            await until(lambda: len(slow.pending) == 1)
            client.close()
            await until(lambda: door.server.connection_count == 0)
            slow.commit()
            assert door.server.answers.used_bytes == 0
            assert not door.server.answers.holders

    run(main())
