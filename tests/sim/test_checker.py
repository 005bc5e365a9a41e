"""The checker against hand-made histories: it passes the good one and names each anomaly, once."""

from dataclasses import replace
from itertools import permutations
from math import inf

import pytest

from rlog.testing.checker import Copy, History, Led, Persisted, Read, Violation, Write, check

P = "orders-0"


def write(name: str, offset: int | None, invoked: float, completed: float, **more: object) -> Write:
    outcome = "ok" if offset is not None else "unknown"
    return replace(Write("p1", P, name.encode(), invoked, completed, outcome, offset), **more)


def copy(node: int, values: dict[int, str], hwm: int | None = None) -> Copy:
    records = {offset: value.encode() for offset, value in values.items()}
    return Copy(node, P, max(values) + 1 if hwm is None else hwm, records, records)


def good() -> History:
    """Offset 2 is a start-of-generation batch: no data record there."""
    values = {0: "a", 1: "b", 3: "c", 4: "d"}
    return History(
        writes=[write("a", 0, 1, 2), write("b", 1, 1, 2), write("c", 3, 3, 4), write("d", None, 4, inf)],
        reads=[Read("r1", P, offset, value.encode()) for offset, value in values.items()],
        leaders=[Led(1, 1, P, 1), Led(1, 1, P, 1), Led(2, 1, P, 2), Led(1, 2, P, 3)],
        generations=[Persisted(1, P, 1), Persisted(2, P, 1), Persisted(1, P, 1), Persisted(1, P, 3)],
        copies=[copy(1, values), copy(2, {**values, 4: "x"}, hwm=4), copy(3, values)],
    )


def kinds(history: History) -> list[str]:
    return sorted({violation.kind for violation in check(history)})


def test_a_good_history_has_no_violation() -> None:
    assert check(good()) == []


def test_an_empty_history_has_no_violation() -> None:
    assert check(History()) == []


def test_an_acked_record_that_is_not_there_is_lost() -> None:
    history = good()
    history.copies = [copy(1, {0: "a", 1: "b"})]
    history.reads = []
    assert check(history) == [
        Violation("lost", P, "'c' acked at 3, there is nothing"),
    ]


def test_an_acked_record_at_another_offset_is_lost_where_it_should_be() -> None:
    history = good()
    history.writes[2] = write("c", 5, 3, 4)
    assert [v.detail for v in check(history) if v.kind == "lost"] == ["'c' acked at 5, there is nothing"]


def test_an_acked_record_without_an_offset_is_somewhere() -> None:
    """The node knew the batch for a repetition, but not any more where the first one is."""
    history = good()
    history.writes[2] = replace(history.writes[2], offset=None)
    assert kinds(history) == []
    history.writes.append(replace(history.writes[2], value=b"e"))
    assert check(history) == [Violation("lost", P, "'e' was acked and is nowhere")]


def test_a_partition_that_vanished_lost_all_its_records() -> None:
    history = good()
    history.copies = []
    assert [violation.kind for violation in check(history)].count("lost") == 3


def test_a_value_twice_in_the_log_is_a_duplicate_only_if_the_producer_is_idempotent() -> None:
    history = good()
    values = {0: "a", 1: "b", 3: "c", 4: "d", 5: "c"}
    history.copies = [copy(1, values)]
    assert kinds(history) == ["duplicate"]
    history.writes = [replace(item, idempotent=False) for item in history.writes]
    assert kinds(history) == []


def test_a_refused_record_in_the_log_is_revived() -> None:
    history = good()
    history.writes[3] = replace(history.writes[3], outcome="no", completed=5)
    assert kinds(history) == ["revived"]


def test_two_readers_that_see_different_records_at_one_offset() -> None:
    history = good()
    history.reads.append(Read("r2", P, 1, b"c"))
    assert kinds(history) == ["inconsistent"]


def test_a_receipt_and_a_reader_that_disagree() -> None:
    history = good()
    history.writes.append(write("e", 4, 4, 5))
    assert kinds(history) == ["inconsistent", "lost"]


def test_a_record_that_nobody_wrote_is_a_phantom() -> None:
    history = good()
    history.copies = [copy(1, {0: "a", 1: "b", 3: "c", 4: "d", 5: "?"})]
    assert kinds(history) == ["phantom"]


def test_a_record_read_that_is_not_in_the_log_is_a_phantom() -> None:
    """A reader was shown what was cut later."""
    history = good()
    history.reads.append(Read("r2", P, 9, b"d"))
    assert kinds(history) == ["phantom"]


