"""Metadata 0 to 8: the nodes, the topics, and who leads which partition."""

from collections.abc import Sequence

from rlog.wire.kafka._hot import Reader, Writer, request_writer, response_writer
from rlog.wire.kafka.apis import METADATA
from rlog.wire.kafka.messages import (
    Broker,
    Buffer,
    MetadataRequest,
    MetadataResponse,
    PartitionMetadata,
    TopicMetadata,
)

# "Not asked for", as the schema writes sets of authorized operations.
OPERATIONS_UNKNOWN = -(2**31)


def decode_metadata_request(reader: Reader, version: int) -> MetadataRequest:
    """All topics are asked for by null, in version 0 by an empty list."""
    count = reader.array_length(2)
    topics = [reader.string() for _ in range(count)] if count >= 0 else None
    if version == 0 and not topics:
        topics = None
    allow_topic_creation = reader.boolean() if version >= 4 else True
    if version >= 8:
        reader.boolean()  # include_cluster_authorized_operations
        reader.boolean()  # include_topic_authorized_operations
    reader.end()
    return MetadataRequest(topics, allow_topic_creation)


def encode_metadata_response(correlation_id: int, version: int, response: MetadataResponse) -> list[Buffer]:
    writer = response_writer(correlation_id)
    if version >= 3:
        writer.int32(0)  # throttle_time_ms
    writer.int32(len(response.brokers))
    for broker in response.brokers:
        writer.int32(broker.node_id)
        writer.string(broker.host)
        writer.int32(broker.port)
        if version >= 1:
            writer.nullable_string(None)  # rack
    if version >= 2:
        writer.nullable_string(response.cluster_id)
    if version >= 1:
        writer.int32(response.controller_id)
    writer.int32(len(response.topics))
    for topic in response.topics:
        _write_topic(writer, version, topic)
    if version >= 8:
        writer.int32(OPERATIONS_UNKNOWN)
    return writer.frame()


def _write_topic(writer: Writer, version: int, topic: TopicMetadata) -> None:
    writer.int16(topic.error)
    writer.string(topic.name)
    if version >= 1:
        writer.boolean(topic.internal)
    writer.int32(len(topic.partitions))
    for error, index, leader, generation, replicas, in_sync, offline in topic.partitions:
        writer.int16(error)
        writer.int32(index)
        writer.int32(leader)
        if version >= 7:
            writer.int32(generation)
        writer.int32_array(replicas)
        writer.int32_array(in_sync)
        if version >= 5:
            writer.int32_array(offline)
    if version >= 8:
        writer.int32(OPERATIONS_UNKNOWN)


def encode_metadata_request(
    correlation_id: int, client_id: str | None, topics: Sequence[str] | None, *, version: int = 8
) -> list[Buffer]:
    """topics: None for all. From version 4 on it says not to create them."""
    writer: Writer = request_writer(METADATA, version, correlation_id, client_id)
    if topics is None:
        writer.int32(0 if version == 0 else -1)
    else:
        writer.int32(len(topics))
        for name in topics:
            writer.string(name)
    if version >= 4:
        writer.boolean(False)
    if version >= 8:
        writer.boolean(False)
        writer.boolean(False)
    return writer.frame()


def decode_metadata_response(frame: Buffer, version: int = 8) -> MetadataResponse:
    reader = Reader(frame, 4)
    if version >= 3:
        reader.int32()
    brokers = []
    for _ in range(reader.required_array_length(10)):
        brokers.append(Broker(reader.int32(), reader.string(), reader.int32()))
        if version >= 1:
            reader.nullable_string()
    cluster_id = reader.nullable_string() if version >= 2 else None
    controller_id = reader.int32() if version >= 1 else -1
    topics = [_read_topic(reader, version) for _ in range(reader.required_array_length(8))]
    if version >= 8:
        reader.int32()
    reader.end()
    return MetadataResponse(brokers, cluster_id, controller_id, topics)


def _read_topic(reader: Reader, version: int) -> TopicMetadata:
    error = reader.int16()
    name = reader.string()
    internal = reader.boolean() if version >= 1 else False
    partitions = []
    for _ in range(reader.required_array_length(18)):
        partitions.append(
            PartitionMetadata(
                error=reader.int16(),
                partition=reader.int32(),
                leader=reader.int32(),
                generation=reader.int32() if version >= 7 else -1,
                replicas=reader.int32_array(),
                in_sync=reader.int32_array(),
                offline=reader.int32_array() if version >= 5 else (),
            )
        )
    if version >= 8:
        reader.int32()
    return TopicMetadata(error, name, partitions, internal)
