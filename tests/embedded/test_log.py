"""The embedded log as one thread uses it."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

import rlog
from rlog.embedded import NewRecord
from rlog.embedded.log import Log, open_in
from rlog.embedded.settings import Settings, World
from rlog.errors import (
    BatchTooLarge,
    ConfigurationError,
    LogClosed,
    OffsetConflict,
    OffsetOutOfRange,
    RlogError,
)
from rlog.records import Headers
from tests.embedded.kit import segments_of, values_of, world_of


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return rlog.open(tmp_path / "orders")


def test_what_was_appended_is_read_back_whole(tmp_path: Path) -> None:
    headers = (("kind", b"order"), ("empty", None), ("kind", b"again"))
    with rlog.open(tmp_path / "orders") as log:
        receipt = log.append(b"paid", key=b"42", headers=headers, timestamp_ms=1_700_000_000_123)
        assert receipt == rlog.Receipt("orders", 0, 0, 1, (), "disk", 1_700_000_000_123)
        log.append(None)
        expected = rlog.Record("orders", 0, 0, 1, 1_700_000_000_123, b"42", b"paid", headers)
        assert next(log.read()) == expected
    with rlog.open(tmp_path / "orders") as log:
        first, second = log.read()
        assert first == expected
        assert (second.offset, second.key, second.value, second.headers) == (1, None, None, ())
        assert (log.start_offset, log.end_offset) == (0, 2)
        assert log.append(b"more").offset == 2


def test_a_list_gets_consecutive_offsets(log: Log) -> None:
    log.append(b"before")
    receipt = log.append_many(
        [b"a", None, rlog.NewRecord(b"b", b"key", [("h", b"1")], 77), b"c"], timestamp_ms=5
    )
    assert (receipt.first_offset, receipt.last_offset, receipt.count) == (1, 4, 4)
    assert list(receipt.offsets()) == [1, 2, 3, 4]
    records = list(log.read(1))
    assert [record.value for record in records] == [b"a", None, b"b", b"c"]
    assert [record.timestamp_ms for record in records] == [5, 5, 77, 5]
    assert (records[2].key, records[2].headers) == (b"key", (("h", b"1"),))
    assert list(log.append_many(iter([b"x"] * 3)).offsets()) == [5, 6, 7], "any iterable will do"


def test_a_list_that_fits_is_one_batch_and_a_longer_one_is_several(tmp_path: Path) -> None:
    log = rlog.open(tmp_path / "orders", batch_bytes_max=1000)
    log.append_many([b"x" * 100] * 8, atomic=True)
    with pytest.raises(BatchTooLarge, match="open the log with a larger batch_bytes_max"):
        log.append_many([b"x" * 100] * 9, atomic=True)
    assert log.end_offset == 8, "refused as a whole"
    assert log.append_many([b"x" * 100] * 30).count == 30
    assert values_of(log) == [b"x" * 100] * 38


@pytest.mark.parametrize(
    "values", [[b"x" * 2000], [b"x", b"x" * 2000], [b"x", "text"], [1], [], b"bytes", "text"]
)
def test_a_refused_list_adds_nothing(tmp_path: Path, values: list[bytes]) -> None:
    with rlog.open(tmp_path / "orders", batch_bytes_max=1000) as log:
        log.append(b"kept")
        with pytest.raises((BatchTooLarge, TypeError, ValueError)) as caught:
            log.append_many(values)
        assert getattr(caught.value, "outcome", "no") == "no"
        assert log.append(b"next").offset == 1


def test_a_refused_record_adds_nothing(tmp_path: Path) -> None:
    with rlog.open(tmp_path / "orders", batch_bytes_max=1000) as log:
        for refused, wrong in (
            (BatchTooLarge, {"value": b"x" * 1000}),
            (TypeError, {"value": "text"}),
            (TypeError, {"value": b"", "headers": [("name", 1)]}),
            (TypeError, {"value": b"", "timestamp_ms": "now"}),
            (ZeroDivisionError, {"value": b"", "headers": (("x", b"%d" % (1 // 0)) for _ in "x")}),
        ):
            with pytest.raises(refused):
                log.append(**wrong)
        assert log.append(b"next").offset == 0


def test_an_expected_offset_is_met_or_refused(log: Log) -> None:
    assert log.append(b"a", expect_offset=0).offset == 0
    assert log.append_many([b"b", b"c"], expect_offset=1).first_offset == 1
    for expected in (0, 2, 4):
        for append in (log.append, lambda value, **more: log.append_many([value], **more)):
            with pytest.raises(OffsetConflict, match=f"ends at offset 3, not {expected}") as caught:
                append(b"no", expect_offset=expected)
            assert (caught.value.expected, caught.value.actual, caught.value.outcome) == (expected, 3, "no")
    assert values_of(log) == [b"a", b"b", b"c"]


def test_reading_from_and_to_any_offset(tmp_path: Path) -> None:
    """Batches of one record and of many, segments of few batches."""
    log = open_in(tmp_path / "orders", Settings(), world_of(World.real().vfs))
    expected: list[bytes] = []
    for number in range(250):
        values = [b"%d/%d " % (number, each) * (1 + number % 7) for each in range(1 + number % 5)]
        log.append_many(values)
        expected += values
    assert len(segments_of(tmp_path / "orders")) > 3
    for start in range(0, len(expected) + 1, 7):
        assert list(log.values(start)) == expected[start:]
        for end in (start, start + 1, start + 13, len(expected) + 5):
            assert [record.value for record in log.read(start, end=end)] == expected[start:end]
    assert [value for values in log.value_batches() for value in values] == expected
    assert [record.value for records in log.read_batches(3) for record in records] == expected[3:]
    assert list(log.read("latest")) == []


def test_a_reading_ends_where_the_log_ended_as_it_began(log: Log) -> None:
    log.append_many([b"a", b"b"])
    for record in log.read():
        log.append(record.value)
    assert list(log.values()) == [b"a", b"b", b"a", b"b"]


def test_offsets_that_are_not_there_are_refused_at_once(log: Log) -> None:
    log.append(b"a")
    for offset in (-1, 2, 99):
        with pytest.raises(
            OffsetOutOfRange, match=f"offset {offset} is not in .*which holds 0 to 1"
        ) as caught:
            log.read(offset)
        assert (caught.value.offset, caught.value.start_offset, caught.value.end_offset) == (offset, 0, 1)
    for wrong in ("newest", 1.5, None):
        with pytest.raises(ConfigurationError, match="neither 'earliest', 'latest', an offset, an aware"):
            log.read(wrong)
    with pytest.raises(ConfigurationError, match="has no end"):
        log.read(0, end=1, follow=True)


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_compressed_batches(tmp_path: Path, compression: str) -> None:
    with rlog.open(tmp_path / "orders", compression=compression) as log:
        log.append_many([b"order " * 100] * 1000)
        log.append(b"one")
        assert list(log.values(999)) == [b"order " * 100, b"one"]
    used = max(len(each.read_bytes().rstrip(b"\0")) for each in segments_of(tmp_path / "orders"))
    assert (used < 100_000) == (compression != "none")


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"compression": "brotli"}, "compression='brotli' is none of none, gzip, snappy, lz4, zstd"),
        ({"batch_bytes_max": 10}, r"batch_bytes_max=10 is not within \[68"),
        ({"batch_bytes_max": 1 << 30}, "batch_bytes_max=1073741824 is above 67108864"),
        ({"batch_bytes_max": "5"}, "batch_bytes_max='5' is not an integer"),
        ({"retention_ms": "5"}, "retention_ms='5' is not an integer"),
        ({"retention_bytes": 5.0}, "retention_bytes=5.0 is not an integer"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(
    tmp_path: Path, setting: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        rlog.open(tmp_path / "orders", **setting)
    assert not (tmp_path / "orders").exists()


def test_a_closed_log_refuses_everything_and_closes_again(tmp_path: Path) -> None:
    with rlog.open(tmp_path / "orders") as log:
        log.append(b"a")
        reading = log.read()
    log.close()
    assert log.is_closed
    for use in (
        lambda: log.append(b"b"),
        lambda: log.append_many([b"b"]),
        lambda: log.read(),
        lambda: list(reading),
        lambda: log.wait(0),
        lambda: log.__enter__(),
    ):
        with pytest.raises(LogClosed, match="orders was closed: open it again") as caught:
            use()
        assert caught.value.outcome == "no"
    assert log.end_offset == 1, "what was known is still known"
    rlog.open(tmp_path / "orders").close()


def test_errors_are_rlogs(log: Log) -> None:
    for kind in (BatchTooLarge, LogClosed, OffsetConflict, OffsetOutOfRange):
        assert issubclass(kind, RlogError)
    assert "[0, 0)" in repr(log)


def test_the_receipt_of_a_list_has_the_timestamp_of_its_last_record(log: Log) -> None:
    ends = [NewRecord(b"a", timestamp_ms=7), b"b"], [b"a", NewRecord(b"b", timestamp_ms=7)]
    assert [log.append_many(values, timestamp_ms=9).timestamp_ms for values in ends] == [9, 7]
    assert [record.timestamp_ms for record in log.read()] == [7, 9, 9, 7]


def test_headers_that_can_be_read_only_once_are_stored_also_where_a_batch_is_full(tmp_path: Path) -> None:
    """The record is tried in the open batch first, and then goes into the next."""

    def headers() -> Iterator[tuple[str, bytes]]:
        yield "name", b"x" * 60

    once = cast("Headers", headers())
    with rlog.open(tmp_path / "orders", batch_bytes_max=300) as log:
        log.append_many([b"x" * 150, NewRecord(b"y" * 60, headers=cast("Headers", headers()))])
        builder = log._settings.builder()
        builder.append(b"x" * 150, None, (), 0)
        log._writer.add_batches([builder])
        log._writer.open.shared = builder
        log.append(b"z" * 60, headers=once)
        found = [(record.value[:1], record.headers) for record in log.read() if record.value]
    stored = (("name", b"x" * 60),)
    assert [(value, tuple(each)) for value, each in found] == [
        (b"x", ()),
        (b"y", stored),
        (b"x", ()),
        (b"z", stored),
    ]
