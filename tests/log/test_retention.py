"""Which records retention lets go, and the clock that it goes by."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlog._core import BatchBuilder, SpanBuilder, Vfs, check_client_batches, decode_records
from rlog.log.log import PartitionLog
from rlog.log.retention import HOLD_MS, JUMP_MS, SAVE_MS, ClockReading, RetentionClock, wanted_start
from rlog.log.time_search import TimeStep
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


def test_a_call_looks_into_one_interval_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many batches claim to be newer than their records are: each may be 64 MiB to open."""
    log = filled(10)
    end = log.end_offset
    asked: list[int] = []

    def lied_to(timestamp_ms: int, *, start: int, end_max: int) -> TimeStep:
        asked.append(start)
        return TimeStep(None, min(start + 2, end_max))

    monkeypatch.setattr(log, "search_time", lied_to)
    for expected in range(2, end + 1, 2):
        start = wanted_start(log, end, retention_ms=0, now_ms=T0)
        assert start == expected
        log.trim(start)
    assert asked == list(range(0, end, 2))


# --- the clock

MINUTE_MS = 60_000
HOLD_S = HOLD_MS // 1000


def started() -> RetentionClock:
    return RetentionClock(None, is_new=True)


def test_a_clock_that_runs_is_believed() -> None:
    clock = started()
    for second in range(0, 100_000, 10):
        wall_ms = T0 + second * 1000 + second % 7
        assert clock.now_ms(wall_ms, "a", float(second)) == wall_ms
        assert not clock.doubts


def test_a_jump_ahead_is_not_believed_before_it_has_stood_for_an_hour() -> None:
    clock = started()
    clock.now_ms(T0, "a", 0.0)
    for second in range(10, HOLD_S + 10, 10):
        assert clock.now_ms(T0 + DAY_MS + second * 1000, "a", float(second)) == T0 + second * 1000
        assert clock.doubts
    second = HOLD_S + 10
    assert clock.now_ms(T0 + DAY_MS + second * 1000, "a", float(second)) == T0 + DAY_MS + second * 1000
    assert not clock.doubts


def test_a_jump_that_is_put_right_changes_nothing() -> None:
    clock = started()
    clock.now_ms(T0, "a", 0.0)
    clock.now_ms(T0 + DAY_MS, "a", 10.0)
    assert clock.now_ms(T0 + 20_000, "a", 20.0) == T0 + 20_000
    assert not clock.doubts
    clock.now_ms(T0 + DAY_MS, "a", 30.0)
    late = 20.0 + HOLD_S  # an hour after the first jump, not after this one
    assert clock.now_ms(T0 + DAY_MS + int(late) * 1000, "a", late) < T0 + DAY_MS


def test_a_jump_from_where_a_jump_led_has_to_stand_for_an_hour_itself() -> None:
    clock = started()
    clock.now_ms(T0, "a", 0.0)
    for second in range(10, HOLD_S, 10):
        clock.now_ms(T0 + 2 * JUMP_MS + second * 1000, "a", float(second))
    for second in range(HOLD_S, 2 * HOLD_S, 10):
        assert clock.now_ms(T0 + 3650 * DAY_MS + second * 1000, "a", float(second)) == T0 + second * 1000
    late_ms = T0 + 3650 * DAY_MS + 2 * HOLD_MS
    assert clock.now_ms(late_ms, "a", 2.0 * HOLD_S) == late_ms


def test_a_clock_that_goes_back_is_believed_at_once() -> None:
    clock = started()
    clock.now_ms(T0, "a", 0.0)
    assert clock.now_ms(T0 - DAY_MS, "a", 1.0) == T0 - DAY_MS


# --- the clock, after a restart


def restarted(clock: RetentionClock) -> RetentionClock:
    """As a process finds it that comes back: with what was kept."""
    reading = clock.take_unsaved()
    assert reading is not None
    return RetentionClock(ClockReading(*json.loads(json.dumps(reading))), is_new=False)


def test_a_process_may_be_away_for_days_while_the_machine_is_up() -> None:
    clock = started()
    clock.now_ms(T0, "a", 100.0)
    clock = restarted(clock)
    later = 5 * DAY_MS
    assert clock.now_ms(T0 + later, "a", 100.0 + later / 1000) == T0 + later
    assert not clock.doubts


