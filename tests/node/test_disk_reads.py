"""Fetches that memory cannot answer: the loop turns while the disk is read, whatever happens meanwhile."""

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from rlog.errors import ReadFailed
from rlog.log.log import PartitionLog
from rlog.log.reader import DiskRead
from rlog.log.time_search import TimeSearch
from rlog.node import fetch as fetching
from rlog.node.node import Node
from rlog.wire import kafka
from rlog.wire.kafka import codes
from rlog.wire.kafka.messages import (
    FetchedPartition,
    FetchPartition,
    FetchRequest,
    ListedPartition,
    ListOffsetsPartition,
    ListOffsetsRequest,
)
from tests.wire.fakes import FrameClient

from .harness import TOPIC, Cluster, batch, on_uvloop, send, until
from .test_find_time import at, bomb

MIB = 1 << 20
COUNT = 20
# Nothing stays in memory.
ON_DISK = {"tail_bytes_max": 1, "segment_bytes_max": 4096}


@dataclass
class HeldTask:
    is_cancelled: bool = False
    has_begun: bool = False

    def cancel(self) -> bool:
        self.is_cancelled = not self.has_begun
        return self.is_cancelled


class HeldWorker:
    """Does nothing before it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        self.last = HeldTask()

    def submit(
        self, task: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[], None]
    ) -> HeldTask:
        self.waiting.append((task, done))
        self.last = HeldTask()
        return self.last

    def go_on(self) -> None:
        (task, done) = self.waiting.pop()
        done(task())

    def close(self) -> None:
        pass


async def filled(cluster: Cluster) -> Node:
    """A node whose log of COUNT batches is on disk alone."""
    await cluster.start(1)
    leader = await cluster.leader()
    for n in range(COUNT):
        assert (await send(leader, batch([b"%d" % n + b"." * 500]))).error == codes.NONE
    assert leader.log.disk_read(0, bytes_max=1, end_max=COUNT) is not None
    return cluster.nodes[1]


def hold(node: Node, worker: str = "reads") -> HeldWorker:
    held = HeldWorker()
    node.env = replace(node.env, **{worker: held})
    return held


async def client_of(node: Node) -> FrameClient:
    return FrameClient(*await asyncio.open_connection("127.0.0.1", node.door.port))


async def fetch(
    client: FrameClient, offset: int, *, bytes_min: int = 1, bytes_max: int = MIB, max_wait_ms: int = 10_000
) -> FetchedPartition:
    request = FetchRequest(
        max_wait_ms, bytes_min, bytes_max, [(TOPIC, [FetchPartition(0, offset, bytes_max)])]
    )
    answer = kafka.decode_fetch_response(await client.ask(kafka.encode_fetch_request(1, "c", request)))
    [(_, [partition])] = answer.topics
    return partition


def offsets(answer: FetchedPartition) -> list[int]:
    """Base offsets of its batches, of one record each."""
    data = b"".join(map(bytes, answer.records))
    found, position = [], 0
    while position < len(data):
        found.append(int.from_bytes(data[position : position + 8], "big"))
        position += 12 + int.from_bytes(data[position + 8 : position + 12], "big")
    return found


@on_uvloop
async def test_a_disk_that_does_not_answer_holds_up_nobody_else(tmp_path: Path) -> None:
    """SAFETY 43."""
    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        held = hold(node)
        client = await client_of(node)
        waiting = asyncio.ensure_future(fetch(client, 3))
        await until(lambda: held.waiting, "the read is asked for")
        assert (await send(await cluster.leader(), batch([b"more"]))).error == codes.NONE
        assert node.door.answers.used_bytes >= node.config.batch_bytes_max, "room for it is taken"
        held.go_on()
        assert offsets(await waiting)[0] == 3
        await until(lambda: node.door.answers.used_bytes == 0, "the room is given back")
        client.close()


@on_uvloop
async def test_a_consumer_gets_all_of_it_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much it asks for, or wants at the least: what is cut short does not wait for more to come."""
    monkeypatch.setattr(fetching, "DISK_READ_BYTES_MAX", 1200)
    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        client = await client_of(node)
        found: list[int] = []
        while len(found) < COUNT:
            answer = await fetch(client, len(found), bytes_min=1, bytes_max=MIB)
            assert 1 <= len(offsets(answer)) <= 2
            found += offsets(answer)
        assert found == list(range(COUNT))
        async with asyncio.timeout(5):
            assert offsets(await fetch(client, 0, bytes_min=MIB, max_wait_ms=600_000))
        client.close()


