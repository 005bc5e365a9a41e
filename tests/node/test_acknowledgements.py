"""What an acknowledgement waits for, and whom it names: real nodes whose disks are held one by one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rlog._core import Vfs
from rlog.config import TopicConfig
from rlog.node.acknowledgements import Acknowledgements, ProduceResult, Waiter
from rlog.node.partition import Partition
from rlog.observe.counters import PartitionCounters
from rlog.wire.kafka import codes

from .faulty_files import FaultyFiles
from .harness import TOPIC, Cluster, batch, on_uvloop, send, until, values_of

LEADER_IS_ENOUGH = {TOPIC: TopicConfig(1, acks_floor="leader")}


@asynccontextmanager
async def held_disks(cluster: Cluster) -> AsyncIterator[dict[int, FaultyFiles]]:
    """Three nodes, each with files that can be held; one record is everywhere."""
    files = {node_id: FaultyFiles() for node_id in cluster.configs}
    for node_id, faulty in files.items():
        await cluster.start(node_id, vfs=Vfs.of(faulty))
    leader = await cluster.leader()
    assert (await send(leader, batch([b"first"]))).error == codes.NONE
    await cluster.all_hold(1)
    try:
        yield files
    finally:
        for faulty in files.values():
            faulty.release()


def followers_of(leader: Partition) -> list[int]:
    return [voter for voter in leader.voters if voter != leader.leader_id]


@on_uvloop
async def test_an_answer_names_the_generation_and_those_who_flushed(tmp_path):
    async with Cluster(tmp_path) as cluster, held_disks(cluster) as files:
        leader = await cluster.leader()
        fast, slow = followers_of(leader)
        files[slow].held = "orders-0/"
        answer = await send(leader, batch([b"a", b"b"]))
        assert (answer.error, answer.base_offset, answer.waited) == (codes.NONE, 1, "majority")
        assert answer.generation == leader.generation
        assert answer.flushed_by == tuple(sorted([leader.leader_id, fast])), "the third has not flushed it"


@on_uvloop
async def test_a_repeated_batch_is_answered_with_the_generation_that_wrote_it(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        old = await cluster.leader()
        request = batch([b"a"], producer=(7, 0, 0))
        first = await send(old, request)
        await cluster.all_hold(1)
        await cluster.stop(old.leader_id)
        new = await cluster.leader()
        assert new.generation > first.generation
        again = await send(new, request)
        assert (again.error, again.base_offset, again.generation) == (codes.NONE, 0, first.generation)
        assert new.leader_id in again.flushed_by


@on_uvloop
async def test_acks_1_waits_for_the_majority_unless_the_topic_says_otherwise(tmp_path):
    async with Cluster(tmp_path) as cluster, held_disks(cluster) as files:
        leader = await cluster.leader()
        for follower in followers_of(leader):
            files[follower].held = "orders-0/"
        answer = send(leader, batch([b"a"]), acks=1)
        await until(lambda: leader.log.flushed_offset == 2, "the leader flushes")
        assert not answer.done()
        for follower in followers_of(leader):
            files[follower].release()
        assert (await answer).waited == "majority"
        assert leader.leader_acks_count == 0


@on_uvloop
async def test_where_the_leaders_disk_is_enough_consumers_still_wait_for_the_majority(tmp_path):
    """SAFETY 33: an acknowledgement of one disk is no commit."""
    async with Cluster(tmp_path, topics=LEADER_IS_ENOUGH) as cluster, held_disks(cluster) as files:
        leader = await cluster.leader()
        for follower in followers_of(leader):
            files[follower].held = "orders-0/"
        all_of_them = send(leader, batch([b"a"]))
        only_leader = send(leader, batch([b"b"], producer=(7, 0, 0)), acks=1)
        answer = await only_leader
        assert (answer.error, answer.base_offset) == (codes.NONE, 2)
        assert (answer.waited, answer.flushed_by) == ("leader", (leader.leader_id,))
        again = await send(leader, batch([b"b"], producer=(7, 0, 0)), acks=1)
        assert (again.base_offset, again.waited) == (2, "leader")
        assert leader.leader_acks_count == 2
        assert not all_of_them.done()
        assert leader.hwm == 1
        assert leader.read(1, 1 << 20) == (codes.NONE, [], 1)
        for follower in followers_of(leader):
            files[follower].release()
        assert (await all_of_them).waited == "majority"
        await until(lambda: leader.hwm == 3, "all of it is committed in the end")
        assert values_of(leader, 3) == [b"first", b"a", b"b"]


@on_uvloop
async def test_a_majority_that_is_faster_than_the_leaders_disk_is_enough_too(tmp_path):
    async with Cluster(tmp_path, topics=LEADER_IS_ENOUGH) as cluster, held_disks(cluster) as files:
        leader = await cluster.leader()
        files[leader.leader_id].held = "orders-0/"
        answer = await send(leader, batch([b"a"]), acks=1)
        assert (answer.error, answer.waited) == (codes.NONE, "majority")
        assert answer.flushed_by == tuple(followers_of(leader)), "the leader itself has not flushed it"
        assert leader.leader_acks_count == 0


@on_uvloop
async def test_what_no_disk_has_is_unknown_when_leadership_ends(tmp_path):
    """SAFETY 36: also where the leader's disk would have been enough."""
    async with Cluster(tmp_path, topics=LEADER_IS_ENOUGH) as cluster, held_disks(cluster) as files:
        leader = await cluster.leader()
        for faulty in files.values():
            faulty.held = "orders-0/"
        request = batch([b"a"], producer=(7, 0, 0))
        answer = send(leader, request, acks=1)
        late = send(leader, batch([b"b"]), acks=1, timeout_s=0.05)
        assert (await late).error == codes.REQUEST_TIMED_OUT
        again = send(leader, request, acks=1)
        assert not again.done(), "it is in the log, and on no disk"
        assert not answer.done()
        leader.stop("a test ends it")
        assert [(await each).error for each in (answer, again)] == [codes.REQUEST_TIMED_OUT] * 2
        assert leader.leader_acks_count == 0


def test_each_request_names_those_who_have_its_own_last_record() -> None:
    """Whatever order they came in: one that is committed later may be held by fewer."""
    answers: dict[int, ProduceResult] = {}
    waiting = Acknowledgements(PartitionCounters())
    for end_offset in (4, 2, 7, 10):
        waiting.wait(
            end_offset, Waiter(end_offset - 1, 5, -1, "majority", 9.0, put_into(answers, end_offset))
        )
    waiting.answer(hwm=7, leader_flushed=10, flushed={3: 7, 1: 10, 2: 3}, log_start_offset=0)
    assert {end: answer.flushed_by for end, answer in answers.items()} == {2: (1, 2, 3), 4: (1, 3), 7: (1, 3)}
    waiting.answer(hwm=10, leader_flushed=10, flushed={1: 10, 2: 3, 3: 7}, log_start_offset=0)
    assert answers[10].flushed_by == (1,), "no more is claimed than is known"


def put_into(answers: dict[int, ProduceResult], end_offset: int):
    def done(result: ProduceResult) -> None:
        assert end_offset not in answers, "answered once"
        answers[end_offset] = result

    return done
