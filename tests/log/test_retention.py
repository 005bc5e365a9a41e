"""Which records retention lets go, and the clock that it goes by."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from rlog._core import BatchBuilder, SpanBuilder, Vfs, check_client_batches, decode_records
from rlog.log.log import PartitionLog
from rlog.log.retention import HOLD_MS, JUMP_MS, RetentionClock, wanted_start
from rlog.testing.disk import MemoryDisk

from .storage_kit import NAME, contents, make_span, open_storage, settle

DAY_MS = 24 * 3600 * 1000
T0 = 1_700_000_000_000


def filled(spans: int) -> PartitionLog:
    """Spans of two records each, all at T0, the first half flushed and rolled one by one."""
    storage = open_storage(Vfs.of(MemoryDisk(Random(1))))
    log = storage.logs[NAME]
    for _ in range(spans):
        log.append(make_span(log.end_offset, 1, size=200))
        settle(storage)
    log.committed(log.end_offset)
    return log


# --- what goes


def test_nothing_goes_without_a_bound() -> None:
    log = filled(40)
    assert wanted_start(log, log.end_offset) == 0


@given(st.integers(0, 40_000))
def test_what_is_kept_is_at_least_what_the_size_says(retention_bytes: int) -> None:
    log = filled(40)
    start = wanted_start(log, log.end_offset, retention_bytes=retention_bytes)
    kept = len(contents(log, start)) if start < log.end_offset else 0
    assert kept >= min(retention_bytes, len(contents(log)))
    assert start in [segment.base_offset for segment in log._segments]


def test_age_lets_all_go_that_is_older_and_nothing_that_is_not() -> None:
    log = filled(10)
    end = log.end_offset
    assert wanted_start(log, end, retention_ms=60_000, now_ms=T0 + 60_000) == 0
    assert wanted_start(log, end, retention_ms=60_000, now_ms=T0 + 60_001) == end
    assert wanted_start(log, 10, retention_ms=60_000, now_ms=T0 + 60_001) == 10, "only what is committed"
    assert len(decode_records(contents(log))) == 20


def test_a_log_without_timestamps_is_kept() -> None:
    storage = open_storage(Vfs.of(MemoryDisk(Random(1))))
    log = storage.logs[NAME]
    batch = BatchBuilder(batch_bytes_max=1000)
    batch.append(b"timeless", timestamp_ms=-1)
    data = batch.build()
    span = SpanBuilder(0, 1)
    span.add(data, check_client_batches(data, batch_bytes_max=1000)[0])
    log.append(span.build())
    settle(storage)
    log.committed(1)
    assert wanted_start(log, 1, retention_ms=0, now_ms=T0) == 0
    log.append(make_span(1, 1))
    settle(storage)
    log.committed(3)
    assert wanted_start(log, 3, retention_ms=1000, now_ms=T0) == 1, "beside others it counts as old"


# --- the clock


def test_a_clock_that_runs_is_believed() -> None:
    clock = RetentionClock(-1)
    for second in range(0, 100_000, 10):
        assert clock.now_ms(T0 + second * 1000 + second % 7, float(second)) == T0 + second * 1000 + second % 7
        assert not clock.doubts


def test_a_jump_ahead_is_not_believed_before_it_has_stood_for_an_hour() -> None:
    clock = RetentionClock(-1)
    clock.now_ms(T0, 0.0)
    for second in range(10, HOLD_MS // 1000 + 10, 10):
        assert clock.now_ms(T0 + DAY_MS + second * 1000, float(second)) == T0 + second * 1000
        assert clock.doubts
    second = HOLD_MS // 1000 + 10
    assert clock.now_ms(T0 + DAY_MS + second * 1000, float(second)) == T0 + DAY_MS + second * 1000
    assert not clock.doubts


def test_a_jump_that_is_put_right_changes_nothing() -> None:
    clock = RetentionClock(-1)
    clock.now_ms(T0, 0.0)
    clock.now_ms(T0 + DAY_MS, 10.0)
    assert clock.now_ms(T0 + 20_000, 20.0) == T0 + 20_000
    assert not clock.doubts
    clock.now_ms(T0 + DAY_MS, 30.0)
    late = 20.0 + HOLD_MS / 1000  # an hour after the first jump, not after this one
    assert clock.now_ms(T0 + DAY_MS + int(late) * 1000, late) < T0 + DAY_MS


def test_a_jump_from_where_a_jump_led_has_to_stand_for_an_hour_itself() -> None:
    clock = RetentionClock(-1)
    clock.now_ms(T0, 0.0)
    hold_s = HOLD_MS // 1000
    for second in range(10, hold_s, 10):
        clock.now_ms(T0 + 2 * JUMP_MS + second * 1000, float(second))
    for second in range(hold_s, 2 * hold_s, 10):
        assert clock.now_ms(T0 + 3650 * DAY_MS + second * 1000, float(second)) == T0 + second * 1000
    late = 2 * hold_s
    assert clock.now_ms(T0 + 3650 * DAY_MS + late * 1000, float(late)) == T0 + 3650 * DAY_MS + late * 1000


def test_a_clock_that_goes_back_is_believed_at_once() -> None:
    clock = RetentionClock(-1)
    clock.now_ms(T0, 0.0)
    assert clock.now_ms(T0 - DAY_MS, 1.0) == T0 - DAY_MS


def test_at_start_a_clock_far_ahead_of_the_newest_record_is_doubted() -> None:
    """A machine without a battery may wake up in any year."""
    clock = RetentionClock(T0)
    assert clock.now_ms(T0 + 10 * DAY_MS, 5.0) == T0
    assert clock.doubts
    assert RetentionClock(T0).now_ms(T0 + JUMP_MS, 5.0) == T0 + JUMP_MS
    assert RetentionClock(T0 + DAY_MS).now_ms(T0, 5.0) == T0, "records from the future change nothing"
