"""Every client, while the process of its leader is killed under it and started again."""

from contextlib import closing
from itertools import islice, pairwise

import pytest

from rlog.cli.local_cluster import LocalCluster
from rlog.wire.kafka import partition_of
from tests.clients.drivers import CLIENTS, Driver, How
from tests.clients.drivers.base import PARTITIONS
from tests.clients.leader_kills import Killer, send_through_kills
from tests.clients.ledger import key_of, number_of, record_of
from tests.clients.ways import KILLED_MATRIX, ids, topic_of

RECORDS = 20_000
FEWER_RECORDS = 3_000
KILLS = 2


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_an_idempotent_producer_loses_nothing_and_repeats_nothing(
    mortal_cluster: LocalCluster, client: Driver
) -> None:
    """The small form of `make million`."""
    topic = f"{client.name}-idempotent"
    how = How(idempotent=True)
    outcome = send_through_kills(client, mortal_cluster, topic, how, records=RECORDS, kills=KILLS)
    assert outcome.kills == KILLS
    assert outcome.verdict == (0, 0, 0, 0)
    if client.tells_offsets:
        # What was recognised as a repetition may be acknowledged without its offset.
        assert outcome.acked > RECORDS * 0.9


@pytest.mark.parametrize(("client", "how"), KILLED_MATRIX, indirect=["client"], ids=ids(KILLED_MATRIX))
def test_every_way_of_producing_goes_on(mortal_cluster: LocalCluster, client: Driver, how: How) -> None:
    """acks=1 waits for the majority too on a topic that does not say otherwise: nothing is lost. What may be
    written is sent again, and then may be there twice where no producer id tells. acks=0 promises nothing
    about what came around the kill; the client ends well, and what is there was sent so.
    """
    topic = topic_of(client.name, how)
    outcome = send_through_kills(client, mortal_cluster, topic, how, records=FEWER_RECORDS, kills=1)
    assert outcome.kills == 1
    assert outcome.verdict.moved == 0
    assert outcome.verdict.lost == 0 or how.acks == 0
    if how.idempotent:
        assert outcome.verdict == (0, 0, 0, 0)


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_a_consumer_goes_on_when_its_leader_dies(mortal_cluster: LocalCluster, client: Driver) -> None:
    """Half of what it reads is written only after the kill."""
    topic, partition, half = f"{client.name}-consume", 0, 300
    numbers = [n for n in range(10 * half) if partition_of(key_of(n), PARTITIONS) == partition][: 2 * half]
    first, second = numbers[:half], numbers[half:]
    mortal_cluster.wait_ready()
    client.produce(mortal_cluster.bootstrap, topic, map(record_of, first), How(idempotent=True))
    with (
        closing(client.consume(mortal_cluster.bootstrap, topic, partition, 0)) as records,
        Killer(mortal_cluster, topic) as killer,
    ):
        found = list(islice(records, half))
        killer.kill_next()
        killer.wait_killed()
        client.produce(mortal_cluster.bootstrap, topic, map(record_of, second), How(idempotent=True))
        found += islice(records, half)
        killer.wait_done()
    assert [number_of(each.value) for each in found] == numbers
    assert [(each.key, each.value) for each in found] == [record_of(number) for number in numbers]
    assert all(one.offset < other.offset for one, other in pairwise(found))
