"""The admin port: its pages on real nodes, and that nobody who talks to it can harm the node."""

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rlog.cli.exits import USAGE
from rlog.cli.local_cluster import LocalCluster
from rlog.observe import admin
from rlog.observe.admin import Admin
from rlog.observe.exposition import render
from rlog.observe.metrics import METRICS, PRODUCED_RECORDS, Sample
from tests.harness.processes import running_cluster, wait_for
from tests.node.harness import on_uvloop, until

HOST = "127.0.0.1"


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    """(status, body). Raises OSError."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def ready(port: int) -> tuple[int, list[str]]:
    status, body = get(port, "/ready")
    told = json.loads(body)
    assert told["ready"] == (status == 200) == (not told["reasons"])
    return status, told["reasons"]


def answers(port: int) -> bool:
    with suppress(OSError):
        return get(port, "/healthz")[0] == 200
    return False


# --- on real processes ---


def test_a_node_without_a_quorum_is_alive_and_not_ready(tmp_path: Path) -> None:
    with running_cluster(tmp_path, topics={"orders": 2}, admin=True) as cluster:
        port = cluster.nodes[1].admin_port
        assert port is not None
        assert ready(port) == (200, [])
        status, body = get(port, "/metrics")
        assert status == 200
        assert len(list(text_string_to_metric_families(body))) >= len(METRICS)
        status, body = get(port, "/status")
        told = json.loads(body)
        assert (status, told["node_id"], told["ready"], told["warnings"]) == (200, 1, True, [])
        assert [each["topic"] for each in told["partitions"]] == ["orders", "orders"]

        cluster.kill(2, 3)
        wait_for(lambda: ready(port)[0] == 503, "it notices that nobody leads")
        wait_for(
            lambda: ready(port)[1] == ["no leader known: orders-0, orders-1"], "no partition has a leader"
        )
        assert get(port, "/healthz") == (200, '{"alive": true, "failure": null}\n')
        assert "rlog_node_ready 0.0" in get(port, "/metrics")[1]

        cluster.start(2)
        wait_for(lambda: ready(port) == (200, []), "two of three are enough")


def test_the_first_boot_is_alive_and_not_ready_until_all_have_met(tmp_path: Path) -> None:
    with LocalCluster(tmp_path, topics={"orders": 1}, admin=True) as cluster:
        cluster.start(1, 2)
        port = cluster.nodes[1].admin_port
        assert port is not None
        wait_for(lambda: answers(port), "its admin port answers")
        status, reasons = ready(port)
        assert status == 503
        assert reasons[0].startswith("identity not confirmed: ")
        assert get(port, "/healthz")[0] == 200
        cluster.start(3)
        wait_for(lambda: ready(port)[0] == 200, "all have met")


def test_a_busy_admin_port_ends_it_before_the_directory_is_made(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["--cluster-id", "t", "--node-id", "1", "--data-dir", str(tmp_path / "1")]
        arguments += ["--listen", f"{HOST}:0", "--admin", f"{HOST}:{port}", "--topic", "orders:1"]
        done = subprocess.run(
            [sys.executable, "-m", "rlog", "serve", *arguments],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode == USAGE, done.stderr
    assert f"cannot listen on admin_host = '{HOST}', admin_port = {port}" in done.stderr
    assert f"port {port} is in use by pid" in done.stderr
    assert not (tmp_path / "1").exists()


def test_a_node_without_an_admin_port_loads_no_http_server() -> None:
    program = (
        "import sys, rlog.cli.serve, rlog.node.process\n"
        "found = {'aiohttp', 'prometheus_client'} & set(sys.modules)\n"
        "sys.exit(f'{found} imported' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- on what only looks like a node ---


class Fake:
    """Something to observe. more: how many samples beside the first."""

    def __init__(self, more: int = 0) -> None:
        self.failed: str | None = None
        self.reasons: list[str] = []
        self.value = 1
        self.more = more

    def failure(self) -> str | None:
        return self.failed

    def not_ready(self) -> list[str]:
        return self.reasons

    def status(self) -> dict[str, Any]:
        return {"node_id": 1}

    def samples(self) -> Iterator[Sample]:
        yield Sample(PRODUCED_RECORDS, ("t", "0"), self.value)
        for index in range(self.more):
            yield Sample(PRODUCED_RECORDS, ("t", str(index + 1)), 0)


class Serving(Admin):
    """An admin port of its own that shows `observed` as long as the context lasts."""

    def __init__(self, observed: Fake) -> None:
        super().__init__(HOST, 0, node_id=1)
        self.observed = observed
        self.port = int(self.address.rpartition(":")[2])

    async def __aenter__(self) -> "Serving":
        await self.serve(self.observed)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def ask(port: int, text: bytes) -> bytes:
    """All that comes back until the other side closes; nothing after a reset."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(text)
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@on_uvloop
async def test_a_failed_node_is_neither_alive_nor_ready() -> None:
    fake = Fake()
    async with Serving(fake) as server:
        fake.failed, fake.reasons = "the disk", ["the node has failed: the disk"]
        alive, is_ready = (
            await ask(server.port, request("/healthz")),
            await ask(server.port, request("/ready")),
        )
    assert alive.startswith(b"HTTP/1.1 503 ")
    assert alive.endswith(b'{"alive": false, "failure": "the disk"}\n')
    assert is_ready.startswith(b"HTTP/1.1 503 ")
    assert is_ready.endswith(b'{"ready": false, "reasons": ["the node has failed: the disk"]}\n')


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/nothing"), b"404"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"\x16\x03\x01 a TLS hello\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"400"),
    ],
)
@on_uvloop
async def test_what_is_not_asked_well_is_refused_and_the_next_one_served(sent: bytes, status: bytes) -> None:
    async with Serving(Fake()) as server:
        answer = await ask(server.port, sent)
        assert answer.split()[1] == status, answer[:200]
        assert (await ask(server.port, request("/healthz"))).split()[1] == b"200"


