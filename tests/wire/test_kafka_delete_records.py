"""DeleteRecords at the client door: an answer per partition, in the order asked, when all are known."""

import asyncio

from rlog.wire import kafka
from rlog.wire.kafka import codes
from rlog.wire.kafka.messages import DeletedPartition, DeleteRecordsPartition, DeleteRecordsRequest
from tests.wire.fakes import Door, FakeNode, FakePartition, run, until


def test_every_partition_asked_about_is_answered() -> None:
    async def main() -> None:
        node = FakeNode()
        held = FakePartition(holds=True)
        node.partitions = {
            ("t", 0): held,
            ("t", 1): FakePartition(),
            ("t", 2): FakePartition(is_leader=False),
        }
        async with Door(node) as door:
            client = await door.client()
            parts = [DeleteRecordsPartition(each, 5 + each) for each in (2, 0, 9, 1)]
            request = DeleteRecordsRequest([("t", parts), ("u", parts[:1])], 1000)
            answer = asyncio.create_task(client.ask(kafka.encode_delete_records_request(1, "c", request)))
            await until(lambda: bool(held.pending))
            assert not answer.done()
            held.commit()
            assert kafka.decode_delete_records_response(await answer) == [
                (
                    "t",
                    [
                        DeletedPartition(2, codes.NOT_LEADER_OR_FOLLOWER),
                        DeletedPartition(0, codes.NONE, 5),
                        DeletedPartition(9, codes.UNKNOWN_TOPIC_OR_PARTITION),
                        DeletedPartition(1, codes.NONE, 6),
                    ],
                ),
                ("u", [DeletedPartition(2, codes.UNKNOWN_TOPIC_OR_PARTITION)]),
            ]

    run(main())
