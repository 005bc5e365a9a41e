"""Simulated machines that run the real node: its code, its log on an in-memory disk, its peers and clients.

A machine has a disk, which outlives everything, and at most one process. `kill` ends the process between two
of its handles and leaves the page cache; `power_cut` also takes what the disk had not synced. The node gets
its world through `Env` and the running loop, as in production.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from rlog._core import Vfs, decode_records, iterate_batches
from rlog.config import NodeConfig, PeerAddress
from rlog.errors import RlogError
from rlog.node.env import Env
from rlog.node.node import Node
from rlog.node.partition import Partition
from rlog.testing.checker import Copy, History
from rlog.testing.disk import MemoryDisk
from rlog.testing.executor import DiskSettings, SimDiskExecutor, SimWorker
from rlog.testing.invariants import READ_BYTES, Invariants, NodeWatch
from rlog.testing.loop import Process, SimLoop
from rlog.testing.network import Network

KAFKA_PORT, PEER_PORT = 9092, 9192
WALL_CLOCK_START_MS = 1_700_000_000_000
# Small, so that a short run rolls segments, and reads some of what it wrote back from the disk.
SEGMENT_BYTES_MAX = 16 * 1024
TAIL_BYTES_MAX = 8 * 1024


@dataclass(slots=True)
class Machine:
    """node is None while no process runs. incarnation counts the processes started, from 1; starts, how often
    the machine got its power back."""

    node_id: int
    host: str
    disk: MemoryDisk
    incarnation: int = 0
    starts: int = 0
    process: Process | None = None
    node: Node | None = None
    executor: SimDiskExecutor | None = None
    watch: NodeWatch | None = None
    is_stopping: bool = False


class Cluster:
    """Nodes 1..count on hosts "n1".. with one topic table. It is the `Target` of faults."""

    def __init__(
        self,
        network: Network,
        random: Random,
        invariants: Invariants,
        *,
        count: int,
        topics: dict[str, int],
        disk: DiskSettings,
        config: Mapping[str, int] | None = None,
    ) -> None:
        self.network = network
        self.counts: Counter[str] = Counter()
        self.node_ids = tuple(range(1, count + 1))
        self.machines = {
            node_id: Machine(node_id, f"n{node_id}", MemoryDisk(Random(random.getrandbits(64))))
            for node_id in self.node_ids
        }
        self._loop: SimLoop = network.loop
        self._random = random
        self._invariants = invariants
        self._topics = topics
        self._disk = disk
        self._overrides: dict[str, Any] = dict(config or {})
        for machine in self.machines.values():
            network.add_host(machine.host)

    @property
    def bootstrap(self) -> str:
        return ",".join(f"{machine.host}:{KAFKA_PORT}" for machine in self.machines.values())

    # -- what faults ask and do

    def host_of(self, node_id: int) -> str:
        return self.machines[node_id].host

    def is_running(self, node_id: int) -> bool:
        return self.machines[node_id].process is not None

    def leaders(self) -> list[int]:
        """Nodes that lead a partition, as they see it."""
        return [
            node_id
            for node_id, machine in self.machines.items()
            if machine.node is not None
            and any(partition.is_leader for partition in machine.node.partitions.values())
        ]

    def start(self, node_id: int) -> None:
        """Give the machine power, if it has none, and start its node."""
        machine = self.machines[node_id]
        assert machine.process is None, f"node {node_id} runs"
        if not self.network.hosts[machine.host].has_power:
            self.network.power_on(machine.host)
        machine.incarnation += 1
        machine.is_stopping = False
        name = f"{machine.host}#{machine.incarnation}"
        machine.executor = SimDiskExecutor(self._loop, self._fork(), self._disk, name)
        env = Env(
            vfs=Vfs.of(machine.disk),
            disk=machine.executor,
            reads=SimWorker(self._loop, machine.executor, f"{name} reads"),
            searches=SimWorker(self._loop, machine.executor, f"{name} searches"),
            random=self._fork(),
            wall_clock_ms=lambda: WALL_CLOCK_START_MS + int(self._loop.time() * 1000),
            uptime=lambda: (f"start {machine.starts}", self._loop.time()),
            stopwatch_s=self._loop.time,
        )
        machine.node = Node(self._config(machine), env)
        machine.watch = NodeWatch(self._invariants, node_id, machine.incarnation, machine.node)
        machine.process = Process(machine.host, machine.incarnation, observe=machine.watch)
        self._loop.trace.add(self._loop.time(), f"start {name}")
        serving = self._loop.create_task(_serve(machine.node), context=machine.process.context())
        serving.add_done_callback(lambda task: self._ended(machine, task))

    def kill(self, node_id: int) -> None:
        machine = self.machines[node_id]
        process = self._end_process(machine)
        if process is not None:
            self.counts["kills"] += 1
            self.network.process_killed(process)
            machine.disk.kill()

    def power_cut(self, node_ids: Sequence[int]) -> None:
        """All at the same instant: the processes, the machines, and what was not synced."""
        self.counts["power_cuts"] += 1
        for node_id in node_ids:
            machine = self.machines[node_id]
            self._end_process(machine)
            machine.starts += 1
            self.network.power_cut(machine.host)
            # Half of them take everything that was not synced, the others any part of it.
            all_lost = [0] * len(machine.disk.unsynced()) if self._random.random() < 0.5 else None
            self.counts["lost_writes"] += machine.disk.power_cut(all_lost)

    def freeze(self, node_id: int) -> None:
        process = self.machines[node_id].process
        if process is not None:
            self._loop.freeze(process)

    def thaw(self, node_id: int) -> None:
        process = self.machines[node_id].process
        if process is not None and process.frozen:
            self._loop.thaw(process)

    def stall_disk(self, node_id: int, seconds: float, path: str = "") -> None:
        executor = self.machines[node_id].executor
        if executor is not None:
            executor.stall(seconds, path)

    def restart(self, node_id: int) -> None:
        """An orderly stop, and a start once it ended; nothing when the process dies meanwhile."""
        machine = self.machines[node_id]
        process, node, watch = machine.process, machine.node, machine.watch
        if process is None or node is None or watch is None or machine.is_stopping:
            return
        machine.is_stopping = watch.is_stopping = True

        def stopped(_: asyncio.Task[None]) -> None:
            if process.alive:
                self.counts["restarts"] += 1
                self._end_process(machine)
                self.network.process_killed(process)
                machine.disk.kill()
                self.start(node_id)

        self._loop.create_task(node.stop(), context=process.context()).add_done_callback(stopped)

    # -- the end of a run

    async def settle(self) -> None:
        """Return when every partition is led, and all replicas hold, flushed and committed, the same end."""
        settled = self._loop.create_future()

        def look() -> None:
            if settled.done():
                return
            if all(self._is_settled(key) for key in self._partition_keys()):
                settled.set_result(None)
            else:
                self._loop.call_later(0.05, look)

        look()
        await settled

    def read_back(self, history: History) -> None:
        """Add every replica's log, as its node reads it now, to the history."""
        for key in self._partition_keys():
            for machine in self.machines.values():
                if machine.node is None or key not in machine.node.partitions:
                    continue
                partition = machine.node.partitions[key]
                try:
                    history.copies.append(_copy_of(machine.node_id, partition))
                except RlogError as error:
                    detail = f"node {machine.node_id} cannot read its log back: {error}"
                    self._invariants.violated("lost", partition.name, detail)

    def _partition_keys(self) -> list[tuple[str, int]]:
        return [(topic, index) for topic, count in self._topics.items() for index in range(count)]

    def _is_settled(self, key: tuple[str, int]) -> bool:
        nodes = [machine.node for machine in self.machines.values()]
        partitions = [node.partitions[key] for node in nodes if node is not None and key in node.partitions]
        ends = {(one.hwm, one.end_offset, one.log.flushed_offset) for one in partitions}
        return (
            len(partitions) == len(nodes)
            and len({one.log.start_offset for one in partitions}) == 1
            and len(ends) == 1
            and len(set(ends.pop())) == 1
            and sum(one.serving for one in partitions) == 1
        )

    # -- processes

    def _ended(self, machine: Machine, task: asyncio.Task[None]) -> None:
        """A node that ends by itself has failed, whatever it says."""
        error = task.exception()
        if not machine.is_stopping or error is not None:
            message = f"node {machine.node_id} (incarnation {machine.incarnation}) ended"
            self._loop.call_exception_handler({"message": message, "exception": error})

    def _end_process(self, machine: Machine) -> Process | None:
        process = machine.process
        if process is not None:
            self._loop.trace.add(self._loop.time(), f"end {process!r}")
            self._loop.kill(process)
            self._loop.keep((machine.node, machine.executor))
        machine.process = machine.node = machine.executor = None
        return process

    def _fork(self) -> Random:
        return Random(self._random.getrandbits(64))

    def _config(self, machine: Machine) -> NodeConfig:
        config = NodeConfig(
            cluster_id="simulated",
            node_id=machine.node_id,
            data_dir="/data",
            listen_host=machine.host,
            listen_port=KAFKA_PORT,
            peer_host=machine.host,
            peer_port=PEER_PORT,
            peers={
                other.node_id: PeerAddress(other.host, PEER_PORT, other.host, KAFKA_PORT)
                for other in self.machines.values()
                if other is not machine
            },
            topics=self._topics,
            segment_bytes_max=SEGMENT_BYTES_MAX,
            tail_bytes_max=TAIL_BYTES_MAX,
        )
        return replace(config, **self._overrides)


async def _serve(node: Node) -> None:
    await node.start()
    await node.wait_closed()


def _copy_of(node_id: int, partition: Partition) -> Copy:
    start = min(partition.start_offset, partition.log.end_offset)  # a damaged log may end before it
    data = b"".join(partition.log.read(start, bytes_max=READ_BYTES, end_max=partition.hwm))
    batches = {
        batch.base_offset: data[batch.position : batch.position + batch.size]
        for batch in iterate_batches(data)
    }
    records = {record.offset: record.value or b"" for record in decode_records(data)}
    return Copy(node_id, partition.name, partition.hwm, batches, records, partition.start_offset)
