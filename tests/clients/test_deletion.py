"""Deleted records, as clients see them: where a log starts, and what a reader below the start gets."""

from contextlib import closing
from itertools import islice

import pytest

from rlog.cli.local_cluster import LocalCluster
from rlog.wire.kafka import partition_of
from tests.clients.drivers import CLIENTS, Driver, Found, How, Refused, driver
from tests.clients.drivers.base import EARLIEST, END, PARTITIONS
from tests.clients.ledger import key_of, number_of, record_of

RECORDS = 400
NUMBERS = [
    [number for number in range(RECORDS) if partition_of(key_of(number), PARTITIONS) == partition]
    for partition in range(PARTITIONS)
]


def check_out_of_range(refused: pytest.ExceptionInfo[Refused]) -> None:
    """By the protocol's name, in whatever spelling."""
    said = str(refused.value).upper().replace("_", "").replace(" ", "")
    assert "OFFSETOUTOFRANGE" in said, refused.value


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_deleted_records_are_gone_for_every_reader(cluster: LocalCluster, client: Driver) -> None:
    """kcat has no request for it: there rlog's client deletes."""
    bootstrap, topic = cluster.bootstrap, f"deleted-{client.name}"
    client.produce(bootstrap, topic, map(record_of, range(RECORDS)), How(codec="gzip"))
    deleter = client if client.can_delete else driver("rlog")
    ends = list(map(len, NUMBERS))
    deleter.delete_records(bootstrap, topic, {0: 30, 1: 50})
    assert client.bounds(bootstrap, topic) == [(30, ends[0]), (50, ends[1]), (0, ends[2])]

    def first(start: int, **options: str) -> Found:
        with closing(client.consume(bootstrap, topic, 0, start, **options)) as records:
            return next(records)

    # In the middle of a batch, which is stored and sent as a whole.
    left = Found(30, *record_of(NUMBERS[0][30]))
    assert first(EARLIEST) == first(30) == left
    with pytest.raises(Refused) as refused:
        first(0)
    check_out_of_range(refused)
    assert first(0, if_gone="earliest") == left, "the reset goes to where the log starts now"
    assert client.offsets_at(bootstrap, topic, 0, [0, 1]) == [30, 30], "deleted records are not found by time"

    with pytest.raises(Refused) as refused:
        deleter.delete_records(bootstrap, topic, {0: ends[0] + 1})
    check_out_of_range(refused)
    deleter.delete_records(bootstrap, topic, {0: 20, 1: END, 2: 0})
    assert client.bounds(bootstrap, topic) == [(30, ends[0]), (ends[1], ends[1]), (0, ends[2])]
    client.produce(bootstrap, topic, map(record_of, NUMBERS[1][:5]), How())
    with closing(client.consume(bootstrap, topic, 1, EARLIEST)) as records:
        found = list(islice(records, 5))
    assert [each.offset for each in found] == list(range(ends[1], ends[1] + 5))
    assert [number_of(each.value) for each in found] == NUMBERS[1][:5]
