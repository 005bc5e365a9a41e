"""The blocking client against a real node: what it returns, when it raises, from how many threads."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

import rlog
from rlog.client import (
    At,
    ClientClosed,
    ClientError,
    DeadlineExceeded,
    MessageTooLarge,
    NotConnected,
    OffsetOutOfRange,
    UnknownPartition,
    UnknownTopic,
)
from rlog.errors import ConfigurationError, RlogError
from rlog.sync.producer import QUEUED_BYTES_MAX
from tests.harness.processes import wait_for

PATIENCE_MS = 20_000


def client_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "rlog"]


def read(consumer: rlog.sync.Consumer, count: int) -> list[bytes | None]:
    values: list[bytes | None] = []
    while len(values) < count:
        got = consumer.values(timeout_ms=PATIENCE_MS)
        assert got, "nothing came"
        values += got
    return values


def test_a_conversation(bootstrap: str) -> None:
    with rlog.sync.connect(bootstrap) as cluster:
        assert set(cluster.topics()) == {"orders", "wide", "quiet"}
        begin = cluster.end_offset("orders")
        with cluster.producer("orders", compression="zstd") as producer:
            ack = producer.send(b"paid", key=b"42", headers=[("source", b"web")], timestamp_ms=7)
            receipt = ack.result()
            assert (receipt.offset, receipt.flushed_by, receipt.timestamp_ms) == (begin, (1,), 7)
            assert ack.done()
            assert ack.result() == receipt, "asked again"
            many = producer.send_many([b"a", b"b"]).result(timeout_ms=PATIENCE_MS)
            assert (many.first_offset, many.count) == (begin + 1, 2)
            producer.send(b"last")
        assert producer.is_closed
        with cluster.consumer("orders", start=begin) as consumer:
            first, second = next(consumer), next(consumer)
            generation = first.generation
            source = (("source", b"web"),)
            assert first == rlog.Record("orders", 0, begin, generation, 7, b"42", b"paid", source)
            assert (second.value, consumer.position()) == (b"a", begin + 2)
            assert read(consumer, 2) == [b"b", b"last"]
            assert (consumer.lag, consumer.last_progress is not None) == (0, True)
            (state,) = consumer.state
            assert (state.position, state.end_offset) == (begin + 4, begin + 4)
            assert consumer.fetch(timeout_ms=1) == []
            consumer.seek(0, begin + 1)
            assert [record.value for record in islice(consumer, 3)] == [b"a", b"b", b"last"]
            consumer.pause()
            assert consumer.state[0].is_paused
            consumer.resume()
        assert cluster.offsets("orders")[0] == (cluster.start_offset("orders"), begin + 4)
        assert cluster.describe_node(1)["node_id"] == 1
        assert set(cluster.describe_nodes()) == set(cluster.metadata().nodes) == {1}
    assert not client_threads()


def test_many_sends_are_one_order_and_wait_when_the_queue_is_full(bootstrap: str) -> None:
    """3 MiB through a producer that may hold one: `send` waits for the real one's memory."""
    with rlog.sync.connect(bootstrap) as cluster:
        begin = cluster.end_offset("orders")
        values = [b"%d" % number + bytes(1000) for number in range(3000)]
        room = 200_000
        with cluster.producer("orders", batch_bytes_max=100_000, buffer_bytes_max=room) as producer:
            held = 0
            for value in values:
                producer.send(value)
                held = max(held, producer.buffered_bytes)
            assert held <= room + 2 * QUEUED_BYTES_MAX
            producer.flush()
            assert producer.buffered_bytes == 0
        with cluster.consumer("orders", start=begin) as consumer:
            assert read(consumer, len(values)) == values


