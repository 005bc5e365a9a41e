"""Ask one node how it is, by the private DescribeNode request (api key 32001, version 0).

Blocking, and apart from the client on purpose: it asks exactly the address given, also when that node is no
longer a broker that the client would choose.
"""

import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from rlog.errors import ProtocolError

DESCRIBE_NODE = 32001
ANSWER_BYTES_MAX = 64 << 20
CLIENT_ID = b"rlog-cli"


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One replica of one partition, as its node sees it. Offsets are exclusive ends."""

    topic: str
    partition: int
    role: str
    leader: int
    generation: int
    start_offset: int
    hwm: int
    end_offset: int
    flushed_offset: int
    followers: dict[int, dict[str, int]]
    trouble: str | None

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "ReplicaState":
        trouble = (
            fields.get("failed") or fields.get("damage") or ("suspect" if fields.get("suspect") else None)
        )
        return cls(
            topic=fields["topic"],
            partition=fields["partition"],
            role=fields["role"],
            leader=fields["leader"] or 0,
            generation=fields["generation"],
            start_offset=fields["start_offset"],
            hwm=fields["hwm"],
            end_offset=fields["end_offset"],
            flushed_offset=fields["flushed_offset"],
            followers={int(node): state for node, state in (fields.get("followers") or {}).items()},
            trouble=str(trouble) if trouble else None,
        )


@dataclass(frozen=True, slots=True)
class NodeState:
    node_id: int
    cluster_id: str
    incarnation: int
    uuid: str
    version: str
    partitions: list[ReplicaState]

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "NodeState":
        return cls(
            node_id=fields["node_id"],
            cluster_id=fields["cluster_id"],
            incarnation=fields["incarnation"],
            uuid=fields["uuid"],
            version=fields["version"],
            partitions=[ReplicaState.of(partition) for partition in fields["partitions"]],
        )

    def replica(self, topic: str, partition: int) -> ReplicaState | None:
        return next(
            (each for each in self.partitions if (each.topic, each.partition) == (topic, partition)), None
        )


def describe(host: str, port: int, *, timeout_s: float = 2.0) -> NodeState:
    """The state of the node at (host, port). Raises OSError (also on timeout) or ProtocolError."""
    header = struct.pack(">hhih", DESCRIBE_NODE, 0, 1, len(CLIENT_ID)) + CLIENT_ID
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        connection.sendall(struct.pack(">i", len(header)) + header)
        (size,) = struct.unpack(">i", _receive(connection, 4))
        if not 8 <= size <= ANSWER_BYTES_MAX:
            raise ProtocolError(f"{host}:{port} does not answer as an rlog node: an answer of {size} bytes")
        answer = _receive(connection, size)
    correlation, length = struct.unpack_from(">ii", answer)
    if correlation != 1 or length != size - 8:
        raise ProtocolError(f"{host}:{port} does not answer as an rlog node: {answer[:16]!r}")
    return NodeState.of(json.loads(answer[8:]))


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionResetError(f"the connection closed after {len(parts)} of {size} bytes")
        parts += part
    return bytes(parts)


def split_address(text: str) -> tuple[str, int]:
    """("127.0.0.1", 9092) of "127.0.0.1:9092". Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"not HOST:PORT: {text!r}")
    return host.strip("[]"), int(port)
