"""A producer at its edges: what it is given, what it forgets, who waits for it, what fails inside."""

import asyncio
import threading
import traceback
from typing import Any

import pytest

import rlog
from rlog.client import ClientClosed, DeliveryFailed, WrongLoop
from rlog.client.batch import Batch
from rlog.client.producer import FAILURES_MAX
from rlog.errors import ConfigurationError
from rlog.wire.kafka import codes
from tests.client.fakes import Hang, Late, Refuse, World, until, world

INVALID_RECORD = 87


def test_failures_that_were_seen_make_room_for_those_that_were_not() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            producer = cluster.producer("orders")
            await producer.open()
            for _ in range(FAILURES_MAX + 5):
                made.cluster.treat("Produce", Refuse(INVALID_RECORD))
                with pytest.raises(DeliveryFailed):
                    await (await producer.send(b"seen"))
            made.cluster.treat("Produce", Refuse(INVALID_RECORD))
            await producer.send(b"nobody looks")
            with pytest.raises(DeliveryFailed):
                await producer.close()

    with world() as made:
        made.run(program(made))


def test_a_batch_that_cannot_be_built_fails_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close = Batch.close

    def fail(self: Batch, *arguments: Any) -> None:
        monkeypatch.setattr(Batch, "close", close)
        raise MemoryError

    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            monkeypatch.setattr(Batch, "close", fail)
            lost = await producer.send(b"lost")
            with pytest.raises(DeliveryFailed, match="MemoryError") as caught:
                await lost
            assert (caught.value.outcome, producer.buffered_bytes) == ("no", 0)
            assert isinstance(caught.value.__cause__, MemoryError)
            assert (await (await producer.send(b"next"))).offset == 0

    with world() as made:
        made.run(program(made))
    assert "could not be built" in caplog.text


def test_a_batch_lingers_though_a_flush_found_nothing_before_it() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders", linger_ms=1000) as producer:
            await producer.send(b"0")
            await producer.flush()
            made.cluster.treat("Produce", Late(0.2))
            await producer.send(b"1")
            flushes = [asyncio.create_task(producer.flush()) for _ in range(2)]
            await asyncio.sleep(0.01)
            began = made.loop.time()
            await (await producer.send(b"2"))
            assert made.loop.time() - began >= 1
            await asyncio.gather(*flushes)

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize("request_kind", ["InitProducerId", "Metadata"])
def test_a_producer_closed_while_it_opens_stays_closed(request_kind: str) -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            made.cluster.treat(request_kind, Late(0.2))
            producer = cluster.producer("orders")
            opening = asyncio.create_task(producer.open())
            await asyncio.sleep(0.1)
            await producer.close()
            with pytest.raises(ClientClosed):
                await opening
            assert (producer.is_open, producer.is_closed) == (False, True)

    with world() as made:
        made.run(program(made))


def test_headers_may_come_from_an_iterator_and_must_be_headers() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            async with cluster.producer("orders") as producer:
                await producer.send(b"x", headers=zip(["a"], [b"1"], strict=True))
                for wrong in ([(b"a", b"1")], [("a", 1)], [("a", "1")]):
                    with pytest.raises(TypeError, match="headers"):
                        await producer.send(b"x", headers=wrong)
            async with cluster.consumer("orders", partition=0) as consumer:
                assert [record.headers for record in await consumer.fetch()] == [(("a", b"1"),)]

    with world() as made:
        made.run(program(made))


def test_who_waits_no_longer_is_forgotten() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            made.cluster.treat("Produce", Late(1.0))
            ack = await producer.send(b"x")
            for _ in range(100):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await ack
            assert not ack._batch.waiters
            assert (await ack).offset == 0

    with world() as made:
        made.run(program(made))


def test_an_ack_is_not_waited_for_in_another_loop() -> None:
    """Nobody would wake the waiter there."""
    errors: list[BaseException] = []

    async def wait(ack: rlog.client.Ack) -> None:
        await ack

    def elsewhere(ack: rlog.client.Ack) -> None:
        try:
            asyncio.run(wait(ack))
        except WrongLoop as error:
            errors.append(error)

    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            made.cluster.treat("Produce", Late(1.0))
            ack = await producer.send(b"x")
            thread = threading.Thread(target=elsewhere, args=(ack,))
            thread.start()
            thread.join()
            assert (await ack).offset == 0

    with world() as made:
        made.run(program(made))
    assert len(errors) == 1


def test_the_error_of_many_records_does_not_grow() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.producer("orders") as producer:
            made.cluster.treat("Produce", Refuse(INVALID_RECORD))
            lengths = []
            for ack in [await producer.send(b"x") for _ in range(30)]:
                with pytest.raises(DeliveryFailed) as caught:
                    await ack
                lengths.append(len(traceback.format_exception(caught.value)))
            assert lengths[1] == lengths[-1]

    with world() as made:
        made.run(program(made))


def test_what_is_sent_again_is_given_up_in_the_order_of_its_time() -> None:
    """Of two batches one waits for a new producer id, and the later one for its answer."""

    async def program(made: World) -> None:
        async with made.connect() as cluster:
            producer = cluster.producer("orders", delivery_timeout_ms=30_000)
            await producer.open()
            await (await producer.send(b"first"))
            made.cluster.treat("Produce", Refuse(codes.UNKNOWN_PRODUCER_ID), Hang())
            for value in (b"1", b"2"):
                await producer.send(value)
                await asyncio.sleep(0)
            (queue,) = producer._queues.values()
            await until(lambda: len(queue._requeued) == 1)
            assert [batch.number for batch in queue.unresolved()] == [2, 3]
            producer.abandon()

    with world() as made:
        made.run(program(made))


def test_numbers_that_make_no_sense_are_refused() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            for wrong in (
                {"linger_ms": "1"},
                {"linger_ms": 2**31},
                {"batch_bytes_max": "5"},
                {"batch_bytes_max": 67},
                {"batch_bytes_max": 64 * 1024 * 1024 + 1, "buffer_bytes_max": 1 << 30},
                {"buffer_bytes_max": "5"},
                {"delivery_timeout_ms": 1.5},
                {"delivery_timeout_ms": 2**32},
                {"max_in_flight": True},
            ):
                with pytest.raises(ConfigurationError, match=next(iter(wrong))):
                    cluster.producer("orders", **wrong)
            async with cluster.producer("orders", batch_bytes_max=68) as producer:
                assert (await (await producer.send_many([b""]))).first_offset == 0
        for name in ("request_timeout_ms", "suspect_after_ms"):
            with pytest.raises(ConfigurationError, match=name):
                rlog.connect("n1", **{name: 2**32})

    with world() as made:
        made.run(program(made))
