"""What the door answers, request by request; the node behind it is a fake one."""

import pytest

from rlog._core import BatchBuilder, iterate_batches
from rlog.wire import kafka
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka.messages import (
    Broker,
    FetchedPartition,
    FetchPartition,
    FetchRequest,
    PartitionMetadata,
    PartitionReceipt,
    ProducedPartition,
    TopicMetadata,
)
from tests.wire.fakes import Door, FakeNode, run, until
from tests.wire.oracles import kafka_python


def batch(*values: bytes) -> bytes:
    builder = BatchBuilder(batch_bytes_max=1_000_000)
    for value in values:
        assert builder.append(value, timestamp_ms=1)
    return builder.build()


def produce(topics: list, *, acks: int = -1, version: int = 7) -> list:
    return kafka.encode_produce_request(7, "test", acks, 1000, topics, version=version)


def fetch(offset: int, *, partition: int = 0, generation: int = -1, **fields: int) -> list:
    limit = fields.pop("partition_bytes_max", 1_000_000)
    settings = {"max_wait_ms": 0, "bytes_min": 1, "bytes_max": 1_000_000} | fields
    topics = [("t", [FetchPartition(partition, offset, limit, generation)])]
    return kafka.encode_fetch_request(8, "test", FetchRequest(topics=topics, **settings))


def test_produce_then_fetch_gives_the_same_bytes_with_offsets() -> None:
    async def main() -> None:
        async with Door(FakeNode()) as door:
            client = await door.client()
            first, second = batch(b"a", b"b"), batch(b"c")
            answer = await client.ask(produce([("t", [(0, first), (1, second)])]))
            assert kafka.correlation_id(answer) == 7
            assert kafka.decode_produce_response(answer) == [
                ("t", [ProducedPartition(0, 0, 0, -1, 0), ProducedPartition(1, 0, 0, -1, 0)])
            ]
            await client.ask(produce([("t", [(0, second)])]))
            answer = await client.ask(fetch(1))
            [(_, [fetched])] = kafka.decode_fetch_response(answer).topics
            assert fetched._replace(records=()) == FetchedPartition(0, 0, 3, 0, (), 3)
            infos = iterate_batches(fetched.records[0])
            assert [(info.base_offset, info.count) for info in infos] == [(0, 2), (2, 1)]
            assert bytes(fetched.records[0])[16 : len(first)] == first[16:]

    run(main())


def test_produce_errors_are_per_partition() -> None:
    async def main() -> None:
        node = FakeNode(topics={"t": 3})
        node.partitions["t", 1].is_leader = False
        async with Door(node) as door:
            client = await door.client()
            good = batch(b"x")
            topics = [("t", [(0, good), (1, good), (2, good[:-1]), (3, good)]), ("none", [(0, good)])]
            [(_, t), (_, none)] = kafka.decode_produce_response(await client.ask(produce(topics)))
            assert [(p.partition, p.error) for p in t] == [
                (0, codes.NONE),
                (1, codes.NOT_LEADER_OR_FOLLOWER),
                (2, codes.CORRUPT_MESSAGE),
                (3, codes.UNKNOWN_TOPIC_OR_PARTITION),
            ]
            assert [p.error for p in none] == [codes.UNKNOWN_TOPIC_OR_PARTITION]
            [(_, [empty])] = kafka.decode_produce_response(await client.ask(produce([("t", [(0, b"")])])))
            assert empty.error == codes.INVALID_RECORD
            [(_, [odd])] = kafka.decode_produce_response(
                await client.ask(produce([("t", [(0, good)])], acks=2))
            )
            assert odd.error == codes.INVALID_REQUIRED_ACKS
            assert kafka.decode_produce_response(await client.ask(produce([]))) == []
            assert node.partitions["t", 0].end_offset == 1

    run(main())


@pytest.mark.parametrize("version", [0, 1, 2])
def test_old_produce_versions_are_refused_in_their_own_encoding(version: int) -> None:
    async def main() -> None:
        node = FakeNode()
        async with Door(node) as door:
            client = await door.client()
            answer = await client.ask(produce([("t", [(0, b"old format")])], version=version))
            [(_, [refused])] = kafka.decode_produce_response(answer, version)
            assert refused.error == codes.UNSUPPORTED_VERSION
            assert node.partitions["t", 0].acks_seen == []

    run(main())


