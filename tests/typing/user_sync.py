"""What a user of the blocking client may write; mypy looks at it, nobody runs it."""

from datetime import UTC, datetime
from itertools import islice
from typing import assert_type

import rlog.sync
from rlog.client import At, ListReceipt, NodeDescription, OffsetRange, PartitionState


def produce(bootstrap: str) -> None:
    with rlog.sync.connect(bootstrap, client_id="billing") as cluster:
        assert_type(cluster, rlog.sync.Cluster)
        with cluster.producer("orders", acks="leader", idempotent=False, compression="gzip") as producer:
            ack = producer.send(b"paid", b"42", [("source", b"web"), ("flag", None)], partition=1)
            assert_type(ack, rlog.sync.Ack)
            receipt = ack.result(timeout_ms=1000)
            assert_type(receipt, rlog.Receipt)
            assert_type(receipt.flushed_by, tuple[int, ...])
            many = producer.send_many((b"a", b"b")).result()
            assert_type(many, ListReceipt)
            producer.flush()


def consume(cluster: rlog.sync.Cluster) -> None:
    with cluster.consumer("orders", partition=[0, 1], on_out_of_range="earliest") as consumer:
        for record in islice(consumer, 3):
            assert_type(record, rlog.Record)
            assert_type(record.key, bytes | None)
        assert_type(consumer.fetch(timeout_ms=10), list[rlog.Record])
        assert_type(consumer.values(), list[bytes | None])
        assert_type(consumer.state, tuple[PartitionState, ...])
        assert_type(consumer.lag, int | None)
        assert_type(consumer.last_progress, datetime | None)
        consumer.seek_to_time(datetime.now(tz=UTC), 0)


def ask(cluster: rlog.sync.Cluster) -> None:
    assert_type(cluster.offsets("orders"), dict[int, OffsetRange])
    assert_type(cluster.offset_at("orders", 0, At(0)), int | None)
    assert_type(cluster.delete_records("orders", {0: 5, 1: "latest"}), dict[int, int])
    assert_type(cluster.describe_node("127.0.0.1:9092"), NodeDescription)
