"""Reading: where it starts, what it survives, what it says while it waits."""

import asyncio
import sys
import traceback

import pytest

from rlog._core import SpanBuilder
from rlog.client import (
    At,
    ClientClosed,
    ClientError,
    Cluster,
    Consumer,
    LeaderUnavailable,
    OffsetOutOfRange,
    RequestRefused,
    UnknownPartition,
)
from rlog.errors import ConfigurationError, CorruptBatch, RlogError, UnsupportedCodec
from rlog.records import Record
from rlog.wire.kafka import codes
from tests.client.fakes import Garble, Hang, Late, Refuse, Reset, Treatment, World, until, world


async def fill(cluster: Cluster, count: int, *, first: int = 0, partition: int = 0, batch: int = 7) -> None:
    async with cluster.producer("orders") as producer:
        for start in range(first, first + count, batch):
            numbers = range(start, min(start + batch, first + count))
            await (await producer.send_many([b"%d" % number for number in numbers], partition=partition))


async def take(consumer: Consumer, count: int) -> list[bytes | None]:
    values: list[bytes | None] = []
    while len(values) < count:
        values += [record.value for record in await consumer.fetch()]
    return values


def numbers(*span: int) -> list[bytes]:
    return [b"%d" % number for number in range(*span)]


@pytest.mark.parametrize(
    ("start", "first"), [("earliest", 0), (0, 0), (10, 10), (29, 29), ("latest", 30), (30, 30)]
)
def test_it_starts_where_it_is_told(start: int | str, first: int) -> None:
    """Offset 10 lies inside a batch."""

    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, 30)
            async with cluster.consumer("orders", partition=0, start=start) as consumer:
                reader = asyncio.create_task(take(consumer, 40 - first))
                await until(lambda: consumer.position() == max(first, 30) or consumer.position() == 30)
                await fill(cluster, 10, first=30)
                assert await reader == numbers(first, 40)
                assert consumer.position() == 40
                (state,) = consumer.state
                assert (state.lag, state.end_offset, state.start_offset) == (0, 40, 0)

    with world() as made:
        made.run(program(made))


def test_the_three_ways_to_read_can_be_mixed() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, 30)
            async with cluster.consumer("orders", partition=0) as consumer:
                got = [(await anext(consumer)).value, (await anext(consumer)).value]
                assert consumer.position() == 2
                got += await consumer.values()
                while len(got) < 30:
                    got += await consumer.values()
                assert got == numbers(30)
                assert await consumer.values(timeout_ms=50) == []
                assert await consumer.fetch(timeout_ms=50) == []

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize(
    "treatment",
    [
        Refuse(codes.NOT_LEADER_OR_FOLLOWER),
        Refuse(codes.OFFSET_NOT_AVAILABLE),
        Refuse(codes.UNKNOWN_LEADER_EPOCH),
        Refuse(codes.FENCED_LEADER_EPOCH),
        Refuse(codes.OFFSET_OUT_OF_RANGE),
        Reset(applied=True),
        Reset(applied=False),
        Late(1.0),
        Garble(),
    ],
    ids=str,
)
@pytest.mark.parametrize("position", range(3))
def test_whatever_hinders_it_skips_and_repeats_nothing(position: int, treatment: Treatment) -> None:
    """An offset refused as out of range though it is not is asked for again."""

    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, 30)
            made.cluster.treat("Fetch", *[Late(0.001)] * position, treatment)
            async with cluster.consumer(
                "orders", partition=0, fetch_bytes_max=300, prefetch_bytes_max=300
            ) as consumer:
                assert await take(consumer, 30) == numbers(30)

    with world() as made:
        made.run(program(made))
        assert not made.cluster.script["Fetch"], "the trouble came"


def test_a_new_leader_is_followed() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, 10)
            async with cluster.consumer("orders", partition=0) as consumer:
                assert await take(consumer, 10) == numbers(10)
                made.cluster.elect(2)
                made.cluster.nodes[1].down()
                await fill(cluster, 10, first=10)
                assert await take(consumer, 10) == numbers(10, 20)

    with world() as made:
        made.run(program(made))


