"""Planted bugs: each is put into a copy of the package, and the simulation must find it within CI's seeds.

`python -m tests.sim.mutants [NAME...]` stops at the first seeds that find a bug; `--seeds N` runs so many,
and says how many of them find it. A mutant is a list of textual replacements. One whose old text is not there
exactly once fails loudly: the code moved on, and the mutant has to follow.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from rlog.testing.faults import PROFILES

ROOT = Path(__file__).parents[2]
SEEDS_MAX = 200  # CI's: the first so many
SEEDS_PER_ROUND = len(PROFILES)  # each once


@dataclass(frozen=True)
class Replacement:
    """`old`, which is in `file` exactly once, becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """`rules`: the SAFETY numbers that it breaks."""

    name: str
    rules: str
    replacements: tuple[Replacement, ...]


LOG, RECOVERY = "rlog/log/log.py", "rlog/log/recovery.py"
HIGH_WATER_MARK, ELECTION = "rlog/raft/high_water_mark.py", "rlog/raft/election.py"

MUTANTS = (
    Mutant(
        "ack before fsync",
        "4, 5",
        (
            Replacement(
                LOG,
                """        job.write(segment.file, position, buffers, batches=True)
        job.fdatasync(segment.file)
""",
                """        job.write(segment.file, position, buffers, batches=True)
""",
            ),
        ),
    ),
    Mutant(
        "vote not persisted",
        "1, 2",
        (
            Replacement(
                "rlog/node/driver.py",
                "sequence = self._meta.save_vote(partition.name, effect.generation, effect.vote)",
                "sequence = 0",
            ),
        ),
    ),
    Mutant(
        "old-generation entry committed by counting",
        "6",
        (
            Replacement(
                HIGH_WATER_MARK,
                "if held > state.hwm and held > state.own_start_offset:",
                "if held > state.hwm:",
            ),
        ),
    ),
    Mutant(
        "late flush completion counted after a cut",
        "12",
        (
            Replacement(
                LOG,
                """        if done.epoch != self._epoch or job.error:
            return False  # SAFETY 12: built before a cut, so it proves nothing
""",
                "",
            ),
        ),
    ),
    Mutant(
        "follower's high-water mark from its own end",
        "10",
        (
            Replacement(
                HIGH_WATER_MARK,
                "hwm = min(leader_hwm, verified_offset)",
                "hwm = min(leader_hwm, state.end_offset)",
            ),
        ),
    ),
    Mutant(
        "prefix deleted before its anchor is on record",
        "26",
        (
            Replacement(
                "rlog/log/prefix.py",
                "if not self._doomed or self._meta.flushed_sequence < self._doomed_barrier:",
                "if not self._doomed:",
            ),
        ),
    ),
    Mutant(
        "anchor installed before it is durable",
        "25",
        (
            Replacement(
                "rlog/log/anchor.py",
                """    job.fsync(file)
    job.rename(f"{path}.tmp", path)
    job.fsync_dir(directory)
""",
                """    job.rename(f"{path}.tmp", path)
""",
            ),
        ),
    ),
    Mutant(
        "new leader does not learn what was deleted",
        "26",
        (
            Replacement(
                ELECTION,
                "    log_start.learn(state, reply.log_start)\n",
                "",
            ),
            Replacement(
                "rlog/raft/heartbeat.py",
                "        log_start.learn(state, reply.log_start)  # an earlier",
                "        # an earlier",
            ),
        ),
    ),
    Mutant(
        "reused bytes accepted",
        "14",
        (
            Replacement(
                "rlog/log/cutting.py",
                "if segment.written > cut.position:",
                "if segment.written < cut.position:",
            ),
            Replacement(
                RECOVERY,
                """            if generation == 0:
                break
""",
                """            generation = int.from_bytes(data[position + 12 : position + 16], "big")
            before = position
""",
            ),
            Replacement(
                RECOVERY,
                """            if offset < run_end:
                break
        segment.fill""",
                """            if position == before:
                break
        segment.fill""",
            ),
        ),
    ),
    Mutant(
        "leader cuts its own log",
        "16",
        (
            Replacement(ELECTION, "import Role, WriteStart", "import Cut, Role, WriteStart"),
            Replacement(
                ELECTION,
                """    if state.hwm < state.end_offset:
        # Something""",
                """    if state.hwm < state.end_offset:
        state.effects.append(Cut(state.hwm))
        state.end_offset = state.own_start_offset = state.hwm
        state.flushed_offset = min(state.flushed_offset, state.hwm)
        state.table.cut(state.hwm)
        # Something""",
            ),
        ),
    ),
    Mutant(
        "producer table not rolled back",
        "13, 36",
        (
            Replacement(
                LOG,
                """        self.generations.cut(offset)
        self._cut_producers(offset)
""",
                """        self.generations.cut(offset)
""",
            ),
        ),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """seed: the first that found the mutant, 0 for none. found, tried: numbers of seeds.

    found_by: the kinds of violations they showed.
    """

    seed: int
    found: int
    tried: int
    found_by: str
    seconds: float


def plant(mutant: Mutant, root: Path) -> None:
    """Apply a mutant to the package below `root`. Raises SystemExit when the code is not as it expects."""
    for change in mutant.replacements:
        path = root / change.file
        text = path.read_text()
        if text.count(change.old) != 1:
            sys.exit(
                f"mutant {mutant.name!r}: {change.file} has {text.count(change.old)} times\n{change.old}"
            )
        path.write_text(text.replace(change.old, change.new))


def hunt(mutant: Mutant, jobs: int, seeds: int) -> Outcome:
    """Run CI's seeds against a mutated copy, one of each profile at a time, until some find it; or as many as
    `seeds`, if not 0, whatever they find."""
    begin = time.monotonic()
    per_round = seeds or SEEDS_PER_ROUND
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        shutil.copytree(ROOT / "rlog", root / "rlog", ignore=shutil.ignore_patterns("__pycache__", "*.c"))
        plant(mutant, root)
        for start in range(1, seeds or SEEDS_MAX, per_round):
            command = [sys.executable, "-m", "rlog.testing", f"--seeds={per_round}", f"--start={start}"]
            run = subprocess.run(
                [*command, f"--jobs={jobs}"], cwd=root, capture_output=True, text=True, check=False
            )
            bad = [line for line in run.stdout.splitlines() if line.startswith("seed ") and "FAILED" in line]
            kinds = [line for line in run.stdout.splitlines() if line.startswith("violations: ")]
            if run.returncode not in (0, 1) or len(kinds) != 1:
                sys.exit(f"mutant {mutant.name!r}: the simulation itself failed\n{run.stdout}{run.stderr}")
            if bad:
                seed = int(bad[0].split()[1])
                found_by = kinds[0].partition(", ")[2]
                tried = start + per_round - 1
                return Outcome(seed, len(bad), tried, found_by, time.monotonic() - begin)
    return Outcome(0, 0, seeds or SEEDS_MAX, "", time.monotonic() - begin)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--jobs", default=2, show_default=True)
@click.option("--seeds", default=0, help="Run so many against each, rather than until some find it.")
def main(names: tuple[str, ...], jobs: int, seeds: int) -> None:
    """Plant each bug, hunt it, and print what found it. Status 1 unless all are found."""
    chosen = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    found = 0
    click.echo(f"{'planted bug':46} {'SAFETY':8} {'first seed':>10} {'seeds':>9} {'seconds':>8}  found by")
    for mutant in chosen:
        outcome = hunt(mutant, jobs, seeds)
        found += bool(outcome.seed)
        share = f"{outcome.found} of {outcome.tried}"
        click.echo(
            f"{mutant.name:46} {mutant.rules:8} {outcome.seed or 'none':>10} {share:>9} "
            f"{outcome.seconds:>8.0f}  {outcome.found_by}"
        )
    click.echo(f"{found} of {len(chosen)} found")
    sys.exit(0 if found == len(chosen) else 1)


if __name__ == "__main__":
    main()
