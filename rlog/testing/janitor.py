"""Deletes the oldest records of simulated partitions, as an administrator's requests do, at any moment.

Each request goes to a node that believes it leads, in that node's own context, and is kept in the history
with its outcome: what was acknowledged as deleted must never be seen again (`checker.undeleted`).
"""

import asyncio
from functools import partial
from random import Random

from rlog.node.deletion import DeleteResult
from rlog.node.node import Node
from rlog.testing.checker import Deletion, History
from rlog.testing.cluster import Cluster, Machine

PATIENCE_S = 3.0
KEPT_RECORDS_MAX = 120


class Janitor:
    """Asks about every `pause` seconds, from `start` to `stop`."""

    def __init__(
        self, cluster: Cluster, random: Random, history: History, topics: dict[str, int], pause: float
    ) -> None:
        self._cluster = cluster
        self._loop = cluster.network.loop
        self._random = random
        self._history = history
        self._keys = [(topic, index) for topic, count in topics.items() for index in range(count)]
        self._pause = pause
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = self._loop.call_later(self._random.expovariate(1 / self._pause), self._again)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _again(self) -> None:
        self.start()
        key = self._random.choice(self._keys)
        for machine in self._cluster.machines.values():
            node, process = machine.node, machine.process
            if node is not None and process is not None and not machine.is_stopping:
                partition = node.partitions.get(key)
                if partition is not None and partition.is_leader:
                    # A frozen process keeps the handle until it is thawed, as a socket would the request.
                    self._loop.call_soon(self._delete, machine, node, key, context=process.context())

    def _delete(self, machine: Machine, node: Node, key: tuple[str, int]) -> None:
        partition = node.partitions[key]
        hwm = partition.hwm
        kept = self._random.choice((0, self._random.randrange(KEPT_RECORDS_MAX)))
        offset = max(0, hwm - kept)
        now, place = self._loop.time(), len(self._history.deletions)
        self._history.deletions.append(Deletion(partition.name, offset, now))
        self._loop.trace.add(now, f"delete {partition.name} below {offset} at node {machine.node_id}")
        done = partial(self._deleted, place)
        partition.delete_records(offset, deadline=now + PATIENCE_S, done=done)

    def _deleted(self, place: int, result: DeleteResult) -> None:
        asked = self._history.deletions[place]
        if result.error == 0:
            completed = self._loop.time()
            self._history.deletions[place] = Deletion(asked.partition, asked.offset, asked.invoked, completed)
        self._loop.trace.add(
            self._loop.time(), f"deleted {asked.partition} below {asked.offset}: {result.error}"
        )
