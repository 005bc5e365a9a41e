"""A million records through each client, the leader killed five times: `make million CLIENT=aiokafka`.

    python -m tests.clients.million [--records N] [--kills N] [--plain] [CLIENT ...]

Three nodes on real disks in a temporary directory, one topic of three partitions, keyed records of 20 to 100
bytes. Every record is sent idempotently with acks=all; with --plain without idempotence, and what may be
written is sent again all the same. Afterwards the client reads everything back. The exit status is 1 when
a record was lost, found twice, out of order in its partition, or elsewhere than acknowledged; without
idempotence twice and out of order are counted only.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.clients.drivers import CLIENTS, How, driver
from tests.clients.drivers.base import PARTITIONS
from tests.clients.leader_kills import Outcome, send_through_kills
from tests.harness.processes import running_cluster

TOPIC = "million"
COLUMNS = ("client", "records", "seconds", "kills", "lost", "duplicated", "disordered", "moved")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.million")
    parser.add_argument("clients", nargs="*", default=[], metavar="CLIENT", help=", ".join(CLIENTS))
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help="without idempotence")
    options = parser.parse_args(arguments)
    say(*COLUMNS)
    say("---", *("--:" for _ in COLUMNS[1:]))
    passed = [run(name, options) for name in options.clients or CLIENTS]
    return 0 if all(passed) else 1


def say(*cells: object) -> None:
    """A line of the table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def run(name: str, options: argparse.Namespace) -> bool:
    """One client on a cluster of its own. True when nothing is wrong."""
    client = driver(name)
    how = How(idempotent=not options.plain)

    def progress(sent: int, killed: int) -> None:
        print(f"{name}: {sent} of {options.records} sent, {killed} leaders killed", file=sys.stderr)

    with (
        tempfile.TemporaryDirectory(prefix="rlog-million-") as directory,
        running_cluster(Path(directory), topics={TOPIC: PARTITIONS}) as cluster,
    ):
        outcome = send_through_kills(
            client, cluster, TOPIC, how, records=options.records, kills=options.kills, progress=progress
        )
    seconds = f"{outcome.seconds:.1f}"
    say(f"{name} {client.version}", outcome.records, seconds, outcome.kills, *outcome.verdict)
    return is_right(outcome, how, kills=options.kills)


def is_right(outcome: Outcome, how: How, *, kills: int) -> bool:
    verdict = outcome.verdict
    kept = verdict.lost == verdict.moved == 0 and outcome.kills == kills
    return kept and (not how.idempotent or verdict.duplicated == verdict.disordered == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
