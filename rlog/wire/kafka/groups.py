"""FindCoordinator 0 to 2 and JoinGroup 0, the node's side: as much as it takes to refuse a group clearly."""

from rlog.wire.kafka._hot import Reader, response_writer
from rlog.wire.kafka.messages import Buffer, FindCoordinatorRequest, FindCoordinatorResponse


def decode_find_coordinator_request(reader: Reader, version: int) -> FindCoordinatorRequest:
    request = FindCoordinatorRequest(reader.string(), reader.int8() if version >= 1 else 0)
    reader.end()
    return request


def encode_find_coordinator_response(
    correlation_id: int, version: int, response: FindCoordinatorResponse
) -> list[Buffer]:
    writer = response_writer(correlation_id)
    if version >= 1:
        writer.int32(0)  # throttle_time_ms
    writer.int16(response.error)
    if version >= 1:
        writer.nullable_string(response.message)
    writer.int32(response.node_id)
    writer.string(response.host)
    writer.int32(response.port)
    return writer.frame()


def decode_join_group_request(reader: Reader) -> str:
    """The name of the group."""
    group = reader.string()
    reader.int32()  # session_timeout_ms
    reader.string()  # member_id
    reader.string()  # protocol_type
    for _ in range(reader.required_array_length(6)):
        reader.string()  # name
        reader.nullable_bytes()  # metadata
    reader.end()
    return group


def encode_join_group_refusal(correlation_id: int, error: int) -> list[Buffer]:
    writer = response_writer(correlation_id)
    writer.int16(error)
    writer.int32(-1)  # generation_id
    writer.string("")  # protocol_name
    writer.string("")  # leader
    writer.string("")  # member_id
    writer.int32(0)  # members
    return writer.frame()
