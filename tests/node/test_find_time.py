"""The search by time on a node: what a producer may put in its way, and whom it belongs to."""

import gzip
from dataclasses import replace
from pathlib import Path

from rlog.log import format as reference
from rlog.records import Record
from rlog.wire.kafka import codes

from .harness import Cluster, batch, on_uvloop, send

MEBIBYTE = 1 << 20


def at(*times: int) -> bytes:
    """A batch of records with these timestamps."""
    return reference.encode_batch([Record("", 0, 0, 0, time, None, b"v") for time in times])


def bomb(time: int) -> bytes:
    """A small batch that decompresses to more than any reader takes."""
    header = replace(reference.read_header(at(time), 0), attributes=reference.GZIP)
    return reference.seal(header, gzip.compress(bytes(65 * MEBIBYTE), 9))


@on_uvloop
async def test_the_answer_names_the_generation_of_the_record(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        first = (await cluster.leader()).generation
        await send(await cluster.leader(), at(10, 20))
        await cluster.stop()
        await cluster.start()
        leader = await cluster.leader()
        assert leader.generation > first
        await send(leader, at(15, 30))
        assert leader.find_time(15, 0).found == (1, 20, first)
        assert leader.find_time(15, 2).found == (3, 15, leader.generation), "the entry at 2 is no record"
        assert leader.find_time(31, 0) == (codes.NONE, None, leader.hwm)


@on_uvloop
async def test_records_that_nobody_can_read_are_an_error_and_no_harm(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        garbage = reference.seal(
            replace(reference.read_header(at(50), 0), attributes=reference.LZ4), b"?" * 9
        )
        for sent in (at(10), bomb(20), at(30), garbage, at(60)):
            assert (await send(leader, sent)).error == codes.NONE, "a leader opens no batch"
        assert leader.find_time(5, 0).found == (0, 10, leader.generation)
        assert leader.find_time(15, 0).error == codes.INVALID_RECORD, "the bomb may hold it"
        assert leader.find_time(25, 0).found == (2, 30, leader.generation), "its header says that it does not"
        assert leader.find_time(40, 0).error == codes.INVALID_RECORD
        assert leader.find_time(55, 0).found == (4, 60, leader.generation)
        assert leader.serving
        assert (await send(leader, batch([b"still here"]))).error == codes.NONE


@on_uvloop
async def test_rot_found_by_a_search_fences_the_partition(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        await send(await cluster.leader(), at(10))
        await cluster.stop()
        await cluster.start()
        leader = await cluster.leader()
        await cluster.all_hold(leader.end_offset)
        (segment,) = (tmp_path / "1/partitions/orders-0").glob("*.log")
        with segment.open("r+b") as file:
            file.seek(64)
            file.write(b"!")
        assert leader.find_time(0, 0).error == codes.KAFKA_STORAGE_ERROR
        assert not leader.is_leader
