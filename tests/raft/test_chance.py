"""Random weather over three and five replicas: every invariant after every step, then it must come to life.

`RLOG_RAFT_SEEDS` (default 3) seeds per weather and size, `RLOG_RAFT_SECONDS` (default 20) virtual seconds
each.
"""

import os

import pytest

from tests.raft.chance import WEATHERS, ChanceWorld

SEEDS = int(os.environ.get("RLOG_RAFT_SEEDS", "3"))
SECONDS = float(os.environ.get("RLOG_RAFT_SECONDS", "20"))
# A few election timeouts, and the longest fsync under way as it heals.
LIVELY_S = 6.0


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("weather", WEATHERS)
def test_every_invariant_holds_and_it_lives_after_healing(weather: str, count: int, seed: int) -> None:
    world = ChanceWorld(count, seed, WEATHERS[weather])
    world.run(SECONDS)
    world.heal()
    world.run(LIVELY_S)
    before = len(world.committed)
    world.run(1.0)
    assert len(world.committed) > before, "nothing commits after healing"
    marks = {node.alive.hwm for node in world.nodes.values()}
    end = max(node.alive.end_offset for node in world.nodes.values())
    assert end - min(marks) < 400, f"a replica lags after healing: {sorted(marks)} of {end}"
