"""Small parts alone: batches and their restamping, answers cut short, partitions, linger, lists."""

import asyncio
from itertools import pairwise

import pytest

from rlog._core import BatchBuilder, SpanBuilder, check_client_batches, decode_values, iterate_batches
from rlog.client import MessageTooLarge
from rlog.client.batch import Batch
from rlog.client.cursor import whole_batches
from rlog.client.home import Home
from rlog.client.partition_queue import next_sequence
from rlog.errors import ConfigurationError, ProtocolError
from rlog.wire.kafka._hot import partition_of
from tests.client.fakes import World, world


def filled(*values: bytes) -> BatchBuilder:
    builder = BatchBuilder(batch_bytes_max=10_000)
    builder.append_values(values, 0, 0)
    return builder


def run_of(*counts: int, base_offset: int = 0) -> bytes:
    """Stamped batches of so many records each."""
    span = SpanBuilder(base_offset, 1)
    for count in counts:
        data = filled(*[b"x"] * count).build()
        (info,) = check_client_batches(data, batch_bytes_max=10_000)
        span.add(data, info)
    return bytes(span.build())


async def made_batch(builder: BatchBuilder) -> Batch:
    return Batch(Home(), "orders", 0, 1, builder, deadline=0.0)


def test_a_batch_restamped_for_another_producer_is_intact() -> None:
    loop = asyncio.new_event_loop()
    batch = loop.run_until_complete(made_batch(filled(b"a", b"b")))
    loop.close()
    batch.close(7, 0, 100)
    before = bytes(batch.data)
    batch.close(8, 3, 0)
    (info,) = check_client_batches(batch.data, batch_bytes_max=10_000)
    assert (info.producer_id, info.producer_epoch, info.base_sequence, info.count) == (8, 3, 0, 2)
    batch.close(7, 0, 100)
    assert batch.data == before


@pytest.mark.parametrize(
    ("sequence", "count", "after"),
    [(0, 1, 1), (2**31 - 1, 1, 0), (2**31 - 3, 10, 7), (2**31 - 2, 1, 2**31 - 1)],
)
def test_sequences_wrap(sequence: int, count: int, after: int) -> None:
    assert next_sequence(sequence, count) == after


def test_an_answer_may_end_inside_a_batch() -> None:
    data = run_of(3, 2, base_offset=10)
    first_bytes = iterate_batches(data)[0].size
    assert whole_batches(data, 10) == (len(data), 15)
    assert whole_batches(data, 12) == (len(data), 15), "the asked offset may lie inside the first batch"
    for size in range(first_bytes, len(data)):
        assert whole_batches(data[:size], 10) == (first_bytes, 13)
    for size in range(first_bytes):
        assert whole_batches(data[:size], 10) == (0, 10)


def test_an_answer_that_repeats_is_refused() -> None:
    """SAFETY 55: the served batch contains the requested offset, and what follows lies behind it."""
    data = run_of(3, 2, base_offset=10)
    first_bytes = iterate_batches(data)[0].size
    with pytest.raises(ProtocolError, match="repeats offset 10"):
        whole_batches(data, 13)
    with pytest.raises(ProtocolError, match="repeats offset 10"):
        whole_batches(data[:first_bytes] * 2, 10)
    with pytest.raises(ProtocolError, match="length"):
        whole_batches(data[:8] + b"\xff\xff\xff\xff" + data[12:], 10)


def test_keys_choose_partitions_as_other_clients_do_and_the_rest_sticks() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders", batch_bytes_max=2000) as producer:
            for number in range(50):
                key = b"key-%d" % number
                receipt = await (await producer.send(b"", key=key))
                assert receipt.partition == partition_of(key, 5)
            partitions = []
            for _ in range(400):
                partitions.append((await (await producer.send(bytes(100)))).partition)
            runs = [a for a, b in pairwise(partitions) if a != b]
            assert 10 < len(runs) < 40, "a batch's worth of bytes stays in one partition"
            assert set(partitions) == set(range(5))

    with world(topics={"orders": 5}) as made:
        made.run(program(made))


def test_linger_waits_for_company_and_a_full_batch_does_not() -> None:
    async def program(made: World) -> None:
        async with (
            made.connect() as cluster,
            cluster.producer("orders", linger_ms=50, batch_bytes_max=2000) as producer,
        ):
            await (await producer.send(b""))
            began = made.loop.time()
            ack = await producer.send(b"")
            await asyncio.sleep(0.03)
            late = await producer.send(b"")
            await ack
            assert late.done(), "both went in one batch"
            assert 0.05 <= made.loop.time() - began < 0.06
            began = made.loop.time()
            acks = [await producer.send(bytes(500)) for _ in range(4)]
            await acks[0]
            assert made.loop.time() - began < 0.01
            began = made.loop.time()
            await producer.flush()
            assert made.loop.time() - began < 0.01, "flush waits for no company"

    with world() as made:
        made.run(program(made))


def test_sends_of_one_tick_share_a_batch() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            await (await producer.send(b""))
            before = made.cluster.count("Produce")
            acks = await asyncio.gather(*(producer.send(b"%d" % number) for number in range(100)))
            assert [(await ack).offset for ack in acks] == list(range(1, 101))
            assert made.cluster.count("Produce") == before + 1

    with world() as made:
        made.run(program(made))


def test_a_list_larger_than_a_batch_has_one_ack() -> None:
    async def program(made: World) -> None:
        async with (
            made.connect() as cluster,
            cluster.producer("orders", batch_bytes_max=2000, buffer_bytes_max=8000) as producer,
        ):
            values = [b"%d" % number for number in range(5000)]
            ack = await producer.send_many(values)
            assert not ack.done()
            receipt = await ack
            assert (receipt.count, receipt.first_offset, receipt.last_offset) == (5000, 0, 4999)
            assert receipt.spans == ((0, 5000),)
            assert list(receipt.offsets())[::1000] == [0, 1000, 2000, 3000, 4000]
            one, two = await asyncio.gather(
                producer.send_many(tuple(values[:1000])), producer.send_many(values[1000:2000])
            )
            first, second = await one, await two
            offsets = sorted([*first.offsets(), *second.offsets()])
            assert offsets == list(range(5000, 7000))
            log = made.cluster.logs["orders", 0]
            stored = [value for _, data in log.batches for value in decode_values(data)[0]]
            assert [stored[offset] for offset in first.offsets()] == values[:1000]
            assert max(len(data) for _, data in log.batches) <= 2000

    with world() as made:
        made.run(program(made))


def test_what_cannot_be_sent_is_refused_and_leaves_no_trace() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders", batch_bytes_max=2000) as producer:
            for size in (1950, 5000):
                with pytest.raises(MessageTooLarge):
                    await producer.send(bytes(size))
                with pytest.raises(MessageTooLarge):
                    await producer.send_many([bytes(size)])
            with pytest.raises(ValueError, match="empty"):
                await producer.send_many([])
            with pytest.raises(TypeError):
                await producer.send_many([b"0", "text"])
            await producer.flush()
            assert producer.buffered_bytes == 0
            assert (await (await producer.send(b"1"))).offset == 1
        for wrong in (
            {"batch_bytes_max": 0},
            {"buffer_bytes_max": 1},
            {"linger_ms": -1},
            {"max_in_flight": 6},
        ):
            async with made.connect() as other:
                with pytest.raises(ConfigurationError):
                    other.producer("orders", **wrong)

    with world() as made:
        made.run(program(made))
