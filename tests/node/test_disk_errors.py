"""A disk that fails or stands still fences its partition only; meta takes the node (SAFETY 15, 52)."""

from rlog._core import Vfs
from rlog.errors import StorageFailed
from rlog.node.partition import Partition
from rlog.wire.kafka import codes

from .faulty_files import FaultyFiles
from .harness import Cluster, batch, on_uvloop, send, until, values_of


@on_uvloop
async def test_a_failed_fsync_fences_the_partition_and_another_node_leads_it(tmp_path):
    async with Cluster(tmp_path, topics={"orders": 2}) as cluster:
        files = {n: FaultyFiles() for n in (1, 2, 3)}
        for node_id, target in files.items():
            await cluster.start(node_id, vfs=Vfs.of(target))
        leader = await cluster.leader(0)
        assert (await send(leader, batch([b"before"]))).error == 0
        broken = leader.leader_id
        files[broken].failing = "orders-0/"
        answer = await send(leader, batch([b"maybe"]))
        assert answer.error in (codes.NONE, codes.REQUEST_TIMED_OUT), "the others may have committed it"
        await until(lambda: leader.fenced, "the partition is fenced")
        assert files[broken].failures > 0
        assert (await send(leader, batch([b"refused"]))).error == codes.KAFKA_STORAGE_ERROR
        assert leader.read(0, 1000)[0] == codes.KAFKA_STORAGE_ERROR
        assert "orders-0" in leader.describe()["failed"]
        successor = await cluster.leader(0)
        assert successor.leader_id != broken
        assert (await send(successor, batch([b"after"]))).error == 0
        stored = values_of(successor, successor.hwm)
        assert stored[0] == b"before"
        assert stored[-1] == b"after"
        # The other partition of the broken node goes on.
        assert cluster.partition(broken, 1).fenced is None
        other = await cluster.leader(1)
        assert (await send(other, batch([b"untouched"]))).error == 0
        await cluster.all_hold(1, 1)


@on_uvloop
async def test_a_leader_that_lost_one_partition_does_not_keep_it_by_the_heartbeats_of_another(tmp_path):
    """SAFETY 51: heartbeats share frames, but only the partitions that they name have a leader."""
    async with Cluster(tmp_path, topics={"orders": 4}) as cluster:
        files = {n: FaultyFiles() for n in (1, 2, 3)}
        for node_id, target in files.items():
            await cluster.start(node_id, vfs=Vfs.of(target))
        leaders = [(await cluster.leader(index)).leader_id for index in range(4)]
        broken = max(leaders, key=leaders.count)
        lost, kept = [index for index in range(4) if leaders[index] == broken][:2]
        files[broken].failing = f"orders-{lost}/"
        await send(cluster.partition(broken, lost), batch([b"maybe"]))
        await until(lambda: cluster.partition(broken, lost).fenced, "the others may commit it before that")
        successor = await cluster.leader(lost)
        assert successor.leader_id != broken
        assert (await send(successor, batch([b"after"]))).error == 0
        assert cluster.partition(broken, kept).is_leader


@on_uvloop
async def test_a_failed_fsync_is_never_retried(tmp_path):
    """The kernel reports a lost page once; a second fdatasync would succeed and prove nothing (SAFETY 15)."""
    async with Cluster(tmp_path, count=1) as cluster:
        files = FaultyFiles()
        await cluster.start(1, vfs=Vfs.of(files))
        leader = await cluster.leader()
        files.failing = "orders-0/"
        lost = send(leader, batch([b"lost"]))
        assert (await lost).error == codes.REQUEST_TIMED_OUT
        files.failing = None
        assert (await send(leader, batch([b"refused"]))).error == codes.KAFKA_STORAGE_ERROR
        assert leader.hwm == 0
        assert files.failures == 1


@on_uvloop
async def test_a_failed_fsync_of_meta_stops_the_whole_node(tmp_path):
    async with Cluster(tmp_path) as cluster:
        await cluster.start()
        await cluster.leader()
        await cluster.stop(1)
        leader = await cluster.leader()
        files = FaultyFiles()
        await cluster.start(1, vfs=Vfs.of(files))
        await until(lambda: cluster.partition(1).leader_id == leader.leader_id, "node 1 follows")
        files.failing = "meta"
        await cluster.stop(leader.leader_id)  # an election: node 1 saves a vote
        error = await cluster.failure_of(1)
        assert isinstance(error, StorageFailed)
        assert not any(cluster.partition(n).serving for n in cluster.nodes), "two of three are gone"


@on_uvloop
async def test_nothing_is_acknowledged_before_a_majority_has_flushed(tmp_path):
    async with Cluster(tmp_path) as cluster:
        files = {n: FaultyFiles() for n in (1, 2, 3)}
        for node_id, target in files.items():
            await cluster.start(node_id, vfs=Vfs.of(target))
        leader = await cluster.leader()
        assert (await send(leader, batch([b"first"]))).error == 0
        await cluster.all_hold(1)
        for target in files.values():
            target.held = "orders-0/"
        try:
            await flush_one_by_one(cluster, leader, files)
        finally:
            for target in files.values():
                target.release()


async def flush_one_by_one(cluster: Cluster, leader: Partition, files: dict[int, FaultyFiles]) -> None:
    """Every disk is held. Two followers are a majority; the leader's own disk is not needed, and not counted
    before it has flushed (SAFETY 4, 5)."""
    answer = send(leader, batch([b"second"]))
    for node_id in cluster.nodes:
        partition = cluster.partition(node_id)
        await until(lambda p=partition: p.end_offset == 2, f"node {node_id} wrote it")
    first, second = (n for n in cluster.nodes if n != leader.leader_id)
    files[first].release()
    await until(lambda: leader.replica.progress()[first][1] == 2, "one follower has flushed")
    assert not answer.done()
    assert leader.hwm == 1
    files[second].release()
    assert (await answer).base_offset == 1
    assert leader.log.flushed_offset == 1
