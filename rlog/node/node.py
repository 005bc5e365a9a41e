"""One node of a cluster: its parts, its ticks, its timers, and its end.

A tick of the loop goes: inputs come in (frames of peers, requests of clients, completions of the disk); each
is given to its partition at once, which carries out what consensus decides. What can be shared by a tick is
collected: produce requests into one group, log writes into one flush, messages into one frame per peer. One
callback at the end of the tick sends it all on its way.
"""

import asyncio
import logging
from heapq import heappop, heappush
from math import ceil, inf
from random import Random
from typing import Any

import rlog
from rlog.config import NodeConfig
from rlog.errors import ProtocolError, RlogError, StorageFailed
from rlog.log.log import PartitionLog
from rlog.log.retention import HOLD_MS, ClockReading, RetentionClock
from rlog.log.storage import LogSettings, Storage
from rlog.node.driver import Boundaries, Driver, payload_of
from rlog.node.env import Env
from rlog.node.flusher import Flusher
from rlog.node.identity import Identity
from rlog.node.kafka_server import KafkaServer
from rlog.node.partition import Partition
from rlog.node.peers import Peers
from rlog.observe.counters import NodeCounters
from rlog.observe.events import emit
from rlog.raft.replica import RaftSettings, Replica
from rlog.wire.frames import Envelope

logger = logging.getLogger("rlog.node")


