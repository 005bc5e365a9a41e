"""One fault at a time: what the producer sends again, in which order, and what it reports."""

import asyncio
from typing import Any

import pytest

from rlog.client import (
    Ack,
    ClientClosed,
    Cluster,
    DeadlineExceeded,
    DeliveryFailed,
    MessageTooLarge,
    OutOfOrderSequence,
    Producer,
)
from rlog.wire.kafka import codes
from tests.client.fakes import (
    Forget,
    Garble,
    Hang,
    Late,
    Refuse,
    Reset,
    Treatment,
    World,
    until,
    world,
)

FIRST_ID = 1000  # of the producer ids that the fake cluster gives


async def send_batches(producer: Producer, count: int, first: int = 0) -> list[Ack]:
    """So many batches of one record each: every send has a tick of its own."""
    acks = []
    for number in range(first, first + count):
        acks.append(await producer.send(b"%d" % number))
        await asyncio.sleep(0.0001)
    return acks


async def establish(producer: Producer) -> None:
    """One acknowledged record: from here on five batches are in flight."""
    assert (await (await producer.send(b"first"))).offset == 0


def stored(made: World) -> list[bytes]:
    from rlog._core import decode_values

    return [value for _, data in made.cluster.logs["orders", 0].batches for value in decode_values(data)[0]]


def expected(*numbers: int) -> list[bytes]:
    return [b"first", *(b"%d" % number for number in numbers)]


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize(
    "treatment",
    [
        Refuse(codes.NOT_LEADER_OR_FOLLOWER),
        Refuse(codes.LEADER_NOT_AVAILABLE),
        Refuse(codes.REQUEST_TIMED_OUT),
        Forget(codes.REQUEST_TIMED_OUT),
        Forget(codes.KAFKA_STORAGE_ERROR),
        Reset(applied=True),
        Reset(applied=False),
        Garble(),
        Late(1.0),
    ],
    ids=str,
)
def test_any_failure_at_any_place_in_the_pipe_is_mended(position: int, treatment: Treatment) -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            await establish(producer)
            made.cluster.treat("Produce", *[Late(0.01)] * position, treatment)
            acks = await send_batches(producer, 12)
            offsets = [(await ack).offset for ack in acks]
            assert offsets == list(range(1, 13))

    with world() as made:
        made.run(program(made))
        assert stored(made) == expected(*range(12))
        assert {producer_id for _, producer_id, _, _ in made.cluster.produced} == {FIRST_ID}


def test_after_a_failure_all_in_flight_are_sent_again_in_order() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            await establish(producer)
            made.cluster.treat("Produce", Late(0.05), node=1)
            acks = await send_batches(producer, 8)
            made.cluster.produced.clear()
            made.cluster.elect(2)  # the first of them is in the log, the others are refused
            assert [(await ack).offset for ack in acks] == list(range(1, 9))

    with world() as made:
        made.run(program(made))
        refused = [sequence for node, _, sequence, _ in made.cluster.produced if node == 1]
        again = [sequence for node, _, sequence, _ in made.cluster.produced if node == 2]
        assert refused == [2, 3, 4, 5, 6]
        assert again == [2, 3, 4, 5, 6]
        assert stored(made) == expected(*range(8))


def test_at_most_five_in_flight_and_the_first_alone() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders", batch_bytes_max=100) as producer:
            made.cluster.treat("Produce", Hang())
            acks = await send_batches(producer, 9)
            await until(lambda: made.cluster.count("Produce") > 0)
            await asyncio.sleep(0.2)
            assert made.cluster.count("Produce") == 1, "a successor could overtake the first of a producer id"
            made.cluster.nodes[1].connections[-1].transport.abort()
            await acks[0]
            made.cluster.treat("Produce", Hang())
            before = made.cluster.count("Produce")
            acks += await send_batches(producer, 9)
            await asyncio.sleep(0.2)
            assert made.cluster.count("Produce") <= before + 5 + 1
            for connection in made.cluster.nodes[1].connections:
                connection.transport.abort()
            await asyncio.gather(*acks)

    with world() as made:
        made.run(program(made))
        assert len(stored(made)) == 18


