"""Finding nodes and leaders, deadlines, and leaving nothing behind."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from random import Random

import pytest
import uvloop

import rlog
from rlog.client import (
    ClientClosed,
    ConnectionLost,
    DeadlineExceeded,
    DeliveryFailed,
    NotConnected,
    RequestRefused,
    UnknownPartition,
    UnknownTopic,
    WrongCluster,
)
from rlog.client.connection import Connection
from rlog.client.router import Router
from rlog.client.settings import Address, ClientSettings, parse_bootstrap
from rlog.errors import ConfigurationError
from rlog.wire.kafka import codes
from tests.client.fakes import Garble, Hang, Late, Refuse, Reset, World, until, world


def test_importing_rlog_loads_nothing_heavy() -> None:
    code = "import rlog, sys; print(sorted(m for m in sys.modules if m.startswith(('rlog', 'asyncio'))))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "['rlog']"
    assert callable(rlog.connect)


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("a", [("a", 9092)]),
        ("a:1, b:2,a:1", [("a", 1), ("b", 2)]),
        ("[::1]:7,[::1]", [("::1", 7), ("::1", 9092)]),
        ("127.0.0.1:80", [("127.0.0.1", 80)]),
    ],
)
def test_bootstrap_addresses(text: str, addresses: list[tuple[str, int]]) -> None:
    assert parse_bootstrap(text) == tuple(Address(*each) for each in addresses)
    assert parse_bootstrap(text.split(",")) == parse_bootstrap(text)


@pytest.mark.parametrize(
    "text", ["", " , ", "a:", "a:x", "a:0", "a:65536", ":9092", "a:²", "::1", "fe80::1:9092", "[::1"]
)
def test_bootstrap_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError):
        rlog.connect(text)


@pytest.mark.parametrize("dead", [(1,), (1, 2), (2, 3)])
def test_one_living_node_is_enough(dead: tuple[int, ...]) -> None:
    async def program(made: World) -> None:
        for node in dead:
            made.cluster.nodes[node].down()
        (alive, *_) = [node for node in (1, 2, 3) if node not in dead]
        made.cluster.elect(alive)
        async with made.connect() as cluster:
            metadata = await cluster.metadata()
            assert list(metadata.nodes) == [1, 2, 3]
            assert metadata.topics["orders"][0].leader == alive
            assert await cluster.end_offset("orders") == 0

    with world() as made:
        made.run(program(made))


def test_when_no_node_lives_the_error_names_each_and_nothing_is_left() -> None:
    async def program(made: World) -> None:
        for node in made.cluster.nodes.values():
            node.down()
        made.network.block("client", "n2")
        began = made.loop.time()
        with pytest.raises(NotConnected, match=r"n1:9092.*n3:9092") as caught:
            await made.connect(request_timeout_ms=1500).__aenter__()
        assert caught.value.outcome in ("no", "unknown")
        assert 1.4 < made.loop.time() - began < 1.6

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize("after_ms", [0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 5.0])
def test_entering_may_be_cancelled_at_any_moment(after_ms: float) -> None:
    async def program(made: World) -> None:
        made.cluster.treat("Metadata", Late(0.01))
        entering = asyncio.create_task(made.connect().__aenter__())
        await asyncio.sleep(after_ms / 1000)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert len(asyncio.all_tasks()) <= 2
        assert not [task for task in asyncio.all_tasks() if "metadata" in task.get_name()]

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize("request_", ["ApiVersions", "Metadata"])
@pytest.mark.parametrize("applied", [True, False])
def test_a_reset_while_entering_is_retried(request_: str, applied: bool) -> None:
    async def program(made: World) -> None:
        made.cluster.treat(request_, Reset(applied), Hang(), Reset(applied))
        async with made.connect() as cluster:
            assert await cluster.start_offset("orders") == 0

    with world() as made:
        made.run(program(made))


def test_a_frozen_node_costs_little() -> None:
    async def program(made: World) -> None:
        made.cluster.nodes[2].freeze()
        made.cluster.nodes[3].freeze()
        began = made.loop.time()
        async with made.connect() as cluster:
            assert await cluster.end_offset("orders") == 0
        assert made.loop.time() - began < 2.0

    with world() as made:
        made.run(program(made))
        made.cluster.nodes[2].thaw()
        made.cluster.nodes[3].thaw()


def test_every_question_has_a_deadline() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            await cluster.end_offset("orders")
            for node in made.cluster.nodes.values():
                node.freeze()
            for question in (
                cluster.metadata(timeout_ms=300),
                cluster.end_offset("orders", timeout_ms=300),
                cluster.start_offset("other", timeout_ms=300),
                cluster.describe_node(1, timeout_ms=300),
                cluster.producer("orders").open(timeout_ms=300),
                cluster.consumer("other").open(timeout_ms=300),
            ):
                began = made.loop.time()
                with pytest.raises((DeadlineExceeded, ConnectionLost)):
                    await question
                assert made.loop.time() - began < 0.32

    with world() as made:
        made.run(program(made))
        for node in made.cluster.nodes.values():
            node.thaw()


def test_topics_and_partitions_that_do_not_exist() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            with pytest.raises(UnknownTopic, match="'nosuch' does not exist"):
                await cluster.end_offset("nosuch")
            with pytest.raises(UnknownTopic):
                await cluster.producer("nosuch").open()
            with pytest.raises(UnknownPartition, match="partitions 0 to 0, not 1"):
                await cluster.end_offset("orders", 1)
            async with cluster.producer("orders") as producer:
                with pytest.raises(UnknownPartition):
                    await producer.send(b"", partition=-1)

    with world() as made:
        made.run(program(made))


def test_an_older_generation_is_not_believed() -> None:
    """Node 3, cut off from the others, still names the leader of generation 1."""

    async def program(made: World) -> None:
        log = made.cluster.logs["orders", 0]
        async with made.connect("n1") as cluster, cluster.producer("orders") as producer:
            made.cluster.elect(2)
            await (await producer.send(b"0"))
            newer = (log.leader, log.generation)
            log.leader, log.generation = 1, 1
            assert (await cluster.metadata()).topics["orders"][0].generation == 1, "asked, it is shown as is"
            made.cluster.treat("Produce", Refuse(codes.NOT_LEADER_OR_FOLLOWER))
            asked = len(made.cluster.seen)
            ack = await producer.send(b"1")
            await until(lambda: made.cluster.count("Metadata") > 4)
            log.leader, log.generation = newer
            assert (await ack).offset == 1
            tried = [node for node, kind in made.cluster.seen[asked:] if kind == "Produce"]
            assert 1 not in tried, "the deposed leader was asked again"

    with world() as made:
        made.run(program(made))


def test_a_node_of_another_cluster_is_not_believed() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            made.cluster.cluster_id = "another"
            with pytest.raises((WrongCluster, DeadlineExceeded), match="another"):
                await cluster.end_offset("orders", timeout_ms=500)

    with world() as made:
        made.run(program(made))


def test_describing_a_node() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            assert await cluster.describe_node(2) == {"node_id": 2}
            assert await cluster.describe_node("n3:9092") == {"node_id": 3}
            with pytest.raises(ConnectionLost, match="node 9 is not in"):
                await cluster.describe_node(9)
            made.cluster.nodes[2].down()
            with pytest.raises(ConnectionLost):
                await cluster.describe_node(2)

    with world() as made:
        made.run(program(made))


def test_use_before_entering_and_after_closing_is_refused() -> None:
    async def program(made: World) -> None:
        cluster = made.connect()
        with pytest.raises(ClientClosed, match="not entered"):
            cluster.producer("orders")
        async with cluster:
            producer = cluster.producer("orders")
            with pytest.raises(ClientClosed, match="not opened"):
                await producer.send(b"")
        await cluster.close()
        with pytest.raises(ClientClosed):
            await cluster.metadata()
        with pytest.raises(ClientClosed):
            await cluster.__aenter__()
        with pytest.raises(ConfigurationError, match="idempotent"):
            async with made.connect() as other:
                other.producer("orders", acks="leader")

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize("after_ms", [0.0, 0.5, 1.0, 3.0, 10.0, 50.0])
def test_closing_at_any_moment_leaves_nothing(after_ms: float) -> None:
    """A producer and a reader at work, an election under way, and the cluster is closed under them."""

    async def program(made: World) -> None:
        cluster = await made.connect().__aenter__()

        async def work() -> None:
            producer = cluster.producer("orders")
            await producer.open()
            while True:
                await (await producer.send(b"x"))

        async def read() -> None:
            async for _ in cluster.consumer("orders"):
                pass

        tasks = [asyncio.create_task(work()), asyncio.create_task(read())]
        await asyncio.sleep(after_ms / 1000)
        made.cluster.elect(2)
        await asyncio.sleep(after_ms / 4000)
        began = made.loop.time()
        await cluster.close()
        assert made.loop.time() - began < 0.01
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, rlog.RlogError) for each in results), results

    with world() as made:
        made.run(program(made))


# -- addresses that are none, nodes that refuse


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    "address",
    [
        Address("a" * 64, 9092),  # no label of a host name is so long
        Address("bad..host", 9092),
        Address("127.0.0.1", 70_000),
        Address("127.0.0.1", -1),
    ],
)
def test_an_address_that_is_none_is_a_connection_that_cannot_be_made(
    address: Address, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """A node may advertise it: then whoever asks tries again, and another node."""

    async def program() -> None:
        settings = ClientSettings((address,), Random(1), lambda: 0)
        connection = Connection(
            address, settings, check_cluster=print, on_lost=lambda _: None, on_overdue=lambda _: None
        )
        with pytest.raises(ConnectionLost, match=r"is no address|cannot connect"):
            await connection.open(asyncio.get_running_loop().time() + 5)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(program())


def test_a_bug_in_the_way_to_the_leader_is_shown_and_not_repeated_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[float] = []

    async def fail(self: Router, *_: object) -> None:
        tries.append(self.loop.time())
        raise KeyError("a bug")

    async def program(made: World) -> None:
        async with made.connect() as cluster:
            producer = cluster.producer("orders", delivery_timeout_ms=1000)
            await producer.open()
            monkeypatch.setattr(Router, "connection_once", fail)
            with pytest.raises(DeliveryFailed, match="a bug"):
                await (await producer.send(b"x"))
            producer.abandon()

    with world() as made:
        made.run(program(made))
        assert 1 < len(tries) == len(made.loop.failures) < 40
        made.loop.failures.clear()


def test_two_that_look_for_a_topic_that_is_none_both_hear_it() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            began = made.loop.time()
            waiting = [asyncio.create_task(cluster.end_offset("nowhere")) for _ in range(3)]
            for each in waiting:
                with pytest.raises(UnknownTopic):
                    await each
            assert made.loop.time() - began < 5

    with world() as made:
        made.run(program(made))


def test_what_one_node_refuses_another_is_asked() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            for _ in range(6):
                made.cluster.treat("InitProducerId", Refuse(codes.UNSUPPORTED_VERSION), Garble())
                async with cluster.producer("orders") as producer:
                    await producer.send(b"x")
            assert not made.cluster.script["InitProducerId"]

    with world() as made:
        made.run(program(made))


def test_what_every_node_refuses_is_refused_at_once() -> None:
    async def program(made: World) -> None:
        async with made.connect() as cluster:
            began = made.loop.time()
            made.cluster.treat("InitProducerId", *[Refuse(codes.UNSUPPORTED_VERSION)] * 3)
            with pytest.raises(RequestRefused, match="UNSUPPORTED_VERSION"):
                await cluster.producer("orders").open()
            assert made.loop.time() - began < 2

    with world() as made:
        made.run(program(made))
