"""The producer table: duplicates found, gaps and old epochs refused, and every cut equal to a rebuild."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlog._core import BatchBuilder, SpanBuilder, check_client_batches
from rlog.errors import InvalidEpoch, InvariantBroken, OutOfOrder
from rlog.log.producers import (
    TABLE_BYTES_MAX,
    Duplicate,
    Fresh,
    ProducerBatch,
    ProducerTable,
    producer_batches,
)

LAST_SEQUENCE = 2**31 - 1


def batch(producer_id: int, base_sequence: int, offset: int, count: int = 1, epoch: int = 0) -> ProducerBatch:
    """It was appended at 5000 ms plus its offset."""
    last_sequence = (base_sequence + count - 1) % 2**31
    return (producer_id, epoch, base_sequence, last_sequence, offset, offset + count - 1, 5000 + offset)


def rebuilt(log: list[ProducerBatch], **limits: int) -> ProducerTable:
    table = ProducerTable(**limits)
    table.appended(log)
    return table


def test_an_unknown_producer_may_start_at_any_sequence() -> None:
    table = ProducerTable()
    assert table.check(7, 0, 0, 1) == Fresh()
    assert table.check(7, 3, 1000, 5) == Fresh()


def test_a_retry_of_one_of_the_last_five_batches_is_a_duplicate() -> None:
    table = rebuilt([batch(7, 2 * n, 100 + 10 * n, count=2) for n in range(6)])
    for n in range(1, 6):
        assert table.check(7, 0, 2 * n, 2) == Duplicate(100 + 10 * n, 102 + 10 * n, 5100 + 10 * n)
    with pytest.raises(OutOfOrder, match="sequence 0 came where 12 was due"):
        table.check(7, 0, 0, 2)
    assert table.check(7, 0, 12, 1) == Fresh()


def test_a_gap_or_an_overlap_is_refused() -> None:
    table = rebuilt([batch(7, 0, 0, count=3)])
    for base_sequence, count in ((4, 1), (2, 1), (1, 3), (0, 2), (0, 4)):
        with pytest.raises(OutOfOrder):
            table.check(7, 0, base_sequence, count)
    assert table.check(7, 0, 3, 1) == Fresh()


def test_sequences_wrap() -> None:
    table = rebuilt([batch(7, LAST_SEQUENCE - 1, 0, count=3)])
    assert table.check(7, 0, LAST_SEQUENCE - 1, 3) == Duplicate(0, 3, 5000)
    assert table.check(7, 0, 1, 1) == Fresh()
    table = rebuilt([batch(7, LAST_SEQUENCE, 0)])
    assert table.check(7, 0, 0, 1) == Fresh()


def test_a_newer_epoch_fences_the_older_and_starts_at_zero() -> None:
    table = rebuilt([batch(7, 0, 0), batch(7, 1, 1)])
    with pytest.raises(OutOfOrder, match="starts at sequence 2"):
        table.check(7, 1, 2, 1)
    assert table.check(7, 1, 0, 1) == Fresh()
    table.appended([batch(7, 0, 2, epoch=1)])
    with pytest.raises(InvalidEpoch):
        table.check(7, 0, 2, 1)
    assert table.check(7, 1, 0, 1) == Duplicate(2, 3, 5002)
    assert table.check(7, 1, 1, 1) == Fresh()


def test_producers_do_not_touch_each_other() -> None:
    table = rebuilt([batch(7, 0, 0), batch(8, 5, 1)])
    assert table.check(7, 0, 0, 1) == Duplicate(0, 1, 5000)
    assert table.check(8, 0, 5, 1) == Duplicate(1, 2, 5001)
    assert table.check(8, 0, 6, 1) == Fresh()


def test_what_a_cut_removed_may_come_again() -> None:
    table = rebuilt([batch(7, 0, 0), batch(7, 1, 1), batch(8, 0, 2), batch(7, 2, 3)])
    assert table.cut(1) == 1
    assert table == rebuilt([batch(7, 0, 0)])
    assert table.check(7, 0, 1, 1) == Fresh()
    assert table.check(8, 0, 0, 1) == Fresh()


def test_a_cut_brings_back_the_older_epoch() -> None:
    table = rebuilt([batch(7, 0, 0), batch(7, 0, 1, epoch=4)])
    table.cut(1)
    assert table.check(7, 0, 1, 1) == Fresh()


def test_the_producer_idle_longest_is_forgotten_first_and_comes_back_with_a_cut() -> None:
    log = [batch(1, 0, 0), batch(2, 0, 1), batch(1, 1, 2), batch(3, 0, 3)]
    table = rebuilt(log, producers_max=2)
    assert len(table) == 2
    assert table.check(2, 0, 9, 1) == Fresh()  # forgotten, so unknown
    assert table.check(1, 0, 1, 1) == Duplicate(2, 3, 5002)
    table.cut(3)
    assert table.check(2, 0, 0, 1) == Duplicate(1, 2, 5001)
    table.appended([batch(4, 0, 3)])
    assert table.check(2, 0, 9, 1) == Fresh()  # still the one idle longest


def test_a_cut_never_goes_below_the_high_water_mark() -> None:
    table = rebuilt([batch(7, n, n) for n in range(5)])
    table.committed(3)
    table.committed(2)  # an older word changes nothing
    assert table.cut(3) == 3
    with pytest.raises(InvariantBroken, match="below the high-water mark 3"):
        table.cut(2)
    assert table == rebuilt([batch(7, n, n) for n in range(3)])


def test_a_cut_beyond_the_undo_steps_asks_for_a_replay() -> None:
    log = [batch(7, n, n) for n in range(10)]
    table = rebuilt(log, undo_max=4)
    assert table.cut(6) == 6
    assert table.cut(5) == 0
    assert len(table) == 0
    table.appended(log[:5])
    assert table == rebuilt(log[:5])
    assert table.cut(1) == 1
    assert table == rebuilt(log[:1])


def test_the_log_is_taken_in_order() -> None:
    table = rebuilt([batch(7, 0, 5)])
    with pytest.raises(InvariantBroken, match="a batch at 5 after one at 5"):
        table.appended([batch(7, 1, 5)])


@pytest.mark.parametrize("limits", [{"producers_max": 0}, {"undo_max": 0}])
def test_impossible_limits_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ProducerTable(**limits)


def test_a_span_tells_the_table_what_it_needs() -> None:
    builder = BatchBuilder(batch_bytes_max=4096, producer_id=7, producer_epoch=2, base_sequence=LAST_SEQUENCE)
    builder.append_values([b"a", b"b"], 0, 1000)
    records = builder.build()
    (info,) = check_client_batches(records, batch_bytes_max=4096)
    table = ProducerTable()
    assert table.check(info.producer_id, info.producer_epoch, info.base_sequence, info.count) == Fresh()
    group = SpanBuilder(40, 1, append_time_ms=9)
    group.add_start(1)
    group.add(records, info)
    table.appended(group.build().producer_batches())
    found = table.check(info.producer_id, info.producer_epoch, info.base_sequence, info.count)
    assert found == Duplicate(41, 43, 9)
    assert table.check(7, 2, 1, 1) == Fresh()


def test_a_stored_table_gives_an_equal_one_whose_batches_stay() -> None:
    log = [batch(7, 0, 0), batch(8, 5, 1, epoch=2), batch(7, 1, 2)]
    table = ProducerTable.decode(rebuilt(log).encode())
    assert table == rebuilt(log)
    assert producer_batches(table.encode()) == log
    table.appended([batch(7, 2, 3), batch(8, 6, 4, epoch=2)])
    assert table.cut(3) == 3
    assert table == rebuilt(log)
    assert table.cut(2) == 0, "it asks for a replay"
    assert ProducerTable.decode(b"") == ProducerTable()


def test_no_table_is_larger_when_stored_than_it_is_said_to_be() -> None:
    """What travels in one frame between nodes is bounded by it."""
    table = ProducerTable()
    table.appended(batch(n % 10_000, n // 10_000, n) for n in range(60_000))
    assert len(table.encode()) == TABLE_BYTES_MAX
    table.appended(batch(10_000, n, 60_000 + n) for n in range(6))
    assert len(table.encode()) == TABLE_BYTES_MAX


def test_what_is_no_table_is_refused() -> None:
    whole = rebuilt([batch(7, n, n) for n in range(6)] + [batch(8, 0, 6)]).encode()
    first = len(rebuilt([batch(7, n, n) for n in range(5)]).encode())
    for size in range(1, len(whole)):
        if size != first:
            with pytest.raises(ValueError, match="ends"):
                ProducerTable.decode(whole[:size])
    for count in (0, 6, 0xFFFF):
        with pytest.raises(ValueError, match=f"{count} batches"):
            ProducerTable.decode(whole[:10] + count.to_bytes(2, "big") + bytes(10_000_000))


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"), st.integers(1, 5), st.integers(0, 2), st.integers(0, 9), st.integers(1, 3)
        ),
        st.tuples(st.just("cut"), st.floats(0, 1)),
        st.tuples(st.just("commit"), st.floats(0, 1)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 6), st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_after_any_cut_the_table_equals_its_rebuild(
    steps: list[tuple[object, ...]], producers_max: int, undo_max: int
) -> None:
    """SAFETY 13, with forgotten producers, changed epochs and cuts beyond the undo steps."""
    table = ProducerTable(producers_max=producers_max, undo_max=undo_max)
    log: list[ProducerBatch] = []
    ends = [0]  # batch boundaries; ends[n] is where the log of n batches ends
    hwm_index = 0
    for step in steps:
        match step:
            case ("append", int(producer_id), int(epoch), int(base_sequence), int(count)):
                log.append(batch(producer_id, base_sequence, ends[-1], count, epoch))
                ends.append(ends[-1] + count)
                table.appended(log[-1:])
            case ("commit", float(share)):
                hwm_index += int(share * (len(log) - hwm_index))
                table.committed(ends[hwm_index])
            case ("cut", float(share)):
                keep = hwm_index + int(share * (len(log) - hwm_index))
                replay_from = table.cut(ends[keep])
                assert replay_from in (0, ends[keep])
                del log[keep:], ends[keep + 1 :]
                table.appended(entry for entry in log if entry[4] >= replay_from)
        assert table == rebuilt(log, producers_max=producers_max)
        assert ProducerTable.decode(table.encode()) == table
        assert set(producer_batches(table.encode())) <= set(log)
        assert len(table) <= producers_max
