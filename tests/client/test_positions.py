"""Where a consumer reads: moments, several partitions, seeking, pausing, offsets that are gone."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from rlog.client import At, ClientError, Cluster, Consumer, OffsetOutOfRange, UnknownPartition
from rlog.errors import ConfigurationError
from rlog.moments import datetime_of, timestamp_of
from rlog.wire.kafka import codes
from tests.client.fakes import Refuse, World, until, world


async def fill(cluster: Cluster, numbers: range, *, partition: int = 0, at: int = 0) -> None:
    """One batch for every five records; record n has the timestamp at + 10 n."""
    async with cluster.producer("orders") as producer:
        for number in numbers:
            ack = await producer.send(b"%d" % number, partition=partition, timestamp_ms=at + 10 * number)
            if number % 5 == 4:
                await ack


async def take(consumer: Consumer, count: int) -> list[int]:
    values: list[int] = []
    while len(values) < count:
        values += [int(value or b"") for value in await consumer.values()]
    return values


@pytest.mark.parametrize(
    ("time", "timestamp_ms"),
    [
        (At(7), 7),
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(1970, 1, 1, 1, 0, 2, tzinfo=timezone(timedelta(hours=1))), 2000),
        (datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC), 1001),
        (datetime(1970, 1, 1, 0, 0, 1, 1000, tzinfo=UTC), 1001),
        (datetime(2262, 4, 11, 23, 47, 16, 854_775, tzinfo=UTC), 9_223_372_036_855),
    ],
)
def test_a_moment_is_rounded_up_so_that_nothing_before_it_is_found(time: Any, timestamp_ms: int) -> None:
    assert timestamp_of(time) == timestamp_ms
    assert timestamp_of(datetime_of(timestamp_ms)) == timestamp_ms


@pytest.mark.parametrize(
    ("time", "mend"),
    [
        (datetime(2026, 1, 1), "astimezone"),
        (datetime(1969, 12, 31, tzinfo=UTC), "'earliest'"),
        (At(-1), "'earliest'"),
        ("yesterday", "aware datetime or At"),
        (1_700_000_000_000, "aware datetime or At"),
    ],
)
def test_what_is_no_moment_is_refused_with_the_mend(time: Any, mend: str) -> None:
    with pytest.raises(ConfigurationError, match=mend):
        timestamp_of(time)


@pytest.mark.parametrize(("time", "offset"), [(0, 0), (95, 10), (100, 10), (101, 11), (290, 29), (291, None)])
def test_a_moment_names_the_first_record_at_or_after_it(time: int, offset: int | None) -> None:
    """Offset 11 lies inside a batch; a moment after the last record is the end, once there is one."""

    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, range(30))
            assert await cluster.offset_at("orders", 0, At(time)) == offset
            assert await cluster.offset_at("orders", 0, datetime_of(time)) == offset
            first = 30 if offset is None else offset
            async with cluster.consumer("orders", start=datetime_of(time)) as consumer:
                await until(lambda: consumer.position() == first)
                await fill(cluster, range(30, 35))
                assert await take(consumer, 35 - first) == list(range(first, 35))

    with world() as made:
        made.run(program(made))


def test_seeking_to_a_moment_goes_back_and_forth() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, range(30))
            await fill(cluster, range(100, 130), partition=1)
            async with cluster.consumer("orders") as consumer:
                await take(consumer, 60)
                consumer.seek_to_time(At(200))
                assert sorted(await take(consumer, 40)) == [*range(20, 30), *range(100, 130)]
                consumer.seek_to_time(At(280), 0)
                assert await take(consumer, 2) == [28, 29]
                consumer.seek(1, At(1290))
                assert await take(consumer, 1) == [129]
                with pytest.raises(UnknownPartition):
                    consumer.seek_to_time(At(0), 2)
                with pytest.raises(ConfigurationError):
                    consumer.seek(0, -1)

    with world(topics={"orders": 2}) as made:
        made.run(program(made))


def test_several_partitions_are_assigned_with_a_start_each() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            for partition in range(4):
                await fill(cluster, range(100 * partition, 100 * partition + 10), partition=partition)
            async with cluster.consumer("orders", partition=[3, 1], start=8) as consumer:
                assert sorted(await take(consumer, 4)) == [108, 109, 308, 309]
                assert [state.partition for state in consumer.state] == [3, 1]
                assert consumer.lag == 0
            starts = {0: "latest", 1: 9, 2: At(2090), 3: "earliest"}
            async with cluster.consumer("orders", start=starts) as consumer:
                assert sorted(await take(consumer, 12)) == [109, 209, *range(300, 310)]
            for partition, start in (([0, 1], {0: 1}), ([], 0), ([1, 1], 0), (None, {}), (0, {0: "soon"})):
                with pytest.raises(ConfigurationError):
                    cluster.consumer("orders", partition=partition, start=start)
            with pytest.raises(UnknownPartition):
                await cluster.consumer("orders", partition=(0, 4)).open()

    with world(topics={"orders": 4}) as made:
        made.run(program(made))


def test_a_paused_partition_is_neither_returned_nor_fetched_nor_lost() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, range(20))
            await fill(cluster, range(100, 120), partition=1)
            async with cluster.consumer("orders", stall_timeout_ms=2000, max_wait_ms=100) as consumer:
                await until(lambda: [state.waiting for state in consumer.state] == [None, None])
                consumer.pause(1)
                assert await take(consumer, 20) == list(range(20))
                made.cluster.elect(-1, partition=1)
                assert await consumer.fetch(timeout_ms=5000) == [], "a paused partition does not stall"
                assert [state.waiting for state in consumer.state][1] == "paused; resume() reads on"
                assert consumer.lag == 20
                made.cluster.elect(2, partition=1)
                consumer.resume(1)
                assert await take(consumer, 20) == list(range(100, 120))
                consumer.pause()
                await fill(cluster, range(20, 25))
                assert await consumer.values(timeout_ms=300) == []
                with pytest.raises(ClientError, match="every partition is paused"):
                    await anext(consumer)
                consumer.resume()
                assert await take(consumer, 5) == list(range(20, 25))

    with world(topics={"orders": 2}) as made:
        made.run(program(made))


def test_pausing_in_the_middle_of_what_was_decoded_loses_nothing() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, range(30))
            async with cluster.consumer("orders") as consumer:
                got = [(await anext(consumer)).offset for _ in range(7)]
                consumer.pause(0)
                assert consumer.position() == 7
                assert await consumer.fetch(timeout_ms=100) == []
                for _ in range(3):
                    consumer.resume()
                    consumer.pause()
                consumer.resume()
                got += [(await anext(consumer)).offset for _ in range(23)]
                assert got == list(range(30))

    with world() as made:
        made.run(program(made))


def cut(made: World, start_offset: int) -> None:
    """What retention does: the log starts later."""
    log = made.cluster.logs["orders", 0]
    log.start_offset = start_offset
    log.batches = [(base, data) for base, data in log.batches if base >= start_offset]


def test_a_reader_below_the_start_gets_an_error_that_names_it_and_the_mend() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, range(30))
            cut(made, 20)
            async with cluster.consumer("orders", start=3) as consumer:
                with pytest.raises(OffsetOutOfRange, match=r"holds 20 to 30: .*retention.*'earliest'"):
                    await consumer.values()
                with pytest.raises(OffsetOutOfRange) as caught:
                    await anext(consumer)
                assert (caught.value.start_offset, caught.value.end_offset) == (20, 30)
                consumer.seek(0, caught.value.start_offset)
                assert await take(consumer, 10) == list(range(20, 30))

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize(("policy", "first"), [("earliest", 20), ("latest", 30)])
@pytest.mark.parametrize("start", [3, 40])
def test_a_policy_reads_on_and_says_so(
    policy: str, first: int, start: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, range(30))
            cut(made, 20)
            async with cluster.consumer("orders", start=start, on_out_of_range=policy) as consumer:
                await until(lambda: consumer.position() == first)
                await fill(cluster, range(30, 35))
                assert await take(consumer, 35 - first) == list(range(first, 35))

    with caplog.at_level(logging.WARNING, logger="rlog.client"), world() as made:
        made.run(program(made))
    (line,) = caplog.messages
    assert f"offset {start} of orders-0" in line
    assert line.endswith(f"Reading goes on at {first}.")


def test_its_state_says_where_it_stands_and_when_it_last_moved() -> None:
    async def program(made: World) -> None:
        async with made.connect(wall_clock_ms=lambda: int(made.loop.time() * 1000)) as cluster:
            consumer = cluster.consumer("orders")
            assert (consumer.state, consumer.lag, consumer.last_progress) == ((), None, None)
            await fill(cluster, range(10))
            await consumer.open()
            await until(lambda: consumer.lag == 10)
            await asyncio.sleep(1.0)
            assert consumer.last_progress is None
            await consumer.values()
            moved = consumer.last_progress
            assert moved is not None
            assert 1.0 < moved.timestamp() <= made.loop.time()
            assert consumer.lag == 0
            await consumer.values(timeout_ms=100)
            assert consumer.last_progress == moved
            await consumer.close()

    with world() as made:
        made.run(program(made))


def test_the_offsets_of_a_topic_cost_two_questions_per_leader() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            for partition in range(6):
                made.cluster.elect(1 + partition % 2, partition=partition)
                await fill(cluster, range(partition), partition=partition)
            before = made.cluster.count("ListOffsets")
            assert await cluster.offsets("orders") == {each: (0, each) for each in range(6)}
            assert made.cluster.count("ListOffsets") == before + 4
            made.cluster.treat("ListOffsets", Refuse(codes.NOT_LEADER_OR_FOLLOWER))
            assert (await cluster.offsets("orders"))[5].end == 5
            topics = await cluster.topics()
            assert [info.leader for info in topics["orders"]] == [1, 2, 1, 2, 1, 2]

    with world(topics={"orders": 6}) as made:
        made.run(program(made))
