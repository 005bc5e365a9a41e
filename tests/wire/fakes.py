"""A node without storage and peers behind the real client door, and a client that speaks in frames."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

import uvloop

from rlog._core import check_client_batches, find_time
from rlog.config import NodeConfig, PeerAddress
from rlog.errors import CorruptBatch
from rlog.node.kafka_server import KafkaServer
from rlog.node.serving import TimeAnswer
from rlog.observe.counters import NodeCounters, PartitionCounters
from rlog.wire.kafka import Reader, codes

PATIENCE_SECONDS = 10.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


def run(main: Coroutine[Any, Any, None], loop: str = "uvloop") -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(main, PATIENCE_SECONDS))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens on this loop."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("what was waited for did not happen")


@dataclass
class Outcome:
    error: int
    base_offset: int = -1
    log_start_offset: int = -1
    message: str = ""
    log_append_time: int = -1
    generation: int = -1
    flushed_by: tuple[int, ...] = ()
    waited: str = "majority"


@dataclass
class Deleted:
    error: int
    log_start: int = -1


@dataclass
class Waiter:
    above: int
    callback: Callable[[], None]
    waiters: list["Waiter"]

    def cancel(self) -> None:
        if self in self.waiters:
            self.waiters.remove(self)


@dataclass
class FakePartition:
    """Commits at once, or on `commit()` when `holds` is set."""

    leader_id: int = 1
    generation: int = 5
    is_leader: bool = True
    serving: bool = True
    start_offset: int = 0
    hwm: int = 0
    end_offset: int = 0
    holds: bool = False
    voters: list[int] = field(default_factory=lambda: [1, 2, 3])
    batches: list[tuple[int, int, bytes]] = field(default_factory=list)  # first offset, end, bytes
    pending: list[tuple[Callable[[Any], None], Any]] = field(default_factory=list)
    waiters: list[Waiter] = field(default_factory=list)
    acks_seen: list[int] = field(default_factory=list)
    counters: PartitionCounters = field(default_factory=PartitionCounters)

    def in_sync(self) -> list[int]:
        return [1, 2]

    def produce(self, records: Any, *, acks: int, deadline: float, done: Callable[[Outcome], None]) -> None:
        self.acks_seen.append(acks)
        if not self.is_leader:
            done(Outcome(codes.NOT_LEADER_OR_FOLLOWER))
            return
        try:
            infos = check_client_batches(records, batch_bytes_max=1_000_000)
        except CorruptBatch:
            done(Outcome(codes.CORRUPT_MESSAGE))
            return
        base_offset = self.end_offset
        for info in infos:
            data = bytes(records[info.position : info.position + info.size])
            self.append(data, info.count)
        self.pending.append((done, Outcome(0, base_offset, self.start_offset, generation=self.generation)))
        if not self.holds:
            self.commit()

    def append(self, data: bytes, count: int) -> None:
        stamped = (
            self.end_offset.to_bytes(8, "big") + data[8:12] + self.generation.to_bytes(4, "big") + data[16:]
        )
        self.batches.append((self.end_offset, self.end_offset + count, stamped))
        self.end_offset += count

    def commit(self) -> None:
        self.hwm = self.end_offset
        pending, self.pending = self.pending, []
        for done, outcome in pending:
            done(outcome)
        self.wake()

    def wake(self) -> None:
        for waiter in list(self.waiters):
            if self.hwm > waiter.above or not self.is_leader:
                waiter.cancel()
                waiter.callback()

    def disk_read(self, offset: int, bytes_max: int) -> None:
        """All is in memory."""

    def read(
        self, offset: int, bytes_max: int | None, found: Any = None
    ) -> tuple[int, list[memoryview], int]:
        if not self.is_leader:
            return codes.NOT_LEADER_OR_FOLLOWER, [], -1
        if not self.serving:
            return codes.OFFSET_NOT_AVAILABLE, [], -1
        if not self.start_offset <= offset <= self.end_offset:
            return codes.OFFSET_OUT_OF_RANGE, [], self.hwm
        if bytes_max is None:
            return codes.NONE, [], self.hwm
        found: list[memoryview] = []
        for _, end, data in self.batches:
            if end <= offset or end > self.hwm:
                continue
            if found and sum(map(len, found)) + len(data) > bytes_max:
                break
            found.append(memoryview(data))
        return codes.NONE, found, self.hwm

    def time_search(self, timestamp_ms: int, start: int) -> Callable[[], None]:
        return lambda: None

    def find_time(self, timestamp_ms: int, start: int, found: Any = None) -> TimeAnswer:
        """A batch at a time."""
        for _, end, data in self.batches:
            if start < end <= self.hwm:
                found = find_time(data, timestamp_ms, start=start)
                return TimeAnswer(codes.NONE, None if found is None else (*found, self.generation), end)
        return TimeAnswer(codes.NONE, None, self.hwm)

    def delete_records(self, offset: int, *, deadline: float, done: Callable[[Deleted], None]) -> None:
        """Held back as a produce is."""
        if not self.is_leader:
            done(Deleted(codes.NOT_LEADER_OR_FOLLOWER))
            return
        self.pending.append((done, Deleted(0, offset)))
        if not self.holds:
            self.commit()

    def wait_hwm(self, above: int, callback: Callable[[], None]) -> Waiter:
        waiter = Waiter(above, callback, self.waiters)
        self.waiters.append(waiter)
        return waiter


@dataclass
class FakeTask:
    handle: asyncio.Handle

    def cancel(self) -> bool:
        self.handle.cancel()
        return True


class FakeWorker:
    """Does it in the next turn of the loop."""

    def submit(
        self, task: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[], None]
    ) -> FakeTask:
        return FakeTask(asyncio.get_running_loop().call_soon(lambda: done(task())))

    def close(self) -> None:
        pass


@dataclass
class FakeEnv:
    random: Random = field(default_factory=lambda: Random(1))
    reads: FakeWorker = field(default_factory=FakeWorker)
    searches: FakeWorker = field(default_factory=FakeWorker)


class FakeNode:
    def __init__(self, **settings: Any) -> None:
        settings.setdefault("topics", {"t": 2})
        settings.setdefault("listen_port", 0)
        peers = {2: PeerAddress("10.0.0.2", 9192, "10.0.0.2", 19092), 3: PeerAddress("h", 1, "10.0.0.3", 2)}
        self.config = NodeConfig(cluster_id="c", node_id=1, data_dir="unused", peers=peers, **settings)
        self.env = FakeEnv()
        self.counters = NodeCounters()
        self.partitions = {key: FakePartition() for key in self.config.partitions}

    def describe(self) -> dict[str, Any]:
        return {"node_id": 1}


class FrameClient:
    """Writes and reads whole frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, buffers: list[Any]) -> None:
        self.writer.writelines(buffers)

    async def frame(self) -> bytes:
        size = int.from_bytes(await self.reader.readexactly(4), "big")
        return await self.reader.readexactly(size)

    async def ask(self, buffers: list[Any]) -> bytes:
        self.send(buffers)
        return await self.frame()

    async def closed(self) -> bytes:
        """What still comes until the other side closes."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self.writer.transport.abort()


class Door:
    """A fake node's door: `async with Door(node) as door: client = await door.client()`."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.clients: list[FrameClient] = []

    async def __aenter__(self) -> "Door":
        self.server = KafkaServer(self.node)
        await self.server.start()
        return self

    async def client(self) -> FrameClient:
        client = FrameClient(*await asyncio.open_connection("127.0.0.1", self.server.port))
        self.clients.append(client)
        return client

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        await self.server.stop()
        await until(lambda: self.server.connection_count == 0)
        assert self.server.budget.used_bytes == 0, "bytes of the budget were not given back"


def reader_of(buffers: list[Any]) -> Reader:
    """A Reader behind the size prefix, of a request that was just encoded."""
    return Reader(b"".join(buffers)[4:])
