"""Whole simulated runs: short ones, repeatability, and the command line."""

import os
import subprocess
import sys

import pytest

from rlog.testing.faults import PROFILES
from rlog.testing.simulation import Result, run

SECONDS = 6.0


def verdict(result: Result) -> str:
    return "\n".join([f"seed {result.seed}", *map(str, result.violations), *result.shortfalls])


@pytest.mark.parametrize("seed", range(1, 1 + len(PROFILES)))
def test_a_run_of_each_profile_keeps_every_promise(seed: int) -> None:
    result = run(seed, SECONDS)
    assert result.is_good, verdict(result)
    assert result.profile == PROFILES[seed % len(PROFILES)].name
    assert result.counts["acknowledged"] > 100
    assert result.counts["reads"] > 100


def test_a_seed_gives_one_digest_in_any_process_with_any_hash_seed() -> None:
    code = f"from rlog.testing.simulation import run; print(run(1, {SECONDS}).digest)"
    digests = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        digests.append(done.stdout.strip())
    assert len(digests[0]) == 32
    assert digests == [digests[0], digests[0]]
    assert run(1, SECONDS).digest == digests[0]
    assert run(2, SECONDS).digest != digests[0]


def test_five_nodes_run_too() -> None:
    result = run(1, SECONDS, nodes=5)
    assert result.is_good, verdict(result)


def test_the_command_prints_totals_and_how_to_repeat_a_failure() -> None:
    command = [sys.executable, "-m", "rlog.testing", "--seeds=1", "--start=3", "--jobs=1"]
    good = subprocess.run([*command, "--seconds=4"], capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.splitlines()[-1] == "1 of 1 seeds good"
    assert "power cuts" in good.stdout
