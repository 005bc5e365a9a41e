"""What a receipt says: by rlog's own request where a node speaks it, by Kafka's where it does not."""

import asyncio
from typing import Any

import pytest

import rlog
from rlog.client import Cluster, DeliveryFailed, ListReceipt, MessageTooLarge, RequestRefused
from rlog.wire.kafka import codes
from tests.client.fakes import OF_KAFKA, Forget, Hang, Refuse, Reset, World, until, world

NOW_MS = 1_700_000_000_000  # of the clients in a world


async def send_one(cluster: Cluster, **settings: Any) -> rlog.Receipt:
    async with cluster.producer("orders", **settings) as producer:
        return await (await producer.send(b"a"))


async def send_list(cluster: Cluster, **settings: Any) -> ListReceipt:
    async with cluster.producer("orders", **settings) as producer:
        return await (await producer.send_many([b"a", b"b"]))


def test_an_rlog_node_tells_all() -> None:
    async def program(made: World) -> None:
        made.cluster.logs["orders", 0].generation = 7
        async with made.connect() as cluster:
            receipt = await send_one(cluster)
            assert receipt == rlog.Receipt("orders", 0, 0, 7, (1, 2), "majority", NOW_MS)
            many = await send_list(cluster)
            assert many == ListReceipt("orders", 0, 2, ((1, 2),), 7, (1, 2), "majority", NOW_MS)
            made.cluster.logs["orders", 0].append_time_ms = 5
            assert (await send_one(cluster)).timestamp_ms == 5, "the node's clock stamps the record"
            assert (await send_list(cluster)).timestamp_ms == 5

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize(("acks", "waited"), [("all", "majority"), ("leader", "leader")])
def test_a_broker_tells_the_offset_and_the_rest_is_not_made_up(acks: str, waited: str) -> None:
    async def program(made: World) -> None:
        made.cluster.advertised = OF_KAFKA
        async with made.connect() as cluster:
            receipt = await send_one(cluster, acks=acks, idempotent=acks == "all")
            assert receipt == rlog.Receipt("orders", 0, 0, -1, (), waited, NOW_MS)
            many = await send_list(cluster, acks=acks, idempotent=acks == "all")
            assert many == ListReceipt("orders", 0, 2, ((1, 2),), -1, (), waited, NOW_MS)

    with world() as made:
        made.run(program(made))


def test_a_list_in_several_batches_claims_no_more_than_holds_for_all() -> None:
    async def program(made: World) -> None:
        async with (
            made.connect() as cluster,
            cluster.producer("orders", batch_bytes_max=200, buffer_bytes_max=400) as producer,
        ):
            made.cluster.treat("Produce", Forget(codes.DUPLICATE_SEQUENCE_NUMBER))
            receipt = await (await producer.send_many([bytes(100)] * 3))
            assert receipt.spans == ((-1, 1), (1, 2))
            assert list(receipt.offsets()) == [-1, 1, 2]
            assert receipt.last_offset == 2

    with world() as made:
        made.run(program(made))


def test_why_a_node_refused_is_in_the_error() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            made.cluster.treat("Produce", Refuse(codes.INVALID_RECORD))
            ack = await producer.send(b"a")
            with pytest.raises(DeliveryFailed, match=r"INVALID_RECORD .*: why") as raised:
                await ack
            assert isinstance(raised.value.__cause__, RequestRefused)
            assert raised.value.outcome == "no"

    with world() as made:
        made.run(program(made))


# -- acks="none"


def test_without_acks_a_record_is_done_when_the_socket_took_it() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            receipt = await send_one(cluster, acks="none", idempotent=False)
            assert receipt == rlog.Receipt("orders", 0, -1, -1, (), "none", NOW_MS)
            many = await send_list(cluster, acks="none", idempotent=False)
            assert (many.spans, many.waited) == (((-1, 2),), "none")
            assert (many.first_offset, many.last_offset) == (-1, -1)
            await until(lambda: made.cluster.logs["orders", 0].end_offset == 3)

    with world() as made:
        made.run(program(made))


def test_without_acks_a_node_that_reads_nothing_pushes_back() -> None:
    """What the socket does not take counts against the buffer, and is given up in time."""

    async def program(made: World) -> None:
        async with (
            made.connect() as cluster,
            cluster.producer(
                "orders",
                acks="none",
                idempotent=False,
                batch_bytes_max=100_000,
                buffer_bytes_max=1_000_000,
                delivery_timeout_ms=500,
            ) as producer,
        ):
            await (await producer.send(b"first"))
            await until(lambda: made.cluster.logs["orders", 0].end_offset == 1)
            made.cluster.nodes[1].freeze()
            acks = [await producer.send(bytes(90_000)) for _ in range(40)]
            assert producer.buffered_bytes <= 1_000_000
            results = await asyncio.gather(*acks, return_exceptions=True)
            failed = [each for each in results if isinstance(each, DeliveryFailed)]
            assert failed, "the window of the connection is smaller than what was sent"
            assert {each.outcome for each in failed} <= {"unknown", "no"}
            assert failed[0].outcome == "unknown", "a part of it may have arrived"
            assert producer.buffered_bytes == 0
            made.cluster.nodes[1].thaw()

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize(
    "treatment", [Refuse(codes.MESSAGE_TOO_LARGE), Reset(applied=False), Hang()], ids=str
)
def test_without_acks_an_error_is_a_closed_connection_and_the_leader_is_looked_up_again(
    treatment: Any,
) -> None:
    async def program(made: World) -> None:
        async with (
            made.connect() as cluster,
            cluster.producer("orders", acks="none", idempotent=False) as producer,
        ):
            await (await producer.send(b"first"))
            await until(lambda: made.cluster.count("Produce") == 1)
            made.cluster.treat("Produce", treatment)
            await (await producer.send(b"lost"))
            await until(lambda: made.cluster.count("Produce") == 2)
            for connection in list(made.cluster.nodes[1].connections):
                if isinstance(treatment, Hang):
                    connection.transport.abort()
            await asyncio.sleep(0.05)
            made.cluster.elect(2)
            await (await producer.send(b"second"))
            await until(lambda: made.cluster.logs["orders", 0].end_offset == 2)

    with world() as made:
        made.run(program(made))
        assert made.cluster.produced[-1][0] == 2, "sent to the new leader"


def test_what_is_too_large_is_said_before_it_is_sent() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            with pytest.raises(MessageTooLarge):
                async with cluster.producer("orders", acks="none", idempotent=False) as producer:
                    await producer.send(bytes(2_000_000))

    with world() as made:
        made.run(program(made))
