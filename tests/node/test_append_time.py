"""LogAppendTime: the leader's clock stamps every record, and its times never fall."""

from pathlib import Path

import pytest

from rlog._core import decode_records, iterate_batches
from rlog.config import TopicConfig
from rlog.log import format as reference
from rlog.node.partition import Partition
from rlog.wire.kafka import codes

from .harness import TOPIC, Cluster, batch, log_bytes, on_uvloop, send, until

APPEND: dict[str, int | TopicConfig] = {TOPIC: TopicConfig(1, timestamp_type="append")}
NOON_MS = 1_800_000_000_000


class Clock:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.now_ms = NOON_MS

    def __call__(self) -> int:
        return self.now_ms


def times_of(partition: Partition) -> list[int]:
    """The timestamp of each record of one replica's log."""
    return [record.timestamp_ms for record in decode_records(log_bytes(partition, partition.hwm))]


@on_uvloop
async def test_every_record_gets_the_leaders_time_on_every_replica_and_in_the_answer(tmp_path: Path) -> None:
    clock = Clock()
    async with Cluster(tmp_path, topics=APPEND) as cluster:
        await cluster.start(wall_clock_ms=clock)
        leader = await cluster.leader()
        answer = await send(leader, batch([b"a", b"b"]) + batch([b"c"]))
        assert (answer.error, answer.log_append_time) == (codes.NONE, NOON_MS)
        clock.now_ms += 5
        assert (await send(leader, batch([b"d"]))).log_append_time == NOON_MS + 5
        await cluster.all_hold(leader.end_offset)
        for node_id in cluster.nodes:
            assert times_of(cluster.partition(node_id)) == [NOON_MS] * 3 + [NOON_MS + 5]


@on_uvloop
async def test_without_it_the_producers_times_stay(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        assert (await send(leader, batch([b"a"]))).log_append_time == -1
        assert times_of(leader) == [1_700_000_000_000]


@pytest.mark.parametrize("topics", [{TOPIC: 1}, APPEND], ids=["create", "append"])
@on_uvloop
async def test_a_client_cannot_claim_the_leaders_time(
    tmp_path: Path, topics: dict[str, int | TopicConfig]
) -> None:
    async with Cluster(tmp_path, count=1, topics=topics) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        answer = await send(leader, reference.appended_at(batch([b"a"]), NOON_MS))
        assert answer.error == codes.INVALID_TIMESTAMP
        assert "log append time" in answer.message
        assert leader.end_offset == leader.start_offset


@on_uvloop
async def test_a_duplicate_is_answered_with_the_time_of_the_original(tmp_path: Path) -> None:
    clock = Clock()
    async with Cluster(tmp_path, count=1, topics=APPEND) as cluster:
        await cluster.start(wall_clock_ms=clock)
        first = batch([b"a"], producer=(7, 0, 0))
        original = await send(await cluster.leader(), first)
        clock.now_ms += 1000
        again = await send(await cluster.leader(), first)
        assert (again.base_offset, again.log_append_time) == (original.base_offset, NOON_MS)
        await cluster.stop()
        await cluster.start(wall_clock_ms=clock)  # the table is rebuilt from the log
        again = await send(await cluster.leader(), first)
        assert (again.base_offset, again.log_append_time) == (original.base_offset, NOON_MS)


@pytest.mark.parametrize("restarted", [False, True])
@on_uvloop
async def test_a_clock_set_back_does_not_take_the_times_of_a_log_back(
    tmp_path: Path, restarted: bool
) -> None:
    clock = Clock()
    async with Cluster(tmp_path, count=1, topics=APPEND) as cluster:
        await cluster.start(wall_clock_ms=clock)
        await send(await cluster.leader(), batch([b"a"]))
        clock.now_ms -= 3_600_000
        if restarted:
            await cluster.stop()
            await cluster.start(wall_clock_ms=clock)
        leader = await cluster.leader()
        await send(leader, batch([b"b"]))
        clock.now_ms += 3_600_001
        await send(leader, batch([b"c"]))
        times = [info.max_timestamp for info in iterate_batches(log_bytes(leader, leader.hwm))]
        # A restarted leader begins its generation with an entry of its own.
        assert times == [NOON_MS] * (3 if restarted else 2) + [NOON_MS + 1]


@on_uvloop
async def test_times_do_not_fall_where_everything_before_is_deleted(tmp_path: Path) -> None:
    """A replica that has no record left of the last leader's knows its clock from the anchor."""
    clock = Clock()
    async with Cluster(tmp_path, count=1, topics=APPEND) as cluster:
        await cluster.start(wall_clock_ms=clock)
        leader = await cluster.leader()
        await send(leader, batch([b"a"]))
        leader.trim(leader.hwm)
        await until(lambda: leader.log.base_offset == 1 and leader.log.is_clean, "its files are gone")
        await cluster.stop()
        clock.now_ms -= 3_600_000
        await cluster.start(wall_clock_ms=clock)
        leader = await cluster.leader()
        assert leader.start_offset == 1
        assert (await send(leader, batch([b"b"]))).log_append_time == NOON_MS


@on_uvloop
async def test_producers_times_do_not_move_the_leaders_clock(tmp_path: Path) -> None:
    """A topic that becomes one of append times: what its producers wrote before may lie in the future."""
    clock = Clock()
    clock.now_ms = 1_600_000_000_000  # before the batches' own
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start(wall_clock_ms=clock)
        await send(await cluster.leader(), batch([b"a"]))
        await cluster.stop()
        await cluster.start(wall_clock_ms=clock, topics=APPEND)
        answer = await send(await cluster.leader(), batch([b"b"]))
        assert answer.log_append_time == clock.now_ms