class Node:
    """Assemble with a configuration and an Env, then `start`; it stops by `stop`, or by itself on a failure.

    `wait_closed` returns at the end, and raises what the node failed of.
    """

    def __init__(self, config: NodeConfig, env: Env) -> None:
        self.config = config
        self.env = env
        self.node_id = config.node_id
        self.counters = NodeCounters()
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.failure: RlogError | None = None
        self.storage: Storage
        self.identity: Identity
        self.peers: Peers
        self._flusher: Flusher
        self._numbered: list[Partition] = []
        self._awake: dict[Partition, None] = {}
        self._tick_scheduled = False
        self._timers: list[tuple[float, int, Partition]] = []
        self._timer_count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self.door: KafkaServer
        self._watermark_timer: asyncio.TimerHandle | None = None
        self._retention_timer: asyncio.TimerHandle | None = None
        self._retention_clock: RetentionClock
        self._is_settled = asyncio.Event()  # not in the middle of opening: it may be wound down
        self._is_settled.set()
        self._stopping: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop

    # -------------------------------------------------------------------------------------- start and stop

    async def start(self) -> None:
        """Recover the data directory, listen, and look for the peers. Returns before there are leaders.

        Raises DataDirectoryError, CorruptLog or StorageFailed of the disk, OSError when an address is taken.
        What is found out later (a peer with another topic table, another uuid) ends the node: `wait_closed`.
        """
        self._loop = asyncio.get_running_loop()
        config = self.config
        names = [f"{topic}-{index}" for topic, index in config.partitions]
        settings = LogSettings(
            segment_bytes_min=min(LogSettings().segment_bytes_min, config.segment_bytes_max),
            segment_bytes_max=config.segment_bytes_max,
            tail_bytes_max=config.tail_bytes_max,
        )
        self.storage = Storage.open(
            self.env.vfs, config.data_dir, random=self.env.random, partitions=names, settings=settings
        )
        try:
            self._assemble()
        except BaseException:
            self.storage.close()
            raise
        try:
            self._is_settled.clear()
            try:
                await self._open()
            finally:
                self._is_settled.set()
        except BaseException:
            await self.stop()
            raise

    def _assemble(self) -> None:
        self._flusher = Flusher(
            self.storage,
            self.env.disk,
            counters=self.counters,
            stopwatch_s=self.env.stopwatch_s,
            failed=self._fail,
        )
        self.peers = Peers(self.config, random=self.env.random, counters=self.counters, events=self)
        self.identity = Identity(
            self.config,
            self.storage.meta,
            random=self.env.random,
            when_saved=self._flusher.when_saved,
            announce=self.peers.announce,
            confirmed_now=self._begin_consensus,
            failed=self._fail,
        )
        self.door = KafkaServer(self)
        driver = Driver(
            self.config,
            meta=self.storage.meta,
            flusher=self._flusher,
            peers=self.peers,
            now=self._loop.time,
            wall_clock_ms=self.env.wall_clock_ms,
            stopwatch_s=self.env.stopwatch_s,
            counters=self.counters,
            wake=self._wake,
            arm=self._arm,
        )
        for number, (topic, index) in enumerate(self.config.partitions):
            log = self.storage.logs[f"{topic}-{index}"]
            partition = Partition(
                topic=topic,
                index=index,
                number=number,
                log=log,
                replica=self._new_replica(log),
                driver=driver,
            )
            self.partitions[topic, index] = partition
            self._numbered.append(partition)

    async def _open(self) -> None:
        await self.peers.start(self.identity)
        await self.door.start()
        if self.identity.confirmed:
            self._begin_consensus()
        self.identity.start()
        self._sync_watermarks()
        saved = self.storage.meta.state.clock
        is_new = all(log.end_offset == 0 for log in self.storage.logs.values())
        reading = ClockReading(*saved) if saved is not None else None
        self._retention_clock = RetentionClock(reading, is_new=is_new)
        self._apply_retention()
        emit(
            logger,
            logging.INFO,
            "started",
            node=self.node_id,
            version=rlog.__version__,
            cluster=self.config.cluster_id,
            uuid=self.identity.uuid,
            incarnation=self.storage.meta.incarnation,
            partitions=len(self.partitions),
        )

    def _new_replica(self, log: PartitionLog) -> Replica:
        config = self.config
        generation, vote = self.storage.meta.vote(log.name)
        return Replica(
            RaftSettings(
                node_id=self.node_id,
                voters=config.voters,
                heartbeat_ms=config.heartbeat_ms,
                election_timeout_ms=(config.election_timeout_min_ms, config.election_timeout_max_ms),
                append_bytes_max=config.append_bytes_max,
                inflight_bytes_max=config.inflight_bytes_max,
                inflight_count_max=config.inflight_count_max,
            ),
            random=Random(self.env.random.getrandbits(64)),
            log=Boundaries(log),
            generation=generation,
            vote=vote,
            generations=log.generations.entries(),
            start_offset=log.base_offset,
            log_start=log.start_offset,
            end_offset=log.end_offset,
            flushed_offset=log.flushed_offset,
            suspect=log.suspect,
            now=self._loop.time(),
        )

    def _begin_consensus(self) -> None:
        """The pin table is confirmed: from now on this node votes and acknowledges (SAFETY 20)."""
        for partition in self._numbered:
            if partition.has_started:
                continue  # the first boot ended while the door was still opening
            if partition.log.damage is not None:
                continue  # quarantined: it neither votes nor acknowledges before it is repaired (SAFETY 19)
            # Anew, so that the election timeout begins now and not when the first boot began.
            partition.replica = self._new_replica(partition.log)
            partition.has_started = True
            for peer, link in self.peers.links.items():
                if link.is_up:
                    partition.peer_connected(peer)
            self._arm(partition)

    async def stop(self) -> None:
        """Answer the clients, flush what is queued, record the clean end, unlock. Safe to call again."""
        self.stop_soon()
        await self._stopped.wait()

    @property
    def is_stopping(self) -> bool:
        return self._stopping is not None

    def stop_soon(self) -> None:
        """Begin to stop; `wait_closed` returns when it is done."""
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop())

    async def wait_closed(self) -> None:
        """Return when the node has stopped. Raises the error that stopped it, if one did."""
        await self._stopped.wait()
        if self.failure is not None:
            raise self.failure

    async def _stop(self) -> None:
        try:
            await self._is_settled.wait()
            await self._wind_down()
        except RlogError as error:
            self.failure = self.failure or error
        finally:
            self._stopped.set()

    async def _wind_down(self) -> None:
        for timer in (self._timer, self._watermark_timer, self._retention_timer):
            if timer is not None:
                timer.cancel()
        for partition in self._numbered:
            partition.stop("the node stops")
            partition.has_started = False
        await self.door.stop()
        await self.peers.stop()
        if self.failure is None:
            for partition in self._numbered:
                self._flusher.flush(partition)
            await self._flusher.settle()
        self._flusher.stop()
        await self._flusher.settle()
        self.storage.close()
        emit(logger, logging.INFO, "stopped", node=self.node_id)

    def _fail(self, error: RlogError) -> None:
        """The node must not go on: meta is lost, or it is not who it should be."""
        if self.failure is None:
            self.failure = error
            emit(logger, logging.ERROR, "failed", node=self.node_id, reason=str(error))
            if isinstance(error, StorageFailed):
                self._flusher.stop()
            self.stop_soon()

    # ----------------------------------------------------------------------------------------------- ticks

    def _wake(self, partition: Partition) -> None:
        self._awake[partition] = None
        if not self._tick_scheduled:
            self._tick_scheduled = True
            self._loop.call_soon(self._end_tick)

    def _end_tick(self) -> None:
        awake = self._awake
        for partition in list(awake):
            partition.seal_group()
        self._awake = {}
        self._tick_scheduled = False
        for partition in awake:
            self._flusher.flush(partition)
        self.peers.flush()
        for partition in awake:
            self._arm(partition)

    def _sync_watermarks(self) -> None:
        self._flusher.sync_watermarks()
        interval_s = self.config.watermark_sync_ms / 1000
        self._watermark_timer = self._loop.call_later(interval_s, self._sync_watermarks)

    def _apply_retention(self) -> None:
        wall_ms, doubted = self.env.wall_clock_ms(), self._retention_clock.doubts
        known = self._retention_clock.reading is not None
        now_ms = self._retention_clock.now_ms(wall_ms, *self.env.uptime())
        goes_by_time = any(self.config.topic(name).retention_ms >= 0 for name in self.config.topics)
        if goes_by_time:  # an idle node without such a topic writes nothing
            self._keep_clock()
        if self._retention_clock.doubts and not doubted and goes_by_time:
            seconds = (wall_ms - now_ms) // 1000
            logger.warning(
                "node=%d the wall clock is %s: retention by time does not believe it before it has stood "
                "there for %d minutes; check this machine's clock",
                self.node_id,
                f"{seconds} s ahead of where it should be" if known else "seen for the first time",
                HOLD_MS // 60_000,
            )
        for partition in self._numbered:
            topic = self.config.topic(partition.topic)
            if partition.serving and max(topic.retention_bytes, topic.retention_ms) >= 0:
                partition.apply_retention(topic, now_ms)
        interval_s = self.config.retention_check_ms / 1000
        self._retention_timer = self._loop.call_later(interval_s, self._apply_retention)

    def _keep_clock(self) -> None:
        """So that the next start of this node need not believe, or doubt, from nothing."""
        reading = self._retention_clock.take_unsaved()
        if reading is not None:
            self.storage.meta.queue("clock", *reading)
            self._flusher.flush_meta()

    # ---------------------------------------------------------------------------------------------- timers
    # A heap of when to look at a partition, and one loop timer for its top. Deadlines mostly move *away*
    # (each heartbeat moves a follower's), so an entry is left alone and the deadline is asked again when it
    # is due: an idle partition costs one look per election timeout, not one timer per heartbeat.

    def _arm(self, partition: Partition) -> None:
        deadline = partition.deadline
        if deadline < partition.armed_at:
            partition.armed_at = deadline
            self._timer_count += 1
            heappush(self._timers, (deadline, self._timer_count, partition))
            if deadline < self._timer_at:
                self._set_timer(deadline)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        # Up to the next millisecond: uvloop's clock has no finer grain, and firing early would spin.
        delay_s = ceil(max(when - self._loop.time(), 0.0) * 1000) / 1000
        self._timer = self._loop.call_later(delay_s, self._timers_due)

    def _timers_due(self) -> None:
        now = self._loop.time()
        self._timer, self._timer_at = None, inf
        lateness_s = -1.0
        while self._timers and self._timers[0][0] <= now:
            when, _, partition = heappop(self._timers)
            if when != partition.armed_at:
                continue  # another entry, nearer, stands for this partition
            partition.armed_at = inf
            if (deadline := partition.deadline) <= now:
                if partition.is_leader:
                    lateness_s = max(lateness_s, now - deadline)
                partition.tick(now)
            self._arm(partition)
        if lateness_s >= 0.0:
            self.counters.heartbeat_lateness.observe(lateness_s)
        if self._timers and self._timers[0][0] < self._timer_at:
            self._set_timer(self._timers[0][0])

    # --------------------------------------------------------------------------------- what peers.py reports

    def received(self, peer: int, envelopes: list[Envelope]) -> None:
        for envelope in envelopes:
            number = envelope.partition
            if number >= len(self._numbered):
                raise ProtocolError(f"a message to partition {number}, of {len(self._numbered)}")
            self._numbered[number].step(peer, envelope.message, payload_of(envelope))

    def peer_connected(self, peer: int) -> None:
        for partition in self._numbered:
            partition.peer_connected(peer)

    def peer_lost(self, peer: int) -> None:
        for partition in self._numbered:
            partition.peer_lost(peer)

    def peer_gone(self, peer: int) -> None:
        for partition in self._numbered:
            if partition.leader_id == peer:
                partition.leader_gone()

    # ------------------------------------------------------------------------------------------------ state

    def leaderless(self, for_s: float) -> list[str]:
        """The partitions of which this node has known no leader for that many seconds."""
        before = self._loop.time() - for_s
        return [
            partition.name
            for partition in self._numbered
            if (since := partition.leadership.leaderless_since) is not None and since < before
        ]

    def describe(self) -> dict[str, Any]:
        """The body of the DescribeNode request."""
        return {
            "node_id": self.node_id,
            "cluster_id": self.config.cluster_id,
            "incarnation": self.storage.meta.incarnation,
            "uuid": self.identity.uuid,
            "version": rlog.__version__,
            "partitions": [partition.describe() for partition in self._numbered],
        }
