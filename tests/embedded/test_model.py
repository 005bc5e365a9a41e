"""Random lives of an embedded log beside a model that is a list."""

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rlog.embedded.batches import NewRecord
from rlog.embedded.log import Log
from rlog.embedded.settings import Settings
from rlog.errors import BatchTooLarge, OffsetConflict, OffsetOutOfRange
from rlog.moments import At
from rlog.testing.disk import MemoryDisk
from tests.embedded.kit import open_on

BIG = st.integers(0, 255).map(lambda byte: bytes([byte]) * 700)
VALUES = st.one_of(st.none(), st.binary(max_size=40), BIG)
KEYS = st.one_of(st.none(), st.binary(max_size=10))
HEADERS = st.lists(st.tuples(st.text(max_size=5), KEYS), max_size=2).map(tuple)
RECORDS = st.builds(NewRecord, VALUES, KEYS, HEADERS, st.integers(0, 2**40))
BATCH_BYTES_MAX = 3000


class Lives(RuleBasedStateMachine):
    """model: (value, key, headers, timestamp) by offset; None stands for a timestamp nobody named."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk(Random(1))
        self.compression = "none"
        self.log = self.open()
        self.model: list[NewRecord] = []
        self.start = 0

    def open(self) -> Log:
        settings = Settings(batch_bytes_max=BATCH_BYTES_MAX, compression=self.compression)
        return open_on(self.disk, settings=settings)

    @rule(record=RECORDS)
    def append(self, record: NewRecord) -> None:
        receipt = self.log.append(record.value, record.key, record.headers, record.timestamp_ms)
        assert (receipt.offset, receipt.timestamp_ms) == (len(self.model), record.timestamp_ms)
        self.model.append(record)

    @rule(values=st.lists(st.one_of(VALUES, RECORDS), min_size=1, max_size=8), atomic=st.booleans())
    def append_many(self, values: list[bytes | NewRecord | None], atomic: bool) -> None:
        try:
            receipt = self.log.append_many(values, timestamp_ms=77, atomic=atomic)
        except BatchTooLarge:
            assert atomic
            return
        assert list(receipt.offsets()) == list(range(len(self.model), len(self.model) + len(values)))
        for value in values:
            self.model.append(value if isinstance(value, NewRecord) else NewRecord(value, timestamp_ms=77))

    @rule(record=RECORDS, expected=st.integers(0, 40))
    def append_expecting(self, record: NewRecord, expected: int) -> None:
        fields = (record.value, record.key, record.headers, record.timestamp_ms)
        if expected != len(self.model):
            with pytest.raises(OffsetConflict) as caught:
                self.log.append(*fields, expect_offset=expected)
            assert caught.value.actual == len(self.model)
            return
        self.log.append(*fields, expect_offset=expected)
        self.model.append(record)

    @rule(start=st.integers(0, 60), count=st.integers(0, 20))
    def read(self, start: int, count: int) -> None:
        start = max(self.start, min(start, len(self.model)))
        records = list(self.log.read(start, end=start + count))
        expected = self.model[start : start + count]
        assert [record.offset for record in records] == list(range(start, start + len(expected)))
        found = [NewRecord(each.value, each.key, each.headers, each.timestamp_ms) for each in records]
        assert found == expected

    @rule(offset=st.integers(0, 60))
    def delete_before(self, offset: int) -> None:
        if offset > len(self.model):
            with pytest.raises(OffsetOutOfRange):
                self.log.delete_before(offset)
            return
        self.log.delete_before(offset)
        self.start = max(self.start, offset)

    @rule(wanted=st.integers(0, 2**40))
    def look_for_a_moment(self, wanted: int) -> None:
        records = enumerate(self.model[self.start :], start=self.start)
        found = [offset for offset, record in records if (record.timestamp_ms or 0) >= wanted]
        assert self.log.offset_at(At(wanted)) == (found[0] if found else None)

    @rule(
        compression=st.sampled_from(["none", "lz4", "zstd"]), how=st.sampled_from(["close", "kill", "power"])
    )
    def reopen(self, compression: str, how: str) -> None:
        if how == "close":
            self.log.close()
        elif how == "kill":
            self.disk.kill()
        else:
            self.disk.power_cut()
        self.compression = compression
        self.log = self.open()

    @invariant()
    def everything_is_there(self) -> None:
        assert (self.log.start_offset, self.log.end_offset) == (self.start, len(self.model))

    @precondition(lambda self: len(self.model) > 3)
    @rule()
    def read_all_values(self) -> None:
        assert list(self.log.values()) == [record.value for record in self.model[self.start :]]


Lives.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_lives = Lives.TestCase