def test_a_successor_never_overtakes_the_first_batch_of_an_id_through_an_election() -> None:
    """A leader that does not know a producer takes any sequence: the first refusal must stop all."""

    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders", batch_bytes_max=100) as producer:
            made.cluster.treat("Produce", Refuse(codes.NOT_LEADER_OR_FOLLOWER))
            acks = await send_batches(producer, 5)
            assert [(await ack).offset for ack in acks] == [0, 1, 2, 3, 4]

    with world() as made:
        made.run(program(made))
        assert stored(made) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_repeated_batch_that_the_leader_knows_is_a_success() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            await establish(producer)
            made.cluster.treat("Produce", Forget(codes.DUPLICATE_SEQUENCE_NUMBER))
            assert (await (await producer.send(b"0"))).offset == -1
            assert (await (await producer.send_many([b"1"]))).spans == ((2, 1),)

    with world() as made:
        made.run(program(made))


# -- giving up


async def give_up(made: World, treatment: Treatment, error: type[DeliveryFailed] = DeliveryFailed) -> Any:
    """Three batches in flight, the first of which fails for good; then two more. Returns the outcomes."""
    outcomes: list[Any] = []
    async with (
        made.connect(request_timeout_ms=1000) as cluster,
        cluster.producer("orders", delivery_timeout_ms=500) as producer,
    ):
        await establish(producer)
        made.cluster.treat("Produce", treatment)
        acks = await send_batches(producer, 3)
        for ack in acks:
            try:
                outcomes.append((await ack).offset)
            except error as failed:
                outcomes.append(failed.outcome)
        later = await send_batches(producer, 2, first=3)
        outcomes += [(await ack).offset for ack in later]
    return outcomes


def test_a_batch_that_hangs_is_unknown_and_the_next_get_a_new_id() -> None:
    with world() as made:
        assert made.run(give_up(made, Hang())) == ["unknown", "unknown", "unknown", 1, 2]
        assert stored(made) == expected(3, 4)
        assert made.cluster.produced[-1][1:] == (FIRST_ID + 1, 0, 2)


def test_a_batch_that_was_applied_too_late_is_unknown_and_not_repeated() -> None:
    with world() as made:
        outcomes = made.run(give_up(made, Late(0.8)))
        assert outcomes[0] == "unknown"
        values = stored(made)
        assert len(values) == len(set(values))
        assert values[-2:] == [b"3", b"4"]


def test_a_refused_batch_fails_alone_and_its_followers_are_sent_under_a_new_id() -> None:
    with world() as made:
        assert made.run(give_up(made, Refuse(codes.MESSAGE_TOO_LARGE))) == ["no", 1, 2, 3, 4]
        assert stored(made) == expected(1, 2, 3, 4)
        ids = [(producer_id, sequence) for _, producer_id, sequence, _ in made.cluster.produced]
        assert ids[-4:] == [(FIRST_ID + 1, sequence) for sequence in range(4)]


def test_an_uncertain_batch_is_never_sent_under_another_id() -> None:
    """0 is refused for good; of 1 an earlier attempt may have arrived: it is unknown, 2 goes on."""

    async def program(made: World) -> list[Any]:
        outcomes: list[Any] = []
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            await establish(producer)
            made.cluster.treat(
                "Produce",
                Refuse(codes.NOT_LEADER_OR_FOLLOWER),
                Refuse(codes.REQUEST_TIMED_OUT),
                Refuse(codes.NOT_LEADER_OR_FOLLOWER),
                Refuse(codes.MESSAGE_TOO_LARGE),
            )
            for ack in await send_batches(producer, 3):
                try:
                    outcomes.append((await ack).offset)
                except DeliveryFailed as error:
                    outcomes.append(error.outcome)
        return outcomes

    with world() as made:
        assert made.run(program(made)) == ["no", "unknown", 1]
        assert stored(made) == expected(2)


