"""DeleteRecords 0 to 1: the records below an offset are to go (KIP-107). The two versions look the same."""

from collections.abc import Sequence

from rlog.wire.kafka._hot import Reader, Writer, request_writer, response_writer
from rlog.wire.kafka.apis import DELETE_RECORDS
from rlog.wire.kafka.messages import (
    Buffer,
    DeletedPartition,
    DeleteRecordsPartition,
    DeleteRecordsRequest,
)

# In place of an offset: everything that is committed.
HIGH_WATER_MARK = -1


def decode_delete_records_request(reader: Reader) -> DeleteRecordsRequest:
    topics = []
    for _ in range(reader.required_array_length(6)):
        name = reader.string()
        partitions = []
        for _ in range(reader.required_array_length(12)):
            partitions.append(DeleteRecordsPartition(reader.int32(), reader.int64()))
        topics.append((name, partitions))
    timeout_ms = reader.int32()
    reader.end()
    return DeleteRecordsRequest(topics, timeout_ms)


def encode_delete_records_response(
    correlation_id: int, topics: Sequence[tuple[str, Sequence[DeletedPartition]]]
) -> list[Buffer]:
    writer = response_writer(correlation_id)
    writer.int32(0)  # throttle_time_ms
    writer.int32(len(topics))
    for name, partitions in topics:
        writer.string(name)
        writer.int32(len(partitions))
        for partition in partitions:
            writer.int32(partition.partition)
            writer.int64(partition.log_start_offset)
            writer.int16(partition.error)
    return writer.frame()


def encode_delete_records_request(
    correlation_id: int, client_id: str | None, request: DeleteRecordsRequest, *, version: int = 1
) -> list[Buffer]:
    writer: Writer = request_writer(DELETE_RECORDS, version, correlation_id, client_id)
    writer.int32(len(request.topics))
    for name, partitions in request.topics:
        writer.string(name)
        writer.int32(len(partitions))
        for partition in partitions:
            writer.int32(partition.partition)
            writer.int64(partition.offset)
    writer.int32(request.timeout_ms)
    return writer.frame()


def decode_delete_records_response(frame: Buffer) -> list[tuple[str, list[DeletedPartition]]]:
    reader = Reader(frame, 4)
    reader.int32()
    topics = []
    for _ in range(reader.required_array_length(6)):
        name = reader.string()
        partitions = []
        for _ in range(reader.required_array_length(14)):
            index = reader.int32()
            log_start_offset = reader.int64()
            partitions.append(DeletedPartition(index, reader.int16(), log_start_offset))
        topics.append((name, partitions))
    reader.end()
    return topics
