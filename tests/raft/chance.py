"""The world under chance: virtual time, a network that delays, drops, doubles and reorders, and crashes."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from rlog.raft.effects import Role
from tests.raft.model import Batch, Envelope, ModelLog, Node, World, is_among

EVENTS_MAX = 200_000


@dataclass(frozen=True)
class Weather:
    """How bad it is. Rates are chances for each message, or events per virtual second."""

    drop: float = 0.02
    double: float = 0.02
    late: float = 0.02
    delay_s: float = 0.01
    late_s: float = 3.0
    disk_s: float = 0.01
    disk_late: float = 0.05
    crashes: float = 0.15
    partitions: float = 0.2
    resets: float = 0.3
    hints: float = 0.2
    proposals: float = 40.0
    trims: float = 1.0
    # Disk errors; and tails that rot in a crash, of a minority.
    errors: float = 0.02
    rot: float = 0.1


FAIR = Weather(
    drop=0, double=0, late=0, disk_late=0, crashes=0, partitions=0, resets=0, hints=0, errors=0, rot=0
)
WEATHERS = {
    "rain": Weather(),
    "storm": Weather(drop=0.1, double=0.1, late=0.1, delay_s=0.05, disk_s=0.05, crashes=0.5, partitions=0.5),
    "slow disks": Weather(drop=0, disk_s=0.2, disk_late=0.3, crashes=0.4),
    "crashes": Weather(crashes=1.5, partitions=0.1),
    "bad disks": Weather(crashes=0.6, errors=0.3, rot=0.7),
    "resets under a live leader": Weather(resets=3.0, hints=2.0, crashes=0.05),
}


class ChanceWorld(World):
    def __init__(self, count: int, seed: int, weather: Weather) -> None:
        super().__init__(count, seed, append_bytes_max=2000, inflight_bytes_max=6000, inflight_count_max=4)
        self.weather = weather
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.sequence = 0
        # Directed links that are cut.
        self.cuts: set[tuple[int, int]] = set()
        self.crash_count = 0
        self.lost_batches = 0
        for node in self.nodes.values():
            self.start(node)
            self.watch(node)
        for rate, fault in (
            ("crashes", self.crash_one),
            ("partitions", self.part),
            ("resets", self.reset),
            ("hints", self.hint),
            ("errors", self.fail_disk),
            ("proposals", self.propose_somewhere),
            ("trims", self.trim_somewhere),
            ("trims", self.drop_somewhere),
        ):
            self.repeat(rate, fault)

    # ---- time --------------------------------------------------------------------------------------------

    def after(self, delay: float, act: Callable[[], None]) -> None:
        self.sequence += 1
        heapq.heappush(self.queue, (self.now + delay, self.sequence, act))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(EVENTS_MAX):
            if not self.queue or self.queue[0][0] > until:
                self.now = until
                return
            self.now, _, act = heapq.heappop(self.queue)
            act()
        raise AssertionError("the world does not come to rest")

    def repeat(self, rate: str, act: Callable[[], None]) -> None:
        """Do it now and then, as often as the weather of the moment says."""
        frequency: float = getattr(self.weather, rate)

        def again() -> None:
            if getattr(self.weather, rate) > 0:
                act()
            self.repeat(rate, act)

        self.after(self.random.expovariate(frequency) if frequency else 1.0, again)

    def watch(self, node: Node) -> None:
        """Tick the replica at its deadline, as the node does: lazily."""
        replica = node.alive

        def due() -> None:
            if node.replica is replica:
                if replica.deadline <= self.now:
                    self.tick(node)
                self.watch(node)

        self.after(min(max(replica.deadline - self.now, 0.0005), 0.05), due)

    # ---- network and disk --------------------------------------------------------------------------------

    def on_send(self, envelope: Envelope) -> None:
        weather = self.weather
        if self.random.random() < weather.drop:
            return
        for _ in range(2 if self.random.random() < weather.double else 1):
            delay = self.random.expovariate(1 / weather.delay_s)
            if self.random.random() < weather.late:
                delay += self.random.uniform(0, weather.late_s)
            self.after(delay, lambda: self.arrive(envelope))

    def arrive(self, envelope: Envelope) -> None:
        if (envelope.sender, envelope.to) not in self.cuts:
            self.deliver(envelope)

    def latency(self) -> float:
        late = self.random.random() < self.weather.disk_late
        return self.random.expovariate(1 / self.weather.disk_s) + (self.random.uniform(0, 1) if late else 0)

    def on_save(self, node: Node) -> None:
        replica = node.alive

        def done() -> None:
            if node.replica is replica:
                self.finish_save(node)

        self.after(self.latency(), done)

    def on_start(self, node: Node) -> None:
        replica = node.alive

        def done() -> None:
            if node.replica is replica:
                self.finish_start(node)

        self.after(self.latency(), done)

    def on_write(self, node: Node) -> None:
        replica, log = node.alive, node.log

        def done() -> None:
            if node.replica is replica and not log.is_failed:
                self.finish_flush(node)
                self.on_write(node)

        if log.start_flush():
            self.after(self.latency(), done)

    # ---- faults ------------------------------------------------------------------------------------------

    def up(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.replica is not None]

    def crash_one(self) -> None:
        up = self.up()
        if not up:
            return
        leaders = [node for node in up if node.alive.role is Role.LEADER]
        node = self.random.choice(leaders if leaders and self.random.random() < 0.5 else up)
        self.crash_down(node)

    def crash_down(self, node: Node) -> None:
        self.crash_count += 1
        # What was under way to the disk may have arrived, or not; the process never knew.
        if node.unsaved and self.random.random() < 0.5:
            self.persist(node, self.random.choice(node.unsaved))
        if node.log.job is not None and self.random.random() < 0.5:
            written = node.log.job[0]
            if node.log.job[1] == node.log.cut_counter and node.log.base_offset > node.base_offset:
                # An anchor takes the place of a log at once
                node.log.disk, node.base_offset = written, node.log.base_offset
                node.log_start = max(node.log_start, node.base_offset)
            # What is on disk and not being replaced stays there.
            kept = len(common_start(node.log.disk, written))
            node.log.disk = written[: self.random.randint(kept, len(written))]
        suspects = sum(each.suspect for each in self.nodes.values())
        if (
            node.log.disk
            and self.random.random() < self.weather.rot
            and suspects < (len(self.voters) - 1) // 2
        ):
            present = [batch for batch in node.log.disk if batch.base >= node.base_offset]
            kept = len(node.log.disk) - self.random.randint(0, min(10, len(present)))
            node.rotten += node.log.disk[kept:]
            node.log.disk = node.log.disk[:kept]
            node.suspect = True
        self.lost_batches += sum(not is_among(node.log.disk, batch) for batch in node.log.batches)
        self.crash(node)
        self.after(self.random.uniform(0, 2), lambda: self.restart(node))

    def restart(self, node: Node) -> None:
        if node.replica is None:
            self.start(node)
            self.watch(node)
            for other in self.up():
                if other is not node and self.random.random() < 0.8:
                    other.alive.peer_lost(self.now, node.node_id)
                    other.alive.peer_connected(self.now, node.node_id)
                    self.settle(other)

    def fail_disk(self) -> None:
        """The first error is final; the node is restarted some time later."""
        if up := [node for node in self.up() if not node.log.is_failed]:
            node = self.random.choice(up)
            node.log.is_failed = True
            node.alive.storage_failed(self.now, "EIO")
            self.settle(node)
            self.after(self.random.uniform(0.5, 3), lambda: self.replace_disk(node, node.log))

    def replace_disk(self, node: Node, log: ModelLog) -> None:
        if node.log is log and node.replica is not None:
            self.crash_down(node)

    def part(self) -> None:
        """Cut some directed links, for a while."""
        links = [(a, b) for a in self.voters for b in self.voters if a != b]
        if self.random.random() < 0.5:
            island = {node_id for node_id in sorted(self.voters) if self.random.random() < 0.4}
            chosen = [(a, b) for a, b in links if (a in island) != (b in island)]
        else:
            chosen = [link for link in links if self.random.random() < 0.3]
        self.cuts.update(chosen)
        self.after(self.random.uniform(0.2, 4), lambda: self.cuts.difference_update(chosen))

    def reset(self) -> None:
        up = self.up()
        if len(up) > 1:
            one, other = self.random.sample(up, 2)
            one.alive.peer_lost(self.now, other.node_id)
            one.alive.peer_connected(self.now, other.node_id)
            self.settle(one)

    def hint(self) -> None:
        """True or not: a hint must never be unsafe."""
        if up := self.up():
            node = self.random.choice(up)
            node.alive.leader_gone(self.now)
            self.settle(node)

    def propose_somewhere(self) -> None:
        for node in self.up():
            if node.alive.role is Role.LEADER and self.random.random() < 0.7:
                sizes = [self.random.randint(1, 9) for _ in range(self.random.randint(1, 4))]
                self.propose(node, sizes, sized=self.random.random() < 0.8)

    def trim_somewhere(self) -> None:
        for node in self.up():
            if node.alive.role is Role.LEADER and node.alive.hwm:
                self.trim(node, max(0, node.alive.hwm - self.random.choice([0, 1, 5, 30])))

    def drop_somewhere(self) -> None:
        """The files of one replica go up to a batch's end, wherever that is allowed."""
        for node in self.up():
            log = node.log
            limit = min(node.log_start, log.flushed_offset, node.alive.hwm)
            ends = [batch.end for batch in log.batches[-50:] if log.base_offset < batch.end <= limit]
            if ends and not log.is_failed and self.random.random() < 0.5:
                self.drop_files(node, self.random.choice(ends))

    # ---- liveness ----------------------------------------------------------------------------------------

    def heal(self) -> None:
        self.weather = FAIR
        self.cuts.clear()
        for node in self.nodes.values():
            if node.log.is_failed and node.replica is not None:
                self.crash_down(node)
            self.restart(node)


def common_start(left: list[Batch], right: list[Batch]) -> list[Batch]:
    pairs = zip(left, right, strict=False)
    return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