def test_produce_of_a_transaction_is_refused() -> None:
    async def main() -> None:
        plain = {"transactional_id": "tx", "acks": -1, "timeout_ms": 1}
        plain["topic_data"] = [{"name": "t", "partition_data": [{"index": 0, "records": batch(b"x")}]}]
        async with Door(FakeNode()) as door:
            client = await door.client()
            answer = await client.ask([kafka_python("Request", 0, 7, plain)])
            [(_, [refused])] = kafka.decode_produce_response(answer)
            assert refused.error == codes.UNSUPPORTED_VERSION

    run(main())


def test_rlog_produce_is_answered_with_receipts() -> None:
    async def main() -> None:
        node = FakeNode()
        node.partitions["t", 1].is_leader = False
        async with Door(node) as door:
            client = await door.client()
            topics = [("t", [(0, batch(b"x", b"y")), (1, batch(b"x"))])]
            for acks in (-1, 1):
                asked = kafka.encode_rlog_produce_request(7, "c", acks, 1000, topics)
                [(_, receipts)] = kafka.decode_rlog_produce_response(await client.ask(asked))
                base_offset = node.partitions["t", 0].end_offset - 2
                assert receipts == [
                    PartitionReceipt(0, codes.NONE, base_offset, 5, -1, 0),
                    PartitionReceipt(1, codes.NOT_LEADER_OR_FOLLOWER),
                ]
            client.send(kafka.encode_rlog_produce_request(8, "c", 0, 1000, topics[:0]))
            answer = await client.ask(kafka.encode_describe_node_request(99, "c"))
            assert kafka.correlation_id(answer) == 99

    run(main())


def test_acks_0_has_no_answer() -> None:
    async def main() -> None:
        node = FakeNode()
        async with Door(node) as door:
            client = await door.client()
            client.send(produce([("t", [(0, batch(b"x"))])], acks=0))
            answer = await client.ask(kafka.encode_describe_node_request(99, "test"))
            assert kafka.correlation_id(answer) == 99
            assert node.partitions["t", 0].acks_seen == [0]
            assert node.partitions["t", 0].hwm == 1

    run(main())


def test_an_error_of_acks_0_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        node = FakeNode()
        node.partitions["t", 0].is_leader = False
        async with Door(node) as door:
            client = await door.client()
            client.send(produce([("t", [(0, batch(b"x"))])], acks=0))
            assert await client.closed() == b""

    run(main())
    assert "t-0: NOT_LEADER_OR_FOLLOWER (6), and acks=0 has no answer" in caplog.text


def test_answers_come_in_the_order_of_the_requests() -> None:
    async def main() -> None:
        node = FakeNode()
        slow = node.partitions["t", 0]
        slow.holds = True
        async with Door(node) as door:
            client = await door.client()
            client.send(kafka.encode_produce_request(1, "c", -1, 1000, [("t", [(0, batch(b"x"))])]))
            client.send(kafka.encode_produce_request(2, "c", -1, 1000, [("t", [(1, batch(b"y"))])]))
            client.send(kafka.encode_metadata_request(3, "c", None))
            await until(lambda: node.partitions["t", 1].hwm == 1 and len(slow.pending) == 1)
            assert client.reader._buffer == b"", "an answer overtook an earlier one"
            slow.commit()
            assert [kafka.correlation_id(await client.frame()) for _ in range(3)] == [1, 2, 3]

    run(main())


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_fetch_waits_for_the_high_water_mark(loop: str) -> None:
    async def main() -> None:
        node = FakeNode()
        partition = node.partitions["t", 0]
        async with Door(node) as door:
            client, other = await door.client(), await door.client()
            client.send(fetch(0, max_wait_ms=60_000))
            await until(lambda: len(partition.waiters) == 1)
            partition.holds = True
            other.send(produce([("t", [(0, batch(b"x"))])]))
            await until(lambda: len(partition.pending) == 1)
            assert partition.waiters, "woken by a record that is not committed"
            partition.commit()
            [(_, [fetched])] = kafka.decode_fetch_response(await client.frame()).topics
            assert len(fetched.records) == 1
            assert fetched.hwm == 1
            assert partition.waiters == []

    run(main(), loop)


def test_a_fetch_waits_for_enough_bytes_but_not_longer_than_asked() -> None:
    async def main() -> None:
        node = FakeNode()
        partition = node.partitions["t", 0]
        async with Door(node) as door:
            client, other = await door.client(), await door.client()
            size = len(batch(b"x"))
            client.send(fetch(0, max_wait_ms=60_000, bytes_min=2 * size))
            await until(lambda: len(partition.waiters) == 1)
            await other.ask(produce([("t", [(0, batch(b"x"))])]))
            await until(lambda: [w.above for w in partition.waiters] == [1])
            await other.ask(produce([("t", [(0, batch(b"y"))])]))
            [(_, [fetched])] = kafka.decode_fetch_response(await client.frame()).topics
            assert len(fetched.records[0]) == 2 * size
            for wait_ms, found in ((30, size), (0, size)):
                answer = await client.ask(fetch(1, max_wait_ms=wait_ms, bytes_min=10 * size))
                [(_, [fetched])] = kafka.decode_fetch_response(answer).topics
                assert len(fetched.records[0]) == found
            answer = await client.ask(fetch(2, max_wait_ms=30))
            [(_, [fetched])] = kafka.decode_fetch_response(answer).topics
            assert (fetched.error, fetched.records) == (codes.NONE, ())
            assert partition.waiters == []

    run(main())


