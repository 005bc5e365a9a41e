"""Clients under simulation: the real `rlog.client` on hosts of its own, recorded as a history.

Producers send unique values to all partitions at a steady rate, faults or not, and record for each what they
were told. Readers open sessions from the earliest record, the latest, or an offset, and record what they get.
"""

import asyncio
from dataclasses import replace
from random import Random
from typing import Any, Literal

from rlog.client import Ack, Producer, connect
from rlog.client import Cluster as Client
from rlog.errors import Outcome, RlogError
from rlog.testing.checker import History, Read, Write
from rlog.testing.cluster import WALL_CLOCK_START_MS, Cluster
from rlog.testing.loop import Process

PRODUCERS = 3
READERS = 2
SENDS_PER_SECOND = 28.0  # of each producer
DELIVERY_TIMEOUT_MS = 2500
BURSTS = (1, 1, 1, 5)
PROBE_TIMEOUT_MS = 10_000
COMPRESSIONS: tuple[Literal["none", "lz4"], ...] = ("none", "none", "lz4")


class Workload:
    """Starts the clients, stops them, and probes that the cluster accepts writes."""

    def __init__(
        self,
        cluster: Cluster,
        random: Random,
        history: History,
        topics: dict[str, int],
        value_bytes: int | None = None,
    ) -> None:
        """value_bytes: of each value, one record to a batch; values of any size, and bursts, when None."""
        self.sessions = 0
        self._cluster = cluster
        self._network = cluster.network
        self._loop = cluster.network.loop
        self._random = random
        self._history = history
        self._value_bytes = value_bytes
        self._partitions = [(topic, index) for topic, count in topics.items() for index in range(count)]
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        for number in range(1, PRODUCERS + 1):
            self._run(f"p{number}", self._produce)
        for number in range(1, READERS + 1):
            self._run(f"r{number}", self._consume)

    async def stop(self) -> None:
        """Ask the clients to end and wait until each has."""
        self._stopping = True
        for task in self._tasks:
            await task

    async def probe(self) -> None:
        """Return once every partition has committed a new record."""
        task = self._run("probe", self._write_to_all)
        self._tasks.remove(task)
        await task

    def _run(self, host: str, program: Any) -> asyncio.Task[None]:
        if host not in self._network.hosts:
            self._network.add_host(host)
        process = Process(host, 1)
        random = Random(self._random.getrandbits(64))
        task: asyncio.Task[None] = self._loop.create_task(program(host, random), context=process.context())
        self._tasks.append(task)
        return task

    def _connect(self, random: Random) -> Client:
        return connect(
            self._cluster.bootstrap,
            random=random,
            wall_clock_ms=lambda: WALL_CLOCK_START_MS + int(self._loop.time() * 1000),
        )

    # -- producers

    async def _produce(self, name: str, random: Random) -> None:
        session = 0
        while not self._stopping:
            session += 1
            try:
                async with self._connect(random) as client:
                    await self._produce_with(client, f"{name}.{session}", random)
            except RlogError as error:
                self._note(name, error)
                await asyncio.sleep(0.1)

    async def _produce_with(self, client: Client, name: str, random: Random) -> None:
        """One idempotent producer per topic, until it fails for good or has lived long enough."""
        acks: list[asyncio.Task[None] | None] = []
        producers: dict[str, Producer] = {}
        end = self._loop.time() + random.uniform(3, 15)
        number = 0
        try:
            for topic in dict(self._partitions):
                producers[topic] = client.producer(
                    topic,
                    linger_ms=0 if self._value_bytes else random.choice((0, 0, 5)),
                    compression="none" if self._value_bytes else random.choice(COMPRESSIONS),
                    delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
                )
                await producers[topic].open()
            while not self._stopping and self._loop.time() < end:
                burst = 1 if self._value_bytes else random.choice(BURSTS)
                await asyncio.sleep(random.expovariate(SENDS_PER_SECOND / burst))
                for _ in range(burst):
                    number += 1
                    topic, index = random.choice(self._partitions)
                    size = self._value_bytes or random.randrange(16, 200)
                    value = f"{name}:{number}:".encode().ljust(size, b".")
                    acks.append(await self._send(producers[topic], name, topic, index, value))
        finally:
            for producer in producers.values():
                await self._close(name, producer)
            for ack in acks:
                if ack is not None:
                    await ack

    async def _send(
        self, producer: Producer, name: str, topic: str, index: int, value: bytes
    ) -> asyncio.Task[None] | None:
        """Record the write, and later what became of it. None when the producer refused it at once."""
        writes = self._history.writes
        position = len(writes)
        writes.append(Write(f"{name}/{topic}", f"{topic}-{index}", value, self._loop.time()))
        try:
            ack = await producer.send(value, partition=index)
        except RlogError as error:
            self._resolve(position, error.outcome, None)
            return None
        return self._loop.create_task(self._await_ack(ack, position))

    async def _await_ack(self, ack: Ack, position: int) -> None:
        try:
            receipt = await ack
        except RlogError as error:
            self._resolve(position, error.outcome, None)
        else:
            self._resolve(position, "ok", receipt.offset if receipt.offset >= 0 else None)

    def _resolve(self, position: int, outcome: Outcome | Literal["ok"], offset: int | None) -> None:
        write, now = self._history.writes[position], self._loop.time()
        self._history.writes[position] = replace(write, completed=now, outcome=outcome, offset=offset)
        self._loop.trace.add(now, f"{outcome} {write.partition} {offset} {write.value[:16].decode()}")

    async def _close(self, name: str, producer: Producer) -> None:
        """Everything sent has its outcome when this returns."""
        try:
            await producer.close()
        except RlogError as error:  # each failed record has told its own ack already
            self._note(name, error)

    async def _write_to_all(self, name: str, random: Random) -> None:
        """One record to each partition, tried until it is acknowledged."""
        async with self._connect(random) as client:
            for number, (topic, index) in enumerate(self._partitions):
                async with client.producer(topic, delivery_timeout_ms=PROBE_TIMEOUT_MS) as producer:
                    value = f"{name}:{number}".encode()
                    done = await self._send(producer, name, topic, index, value)
                    if done is not None:
                        await done

    # -- readers

    async def _consume(self, name: str, random: Random) -> None:
        while not self._stopping:
            try:
                async with self._connect(random) as client:
                    await self._read_with(client, name, random)
            except RlogError as error:
                self._note(name, error)
                await asyncio.sleep(0.1)

    async def _read_with(self, client: Client, name: str, random: Random) -> None:
        """Sessions with one client object, until it fails or has lived long enough."""
        end = self._loop.time() + random.uniform(2, 10)
        while not self._stopping and self._loop.time() < end:
            self.sessions += 1
            session = f"{name}.{self.sessions}"
            topic, index = random.choice(self._partitions)
            start = self._start(random, f"{topic}-{index}")
            self._history.began[session] = self._loop.time()
            if start != "latest":
                self._history.starts[session] = 0 if start == "earliest" else start
            try:
                async with asyncio.timeout(random.uniform(0.2, 3.0)):
                    async with client.consumer(topic, partition=index, start=start) as consumer:
                        async for record in consumer:
                            self._read(session, f"{topic}-{index}", record.offset, record.value)
            except TimeoutError:
                continue

    def _start(self, random: Random, partition: str) -> Literal["earliest", "latest"] | int:
        """From the beginning, the end, or an offset that was acknowledged."""
        acked = [
            write.offset
            for write in self._history.writes[-200:]
            if write.offset is not None and write.partition == partition
        ]
        choices: list[Literal["earliest", "latest"] | int] = [
            "earliest",
            "latest",
            random.choice(acked) if acked else "earliest",
        ]
        return random.choice(choices)

    def _read(self, session: str, partition: str, offset: int, value: bytes | None) -> None:
        now = self._loop.time()
        self._history.reads.append(Read(session, partition, offset, value or b"", now))
        self._loop.trace.add(now, f"read {session} {partition} {offset}")

    def _note(self, name: str, error: RlogError) -> None:
        """Clients may fail while the cluster does; why is in the trace."""
        self._loop.trace.add(self._loop.time(), f"client {name} {type(error).__name__}")
