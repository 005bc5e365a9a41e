"""What a node's log holds after it met garbage: a line with address and reason, and never a flood."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from rlog.cli.local_cluster import LocalCluster
from tests.harness.processes import running_cluster, wait_for

HOST = "127.0.0.1"
HTTP = b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: " + b"x" * 200 + b"\r\n\r\n"


def lines_about(cluster: LocalCluster, address: str) -> list[dict[str, Any]]:
    """Every log line of node 1 that has this address."""
    lines = map(json.loads, cluster.nodes[1].log_path.read_text().splitlines())
    return [line for line in lines if line.get("address") == address]


def send_garbage(port: int) -> str:
    """Our address, once the other side has closed."""
    with socket.create_connection((HOST, port), timeout=10) as connection:
        host, ours = connection.getsockname()
        connection.sendall(HTTP)
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass
        return f"{host}:{ours}"


@pytest.mark.parametrize(
    ("port_of", "event", "reason"),
    [
        ("kafka_port", "client_closed", "it looks like HTTP: listen_port is for Kafka clients"),
        ("peer_port", "peer_connection_refused", "it looks like HTTP: peer_port is for the other nodes"),
    ],
)
def test_garbage_is_one_line_with_address_and_reason_and_never_a_flood(
    tmp_path: Path, port_of: str, event: str, reason: str
) -> None:
    with running_cluster(tmp_path, topics={"orders": 1}, log_format="json") as cluster:
        port = getattr(cluster.nodes[1], port_of)
        address = send_garbage(port)
        wait_for(lambda: bool(lines_about(cluster, address)), f"the log tells of {address}")
        (line,) = lines_about(cluster, address)
        assert (line["event"], line["level"], line["node"]) == (event, "warning", 1)
        assert reason in line["reason"]

        for _ in range(100):
            send_garbage(port)
        cluster.stop()
        lines = map(json.loads, cluster.nodes[1].log_path.read_text().splitlines())
        assert sum(line["event"] == event for line in lines) == 10


def test_nothing_is_said_per_request(tmp_path: Path) -> None:
    with running_cluster(tmp_path, topics={"orders": 1}, log_format="json") as cluster:
        before = len(cluster.nodes[1].log_path.read_text().splitlines())
        for _ in range(50):
            assert cluster.describe(1) is not None
        assert len(cluster.nodes[1].log_path.read_text().splitlines()) == before
