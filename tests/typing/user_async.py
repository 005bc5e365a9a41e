"""What a user of the async client may write; mypy looks at it, nobody runs it."""

from datetime import UTC, datetime
from typing import assert_type

import rlog
from rlog.client import Ack, At, ListReceipt, NodeDescription, OffsetRange, PartitionState


async def produce(bootstrap: str) -> None:
    async with rlog.connect(bootstrap, client_id="billing") as cluster:
        assert_type(cluster, rlog.Cluster)
        async with cluster.producer("orders", acks="all", compression="zstd") as producer:
            ack = await producer.send(b"paid", b"42", [("source", b"web"), ("flag", None)], partition=1)
            assert_type(ack, Ack)
            receipt = await ack
            assert_type(receipt, rlog.Receipt)
            assert_type(receipt.flushed_by, tuple[int, ...])
            assert_type(receipt.generation, int)
            many = await (await producer.send_many([b"a", b"b"]))
            assert_type(many, ListReceipt)
            assert_type(list(many.offsets()), list[int])
            await producer.flush()


async def consume(cluster: rlog.Cluster) -> None:
    async with cluster.consumer("orders", start={0: "earliest", 1: 7, 2: At(5)}) as consumer:
        async for record in consumer:
            assert_type(record, rlog.Record)
            assert_type(record.value, bytes | None)
            assert_type(record.headers, tuple[tuple[str, bytes | None], ...])
            break
        assert_type(await consumer.fetch(timeout_ms=10), list[rlog.Record])
        assert_type(await consumer.values(), list[bytes | None])
        assert_type(consumer.state, tuple[PartitionState, ...])
        assert_type(consumer.lag, int | None)
        assert_type(consumer.last_progress, datetime | None)
        consumer.seek_to_time(datetime.now(tz=UTC), 0)


async def ask(cluster: rlog.Cluster) -> None:
    assert_type(await cluster.offsets("orders"), dict[int, OffsetRange])
    assert_type(await cluster.offset_at("orders", 0, At(0)), int | None)
    assert_type(await cluster.delete_records("orders", {0: 5, 1: "latest"}), dict[int, int])
    assert_type(await cluster.describe_node(1), NodeDescription)
    for description in (await cluster.describe_nodes()).values():
        if isinstance(description, rlog.RlogError):
            assert_type(description.outcome == "unknown", bool)
        else:
            assert_type(description["node_id"], int)
