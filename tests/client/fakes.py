"""A scripted cluster that speaks real frames in virtual time, and a world to put clients into.

The nodes share one log per partition, as if replication were instant, and judge sequences with the real
producer table. What goes wrong is scripted: `script` holds, per request kind, the treatments of the next
requests, in order; a request without one is served.

    Serve()            do it and answer
    Refuse(code)       do nothing, answer with an error
    Forget(code)       do it, answer with an error (the timeout after an append)
    Hang()             do nothing and never answer; later requests of the connection wait behind it
    Late(seconds)      do it, answer later
    Reset(applied)     do it or not, then reset the connection
    Garble()           answer with something that breaks the protocol
"""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import rlog
from rlog._core import check_client_batches, decode_records
from rlog.errors import OutOfOrder
from rlog.log.producers import Duplicate, ProducerTable
from rlog.testing.loop import Process, SimLoop
from rlog.testing.network import Network, NetworkSettings
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka._hot import (
    FrameReceiver,
    Reader,
    decode_fetch_request,
    decode_produce_request,
    decode_rlog_produce_request,
    encode_fetch_response,
    encode_produce_response,
    encode_rlog_produce_response,
    read_request_header,
)
from rlog.wire.kafka.api_versions import encode_api_versions_response
from rlog.wire.kafka.delete_records import (
    HIGH_WATER_MARK,
    decode_delete_records_request,
    encode_delete_records_response,
)
from rlog.wire.kafka.describe_node import encode_describe_node_response
from rlog.wire.kafka.init_producer_id import encode_init_producer_id_response
from rlog.wire.kafka.list_offsets import (
    EARLIEST,
    LATEST,
    decode_list_offsets_request,
    encode_list_offsets_response,
)
from rlog.wire.kafka.messages import (
    Broker,
    DeletedPartition,
    DeleteRecordsPartition,
    FetchedPartition,
    FetchPartition,
    FetchResponse,
    InitProducerIdResponse,
    ListedPartition,
    MetadataResponse,
    PartitionMetadata,
    PartitionReceipt,
    ProducedPartition,
    RequestHeader,
    TopicMetadata,
)
from rlog.wire.kafka.metadata import decode_metadata_request, encode_metadata_response

T = TypeVar("T")
PORT = 9092
# A test about producing means both ways of it.
KINDS = {**apis.NAMES, apis.RLOG_PRODUCE: apis.NAMES[apis.PRODUCE]}
OF_KAFKA = tuple(api for api in apis.ADVERTISED if api.api_key < 32000)


@dataclass
class Serve:
    pass


@dataclass
class Refuse:
    code: int


@dataclass
class Forget:
    code: int


@dataclass
class Hang:
    pass


@dataclass
class Late:
    seconds: float


@dataclass
class Reset:
    applied: bool


@dataclass
class Garble:
    pass


Treatment = Serve | Refuse | Forget | Hang | Late | Reset | Garble


@dataclass
class FakeLog:
    """One partition: stamped batches with their base offsets, and who leads."""

    leader: int = 1
    generation: int = 1
    start_offset: int = 0
    append_time_ms: int = -1
    batches: list[tuple[int, bytes]] = field(default_factory=list)
    producers: ProducerTable = field(default_factory=ProducerTable)
    end_offset: int = 0
    grown: list[Callable[[], None]] = field(default_factory=list)

    def append(self, records: bytes) -> tuple[int, int]:
        """(error, base offset), as a leader answers."""
        (info,) = check_client_batches(records, batch_bytes_max=1 << 30)
        if info.producer_id >= 0:
            try:
                judged = self.producers.check(
                    info.producer_id, info.producer_epoch, info.base_sequence, info.count
                )
            except OutOfOrder:
                return codes.OUT_OF_ORDER_SEQUENCE_NUMBER, -1
            if isinstance(judged, Duplicate):
                return codes.NONE, judged.base_offset
        base_offset = self.end_offset
        stamped = bytearray(records)
        stamped[0:8] = base_offset.to_bytes(8, "big")
        stamped[12:16] = self.generation.to_bytes(4, "big")
        self.end_offset += info.count
        if info.producer_id >= 0:
            self.producers.appended(
                [
                    (
                        info.producer_id,
                        info.producer_epoch,
                        info.base_sequence,
                        info.last_sequence,
                        base_offset,
                        self.end_offset - 1,
                        0,
                    )
                ]
            )
        self.batches.append((base_offset, bytes(stamped)))
        grown, self.grown = self.grown, []
        for wake in grown:
            wake()
        return codes.NONE, base_offset

    def offset_for(self, timestamp_ms: int) -> int:
        """As ListOffsets understands a timestamp: an end of the log, or the first record at or after it."""
        if timestamp_ms == EARLIEST:
            return self.start_offset
        if timestamp_ms == LATEST:
            return self.end_offset
        records = [record for _, data in self.batches for record in decode_records(data)]
        found = [
            record.offset
            for record in records
            if record.timestamp_ms >= timestamp_ms and record.offset >= self.start_offset
        ]
        return min(found, default=-1)

    def read(self, offset: int, bytes_max: int) -> list[bytes]:
        """Whole batches from the one that holds `offset`; at least one."""
        found: list[bytes] = []
        if offset >= self.end_offset:
            return found
        first = bisect_right(self.batches, offset, key=lambda batch: batch[0]) - 1
        for _, data in self.batches[first:]:
            if found and sum(map(len, found)) + len(data) > bytes_max:
                break
            found.append(data)
        return found