def test_a_frozen_leader_is_left_for_its_successor() -> None:
    async def program(made: World) -> float:
        async with made.connect() as cluster:
            await fill(cluster, 10)
            async with cluster.consumer("orders", partition=0, max_wait_ms=100) as consumer:
                assert await take(consumer, 10) == numbers(10)
                made.cluster.nodes[1].freeze()
                made.cluster.elect(2)
                began = made.loop.time()
                await fill(cluster, 10, first=10)
                assert await take(consumer, 10) == numbers(10, 20)
                return made.loop.time() - began

    with world() as made:
        assert made.run(program(made)) < 2.5
        made.cluster.nodes[1].thaw()


def test_control_batches_are_passed_over() -> None:
    async def program(made: World) -> None:
        log = made.cluster.logs["orders", 0]
        async with made.connect() as cluster:
            await fill(cluster, 3)
            span = SpanBuilder(3, 2)
            span.add_start(0)
            log.batches.append((3, bytes(span.build())))
            log.end_offset = 4
            log.generation = 2
            await fill(cluster, 3, first=4)
            async with cluster.consumer("orders", partition=0) as consumer:
                assert await take(consumer, 6) == [*numbers(3), *numbers(4, 7)]
                assert consumer.position() == 7

    with world() as made:
        made.run(program(made))


def test_an_offset_outside_the_log_is_an_error_that_names_both_ends() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, 10)
            async with cluster.consumer("orders", partition=0, start=11) as consumer:
                with pytest.raises(OffsetOutOfRange) as caught:
                    await consumer.fetch()
                assert (caught.value.offset, caught.value.start_offset, caught.value.end_offset) == (
                    11,
                    0,
                    10,
                )
                consumer.seek(0, "earliest")
                assert await take(consumer, 10) == numbers(10)
                consumer.seek(0, 8)
                assert await take(consumer, 2) == numbers(8, 10)

    with world() as made:
        made.run(program(made))


def test_all_partitions_are_read_though_one_has_no_leader_for_a_while() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            for partition in range(4):
                await fill(cluster, 5, first=10 * partition, partition=partition)
            made.cluster.elect(-1, partition=2)
            made.cluster.elect(3, partition=3)
            async with cluster.consumer("orders") as consumer:
                got = set(await take(consumer, 15))
                assert got == {*numbers(5), *numbers(10, 15), *numbers(30, 35)}
                waiting = {state.partition: state.waiting or "" for state in consumer.state}
                assert "no leader of orders-2" in waiting[2]
                assert "new records" in waiting[3]
                made.cluster.elect(1, partition=2)
                assert await take(consumer, 5) == numbers(20, 25)

    with world(topics={"orders": 4}) as made:
        made.run(program(made))


def test_a_leader_that_is_silent_for_too_long_raises_and_reading_may_go_on() -> None:
    async def program(made: World) -> None:
        async with (
            made.connect() as cluster,
            cluster.consumer("orders", partition=0, stall_timeout_ms=3000) as consumer,
        ):
            assert await consumer.fetch(timeout_ms=4000) == [], "an idle log is no stall"
            made.cluster.elect(-1)
            with pytest.raises(LeaderUnavailable, match="no leader of orders-0"):
                await anext(consumer)
            made.cluster.elect(2)
            await fill(cluster, 3)
            assert await take(consumer, 3) == numbers(3)

    with world() as made:
        made.run(program(made))