def test_a_leader_that_lost_acknowledged_batches_is_reported() -> None:
    with world() as made:
        refused = Refuse(codes.OUT_OF_ORDER_SEQUENCE_NUMBER)
        assert made.run(give_up(made, refused, OutOfOrderSequence)) == ["no", 1, 2, 3, 4]
        assert stored(made) == expected(1, 2, 3, 4)


def test_a_forgotten_idle_producer_goes_on_under_a_new_id() -> None:
    with world() as made:
        assert made.run(give_up(made, Refuse(codes.UNKNOWN_PRODUCER_ID))) == [1, 2, 3, 4, 5]
        assert stored(made) == expected(0, 1, 2, 3, 4)


def test_without_a_leader_records_are_given_up_as_not_written() -> None:
    async def program(made: World) -> str:
        async with made.connect() as cluster:
            producer = cluster.producer("orders", delivery_timeout_ms=700)
            await producer.open()
            made.cluster.elect(-1)
            ack = await producer.send(b"0")
            began = made.loop.time()
            with pytest.raises(DeliveryFailed) as caught:
                await ack
            assert 0.6 < made.loop.time() - began < 0.8
            assert isinstance(caught.value.__cause__, DeadlineExceeded)
            await producer.close()
            return caught.value.outcome

    with world() as made:
        assert made.run(program(made)) == "no"
        assert stored(made) == []


def test_a_producer_that_is_not_idempotent_repeats_only_what_was_not_written() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            producer = cluster.producer("orders", idempotent=False)
            await producer.open()
            made.cluster.treat("Produce", Refuse(codes.NOT_LEADER_OR_FOLLOWER))
            assert (await (await producer.send(b"first"))).offset == 0
            for treatment in (Reset(applied=True), Forget(codes.REQUEST_TIMED_OUT)):
                made.cluster.treat("Produce", treatment)
                with pytest.raises(DeliveryFailed) as caught:
                    await (await producer.send(b"0"))
                assert caught.value.outcome == "unknown"
            await producer.close()

    with world() as made:
        made.run(program(made))
        assert stored(made) == [b"first", b"0", b"0"]
        assert all(producer_id == -1 for _, producer_id, _, _ in made.cluster.produced)


# -- other nodes


def test_a_frozen_leader_is_left_for_its_successor_long_before_the_request_times_out() -> None:
    async def program(made: World) -> float:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            await establish(producer)
            made.cluster.nodes[1].freeze()
            acks = await send_batches(producer, 3)
            made.cluster.elect(2)
            began = made.loop.time()
            assert [(await ack).offset for ack in acks] == [1, 2, 3]
            return made.loop.time() - began

    with world() as made:
        assert made.run(program(made)) < 1.5
        assert stored(made) == expected(0, 1, 2)
        made.cluster.nodes[1].thaw()


def test_a_killed_leader_is_left_at_once() -> None:
    async def program(made: World) -> float:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            await establish(producer)
            made.cluster.nodes[1].down()
            made.cluster.elect(3)
            began = made.loop.time()
            for ack in await send_batches(producer, 3):
                await ack
            return made.loop.time() - began

    with world() as made:
        assert made.run(program(made)) < 0.1
        assert stored(made) == expected(0, 1, 2)


# -- memory, cancelling, the end


def test_memory_is_bounded_and_send_waits() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            producer = cluster.producer("orders", batch_bytes_max=2000, buffer_bytes_max=4000)
            await producer.open()
            made.cluster.treat("Produce", Late(2.0))
            acks, began = [], made.loop.time()
            for _ in range(200):
                acks.append(await producer.send(bytes(100)))
                assert producer.buffered_bytes <= 4000
            assert made.loop.time() - began > 1.9
            receipt = await (await producer.send_many([bytes(100)] * 500))
            assert receipt.count == 500
            await producer.close()
            assert producer.buffered_bytes == 0

    with world() as made:
        made.run(program(made))
        assert len(stored(made)) == 700


