"""The leader dies under an idempotent librdkafka producer: nothing lost, nothing twice, order holds."""

import time
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer

from tests.clients.test_confluent import consume
from tests.harness.processes import running_cluster

RECORDS = 6000
UNDER_WAY = 400
TIMEOUT_S = 30.0


def test_an_idempotent_producer_survives_its_leader(tmp_path: Path) -> None:
    with running_cluster(tmp_path, topics={"orders": 1}) as cluster:
        delivered: list[tuple[bytes, int]] = []
        errors: list[KafkaError] = []

        def report(error: KafkaError | None, message: Message) -> None:
            if error is None:
                delivered.append((message.value(), message.offset()))
            else:
                errors.append(error)

        producer = Producer(
            {"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "batch.num.messages": 20}
        )
        found = cluster.leader("orders")
        assert found is not None
        leader, generation = found
        acked_before_kill = -1
        deadline = time.monotonic() + TIMEOUT_S
        for number in range(RECORDS):
            producer.produce("orders", b"%d" % number, on_delivery=report)
            while number - len(delivered) > UNDER_WAY:
                producer.poll(0.01)
                assert time.monotonic() < deadline, f"{len(delivered)} of {RECORDS} were delivered: {errors}"
            if acked_before_kill < 0 and len(delivered) > RECORDS // 4:
                acked_before_kill = len(delivered)
                cluster.kill(leader)
        assert acked_before_kill > 0, "the leader was not killed under load"
        assert acked_before_kill < RECORDS
        while producer.flush(0.5) > 0:
            assert time.monotonic() < deadline, f"{len(delivered)} of {RECORDS} were delivered"
        assert errors == []

        survivors = [node_id for node_id in cluster.nodes if node_id != leader]
        cluster.wait_ready(node_ids=survivors)
        found = cluster.leader("orders")
        assert found is not None
        assert found[0] in survivors
        assert found[1] > generation

        consumed = consume(cluster.bootstrap, "orders", 1, RECORDS)
        assert [message.value() for message in consumed] == [b"%d" % number for number in range(RECORDS)]
        # DUPLICATE_SEQUENCE of a batch that was acknowledged nowhere comes without its offset.
        known = [(value, offset) for value, offset in delivered if offset >= 0]
        where = {message.value(): message.offset() for message in consumed}
        assert len(known) >= acked_before_kill
        assert all(where[value] == offset for value, offset in known)