class FakeCluster:
    """Nodes 1 to `nodes` at hosts n1, n2, …; see the module."""

    def __init__(self, loop: SimLoop, network: Network, nodes: int, topics: dict[str, int]) -> None:
        self.loop = loop
        self.network = network
        self.nodes = {node_id: FakeNode(self, node_id) for node_id in range(1, nodes + 1)}
        self.logs = {(topic, each): FakeLog() for topic, count in topics.items() for each in range(count)}
        self.script: dict[str, deque[tuple[int | None, Treatment]]] = {}
        self.seen: list[tuple[int, str]] = []  # (node, request) in order of arrival
        self.produced: list[tuple[int, int, int, int]] = []  # (node, producer id, sequence, count)
        self.producer_ids = iter(range(1000, 2000))
        self.cluster_id = "fake"
        self.advertised = apis.ADVERTISED

    def treat(self, request: str, *treatments: Treatment, node: int | None = None) -> None:
        """What happens to the next requests of this kind, at any node or at one."""
        self.script.setdefault(request, deque()).extend((node, each) for each in treatments)

    def treatment(self, node: int, request: str) -> Treatment:
        waiting = self.script.get(request, deque())
        for index, (at, treatment) in enumerate(waiting):
            if at in (None, node):
                del waiting[index]
                return treatment
        return Serve()

    def elect(self, leader: int, topic: str = "orders", partition: int = 0) -> None:
        log = self.logs[topic, partition]
        log.leader, log.generation = leader, log.generation + 1
        grown, log.grown = log.grown, []
        for wake in grown:
            wake()

    def count(self, request: str) -> int:
        return sum(kind == request for _, kind in self.seen)

    def metadata(self, topics: list[str] | None) -> MetadataResponse:
        names = sorted({topic for topic, _ in self.logs})
        listed = [
            TopicMetadata(codes.NONE, name, self._partitions(name))
            if name in names
            else TopicMetadata(codes.UNKNOWN_TOPIC_OR_PARTITION, name, [])
            for name in (names if topics is None else topics)
        ]
        brokers = [Broker(node, f"n{node}", PORT) for node in self.nodes]
        return MetadataResponse(brokers, self.cluster_id, 1, listed)

    def _partitions(self, name: str) -> list[PartitionMetadata]:
        everybody = list(self.nodes)
        return [
            PartitionMetadata(codes.NONE, partition, log.leader, log.generation, everybody, everybody)
            for (topic, partition), log in self.logs.items()
            if topic == name
        ]


class FakeNode:
    """A process on its own host; `down` and `up` are a kill and a restart."""

    def __init__(self, cluster: FakeCluster, node_id: int) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.host = f"n{node_id}"
        self.connections: list[FakeConnection] = []
        self.incarnation = 0
        self.process: Process
        cluster.network.add_host(self.host)
        self.up()

    def up(self) -> None:
        self.incarnation += 1
        self.process = Process(self.host, self.incarnation)
        self.process.context().run(self.cluster.network.listen, lambda: FakeConnection(self), self.host, PORT)

    def down(self) -> None:
        self.cluster.loop.kill(self.process)
        self.cluster.network.process_killed(self.process)

    def freeze(self) -> None:
        self.cluster.loop.freeze(self.process)

    def thaw(self) -> None:
        self.cluster.loop.thaw(self.process)


