"""The door over real nodes, and over the simulated loop: the same code, the same answers."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from rlog._core import decode_values, iterate_batches
from rlog.node.kafka_server import KafkaServer
from rlog.testing.loop import Process, SimLoop
from rlog.testing.network import Network, NetworkSettings
from rlog.wire import kafka
from rlog.wire.kafka import codes
from rlog.wire.kafka.messages import FetchedPartition, FetchPartition, FetchRequest, ProducedPartition
from tests.node.harness import TOPIC, Cluster, batch, on_uvloop, until
from tests.wire.fakes import FakeNode, FrameClient

PRODUCER = 77


async def client_of(cluster: Cluster, node_id: int) -> FrameClient:
    port = cluster.configs[node_id].listen_port
    return FrameClient(*await asyncio.open_connection("127.0.0.1", port))


async def produce(client: FrameClient, records: bytes, topic: str = TOPIC) -> ProducedPartition:
    asked = kafka.encode_produce_request(1, "c", -1, 10_000, [(topic, [(0, records)])])
    [(_, [produced])] = kafka.decode_produce_response(await client.ask(asked))
    return produced


async def fetch(
    client: FrameClient, offset: int, *, generation: int = -1, max_wait_ms: int = 0, topic: str = TOPIC
) -> FetchedPartition:
    parts = [FetchPartition(0, offset, 1_000_000, generation)]
    request = FetchRequest(max_wait_ms, 1, 1_000_000, [(topic, parts)])
    answer = await client.ask(kafka.encode_fetch_request(1, "c", request))
    [(_, [fetched])] = kafka.decode_fetch_response(answer).topics
    return fetched


@on_uvloop
async def test_one_node_answers_as_clients_expect(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        client = await client_of(cluster, 1)
        first = await produce(client, batch([b"a", b"b", b"c"]))
        assert (first.error, first.base_offset, first.log_start_offset) == (codes.NONE, 0, 0)
        assert (await produce(client, batch([b"d"]))).base_offset == 3

        inside = await fetch(client, 1)  # in the middle of the first batch: it comes whole
        assert decode_values(inside.records[0], from_offset=1) == ([b"b", b"c", b"d"], 4)
        assert [info.base_offset for info in iterate_batches(inside.records[0])] == [0, 3]
        assert (inside.hwm, inside.last_stable_offset, inside.log_start_offset) == (4, 4, 0)
        assert (await fetch(client, 4)).error == codes.NONE
        assert (await fetch(client, 5)).error == codes.OFFSET_OUT_OF_RANGE
        assert (await fetch(client, -1)).error == codes.OFFSET_OUT_OF_RANGE
        assert (await fetch(client, 0, generation=leader.generation - 1)).error == codes.FENCED_LEADER_EPOCH
        assert (await fetch(client, 0, generation=leader.generation + 1)).error == codes.UNKNOWN_LEADER_EPOCH

        broken = bytearray(batch([b"e"]))
        broken[-1] ^= 1
        assert (await produce(client, bytes(broken))).error == codes.CORRUPT_MESSAGE
        control = bytearray(batch([b"e"]))
        control[22] |= 0x20
        assert (await produce(client, bytes(control))).error == codes.CORRUPT_MESSAGE
        assert leader.hwm == 4
        client.close()


@on_uvloop
async def test_an_idempotent_retry_gets_the_first_answer_again(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        client = await client_of(cluster, 1)
        one = batch([b"a", b"b"], producer=(PRODUCER, 0, 0))
        two = batch([b"c"], producer=(PRODUCER, 0, 2))
        assert [(await produce(client, each)).base_offset for each in (one, two, one, two)] == [0, 2, 0, 2]
        gap = batch([b"d"], producer=(PRODUCER, 0, 9))
        assert (await produce(client, gap)).error == codes.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert leader.end_offset == 3
        client.close()


@on_uvloop
async def test_followers_send_clients_to_the_leader(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=3) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        leading = leader.replica.node_id
        follower = next(n for n in cluster.nodes if n != leading)
        there, here = await client_of(cluster, leading), await client_of(cluster, follower)
        assert (await produce(there, batch([b"a"]))).error == codes.NONE
        await cluster.all_hold(1)
        assert (await produce(here, batch([b"b"]))).error == codes.NOT_LEADER_OR_FOLLOWER
        assert (await fetch(here, 0)).error == codes.NOT_LEADER_OR_FOLLOWER
        metadata = kafka.decode_metadata_response(
            await here.ask(kafka.encode_metadata_request(1, "c", [TOPIC]))
        )
        [partition] = metadata.topics[0].partitions
        assert (partition.leader, partition.generation) == (leading, leader.generation)
        ports = {config.node_id: config.listen_port for config in cluster.configs.values()}
        assert {broker.node_id: broker.port for broker in metadata.brokers} == ports
        for client in (there, here):
            client.close()


@on_uvloop
async def test_a_batch_that_does_not_hold_the_offset_is_never_served(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        client, witness = await client_of(cluster, 1), await client_of(cluster, 1)
        await produce(client, batch([b"a"]))
        await produce(client, batch([b"b"]))
        real_read = leader.log.read
        leader.log.read = lambda start, **bounds: real_read(1 - start, **bounds)
        wrong = await fetch(client, 0)
        assert (wrong.error, wrong.records) == (codes.KAFKA_STORAGE_ERROR, ())
        assert (await produce(witness, batch([b"c"]))).error == codes.KAFKA_STORAGE_ERROR, "it went on"
        assert leader.broken is not None
        for each in (client, witness):
            each.close()


@on_uvloop
async def test_a_waiting_fetch_ends_when_the_node_stops(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1) as cluster:
        await cluster.start()
        await cluster.leader()
        client = await client_of(cluster, 1)
        waiting = asyncio.ensure_future(fetch(client, 0, max_wait_ms=60_000))
        partition = cluster.partition(1)
        await until(lambda: partition._hwm_waits, "the fetch waits")
        await asyncio.wait_for(cluster.stop(1), 5)
        with pytest.raises(asyncio.IncompleteReadError):
            await waiting
        client.close()


def test_the_door_runs_on_the_simulated_loop() -> None:
    loop = SimLoop(start=0.0)
    network = Network(loop, Random(1), NetworkSettings(split=0.3))
    for name in ("a", "b"):
        network.add_host(name)
    node = FakeNode(listen_host="b", listen_port=20000)
    node.partitions["t", 0].holds = True
    seen: list[object] = []

    async def serve() -> None:
        door = KafkaServer(node)
        await door.start()
        await asyncio.sleep(5)
        node.partitions["t", 0].commit()
        await asyncio.sleep(60)
        assert door.connection_count == 1
        await door.stop()
        seen.append("stopped")

    async def talk() -> None:
        client = FrameClient(*await asyncio.open_connection("b", 20000))
        waiting = FrameClient(*await asyncio.open_connection("b", 20000))
        waited = asyncio.ensure_future(fetch(waiting, 0, max_wait_ms=60_000, topic="t"))
        seen.append((await produce(client, batch([bytes(200_000)]), "t")).base_offset)
        seen.append(len((await waited).records[0]) > 200_000)
        seen.append(loop.time() > 5)
        waiting.close()
        seen.append(await client.closed())

    server = loop.create_task(serve(), context=Process("b", 1).context())
    other = loop.create_task(talk(), context=Process("a", 1).context())
    loop.run_until_complete(asyncio.sleep(100))
    assert server.done()
    assert other.done()
    assert (server.exception(), other.exception()) == (None, None)
    assert seen == [0, True, True, b"", "stopped"] or seen == [0, True, True, "stopped", b""]
    loop.dispose()
    assert loop.failures == []
