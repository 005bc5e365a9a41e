"""ListOffsets at the client door: bounds, times, and a long search that holds nobody up."""

import asyncio
from collections.abc import Callable

import pytest

from rlog.log import format as reference
from rlog.node.serving import TimeAnswer
from rlog.records import Record
from rlog.wire import kafka
from rlog.wire.kafka import codes
from rlog.wire.kafka.messages import ListedPartition, ListOffsetsPartition, ListOffsetsRequest
from tests.wire.fakes import Door, FakeNode, FakePartition, FakeTask, FakeWorker, run, until


@pytest.mark.parametrize(
    ("changes", "timestamp", "generation", "error", "offset"),
    [
        ({}, kafka.EARLIEST, 5, codes.NONE, 3),
        ({}, kafka.LATEST, -1, codes.NONE, 8),
        ({}, 1_700_000_000_000, 4, codes.FENCED_LEADER_EPOCH, -1),
        ({"is_leader": False, "serving": False}, 0, -1, codes.NOT_LEADER_OR_FOLLOWER, -1),
        ({"serving": False}, 0, -1, codes.OFFSET_NOT_AVAILABLE, -1),
        ({}, -3, -1, codes.UNSUPPORTED_VERSION, -1),
        ({}, kafka.LATEST, 4, codes.FENCED_LEADER_EPOCH, -1),
        ({}, kafka.LATEST, 6, codes.UNKNOWN_LEADER_EPOCH, -1),
        ({"is_leader": False, "serving": False}, kafka.LATEST, -1, codes.NOT_LEADER_OR_FOLLOWER, -1),
        ({"serving": False}, kafka.LATEST, -1, codes.OFFSET_NOT_AVAILABLE, -1),
    ],
)
def test_list_offsets(changes: dict, timestamp: int, generation: int, error: int, offset: int) -> None:
    async def main() -> None:
        node = FakeNode()
        node.partitions["t", 0] = FakePartition(start_offset=3, hwm=8, end_offset=9)
        for name, value in changes.items():
            setattr(node.partitions["t", 0], name, value)
        async with Door(node) as door:
            client = await door.client()
            parts = [ListOffsetsPartition(0, timestamp, generation), ListOffsetsPartition(9, timestamp)]
            request = ListOffsetsRequest([("t", parts)])
            answer = await client.ask(kafka.encode_list_offsets_request(1, "c", request))
            assert kafka.decode_list_offsets_response(answer) == [
                (
                    "t",
                    [
                        ListedPartition(0, error, -1, offset, 5 if error == 0 else -1),
                        ListedPartition(9, codes.UNKNOWN_TOPIC_OR_PARTITION),
                    ],
                )
            ]

    run(main())


def test_list_offsets_version_0_is_refused_in_its_own_encoding() -> None:
    async def main() -> None:
        async with Door(FakeNode()) as door:
            client = await door.client()
            header = b"\0\2\0\0\0\0\0\x09\xff\xff"
            body = b"\xff\xff\xff\xff" + b"\0\0\0\1\0\1t\0\0\0\1" + bytes(4) + b"\xff" * 8 + b"\0\0\0\1"
            answer = await client.ask([(len(header) + len(body)).to_bytes(4, "big"), header, body])
            assert answer == b"\0\0\0\x09" + b"\0\0\0\1\0\1t\0\0\0\1" + bytes(4) + b"\0\x23" + bytes(4)

    run(main())


def asking(times: dict[int, int], version: int = 4) -> list[object]:
    """A ListOffsets request: partition of "t" to timestamp."""
    parts = [ListOffsetsPartition(index, timestamp) for index, timestamp in times.items()]
    request = ListOffsetsRequest([("t", parts)])
    return list(kafka.encode_list_offsets_request(1, "c", request, version=version))


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_time_is_answered_with_the_first_record_that_late(version: int) -> None:
    async def main() -> None:
        node = FakeNode()
        for times in ([1, 9], [3, 4]):
            records = [Record("", 0, 0, 0, time, None, b"v") for time in times]
            for index in (0, 1):
                node.partitions["t", index].append(reference.encode_batch(records), 2)
        node.partitions["t", 0].hwm = 4
        node.partitions["t", 1].hwm = 2
        async with Door(node) as door:
            client = await door.client()
            generation = 5 if version == 4 else -1
            for asked, first, second in [(2, (9, 1), (9, 1)), (10, (-1, -1), (-1, -1))]:
                frame = await client.ask(asking({0: asked, 1: asked}, version))
                expected = [
                    ListedPartition(index, codes.NONE, *found, generation if found[1] >= 0 else -1)
                    for index, found in ((0, first), (1, second))
                ]
                assert kafka.decode_list_offsets_response(frame, version) == [("t", expected)]

    run(main())


class Endless(FakePartition):
    """Its headers promise more than its records keep: the search goes on and on."""

    steps = 0

    def find_time(self, timestamp_ms: int, start: int, found: object = None) -> TimeAnswer:
        self.steps += 1
        return TimeAnswer(codes.NONE, None, start + 1)


def test_a_long_search_holds_nobody_up_and_ends_with_its_connection() -> None:
    async def main() -> None:
        node = FakeNode()
        partition = node.partitions["t", 0] = Endless(hwm=1 << 60)
        async with Door(node) as door:
            searching, other = await door.client(), await door.client()
            searching.send(asking({0: 5}))
            await until(lambda: partition.steps > 10)
            await asyncio.wait_for(other.ask(asking({0: kafka.LATEST})), 5)
            searching.close()
            await until(lambda: door.server.connection_count == 1)
            steps = partition.steps
            await other.ask(asking({0: kafka.LATEST}))
            assert partition.steps == steps

    run(main())


class Counting(FakeWorker):
    """How many tasks it had at once, at most."""

    count = count_max = 0

    def submit(
        self, task: Callable[[], object], done: Callable[[object], None], failed: Callable[[], None]
    ) -> FakeTask:
        def finished(result: object) -> None:
            self.count -= 1
            done(result)

        self.count += 1
        self.count_max = max(self.count, self.count_max)
        return super().submit(task, finished, failed)


def test_a_connection_has_one_search_under_way_and_all_are_answered() -> None:
    async def main() -> None:
        node = FakeNode()
        worker = node.env.searches = Counting()
        records = [Record("", 0, 0, 0, 7, None, b"v")]
        node.partitions["t", 0].append(reference.encode_batch(records), 1)
        node.partitions["t", 0].hwm = 1
        async with Door(node) as door:
            client = await door.client()
            client.send([part for _ in range(20) for part in asking({0: 5})])
            for _ in range(20):
                [(_, [found])] = kafka.decode_list_offsets_response(await client.frame())
                assert (found.error, found.offset) == (codes.NONE, 0)
        assert worker.count_max == 1

    run(main())


def test_a_search_under_way_ends_with_the_leadership() -> None:
    async def main() -> None:
        node = FakeNode()
        partition = node.partitions["t", 0] = Endless(hwm=1 << 60)
        async with Door(node) as door:
            client = await door.client()
            client.send(asking({0: 5}))
            await until(lambda: partition.steps > 10)
            partition.is_leader = False
            answer = kafka.decode_list_offsets_response(await client.frame())
            assert answer == [("t", [ListedPartition(0, codes.NOT_LEADER_OR_FOLLOWER)])]

    run(main())
