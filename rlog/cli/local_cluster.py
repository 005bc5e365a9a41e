"""A cluster of real node processes on this machine: `rlog serve` once per node, each with its own directory.

Serves `rlog dev`, `rlog demo`, the benchmarks and the tests that kill processes. A node's standard input is a
pipe held by this process and never written to: when this process ends, however it ends, the pipe closes and
the node stops by itself (`rlog serve --stop-on-eof`). No node outlives its cluster.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType

from rlog.cli.describe import describe
from rlog.errors import ConfigurationError, RlogError
from rlog.wire.kafka.describe_node import NodeDescription, ReplicaDescription

HOST = "127.0.0.1"
FREE_PORT_MIN = 10_000
POLL_S = 0.02
STOP_TIMEOUT_S = 10.0
LOG_TAIL_BYTES = 2000


class NodeEnded(RlogError):
    """A node process ended by itself; the message holds the end of what it said."""


class NotReady(RlogError):
    """The cluster did not reach the awaited state in time; the message says what it was instead."""


@dataclass(slots=True)
class LocalNode:
    """One node: where it listens and stores, and its process while it has one."""

    node_id: int
    directory: Path
    kafka_port: int
    peer_port: int
    admin_port: int | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        """The process id. Raises NodeEnded when the node was never started."""
        if self.process is None:
            raise NodeEnded(f"node {self.node_id} was not started")
        return self.process.pid

    @property
    def config_path(self) -> Path:
        return self.directory / f"node-{self.node_id}.toml"

    @property
    def data_dir(self) -> Path:
        return self.directory / f"node-{self.node_id}"

    @property
    def log_path(self) -> Path:
        return self.directory / f"node-{self.node_id}.log"

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def last_words(self) -> str:
        """The end of the node's log, for messages."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()


