"""Producer and consumer against models: any answers, and any use, in any order."""

import asyncio
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlog._core import decode_values
from rlog.client import Consumer, DeliveryFailed
from rlog.records import Record
from rlog.wire.kafka import codes
from tests.client.fakes import Forget, Garble, Hang, Late, Refuse, Reset, Serve, Treatment, World, world

INVALID_RECORD = 87
# Batches in flight meet all of these: refused for good, for now, as out of order; applied or not; unanswered.
ANSWERS: list[Treatment] = [
    Serve(),
    Refuse(INVALID_RECORD),
    Refuse(codes.NOT_LEADER_OR_FOLLOWER),
    Refuse(codes.UNKNOWN_PRODUCER_ID),
    Refuse(codes.REQUEST_TIMED_OUT),
    Forget(codes.REQUEST_TIMED_OUT),
    Reset(applied=True),
    Reset(applied=False),
]

# -- producing


async def produce(made: World, answers: list[Treatment], count: int) -> list[int | str]:
    """So many batches of one record each, five in flight; what became of each: its offset, or the outcome."""
    fates: list[int | str] = []
    async with made.connect() as cluster:
        producer = cluster.producer("orders", delivery_timeout_ms=30_000)
        await producer.open()
        assert (await (await producer.send(b"0"))).offset == 0
        made.cluster.treat("Produce", *answers)
        acks = []
        for number in range(1, count + 1):
            acks.append(await producer.send(b"%d" % number))
            await asyncio.sleep(0)
        for ack in acks:
            try:
                fates.append((await ack).offset)
            except DeliveryFailed as error:
                fates.append(error.outcome)
        await producer.close()
        assert producer.buffered_bytes == 0
    return fates


@settings(max_examples=100, deadline=None)
@example(answers=[Refuse(INVALID_RECORD), Refuse(codes.NOT_LEADER_OR_FOLLOWER)])
@given(answers=st.lists(st.sampled_from(ANSWERS), max_size=14))
def test_whatever_a_leader_answers_the_log_is_in_order_and_the_fates_are_true(
    answers: list[Treatment],
) -> None:
    count = 7
    with world() as made:
        fates = made.run(produce(made, answers, count))
    batches = [data for _, data in made.cluster.logs["orders", 0].batches]
    stored = [int(value or b"") for data in batches for value in decode_values(data)[0]]
    assert stored == sorted(set(stored)), "a record is there twice, or overtook another"
    for number, fate in enumerate(fates, start=1):
        if isinstance(fate, int):
            assert stored[fate] == number
        elif fate == "no":
            assert number not in stored


# -- consuming

PARTITIONS = 3
FETCH_ANSWERS: list[Treatment] = [
    Refuse(codes.NOT_LEADER_OR_FOLLOWER),
    Refuse(codes.OFFSET_OUT_OF_RANGE),
    Refuse(codes.KAFKA_STORAGE_ERROR),
    Hang(),
    Late(0.5),
    Reset(applied=False),
    Garble(),
]


class Reader:
    """A consumer, and the model of it: the next offset of each partition, and which are paused."""

    def __init__(self, made: World, consumer: Consumer, random: Random) -> None:
        self.made = made
        self.consumer = consumer
        self.random = random
        self.next = dict.fromkeys(range(PARTITIONS), 0)
        self.paused: set[int] = set()

    def got(self, record: Record) -> None:
        assert record.partition not in self.paused
        assert record.offset == self.next[record.partition], "something was skipped, or repeated"
        self.next[record.partition] += 1

    async def fetch(self) -> None:
        timeout_ms = self.random.choice([0, 10, 100])
        for record in await self.consumer.fetch(timeout_ms=timeout_ms):
            self.got(record)

    async def fetch_and_be_cancelled(self) -> None:
        try:
            async with asyncio.timeout(self.random.random() * 0.05):
                records = await self.consumer.fetch()
        except TimeoutError:
            return
        for record in records:
            self.got(record)

    async def iterate(self) -> None:
        if len(self.paused) == PARTITIONS:
            return
        try:
            async with asyncio.timeout(self.random.random() * 0.2):
                for _ in range(self.random.randrange(1, 50)):
                    self.got(await anext(self.consumer))
        except TimeoutError:
            pass

    async def seek(self) -> None:
        partition = self.random.randrange(PARTITIONS)
        offset = self.random.randrange(self.next[partition] + 1)
        self.consumer.seek(partition, offset)
        self.next[partition] = offset

    async def pause(self) -> None:
        partition = self.random.randrange(PARTITIONS)
        self.consumer.pause(partition)
        self.paused.add(partition)

    async def resume(self) -> None:
        if self.paused:
            partition = self.random.choice(sorted(self.paused))
            self.consumer.resume(partition)
            self.paused.discard(partition)

    async def elect(self) -> None:
        self.made.cluster.elect(self.random.randrange(1, 4), partition=self.random.randrange(PARTITIONS))

    async def trouble(self) -> None:
        self.made.cluster.treat("Fetch", self.random.choice(FETCH_ANSWERS))

    async def cut(self) -> None:
        """A node ends its connections, those too on which nothing is asked."""
        for connection in list(self.made.cluster.nodes[self.random.randrange(1, 4)].connections):
            connection.transport.abort()

    async def rest(self) -> None:
        await asyncio.sleep(self.random.random())
        for partition, offset in self.next.items():
            assert self.consumer.position(partition) in (None, offset)

    async def act(self) -> None:
        reads = [self.fetch, self.fetch, self.fetch_and_be_cancelled, self.iterate, self.rest]
        others = [self.pause, self.resume, self.seek, self.elect, self.trouble, self.cut]
        await self.random.choice([*reads, *others])()

    async def read_to(self, ends: dict[int, int]) -> None:
        """Once all is well again everything comes, without any help."""
        self.made.cluster.script.clear()
        self.consumer.resume()
        self.paused.clear()
        async with asyncio.timeout(60):  # a partition that is lost never comes
            while self.next != ends:
                for record in await self.consumer.fetch():
                    self.got(record)


async def write(made: World, random: Random, until: float) -> None:
    async with made.connect() as cluster, cluster.producer("orders") as producer:
        while made.loop.time() < until:
            for partition in range(PARTITIONS):
                values = [bytes(random.randrange(2000))] * random.randrange(1, 9)
                await producer.send_many(values, partition=partition)
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("seed", range(12))
def test_however_a_consumer_is_used_each_partition_comes_whole_and_in_order(seed: int) -> None:
    random = Random(seed)

    async def program(made: World) -> None:
        until = made.loop.time() + 6
        writer = asyncio.create_task(write(made, Random(seed), until))
        async with (
            made.connect() as cluster,
            cluster.consumer(
                "orders", prefetch_bytes_max=random.choice([3000, 30_000, 1 << 20]), max_wait_ms=100
            ) as consumer,
        ):
            reader = Reader(made, consumer, random)
            while made.loop.time() < until:
                await reader.act()
            await writer
            logs = made.cluster.logs
            ends = {each: logs["orders", each].end_offset for each in range(PARTITIONS)}
            await reader.read_to(ends)
            assert min(ends.values()) > 0

    with world(seed=seed, topics={"orders": PARTITIONS}) as made:
        made.run(program(made), seconds=300)
