"""DescribeNode 0, rlog's own (key 32001): what a node knows about itself, as JSON in one bytes field."""

import json
from typing import Any

from rlog.errors import ProtocolError
from rlog.wire.kafka._hot import Reader, Writer, request_writer, response_writer
from rlog.wire.kafka.apis import DESCRIBE_NODE
from rlog.wire.kafka.messages import Buffer


def decode_describe_node_request(reader: Reader) -> None:
    """The body is empty; raises ProtocolError when it is not."""
    reader.end()


def encode_describe_node_response(correlation_id: int, description: dict[str, Any]) -> list[Buffer]:
    """`description` holds what JSON can hold."""
    writer = response_writer(correlation_id)
    writer.sections((json.dumps(description, separators=(",", ":")).encode(),))
    return writer.frame()


def encode_describe_node_request(correlation_id: int, client_id: str | None) -> list[Buffer]:
    writer: Writer = request_writer(DESCRIBE_NODE, 0, correlation_id, client_id)
    return writer.frame()


def decode_describe_node_response(frame: Buffer) -> dict[str, Any]:
    reader = Reader(frame, 4)
    body = reader.nullable_bytes()
    reader.end()
    if body is None:
        raise ProtocolError("DescribeNode answered null")
    try:
        description = json.loads(bytes(body))
    except ValueError as error:
        raise ProtocolError("DescribeNode answered something that is not JSON") from error
    if not isinstance(description, dict):
        raise ProtocolError("DescribeNode answered something that is not an object")
    return description
