"""The client's front door: `connect`, and the cluster object that makes producers and consumers."""

from collections.abc import Callable, Sequence
from random import Random
from types import TracebackType
from typing import Any, Final, Literal, Self

from rlog.client.clock import wall_clock_ms as system_clock_ms
from rlog.client.connection import Connection
from rlog.client.consumer import Consumer, ConsumerSettings
from rlog.client.cursor import Start
from rlog.client.errors import ClientClosed, ConnectionLost
from rlog.client.metadata import ClusterMetadata, view_of
from rlog.client.offsets import list_offset
from rlog.client.partition_queue import ProducerSettings
from rlog.client.producer import Producer
from rlog.client.router import CONTROL, Router
from rlog.client.settings import Address, ClientSettings, parse_bootstrap, require_positive
from rlog.errors import ConfigurationError
from rlog.wire.kafka import apis
from rlog.wire.kafka.describe_node import decode_describe_node_response, encode_describe_node_request
from rlog.wire.kafka.metadata import decode_metadata_response, encode_metadata_request

MAX_IN_FLIGHT: Final = 5  # leaders remember this many batches of a producer (KIP-98)
ACKS: Final = {"all": -1, "leader": 1}


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
    """Connections to a cluster, on the loop that entered it. Works against rlog and against Kafka."""

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
        flush the producer before.
        """
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
        acks: Literal["all", "leader"] = "all",
        idempotent: bool = True,
        linger_ms: int = 0,
        compression: Literal["none", "lz4"] = "none",
        batch_bytes_max: int = 1024 * 1024,
        buffer_bytes_max: int = 32 * 1024 * 1024,
        delivery_timeout_ms: int = 30_000,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> Producer:
        """A producer for one topic, to be entered with `async with`, which flushes at its end.

        idempotent: retries never duplicate; without it, a batch of unknown outcome is given up, not retried.
        linger_ms: how long a batch waits for company; 0 sends at the end of the tick. batch_bytes_max: of one
        batch, before compression. buffer_bytes_max: of all records admitted and not resolved; `send` waits.
        delivery_timeout_ms: from the start of its batch a record is acknowledged or given up within this
        time.
        max_in_flight: batches per partition sent without waiting for each other. Raises ConfigurationError.
        """
        if idempotent and (acks != "all" or not 1 <= max_in_flight <= MAX_IN_FLIGHT):
            raise ConfigurationError(
                f"an idempotent producer needs acks='all' and max_in_flight of 1 to {MAX_IN_FLIGHT}; "
                f"not acks={acks!r} and max_in_flight={max_in_flight}"
            )
        for name, value in (
            ("batch_bytes_max", batch_bytes_max),
            ("delivery_timeout_ms", delivery_timeout_ms),
            ("max_in_flight", max_in_flight),
        ):
            require_positive(name, value)
        if buffer_bytes_max < batch_bytes_max:
            raise ConfigurationError("buffer_bytes_max is less than batch_bytes_max; make it larger")
        if acks not in ACKS or linger_ms < 0 or compression not in ("none", "lz4"):
            raise ConfigurationError(
                f"acks={acks!r} must be 'all' or 'leader', linger_ms={linger_ms} at least 0, "
                f"compression={compression!r} 'none' or 'lz4'"
            )
        settings = ProducerSettings(
            acks=ACKS[acks],
            is_idempotent=idempotent,
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
        partition: int | None = None,
        start: Start = "earliest",
        fetch_bytes_max: int = 8 * 1024 * 1024,
        prefetch_bytes_max: int = 16 * 1024 * 1024,
        max_wait_ms: int = 500,
        stall_timeout_ms: int = 60_000,
    ) -> Consumer:
        """A consumer of one partition, or of all: an async iterator of records, also to be entered.

        start: "earliest", "latest", or an offset. fetch_bytes_max: of one answer. prefetch_bytes_max: fetched
        ahead of the reader, all partitions together (one batch per partition may exceed it). max_wait_ms: of
        a long poll. stall_timeout_ms: a leader silent for so long raises. Raises ConfigurationError.
        """
        for name, value in (
            ("fetch_bytes_max", fetch_bytes_max),
            ("prefetch_bytes_max", prefetch_bytes_max),
            ("max_wait_ms", max_wait_ms),
            ("stall_timeout_ms", stall_timeout_ms),
        ):
            require_positive(name, value)
        if start not in ("earliest", "latest") and (not isinstance(start, int) or start < 0):
            raise ConfigurationError(f"start={start!r} is neither 'earliest', 'latest' nor an offset")
        settings = ConsumerSettings(fetch_bytes_max, prefetch_bytes_max, max_wait_ms, stall_timeout_ms)
        self._lanes += 1
        consumer = Consumer(self._open_router(), topic, partition, start, settings, f"fetch-{self._lanes}")
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

    async def start_offset(self, topic: str, partition: int = 0, *, timeout_ms: int | None = None) -> int:
        """Where the partition starts. Raises UnknownTopic, UnknownPartition, DeadlineExceeded."""
        router = self._open_router()
        return await list_offset(router, topic, partition, "earliest", router.deadline(timeout_ms))

    async def end_offset(self, topic: str, partition: int = 0, *, timeout_ms: int | None = None) -> int:
        """Its committed end: the offset after the last committed record. Raises as `start_offset`."""
        router = self._open_router()
        return await list_offset(router, topic, partition, "latest", router.deadline(timeout_ms))

    async def describe_node(self, node: int | str, *, timeout_ms: int | None = None) -> dict[str, Any]:
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
