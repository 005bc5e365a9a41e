"""Deleting the oldest records of real nodes: by request, by size and by age; and who was away meanwhile."""

import asyncio
from pathlib import Path

import pytest

from rlog._core import Vfs
from rlog.config import TopicConfig
from rlog.errors import ProtocolError
from rlog.log import format as reference
from rlog.log.anchor import Anchor
from rlog.node.deletion import WAITS_COUNT_MAX, DeleteResult
from rlog.node.driver import payload_of
from rlog.node.partition import Partition
from rlog.raft.messages import InstallAnchor
from rlog.records import Record
from rlog.wire.frames import Envelope
from rlog.wire.kafka import codes

from .faulty_files import FaultyFiles
from .harness import DEADLINE_S, TOPIC, Cluster, batch, on_uvloop, send, until, values_of

NOW_MS = 1_700_000_000_000  # the timestamp of harness.batch
SMALL = {"segment_bytes_max": 4096, "tail_bytes_max": 1024, "retention_check_ms": 50}


async def delete(partition: Partition, offset: int, *, timeout_s: float = DEADLINE_S) -> DeleteResult:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[DeleteResult] = loop.create_future()
    partition.delete_records(offset, deadline=loop.time() + timeout_s, done=answer.set_result)
    return await answer


async def fill(leader: Partition, count: int, *, size: int = 100, first: int = 0) -> None:
    """`count` batches of one record each, of about `size` + 70 bytes."""
    answers = [send(leader, batch([b"%d" % n + b"." * size])) for n in range(first, first + count)]
    for answer in answers:
        assert (await answer).error == codes.NONE


def segments(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob(f"partitions/{TOPIC}-0/*.log"))


@on_uvloop
async def test_what_is_deleted_is_gone_on_every_replica_and_after_a_restart(tmp_path):
    """SAFETY 10, 26: the start lies inside what a segment holds; whole segments below it go."""
    async with Cluster(tmp_path, **SMALL) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        for first in range(0, 100, 10):  # rounds, so that segments fill one after the other
            await fill(leader, 10, first=first)
        assert await delete(leader, 77) == DeleteResult(codes.NONE, 77)
        assert leader.read(76, 1 << 20)[0] == codes.OFFSET_OUT_OF_RANGE
        assert leader.read(77, 1 << 20)[0] == codes.NONE
        for node_id in cluster.nodes:
            log = cluster.partition(node_id).log
            await until(lambda log=log: log.start_offset == 77, "every replica has the start")
            await until(lambda log=log: log.base_offset > 40, "segments are deleted")
            await until(lambda log=log: log.is_clean, "their files are unlinked")
            assert segments(tmp_path / str(node_id))[0] == f"{log.base_offset:020}.log"
        await cluster.stop()
        await cluster.start()
        leader = await cluster.leader()
        assert (leader.start_offset, leader.hwm) == (77, leader.end_offset)
        assert leader.read(76, 1 << 20)[0] == codes.OFFSET_OUT_OF_RANGE
        kept = values_of(leader, leader.end_offset)
        assert kept[-1] == b"99" + b"." * 100


@on_uvloop
async def test_everything_may_be_deleted_and_the_log_goes_on(tmp_path):
    async with Cluster(tmp_path, count=1, **SMALL) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        await fill(leader, 30)
        end = leader.hwm
        assert await delete(leader, -1) == DeleteResult(codes.NONE, end)
        await until(lambda: not segments(tmp_path / "1"), "all files are unlinked")
        await cluster.stop()
        await cluster.start()
        leader = await cluster.leader()
        await fill(leader, 1, first=30)
        assert values_of(leader, leader.end_offset) == [b"30" + b"." * 100]
        assert leader.start_offset == end


@on_uvloop
async def test_to_delete_again_what_a_single_node_has_deleted_is_answered_after_a_restart(tmp_path):
    async with Cluster(tmp_path, count=1, **SMALL) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        await fill(leader, 10)
        assert await delete(leader, 5) == DeleteResult(codes.NONE, 5)
        await cluster.stop()
        await cluster.start()
        leader = await cluster.leader()
        assert await delete(leader, 5) == DeleteResult(codes.NONE, 5)


