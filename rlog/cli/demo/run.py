"""The demo's course: produce, kill the leader in the middle, restart it, let it catch up, consume all."""

import asyncio
import contextlib
from array import array
from collections import deque

import rlog
from rlog.cli.demo.result import Result
from rlog.cli.demo.show import Show
from rlog.cli.demo.source import Source
from rlog.cli.demo.verify import NOT_ACKNOWLEDGED, Checker
from rlog.cli.local_cluster import LocalCluster, NotReady
from rlog.client import Ack, Producer
from rlog.errors import RlogError

TOPIC = "lines"
KILL_AT = 0.4
POLL_S = 0.02
LEADER_POLL_S = 0.5
PENDING_MAX = 50_000
IN_FLIGHT_MIN = 500
RESUME_TIMEOUT_S = 30.0
CATCH_UP_TIMEOUT_S = 60.0
FETCH_TIMEOUT_MS = 500
BAR_EVERY = 5000
CAUGHT_UP_LAG = 5000


class Run:
    """One run against a cluster whose nodes are up. `result` is filled in as it goes."""

    def __init__(self, cluster: LocalCluster, source: Source, result: Result, show: Show) -> None:
        self.cluster = cluster
        self.source = source
        self.result = result
        self.show = show
        self.offsets = array("q", [NOT_ACKNOWLEDGED]) * source.records
        self._pending: deque[Ack] = deque()
        # A small part of the input, so that the kill falls into the middle of a run of any length.
        self._pending_max = min(PENDING_MAX, source.records // 20)
        self._in_flight_min = min(IN_FLIGHT_MIN, self._pending_max // 4)
        self._room = asyncio.Event()
        self._more = asyncio.Event()
        self._killed = asyncio.Event()
        self._killed_s = 0.0
        self._resume_target = source.records
        self._resumed = asyncio.Event()
        self._started_s = 0.0
        self._last_ack_s = 0.0

    async def run(self) -> None:
        """Raises a group of RlogErrors: acknowledgements do not resume, a replica stays behind."""
        self._started_s = asyncio.get_running_loop().time()
        async with rlog.connect(self.cluster.bootstrap) as cluster, asyncio.TaskGroup() as tasks:
            restarting = tasks.create_task(self._watch_and_restart())
            collecting = tasks.create_task(self._collect())
            async with cluster.producer(TOPIC) as producer:
                await self._produce(producer)
                await collecting
            await restarting
        await self._consume()

    # Writing

    async def _produce(self, producer: Producer) -> None:
        """Send the input; kill the leader once KILL_AT is acknowledged and enough is unanswered."""
        result = self.result
        for key, value in self.source:
            self._pending.append(await producer.send(value, key=key))
            result.sent += 1
            self._more.set()
            if result.killed_at is None and self._may_kill():
                await asyncio.sleep(0)  # what is in the client's batches goes out
                self._kill()
            if len(self._pending) >= self._pending_max:
                self._room.clear()
                await self._room.wait()

    def _may_kill(self) -> bool:
        result = self.result
        return (
            result.acknowledged >= KILL_AT * self.source.records
            and result.killed_node != 0
            and len(self._pending) >= self._in_flight_min
            and not self._pending[-self._in_flight_min].done()
        )

    async def _collect(self) -> None:
        """Take the receipts in order; after the kill watch for the longest pause."""
        result, loop, total = self.result, asyncio.get_running_loop(), self.source.records
        self._last_ack_s = loop.time()
        for index in range(total):
            while not self._pending:
                self._more.clear()
                await self._more.wait()
            if len(self._pending) <= self._pending_max // 2:
                self._room.set()
            try:
                receipt = await self._pending.popleft()
            except RlogError as error:
                result.unacknowledged += 1
                result.problem(f"record {index} was not acknowledged (outcome {error.outcome}): {error}")
                continue
            self.offsets[index] = receipt.offset
            result.acknowledged += 1
            if result.killed_at is not None:
                self._note_pause(loop.time())
            if index % BAR_EVERY == 0:
                self._last_ack_s = loop.time()
                result.seconds = self._last_ack_s - self._started_s
                self.show.bar("acknowledged", result.acknowledged, total)
        self._last_ack_s = loop.time()
        result.seconds = self._last_ack_s - self._started_s
        self.show.bar("acknowledged", result.acknowledged, total)

    def _note_pause(self, now: float) -> None:
        result = self.result
        assert result.killed_at is not None
        result.acknowledged_after_kill = max(0, result.acknowledged - result.killed_at)
        result.gap_ms = max(result.gap_ms, (now - self._last_ack_s) * 1000)
        self._last_ack_s = now
        if result.acknowledged >= self._resume_target:
            self._resumed.set()

    def _kill(self) -> None:
        result = self.result
        self.cluster.kill(result.killed_node)
        self._killed_s = self._last_ack_s = asyncio.get_running_loop().time()
        # What has been answered and only not been looked at yet came before the kill.
        result.killed_at = result.acknowledged + sum(ack.done() for ack in self._pending)
        result.in_flight_at_kill = result.sent - result.killed_at - result.unacknowledged
        self._resume_target = min(result.sent + 1, self.source.records)
        self.show.event(
            f"killed node {result.killed_node}, the leader of generation {result.killed_generation}: "
            f"{result.killed_at:,} records acknowledged, {result.in_flight_at_kill:,} in flight"
        )
        self._killed.set()

    # The nodes

    async def _watch_and_restart(self) -> None:
        result, loop = self.result, asyncio.get_running_loop()
        while not self._killed.is_set():
            leader = await asyncio.to_thread(self.cluster.leader, TOPIC)
            if leader is not None and not self._killed.is_set():
                result.killed_node, result.killed_generation = leader
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._killed.wait(), LEADER_POLL_S)
        await asyncio.to_thread(self._wait_for_new_leader)
        result.election_ms = (loop.time() - self._killed_s) * 1000
        try:
            async with asyncio.timeout(RESUME_TIMEOUT_S):
                await self._resumed.wait()
        except TimeoutError as error:
            raise NotReady(f"acknowledgements did not resume within {RESUME_TIMEOUT_S:g} s") from error
        self.show.event(
            f"node {result.new_leader} leads in generation {result.new_generation}; "
            f"acknowledgements resumed after {result.gap_ms:,.0f} ms"
        )
        await self._restart()

    def _wait_for_new_leader(self) -> None:
        def found() -> bool:
            leader = self.cluster.leader(TOPIC)
            if leader is None or leader[1] <= self.result.killed_generation:
                return False
            self.result.new_leader, self.result.new_generation = leader
            return True

        self.cluster.wait_until(found, "a new leader", timeout_s=RESUME_TIMEOUT_S)

    async def _restart(self) -> None:
        """Start the killed node again, and wait until all have flushed all there is."""
        result, loop = self.result, asyncio.get_running_loop()
        restarted_s = loop.time()
        self.cluster.start(result.killed_node)
        self.show.event(f"restarted node {result.killed_node}")
        ended_s: float | None = None
        while True:
            self.cluster.check_running(list(self.cluster.nodes))
            flushed = await asyncio.to_thread(self._flushed_offsets)
            mine, most = flushed.get(result.killed_node, 0), max(flushed.values(), default=0)
            self.show.bar(f"node {result.killed_node} catching up", mine, most)
            if mine and not result.caught_up_ms and most - mine <= CAUGHT_UP_LAG:
                result.caught_up_ms = (loop.time() - restarted_s) * 1000
                self.show.event(f"node {result.killed_node} caught up in {result.caught_up_ms:,.0f} ms")
            if result.acknowledged + result.unacknowledged == self.source.records:
                if len(flushed) == len(self.cluster.nodes) and len(set(flushed.values())) == 1:
                    return
                ended_s = ended_s or loop.time()
                if loop.time() > ended_s + CATCH_UP_TIMEOUT_S:
                    raise NotReady(
                        f"the replicas did not get level within {CATCH_UP_TIMEOUT_S:g} s: flushed {flushed}"
                    )
            await asyncio.sleep(POLL_S)

    def _flushed_offsets(self) -> dict[int, int]:
        flushed = {}
        for node_id in self.cluster.nodes:
            replica = self.cluster.replica(node_id, TOPIC)
            if replica is not None:
                flushed[node_id] = replica["flushed_offset"]
        return flushed

    # Reading back

    async def _consume(self) -> None:
        """Read the whole partition through the client, and compare it with the input."""
        checker = Checker(self.source, self.offsets, self.result)
        async with rlog.connect(self.cluster.bootstrap) as cluster:
            end = await cluster.end_offset(TOPIC, 0)
            self.result.hwm = end
            async with cluster.consumer(TOPIC, partition=0, start="earliest") as consumer:
                while (consumer.position() or 0) < end:
                    for record in await consumer.fetch(timeout_ms=FETCH_TIMEOUT_MS):
                        checker.see(record)
                    self.show.bar("consumed and compared", self.result.consumed, self.result.acknowledged)
        checker.end()
        self.show.event(f"consumed {self.result.consumed:,} records and compared them with the input")
