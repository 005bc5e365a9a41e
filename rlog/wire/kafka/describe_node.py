"""DescribeNode 0, rlog's own (key 32001): what a node knows about itself, as JSON in one bytes field."""

import json
from typing import Any, TypedDict, cast

from rlog.errors import ProtocolError
from rlog.wire.kafka._hot import Reader, Writer, request_writer, response_writer
from rlog.wire.kafka.apis import DESCRIBE_NODE
from rlog.wire.kafka.messages import Buffer


class FollowerDescription(TypedDict, total=False):
    """Offsets up to which a follower has the leader's log, and has flushed it; lag in records."""

    match: int
    flushed: int
    lag: int


class ReplicaDescription(TypedDict, total=False):
    """One node's replica of one partition. Offsets are exclusive ends.

    leader: None when none is known. followers: by node id, said by leaders only. damage, failed: why the
    replica is out of service, None when it is not.
    """

    topic: str
    partition: int
    role: str
    leader: int | None
    generation: int
    start_offset: int
    hwm: int
    end_offset: int
    flushed_offset: int
    followers: dict[str, FollowerDescription]
    suspect: bool
    damage: str | None
    failed: str | None


class NodeDescription(TypedDict, total=False):
    """What an rlog node says of itself; a newer node may say more than is named here.

    requests: how many of each kind and version its clients have sent, as in ``{"Fetch 11": 3}``.
    """

    node_id: int
    cluster_id: str
    incarnation: int
    uuid: str
    version: str
    partitions: list[ReplicaDescription]
    requests: dict[str, int]


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


def decode_describe_node_response(frame: Buffer) -> NodeDescription:
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
    return cast(NodeDescription, description)
