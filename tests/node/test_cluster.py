"""Three nodes in one process: they elect, commit, fail over, recover, and refuse whom they must."""

import asyncio
import shutil
from errno import ENOSPC

import pytest

from rlog.errors import ConfigurationError, DataDirectoryError, StorageFailed
from rlog.node.node import Node
from rlog.node.process import open_env
from rlog.raft.messages import Heartbeat
from rlog.raft.replica import Replica
from rlog.wire.kafka import codes

from .harness import TOPIC, Cluster, batch, log_bytes, on_uvloop, send, until, values_of


@on_uvloop
async def test_three_nodes_elect_one_leader_and_all_know_it(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        for node_id in cluster.nodes:
            partition = cluster.partition(node_id)
            await until(
                lambda p=partition: p.leader_id == leader.leader_id, f"node {node_id} knows the leader"
            )
            assert partition.is_leader == (partition is leader)
        assert leader.in_sync() == leader.voters == [1, 2, 3]


@on_uvloop
async def test_a_commit_is_the_same_bytes_on_every_replica(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        first, second = send(leader, batch([b"a", b"b"])), send(leader, batch([b"c"]))
        assert [(r.error, r.base_offset) for r in (await first, await second)] == [(0, 0), (0, 2)]
        await cluster.all_hold(3)
        stored = {log_bytes(cluster.partition(n), 3) for n in cluster.nodes}
        assert len(stored) == 1
        assert values_of(leader, 3) == [b"a", b"b", b"c"]
        assert leader.read(1, 1 << 20)[0] == codes.NONE


@on_uvloop
async def test_requests_of_one_tick_share_a_span_and_keep_their_order(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        answers = [send(leader, batch([b"%d" % n])) for n in range(50)]
        assert leader.end_offset == 0, "nothing is appended before the end of the tick"
        assert [(await answer).base_offset for answer in answers] == list(range(50))
        assert values_of(leader, 50) == [b"%d" % n for n in range(50)]


@on_uvloop
async def test_a_follower_that_was_away_catches_up(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        follower = next(n for n in cluster.nodes if n != leader.leader_id)
        assert (await send(leader, batch([b"before"]))).error == 0
        await cluster.stop(follower)
        for n in range(200):
            assert (await send(leader, batch([b"%d" % n, bytes(5000)]))).error == 0
        await cluster.start(follower)
        await cluster.all_hold(401)
        assert log_bytes(cluster.partition(follower), 401) == log_bytes(leader, 401)


@on_uvloop
async def test_when_the_leader_stops_another_one_leads_and_holds_all_that_was_acknowledged(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        values = []
        for round_number in range(3):
            leader = await cluster.leader()
            generation = leader.generation
            values.append(b"round %d" % round_number)
            answer = await send(leader, batch([values[-1]]))
            assert answer.error == 0
            stopped = leader.leader_id
            await cluster.stop(stopped)
            successor = await cluster.leader()
            assert successor.generation > generation
            assert values_of(successor, successor.hwm) == values
            await cluster.start(stopped)


@on_uvloop
async def test_a_restart_of_all_keeps_everything_and_the_generations_grow(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        generation = leader.generation
        assert (await send(leader, batch([b"kept"] * 10))).error == 0
        await cluster.stop()
        await cluster.start()
        leader = await cluster.leader()
        assert leader.generation > generation
        assert values_of(leader, leader.hwm) == [b"kept"] * 10
        assert {node.describe()["incarnation"] for node in cluster.nodes.values()} == {2}


@on_uvloop
async def test_several_partitions_have_a_leader_each(tmp_path):
    async with Cluster(tmp_path, topics={"orders": 5}) as cluster:
        await cluster.start()
        for index in range(5):
            leader = await cluster.leader(index)
            assert (await send(leader, batch([b"to %d" % index]))).error == 0
            await cluster.all_hold(1, index)
            assert values_of(leader, 1) == [b"to %d" % index]


@on_uvloop
async def test_a_single_node_is_a_cluster(tmp_path):
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        assert (await send(leader, batch([b"alone"]))).error == 0


# ----------------------------------------------------------------------------------------------- who is who


@on_uvloop
async def test_the_first_boot_waits_for_all_and_a_later_one_for_a_majority(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start(1, 2)
        for node_id, peer in ((1, 2), (2, 1)):
            link = cluster.nodes[node_id].peers.links[peer]
            await until(lambda link=link: link.is_up, f"node {node_id} talks to node {peer}")
        assert not any(node.identity.confirmed for node in cluster.nodes.values())
        assert not any(cluster.partition(n).has_started for n in (1, 2)), "it could vote"
        await cluster.start(3)
        assert (await send(await cluster.leader(), batch([b"all three"]))).error == 0
        await cluster.stop()
        await cluster.start(2, 3)
        assert values_of(await cluster.leader(), 1) == [b"all three"]


@on_uvloop
async def test_a_wiped_node_is_refused_by_name_and_commits_nothing(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        assert (await send(await cluster.leader(), batch([b"acknowledged"]))).error == 0
        await cluster.stop()
        shutil.rmtree(tmp_path / "2")
        await cluster.start(2, 3)
        error = await cluster.failure_of(2)
        assert isinstance(error, DataDirectoryError)
        assert "node 2 is pinned" in str(error)
        assert not cluster.partition(3).is_leader
        await cluster.stop(2)
        await cluster.start(1)
        leader = await cluster.leader()
        assert values_of(leader, 1) == [b"acknowledged"]


@on_uvloop
async def test_an_old_copy_of_a_data_directory_is_refused(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        await cluster.leader()
        await cluster.stop()
        shutil.copytree(tmp_path / "1", tmp_path / "copy")
        await cluster.start()
        for link in cluster.nodes[1].peers.links.values():
            await until(lambda link=link: link.is_up, f"node 1 talks to node {link.peer}")
        await cluster.stop()
        shutil.rmtree(tmp_path / "1")
        (tmp_path / "copy").rename(tmp_path / "1")
        await cluster.start()
        error = await cluster.failure_of(1)
        assert isinstance(error, DataDirectoryError)
        assert "incarnation 2, but another 2 was seen" in str(error)


@on_uvloop
async def test_a_node_of_another_cluster_is_refused(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start(1, 2)
        await cluster.start(3, cluster_id="other")
        assert "cluster_id differ" in str(await cluster.failure_of(3))


@pytest.mark.parametrize("topics", [{"orders": 2}, {"orders": 1, "more": 1}])
@on_uvloop
async def test_a_node_with_another_topic_table_is_refused_with_the_difference(tmp_path, topics):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        await cluster.leader()
        await cluster.stop(3)
        await cluster.start(3, topics=topics)
        error = await cluster.failure_of(3)
        assert isinstance(error, ConfigurationError)
        assert "topics differ" in str(error)
        leader = await cluster_of(cluster, 1, 2)
        assert (await send(leader, batch([b"the others go on"]))).error == 0


async def cluster_of(cluster: Cluster, *node_ids: int):
    """The leader among these nodes only."""
    for node_id in list(cluster.nodes):
        if node_id not in node_ids:
            await cluster.stop(node_id)
    return await cluster.leader()


@on_uvloop
async def test_one_data_directory_one_node(tmp_path):
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        env = open_env(cluster.configs[1])
        with pytest.raises(DataDirectoryError, match="in use"):
            await Node(cluster.configs[1], env).start()
        env.close()


# ------------------------------------------------------------------------------------------------- producing


@on_uvloop
async def test_a_duplicate_is_answered_with_the_place_of_the_original(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        first, second = batch([b"a", b"b"], producer=(7, 0, 0)), batch([b"c"], producer=(7, 0, 2))
        assert (await send(leader, batch([b"other"]))).base_offset == 0
        # Twice in the same tick, and again later.
        answers = [send(leader, records) for records in (first, second, first, second)]
        assert [(r.error, r.base_offset) for r in [await a for a in answers]] == [
            (0, 1),
            (0, 3),
            (0, 1),
            (0, 3),
        ]
        assert (await send(leader, first)).base_offset == 1
        assert leader.end_offset == 4
        await cluster.stop(leader.leader_id)
        successor = await cluster.leader()
        assert [(await send(successor, records)).base_offset for records in (first, second)] == [1, 3]
        assert values_of(successor, successor.hwm) == [b"other", b"a", b"b", b"c"]


@on_uvloop
async def test_a_gap_in_a_producers_sequence_is_refused(tmp_path):
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        good, gap = batch([b"a"], producer=(7, 0, 0)), batch([b"c"], producer=(7, 0, 2))
        answers = [send(leader, good), send(leader, gap)]
        assert [(await a).error for a in answers] == [codes.NONE, codes.OUT_OF_ORDER_SEQUENCE_NUMBER]
        assert (await send(leader, batch([b"a"], producer=(7, 1, 0)))).error == codes.NONE
        assert (await send(leader, batch([b"b"], producer=(7, 0, 1)))).error == codes.INVALID_PRODUCER_EPOCH


@on_uvloop
async def test_what_is_wrong_with_a_request_is_told(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        corrupt = bytearray(batch([b"a"]))
        corrupt[-1] ^= 1
        assert (await send(leader, bytes(corrupt))).error == codes.CORRUPT_MESSAGE
        assert (await send(leader, b"")).error == codes.CORRUPT_MESSAGE
        follower = next(cluster.partition(n) for n in cluster.nodes if n != leader.leader_id)
        assert (await send(follower, batch([b"a"]))).error == codes.NOT_LEADER_OR_FOLLOWER
        assert follower.read(0, 100)[0] == codes.NOT_LEADER_OR_FOLLOWER
        assert leader.read(1, 100)[0] == codes.OFFSET_OUT_OF_RANGE
        assert leader.read(0, 100) == (codes.NONE, [], 0)
        assert leader.end_offset == 0


@on_uvloop
async def test_a_cut_off_leader_answers_unknown_never_no(tmp_path):
    """SAFETY 36: the record is in its log; whoever leads next may have it."""
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        await cluster.stop(*(n for n in cluster.nodes if n != leader.leader_id))
        slow, quick = send(leader, batch([b"maybe"])), send(leader, batch([b"maybe"]), timeout_s=0.05)
        assert (await quick).error == codes.REQUEST_TIMED_OUT
        assert (await slow).error == codes.REQUEST_TIMED_OUT
        assert not leader.is_leader, "it found itself without a majority"


@on_uvloop
async def test_only_what_was_not_appended_yet_is_told_no(tmp_path):
    """SAFETY 36: a leader deposed in the middle of a tick knows which records no log has."""
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        appended = send(leader, batch([b"maybe"]))
        leader.seal_group()
        grouped = send(leader, batch([b"never"]))
        other = next(n for n in cluster.nodes if n != leader.leader_id)
        leader.step(other, Heartbeat(leader.generation + 1, 0, 0, 0, 1), None)
        assert (await grouped).error == codes.NOT_LEADER_OR_FOLLOWER
        assert (await appended).error == codes.REQUEST_TIMED_OUT
        assert leader.end_offset == 1


@on_uvloop
async def test_readers_wake_when_the_mark_passes_them(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        woken = []
        leader.wait_hwm(0, lambda: woken.append("first"))
        leader.wait_hwm(5, lambda: woken.append("far"))
        leader.wait_hwm(0, lambda: woken.append("cancelled")).cancel()
        assert (await send(leader, batch([b"a"]))).error == 0
        assert woken == ["first"]
        leader.wait_hwm(0, lambda: woken.append("at once"))
        assert woken == ["first", "at once"]
        await cluster.stop(leader.leader_id)
        assert woken == ["first", "at once", "far"]


@on_uvloop
async def test_a_first_boot_that_ends_while_the_node_still_starts_begins_consensus_once(tmp_path):
    """A replica begun anew would take a vote that is not fsynced for a durable one (SAFETY 1)."""
    async with Cluster(tmp_path, count=1) as cluster:
        env = open_env(cluster.configs[1])
        node = cluster.nodes[1] = Node(cluster.configs[1], env)
        begun: list[Replica] = []

        def pin_while_starting(begin=node._begin_consensus):
            begin()
            begun.append(node.partitions[TOPIC, 0].replica)

        node._begin_consensus = pin_while_starting
        assemble = node._assemble

        def assemble_slow_door():
            assemble()
            open_door = node.door.start

            async def start():
                node.identity.start()
                await until(lambda: node.identity.confirmed, "the pins are confirmed")
                await open_door()

            node.door.start = start

        node._assemble = assemble_slow_door
        await node.start()
        assert begun
        assert node.partitions[TOPIC, 0].replica is begun[0]
        assert (await send(await cluster.leader(), batch([b"a"]))).error == codes.NONE


@on_uvloop
async def test_a_disk_that_fails_while_a_duplicate_is_looked_for_ends_both_requests(tmp_path):
    """The open group is sealed for the look; what follows must not be appended by who leads no more."""
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()

        def fail(span):
            raise StorageFailed("no space", errno=ENOSPC)

        leader.log.append = fail
        first, second = batch([b"a"], producer=(7, 0, 0)), batch([b"a"], producer=(7, 0, 0))
        answers = [send(leader, first, timeout_s=1), send(leader, second, timeout_s=1)]
        assert [(await answer).error for answer in answers] == [codes.KAFKA_STORAGE_ERROR] * 2
        assert leader.broken is None


@on_uvloop
async def test_a_node_that_fails_while_it_starts_leaves_nothing_open(tmp_path):
    async with Cluster(tmp_path, count=1) as cluster:
        config = cluster.configs[1]
        env = open_env(config)
        node = cluster.nodes[1] = Node(config, env)
        assemble = node._assemble

        def assemble_door_that_opens_late():
            assemble()
            open_door = node.door.start

            async def start():
                node._fail(ConfigurationError("a peer disagrees"))
                await asyncio.sleep(0)
                await open_door()

            node.door.start = start

        node._assemble = assemble_door_that_opens_late
        await node.start()
        with pytest.raises(ConfigurationError, match="disagrees"):
            await node.wait_closed()
        with pytest.raises(OSError, match="refused"):
            await asyncio.open_connection("127.0.0.1", config.listen_port)
