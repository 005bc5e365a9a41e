"""Ask one node how it is (DescribeNode), and whom it knows (Metadata).

Blocking, and apart from the client on purpose: it asks exactly the address given, once, and a node that does
not answer is an answer.
"""

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rlog.errors import ProtocolError
from rlog.wire.kafka.describe_node import (
    NodeDescription,
    decode_describe_node_response,
    encode_describe_node_request,
)
from rlog.wire.kafka.messages import Buffer
from rlog.wire.kafka.metadata import decode_metadata_response, encode_metadata_request

ANSWER_BYTES_MAX = 64 << 20
CLIENT_ID = "rlog-cli"

Address = tuple[str, int]


class _Connection:
    """deadline: when, on the monotonic clock, a node that drips its answer has had its time, too."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket = connected
        self._deadline = deadline

    def ask(self, correlation_id: int, request: Sequence[Buffer]) -> bytes:
        """The answer, from its correlation id on. Raises OSError or ProtocolError."""
        self._socket.sendall(b"".join(request))
        (size,) = struct.unpack(">i", self._receive(4))
        if not 4 <= size <= ANSWER_BYTES_MAX:
            raise ProtocolError(f"an answer of {size} bytes")
        answer = self._receive(size)
        if struct.unpack_from(">i", answer)[0] != correlation_id:
            raise ProtocolError(f"an answer to something else, {answer[:16]!r}")
        return answer

    def _receive(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(left_s)
            part = self._socket.recv(size - len(parts))
            if not part:
                raise ConnectionResetError(f"the connection closed after {len(parts)} of {size} bytes")
            parts += part
        return bytes(parts)


def describe(host: str, port: int, *, timeout_s: float = 2.0) -> NodeDescription:
    """What the node at (host, port) says of itself. Raises OSError (also on timeout) or ProtocolError."""
    with _connected(host, port, timeout_s) as connection:
        return _description(connection)


def describe_with_nodes(
    host: str, port: int, *, timeout_s: float
) -> tuple[NodeDescription, dict[int, Address]]:
    """As `describe`; and where each node of its cluster tells clients to connect, by node id."""
    with _connected(host, port, timeout_s) as connection:
        description = _description(connection)
        # No topic is asked for: who is there is all that is wanted.
        answer = connection.ask(2, encode_metadata_request(2, CLIENT_ID, ()))
    brokers = decode_metadata_response(answer).brokers
    return description, {broker.node_id: (broker.host, broker.port) for broker in brokers}


@contextmanager
def _connected(host: str, port: int, timeout_s: float) -> Iterator[_Connection]:
    """Raises ProtocolError, which names the address, for what is no answer of rlog's."""
    deadline = time.monotonic() + timeout_s
    with socket.create_connection((host, port), timeout=timeout_s) as connected:
        try:
            yield _Connection(connected, deadline)
        except ProtocolError as error:
            raise ProtocolError(f"{host}:{port} does not answer as an rlog node: {error}") from error


def _description(connection: _Connection) -> NodeDescription:
    return decode_describe_node_response(connection.ask(1, encode_describe_node_request(1, CLIENT_ID)))


def split_address(text: str) -> Address:
    """("127.0.0.1", 9092) of "127.0.0.1:9092". Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"not HOST:PORT: {text!r}")
    return host.strip("[]"), int(port)
