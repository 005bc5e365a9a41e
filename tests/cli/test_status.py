"""`rlog status`: whom it asks, and what it says of a leader that it could not ask."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from click.testing import CliRunner

from rlog.cli import status
from rlog.cli.describe import Address, describe
from rlog.cli.local_cluster import LocalCluster
from rlog.cli.main import main
from rlog.cli.status import Answers, Seen
from rlog.errors import ProtocolError
from rlog.wire.kafka.describe_node import NodeDescription, ReplicaDescription

ONE, TWO, THREE = ("127.0.0.1", 9092), ("127.0.0.1", 9093), ("127.0.0.1", 9094)
NODES = {1: ONE, 2: TWO, 3: THREE}


def replica(role: str, leader: int | None, generation: int, *, end: int = 0) -> ReplicaDescription:
    return {
        "topic": "orders", "partition": 0, "role": role, "leader": leader, "generation": generation,
        "start_offset": 0, "hwm": end, "end_offset": end, "flushed_offset": end,
    }  # fmt: skip


def node(node_id: int, said: ReplicaDescription) -> NodeDescription:
    return {"node_id": node_id, "cluster_id": "c", "partitions": [said]}


def answering(monkeypatch: pytest.MonkeyPatch, nodes: dict[int, NodeDescription]) -> list[Address]:
    """Only these nodes answer; the addresses asked, as they come."""
    asked: list[Address] = []

    def describe(host: str, port: int, *, timeout_s: float) -> tuple[NodeDescription, dict[int, Address]]:
        asked.append((host, port))
        for node_id, address in NODES.items():
            if address == (host, port) and node_id in nodes:
                return nodes[node_id], NODES
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(status, "describe_with_nodes", describe)
    return asked


def test_one_node_that_answers_is_enough(cluster: LocalCluster) -> None:
    for address in cluster.bootstrap.split(","):
        done = CliRunner().invoke(main, ["status", "-b", address, "--json"])
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        assert [each["node_id"] for each in report["nodes"]] == [1, 2, 3]
        assert report["silent"] == {}
        assert all(len(each["replicas"]) == 3 for each in report["partitions"])
        assert all(each["lag"] is not None for part in report["partitions"] for each in part["replicas"])


def test_each_node_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {1: node(1, replica("leader", 1, 4)), 2: node(2, replica("follower", 1, 4))}
    asked = answering(monkeypatch, nodes)
    answers = status.ask([TWO, TWO], timeout_s=1)
    assert asked[0] == TWO
    assert sorted(asked) == [ONE, TWO, THREE]
    assert sorted(answers.nodes) == [1, 2]
    assert answers.silent == {"127.0.0.1:9094": "refused"}
    asked.clear()
    assert sorted(status.ask([ONE, THREE], timeout_s=1).nodes) == [1, 2]
    assert sorted(asked) == [ONE, TWO, THREE]


def test_a_leader_that_does_not_answer_is_named_by_who_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, {2: node(2, replica("follower", 1, 4, end=9))})
    done = CliRunner().invoke(main, ["status", "-b", "127.0.0.1:9093", "--json"])
    assert done.exit_code == 0
    (partition,) = json.loads(done.stdout)["partitions"]
    assert (partition["leader"], partition["replicas"][0]["lag"]) == (1, None)
    table = CliRunner().invoke(main, ["status", "-b", "127.0.0.1:9093"])
    assert table.stdout.splitlines()[1].split() == ["orders-0", "1", "2", "follower", "4", "9", "?"]


def test_where_nobody_knows_a_leader_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, {2: node(2, replica("candidate", None, 5))})
    done = CliRunner().invoke(main, ["status", "-b", "127.0.0.1:9093"])
    assert done.exit_code == 1
    assert "rlog: no leader: orders-0" in done.stderr


def test_the_newest_generation_says_who_leads() -> None:
    replicas = {
        1: replica("leader", 1, 4, end=12),
        2: replica("leader", 2, 5, end=11),
        3: replica("candidate", None, 6, end=8),
    }
    seen = Seen.of(replicas)
    assert (seen.leader, seen.generation) == (2, 6)
    assert [seen.lag(node_id) for node_id in replicas] == [0, 0, 3]


def test_no_topic_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "ask", lambda *_, **__: Answers({1: {"node_id": 1, "partitions": []}}))
    done = CliRunner().invoke(main, ["status"])
    assert done.exit_code == 0
    assert "no topic is configured" in done.stderr


def test_a_timeout_out_of_range_is_refused() -> None:
    assert CliRunner().invoke(main, ["status", "--timeout", "-1"]).exit_code == 2


@contextmanager
def saying(answer: bytes) -> Iterator[Address]:
    """Something that listens, says this to whoever asks, and no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(answer)
                        connection.recv(1)  # until the other side gives up

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (b"\0\0\0\x09\0", TimeoutError, "timed out"),
        (b"HTTP/1.1 400", ProtocolError, "does not answer as an rlog node: an answer of 1213486160 bytes"),
        (b"\0\0\0\x08\0\0\0\x07\0\0\0\0", ProtocolError, "an answer to something else"),
        (b"\0\0\0\x0a\0\0\0\x01\0\0\0\x02{]", ProtocolError, "something that is not JSON"),
    ],
)
def test_what_does_not_answer_as_a_node_is_an_error(answer: bytes, error: type, told: str) -> None:
    with saying(answer) as (host, port), pytest.raises(error, match=told):
        describe(host, port, timeout_s=0.2)
