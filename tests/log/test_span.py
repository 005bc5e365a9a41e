"""Spans: stamping, dense offsets, slices on batch boundaries, and who owns the memory."""

import copy
import gc

import pytest

from rlog._core import (
    BatchBuilder,
    BatchInfo,
    Span,
    SpanBuilder,
    check_client_batches,
    decode_values,
    iterate_batches,
)
from rlog.errors import CorruptBatch

BATCH_BYTES_MAX = 1 << 20


def batch(*values: bytes, producer: tuple[int, int, int] = (-1, -1, -1)) -> bytes:
    builder = BatchBuilder(batch_bytes_max=BATCH_BYTES_MAX)
    builder.set_producer(*producer)
    for value in values:
        assert builder.append(value, timestamp_ms=1000)
    return builder.build()


def span_of(counts: list[int], base_offset: int = 10, generation: int = 3) -> Span:
    """One batch of `n` records for each n in `counts`."""
    builder = SpanBuilder(base_offset, generation)
    for count in counts:
        records = batch(*(b"%d" % (builder.end_offset + index) for index in range(count)))
        (info,) = check_client_batches(records, batch_bytes_max=BATCH_BYTES_MAX)
        builder.add(records, info)
    return builder.build()


def test_a_span_stamps_dense_offsets_and_its_generation() -> None:
    span = span_of([2, 1, 3])
    assert (span.base_offset, span.end_offset, span.generation, span.count) == (10, 16, 3, 3)
    infos = iterate_batches(span)
    assert [(info.base_offset, info.last_offset, info.generation) for info in infos] == [
        (10, 11, 3),
        (12, 12, 3),
        (13, 15, 3),
    ]
    assert decode_values(span) == ([b"10", b"11", b"12", b"13", b"14", b"15"], 16)


def test_several_batches_of_one_request_are_added_by_position() -> None:
    records = bytearray(batch(b"a", b"b") + batch(b"c"))
    builder = SpanBuilder(0, 1)
    ends = [builder.add(records, info) for info in check_client_batches(records, batch_bytes_max=4096)]
    assert ends == [2, 3]
    assert builder.size == len(records)
    alone = SpanBuilder(0, 1)
    for info in check_client_batches(records, batch_bytes_max=4096):
        alone.add(memoryview(records)[info.position : info.position + info.size], info)
    span = builder.build()
    assert decode_values(span) == ([b"a", b"b", b"c"], 3)
    assert bytes(alone.build()) == bytes(span)


def test_add_refuses_a_buffer_that_changed_since_its_check() -> None:
    records = bytearray(batch(b"a", b"b"))
    (info,) = check_client_batches(records, batch_bytes_max=4096)
    builder = SpanBuilder(0, 1)
    for position in (8, 11, 17, 60):
        records[position] ^= 1
        with pytest.raises(ValueError, match=r"does not hold|lies outside"):
            builder.add(records, info)
        records[position] ^= 1
    for wrong in (records[:-1], records[1:], records[1:] + b"\0", b""):
        with pytest.raises(ValueError, match=r"does not hold|lies outside"):
            builder.add(wrong, info)
    assert builder.size == 0
    assert builder.add(records, info) == 2


def test_a_start_entry_takes_one_offset_and_is_skipped_by_readers() -> None:
    builder = SpanBuilder(7, 4)
    assert builder.add_start(1234) == 8
    records = batch(b"after")
    (info,) = check_client_batches(records, batch_bytes_max=4096)
    assert builder.add(records, info) == 9
    span = builder.build()
    start, _ = iterate_batches(span)
    assert start.is_control
    assert (start.base_offset, start.count, start.attributes, start.max_timestamp) == (7, 1, 0x20, 1234)
    assert decode_values(span) == ([b"after"], 9)
    assert decode_values(span, from_offset=7) == ([b"after"], 9)
    assert span.producer_batches() == []


def test_a_builder_ends_with_build() -> None:
    builder = SpanBuilder(0, 1)
    with pytest.raises(ValueError, match="at least one batch"):
        builder.build()
    builder.add_start(0)
    builder.build()
    for use in (builder.build, lambda: builder.add_start(0), lambda: builder.size):
        with pytest.raises(ValueError, match="has built"):
            use()


@pytest.mark.parametrize(("base_offset", "generation"), [(-1, 1), (0, -1)])
def test_a_builder_refuses_a_place_that_no_log_has(base_offset: int, generation: int) -> None:
    with pytest.raises(ValueError, match="no span starts"):
        SpanBuilder(base_offset, generation)


def test_a_builder_refuses_to_run_out_of_offsets() -> None:
    builder = SpanBuilder(2**63 - 3, 1)
    records = batch(b"a", b"b")
    (info,) = check_client_batches(records, batch_bytes_max=4096)
    with pytest.raises(ValueError, match="no offsets"):
        builder.add(records, info)
    assert builder.add_start(0) == 2**63 - 2
    assert Span.parse(builder.build()).end_offset == 2**63 - 2


def test_parse_is_the_inverse_of_bytes() -> None:
    span = span_of([1, 4, 2])
    copy = Span.parse(bytes(span))
    assert bytes(copy) == bytes(span)
    assert repr(copy) == repr(span)


def test_parse_refuses_every_single_bit_flip_but_of_offset_and_generation() -> None:
    span = span_of([2])
    good = bytes(span)
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        stamped = bit < 64 or 96 <= bit < 128  # outside the CRC: density and the generation table catch these
        if stamped and bit not in (7, 103):  # the sign bits, which no log has set
            moved = Span.parse(bad)
            assert (moved.base_offset, moved.generation) != (span.base_offset, span.generation)
            continue
        with pytest.raises(CorruptBatch):
            Span.parse(bad)