@on_uvloop
async def test_a_deletion_waits_for_a_majority_and_says_why_it_cannot(tmp_path):
    async with Cluster(tmp_path, **SMALL) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        await fill(leader, 10)
        await cluster.all_hold(10)
        others = [n for n in cluster.nodes if cluster.partition(n) is not leader]
        follower = cluster.partition(others[0])
        assert (await delete(follower, 5)).error == codes.NOT_LEADER_OR_FOLLOWER
        assert (await delete(leader, 11)).error == codes.OFFSET_OUT_OF_RANGE
        assert (await delete(leader, -2)).error == codes.OFFSET_OUT_OF_RANGE
        await cluster.stop(*others)
        answer = await delete(leader, 5, timeout_s=0.2)
        assert answer.error in (codes.REQUEST_TIMED_OUT, codes.NOT_LEADER_OR_FOLLOWER)


@on_uvloop
async def test_who_was_away_continues_from_the_anchor_and_still_knows_every_producer(tmp_path):
    """SAFETY 25, 26: the producer table reaches a replica that never saw the records it comes from."""
    async with Cluster(tmp_path, **SMALL) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        away = next(n for n in cluster.nodes if cluster.partition(n) is not leader)
        await cluster.stop(away)
        mine = batch([b"once"], producer=(7, 0, 0))
        first = await send(leader, mine)
        for start in range(0, 100, 10):
            await fill(leader, 10, first=start)
        assert (await delete(leader, 90)).error == codes.NONE
        await until(lambda: leader.log.base_offset > 50, "the leader's segments are deleted")
        await cluster.start(away)
        back = cluster.partition(away)
        await until(lambda: back.hwm == leader.hwm, "it has caught up")
        assert back.log.base_offset > 50
        # It leads, and the retry of a batch that it has only heard of is not appended again.
        await cluster.stop(*[n for n in cluster.nodes if cluster.partition(n) is leader])
        others = [n for n in cluster.nodes if n != away]
        leader = await cluster.leader()
        if leader is not back:
            await cluster.stop(*others)
            await cluster.start(*[n for n in cluster.configs if n not in cluster.nodes])
            leader = await cluster.leader()
        again = await send(leader, mine)
        assert (again.error, again.base_offset) == (codes.NONE, first.base_offset)
        found = back.log.producers.check(7, 0, 0, 1)
        assert getattr(found, "base_offset", None) == first.base_offset


@on_uvloop
async def test_a_damaged_anchor_fences_its_partition_when_it_is_needed_and_no_other(tmp_path):
    async with Cluster(tmp_path, count=1, topics={TOPIC: TopicConfig(2)}, **SMALL) as cluster:
        await cluster.start()
        leader, other = await cluster.leader(0), await cluster.leader(1)
        for first in range(0, 200, 10):
            await fill(leader, 10, first=first)
        assert (await delete(leader, 60)).error == codes.NONE
        await until(lambda: leader.log.base_offset > 0 and leader.log.is_clean, "the first segments are gone")
        for path in tmp_path.glob(f"1/partitions/{TOPIC}-0/*.*"):
            if path.suffix != ".log":
                path.unlink()
        await delete(leader, 190)
        await until(lambda: leader.fenced, "it is fenced")
        assert "anchor" in leader.describe()["failed"]
        assert other.fenced is None
        assert (await send(other, batch([b"untouched"]))).error == codes.NONE


@on_uvloop
async def test_retention_by_size_keeps_about_what_it_says(tmp_path):
    """At least that much, and at most half as much more: each fourth of it gets a segment of its own."""
    topic = TopicConfig(1, retention_bytes=20_000)
    settings = {**SMALL, "segment_bytes_max": 1 << 20, "retention_check_ms": 3_600_000}
    async with Cluster(tmp_path, count=1, topics={TOPIC: topic}, **settings) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        for start in range(0, 1000, 10):
            await fill(leader, 10, first=start)
            leader.apply_retention(topic, 0)
        kept = values_of(leader, leader.end_offset)
        assert kept[-1] == b"999" + b"." * 100
        assert 20_000 <= len(kept) * 175 <= 30_000
        await until(lambda: leader.log.is_clean, "files are unlinked")
        assert len(segments(tmp_path / "1")) <= 6


