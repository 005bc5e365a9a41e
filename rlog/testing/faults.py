"""What goes wrong in a simulated run: a seeded schedule of faults on a cluster, and profiles that lean it.

A fault begins, lasts a drawn time, and is undone; several may overlap. Half of those that hit one node pick
the leader of some partition: that is where most can go wrong. Strikes answer to what the cluster does: the
moments are few in which a crash, a cut link or a power cut proves most. Every run has at least one power cut
and one fault that takes a leader away, however the dice fall.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from rlog.testing.executor import DiskSettings
from rlog.testing.network import Network, NetworkSettings


class Target(Protocol):
    """What a fault needs of a cluster."""

    network: Network

    @property
    def node_ids(self) -> Sequence[int]: ...
    def host_of(self, node_id: int) -> str: ...
    def leaders(self) -> list[int]: ...
    def is_running(self, node_id: int) -> bool: ...
    def start(self, node_id: int) -> None: ...
    def kill(self, node_id: int) -> None: ...
    def power_cut(self, node_ids: Sequence[int]) -> None: ...
    def restart(self, node_id: int) -> None: ...
    def freeze(self, node_id: int) -> None: ...
    def thaw(self, node_id: int) -> None: ...
    def stall_disk(self, node_id: int, seconds: float, path: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class Profile:
    """pause: mean seconds between two faults. weights: how often each kind is drawn.

    strikes: the chance that a node is hit at a very moment of `STRIKES`. config: settings of the nodes that
    differ from the default. topics: name to partitions. value_bytes: records of this size, one in a batch;
    None for any.
    deletions: mean seconds between two deletions of a partition's oldest records; None for none.
    """

    name: str
    pause: float
    weights: dict[str, int]
    network: NetworkSettings = field(default_factory=NetworkSettings)
    disk: DiskSettings = field(default_factory=DiskSettings)
    strikes: dict[str, float] = field(default_factory=dict)
    config: dict[str, int] = field(default_factory=dict)
    topics: dict[str, int] = field(default_factory=lambda: {"orders": 2, "audit": 1})
    value_bytes: int | None = None
    deletions: float | None = None


_EVERYTHING = {
    "isolate": 4,
    "block": 4,
    "slow": 2,
    "reset": 4,
    "kill": 3,
    "power_cut": 3,
    "power_cut_all": 1,
    "freeze": 2,
    "stall": 2,
    "restart_isolated": 2,
    "restart": 2,
    "isolate_stalled": 2,
}

# The files of a log's records. They may hang while meta does not: then votes, generations and cuts go on
# beside a round that was begun before them.
SEGMENTS = ".log"

# Moments that `Invariants` tells of, and what is done to the node then.
STRIKES = {
    "elected": "its links to all others fall silent: what it writes stays its own",
    "elected with a tail": "the same, or it keeps a bare majority: enough to finish what others began",
    "first commit": "its process ends before anybody is told, and all links heal for those who go on",
    "flush after a cut": "its machine loses power",
    "base moved": "its machine loses power within a few operations of its disk",
}

# Elections several times a second: more leaders rise and fall in a run.
_FAST_ELECTIONS = {"heartbeat_ms": 30, "election_timeout_min_ms": 100, "election_timeout_max_ms": 200}

# Of strikes at leaders elected with a tail: as at any other. The rest keep a bare majority.
TAIL_SILENCED_CHANCE = 0.2

PROFILES = (
    Profile("everything", 0.8, _EVERYTHING, deletions=3.0),
    # A leader cut off with its clients: it appends what will be cut, and its disk is late about it.
    Profile(
        "divergence",
        0.8,
        {"isolate": 4, "isolate_stalled": 10, "restart_isolated": 4, "block": 2, "kill": 1, "power_cut": 1},
        disk=DiskSettings(sync=2e-3, slow_chance=0.05, slow=0.4),
        strikes={"flush after a cut": 0.5},
        config=_FAST_ELECTIONS,
        # A batch then has the size of a start-of-generation batch: bytes of before a cut that are still there
        # lie exactly where the next batch would.
        value_bytes=13,
    ),
    # Machines that lose power while disks are slow: much is unsynced at each cut.
    Profile(
        "power",
        0.9,
        {"power_cut": 6, "power_cut_all": 3, "kill": 3, "stall": 2, "isolate": 2, "reset": 1},
        disk=DiskSettings(sync=4e-3, slow_chance=0.1, slow=0.4),
    ),
    # Elections under asymmetric and lossy networks.
    Profile(
        "elections",
        0.6,
        {"block": 6, "isolate": 3, "reset": 6, "freeze": 4, "slow": 3, "kill": 4, "power_cut": 1},
        network=NetworkSettings(latency=0.002, jitter=0.004, split=0.1),
    ),
    # Leaders that fall as they rise, with one small Append under way at a time: many generations meet in the
    # logs, and what one leader left half replicated the next one counts (Raft, figure 8).
    Profile(
        "succession",
        2.0,
        {"kill": 1, "power_cut": 1, "isolate": 1, "block": 1},
        topics={"orders": 1},
        strikes={"elected": 0.6, "elected with a tail": 0.4, "first commit": 0.8},
        config={"inflight_count_max": 1, "append_bytes_max": 512, **_FAST_ELECTIONS},
    ),
    # Logs that lose their beginning all the time, in small segments, while replicas are away for long: they
    # come back below the start of their leader's log.
    Profile(
        "deletion",
        0.9,
        {"isolate": 6, "kill": 4, "power_cut": 6, "power_cut_all": 1, "stall": 2, "restart": 2, "reset": 2},
        disk=DiskSettings(sync=2e-3, slow_chance=0.05, slow=0.2),
        config={"segment_bytes_max": 2048, "tail_bytes_max": 1024},
        deletions=0.25,
        strikes={"base moved": 0.1},
    ),
)


def profile_of(seed: int) -> Profile:
    """The profile that a seed runs with: neighbouring seeds take turns."""
    return PROFILES[seed % len(PROFILES)]


class Faults:
    """Runs a profile against a cluster for a number of simulated seconds; `counts` says what was done."""

    def __init__(self, cluster: Target, random: Random, profile: Profile) -> None:
        self.counts: Counter[str] = Counter()
        self._cluster = cluster
        self._network = cluster.network
        self._random = random
        self._profile = profile
        self._timeout = profile.config.get("election_timeout_max_ms", 1000) / 1000
        self._loop = cluster.network.loop
        self._is_running = False
        self._stopped = False
        self._kinds = list(profile.weights)
        self._weights = list(profile.weights.values())
        self._blocked: Counter[tuple[str, str]] = Counter()

    async def run(self, seconds: float) -> None:
        """Let things go wrong for `seconds`, then mend everything."""
        self._is_running = True
        end = self._loop.time() + seconds
        certain = [
            (self._loop.time() + seconds * self._random.uniform(0.2, 0.5), "kill_leader"),
            (self._loop.time() + seconds * self._random.uniform(0.5, 0.8), "power_cut"),
        ]
        while True:
            wait = self._random.expovariate(1 / self._profile.pause)
            due = certain[0][0] if certain else end
            if self._loop.time() + wait < due:
                await asyncio.sleep(wait)
                kind = self._random.choices(self._kinds, self._weights)[0]
            elif certain:
                await asyncio.sleep(due - self._loop.time())
                kind = certain.pop(0)[1]
            else:
                await asyncio.sleep(max(0.0, end - self._loop.time()))
                break
            self.begin(kind)
        self.mend()

    def everything_off_and_on(self) -> None:
        """After `mend`: what only memory knew is forgotten everywhere."""
        self._cluster.power_cut(self._cluster.node_ids)
        for node_id in self._cluster.node_ids:
            self._cluster.start(node_id)

    def begin(self, kind: str) -> None:
        """Start one fault of a kind named in a profile."""
        self.counts[kind] += 1
        self._loop.trace.add(self._loop.time(), f"fault {kind}")
        getattr(self, f"_{kind}")()

    def mend(self) -> None:
        """Heal every link, thaw every node, and give all machines power; nothing more goes wrong."""
        self._stopped = True
        self._network.heal_all()
        for node_id in self._cluster.node_ids:
            self._cluster.thaw(node_id)
            self._cluster.stall_disk(node_id, 0.0)
            if not self._cluster.is_running(node_id):
                self._cluster.start(node_id)

    def moment(self, what: str, node_id: int) -> None:
        """A listener for `Invariants`: strike at the moments that matter most."""
        chance = self._profile.strikes.get(what, 0.0)
        if self._stopped or not self._is_running or self._random.random() >= chance:
            return
        self.counts[f"strike: {what}"] += 1
        if what == "first commit":
            self._kill_node(node_id, self._timeout * self._random.uniform(0.5, 5.0))
            self._heal_blocked()
        elif what == "flush after a cut":
            self._cut_power([node_id])
        elif what == "base moved":
            soon = self._random.expovariate(1 / (2 * self._profile.disk.sync))
            self._later(soon, lambda: self._cut_power([node_id]))
        elif what == "elected" or self._random.random() < TAIL_SILENCED_CHANCE:
            others = [other for other in self._cluster.node_ids if other != node_id]
            self.block_for(self._links(node_id, others), self._timeout * self._random.uniform(0.8, 4.0))
        else:
            self._keep_bare_majority(node_id, self._timeout * self._random.uniform(0.8, 4.0))

    # -- whom it hits, and for how long

    def _victim(self) -> int:
        leaders = self._cluster.leaders()
        if leaders and self._random.random() < 0.5:
            return self._random.choice(leaders)
        return self._random.choice(self._cluster.node_ids)

    def _leader(self) -> int:
        return self._random.choice(self._cluster.leaders() or list(self._cluster.node_ids))

    def _later(self, seconds: float, undo: Callable[[], None]) -> None:
        def undo_unless_mended() -> None:
            if not self._stopped:
                undo()

        self._loop.call_later(seconds, undo_unless_mended)

    def _start_later(self, node_id: int, seconds: float) -> None:
        def start() -> None:
            if not self._cluster.is_running(node_id):
                self._cluster.start(node_id)

        self._later(seconds, start)

    # -- kinds of faults

    def block_for(self, links: list[tuple[str, str]], seconds: float) -> None:
        """Silence directed links. They may be blocked by several faults at once: the last one's end heals."""
        for link in links:
            self._blocked[link] += 1
            self._network.block(*link)

        def heal() -> None:
            for link in links:
                self._blocked[link] -= 1
                if not self._blocked[link]:
                    self._network.heal(*link)

        self._later(seconds, heal)

    def _heal_blocked(self) -> None:
        """End what `block_for` began, before its time."""
        for link, faults in self._blocked.items():
            if faults:
                self._network.heal(*link)

    def _links(self, node_id: int, others: Sequence[int]) -> list[tuple[str, str]]:
        """From a node to others."""
        host = self._cluster.host_of(node_id)
        return [(host, self._cluster.host_of(other)) for other in others]

    def _isolate_node(self, node_id: int, seconds: float) -> None:
        """From its peers only: clients still reach it."""
        others = [other for other in self._cluster.node_ids if other != node_id]
        self._cut_off(node_id, others, seconds)

    def _cut_off(self, node_id: int, others: Sequence[int], seconds: float) -> None:
        """Silence between a node and others, in both directions."""
        there = self._links(node_id, others)
        self.block_for(there + [(target, source) for source, target in there], seconds)

    def _keep_bare_majority(self, node_id: int, seconds: float) -> None:
        others = [other for other in self._cluster.node_ids if other != node_id]
        minority = len(others) // 2  # of all, itself included, rounded down
        self._cut_off(node_id, self._random.sample(others, minority), seconds)

    def _isolate(self) -> None:
        self._isolate_node(self._victim(), self._random.uniform(0.3, 3.0))

    def _isolate_stalled(self) -> None:
        """A leader cut off while its disk hangs: what it flushes late was cut meanwhile."""
        node_id, seconds = self._leader(), self._timeout * self._random.uniform(1.5, 4.0)
        self._isolate_node(node_id, seconds)
        begin = self._random.choice((0.0, self._random.uniform(0.0, 0.3 * seconds)))
        end = seconds + self._random.uniform(0.3, 1.5)
        path = self._random.choice(("", SEGMENTS))
        self._later(begin, lambda: self._cluster.stall_disk(node_id, end - begin, path))

    def _block(self) -> None:
        """Some directed links between nodes and from clients."""
        hosts = list(self._network.hosts)
        nodes = [self._cluster.host_of(node_id) for node_id in self._cluster.node_ids]
        links = [(source, target) for source in hosts for target in nodes if source != target]
        chosen = self._random.sample(links, self._random.randint(1, 3))
        self.block_for(chosen, self._random.uniform(0.1, 2.5))

    def _slow(self) -> None:
        host = self._cluster.host_of(self._victim())
        links = [
            self._network.link(*pair)
            for other in list(self._network.hosts)
            if other != host
            for pair in ((host, other), (other, host))
        ]
        extra = self._random.uniform(0.002, 0.15)
        for link in links:
            link.extra_latency = extra

        def restore() -> None:
            for link in links:
                link.extra_latency = 0.0

        self._later(self._random.uniform(0.2, 2.0), restore)

    def _reset(self) -> None:
        """One connection of a node, or all of them."""
        ends = list(self._network.hosts[self._cluster.host_of(self._victim())].connections.values())
        if ends and self._random.random() < 0.7:
            ends = [self._random.choice(ends)]
        for end in ends:
            self._network.reset(end)

    def _kill_node(self, node_id: int, down: float | None = None) -> None:
        """Kill its process; it comes back after `down` seconds, or at once, or later."""
        if self._cluster.is_running(node_id):
            self._cluster.kill(node_id)
            if down is None:
                down = self._random.choice((0.01, self._random.uniform(0.05, 2.0)))
            self._start_later(node_id, down)

    def _restart(self) -> None:
        self._cluster.restart(self._victim())

    def _kill(self) -> None:
        self._kill_node(self._victim())

    def _kill_leader(self) -> None:
        self._kill_node(self._leader())

    def _cut_power(self, node_ids: Sequence[int]) -> None:
        self._cluster.power_cut(node_ids)
        together = self._random.uniform(0.01, 1.5)
        for node_id in node_ids:
            self._start_later(node_id, together + self._random.choice((0.0, self._random.uniform(0.0, 1.5))))

    def _power_cut(self) -> None:
        node_ids = self._cluster.node_ids
        victims = {self._victim(), *self._random.sample(node_ids, self._random.randint(0, len(node_ids) - 1))}
        self._cut_power(sorted(victims))

    def _power_cut_all(self) -> None:
        self._cut_power(self._cluster.node_ids)

    def _freeze(self) -> None:
        node_id = self._victim()
        self._cluster.freeze(node_id)
        self._later(self._random.uniform(0.1, 2.0), lambda: self._cluster.thaw(node_id))

    def _stall(self) -> None:
        path = self._random.choice(("", SEGMENTS))
        self._cluster.stall_disk(self._victim(), self._random.uniform(0.1, 1.5), path)

    def _restart_isolated(self) -> None:
        """Cut a node off with what only it has, end it there, and bring it back to the others."""
        node_id, seconds = self._victim(), self._random.uniform(0.1, 1.0)
        self._isolate_node(node_id, seconds + self._random.uniform(0.0, 1.0))
        if self._random.random() < 0.5:
            self._later(seconds, lambda: self._kill_node(node_id))
        else:
            self._later(seconds, lambda: self._cut_power([node_id]))
