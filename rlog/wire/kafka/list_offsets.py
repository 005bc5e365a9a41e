"""ListOffsets 0 to 4: where a partition starts and ends. Version 0 is only ever answered with an error."""

from collections.abc import Sequence

from rlog.wire.kafka._hot import Reader, Writer, request_writer, response_writer
from rlog.wire.kafka.apis import LIST_OFFSETS
from rlog.wire.kafka.messages import Buffer, ListedPartition, ListOffsetsPartition, ListOffsetsRequest

EARLIEST = -2
LATEST = -1


def decode_list_offsets_request(reader: Reader, version: int) -> ListOffsetsRequest:
    reader.int32()  # replica_id
    isolation_level = reader.int8() if version >= 2 else 0
    topics = []
    for _ in range(reader.required_array_length(6)):
        name = reader.string()
        partitions = []
        for _ in range(reader.required_array_length(12)):
            index = reader.int32()
            generation = reader.int32() if version >= 4 else -1
            partitions.append(ListOffsetsPartition(index, reader.int64(), generation))
            if version == 0:
                reader.int32()  # max_num_offsets
        topics.append((name, partitions))
    reader.end()
    return ListOffsetsRequest(topics, isolation_level)


def encode_list_offsets_response(
    correlation_id: int, version: int, topics: Sequence[tuple[str, Sequence[ListedPartition]]]
) -> list[Buffer]:
    writer = response_writer(correlation_id)
    if version >= 2:
        writer.int32(0)  # throttle_time_ms
    writer.int32(len(topics))
    for name, partitions in topics:
        writer.string(name)
        writer.int32(len(partitions))
        for partition in partitions:
            writer.int32(partition.partition)
            writer.int16(partition.error)
            if version == 0:
                writer.int32(0)  # old_style_offsets: none
                continue
            writer.int64(partition.timestamp_ms)
            writer.int64(partition.offset)
            if version >= 4:
                writer.int32(partition.generation)
    return writer.frame()


def encode_list_offsets_request(
    correlation_id: int, client_id: str | None, request: ListOffsetsRequest, *, version: int = 4
) -> list[Buffer]:
    """`version` is 1 or more."""
    writer: Writer = request_writer(LIST_OFFSETS, version, correlation_id, client_id)
    writer.int32(-1)  # replica_id
    if version >= 2:
        writer.int8(request.isolation_level)
    writer.int32(len(request.topics))
    for name, partitions in request.topics:
        writer.string(name)
        writer.int32(len(partitions))
        for partition in partitions:
            writer.int32(partition.partition)
            if version >= 4:
                writer.int32(partition.generation)
            writer.int64(partition.timestamp_ms)
    return writer.frame()


def decode_list_offsets_response(frame: Buffer, version: int = 4) -> list[tuple[str, list[ListedPartition]]]:
    """`version` is 1 or more."""
    reader = Reader(frame, 4)
    if version >= 2:
        reader.int32()
    topics = []
    for _ in range(reader.required_array_length(6)):
        name = reader.string()
        partitions = []
        for _ in range(reader.required_array_length(22)):
            partitions.append(
                ListedPartition(
                    partition=reader.int32(),
                    error=reader.int16(),
                    timestamp_ms=reader.int64(),
                    offset=reader.int64(),
                    generation=reader.int32() if version >= 4 else -1,
                )
            )
        topics.append((name, partitions))
    reader.end()
    return topics
