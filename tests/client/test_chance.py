"""Any mix of faults, many seeds: acknowledged once and in order, refused never, unknown at most once."""

import asyncio
from random import Random

import pytest

from rlog._core import decode_records
from rlog.client import DeadlineExceeded, DeliveryFailed, LeaderUnavailable
from rlog.wire.kafka import codes
from tests.client.fakes import Forget, Garble, Hang, Late, Refuse, Reset, Treatment, World, until, world

SEEDS = 40
SECONDS = 10.0
REQUESTS = ["Produce"] * 6 + ["Metadata", "InitProducerId", "Fetch", "Fetch", "ApiVersions", "ListOffsets"]


def trouble(random: Random) -> Treatment:
    return random.choice(
        [
            Refuse(codes.NOT_LEADER_OR_FOLLOWER),
            Refuse(codes.NOT_ENOUGH_REPLICAS),
            Refuse(codes.REQUEST_TIMED_OUT),
            Forget(codes.REQUEST_TIMED_OUT),
            Forget(codes.KAFKA_STORAGE_ERROR),
            Reset(applied=True),
            Reset(applied=False),
            Late(random.choice([0.01, 0.3, 1.5])),
            Hang(),
            Garble(),
        ]
    )


async def make_trouble(world: World, random: Random, end: float) -> None:
    """Elections, kills, freezes, cut links and misbehaving answers, healed at the end."""
    cluster = world.cluster
    while world.loop.time() < end:
        await asyncio.sleep(random.uniform(0.0, 0.4))
        node = cluster.nodes[random.choice([1, 2, 3])]
        match random.randrange(8):
            case 0:
                cluster.elect(random.choice([1, 2, 3]))
            case 1 if node.process.alive:
                node.down()
                cluster.elect(random.choice([1, 2, 3]))
            case 2 if not node.process.alive:
                node.up()
            case 3:
                node.freeze()
                await asyncio.sleep(random.uniform(0.0, 1.0))
                node.thaw()
            case 4:
                world.network.block("client", node.host)
            case 5:
                world.network.heal_all()
            case _:
                cluster.treat(random.choice(REQUESTS), trouble(random))
    world.network.heal_all()
    cluster.script.clear()
    for node in cluster.nodes.values():
        if not node.process.alive:
            node.up()
    cluster.elect(random.choice([1, 2, 3]))


class History:
    """What one writer was told about each of its values."""

    def __init__(self) -> None:
        self.acked: list[tuple[int, bytes]] = []
        self.maybe: set[bytes] = set()
        self.never: set[bytes] = set()


async def write(world: World, history: History, name: int, random: Random, end: float) -> None:
    async with world.connect(request_timeout_ms=2000) as cluster:
        timeout_ms = random.choice([400, 1500, 6000])
        producer = cluster.producer("orders", batch_bytes_max=2000, delivery_timeout_ms=timeout_ms)
        await producer.open(timeout_ms=60_000)
        pending = []
        number = 0
        while world.loop.time() < end or pending:
            while world.loop.time() < end and len(pending) < random.randrange(1, 120):
                value = b"%d:%d" % (name, number)
                number += 1
                try:
                    pending.append((value, await producer.send(value)))
                except DeadlineExceeded:
                    history.never.add(value)
            await asyncio.sleep(random.expovariate(500))
            value, ack = pending.pop(0)
            try:
                history.acked.append(((await ack).offset, value))
            except DeliveryFailed as error:
                (history.maybe if error.outcome == "unknown" else history.never).add(value)
        value = b"%d:last" % name  # the producer still works once all is healed
        await until(lambda: world.loop.time() > end + 5)
        history.acked.append(((await (await producer.send(value))).offset, value))
        await producer.close()


async def read(world: World, got: list[bytes], writers: int) -> None:
    """Reads along, through the same troubles, until every writer's last value came."""
    async with world.connect(request_timeout_ms=2000) as cluster:
        consumer = cluster.consumer("orders", partition=0, stall_timeout_ms=1000)
        last = 0
        while last < writers:
            try:
                records = await consumer.fetch()
            except (LeaderUnavailable, DeadlineExceeded):
                continue
            got += [record.value or b"" for record in records]
            last += sum((record.value or b"").endswith(b":last") for record in records)
        await consumer.close()


def check(world: World, histories: list[History], got: list[bytes]) -> None:
    log = world.cluster.logs["orders", 0]
    stored = {record.offset: record.value for _, data in log.batches for record in decode_records(data)}
    values = [value for _, value in sorted(stored.items())]
    assert len(values) == len(set(values)), "a record is in the log twice"
    for history in histories:
        for offset, value in history.acked:
            assert stored[offset] == value
        assert [offset for offset, _ in history.acked] == sorted(offset for offset, _ in history.acked)
        assert not history.never & set(values), "a record is in the log that was reported as not written"
        assert len(history.acked) > 20
    assert got == values[: len(got)], "the reader skipped or repeated something"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens(seed: int) -> None:
    async def program(made: World, random: Random, histories: list[History], got: list[bytes]) -> None:
        end = made.loop.time() + SECONDS
        async with asyncio.timeout(100):
            await asyncio.gather(
                make_trouble(made, random, end),
                read(made, got, len(histories)),
                *(
                    write(made, history, name, Random(seed * 10 + name), end)
                    for name, history in enumerate(histories)
                ),
            )

    histories = [History(), History()]
    got: list[bytes] = []
    with world(seed=seed) as made:
        made.run(program(made, Random(seed), histories, got))
        check(made, histories, got)


def test_the_same_seed_gives_the_same_run() -> None:
    def digest(seed: int) -> tuple[list[tuple[int, bytes]], int]:
        async def program(made: World, history: History) -> None:
            end = made.loop.time() + 5
            await asyncio.gather(
                make_trouble(made, Random(seed), end), write(made, history, 0, Random(seed), end)
            )

        history = History()
        with world(seed=seed) as made:
            made.run(program(made, history))
            return history.acked, made.loop.handles_run

    assert digest(7) == digest(7)