def test_a_silent_leader_is_told_about_though_other_partitions_move_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once when it begins to be a stall, once when it ends; between them it raises at each stall timeout."""

    async def program(made: World) -> None:
        async with (
            made.connect() as cluster,
            cluster.consumer("orders", stall_timeout_ms=12_000) as consumer,
        ):
            await consumer.fetch(timeout_ms=1000)
            made.cluster.elect(-1, partition=1)
            raised: list[tuple[int, float]] = []
            for number in range(30):
                await fill(cluster, 1, first=number)
                try:
                    await consumer.fetch(timeout_ms=1000)
                    await asyncio.sleep(1)
                except LeaderUnavailable as error:
                    raised.append((error.partition, made.loop.time()))
            assert [partition for partition, _ in raised] == [1, 1]
            assert 12 <= raised[1][1] - raised[0][1] <= 14
            made.cluster.elect(2, partition=1)
            await until(lambda: "new records" in (consumer.state[1].waiting or ""))
            await asyncio.sleep(1)

    with world(topics={"orders": 2}) as made:
        made.run(program(made))
    told = [message for message in caplog.messages if "leader" in message and "orders-1:" in message]
    assert len(told) == 2
    assert "orders-1: its leader has been silent for 5" in told[0]
    assert "orders-1: its leader answers again, after 29" in told[1]


def test_short_fetches_hide_no_silence() -> None:
    """A program that asks each second hears of it as one that waits does."""

    async def program(made: World) -> None:
        async with (
            made.connect() as cluster,
            cluster.consumer("orders", partition=0, stall_timeout_ms=10_000) as consumer,
        ):
            await consumer.fetch(timeout_ms=1000)
            made.cluster.elect(-1)
            found: list[Record] = []
            for _ in range(9):
                found += await consumer.fetch(timeout_ms=1000)
            with pytest.raises(LeaderUnavailable):
                await consumer.fetch(timeout_ms=3000)
            assert found == []

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize("busy_s", [0.5, 100.0])
def test_a_program_that_was_busy_for_long_blames_no_leader(busy_s: float) -> None:
    """The loop did not run meanwhile: that nothing was heard says nothing about the leader."""

    async def program(made: World) -> None:
        async with (
            made.connect(request_timeout_ms=500_000) as cluster,
            cluster.consumer("orders", partition=0, stall_timeout_ms=2000) as consumer,
        ):
            await consumer.fetch(timeout_ms=1000)
            made.loop._now += busy_s
            assert await consumer.fetch(timeout_ms=1000) == []

    with world() as made:
        made.run(program(made))


def test_its_state_tells_a_frozen_leader_from_an_idle_log() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.consumer("orders", partition=0) as consumer:
            await fill(cluster, 3)
            await take(consumer, 3)
            await asyncio.sleep(10)
            (idle,) = consumer.state
            assert idle.waiting == "new records from n1:9092"
            assert idle.waiting_ms is not None
            assert idle.waiting_ms <= 500, "an idle log's leader answers every max_wait_ms"
            made.cluster.nodes[1].freeze()
            await asyncio.sleep(3)
            (frozen,) = consumer.state
            assert frozen.waiting is not None
            assert frozen.waiting.startswith("new records from n1:9092, silent for ")
            assert frozen.waiting_ms is not None
            assert frozen.waiting_ms >= 2500
            consumer.pause()
            assert [each.waiting_ms for each in consumer.state] == [None]

    with world() as made:
        made.run(program(made))


def test_prefetching_is_bounded() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, 3000, batch=50)
            log = made.cluster.logs["orders", 0]
            batch_bytes_max = max(len(data) for _, data in log.batches)
            async with cluster.consumer("orders", partition=0, prefetch_bytes_max=5000) as consumer:
                await until(lambda: consumer.buffered_bytes > 3000)
                fetches = made.cluster.count("Fetch")
                await asyncio.sleep(5)
                assert made.cluster.count("Fetch") == fetches, "a full consumer asks for nothing"
                assert consumer.buffered_bytes <= 5000 + batch_bytes_max
                assert await take(consumer, 3000) == numbers(3000)

    with world() as made:
        made.run(program(made))


def test_closing_wakes_the_reader_even_when_a_node_hangs() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            consumer = cluster.consumer("orders", partition=0)
            made.cluster.treat("Fetch", Hang())
            reader = asyncio.create_task(anext(consumer))
            await until(lambda: made.cluster.count("Fetch") == 1)
            with pytest.raises(ClientError, match="two tasks"):
                await consumer.fetch()
            await consumer.close()
            await consumer.close()
            with pytest.raises(ClientClosed):
                await reader
            with pytest.raises(ClientClosed):
                await consumer.fetch()

    with world() as made:
        made.run(program(made))


def test_a_cancelled_reader_loses_nothing() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster, cluster.consumer("orders", partition=0) as consumer:
            for round_ in range(20):
                reader = asyncio.create_task(consumer.fetch())
                await asyncio.sleep(0.0002 * round_)
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
                if not reader.cancelled():
                    assert reader.result() == []
            await fill(cluster, 5)
            assert await take(consumer, 5) == numbers(5)

    with world() as made:
        made.run(program(made))


def test_what_makes_no_sense_is_refused() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            for wrong in (
                {"start": "yesterday"},
                {"start": 2**63},
                {"start": At(2**63)},
                {"start": At("1")},
                {"prefetch_bytes_max": 0},
                {"fetch_bytes_max": 2**32},
                {"max_wait_ms": 2**32},
                {"partition": "0"},
                {"partition": ["0"]},
                {"partition": True},
                {"partition": -1},
            ):
                with pytest.raises(ConfigurationError):
                    cluster.consumer("orders", **wrong)
            with pytest.raises(UnknownPartition):
                await cluster.consumer("orders", partition=1).fetch()
            made.cluster.treat("Fetch", Refuse(29))  # TOPIC_AUTHORIZATION_FAILED
            with pytest.raises(RequestRefused):
                await cluster.consumer("orders", partition=0).fetch()

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize("way", ["fetch", "values", "iterate"])
def test_what_could_not_be_decoded_is_fetched_again_not_skipped(way: str) -> None:
    """A batch that was damaged on its way raises, once; reading on goes on where it stood."""

    async def program(made: World) -> None:
        log = made.cluster.logs["orders", 0]
        async with made.connect() as cluster:
            await fill(cluster, 14)
            sound = list(log.batches)
            log.batches[:] = [(base, data[:-1] + bytes([data[-1] ^ 1])) for base, data in sound]
            async with cluster.consumer("orders", partition=0) as consumer:
                with pytest.raises(CorruptBatch):
                    await read(consumer, way)
                assert consumer.position() == 0
                log.batches[:] = sound
                got: list[bytes | None] = []
                while len(got) < 14:
                    got += await read(consumer, way)
                assert got == numbers(14)

    with world() as made:
        made.run(program(made))


async def read(consumer: Consumer, way: str) -> list[bytes | None]:
    if way == "values":
        return await consumer.values()
    if way == "fetch":
        return [record.value for record in await consumer.fetch()]
    return [(await anext(consumer)).value]


def damaged(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("way", ["fetch", "values", "iterate"])
def test_what_lies_around_a_batch_that_cannot_be_read_is_returned(way: str) -> None:
    """The error says which offsets are lost, and where to go on."""

    async def program(made: World) -> None:
        log = made.cluster.logs["orders", 0]
        async with made.connect() as cluster:
            await fill(cluster, 21)
            log.batches[1] = (log.batches[1][0], damaged(log.batches[1][1]))
            async with cluster.consumer("orders", partition=0) as consumer:
                got: list[bytes | None] = []
                while len(got) < 7:
                    got += await read(consumer, way)
                for _ in range(2):
                    with pytest.raises(CorruptBatch, match=r"offsets 7 to 13 of orders-0 .* seek\(0, 14\)"):
                        await read(consumer, way)
                consumer.seek(0, 14)
                while len(got) < 14:
                    got += await read(consumer, way)
                assert got == [*numbers(7), *numbers(14, 21)]

    with world() as made:
        made.run(program(made))


def test_a_batch_in_a_codec_that_is_not_here_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, 7)
            async with cluster.producer("orders", compression="zstd") as producer:
                await (await producer.send_many([bytes(1000)] * 7))
            async with cluster.consumer("orders", partition=0) as consumer:
                assert (await anext(consumer)).value == b"0"  # all that is imported late is here now
                consumer.seek(0, 0)
                monkeypatch.delitem(sys.modules, "cramjam")
                monkeypatch.setattr(sys, "meta_path", [])
                assert await take(consumer, 7) == numbers(7)
                for _ in range(2):
                    with pytest.raises(UnsupportedCodec, match="offsets 7 to 13") as caught:
                        await consumer.fetch()
                    assert caught.value.codec == "zstd"
                monkeypatch.undo()
                assert await take(consumer, 7) == [bytes(1000)] * 7

    with world() as made:
        made.run(program(made))


def test_a_partition_whose_connection_ended_while_nothing_was_asked_is_read_on() -> None:
    """It is paused, its node dies, and meanwhile another partition finds a new leader."""

    async def program(made: World) -> None:
        async with made.connect() as cluster:
            made.cluster.elect(2, partition=1)
            for partition in range(2):
                await fill(cluster, 5, first=10 * partition, partition=partition)
            async with cluster.consumer("orders") as consumer:
                assert set(await take(consumer, 10)) == {*numbers(5), *numbers(10, 15)}
                consumer.pause(0)
                await asyncio.sleep(2)
                made.cluster.nodes[1].down()
                made.cluster.elect(3, partition=0)
                await asyncio.sleep(1)
                consumer.seek(1, 5)
                await asyncio.sleep(1)
                consumer.resume(0)
                await fill(cluster, 5, first=5, partition=0)
                assert await take(consumer, 5) == numbers(5, 10)

    with world(topics={"orders": 2}) as made:
        made.run(program(made))


def test_a_reader_that_was_long_away_is_not_told_of_a_stall() -> None:
    """What was fetched ahead filled its room, so its leader was not even asked."""

    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, 70)
            async with cluster.consumer(
                "orders", partition=0, prefetch_bytes_max=300, stall_timeout_ms=1000
            ) as consumer:
                got = []
                while len(got) < 70:
                    got += await take(consumer, 1)
                    await asyncio.sleep(3)
                assert got == numbers(70)

    with world() as made:
        made.run(program(made))


def test_an_empty_read_undoes_nothing() -> None:
    """`unread` is what an interrupted blocking call does with the records that nobody got."""

    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, 14)
            async with cluster.consumer("orders", partition=0) as consumer:
                await take(consumer, 14)
                assert await consumer.fetch(timeout_ms=50) == []
                consumer.unread()
                assert consumer.position() == 14
                consumer.seek(0, 7)
                assert await take(consumer, 7) == numbers(7, 14)
                consumer.unread()
                assert consumer.position() == 7
                consumer.unread()
                assert await take(consumer, 7) == numbers(7, 14)
                consumer.seek(0, 14)
                assert await consumer.values(timeout_ms=50) == []
                consumer.unread()
                assert consumer.position() == 14

    with world() as made:
        made.run(program(made))


def test_a_seek_is_not_met_by_the_error_of_the_place_before_it() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, 10)
            made.cluster.treat("ListOffsets", Refuse(codes.UNSUPPORTED_VERSION))
            async with cluster.consumer("orders", partition=0, start="latest") as consumer:
                await until(lambda: made.cluster.count("ListOffsets") > 0, step=0.00001)
                consumer.seek(0, 3)
                assert await take(consumer, 7) == numbers(3, 10)

    with world() as made:
        made.run(program(made))


def test_an_error_that_is_raised_again_and_again_does_not_grow() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            lengths = []
            async with cluster.consumer("orders", partition=0, start=100) as consumer:
                for _ in range(20):
                    with pytest.raises(RlogError) as caught:
                        await consumer.fetch()
                    lengths.append(len(traceback.format_exception(caught.value)))
            assert lengths[1] == lengths[-1]

    with world() as made:
        made.run(program(made))
