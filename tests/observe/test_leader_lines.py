"""Each leader change is one line on each node, with its reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlog.cli.local_cluster import LocalCluster
from rlog.node.leadership import Leadership
from rlog.raft.effects import Role, RoleChanged
from tests.harness.processes import running_cluster, wait_for


def said(cluster: LocalCluster, node_id: int, event: str) -> list[dict[str, Any]]:
    """The events of this name in a node's log, which is JSON."""
    lines = [json.loads(line) for line in cluster.nodes[node_id].log_path.read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def test_a_killed_leader_is_one_line_on_each_survivor(tmp_path: Path) -> None:
    with running_cluster(tmp_path, topics={"orders": 1}, log_format="json") as cluster:
        before = cluster.leader("orders")
        assert before is not None
        survivors = [node_id for node_id in cluster.nodes if node_id != before[0]]
        heard = {node_id: len(said(cluster, node_id, "leader_changed")) for node_id in survivors}
        cluster.kill(before[0])
        cluster.wait_ready(node_ids=survivors)
        after = cluster.leader("orders")
        assert after is not None
        for node_id in survivors:
            wait_for(
                lambda node_id=node_id: len(said(cluster, node_id, "leader_changed")) > heard[node_id],
                f"node {node_id} tells of the new leader",
            )
        cluster.stop()  # and whatever else it might say
        for node_id in survivors:
            # An election whose votes are split may take another generation; each leader still is one line.
            lines = said(cluster, node_id, "leader_changed")[heard[node_id] :]
            assert len({line["generation"] for line in lines}) == len(lines) == 1, lines
            (line,) = lines
            assert (line["partition"], line["node"], line["level"]) == ("orders-0", node_id, "info")
            assert (line["old_leader"], line["new_leader"]) == (before[0], after[0])
            assert line["generation"] == after[1] > before[1]
            assert line["reason"] == f"nobody listens any more where node {before[0]} did"
            assert 0 <= line["leaderless_ms"] < 30_000


def test_a_hint_explains_one_change_only() -> None:
    leadership = Leadership(0.0, hint_s_max=2.0)
    leadership.announced(0.0, follower(1, 1, "1 leads"))
    leadership.hint(1.0, "its process is gone")
    leadership.announced(1.1, RoleChanged(Role.CANDIDATE, 1, 0, "silent"))
    assert leadership.announced(1.2, follower(2, 2, "2 leads"))
    leadership.announced(1.5, follower(3, 0, "3 is in generation 3"))
    change = leadership.announced(1.6, follower(3, 3, "3 leads"))
    assert change is not None
    assert (change.reason, round(change.leaderless_s, 3)) == ("3 is in generation 3", 0.1)


def follower(generation: int, leader: int, reason: str) -> RoleChanged:
    return RoleChanged(Role.FOLLOWER, generation, leader, reason)


def test_all_turns_of_an_election_are_one_change() -> None:
    leadership = Leadership(1.0, hint_s_max=2.0)
    first = leadership.announced(1.5, follower(3, 2, "2 leads"))
    assert first is not None
    assert (first.old_leader, first.reason, first.leaderless_s) == (None, "this node has started", 0.5)
    assert leadership.leaderless_since is None

    assert leadership.announced(5.0, RoleChanged(Role.CANDIDATE, 3, 0, "no leader heard")) is None
    assert leadership.announced(5.1, RoleChanged(Role.FOLLOWER, 3, 0, "voting for 3")) is None
    assert leadership.announced(5.2, follower(4, 0, "3 is in generation 4")) is None
    assert leadership.leaderless_since == 5.0
    second = leadership.announced(5.25, follower(4, 3, "3 leads"))
    assert second is not None
    assert (second.generation, second.old_leader, second.new_leader) == (4, 2, 3)
    assert (second.reason, second.leaderless_s) == ("no leader heard", 0.25)
    assert leadership.announced(6.0, follower(4, 3, "3 leads")) is None
    assert leadership.change_count == 2


def test_the_same_leader_in_a_newer_generation_is_a_change() -> None:
    leadership = Leadership(0.0, hint_s_max=2.0)
    assert leadership.announced(0.0, RoleChanged(Role.LEADER, 1, 1, "elected"))
    assert leadership.announced(1.0, follower(1, 0, "no majority answered")) is None
    change = leadership.announced(2.0, RoleChanged(Role.LEADER, 2, 1, "elected"))
    assert change is not None
    assert (change.old_leader, change.new_leader, change.reason) == (1, 1, "no majority answered")


@pytest.mark.parametrize(
    ("lost_at", "reason", "leaderless_s"), [(1.5, "its process is gone", 1.0), (9.0, "silent", 0.5)]
)
def test_a_hint_explains_a_loss_soon_after_and_no_later_one(
    lost_at: float, reason: str, leaderless_s: float
) -> None:
    leadership = Leadership(0.0, hint_s_max=2.0)
    leadership.announced(0.0, follower(1, 1, "1 leads"))
    leadership.hint(1.0, "its process is gone")
    leadership.announced(lost_at, RoleChanged(Role.CANDIDATE, 1, 0, "silent"))
    change = leadership.announced(lost_at + 0.5, follower(2, 2, "2 leads"))
    assert change is not None
    assert (change.reason, change.leaderless_s) == (reason, leaderless_s)