@on_uvloop
async def test_what_is_deleted_as_it_is_read_is_not_given_out(tmp_path: Path) -> None:
    """SAFETY 55: not when it was read before its file went, nor after that; and it is no rot."""
    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        leader = await cluster.leader()
        client = await client_of(node)
        held = hold(node)
        waiting = asyncio.ensure_future(fetch(client, 3))
        await until(lambda: held.waiting, "the read is asked for")
        task, done = held.waiting.pop()
        early = task()
        leader.trim(18)
        await until(lambda: leader.log.base_offset > 3 and leader.log.is_clean, "the file is gone")
        assert task() is None
        done(early)
        assert (await waiting).error == codes.OFFSET_OUT_OF_RANGE
        waiting = asyncio.ensure_future(fetch(client, 18))
        await until(lambda: held.waiting, "the read is asked for")
        held.waiting[0] = (lambda: None, held.waiting[0][1])
        held.go_on()
        assert offsets(await waiting)[0] == 18, "the log itself looks again"
        assert leader.serving
        client.close()


@on_uvloop
async def test_who_no_longer_leads_gives_nothing_out(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        client = await client_of(node)
        held = hold(node)
        waiting = asyncio.ensure_future(fetch(client, 3))
        await until(lambda: held.waiting, "the read is asked for")
        (await cluster.leader()).storage_failed("as told")
        held.go_on()
        assert (await waiting).error == codes.KAFKA_STORAGE_ERROR
        client.close()


@on_uvloop
async def test_a_client_that_leaves_as_the_disk_is_read_leaves_nothing(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        client = await client_of(node)
        held = hold(node)
        waiting = asyncio.ensure_future(fetch(client, 3))
        await until(lambda: held.waiting, "the read is asked for")
        client.close()
        await until(lambda: node.door.connection_count == 0, "the connection ends")
        assert held.last.is_cancelled, "nobody reads what nobody wants"
        assert node.door.answers.used_bytes == 0
        with pytest.raises(asyncio.IncompleteReadError):
            await waiting


@on_uvloop
async def test_a_read_under_way_keeps_its_room_when_its_client_leaves(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        client = await client_of(node)
        held = hold(node)
        waiting = asyncio.ensure_future(fetch(client, 3))
        await until(lambda: held.waiting, "the read is asked for")
        held.last.has_begun = True
        client.close()
        await until(lambda: node.door.connection_count == 0, "the connection ends")
        assert node.door.answers.used_bytes >= node.config.batch_bytes_max
        held.go_on()
        assert node.door.answers.used_bytes == 0
        with pytest.raises(asyncio.IncompleteReadError):
            await waiting


@on_uvloop
async def test_a_search_whose_client_leaves_is_not_begun(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        client = await client_of(node)
        held = hold(node, "searches")
        waiting = asyncio.ensure_future(first_at(client, 0))
        await until(lambda: held.waiting, "the search is asked for")
        client.close()
        await until(lambda: node.door.connection_count == 0, "the connection ends")
        assert held.last.is_cancelled
        with pytest.raises(asyncio.IncompleteReadError):
            await waiting


@pytest.mark.parametrize("task_class", [DiskRead, TimeSearch])
@on_uvloop
async def test_a_fault_in_a_task_closes_the_connection_that_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, task_class: type
) -> None:
    """A client that waits for an answer that never comes would wait for ever; the next one is served."""

    def fault(_: object) -> None:
        raise MemoryError("no room for a piece")

    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        ask = fetch if task_class is DiskRead else first_at
        client = await client_of(node)
        with monkeypatch.context() as patch:
            patch.setattr(task_class, "run", fault)
            async with asyncio.timeout(10):
                with pytest.raises(asyncio.IncompleteReadError):
                    await ask(client, 3)
        assert "no room for a piece" in caplog.text
        assert node.counters.clients_closed["internal_error"] == 1
        assert node.door.answers.used_bytes == 0
        again = await client_of(node)
        assert (await ask(again, 3)).error == codes.NONE
        again.close()


@on_uvloop
async def test_rot_that_is_read_elsewhere_fences_the_partition(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        leader = await cluster.leader()
        first = min((tmp_path / f"1/partitions/{TOPIC}-0").glob("*.log"))
        with first.open("r+b") as file:
            file.seek(100)
            file.write(b"!")
        client = await client_of(node)
        assert (await fetch(client, 0)).error == codes.KAFKA_STORAGE_ERROR
        assert leader.log.damage is not None
        assert not leader.is_leader
        client.close()


async def first_at(client: FrameClient, timestamp_ms: int) -> ListedPartition:
    request = ListOffsetsRequest([(TOPIC, [ListOffsetsPartition(0, timestamp_ms)])])
    answer = await client.ask(kafka.encode_list_offsets_request(1, "c", request))
    [(_, [partition])] = kafka.decode_list_offsets_response(answer)
    return partition


@on_uvloop
async def test_a_search_by_time_holds_up_nobody(tmp_path: Path) -> None:
    """Neither where its batch lies on disk, nor where it is a bomb in memory."""
    async with Cluster(tmp_path, count=1, tail_bytes_max=100_000) as cluster:
        await cluster.start(1)
        node, leader = cluster.nodes[1], await cluster.leader()
        await send(leader, at(10, 20))
        for _ in range(3):
            await send(leader, batch([bytes(60_000)]))
        assert leader.log.disk_read(0, bytes_max=1, end_max=2) is not None
        await send(leader, bomb(late := 1_800_000_000_000))
        client = await client_of(node)
        for timestamp_ms, error, offset in ((15, codes.NONE, 1), (late, codes.INVALID_RECORD, -1)):
            held = hold(node, "searches")
            waiting = asyncio.ensure_future(first_at(client, timestamp_ms))
            await until(lambda held=held: held.waiting, "the search is asked for")
            assert (await send(leader, batch([b"more"]))).error == codes.NONE
            held.go_on()
            answer = await waiting
            assert (answer.error, answer.offset) == (error, offset)
        client.close()


@on_uvloop
async def test_a_record_that_is_deleted_as_it_is_found_is_not_named(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        leader = await cluster.leader()
        client = await client_of(node)
        held = hold(node, "searches")
        waiting = asyncio.ensure_future(first_at(client, 0))
        await until(lambda: held.waiting, "the search is asked for")
        task, done = held.waiting.pop()
        found = task()
        leader.trim(5)
        await until(lambda: leader.start_offset == 5, "it is deleted")
        done(found)
        await until(lambda: held.waiting, "the search goes on")
        held.go_on()
        assert (await waiting).offset == 5
        client.close()


@on_uvloop
async def test_a_read_that_the_system_refuses_is_answered_and_fences_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Too many open files are no damage: the consumer asks again, and gets its records later."""

    def refuse(*_: object) -> None:
        raise ReadFailed("offset 3 cannot be read: Too many open files", errno=errno.EMFILE)

    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        leader = await cluster.leader()
        client = await client_of(node)
        with monkeypatch.context() as patch:
            patch.setattr(DiskRead, "run", lambda _: None)
            patch.setattr(leader.log._reader, "_fetch", refuse)
            for _ in range(2):
                assert (await fetch(client, 3)).error == codes.KAFKA_STORAGE_ERROR
        assert (leader.fenced, leader.log.damage) == (None, None)
        assert caplog.text.count("read_failed") == 1
        assert offsets(await fetch(client, 3))[0] == 3
        client.close()


@on_uvloop
async def test_what_does_not_fit_into_an_answer_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAFETY 43: no look at the disk on the loop for what would be thrown away."""
    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)
        client = await client_of(node)

        def read(log: PartitionLog, offset: int, **limits: int) -> list[memoryview]:
            raise AssertionError("read on the loop")

        monkeypatch.setattr(PartitionLog, "read", read)
        asked = [FetchPartition(0, offset, MIB) for offset in (3, 7)]
        request = FetchRequest(0, 1, 1, [(TOPIC, asked)])
        answer = kafka.decode_fetch_response(await client.ask(kafka.encode_fetch_request(1, "c", request)))
        [(_, [first, second])] = answer.topics
        assert offsets(first) == [3]
        assert (second.error, list(second.records)) == (codes.NONE, [])
        client.close()


@on_uvloop
async def test_a_search_that_cannot_be_planned_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, count=1, **ON_DISK) as cluster:
        node = await filled(cluster)

        def disk_read(offset: int, **limits: int) -> DiskRead:
            raise ReadFailed("no descriptors", errno=errno.EMFILE)

        partition = node.partitions[TOPIC, 0]
        monkeypatch.setattr(partition.log, "disk_read", disk_read)
        found = partition.time_search(0, 0)()
        assert found is None
        assert partition.find_time(0, 0, found).found is not None
