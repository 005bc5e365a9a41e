"""The ledger finds what it is there to find."""

import pytest

from rlog.wire.kafka import partition_of
from tests.clients.drivers import Found
from tests.clients.drivers.base import PARTITIONS
from tests.clients.ledger import Ledger, key_of, record_of

COUNT = 60
OF_FIRST = [number for number in range(COUNT) if partition_of(key_of(number), PARTITIONS) == 0]


def ledger() -> Ledger:
    """All are acknowledged, at dense offsets; all but partition 0 was read, and is right."""
    found = Ledger(COUNT)
    offsets = [0] * PARTITIONS
    for number in range(COUNT):
        partition = partition_of(key_of(number), PARTITIONS)
        found.acked(record_of(number).value, partition, offsets[partition])
        if partition != 0:
            found.read(partition, [Found(offsets[partition], *record_of(number))])
        offsets[partition] += 1
    return found


def log_of(numbers: list[int]) -> list[Found]:
    return [Found(offset, *record_of(number)) for offset, number in enumerate(numbers)]


def test_what_is_right_is_right() -> None:
    right = ledger()
    right.read(0, log_of(OF_FIRST))
    assert right.verdict() == (0, 0, 0, 0)
    assert right.acked_count() == COUNT


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        (OF_FIRST[:-2], (2, 0, 0, 0)),
        ([*OF_FIRST, *OF_FIRST[3:6]], (0, 3, 0, 0)),
        ([*OF_FIRST[:4], OF_FIRST[5], OF_FIRST[4], *OF_FIRST[6:]], (0, 0, 1, 2)),
        (OF_FIRST[1:], (1, 0, 0, len(OF_FIRST) - 1)),
    ],
    ids=["lost", "twice", "exchanged", "first one lost"],
)
def test_what_is_wrong_is_counted(numbers: list[int], verdict: tuple[int, ...]) -> None:
    wrong = ledger()
    wrong.read(0, log_of(numbers))
    assert wrong.verdict() == verdict


def test_a_record_that_was_changed_or_is_elsewhere_ends_the_reading() -> None:
    number = OF_FIRST[0]
    with pytest.raises(AssertionError, match="changed at offset 7"):
        ledger().read(0, [Found(7, key_of(number), record_of(number).value + b"x")])
    with pytest.raises(AssertionError, match="is in partition 1"):
        ledger().read(1, [Found(7, *record_of(number))])
    with pytest.raises(AssertionError, match="offset 7 after 7"):
        ledger().read(0, [Found(7, *record_of(number)), Found(7, *record_of(OF_FIRST[1]))])
