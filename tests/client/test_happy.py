"""Connect, produce, consume, ask: what works when nothing goes wrong."""

import rlog
from tests.client.fakes import World, world


def test_records_come_back_in_order() -> None:
    async def program(world: World) -> None:
        async with world.connect() as cluster:
            async with cluster.producer("orders") as producer:
                acks = [
                    await producer.send(b"%d" % each, key=b"k", headers=[("h", b"v")]) for each in range(100)
                ]
                receipts = [await ack for ack in acks]
            assert [receipt.offset for receipt in receipts] == list(range(100))
            async with cluster.consumer("orders", partition=0) as consumer:
                records: list[rlog.Record] = []
                async for record in consumer:
                    records.append(record)
                    if len(records) == 100:
                        break
            assert [record.value for record in records] == [b"%d" % each for each in range(100)]
            assert [record.offset for record in records] == list(range(100))
            assert records[0].key == b"k"
            assert records[0].headers == (("h", b"v"),)
            assert records[0].timestamp_ms == 1_700_000_000_000

    with world() as made:
        made.run(program(made))