@on_uvloop
async def test_a_leader_applies_retention_by_itself(tmp_path):
    topics = {TOPIC: TopicConfig(1, retention_bytes=1000)}
    async with Cluster(tmp_path, topics=topics, **SMALL) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        await fill(leader, 100)
        await until(lambda: leader.log._is_segment_ended, "the check ends the segment")
        await fill(leader, 10, first=100)
        for node_id in cluster.nodes:
            log = cluster.partition(node_id).log
            await until(lambda log=log: log.start_offset >= 100, f"node {node_id} deletes")


@on_uvloop
async def test_retention_by_age_goes_by_records_and_does_not_believe_a_clock_that_jumps(tmp_path):
    """The records are of NOW_MS; they may live for a minute."""
    now_ms = NOW_MS
    topics = {TOPIC: TopicConfig(1, retention_ms=60_000)}
    async with Cluster(tmp_path, topics=topics, **SMALL) as cluster:
        await cluster.start(wall_clock_ms=lambda: now_ms)
        leader = await cluster.leader()
        await fill(leader, 20)
        await cluster.all_hold(20)
        now_ms += 365 * 24 * 3600 * 1000
        clock = cluster.nodes[leader.leader_id]._retention_clock
        await until(lambda: clock.doubts, "the jump is noticed")
        assert leader.start_offset == 0
        now_ms = NOW_MS + 61_000  # put right, and a minute later
        for node_id in cluster.nodes:
            log = cluster.partition(node_id).log
            await until(lambda log=log: log.start_offset >= 20, f"node {node_id} deletes")
        assert not clock.doubts


@on_uvloop
async def test_neither_a_restart_nor_a_record_of_the_future_makes_a_wrong_clock_right(tmp_path):
    """The clock is watched across restarts by what the node kept of it, not by what producers wrote."""
    topics = {TOPIC: TopicConfig(1, retention_ms=60_000)}
    async with Cluster(tmp_path, count=1, topics=topics, **SMALL) as cluster:
        await cluster.start(wall_clock_ms=lambda: NOW_MS)
        leader = await cluster.leader()
        await fill(leader, 5)
        future = reference.encode_batch([Record("", 0, 0, 0, 10 * NOW_MS, None, b"from the year 2500")])
        assert (await send(leader, future)).error == codes.NONE
        await cluster.stop()
        readings: list[int] = []

        def a_year_later() -> int:
            readings.append(NOW_MS + 365 * 24 * 3600 * 1000)
            return readings[-1]

        await cluster.start(wall_clock_ms=a_year_later)
        leader = await cluster.leader()
        seen = len(readings)
        await until(lambda: len(readings) > seen + 5, "retention is looked at, with the leader serving")
        assert cluster.nodes[1]._retention_clock.doubts
        assert leader.start_offset == 0


@pytest.mark.parametrize("goes_by_time", [False, True])
@on_uvloop
async def test_a_node_keeps_its_clock_only_for_a_topic_that_goes_by_time(tmp_path, goes_by_time):
    topics = {TOPIC: TopicConfig(1, retention_ms=60_000 if goes_by_time else -1, retention_bytes=1 << 30)}
    minutes = 0

    def ten_minutes_later() -> int:
        nonlocal minutes
        minutes += 10
        return NOW_MS + minutes * 60_000

    clocks = {"wall_clock_ms": ten_minutes_later, "uptime": lambda: ("this start", minutes * 60.0)}
    async with Cluster(tmp_path, count=1, topics=topics, **SMALL) as cluster:
        await cluster.start(**clocks)
        await cluster.leader()
        await until(lambda: minutes > 50, "retention is looked at")
        assert (cluster.nodes[1].storage.meta.state.clock is not None) == goes_by_time


