"""A cluster under an ordinary producer's load, and what must hold of it whatever strangers send meanwhile."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from rlog.cli.local_cluster import LocalCluster, LocalNode
from tests.harness.processes import running_cluster, wait_for
from tests.harness.workload import History, Load, check_history, check_replicas, read_all

TOPIC = "orders"
MIB = 1 << 20
# What a node may grow by at most, at any moment, above what it held before an assault.
GROWTH_BYTES_MAX = 96 * MIB
MORE_ACKS = 100
PACE_S = 0.003


class Siege:
    """Three nodes; a thread of this process writes to `orders` until the siege is left. A context manager."""

    def __init__(
        self, directory: Path, topics: Mapping[str, int], settings: Mapping[str, int | str] | None = None
    ) -> None:
        self.cluster: LocalCluster
        self._cluster = running_cluster(directory, topics={TOPIC: 1, **topics}, settings=settings)
        self._stack = ExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._load: Load

    def __enter__(self) -> Self:
        self.cluster = self._stack.enter_context(self._cluster)
        self._stack.callback(self._end_thread)
        self._thread.start()
        self._load = Load(self.cluster.bootstrap, TOPIC, pace_s=PACE_S)
        self._run(self._load.__aenter__())
        self.wait_acks()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._run(self._load.__aexit__(*error))
            if error[0] is None:
                self.check_nothing_lost()
                self.check_replicas()
        finally:
            self._stack.close()

    def _run(self, what) -> object:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def history(self) -> History:
        return self._load.history

    @property
    def leader(self) -> LocalNode:
        """Of the topic under load."""
        found = self.cluster.leader(TOPIC)
        assert found is not None
        return self.cluster.nodes[found[0]]

    def leader_of(self, topic: str) -> LocalNode:
        found = self.cluster.leader(topic)
        assert found is not None
        return self.cluster.nodes[found[0]]

    def wait_acks(self, more: int = MORE_ACKS) -> None:
        """Until the ordinary producer has got so many more acknowledgements."""
        target = len(self.history.acked) + more
        wait_for(lambda: len(self.history.acked) >= target, f"{more} more acknowledgements")

    def said(self) -> str:
        """What all nodes have logged."""
        return "".join(node.log_path.read_text() for node in self.cluster.nodes.values())

    def generations(self) -> dict[str, tuple[int, int] | None]:
        return {topic: self.cluster.leader(topic) for topic in self.cluster.topics}

    @contextmanager
    def assault(self, *, growth_bytes_max: int = GROWTH_BYTES_MAX) -> Iterator[None]:
        """While its body runs: no leader changes, the producer goes on, and no node grows beyond bounds."""
        before = self.generations()
        sizes = {node_id: resident_bytes(node) for node_id, node in self.cluster.nodes.items()}
        for node in self.cluster.nodes.values():
            forget_peak(node)
        self.wait_acks()
        yield
        self.wait_acks()
        self.cluster.check_running(list(self.cluster.nodes))
        assert self.generations() == before, "a leader changed"
        growths = {node_id: peak_bytes(node) - sizes[node_id] for node_id, node in self.cluster.nodes.items()}
        assert max(growths.values()) <= growth_bytes_max, f"grew by {growths} bytes"

    def check_log_lines(self, *, lines_max: int) -> None:
        """Nothing that the nodes said is of a bug, and of each kind they said little."""
        said = self.said()
        assert "Traceback" not in said
        assert " CRITICAL " not in said
        assert " ERROR " not in said
        assert said.count("\n") <= lines_max, "a flood of lines"

    def check_replicas(self) -> None:
        """All hold the same, up to what is committed everywhere. It stops the nodes."""
        replicas = [self.cluster.replica(node_id, TOPIC) for node_id in self.cluster.nodes]
        assert None not in replicas
        end = min(replica["hwm"] for replica in replicas if replica is not None)
        assert end > 0
        self.cluster.stop()
        check_replicas(self.cluster, TOPIC, end=end)

    def check_nothing_lost(self) -> None:
        assert self.history.acked
        assert not self.history.unknown
        assert not self.history.refused
        check_history(self.history, asyncio.run(read_all(self.cluster.bootstrap, TOPIC)))


def connect(node: LocalNode, *, peer_port: bool = False) -> socket.socket:
    port = node.peer_port if peer_port else node.kafka_port
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def all_until_closed(connection: socket.socket) -> bytes:
    """What still comes until the node closes the connection."""
    received = bytearray()
    try:
        while part := connection.recv(1 << 16):
            received += part
    except ConnectionResetError:
        return bytes(received)
    return bytes(received)


def resident_bytes(node: LocalNode) -> int:
    return _status_bytes(node, "VmRSS")


def peak_bytes(node: LocalNode) -> int:
    """The most it held since `forget_peak`."""
    return _status_bytes(node, "VmHWM")


def forget_peak(node: LocalNode) -> None:
    Path(f"/proc/{node.pid}/clear_refs").write_text("5")


def _status_bytes(node: LocalNode, name: str) -> int:
    status = Path(f"/proc/{node.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