def test_what_cannot_be_sent_is_said_as_early_as_it_is_known(bootstrap: str) -> None:
    with rlog.sync.connect(bootstrap) as cluster:
        with cluster.producer("wide", batch_bytes_max=1000) as producer:
            with pytest.raises(MessageTooLarge):
                producer.send(bytes(2000))
            with pytest.raises(UnknownPartition):
                producer.send(b"", partition=3)
            with pytest.raises(TypeError, match="value"):
                producer.send("text")
            with pytest.raises(TypeError, match="key"):
                producer.send(b"", key="text")
            refused = producer.send(b"", timestamp_ms=2**80)
            fine = producer.send(b"fine")
            with pytest.raises(OverflowError):
                refused.result()
            assert refused.done()
            assert fine.result().offset >= 0
            producer.flush()
            producer.send(b"", timestamp_ms=2**80)
            with pytest.raises(OverflowError):
                producer.flush()
            producer.flush()
        with pytest.raises(ClientClosed):
            producer.send(b"late")
        with pytest.raises(ClientClosed):
            cluster.producer("wide").send(b"not opened")
        with pytest.raises(ConfigurationError, match="acks"):
            cluster.producer("wide", acks="some")


def test_what_does_not_exist_leaves_nothing_behind(bootstrap: str) -> None:
    with rlog.sync.connect(bootstrap) as cluster:
        with pytest.raises(UnknownTopic), cluster.producer("nowhere"):
            pass
        with pytest.raises(UnknownPartition), cluster.consumer("orders", partition=9):
            pass
        with pytest.raises(OffsetOutOfRange):
            next(cluster.consumer("quiet", start=1000))
        with pytest.raises(DeadlineExceeded):
            cluster.offset_at("wide", 0, At(0), timeout_ms=0)
    with (
        pytest.raises(NotConnected, match=r"127\.0\.0\.1:1"),
        rlog.sync.connect("127.0.0.1:1", request_timeout_ms=50),
    ):
        pass
    assert not client_threads()


def test_closing_ends_what_waits_in_other_threads(bootstrap: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        with rlog.sync.connect(bootstrap) as cluster:
            consumer = cluster.consumer("quiet")
            waiting = pool.submit(next, consumer)
            wait_for(lambda: bool(consumer.state), "the consumer reads")
            with pytest.raises(ClientError, match="two threads"):
                consumer.fetch()
        with pytest.raises(ClientClosed):
            waiting.result(20)
    assert not client_threads()
    cluster.close()
    with pytest.raises(ClientClosed):
        cluster.topics()
    with pytest.raises(ClientClosed), cluster:
        pass
    with pytest.raises(ClientClosed, match="not entered"):
        rlog.sync.connect(bootstrap).topics()


def test_many_threads_share_one_producer_and_each_keeps_its_order(bootstrap: str) -> None:
    threads, each_sends = 8, 500
    with rlog.sync.connect(bootstrap) as cluster, cluster.producer("orders") as producer:
        begin = cluster.end_offset("orders")

        def work(number: int) -> list[int]:
            acks = [producer.send(b"%d %d" % (number, each)) for each in range(each_sends)]
            producer.send_many([b"%d last" % number] * 3)
            return [ack.result().offset for ack in acks]

        with ThreadPoolExecutor(threads) as pool:
            offsets = list(pool.map(work, range(threads)))
        producer.flush()
        with cluster.consumer("orders", start=begin) as consumer:
            values = read(consumer, threads * (each_sends + 3))
    for number, mine in enumerate(offsets):
        assert [values[offset - begin] for offset in mine] == [
            b"%d %d" % (number, each) for each in range(each_sends)
        ]
        assert mine == sorted(mine)
    assert max(Counter(values).values()) == 3, "nothing twice"


def test_an_error_in_the_block_sends_nothing_more(bootstrap: str) -> None:
    with rlog.sync.connect(bootstrap) as cluster:
        producer = cluster.producer("quiet", linger_ms=60_000, delivery_timeout_ms=120_000).__enter__()
        ack = producer.send(b"never")
        producer.__exit__(KeyError, KeyError(), None)
        with pytest.raises(RlogError) as raised:
            ack.result()
        assert raised.value.outcome == "no"
        assert cluster.end_offset("quiet") == 0


def test_a_result_may_be_asked_again_after_its_time(bootstrap: str) -> None:
    with (
        rlog.sync.connect(bootstrap) as cluster,
        cluster.producer("wide", linger_ms=60_000, delivery_timeout_ms=120_000) as producer,
    ):
        ack = producer.send(b"x", partition=0)
        with pytest.raises(DeadlineExceeded) as raised:
            ack.result(timeout_ms=20)
        assert raised.value.outcome == "unknown"
        assert not ack.done()
        producer.flush()
        assert ack.result().partition == 0
