"""Who is at the wrong port: the first bytes of a connection tell, and the log can say so with the mend.

HTTP is answered in HTTP, since a person may be reading; whoever else cannot be reached in its own protocol.
"""

from typing import Final, Literal

from rlog.errors import ProtocolError
from rlog.wire.frames import MAGIC

Port = Literal["client", "peer"]

HEAD_BYTES: Final = 8
"""As many of the first bytes are looked at; fewer may do."""
_HTTP_METHODS: Final = (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"PRI ")
_TLS_HANDSHAKE: Final = b"\x16\x03"
# The size and the API key of a Kafka request, as far as they are seen in practice.
_KAFKA_BYTES_MAX: Final = 1 << 24
_KAFKA_KEY_MAX: Final = 100

_MENDS: Final[dict[tuple[str, Port], str]] = {
    (
        "HTTP",
        "client",
    ): "listen_port is for Kafka clients, admin_port for HTTP",
    ("HTTP", "peer"): "peer_port is for the other nodes, admin_port for HTTP",
    (
        "TLS",
        "client",
    ): "listen_port speaks no TLS: set the client's security.protocol to PLAINTEXT",
    ("TLS", "peer"): "peer_port speaks no TLS, and is for the other nodes only",
    (
        "another rlog node",
        "client",
    ): "nodes connect to peer_port: mend the port of this node in its [peers]",
    (
        "a Kafka client",
        "peer",
    ): "peer_port is for the other nodes: clients connect to listen_port",
}


class ForeignProtocolError(ProtocolError):
    """The other end speaks something else. answer: what to send it before the connection is closed."""

    def __init__(self, message: str, answer: bytes = b"") -> None:
        super().__init__(message)
        self.answer = answer


def foreign_protocol(head: bytes, port: Port) -> ForeignProtocolError | None:
    """What the first bytes of a connection, which is no good one, look like; None when like nothing known."""
    found = _name(head, port)
    if found is None:
        return None
    message = f"it looks like {found}: {_MENDS[found, port]}"
    return ForeignProtocolError(message, _http_answer(message) if found == "HTTP" else b"")


def _name(head: bytes, port: Port) -> str | None:
    if head.startswith(_HTTP_METHODS):
        return "HTTP"
    if head.startswith(_TLS_HANDSHAKE):
        return "TLS"
    if port == "client":
        return "another rlog node" if head.startswith(MAGIC) else None
    size, api_key = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:6], "big")
    is_request = len(head) >= 6 and 0 < size < _KAFKA_BYTES_MAX and api_key < _KAFKA_KEY_MAX
    return "a Kafka client" if is_request else None


def _http_answer(message: str) -> bytes:
    body = message.encode() + b"\n"
    head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body
