"""One partition's door: requests of several batches, overload, deadlines."""

from rlog._core import Vfs
from rlog.wire.kafka import codes

from .faulty_files import FaultyFiles
from .harness import Cluster, batch, on_uvloop, send, until, values_of


@on_uvloop
async def test_a_request_of_several_batches_is_one_answer(tmp_path):
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        assert (await send(leader, batch([b"first"]))).base_offset == 0
        request = batch([b"a", b"b"], producer=(7, 0, 0)) + batch([b"c"], producer=(7, 0, 2))
        for _ in range(2):
            answer = await send(leader, request)
            assert (answer.error, answer.base_offset) == (codes.NONE, 1)
        assert values_of(leader, leader.hwm) == [b"first", b"a", b"b", b"c"]


@on_uvloop
async def test_batches_of_a_request_that_do_not_follow_each_other_are_refused_whole(tmp_path):
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        first = batch([b"a"], producer=(7, 0, 0))
        for second in (batch([b"c"], producer=(7, 0, 2)), batch([b"c"], producer=(8, 0, 1)), batch([b"c"])):
            answer = await send(leader, first + second)
            assert answer.error == codes.OUT_OF_ORDER_SEQUENCE_NUMBER
        # Nothing of them was appended, nor remembered.
        assert (await send(leader, first)).base_offset == 0
        half = await send(leader, first + batch([b"b"], producer=(7, 0, 1)))
        assert half.error == codes.OUT_OF_ORDER_SEQUENCE_NUMBER, "one part is in the log, the other is not"


@on_uvloop
async def test_sequences_wrap(tmp_path):
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        last = 2**31 - 1
        answers = [
            send(leader, batch([b"a"], producer=(7, 0, last))),
            send(leader, batch([b"b"], producer=(7, 0, 0))),
        ]
        assert [(await answer).error for answer in answers] == [codes.NONE, codes.NONE]


@on_uvloop
async def test_a_partition_whose_disk_stands_still_pushes_back_and_recovers(tmp_path):
    limits = {"batch_bytes_max": 100_000, "queued_bytes_max": 200_000}
    async with Cluster(tmp_path, count=1, **limits) as cluster:
        files = FaultyFiles()
        await cluster.start(1, vfs=Vfs.of(files))
        leader = await cluster.leader()
        assert (await send(leader, batch([b"first"]))).error == 0
        files.held = "orders-0/"
        try:
            taken = [send(leader, batch([bytes(90_000)])) for _ in range(3)]
            refused = await send(leader, batch([bytes(90_000)]))
            assert refused.error == codes.NOT_ENOUGH_REPLICAS
            assert "wait for the disk" in refused.message
        finally:
            files.release()
        assert [(await answer).error for answer in taken] == [codes.NONE] * 3
        assert (await send(leader, batch([bytes(90_000)]))).error == codes.NONE


@on_uvloop
async def test_deadlines_are_kept_in_any_order_and_late_commits_answer_nobody_twice(tmp_path):
    async with Cluster(tmp_path, count=1) as cluster:
        files = FaultyFiles()
        await cluster.start(1, vfs=Vfs.of(files))
        leader = await cluster.leader()
        files.held = "orders-0/"
        try:
            late = send(leader, batch([b"a"]), timeout_s=30)
            soon = send(leader, batch([b"b"]), timeout_s=0.1)
            sooner = send(leader, batch([b"c"]), timeout_s=0.05)
            assert (await sooner).error == codes.REQUEST_TIMED_OUT
            assert (await soon).error == codes.REQUEST_TIMED_OUT
            assert not late.done()
        finally:
            files.release()
        assert (await late).error == codes.NONE
        await until(lambda: leader.hwm == 3, "the late ones are committed all the same")
        assert values_of(leader, 3) == [b"a", b"b", b"c"]
