"""The blocking twin of `rlog.client.cluster`: the same names and arguments, without `async`."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType, TracebackType
from typing import Self

from rlog.client import NodeDescription
from rlog.client import cluster as client
from rlog.client.deletion import Below
from rlog.client.errors import ClientClosed
from rlog.client.metadata import ClusterMetadata, PartitionInfo
from rlog.client.options import MAX_IN_FLIGHT, Acks
from rlog.client.positions import OffsetRange, OutOfRangePolicy, Start
from rlog.errors import RlogError
from rlog.moments import Time
from rlog.records import Compression
from rlog.sync.consumer import Consumer
from rlog.sync.portal import Portal
from rlog.sync.producer import Producer


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
    """A cluster to enter with `with`; no thread is started and nothing is opened before.

    Arguments and errors are those of `rlog.connect`.
    """
    return Cluster(
        client.connect(
            bootstrap,
            client_id=client_id,
            request_timeout_ms=request_timeout_ms,
            connect_timeout_ms=connect_timeout_ms,
            suspect_after_ms=suspect_after_ms,
            retry_backoff_ms=retry_backoff_ms,
            retry_backoff_max_ms=retry_backoff_max_ms,
            random=random,
            wall_clock_ms=wall_clock_ms,
        )
    )


class Cluster:
    """Connections to a cluster, served by one thread in the background; any thread may use it."""

    def __init__(self, cluster: client.Cluster) -> None:
        self._cluster = cluster
        self._portal: Portal | None = None

    def __enter__(self) -> Self:
        """Start the thread and find a node. Raises NotConnected; nothing is left behind."""
        if self._portal is not None:
            raise ClientClosed("a cluster object is entered once; call connect() again")
        self._portal = Portal("rlog")
        try:
            self._portal.run(self._cluster.__aenter__())
        except BaseException:
            self._portal.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything that belongs to the cluster, its thread too; see `rlog.client.Cluster.close`.

        Calls of other threads that still wait raise ClientClosed.
        """
        portal = self._portal
        if portal is None or portal.is_forked or portal.is_closed:
            return
        try:
            portal.run(self._cluster.close())
        finally:
            portal.close()

    def _entered(self) -> Portal:
        if self._portal is None:
            raise ClientClosed("the cluster is not entered; use `with rlog.sync.connect(...)`")
        return self._portal

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
        """A producer for one topic, to be entered with `with`, which flushes at its end.

        Arguments and errors are those of `rlog.client.Cluster.producer`.
        """
        portal = self._entered()
        producer = portal.call(
            lambda: self._cluster.producer(
                topic,
                acks=acks,
                idempotent=idempotent,
                linger_ms=linger_ms,
                compression=compression,
                batch_bytes_max=batch_bytes_max,
                buffer_bytes_max=buffer_bytes_max,
                delivery_timeout_ms=delivery_timeout_ms,
                max_in_flight=max_in_flight,
            )
        )
        return Producer(portal, producer)

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
        """A consumer of one partition, of several, or of all, to be entered with `with`; an iterator of
        records. One that is left without being closed goes on fetching until the cluster is closed.

        Arguments and errors are those of `rlog.client.Cluster.consumer`.
        """
        portal = self._entered()
        consumer = portal.call(
            lambda: self._cluster.consumer(
                topic,
                partition=partition,
                start=start,
                on_out_of_range=on_out_of_range,
                fetch_bytes_max=fetch_bytes_max,
                prefetch_bytes_max=prefetch_bytes_max,
                max_wait_ms=max_wait_ms,
                stall_timeout_ms=stall_timeout_ms,
            )
        )
        return Consumer(portal, consumer)

    # -- asking

    def metadata(self, *, timeout_ms: int | None = None) -> ClusterMetadata:
        """One node's view of all nodes, topics and leaders. Raises DeadlineExceeded."""
        return self._entered().run(self._cluster.metadata(timeout_ms=timeout_ms))

    def topics(self, *, timeout_ms: int | None = None) -> MappingProxyType[str, tuple[PartitionInfo, ...]]:
        """The topics by name, with their partitions and leaders. Raises DeadlineExceeded."""
        return self._entered().run(self._cluster.topics(timeout_ms=timeout_ms))

    def offsets(self, topic: str, *, timeout_ms: int | None = None) -> dict[int, OffsetRange]:
        """Where each partition starts and its committed end. Raises UnknownTopic, DeadlineExceeded."""
        return self._entered().run(self._cluster.offsets(topic, timeout_ms=timeout_ms))

    def start_offset(self, topic: str, partition: int = 0, *, timeout_ms: int | None = None) -> int:
        """Where the partition starts. Raises UnknownTopic, UnknownPartition, DeadlineExceeded."""
        return self._entered().run(self._cluster.start_offset(topic, partition, timeout_ms=timeout_ms))

    def end_offset(self, topic: str, partition: int = 0, *, timeout_ms: int | None = None) -> int:
        """Its committed end: the offset after the last committed record. Raises as `start_offset`."""
        return self._entered().run(self._cluster.end_offset(topic, partition, timeout_ms=timeout_ms))

    def offset_at(
        self, topic: str, partition: int, time: Time, *, timeout_ms: int | None = None
    ) -> int | None:
        """The first record with a timestamp at or after `time`; None when there is none yet.

        time: an aware datetime, or `At(timestamp_ms)`. Raises ConfigurationError, and as `start_offset`.
        """
        return self._entered().run(self._cluster.offset_at(topic, partition, time, timeout_ms=timeout_ms))

    def delete_records(
        self, topic: str, below: Mapping[int, Below], *, timeout_ms: int | None = None
    ) -> dict[int, int]:
        """Delete the records below an offset, for each partition named; returns where each starts now.

        See `rlog.client.Cluster.delete_records`.
        """
        return self._entered().run(self._cluster.delete_records(topic, below, timeout_ms=timeout_ms))

    def describe_nodes(self, *, timeout_ms: int | None = None) -> dict[int, NodeDescription | RlogError]:
        """What each node says of itself, or, for one that does not, why. Raises DeadlineExceeded."""
        return self._entered().run(self._cluster.describe_nodes(timeout_ms=timeout_ms))

    def describe_node(self, node: int | str, *, timeout_ms: int | None = None) -> NodeDescription:
        """What an rlog node says of itself; see `rlog.client.Cluster.describe_node`."""
        return self._entered().run(self._cluster.describe_node(node, timeout_ms=timeout_ms))