class FakeConnection(asyncio.BufferedProtocol):
    """Answers in order: each answer waits for the one before it."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.cluster = node.cluster
        self.receiver = FrameReceiver(1 << 28)
        self.requests: deque[bytes] = deque()
        self.is_busy = False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.node.connections.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.node.connections.remove(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.receiver.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        for frame in self.receiver.received(nbytes):
            reader = Reader(frame)
            self.cluster.seen.append((self.node.node_id, KINDS[read_request_header(reader).api_key]))
            self.requests.append(bytes(frame))
        self.work()

    def work(self) -> None:
        while self.requests and not self.is_busy and not self.transport.is_closing():
            reader = Reader(self.requests.popleft())
            header = read_request_header(reader)
            treatment = self.cluster.treatment(self.node.node_id, KINDS[header.api_key])
            self.is_busy = True
            self.handle(header, reader, treatment)

    def handle(self, header: RequestHeader, reader: Reader, treatment: Treatment) -> None:
        if isinstance(treatment, Hang):
            return
        if isinstance(treatment, Reset) and not treatment.applied:
            self.transport.abort()
        elif isinstance(treatment, Garble):
            self.transport.write(b"\x00\x00\x00\x04\x7f\x7f\x7f\x7f")
        elif header.api_key == apis.FETCH:
            self.fetch(header, reader, treatment)
        else:
            frame = self.answer(header, reader, treatment)
            if isinstance(treatment, Reset):
                self.transport.abort()
            elif isinstance(treatment, Late):
                self.cluster.loop.call_later(treatment.seconds, self.reply, frame)
            else:
                self.reply(frame)

    def reply(self, frame: list[Any]) -> None:
        self.transport.writelines(frame)
        self.is_busy = False
        self.work()

    def answer(self, header: RequestHeader, reader: Reader, treatment: Treatment) -> list[Any]:
        correlation, version = header.correlation_id, header.api_version
        refused = treatment.code if isinstance(treatment, Refuse | Forget) else codes.NONE
        if header.api_key == apis.API_VERSIONS:
            return encode_api_versions_response(correlation, version, self.cluster.advertised, error=refused)
        if header.api_key == apis.METADATA:
            topics = decode_metadata_request(reader, version).topics
            return encode_metadata_response(correlation, version, self.cluster.metadata(topics))
        if header.api_key == apis.INIT_PRODUCER_ID:
            answer = InitProducerIdResponse(refused, next(self.cluster.producer_ids), 0)
            return encode_init_producer_id_response(correlation, answer)
        if header.api_key == apis.DESCRIBE_NODE:
            return encode_describe_node_response(correlation, {"node_id": self.node.node_id})
        if header.api_key == apis.DELETE_RECORDS:
            return self.delete_records(correlation, reader, treatment)
        if header.api_key == apis.LIST_OFFSETS:
            return self.list_offsets(correlation, version, reader, refused)
        assert header.api_key in (apis.PRODUCE, apis.RLOG_PRODUCE)
        return self.produce(header, reader, treatment)

    def log_of(self, topic: str, partition: int) -> tuple[FakeLog, int]:
        log = self.cluster.logs[topic, partition]
        is_leader = log.leader == self.node.node_id
        return log, codes.NONE if is_leader else codes.NOT_LEADER_OR_FOLLOWER

    def list_offsets(self, correlation: int, version: int, reader: Reader, refused: int) -> list[Any]:
        ((topic, questions),) = decode_list_offsets_request(reader, version).topics
        listed = []
        for question in questions:
            log, error = self.log_of(topic, question.partition)
            offset = log.offset_for(question.timestamp_ms)
            listed.append(ListedPartition(question.partition, refused or error, -1, offset, log.generation))
        return encode_list_offsets_response(correlation, version, [(topic, listed)])

    def delete_records(self, correlation: int, reader: Reader, treatment: Treatment) -> list[Any]:
        ((topic, asked),) = decode_delete_records_request(reader).topics
        refused = treatment.code if isinstance(treatment, Refuse) else codes.NONE
        deleted = [self.deleted(topic, each, refused) for each in asked]
        return encode_delete_records_response(correlation, [(topic, deleted)])

    def deleted(self, topic: str, asked: DeleteRecordsPartition, refused: int) -> DeletedPartition:
        log, error = self.log_of(topic, asked.partition)
        if not (refused or error) and asked.offset > log.end_offset:
            error = codes.OFFSET_OUT_OF_RANGE
        if refused or error:
            return DeletedPartition(asked.partition, refused or error)
        below = log.end_offset if asked.offset == HIGH_WATER_MARK else asked.offset
        log.start_offset = max(log.start_offset, below)
        return DeletedPartition(asked.partition, codes.NONE, log.start_offset)

    def produce(self, header: RequestHeader, reader: Reader, treatment: Treatment) -> list[Any]:
        is_rlog = header.api_key == apis.RLOG_PRODUCE
        version = header.api_version
        request = decode_rlog_produce_request(reader) if is_rlog else decode_produce_request(reader, version)
        ((topic, (produced,)),) = request.topics
        assert produced.records is not None
        (info,) = check_client_batches(produced.records, batch_bytes_max=1 << 30)
        self.cluster.produced.append((self.node.node_id, info.producer_id, info.base_sequence, info.count))
        log, error = self.log_of(topic, produced.partition)
        base_offset = -1
        if isinstance(treatment, Refuse):
            error = treatment.code
        elif not error:
            error, base_offset = log.append(bytes(produced.records))
        if isinstance(treatment, Forget):
            error, base_offset = treatment.code, -1
        if request.acks == 0:
            if error:
                self.transport.abort()
            return []
        place = (produced.partition, error, base_offset)
        if is_rlog:
            receipt = PartitionReceipt(
                *place, log.generation, log.append_time_ms, log.start_offset, "majority", (1, 2), "why"
            )
            return encode_rlog_produce_response(header.correlation_id, [(topic, [receipt])])
        answer = ProducedPartition(*place, log.append_time_ms, log.start_offset)
        return encode_produce_response(header.correlation_id, version, [(topic, [answer])])

    def fetch(self, header: RequestHeader, reader: Reader, treatment: Treatment) -> None:
        """A long poll: answers when something is there, the leader moved, or the wait is over."""
        request = decode_fetch_request(reader, header.api_version)
        ((topic, questions),) = request.topics
        refused = treatment.code if isinstance(treatment, Refuse) else codes.NONE
        is_open = True

        def attempt(is_last: bool = False) -> None:
            nonlocal is_open
            if not is_open:
                return
            answers = [self.fetched(topic, each, request.bytes_max, refused) for each in questions]
            if is_last or any(answer.error or answer.records for answer in answers):
                is_open = False
                timer.cancel()
                response = FetchResponse(codes.NONE, 0, [(topic, answers)])
                frame = encode_fetch_response(header.correlation_id, header.api_version, response)
                if isinstance(treatment, Reset):
                    self.transport.abort()
                elif isinstance(treatment, Late):
                    self.cluster.loop.call_later(treatment.seconds, self.reply, frame)
                else:
                    self.reply(frame)

        context = self.node.process.context()

        def wake() -> None:
            self.cluster.loop.call_soon(attempt, context=context)

        timer = self.cluster.loop.call_later(request.max_wait_ms / 1000, attempt, True)
        for each in questions:
            self.cluster.logs[topic, each.partition].grown.append(wake)
        attempt()

    def fetched(self, topic: str, question: FetchPartition, bytes_max: int, refused: int) -> FetchedPartition:
        log, error = self.log_of(topic, question.partition)
        error = refused or error
        if not error and not log.start_offset <= question.fetch_offset <= log.end_offset:
            error = codes.OFFSET_OUT_OF_RANGE
        records = () if error else log.read(question.fetch_offset, min(bytes_max, question.bytes_max))
        return FetchedPartition(question.partition, error, log.end_offset, log.start_offset, records)


class World:
    """Three nodes and a client host on one virtual-time loop."""

    def __init__(self, *, seed: int = 1, nodes: int = 3, topics: dict[str, int] | None = None) -> None:
        self.loop = SimLoop()
        self.network = Network(self.loop, Random(seed), NetworkSettings(split=0.2))
        self.network.add_host("client")
        self.random = Random(seed)
        self.cluster = FakeCluster(self.loop, self.network, nodes, topics or {"orders": 1})

    def connect(self, bootstrap: str = "n1,n2,n3", **settings: Any) -> rlog.Cluster:
        settings = {"random": self.random, "wall_clock_ms": lambda: 1_700_000_000_000, **settings}
        return rlog.connect(bootstrap, **settings)

    def run(self, program: Coroutine[Any, Any, T], *, seconds: float = 120.0) -> T:
        """Run it on the client's host; it must end within `seconds` of virtual time."""
        context = Process("client", 1).context()
        task = self.loop.create_task(program, context=context)

        async def bounded() -> T:
            async with asyncio.timeout(seconds):
                return await task

        return self.loop.run_until_complete(bounded())

    def open_connections(self) -> int:
        return sum(len(node.connections) for node in self.cluster.nodes.values())


@contextmanager
def world(**settings: Any) -> Iterator[World]:
    """A world in which nothing may be left over: no failure, no task, no connection of the client."""
    made = World(**settings)
    yield made
    host = made.network.hosts["client"]
    tasks = [task for task in asyncio.all_tasks(made.loop) if not task.done()]
    left = (len(host.connections), [task.get_name() for task in tasks])
    made.loop.dispose()
    assert not made.loop.failures, "\n".join(made.loop.failures)
    assert left == (0, [])


async def until(condition: Callable[[], bool], *, seconds: float = 30.0, step: float = 0.001) -> None:
    """Wait in virtual time, looking every `step` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, "what was waited for did not happen"
        await asyncio.sleep(step)
