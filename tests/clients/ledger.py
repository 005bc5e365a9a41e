"""What was sent, what was acknowledged, what was found: numbered records, one byte and one offset for each.

Record `n` holds the number n, so that whatever a client does between here and there, each is recognised.
Memory stays small for a million of them: found records are counted as they stream by, and not kept.
"""

from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from rlog.wire.kafka import partition_of
from tests.clients.drivers import Driver, Found, How, Record
from tests.clients.drivers.base import PARTITIONS

KEYS = 50
COUNTED_MAX = 255
END = b"end"


class Verdict(NamedTuple):
    """How many records are wrong, by what is wrong with them."""

    lost: int
    duplicated: int
    disordered: int
    moved: int

    def __str__(self) -> str:
        return " ".join(f"{name} {count}" for name, count in zip(self._fields, self, strict=True))


def key_of(number: int) -> bytes:
    return b"key-%d" % (number % KEYS)


def record_of(number: int) -> Record:
    """Of 20 to 100 bytes, compressible."""
    return Record(key_of(number), b"%d-" % number + b"abcdefgh" * (2 + number % 10))


def number_of(value: bytes) -> int:
    return int(value.partition(b"-")[0])


class Ledger:
    """Of records 0 to `count` in one topic."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._acked = array("q", [-1]) * count
        self._found = bytearray(count)
        self._confirmed = bytearray(count)  # found where it was acknowledged
        self._disordered = 0

    def acked(self, value: bytes, partition: int, offset: int) -> None:
        """offset: -1 when the client was told only that the record is there."""
        number = number_of(value)
        assert partition == partition_of(key_of(number), PARTITIONS), f"record {number} went to {partition}"
        self._acked[number] = offset

    def acked_count(self) -> int:
        return self.count - self._acked.count(-1)

    def read(self, partition: int, found: Iterable[Found]) -> None:
        """One partition's records, from its beginning to its end. Raises AssertionError at a foreign one."""
        last_offset = last_number = -1
        for offset, key, value in found:
            number = number_of(value)
            assert (key, value) == record_of(number), f"changed at offset {offset}: {key!r} {value!r}"
            assert partition_of(key, PARTITIONS) == partition, f"record {number} is in partition {partition}"
            assert offset > last_offset, f"offset {offset} after {last_offset}"
            last_offset = offset
            if self._found[number] == 0:
                self._disordered += number < last_number
                last_number = number
            if self._acked[number] in (-1, offset):
                self._confirmed[number] = 1
            self._found[number] = min(self._found[number] + 1, COUNTED_MAX)

    def verdict(self) -> Verdict:
        duplicated = sum(count - 1 for count in self._found if count > 1)
        lost = self._found.count(0)
        return Verdict(lost, duplicated, self._disordered, moved=self._confirmed.count(0) - lost)


def verify_topic(driver: Driver, bootstrap: str, topic: str, ledger: Ledger) -> Verdict:
    """Read all of the topic with the client itself.

    An end mark is written to each partition first: how many records there are is what is to be found out.
    """
    driver.produce(bootstrap, topic, end_marks(), How())
    for partition in range(PARTITIONS):
        with closing(driver.consume(bootstrap, topic, partition, 0)) as found:
            ledger.read(partition, _until_the_end(found))
    return ledger.verdict()


def end_marks() -> Iterator[Record]:
    keys = {partition_of(key_of(number), PARTITIONS): key_of(number) for number in range(KEYS)}
    assert len(keys) == PARTITIONS
    yield from (Record(key, END) for key in keys.values())


def _until_the_end(found: Iterable[Found]) -> Iterator[Found]:
    for each in found:
        if each.value == END:
            return
        yield each