def test_a_reader_that_goes_backwards() -> None:
    history = good()
    history.reads.append(Read("r1", P, 3, b"c"))
    assert check(history) == [Violation("backwards", P, "r1 read 3, expected 5 or above")]


def test_a_reader_that_sees_a_record_twice_goes_backwards() -> None:
    history = good()
    history.reads.append(Read("r1", P, 4, b"d"))
    assert kinds(history) == ["backwards"]


def test_a_reader_that_is_not_shown_a_record_has_a_gap() -> None:
    history = good()
    del history.reads[1]
    assert check(history) == [Violation("gap", P, "r1 got 3 but not [1]")]


def test_a_session_that_begins_past_the_first_record_it_asked_for_has_a_gap() -> None:
    history = good()
    history.starts["r2"] = 1
    history.reads += [Read("r2", P, 3, b"c"), Read("r2", P, 4, b"d")]
    assert check(history) == [Violation("gap", P, "r2 got 3 but not [1]")]
    history.starts["r2"] = 2  # a control batch
    assert kinds(history) == []
    history.starts["r2"] = 4
    assert kinds(history) == ["backwards"]


def test_a_start_of_generation_batch_is_no_gap() -> None:
    history = good()
    assert [read.offset for read in history.reads] == [0, 1, 3, 4]
    assert kinds(history) == []


def test_a_write_acked_before_another_began_is_before_it() -> None:
    history = good()
    history.writes[0] = write("a", 0, 5, 6, producer="p2")  # began after c was acked at 3
    assert check(history) == [Violation("reordered", P, "'c' was acked at 3 before 'a' began, which is at 0")]


def test_concurrent_writes_may_be_in_any_order() -> None:
    """Every order of three overlapping writes of three producers passes."""
    for order in permutations("abc"):
        history = good()
        history.reads = []
        history.writes = [
            write(name, order.index(name), 1 + number, 10, producer=name) for number, name in enumerate("abc")
        ]
        history.copies = [copy(1, dict(enumerate(order)))]
        assert check(history) == []


def test_a_producers_own_order_is_kept_even_when_its_writes_overlap() -> None:
    history = good()
    history.reads = []
    history.writes = [write("a", 1, 1, 10), write("b", 0, 1.5, 10)]
    history.copies = [copy(1, {0: "b", 1: "a"})]
    assert kinds(history) == ["reordered"]
    history.writes = [replace(item, idempotent=False) for item in history.writes]
    assert kinds(history) == []


def test_a_write_that_its_producer_gave_up_may_surface_behind_its_next_ones() -> None:
    history = good()
    history.reads = []
    history.writes = [write("a", None, 1, 2), write("b", 0, 3, 4)]
    history.copies = [copy(1, {0: "b", 1: "a"})]
    assert kinds(history) == []


def test_an_unknown_write_that_surfaces_before_an_older_ack_is_reordered() -> None:
    history = good()
    history.reads = []
    history.writes = [write("a", 1, 1, 2), write("late", None, 3, inf, producer="p2")]
    history.copies = [copy(1, {0: "late", 1: "a"})]
    assert kinds(history) == ["reordered"]


@pytest.mark.parametrize("second", [Led(3, 1, P, 2), Led(2, 2, P, 2)])
def test_two_leaders_in_one_generation_also_of_one_node_restarted(second: Led) -> None:
    history = good()
    history.leaders.append(second)
    assert kinds(history) == ["two leaders"]


def test_two_partitions_have_leaders_of_their_own() -> None:
    history = good()
    history.leaders.append(Led(3, 1, "orders-1", 2))
    assert kinds(history) == []


def test_a_generation_that_shrinks_on_disk() -> None:
    history = good()
    history.generations.append(Persisted(1, P, 2))
    assert check(history) == [Violation("generation", P, "node 1 went from 3 to 2")]


def test_copies_that_differ_below_the_high_water_mark() -> None:
    history = good()
    history.copies.append(copy(4, {0: "a", 1: "B", 3: "c", 4: "d"}))
    assert check(history) == [Violation("diverged", P, "nodes 1 and 4 differ at offset 1")]


def test_a_copy_with_a_hole_has_diverged() -> None:
    history = good()
    history.copies.append(copy(4, {0: "a", 3: "c", 4: "d"}))
    assert kinds(history) == ["diverged"]


def test_copies_may_differ_above_the_high_water_mark() -> None:
    assert good().copies[1].batches[4] == b"x"
    assert kinds(good()) == []
