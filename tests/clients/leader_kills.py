"""The leader's process is killed again and again while records are sent, and started again each time."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import NamedTuple

from rlog.cli.local_cluster import LocalCluster
from rlog.errors import RlogError
from tests.clients.drivers import Driver, How, Record
from tests.clients.drivers.base import PARTITIONS
from tests.clients.ledger import Ledger, Verdict, record_of, verify_topic

READY_S = 60.0


class Outcome(NamedTuple):
    records: int
    acked: int
    """Of them, those whose offset the client told."""
    seconds: float
    """Of sending, kills included."""
    kills: int
    verdict: Verdict


def send_through_kills(
    driver: Driver,
    cluster: LocalCluster,
    topic: str,
    how: How,
    *,
    records: int,
    kills: int,
    progress: Callable[[int, int], None] = lambda sent, killed: None,
) -> Outcome:
    """Send `records` numbered records through the client, the leader killed `kills` times, and read them all.

    A kill comes when its share of the records was handed to the client. Half of the next share follows at
    once, the other half when the leader is dead, and a further share when all nodes are up again: so there
    are records under way when it dies, and records that come while nobody leads. progress(sent, killed) is
    called now and then. Raises NotDelivered when the client gives a record up.
    """
    ledger = Ledger(records)
    killer = Killer(cluster, topic)
    began = time.monotonic()
    with killer:
        handed = _shares(records, kills, killer, progress)
        driver.produce(cluster.bootstrap, topic, handed, how, ledger.acked)
        seconds = time.monotonic() - began
        killer.wait_done()
    verdict = verify_topic(driver, cluster.bootstrap, topic, ledger)
    return Outcome(records, ledger.acked_count(), seconds, killer.count, verdict)


def _shares(
    records: int, kills: int, killer: "Killer", progress: Callable[[int, int], None]
) -> Iterator[Record]:
    share = records // (kills + 1)
    for number in range(records):
        if number and number % share == 0 and number // share <= kills:
            killer.wait_done()
            progress(number, killer.count)
            killer.kill_next()
        if number > share and number % share == share // 2:
            killer.wait_killed()
        yield record_of(number)


class Killer:
    """A thread that kills one leader of the topic after the other, on demand. A context manager."""

    def __init__(self, cluster: LocalCluster, topic: str) -> None:
        self.count = 0
        self._cluster = cluster
        self._topic = topic
        self._partitions = cycle(range(PARTITIONS))
        self._wanted = threading.Event()
        self._done = threading.Event()
        self._done.set()
        self._killed = threading.Event()
        self._killed.set()
        self._ending = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._wanted.set()
        self._thread.join(READY_S)

    def kill_next(self) -> None:
        """Return at once: the leader of the next partition will be killed, and started again."""
        self._done.clear()
        self._killed.clear()
        self._wanted.set()

    def wait_killed(self) -> None:
        """Wait until the node's process is dead."""
        assert self._killed.wait(READY_S), "no leader was found to kill"

    def wait_done(self) -> None:
        """Wait until the node that was killed is up again, and each partition has a leader."""
        assert self._done.wait(READY_S), "the killed node did not come back"
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._ending:
                return
            try:
                self._kill()
            except (RlogError, OSError, AssertionError) as error:
                self._failure = error
            self._killed.set()
            self._done.set()

    def _kill(self) -> None:
        partition = next(self._partitions)
        found = None
        while found is None:
            found = self._cluster.leader(self._topic, partition)
        self._cluster.kill(found[0])
        self.count += 1
        self._killed.set()
        self._cluster.start(found[0])
        self._cluster.wait_ready(timeout_s=READY_S)