def test_a_waiting_fetch_learns_that_leadership_is_lost() -> None:
    async def main() -> None:
        node = FakeNode()
        partition = node.partitions["t", 0]
        async with Door(node) as door:
            client = await door.client()
            client.send(fetch(0, max_wait_ms=60_000))
            await until(lambda: len(partition.waiters) == 1)
            partition.is_leader = False
            partition.wake()
            [(_, [fetched])] = kafka.decode_fetch_response(await client.frame()).topics
            assert fetched.error == codes.NOT_LEADER_OR_FOLLOWER

    run(main())


def test_a_lost_connection_forgets_its_waiting_fetch() -> None:
    async def main() -> None:
        node = FakeNode()
        partition = node.partitions["t", 0]
        async with Door(node) as door:
            client = await door.client()
            client.send(fetch(0, max_wait_ms=60_000))
            await until(lambda: len(partition.waiters) == 1)
            client.close()
            await until(lambda: partition.waiters == [])
            assert door.server.connection_count == 0

    run(main())


def test_a_fetch_gives_one_batch_above_the_limits_and_whole_batches_below_them() -> None:
    async def main() -> None:
        node = FakeNode()
        async with Door(node) as door:
            client = await door.client()
            one = batch(b"x" * 2000)
            for partition in (0, 1):
                for _ in range(3):
                    await client.ask(produce([("t", [(partition, one)])]))

            async def sizes(bytes_max: int, partition_bytes_max: int) -> list[int]:
                parts = [FetchPartition(p, 0, partition_bytes_max) for p in (0, 1)]
                request = FetchRequest(0, 1, bytes_max, [("t", parts)])
                answer = await client.ask(kafka.encode_fetch_request(1, "c", request))
                [(_, fetched)] = kafka.decode_fetch_response(answer).topics
                return [sum(map(len, p.records)) // len(one) for p in fetched]

            assert await sizes(1, 1) == [1, 0]
            assert await sizes(0, 0) == [1, 0]
            assert await sizes(-5, -5) == [1, 0]
            assert await sizes(10 * len(one), 1) == [1, 1]
            assert await sizes(4 * len(one), 10 * len(one)) == [3, 1]
            assert await sizes(10 * len(one), 2 * len(one) + 5) == [2, 2]

    run(main())


@pytest.mark.parametrize(
    ("changes", "generation", "offset", "error"),
    [
        ({}, 5, 0, codes.NONE),
        ({}, 4, 0, codes.FENCED_LEADER_EPOCH),
        ({}, 6, 0, codes.UNKNOWN_LEADER_EPOCH),
        ({"is_leader": False}, 4, 0, codes.FENCED_LEADER_EPOCH),
        ({"is_leader": False}, -1, 0, codes.NOT_LEADER_OR_FOLLOWER),
        ({"serving": False}, -1, 0, codes.OFFSET_NOT_AVAILABLE),
        ({}, -1, 1, codes.OFFSET_OUT_OF_RANGE),
        ({"start_offset": 1, "hwm": 1, "end_offset": 1}, -1, 0, codes.OFFSET_OUT_OF_RANGE),
    ],
)
def test_fetch_errors_are_answered_at_once(changes: dict, generation: int, offset: int, error: int) -> None:
    async def main() -> None:
        node = FakeNode()
        for name, value in changes.items():
            setattr(node.partitions["t", 0], name, value)
        async with Door(node) as door:
            client = await door.client()
            wait_ms = 60_000 if error else 0
            answer = await client.ask(fetch(offset, generation=generation, max_wait_ms=wait_ms))
            [(_, [fetched])] = kafka.decode_fetch_response(answer).topics
            assert fetched.error == error
            answer = await client.ask(fetch(0, partition=9, max_wait_ms=60_000))
            [(_, [unknown])] = kafka.decode_fetch_response(answer).topics
            assert unknown.error == codes.UNKNOWN_TOPIC_OR_PARTITION

    run(main())


def test_there_are_no_fetch_sessions() -> None:
    async def main() -> None:
        async with Door(FakeNode()) as door:
            client = await door.client()
            opening = await client.ask(fetch(0, session_epoch=0))
            assert kafka.decode_fetch_response(opening).session_id == 0
            later = kafka.decode_fetch_response(await client.ask(fetch(0, session_id=4, session_epoch=1)))
            assert later == (codes.FETCH_SESSION_ID_NOT_FOUND, 0, [])
            nothing = FetchRequest(60_000, 1, 1, [])
            answer = await client.ask(kafka.encode_fetch_request(1, "c", nothing))
            assert kafka.decode_fetch_response(answer) == (0, 0, [])

    run(main())


def test_metadata_lists_all_nodes_and_who_leads() -> None:
    async def main() -> None:
        node = FakeNode(advertised_host="127.0.0.9", topics={"t": 2, "a": 1})
        node.partitions["t", 1].leader_id = 0
        async with Door(node) as door:
            client = await door.client()
            answer = await client.ask(kafka.encode_metadata_request(1, "c", None))
            metadata = kafka.decode_metadata_response(answer)
            assert metadata.brokers == [
                Broker(1, "127.0.0.9", door.server.port),
                Broker(2, "10.0.0.2", 19092),
                Broker(3, "10.0.0.3", 2),
            ]
            assert (metadata.cluster_id, metadata.controller_id) == ("c", 1)
            assert [topic.name for topic in metadata.topics] == ["a", "t"]
            assert metadata.topics[1].partitions == [
                PartitionMetadata(codes.NONE, 0, 1, 5, [1, 2, 3], [1, 2], []),
                PartitionMetadata(codes.LEADER_NOT_AVAILABLE, 1, -1, 5, [1, 2, 3], [1, 2], []),
            ]
            answer = await client.ask(kafka.encode_metadata_request(1, "c", ["none", "a"]))
            none, known = kafka.decode_metadata_response(answer).topics
            assert none == TopicMetadata(codes.UNKNOWN_TOPIC_OR_PARTITION, "none", [])
            assert known.name == "a"
            answer = await client.ask(kafka.encode_metadata_request(1, "c", []))
            assert kafka.decode_metadata_response(answer).topics == []
            answer = await client.ask(kafka.encode_metadata_request(1, "c", [], version=0))
            assert len(kafka.decode_metadata_response(answer, 0).topics) == 2

    run(main())


def test_api_versions_of_known_and_unknown_versions() -> None:
    async def main() -> None:
        async with Door(FakeNode()) as door:
            client = await door.client()
            for version in range(4):
                answer = await client.ask(kafka.encode_api_versions_request(5, "c", version=version))
                known = kafka.decode_api_versions_response(answer, version)
                assert known == (codes.NONE, list(apis.ADVERTISED))
            newer = kafka.encode_api_versions_request(6, "c", version=99)
            answer = await client.ask(newer)
            assert kafka.correlation_id(answer) == 6
            unknown = kafka.decode_api_versions_response(answer, 0)
            assert unknown == (codes.UNSUPPORTED_VERSION, list(apis.ADVERTISED))
            answer = await client.ask(kafka.encode_api_versions_request(7, "c", version=0))
            assert kafka.correlation_id(answer) == 7, (
                "the connection goes on after a version that was not known"
            )

    run(main())


def test_producer_ids_are_random_63_bit_numbers() -> None:
    async def main() -> None:
        async with Door(FakeNode()) as door:
            client = await door.client()
            ids = set()
            for _ in range(50):
                answer = await client.ask(kafka.encode_init_producer_id_request(1, "c"))
                error, producer_id, epoch = kafka.decode_init_producer_id_response(answer)
                assert (error, epoch) == (codes.NONE, 0)
                ids.add(producer_id)
            assert len(ids) == 50
            assert max(ids) > 2**61
            assert min(ids) >= 0
            plain = {"transactional_id": "x", "transaction_timeout_ms": 1}
            answer = await client.ask([kafka_python("Request", 22, 1, plain)])
            assert kafka.decode_init_producer_id_response(answer) == (codes.UNSUPPORTED_VERSION, -1, -1)

    run(main())


def test_describe_node_tells_which_requests_came() -> None:
    async def main() -> None:
        async with Door(FakeNode()) as door:
            client = await door.client()
            await client.ask(kafka.encode_metadata_request(1, "c", None, version=3))
            answer = await client.ask(kafka.encode_describe_node_request(1, "c"))
            assert kafka.decode_describe_node_response(answer) == {
                "node_id": 1,
                "requests": {"Metadata 3": 1, "DescribeNode 0": 1},
            }

    run(main())