def test_send_gives_up_when_memory_stays_full() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            producer = cluster.producer(
                "orders", batch_bytes_max=1000, buffer_bytes_max=1000, delivery_timeout_ms=500
            )
            await producer.open()
            made.cluster.elect(-1)
            sent = [await producer.send(bytes(400)), await producer.send(bytes(400))]
            waiting = [asyncio.create_task(producer.send(bytes(900))) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[1].cancel()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert isinstance(results[1], asyncio.CancelledError)
            assert isinstance(results[2], DeadlineExceeded)
            assert results[2].outcome == "no"
            for ack in [*sent, *(each for each in results if isinstance(each, Ack))]:
                with pytest.raises(DeliveryFailed):
                    await ack
            assert producer.buffered_bytes == 0
            await producer.close()

    with world() as made:
        made.run(program(made))


def test_cancelling_one_waiter_leaves_the_others() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            made.cluster.treat("Produce", Late(0.5))
            ack = await producer.send(b"0")

            async def wait() -> int:
                return (await ack).offset

            waiters = [asyncio.create_task(wait()) for _ in range(3)]
            await asyncio.sleep(0.1)
            waiters[0].cancel()
            results = await asyncio.gather(*waiters, return_exceptions=True)
            assert isinstance(results[0], asyncio.CancelledError)
            assert results[1:] == [0, 0]
            assert (await ack).offset == 0, "an ack may be awaited again"

    with world() as made:
        made.run(program(made))


def test_flush_raises_what_nobody_saw_and_nothing_else() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            producer = cluster.producer("orders")
            await producer.open()
            made.cluster.treat("Produce", Refuse(codes.MESSAGE_TOO_LARGE))
            seen = await producer.send(b"0")
            with pytest.raises(DeliveryFailed) as caught:
                await seen
            assert isinstance(caught.value.__cause__, MessageTooLarge)
            await producer.flush()
            made.cluster.treat("Produce", Refuse(codes.MESSAGE_TOO_LARGE))
            await producer.send(b"1")
            with pytest.raises(DeliveryFailed):
                await producer.flush()
            await producer.flush()
            await producer.close()

    with world() as made:
        made.run(program(made))


async def _enter_and_fail(cluster: Cluster, acks: list[Ack]) -> None:
    async with cluster.producer("orders") as producer:
        acks.append(await producer.send(b"0"))
        await asyncio.sleep(0.1)
        raise KeyError("the body failed")


def test_a_failing_body_is_not_waited_for() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            made.cluster.treat("Produce", Hang())
            began = made.loop.time()
            acks: list[Ack] = []
            with pytest.raises(KeyError):
                await _enter_and_fail(cluster, acks)
            assert made.loop.time() - began < 0.2
            with pytest.raises(DeliveryFailed) as caught:
                await acks[0]
            assert caught.value.outcome == "unknown"

    with world() as made:
        made.run(program(made))


def test_close_returns_although_a_node_hangs() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            producer = cluster.producer("orders", delivery_timeout_ms=800)
            await producer.open()
            made.cluster.treat("Produce", Hang())
            await producer.send(b"0")
            began = made.loop.time()
            with pytest.raises(DeliveryFailed):
                await producer.close()
            assert made.loop.time() - began < 0.9
            with pytest.raises(ClientClosed):
                await producer.send(b"1")

    with world() as made:
        made.run(program(made))


def test_closing_the_cluster_ends_producers_at_once() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            producer = cluster.producer("orders", buffer_bytes_max=2000, batch_bytes_max=2000)
            await producer.open()
            made.cluster.treat("Produce", Hang())
            ack = await producer.send(bytes(1500))
            blocked = asyncio.create_task(producer.send(bytes(1500)))
            await asyncio.sleep(0.1)
        with pytest.raises(DeliveryFailed):
            await ack
        with pytest.raises(ClientClosed):
            await blocked

    with world() as made:
        made.run(program(made))
