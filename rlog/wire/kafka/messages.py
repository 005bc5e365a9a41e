"""What the Kafka protocol's requests and answers say, as plain tuples; one type for all versions.

A field that a version lacks is left out when writing and takes its default when reading. The published
schemas call a generation "leader epoch" and the high-water mark "high watermark"; here they have rlog's
names.
Lists of (topic name, partitions) keep the grouping of the wire.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rlog.records import Waited

Buffer = bytes | bytearray | memoryview


class RequestHeader(NamedTuple):
    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None


class ProducePartition(NamedTuple):
    """records: batches for one partition, a view into the request; None when the client sent null."""

    partition: int
    records: memoryview | None


class ProduceRequest(NamedTuple):
    """acks: 0, 1 or -1 (all); other values are the client's mistake. timeout_ms: how long it will wait."""

    transactional_id: str | None
    acks: int
    timeout_ms: int
    topics: list[tuple[str, list[ProducePartition]]]


class ProducedPartition(NamedTuple):
    partition: int
    error: int
    base_offset: int = -1
    log_append_time_ms: int = -1
    log_start_offset: int = -1


class PartitionReceipt(NamedTuple):
    """What RlogProduce answers for one partition; the offsets and the generation are -1 on an error.

    generation: of the leader that took the records. waited, flushed_by: as `rlog.Receipt` has them.
    message: what an error code does not say; "" when there is no more to say.
    """

    partition: int
    error: int
    base_offset: int = -1
    generation: int = -1
    log_append_time_ms: int = -1
    log_start_offset: int = -1
    waited: Waited = "majority"
    flushed_by: tuple[int, ...] = ()
    message: str = ""


class FetchPartition(NamedTuple):
    """generation: the one the client believes in, -1 for no check. bytes_max: for this partition."""

    partition: int
    fetch_offset: int
    bytes_max: int
    generation: int = -1


class FetchRequest(NamedTuple):
    """bytes_min, bytes_max: over the whole answer. isolation_level: 1 for committed only."""

    max_wait_ms: int
    bytes_min: int
    bytes_max: int
    topics: Sequence[tuple[str, Sequence[FetchPartition]]]
    isolation_level: int = 0
    session_id: int = 0
    session_epoch: int = -1
    replica_id: int = -1


class FetchedPartition(NamedTuple):
    """records: buffers that lie one after the other on the wire; a single view after decoding."""

    partition: int
    error: int
    hwm: int = -1
    log_start_offset: int = -1
    records: Sequence[Buffer] = ()
    last_stable_offset: int = -1


class FetchResponse(NamedTuple):
    error: int
    session_id: int
    topics: list[tuple[str, list[FetchedPartition]]]


class Broker(NamedTuple):
    node_id: int
    host: str
    port: int


class PartitionMetadata(NamedTuple):
    """leader: node id, -1 when none is known. in_sync: replicas within the lag bound now."""

    error: int
    partition: int
    leader: int
    generation: int
    replicas: Sequence[int]
    in_sync: Sequence[int]
    offline: Sequence[int] = ()


class TopicMetadata(NamedTuple):
    error: int
    name: str
    partitions: Sequence[PartitionMetadata]
    internal: bool = False


class MetadataRequest(NamedTuple):
    """topics: None for all."""

    topics: list[str] | None
    allow_topic_creation: bool = True


class MetadataResponse(NamedTuple):
    brokers: Sequence[Broker]
    cluster_id: str | None
    controller_id: int
    topics: Sequence[TopicMetadata]


class ApiVersionsRequest(NamedTuple):
    """The client's own name and version, for logs only: taken as they come."""

    software_name: str = ""
    software_version: str = ""


class ApiVersion(NamedTuple):
    api_key: int
    version_min: int
    version_max: int


class ApiVersionsResponse(NamedTuple):
    error: int
    versions: Sequence[ApiVersion]


class ListOffsetsPartition(NamedTuple):
    """timestamp_ms: -2 asks for the earliest offset, -1 for the latest. generation: -1 for no check."""

    partition: int
    timestamp_ms: int
    generation: int = -1


class ListOffsetsRequest(NamedTuple):
    topics: Sequence[tuple[str, Sequence[ListOffsetsPartition]]]
    isolation_level: int = 0


class ListedPartition(NamedTuple):
    partition: int
    error: int
    timestamp_ms: int = -1
    offset: int = -1
    generation: int = -1


class DeleteRecordsPartition(NamedTuple):
    """offset: the records below it go; -1 for all that is committed."""

    partition: int
    offset: int


class DeleteRecordsRequest(NamedTuple):
    """timeout_ms: how long the client will wait."""

    topics: Sequence[tuple[str, Sequence[DeleteRecordsPartition]]]
    timeout_ms: int


class DeletedPartition(NamedTuple):
    """log_start_offset: the first offset that is left (the schema's "low watermark"); -1 on an error."""

    partition: int
    error: int
    log_start_offset: int = -1


class InitProducerIdRequest(NamedTuple):
    transactional_id: str | None = None
    transaction_timeout_ms: int = 2**31 - 1


class InitProducerIdResponse(NamedTuple):
    error: int
    producer_id: int = -1
    producer_epoch: int = -1


class FindCoordinatorRequest(NamedTuple):
    """key_type: 0 for the group named `key`, 1 for the transactional producer of that name."""

    key: str
    key_type: int = 0


class FindCoordinatorResponse(NamedTuple):
    error: int
    message: str | None = None
    node_id: int = -1
    host: str = ""
    port: int = -1
