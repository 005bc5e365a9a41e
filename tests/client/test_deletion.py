"""Deleting the beginnings of partitions: what is asked of whom, what is repeated, what a reader then gets."""

from pathlib import Path
from typing import Any

import pytest

import rlog.sync
from rlog.client import (
    Cluster,
    DeadlineExceeded,
    OffsetOutOfRange,
    RequestRefused,
    UnknownPartition,
    UnsupportedNode,
)
from rlog.errors import ConfigurationError
from rlog.wire.kafka import apis, codes
from tests.client.fakes import Hang, Late, Refuse, Reset, Treatment, World, world
from tests.harness.processes import running_cluster


async def fill(cluster: Cluster, count: int, partition: int = 0) -> None:
    async with cluster.producer("orders") as producer:
        await (await producer.send_many([b"%d" % number for number in range(count)], partition=partition))


def test_each_leader_is_asked_once_for_all_of_its_partitions() -> None:
    async def program(made: World) -> None:
        made.cluster.elect(2, partition=1)
        async with made.connect() as cluster:
            for partition in range(3):
                await fill(cluster, 10, partition)
            before = made.cluster.count("DeleteRecords")
            starts = await cluster.delete_records("orders", {2: 4, 0: "latest", 1: 0})
            assert starts == {2: 4, 0: 10, 1: 0}
            assert list(starts) == [2, 0, 1]
            assert made.cluster.count("DeleteRecords") == before + 2
            assert await cluster.start_offset("orders", 2) == 4

    with world(topics={"orders": 3}) as made:
        made.run(program(made))


@pytest.mark.parametrize(
    "treatment",
    [
        Refuse(codes.NOT_LEADER_OR_FOLLOWER),
        Refuse(codes.OFFSET_NOT_AVAILABLE),
        Refuse(codes.REQUEST_TIMED_OUT),
        Refuse(codes.KAFKA_STORAGE_ERROR),
        Reset(applied=True),
        Reset(applied=False),
        Late(1.0),
        Hang(),
    ],
    ids=str,
)
def test_what_hinders_is_tried_again(treatment: Treatment) -> None:
    """Deleting twice changes nothing, so a lost answer is no reason to give up."""

    async def program(made: World) -> None:
        async with made.connect(request_timeout_ms=3000) as cluster:
            await fill(cluster, 10)
            made.cluster.treat("DeleteRecords", treatment)
            assert await cluster.delete_records("orders", {0: 7}, timeout_ms=20_000) == {0: 7}
            assert made.cluster.logs["orders", 0].start_offset == 7

    with world() as made:
        made.run(program(made))
        assert not made.cluster.script["DeleteRecords"], "the trouble came"


def test_what_cannot_be_deleted_is_refused_with_the_mend() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await fill(cluster, 10)
            with pytest.raises(OffsetOutOfRange, match="below 10 at most, which 'latest'") as raised:
                await cluster.delete_records("orders", {0: 11})
            assert (raised.value.start_offset, raised.value.end_offset) == (0, 10)
            for wrong in (-1, -2, True, "earliest", 1.5, None):
                with pytest.raises(ConfigurationError, match="first record to keep"):
                    await cluster.delete_records("orders", {0: wrong})
            with pytest.raises(UnknownPartition):
                await cluster.delete_records("orders", {3: 0})
            made.cluster.treat("DeleteRecords", Refuse(29))
            with pytest.raises(RequestRefused):
                await cluster.delete_records("orders", {0: 5})
            made.cluster.treat("DeleteRecords", *[Refuse(codes.REQUEST_TIMED_OUT)] * 1000)
            with pytest.raises(DeadlineExceeded) as expired:
                await cluster.delete_records("orders", {0: 5}, timeout_ms=300)
            assert expired.value.outcome == "unknown"
            assert made.cluster.logs["orders", 0].start_offset == 0
            assert await cluster.delete_records("orders", {}) == {}

    with world() as made:
        made.run(program(made))


def test_a_broker_that_cannot_says_so() -> None:
    async def program(made: World) -> None:
        made.cluster.advertised = tuple(api for api in apis.ADVERTISED if api.api_key != apis.DELETE_RECORDS)
        async with made.connect() as cluster:
            with pytest.raises(UnsupportedNode, match="DeleteRecords"):
                await cluster.delete_records("orders", {0: 0})

    with world() as made:
        made.run(program(made))


def read(consumer: rlog.sync.Consumer, count: int) -> list[Any]:
    values: list[Any] = []
    while len(values) < count:
        values += consumer.values()
    return values


def test_on_real_nodes_the_start_moves_and_readers_below_it_are_told(tmp_path: Path) -> None:
    with (
        running_cluster(tmp_path, topics={"orders": 1}) as nodes,
        rlog.sync.connect(nodes.bootstrap) as cluster,
        cluster.producer("orders") as producer,
    ):
        for _ in range(10):
            producer.send_many([b"x"] * 100).result()
        assert cluster.delete_records("orders", {0: 250}) == {0: 250}
        assert cluster.delete_records("orders", {0: 100}) == {0: 250}, "what is gone is gone"
        with pytest.raises(OffsetOutOfRange, match="250 to 1000"):
            cluster.consumer("orders", start=100).fetch()
        with pytest.raises(OffsetOutOfRange):
            cluster.delete_records("orders", {0: 1001})
        with cluster.consumer("orders", start=0, on_out_of_range="earliest") as consumer:
            assert next(consumer).offset == 250
        nodes.kill(*nodes.nodes)
        nodes.start()
        nodes.wait_ready()
        assert cluster.start_offset("orders") == 250, "it survives that all are killed"
        assert cluster.delete_records("orders", {0: "latest"}) == {0: cluster.end_offset("orders")}
        assert producer.send(b"y").result().offset >= 1000
