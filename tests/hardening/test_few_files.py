"""A node that may open few files: clients that take all they can get leave it those that its log needs."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from rlog.cli.describe import describe
from rlog.log import format as batches
from rlog.records import Record
from rlog.wire import kafka
from rlog.wire.kafka import codes
from rlog.wire.kafka.messages import FetchPartition, FetchRequest
from tests.harness import wait_for

FILES = 160
CONNECTIONS = 400
# The first segments are of this size, so that each batch needs a new file or two.
VALUE_BYTES = 900_000


def serve(directory: Path, port: int) -> subprocess.Popen[bytes]:
    data, listen = str(directory / "data"), f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "rlog", "serve", "--cluster-id", "c", "--node-id", "1",
               "--data-dir", data, "--listen", listen, "--topic", "t:1"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RLOG_")}
    environment |= {"RLOG_TAIL_BYTES_MAX": "1000", "RLOG_SEGMENT_BYTES_MAX": str(1 << 20)}
    with (directory / "log").open("wb") as log:
        few = ["sh", "-c", f'ulimit -n {FILES} && exec "$@"', "sh"]
        return subprocess.Popen([*few, *command], stderr=log, env=environment)


def ask(connection: socket.socket, request: list) -> bytes:
    connection.sendall(b"".join(map(bytes, request)))
    stream = connection.makefile("rb")
    return stream.read(int.from_bytes(stream.read(4), "big"))


def produced(connection: socket.socket) -> int:
    """The error code of the answer."""
    sealed = batches.encode_batch([Record("", 0, 0, 0, 1, None, os.urandom(VALUE_BYTES))])
    request = kafka.encode_produce_request(1, "c", -1, 20_000, [("t", [(0, sealed)])])
    [(_, [answer])] = kafka.decode_produce_response(ask(connection, request))
    return answer.error


def fetched_bytes(connection: socket.socket, offset: int) -> int:
    request = FetchRequest(0, 1, 1 << 20, [("t", [FetchPartition(0, offset, 1 << 20)])])
    answer = kafka.decode_fetch_response(ask(connection, kafka.encode_fetch_request(1, "c", request)))
    return sum(map(len, answer.topics[0][1][0].records))


def leads(port: int) -> bool:
    with contextlib.suppress(OSError):
        return describe("127.0.0.1", port, timeout_s=1)["partitions"][0]["role"] == "leader"
    return False


def test_connections_never_take_the_files_that_the_log_needs(tmp_path: Path) -> None:
    """As it once was, the next segment could not be made, and the partition was fenced for good."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    node = serve(tmp_path, port)
    try:
        wait_for(lambda: leads(port), "the node leads")
        with contextlib.ExitStack() as stack:

            def connected() -> socket.socket:
                return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))

            first = connected()
            for offset in range(6):
                for _ in range(CONNECTIONS // 4):
                    connected()
                assert produced(first) == codes.NONE
                assert fetched_bytes(first, offset) > VALUE_BYTES
    finally:
        node.terminate()
        assert node.wait(20) == 0
    said = (tmp_path / "log").read_text()
    assert f"may open {FILES} files" in said
    assert "connections already (connection_count_max)" in said
    assert "fenced" not in said
