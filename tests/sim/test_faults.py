"""Fault schedules against a cluster that only takes notes: certain faults happen, and all are mended."""

import asyncio
from collections.abc import Sequence
from random import Random

import pytest

from rlog.testing.faults import PROFILES, STRIKES, Faults, Profile, profile_of
from rlog.testing.loop import SimLoop
from rlog.testing.network import Network


class Notes:
    """A cluster of three that runs, dies and freezes in name only."""

    node_ids = (1, 2, 3)

    def __init__(self, network: Network) -> None:
        self.network = network
        self.running = {1, 2, 3}
        self.frozen: set[int] = set()
        self.log: list[str] = []
        for node_id in self.node_ids:
            network.add_host(self.host_of(node_id))

    def host_of(self, node_id: int) -> str:
        return f"n{node_id}"

    def leaders(self) -> list[int]:
        return sorted(self.running)[:1]

    def is_running(self, node_id: int) -> bool:
        return node_id in self.running

    def start(self, node_id: int) -> None:
        assert node_id not in self.running
        self.running.add(node_id)
        self.log.append(f"start {node_id}")

    def kill(self, node_id: int) -> None:
        self.running.remove(node_id)
        self.log.append(f"kill {node_id}")

    def power_cut(self, node_ids: Sequence[int]) -> None:
        self.running -= set(node_ids)
        self.log.append(f"power_cut {list(node_ids)}")

    def restart(self, node_id: int) -> None:
        self.log.append(f"restart {node_id}")

    def freeze(self, node_id: int) -> None:
        self.frozen.add(node_id)

    def thaw(self, node_id: int) -> None:
        self.frozen.discard(node_id)

    def stall_disk(self, node_id: int, seconds: float, path: str = "") -> None:
        self.log.append(f"stall {node_id} {seconds > 0}")


def play(seed: int, seconds: float = 20.0) -> tuple[Notes, Faults]:
    loop = SimLoop()
    notes = Notes(Network(loop, Random(seed)))
    faults = Faults(notes, Random(seed), profile_of(seed))

    async def main() -> None:
        await faults.run(seconds)
        await asyncio.sleep(10)  # undoing what was begun must not hurt what was mended

    begin = loop.time()
    loop.run_until_complete(main())
    assert seconds + 10 <= loop.time() - begin < seconds + 10.01
    loop.dispose()
    return notes, faults


@pytest.mark.parametrize("seed", range(20))
def test_each_run_kills_a_leader_cuts_power_and_ends_whole(seed: int) -> None:
    notes, faults = play(seed)
    assert faults.counts["kill_leader"] == 1
    assert faults.counts["power_cut"] >= 1
    assert any(line.startswith("power_cut") for line in notes.log)
    assert notes.running == {1, 2, 3}
    assert notes.frozen == set()
    hosts = list(notes.network.hosts)
    links = [notes.network.link(source, target) for source in hosts for target in hosts]
    assert not any(link.is_blocked or link.extra_latency for link in links)


def test_the_profiles_together_use_every_kind_of_fault() -> None:
    used = {kind for seed in range(50) for kind in play(seed)[1].counts}
    assert used == {"kill_leader", *(kind for profile in PROFILES for kind in profile.weights)}


def test_a_schedule_is_a_function_of_its_seed() -> None:
    assert play(3)[0].log == play(3)[0].log != play(7)[0].log


def struck(*moments: str) -> tuple[Notes, Faults, SimLoop]:
    """Node 1 is struck at each of `moments`, half a second apart, while nothing else goes wrong."""
    loop = SimLoop(start=0.0)
    notes = Notes(Network(loop, Random(1)))
    profile = Profile("strikes", 1e9, {"reset": 1}, strikes=dict.fromkeys(STRIKES, 1.0))
    faults = Faults(notes, Random(2), profile)
    running = loop.create_task(faults.run(100.0))
    for number, what in enumerate(moments):
        loop.call_at(0.5 * (number + 1), faults.moment, what, 1)
    loop.run_until_complete(asyncio.sleep(0.5 * len(moments) + 0.1))
    assert not running.done()
    return notes, faults, loop


def silent_links(notes: Notes) -> set[tuple[str, str]]:
    hosts = list(notes.network.hosts)
    return {(a, b) for a in hosts for b in hosts if notes.network.link(a, b).is_blocked}


def test_each_moment_is_struck_at_by_some_profile() -> None:
    assert {what for profile in PROFILES for what in profile.strikes} == set(STRIKES)


def test_a_leader_just_elected_falls_silent() -> None:
    notes, faults, _ = struck("elected")
    assert silent_links(notes) == {("n1", "n2"), ("n1", "n3")}
    assert faults.counts == {"strike: elected": 1}


def test_a_leader_elected_with_a_tail_keeps_a_bare_majority() -> None:
    notes, _, _ = struck("elected with a tail")
    [one, other] = silent_links(notes)
    assert one == other[::-1]
    assert "n1" in one


def test_a_leader_that_dies_at_its_first_commit_leaves_the_others_whole_links() -> None:
    notes, _, _ = struck("elected with a tail", "first commit")
    assert notes.log == ["kill 1"]
    assert silent_links(notes) == set()


def test_power_fails_within_a_few_operations_of_a_base_that_moved() -> None:
    notes, _, _ = struck("base moved")
    assert notes.log == ["power_cut [1]"]


def test_two_faults_that_block_one_link_heal_it_when_the_last_one_ends() -> None:
    loop = SimLoop(start=0.0)
    notes = Notes(Network(loop, Random(1)))
    faults = Faults(notes, Random(1), PROFILES[0])
    link = notes.network.link("n1", "n2")
    loop.call_soon(faults.block_for, [("n1", "n2")], 2.0)
    loop.call_at(1.0, faults.block_for, [("n1", "n2")], 2.0)
    loop.run_until_complete(asyncio.sleep(2.5))
    assert link.is_blocked
    loop.run_until_complete(asyncio.sleep(1))
    assert not link.is_blocked
    loop.dispose()
