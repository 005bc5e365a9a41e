"""Load with unique values by an idempotent producer, and the check of what came back.

Every value is written once by the program, with its number in it; whatever happens to the nodes meanwhile, an
acknowledged value must be in the log once, at the acknowledged offset, in the order of writing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import rlog
from rlog.cli.local_cluster import LocalCluster
from rlog.errors import RlogError
from rlog.log.storage import read_partition
from rlog.records import Receipt, Record

DEADLINE_S = 60.0
IN_FLIGHT_MAX = 2000


@dataclass(slots=True)
class History:
    """What the writer knows. acked[number] = offset; unknown, refused: by the outcome of the error."""

    sent: int = 0
    acked: dict[int, int] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)


class Load:
    """Writes to partition 0 of `topic` in the background until it is left. An async context manager.

    pace_s: between one write and the next; 0 is as fast as it can.
    """

    def __init__(self, bootstrap: str, topic: str, *, pace_s: float = 0) -> None:
        self._pace_s = pace_s
        self.history = History()
        self._bootstrap = bootstrap
        self._topic = topic
        self._stopping = False
        self._in_flight = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._task is not None
        self._stopping = True
        if error[0] is not None:
            self._task.cancel()
        await asyncio.wait({self._task}, timeout=DEADLINE_S)
        if error[0] is None:
            assert self._task.done(), "the producer did not close in time"
            self._task.result()

    async def _write(self) -> None:
        async with (
            rlog.connect(self._bootstrap) as cluster,
            cluster.producer(self._topic) as producer,
            asyncio.TaskGroup() as receipts,
        ):
            while not self._stopping:
                await self._in_flight.acquire()
                number = self.history.sent
                self.history.sent += 1
                receipt = await producer.send(b"value-%d" % number, partition=0)
                receipts.create_task(self._note(number, receipt))
                if self._pace_s:
                    await asyncio.sleep(self._pace_s)

    async def _note(self, number: int, receipt: Awaitable[Receipt]) -> None:
        try:
            self.history.acked[number] = (await receipt).offset
        except RlogError as error:
            (self.history.unknown if error.outcome == "unknown" else self.history.refused).add(number)
        finally:
            self._in_flight.release()

    async def acked(self, more: int) -> None:
        """Wait until `more` writes were acknowledged from now on; raises AssertionError after a minute."""
        assert self._task is not None
        target = len(self.history.acked) + more
        await eventually(
            lambda: len(self.history.acked) >= target or self._task_failed(), f"{more} more acks"
        )
        if self._task.done():
            self._task.result()

    async def silence(self, *, seconds: float) -> None:
        """Wait until nothing was acknowledged for so long; raises AssertionError after a minute."""
        loop = asyncio.get_running_loop()
        last = (len(self.history.acked), loop.time())

        def silent() -> bool:
            nonlocal last
            if len(self.history.acked) != last[0]:
                last = (len(self.history.acked), loop.time())
            return loop.time() - last[1] >= seconds

        await eventually(silent, f"{seconds} s without an ack")

    def _task_failed(self) -> bool:
        return self._task is not None and self._task.done()


async def eventually(condition: Callable[[], bool], what: str, *, timeout_s: float = DEADLINE_S) -> None:
    """Wait for `condition()`, leaving the loop free. Raises AssertionError naming `what`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        assert loop.time() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.01)


async def read_all(bootstrap: str, topic: str) -> list[Record]:
    """All committed records of partition 0."""
    records: list[Record] = []
    async with rlog.connect(bootstrap) as cluster:
        end = await cluster.end_offset(topic, 0)
        async with cluster.consumer(topic, partition=0, start="earliest") as consumer:
            async with asyncio.timeout(DEADLINE_S):
                while (consumer.position() or 0) < end:
                    records += await consumer.fetch(timeout_ms=500)
    return records


def check_history(history: History, records: Sequence[Record]) -> None:
    """Nothing acknowledged is lost or moved; nothing is there twice, out of order, or invented."""
    numbers = [int(record.value.removeprefix(b"value-")) for record in records if record.value is not None]
    assert len(numbers) == len(records), "a record without a value"
    assert len(set(numbers)) == len(numbers), "a value is in the log twice"
    assert numbers == sorted(numbers), "values are not in the order of writing"
    found = {number: record.offset for number, record in zip(numbers, records, strict=True)}
    # A repetition that the node recognised without knowing the first one's offset is acknowledged at -1.
    lost = {
        number: offset
        for number, offset in history.acked.items()
        if number not in found or offset not in (-1, found[number])
    }
    assert not lost, f"{len(lost)} acknowledged records lost or moved, e.g. {next(iter(lost.items()))}"
    assert not history.refused & found.keys(), "a refused record is in the log"
    assert set(numbers) <= set(range(history.sent)), "a record nobody wrote"


def check_replicas(cluster: LocalCluster, topic: str, *, end: int) -> None:
    """The stopped nodes' segment files hold the same bytes up to offset `end`."""
    contents = {
        node_id: b"".join(read_partition(str(node.data_dir), f"{topic}-0", end))
        for node_id, node in cluster.nodes.items()
    }
    assert len(set(contents.values())) == 1, {node_id: len(content) for node_id, content in contents.items()}