@on_uvloop
async def test_connections_are_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who send nothing occupy the port for a while; then it is free again."""
    monkeypatch.setattr(admin, "CONNECTION_S_MAX", 3.0)
    async with Serving(Fake()) as server:
        idle = [await asyncio.open_connection(HOST, server.port) for _ in range(admin.CONNECTIONS_MAX)]
        assert await ask(server.port, request("/healthz")) == b"", "one more is closed at once"
        for reader, _ in idle:
            assert await reached_end(reader)
        monkeypatch.setattr(admin, "CONNECTION_S_MAX", 30.0)
        assert (await ask(server.port, request("/healthz"))).split()[1] == b"200"
        for _, writer in idle:
            writer.transport.abort()


async def reached_end(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


@on_uvloop
async def test_who_does_not_read_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "CONNECTION_S_MAX", 0.5)
    async with Serving(Fake(more=60_000)) as server:
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(lazy, (HOST, server.port))
        await loop.sock_sendall(lazy, request("/metrics"))
        await until(lambda: server.connection_count == 1, "it is there")
        monkeypatch.setattr(admin, "CONNECTION_S_MAX", 30.0)
        assert (await ask(server.port, request("/healthz"))).split()[1] == b"200"
        await until(lambda: server.connection_count == 0, "it is cut off")
        received = await rest_of(lazy)
        assert received < len(await ask(server.port, request("/metrics"))), "its answer was not finished"


async def rest_of(lazy: socket.socket) -> int:
    """How many bytes still come."""
    loop, received = asyncio.get_running_loop(), 0
    with lazy, suppress(ConnectionResetError):
        while data := await loop.sock_recv(lazy, 1 << 20):
            received += len(data)
    return received


@on_uvloop
async def test_many_scrapes_at_once_are_rendered_once_away_from_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered_on: list[int] = []

    def rendering(samples: Sequence[Sample], accept: str) -> tuple[bytes, str]:
        rendered_on.append(threading.get_ident())
        return render(samples, accept)

    monkeypatch.setattr(admin, "render", rendering)
    monkeypatch.setattr(admin, "RENDERED_FOR", 1_000_000)
    fake = Fake(more=3 * admin.SAMPLES_PER_STEP)
    async with Serving(fake) as server:
        pages = await asyncio.gather(*(ask(server.port, request("/metrics")) for _ in range(8)))
        assert len({page.partition(b"\r\n\r\n")[2] for page in pages}) == 1
        assert len(rendered_on) == 1
        assert threading.get_ident() not in rendered_on


@on_uvloop
async def test_samples_are_read_in_steps_between_which_the_node_goes_on() -> None:
    loop, fake = asyncio.get_running_loop(), Fake(more=3 * admin.SAMPLES_PER_STEP)
    turns: list[int] = []

    class Stepping(Fake):
        def samples(self) -> Iterator[Sample]:
            for count, sample in enumerate(fake.samples()):
                if count == 0:
                    loop.call_soon(turns.append, 1)
                if count == 2 * admin.SAMPLES_PER_STEP:
                    assert turns, "the loop turned meanwhile"
                yield sample

    async with Serving(Stepping()) as server:
        assert (await ask(server.port, request("/metrics"))).split()[1] == b"200"


@on_uvloop
async def test_a_page_is_given_out_again_for_a_while_only() -> None:
    fake = Fake()
    async with Serving(fake) as server:
        assert b"} 1.0\n" in await ask(server.port, request("/metrics"))
        fake.value = 2
        for _ in range(10_000):
            if b"} 2.0\n" in await ask(server.port, request("/metrics")):
                break
        else:
            pytest.fail("what was rendered once is given out for ever")