def test_parse_refuses_a_flipped_offset_or_generation_inside_a_run() -> None:
    span = span_of([2, 2])
    good = bytes(span)
    second = iterate_batches(span)[1].position
    for bit in [*range(64), *range(96, 128)]:
        bad = bytearray(good)
        bad[second + bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptBatch) as caught:
            Span.parse(bad)
        assert caught.value.position == second


def test_parse_refuses_truncation_at_every_byte() -> None:
    span = span_of([2, 1])
    good = bytes(span)
    first = iterate_batches(span)[1].position
    for size in range(len(good)):
        if size == first:
            assert Span.parse(good[:size]).end_offset == 12
            continue
        with pytest.raises(CorruptBatch):
            Span.parse(good[:size])
    with pytest.raises(CorruptBatch):
        Span.parse(good + b"\0")


def test_slice_takes_whole_batches_between_boundaries() -> None:
    span = span_of([2, 1, 3, 1])  # [10,12) [12,13) [13,16) [16,17)
    sizes = [info.size for info in iterate_batches(span)]

    def offsets(start: int, end: int | None = None, bytes_max: int | None = None) -> list[int]:
        part = span.slice(start, end, bytes_max)
        assert part.readonly
        return [info.base_offset for info in iterate_batches(part)]

    assert offsets(10) == [10, 12, 13, 16]
    assert offsets(11) == [10, 12, 13, 16]  # inside a batch: the whole batch
    assert offsets(15) == [13, 16]
    assert offsets(17) == []
    assert offsets(10, 13) == [10, 12]
    assert offsets(10, 15) == [10, 12]  # an end inside a batch leaves it out
    assert offsets(14, 15) == []
    assert offsets(10, None, 0) == [10]  # at least one batch
    assert offsets(10, None, sizes[0] + sizes[1]) == [10, 12]
    assert offsets(10, None, sizes[0] + sizes[1] - 1) == [10]
    assert offsets(12, 16, 2**62) == [12, 13]
    assert offsets(10, 11, 0) == []
    for outside in (9, 18):
        with pytest.raises(ValueError, match="is not in"):
            span.slice(outside)


def test_boundary_says_where_slice_ends() -> None:
    span = span_of([2, 1, 3, 1, 5, 2])
    for start in range(span.base_offset, span.end_offset + 1):
        for end in range(span.base_offset - 1, span.end_offset + 2):
            for bytes_max in (0, 80, 150, 300, span.size, 2**62):
                infos = iterate_batches(span.slice(start, end, bytes_max))
                expected = infos[-1].last_offset + 1 if infos else start
                assert span.boundary(start, bytes_max, end) == expected


def test_span_from_is_the_suffix_at_a_boundary() -> None:
    span = span_of([2, 1, 3])
    suffix = span.span_from(12)
    assert bytes(suffix) == bytes(span.slice(12))
    assert (suffix.base_offset, suffix.end_offset, suffix.count, len(suffix)) == (
        12,
        16,
        2,
        len(bytes(suffix)),
    )
    last = suffix.span_from(13)
    assert bytes(last) == bytes(span.slice(13))
    assert last.boundary(14, 1, 16) == 16
    assert bytes(span.span_from(10)) == bytes(span)
    for inside in (11, 14, 16):
        with pytest.raises(ValueError, match="not the start"):
            span.span_from(inside)
    with pytest.raises(ValueError, match="is not in"):
        suffix.span_from(10)


def test_the_memory_lives_as_long_as_its_last_export() -> None:
    span = span_of([1] * 1000)
    expected = bytes(span)
    view = span.slice(500)
    suffix = span.span_from(900)
    del span
    gc.collect()
    spans = [span_of([1] * 1000, base_offset=5) for _ in range(20)]  # would reuse freed memory
    assert bytes(view) == expected[-len(view) :]
    assert bytes(suffix) == expected[-len(suffix) :]
    assert len(spans) == 20


@pytest.mark.parametrize("append_time_ms", [-1, 9])
def test_producer_batches_lists_the_idempotent_ones(append_time_ms: int) -> None:
    builder = SpanBuilder(100, 2, append_time_ms=append_time_ms)
    builder.add_start(5)
    for records in (
        batch(b"a", b"b", producer=(77, 1, 8)),
        batch(b"c"),
        batch(b"d", b"e", b"f", producer=(78, 0, 2**31 - 2)),
    ):
        (info,) = check_client_batches(records, batch_bytes_max=4096)
        builder.add(records, info)
    span = builder.build()
    first = (77, 1, 8, 9, 101, 102, append_time_ms)
    wrapped = (78, 0, 2**31 - 2, 0, 104, 106, append_time_ms)
    assert span.producer_batches() == [first, wrapped]
    assert span.span_from(103).producer_batches() == [wrapped]


def test_spans_and_infos_are_not_made_by_hand() -> None:
    for kind in (Span, type(iterate_batches(span_of([1]))[0])):
        with pytest.raises(TypeError, match="is made by"):
            kind()
    empty = Span.__new__(Span)
    assert (bytes(empty), empty.size, empty.count, empty.producer_batches()) == (b"", 0, 0, [])
    assert (bytes(empty.slice(0)), empty.boundary(0, 1, 1)) == (b"", 0)
    with pytest.raises(ValueError, match="lies outside"):
        SpanBuilder(0, 1).add(b"", BatchInfo.__new__(BatchInfo))
    with pytest.raises(TypeError, match="no default __reduce__"):
        copy.copy(span_of([1]))