class LocalCluster:
    """Node processes 1 to `nodes` with the topics given. A context manager: leaving it ends every node.

    directory: holds configuration, logs and data of each node; made when absent.
    port: node i listens to clients on port + i - 1, to other nodes on port + nodes + i - 1, and with `admin`
    to operators' tools on port + 2 * nodes + i - 1; 0: free ports.
    settings: more lines of every node's configuration, as values of rlog.config.NodeConfig.
    log_format: "text" or "json", of what each node writes to its log_path.
    Raises ConfigurationError when a port is in use.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        topics: Mapping[str, int],
        port: int = 0,
        cluster_id: str = "dev",
        settings: Mapping[str, int | str] | None = None,
        log_format: str = "text",
        admin: bool = False,
    ) -> None:
        self.log_format = log_format
        self.topics = dict(topics)
        self.cluster_id = cluster_id
        self._settings = dict(settings or {})
        directory.mkdir(parents=True, exist_ok=True)
        count = (3 if admin else 2) * nodes
        ports = _free_ports(count) if port == 0 else _checked_ports(port, count)
        self.nodes = {
            index + 1: LocalNode(
                index + 1,
                directory,
                kafka_port=ports[index],
                peer_port=ports[nodes + index],
                admin_port=ports[2 * nodes + index] if admin else None,
            )
            for index in range(nodes)
        }
        for node in self.nodes.values():
            node.config_path.write_text(self._configuration(node))

    @property
    def bootstrap(self) -> str:
        """HOST:PORT of every node, as clients take it."""
        return ",".join(f"{HOST}:{node.kafka_port}" for node in self.nodes.values())

    @property
    def admin(self) -> str:
        """HOST:PORT of every node's admin port; empty without such ports."""
        return ",".join(f"{HOST}:{node.admin_port}" for node in self.nodes.values() if node.admin_port)

    def _configuration(self, node: LocalNode) -> str:
        settings: dict[str, int | str] = {
            "cluster_id": self.cluster_id,
            "node_id": node.node_id,
            "data_dir": str(node.data_dir),
            "listen_host": HOST,
            "listen_port": node.kafka_port,
            "peer_host": HOST,
            "peer_port": node.peer_port,
            **self._settings,
        }
        if node.admin_port is not None:
            settings |= {"admin_host": HOST, "admin_port": node.admin_port}
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        lines += ["", "[topics]", *(f"{json.dumps(name)} = {count}" for name, count in self.topics.items())]
        for peer in self.nodes.values():
            if peer is not node:
                lines += ["", f"[peers.{peer.node_id}]", f'host = "{HOST}"', f"port = {peer.peer_port}"]
                lines += [f'kafka_host = "{HOST}"', f"kafka_port = {peer.kafka_port}"]
        return "\n".join(lines) + "\n"

    # Processes

    def start(self, *node_ids: int) -> None:
        """Start the nodes named, or all; they come up by themselves, `wait_ready` waits for it."""
        for node_id in node_ids or self.nodes:
            node = self.nodes[node_id]
            if node.is_running():
                continue
            arguments = [
                sys.executable,
                "-m",
                "rlog",
                "serve",
                "--config",
                str(node.config_path),
                "--log-format",
                self.log_format,
                "--stop-on-eof",
            ]
            with node.log_path.open("ab") as log:
                # A session of its own: Ctrl-C reaches this process only, which then stops the nodes in order.
                node.process = subprocess.Popen(
                    arguments, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
                )

    def kill(self, *node_ids: int) -> None:
        """SIGKILL the nodes named, or all, at once, and wait until they are gone."""
        self._signal(signal.SIGKILL, node_ids)
        for node_id in node_ids or self.nodes:
            self._reap(self.nodes[node_id], STOP_TIMEOUT_S)

    def pause(self, *node_ids: int) -> None:
        """SIGSTOP: the node freezes, its connections stay open."""
        self._signal(signal.SIGSTOP, node_ids)

    def resume(self, *node_ids: int) -> None:
        self._signal(signal.SIGCONT, node_ids)

    def stop(self, *node_ids: int, timeout_s: float = STOP_TIMEOUT_S) -> dict[int, int]:
        """SIGTERM to the nodes named, or all; SIGKILL to what is not gone in time. Their exit statuses."""
        running = [node_id for node_id in node_ids or self.nodes if self.nodes[node_id].is_running()]
        self._signal(signal.SIGCONT, running)
        self._signal(signal.SIGTERM, running)
        deadline = time.monotonic() + timeout_s
        for node_id in running:
            try:
                self._reap(self.nodes[node_id], max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill(node_id)
        return {node_id: self.exit_status(node_id) for node_id in running}

    def exit_status(self, node_id: int) -> int:
        """How the node's last process ended; negative: the signal. Raises NotReady while it runs."""
        process = self.nodes[node_id].process
        if process is None or process.returncode is None:
            raise NotReady(f"node {node_id} has not ended")
        return process.returncode

    def _signal(self, number: signal.Signals, node_ids: Sequence[int]) -> None:
        for node_id in node_ids or self.nodes:
            process = self.nodes[node_id].process
            if process is not None and process.poll() is None:
                os.kill(process.pid, number)

    def _reap(self, node: LocalNode, timeout_s: float) -> None:
        if node.process is not None:
            node.process.wait(timeout_s)
            if node.process.stdin is not None:
                node.process.stdin.close()

    def __enter__(self) -> "LocalCluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    # What they say

    def describe(self, node_id: int, *, timeout_s: float = 1.0) -> NodeDescription | None:
        """What the node says of itself, or None when it does not answer."""
        with contextlib.suppress(OSError):
            return describe(HOST, self.nodes[node_id].kafka_port, timeout_s=timeout_s)
        return None

    def replica(self, node_id: int, topic: str, partition: int = 0) -> ReplicaDescription | None:
        """The node's replica of the partition, or None when it does not answer, or has none."""
        description = self.describe(node_id)
        replicas = description["partitions"] if description is not None else []
        wanted = (topic, partition)
        return next((each for each in replicas if (each["topic"], each["partition"]) == wanted), None)

    def leader(self, topic: str, partition: int = 0) -> tuple[int, int] | None:
        """(node, generation) of the replica that leads in the highest generation; None when none does."""
        leading = []
        for node_id, node in self.nodes.items():
            replica = self.replica(node_id, topic, partition) if node.is_running() else None
            if replica is not None and replica["role"] == "leader":
                leading.append((replica["generation"], node_id))
        return max(leading)[::-1] if leading else None

    def wait_ready(self, *, timeout_s: float = 30.0, node_ids: Sequence[int] = ()) -> None:
        """Wait until the nodes named (all that run) agree on a leader for every partition.

        Raises NodeEnded when one of them ends meanwhile, NotReady after `timeout_s`.
        """
        expected = list(node_ids) or [node_id for node_id, node in self.nodes.items() if node.is_running()]

        def ready() -> bool:
            self.check_running(expected)
            return self._agree(expected)

        self.wait_until(ready, f"nodes {expected} agree on a leader for every partition", timeout_s=timeout_s)

    def check_running(self, node_ids: Sequence[int]) -> None:
        """Raises NodeEnded when one of the nodes named has ended."""
        for node_id in node_ids:
            if not self.nodes[node_id].is_running():
                status = self.exit_status(node_id)
                raise NodeEnded(
                    f"node {node_id} ended with status {status}:\n{self.nodes[node_id].last_words()}"
                )

    def _agree(self, node_ids: Sequence[int]) -> bool:
        leaders: dict[tuple[str, int], set[tuple[int | None, int]]] = {
            (topic, index): set() for topic, count in self.topics.items() for index in range(count)
        }
        led = set()
        for node_id in node_ids:
            description = self.describe(node_id)
            if description is None:
                return False
            for replica in description["partitions"]:
                key = (replica["topic"], replica["partition"])
                leaders.setdefault(key, set()).add((replica["leader"], replica["generation"]))
                if replica["role"] == "leader":
                    led.add(key)
        return all(len(known) == 1 and key in led for key, known in leaders.items())

    def wait_until(self, condition: Callable[[], bool], what: str, *, timeout_s: float = 30.0) -> None:
        """Poll until `condition()`; raises NotReady with what the nodes said last after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise NotReady(f"not within {timeout_s:g} s: {what}\n{self._all_last_words()}")
            time.sleep(POLL_S)

    def _all_last_words(self) -> str:
        return "\n".join(f"--- node {node.node_id}\n{node.last_words()}" for node in self.nodes.values())


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different.

    Below the range from which the kernel takes ports for outgoing connections: while a node is down, one
    of those could otherwise take the port that it needs again, or a redial connect to itself.
    """
    outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(FREE_PORT_MIN, max(outgoing, 2 * FREE_PORT_MIN))
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in Random().sample(candidates, len(candidates)):
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                found.append(port)
            if len(found) == count:
                return found
    raise ConfigurationError(
        f"fewer than {count} ports from {FREE_PORT_MIN} on are free: end what listens there, or name ports "
        "with --port"
    )


def _checked_ports(first: int, count: int) -> list[int]:
    """`count` ports from `first`. Raises ConfigurationError when one is in use or impossible."""
    if not 1 <= first <= 65536 - count:
        raise ConfigurationError(f"port {first}: {count} ports from there on must lie below 65536")
    for port in range(first, first + count):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise ConfigurationError(
                    f"port {port} is in use ({error.strerror}), and ports {first} to {first + count - 1} "
                    "are needed: choose others with --port, or any that are free with --port 0"
                ) from error
    return list(range(first, first + count))