@on_uvloop
async def test_a_node_that_was_down_for_days_deletes_at_once_if_its_machine_was_up(tmp_path):
    """Nothing to doubt: the machine's uptime has grown by as much as the wall clock."""
    days_s = 0.0
    topics = {TOPIC: TopicConfig(1, retention_ms=60_000)}
    clocks = {
        "wall_clock_ms": lambda: NOW_MS + int(days_s * 1000),
        "uptime": lambda: ("this start", 100.0 + days_s),
    }
    async with Cluster(tmp_path, count=1, topics=topics, **SMALL) as cluster:
        await cluster.start(**clocks)
        await fill(await cluster.leader(), 5)
        await cluster.stop()
        days_s = 3 * 24 * 3600.0
        await cluster.start(**clocks)
        leader = await cluster.leader()
        await until(lambda: leader.start_offset >= 5, "what is old goes")
        assert not cluster.nodes[1]._retention_clock.doubts


@on_uvloop
async def test_a_replica_without_room_for_the_anchor_acknowledges_nothing_and_recovers_by_itself(tmp_path):
    """SAFETY 16, 25: nothing is fenced, and it is tried again about each second."""
    async with Cluster(tmp_path, watermark_sync_ms=20, **SMALL) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        away = next(n for n in cluster.nodes if cluster.partition(n) is not leader)
        await cluster.stop(away)
        for start in range(0, 100, 10):
            await fill(leader, 10, first=start)
        assert (await delete(leader, 90)).error == codes.NONE
        await until(lambda: leader.log.base_offset > 50, "the leader's segments are deleted")
        files = FaultyFiles()
        files.full = ".anchor"
        await cluster.start(away, vfs=Vfs.of(files))
        back = cluster.partition(away)
        await until(lambda: files.refusals >= 3, "it tries again and again")
        assert (back.fenced, back.log.flushed_offset) == (None, 0)
        assert leader.replica.progress()[away][1] == 0, "it claims nothing"
        await fill(leader, 1, first=100)
        files.full = None
        await until(lambda: back.log.flushed_offset == leader.hwm, "it has caught up")
        assert (back.fenced, back.log.shortage) == (None, "")


@on_uvloop
async def test_only_so_many_deletions_wait(tmp_path):
    async with Cluster(tmp_path, **SMALL) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        await fill(leader, 10)
        await cluster.stop(*[n for n in cluster.nodes if cluster.partition(n) is not leader])
        answers: list[DeleteResult] = []
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        for _ in range(WAITS_COUNT_MAX):
            leader.delete_records(5, deadline=deadline, done=answers.append)
        assert not answers
        leader.delete_records(6, deadline=deadline, done=answers.append)
        assert answers == [DeleteResult(codes.NOT_ENOUGH_REPLICAS)]
        assert leader.start_offset == 5, "what is refused is not done"
        await until(lambda: len(answers) == WAITS_COUNT_MAX + 1, "the others are answered")


@on_uvloop
async def test_a_search_by_time_ends_at_the_start_that_is_in_force(tmp_path):
    """The followers have flushed and committed what is deleted; the leader's own disk is slow."""
    async with Cluster(tmp_path) as cluster:
        files = {n: FaultyFiles() for n in (1, 2, 3)}
        for node_id, target in files.items():
            await cluster.start(node_id, vfs=Vfs.of(target))
        leader = await cluster.leader()
        await fill(leader, 3)
        mine = files[leader.leader_id]
        mine.held = "orders-0/"
        try:
            await fill(leader, 3, first=3)
            assert await delete(leader, 5) == DeleteResult(codes.NONE, 5)
            assert leader.log.start_offset < 5
            found = leader.find_time(NOW_MS, 0).found
            assert found is not None
            assert found[:2] == (5, NOW_MS)
        finally:
            mine.release()
        await until(lambda: leader.log.start_offset == 5, "its disk has caught up")


def test_an_anchor_with_what_is_no_producer_table_is_refused():
    """Its checksum is right: a peer that sends this is broken, and is not believed."""
    announced = InstallAnchor(3, 10, 2, 0, 10)
    good, bad = Anchor(10, 2, 0), Anchor(10, 2, 0, -1, b"no table")
    assert payload_of(Envelope(0, announced, good.encode())) == good
    with pytest.raises(ProtocolError, match="offset 10: a producer table ends"):
        payload_of(Envelope(0, announced, bad.encode()))
