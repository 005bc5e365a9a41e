"""The client's front door: `connect`, and the cluster object that makes producers and consumers."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType, TracebackType
from typing import Self

from rlog.client.connection import Connection
from rlog.client.consumer import Consumer, ConsumerSettings
from rlog.client.deletion import Below, delete_records
from rlog.client.errors import ClientClosed, ConnectionLost
from rlog.client.metadata import ClusterMetadata, Node, PartitionInfo, view_of
from rlog.client.offsets import list_offsets
from rlog.client.options import (
    MAX_IN_FLIGHT,
    Acks,
    assignment,
    check_consumer,
    producer_settings,
)
from rlog.client.positions import OffsetRange, OutOfRangePolicy, Start
from rlog.client.producer import Producer
from rlog.client.router import CONTROL, Router
from rlog.client.settings import Address, ClientSettings, parse_bootstrap
from rlog.clock import wall_clock_ms as system_clock_ms
from rlog.errors import RlogError
from rlog.moments import Time, timestamp_of
from rlog.records import Compression
from rlog.wire.kafka import apis
from rlog.wire.kafka.describe_node import (
    NodeDescription,
    decode_describe_node_response,
    encode_describe_node_request,
)
from rlog.wire.kafka.list_offsets import EARLIEST, LATEST
from rlog.wire.kafka.metadata import decode_metadata_response, encode_metadata_request


def connect(
    bootstrap: str | Sequence[str],
    *,
    client_id: str = "rlog",
    request_timeout_ms: int = 10_000,
    connect_timeout_ms: int = 2_000,
    suspect_after_ms: int = 400,
    retry_backoff_ms: int = 10,
    retry_backoff_max_ms: int = 100,
    random: Random | None = None,
    wall_clock_ms: Callable[[], int] | None = None,
) -> "Cluster":
    """A cluster to enter with `async with`; nothing is opened before.

    bootstrap: ``"host:port,host:port"``; any node that answers is enough to find the others.
    request_timeout_ms: deadline of each call that is given none. The other times: see ClientSettings. random,
    wall_clock_ms: where jitter and timestamps come from; the system's when left out. Raises
    ConfigurationError.
    """
    settings = ClientSettings(
        bootstrap=parse_bootstrap(bootstrap),
        random=Random() if random is None else random,
        wall_clock_ms=system_clock_ms if wall_clock_ms is None else wall_clock_ms,
        client_id=client_id,
        request_timeout_ms=request_timeout_ms,
        connect_timeout_ms=connect_timeout_ms,
        suspect_after_ms=suspect_after_ms,
        retry_backoff_ms=retry_backoff_ms,
        retry_backoff_max_ms=retry_backoff_max_ms,
    )
    return Cluster(settings)


class Cluster:
    """Connections to a cluster, on the loop that entered it. Speaks Kafka's protocol to rlog's nodes."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._router: Router | None = None
        self._is_closed = False
        self._producers: list[Producer] = []
        self._consumers: list[Consumer] = []
        self._lanes = 0

    async def __aenter__(self) -> Self:
        """Find a node. Raises NotConnected, which lists every address and its error; nothing is left
        behind.
        """
        if self._router is not None or self._is_closed:
            raise ClientClosed("a cluster object is entered once; call connect() again")
        self._router = Router(self._settings)
        try:
            await self._router.start(self._router.deadline(None))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End everything that belongs to the cluster: tasks, connections, producers, consumers.

        It always returns, at once: records that are not acknowledged fail. To have them delivered, close or
        flush the producer before. In a forked child it does nothing: the connections are the parent's.
        """
        if self._router is not None:
            if self._router.home.is_forked:
                return
            self._router.home.check()
        self._is_closed = True
        for producer in self._producers:
            producer.abandon()
        self._producers.clear()
        if self._router is not None:
            try:
                for consumer in self._consumers:
                    await consumer.close()
            finally:
                await self._router.close()
        self._consumers.clear()

    def _open_router(self) -> Router:
        if self._router is None:
            raise ClientClosed("the cluster is not entered; use `async with rlog.connect(...)`")
        self._router.check_open()
        return self._router

    # -- producing and consuming

    def producer(
        self,
        topic: str,
        *,
        acks: Acks = "all",
        idempotent: bool = True,
        linger_ms: int = 0,
        compression: Compression = "none",
        batch_bytes_max: int = 1024 * 1024,
        buffer_bytes_max: int = 32 * 1024 * 1024,
        delivery_timeout_ms: int = 30_000,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> Producer:
        """A producer for one topic, to be entered with `async with`, which flushes at its end.

        acks: what a receipt waits for: "all" a flushed majority; "leader" what the topic's acks_floor asks,
        at least the leader's disk; "none" that the socket took the record, whose offset is then unknown (-1)
        and whose loss nobody reports. idempotent: retries never duplicate; without it, a batch of unknown
        outcome is given up, not retried. Only acks="all" can be so. linger_ms: how long a batch waits for
        company; 0 sends at the end of the tick. batch_bytes_max: of one batch, before compression; at most
        64 MiB, above which no reader of rlog's takes it. buffer_bytes_max: of all records admitted and not
        resolved; `send` waits. delivery_timeout_ms: from the start of its batch a record is acknowledged or
        given up within this time. max_in_flight: batches per partition sent without waiting for each other.
        Raises ConfigurationError.
        """
        settings = producer_settings(
            acks=acks,
            idempotent=idempotent,
            linger_ms=linger_ms,
            compression=compression,
            batch_bytes_max=batch_bytes_max,
            buffer_bytes_max=buffer_bytes_max,
            delivery_timeout_ms=delivery_timeout_ms,
            max_in_flight=max_in_flight,
        )
        producer = Producer(self._open_router(), topic, settings)
        self._producers = [each for each in self._producers if not each.is_closed]
        self._producers.append(producer)
        return producer

    def consumer(
        self,
        topic: str,
        *,
        partition: int | Sequence[int] | None = None,
        start: Start | Mapping[int, Start] = "earliest",
        on_out_of_range: OutOfRangePolicy = "raise",
        fetch_bytes_max: int = 8 * 1024 * 1024,
        prefetch_bytes_max: int = 16 * 1024 * 1024,
        max_wait_ms: int = 500,
        stall_timeout_ms: int = 60_000,
    ) -> Consumer:
        """A consumer of one partition, of several, or of all, to be entered with `async with`; an async
        iterator of records. One that is left without being closed goes on fetching until the cluster is
        closed.

        start: "earliest", "latest", an offset, or a moment (an aware datetime or `At`): the first record at
        or after it. A mapping gives each partition that is to be read its own start. on_out_of_range: what
        happens when the next offset is not in the log, removed by retention for instance: OffsetOutOfRange,
        or reading on at that end of the log, with a warning in the log `rlog.client`.

        fetch_bytes_max: of one answer, at most 64 MiB. prefetch_bytes_max: fetched ahead of the reader, all
        partitions together (one batch per partition may exceed it). max_wait_ms: of a long poll.
        stall_timeout_ms: a leader silent for so long raises. Raises ConfigurationError.
        """
        settings = ConsumerSettings(
            fetch_bytes_max, prefetch_bytes_max, max_wait_ms, stall_timeout_ms, on_out_of_range
        )
        check_consumer(settings)
        partitions = assignment(partition, start)
        self._lanes += 1
        consumer = Consumer(self._open_router(), topic, partitions, start, settings, f"fetch-{self._lanes}")
        self._consumers = [each for each in self._consumers if not each.is_closed]
        self._consumers.append(consumer)
        return consumer

    # -- asking

    async def metadata(self, *, timeout_ms: int | None = None) -> ClusterMetadata:
        """One node's view of all nodes, topics and leaders. Raises DeadlineExceeded."""
        router = self._open_router()
        return await router.ask_any("asking for metadata", self._metadata_once, router.deadline(timeout_ms))

    async def _metadata_once(self, connection: Connection, deadline: float) -> ClusterMetadata:
        version = connection.version(apis.METADATA)
        frame = await connection.request(
            lambda correlation: encode_metadata_request(
                correlation, self._settings.client_id, None, version=version
            ),
            deadline,
        )
        return view_of(decode_metadata_response(frame, version))

    async def topics(
        self, *, timeout_ms: int | None = None
    ) -> MappingProxyType[str, tuple[PartitionInfo, ...]]:
        """The topics by name, with their partitions and leaders. Raises DeadlineExceeded."""
        return (await self.metadata(timeout_ms=timeout_ms)).topics

    async def offsets(self, topic: str, *, timeout_ms: int | None = None) -> dict[int, OffsetRange]:
        """Where each partition starts and its committed end. Raises UnknownTopic, DeadlineExceeded."""
        router = self._open_router()
        deadline = router.deadline(timeout_ms)
        partitions = range(await router.load_topic(topic, deadline))
        starts = await list_offsets(router, topic, dict.fromkeys(partitions, EARLIEST), deadline)
        ends = await list_offsets(router, topic, dict.fromkeys(partitions, LATEST), deadline)
        return {each: OffsetRange(starts[each], ends[each]) for each in partitions}

    async def start_offset(self, topic: str, partition: int = 0, *, timeout_ms: int | None = None) -> int:
        """Where the partition starts. Raises UnknownTopic, UnknownPartition, DeadlineExceeded."""
        return await self._list_offset(topic, partition, EARLIEST, timeout_ms)

    async def end_offset(self, topic: str, partition: int = 0, *, timeout_ms: int | None = None) -> int:
        """Its committed end: the offset after the last committed record. Raises as `start_offset`."""
        return await self._list_offset(topic, partition, LATEST, timeout_ms)

    async def offset_at(
        self, topic: str, partition: int, time: Time, *, timeout_ms: int | None = None
    ) -> int | None:
        """The first record with a timestamp at or after `time`; None when there is none yet.

        time: an aware datetime, or `At(timestamp_ms)`. Raises ConfigurationError, and as `start_offset`.
        """
        offset = await self._list_offset(topic, partition, timestamp_of(time), timeout_ms)
        return offset if offset >= 0 else None

    async def _list_offset(
        self, topic: str, partition: int, timestamp_ms: int, timeout_ms: int | None
    ) -> int:
        router = self._open_router()
        deadline = router.deadline(timeout_ms)
        return (await list_offsets(router, topic, {partition: timestamp_ms}, deadline))[partition]

    async def delete_records(
        self, topic: str, below: Mapping[int, Below], *, timeout_ms: int | None = None
    ) -> dict[int, int]:
        """Delete the records below an offset, for each partition named; returns where each starts now.

        below: by partition the first offset to keep, or "latest" for all that is committed. An offset that is
        deleted already changes nothing. The partition starts there at once; room on the disks is freed by and
        by. It returns when a majority has the new start on disk. Raises OffsetOutOfRange for an offset that
        is not committed, ConfigurationError, UnsupportedNode, and as `start_offset`; then other partitions
        named may be done. When a leader is lost before it answers, its successor is asked again: "latest"
        then stands for what is committed by that time.
        """
        router = self._open_router()
        return await delete_records(router, topic, below, router.deadline(timeout_ms))

    async def describe_nodes(
        self, *, timeout_ms: int | None = None
    ) -> dict[int, NodeDescription | RlogError]:
        """What each node says of itself, or, for one that does not, why. Raises DeadlineExceeded."""
        nodes = (await self.metadata(timeout_ms=timeout_ms)).nodes

        async def ask(node: Node) -> NodeDescription | RlogError:
            try:
                return await self.describe_node(str(node.address), timeout_ms=timeout_ms)
            except RlogError as error:
                return error

        return dict(zip(nodes, await asyncio.gather(*map(ask, nodes.values())), strict=True))

    async def describe_node(self, node: int | str, *, timeout_ms: int | None = None) -> NodeDescription:
        """What an rlog node says of itself: role, generation, high-water mark, lag of each partition.

        node: its id, or "host:port". Raises ConnectionLost when it does not answer (nothing is retried: a
        node that is down is news), UnsupportedNode for a broker that is not rlog's, DeadlineExceeded.
        """
        router = self._open_router()
        deadline = router.deadline(timeout_ms)
        connection = await router.pool.get(self._address(router, node), CONTROL, deadline)
        connection.version(apis.DESCRIBE_NODE)
        frame = await connection.request(
            lambda correlation: encode_describe_node_request(correlation, self._settings.client_id), deadline
        )
        return decode_describe_node_response(frame)

    def _address(self, router: Router, node: int | str) -> Address:
        if isinstance(node, str):
            return parse_bootstrap(node)[0]
        known = router.cache.nodes.get(node)
        if known is None:
            raise ConnectionLost(
                f"node {node} is not in the cluster's metadata; known are {sorted(router.cache.nodes)}",
                outcome="no",
            )
        return known.address