def test_a_clock_set_ahead_while_the_process_was_away_is_doubted() -> None:
    clock = started()
    clock.now_ms(T0, "a", 100.0)
    clock = restarted(clock)
    assert clock.now_ms(T0 + 365 * DAY_MS, "a", 160.0) == T0 + MINUTE_MS
    assert clock.doubts


def test_a_doubt_lasts_as_long_as_the_machine_was_up_in_whatever_pieces() -> None:
    """Who runs for a minute each time, as a job of cron does, comes to believe a clock all the same."""
    clock = started()
    clock.now_ms(T0, "a", 0.0)
    clock.now_ms(T0 + DAY_MS, "a", 1.0)
    for minute in range(10, 60, 10):
        clock = restarted(clock)
        assert clock.now_ms(T0 + DAY_MS + minute * MINUTE_MS, "a", minute * 60.0) < T0 + DAY_MS
    clock = restarted(clock)
    assert clock.now_ms(T0 + DAY_MS + 61 * MINUTE_MS, "a", 61 * 60.0) == T0 + DAY_MS + 61 * MINUTE_MS


def test_a_machine_that_wakes_up_in_another_year_is_doubted_for_an_hour() -> None:
    """How long it was off, nobody knows: its uptime begins anew."""
    clock = started()
    clock.now_ms(T0, "a", 90_000.0)
    clock = restarted(clock)
    assert clock.now_ms(T0 + 3650 * DAY_MS, "b", 5.0) == T0 + 5000
    assert clock.now_ms(T0 + 3650 * DAY_MS + MINUTE_MS, "b", 65.0) == T0 + 5000 + MINUTE_MS
    late = T0 + 3650 * DAY_MS + HOLD_MS
    assert clock.now_ms(late, "b", 5.0 + HOLD_S) == late
    assert not clock.doubts


def test_after_a_reboot_at_least_the_uptime_has_passed() -> None:
    """A process that begins long after its machine doubts only what the machine was off for."""
    clock = started()
    clock.now_ms(T0, "a", 90_000.0)
    clock = restarted(clock)
    assert clock.now_ms(T0 + 2 * DAY_MS, "b", 2 * DAY_MS / 1000 - 100) == T0 + 2 * DAY_MS
    clock = started()
    clock.now_ms(T0, "a", 5.0)
    clock = restarted(clock)
    assert clock.now_ms(T0 + DAY_MS, "b", 3600.0) == T0 + HOLD_MS, "not by what two starts have in common"


def test_a_short_reboot_raises_no_doubt_and_does_not_end_one() -> None:
    clock = started()
    clock.now_ms(T0, "a", 90_000.0)
    clock = restarted(clock)
    assert clock.now_ms(T0 + JUMP_MS, "b", 5.0) == T0 + JUMP_MS
    clock.now_ms(T0 + JUMP_MS + DAY_MS, "b", 6.0)
    clock.now_ms(T0 + JUMP_MS + DAY_MS + 50 * MINUTE_MS, "b", 6.0 + 50 * 60)
    clock = restarted(clock)
    wall_ms = T0 + JUMP_MS + DAY_MS + 55 * MINUTE_MS
    assert clock.now_ms(wall_ms, "c", 5.0) < T0 + DAY_MS
    wall_ms += 10 * MINUTE_MS
    assert clock.now_ms(wall_ms, "c", 5.0 + 10 * 60) == wall_ms, "the two pieces make an hour"


def test_without_anything_kept_only_an_empty_log_believes_at_once() -> None:
    """Records are no witness: one of a far future would make any wall clock look right."""
    clock = RetentionClock(None, is_new=False)
    assert clock.now_ms(T0, "a", 5.0) == 0
    assert clock.doubts
    assert clock.now_ms(T0 + HOLD_MS, "a", 5.0 + HOLD_S) == T0 + HOLD_MS


def test_what_is_kept_is_never_much_older_than_what_is_believed() -> None:
    clock = started()
    assert clock.take_unsaved() is None, "nothing was read yet"
    kept = []
    for second in range(0, 3600, 10):
        clock.now_ms(T0 + second * 1000, "a", float(second))
        reading = clock.take_unsaved()
        if reading is not None:
            kept.append(reading.uptime_s)
    assert kept == [float(second) for second in range(0, 3600, SAVE_MS // 1000)]
    clock.now_ms(T0 + DAY_MS, "a", 3600.0)
    reading = clock.take_unsaved()
    assert reading is not None, "a doubt is kept at once"
    assert reading.stood_s == 0
    assert clock.take_unsaved() is None
