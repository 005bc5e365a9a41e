"""`python -m rlog.testing`: run seeds, print what they met; status 1 if any of them broke a promise."""

import gc
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import click

from rlog.testing.simulation import Result, run

# A sweep of this many seeds or more that never met one of these proves less than it says.
SEEDS_THAT_MEET_ALL = 20
MUST_OCCUR = ("elections", "cuts", "power_cuts", "lost_writes", "unknown", "deletions", "trims", "installs")


def _run_one(task: tuple[int, float, int]) -> Result:
    seed, seconds, nodes = task
    return run(seed, seconds, nodes=nodes)


def _results(tasks: list[tuple[int, float, int]], jobs: int) -> Iterator[Result]:
    if jobs == 1:
        yield from map(_run_one, tasks)
        return
    # What is imported by now is no garbage: the collections that end each run need not look through it.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=gc.freeze) as pool:
        yield from pool.map(_run_one, tasks)


def _traced(tasks: list[tuple[int, float, int]]) -> Iterator[Result]:
    for seed, seconds, nodes in tasks:
        yield run(seed, seconds, nodes=nodes, sink=lambda line: click.echo(line, nl=False))


def report(result: Result, nodes: int) -> None:
    """What is wrong with a run that is not good, and how to see it again."""
    click.echo(f"seed {result.seed} ({result.profile}), digest {result.digest}: FAILED")
    for text in [*map(str, result.violations), *result.shortfalls]:
        click.echo("  " + text.rstrip().replace("\n", "\n    "))
    click.echo(
        f"  again: python -m rlog.testing --seeds 1 --start {result.seed} --seconds {result.seconds:g}"
        f" --nodes {nodes} --trace"
    )


@click.command()
@click.option("--seeds", default=200, show_default=True, help="How many seeds to run.")
@click.option("--start", default=1, show_default=True, help="The first seed.")
@click.option("--seconds", default=20.0, show_default=True, help="Simulated seconds of faults in each run.")
@click.option("--nodes", default=3, show_default=True, help="Nodes of the simulated cluster.")
@click.option("--jobs", default=2, show_default=True, help="Processes to run seeds in.")
@click.option("--trace", is_flag=True, help="Print every event of the run; meant for one seed.")
def main(seeds: int, start: int, seconds: float, nodes: int, jobs: int, trace: bool) -> None:
    """Run seeds of the simulation. The same seed gives the same digest, always."""
    begin = time.monotonic()
    totals: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    bad = 0
    tasks = [(seed, seconds, nodes) for seed in range(start, start + seeds)]
    results = _traced(tasks) if trace else _results(tasks, jobs)
    for number, result in enumerate(results, start=1):
        totals.update(result.counts)
        kinds.update(violation.kind for violation in result.violations)
        if not result.is_good:
            bad += 1
            report(result, nodes)
        elif seeds <= 10:
            click.echo(f"seed {result.seed} ({result.profile}), digest {result.digest}: good")
        if number % 20 == 0 and number < seeds:
            click.echo(f"{number} of {seeds} seeds, {time.monotonic() - begin:.0f} s")
    elapsed = time.monotonic() - begin
    simulated = seeds * seconds
    click.echo(
        f"{seeds} seeds, {simulated:g} simulated seconds in {elapsed:.1f} s ({simulated / elapsed:.1f}x)"
    )
    for name, count in totals.items():
        click.echo(f"  {name.replace('_', ' '):16} {count:>12,}")
    missing = [name for name in MUST_OCCUR if not totals[name]] if seeds >= SEEDS_THAT_MEET_ALL else []
    if missing:
        click.echo(f"never met: {', '.join(name.replace('_', ' ') for name in missing)}")
    click.echo(f"violations: {kinds.total()}" + "".join(f", {kind} {n}" for kind, n in sorted(kinds.items())))
    click.echo(f"{seeds - bad} of {seeds} seeds good")
    sys.exit(1 if bad or missing else 0)
