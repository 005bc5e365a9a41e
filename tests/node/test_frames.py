"""Frames between nodes: what is written is read, and any other byte closes the connection (SAFETY 48)."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlog._core import BatchBuilder, SpanBuilder, check_client_batches
from rlog.errors import ProtocolError
from rlog.raft.messages import Append, AppendReply, Heartbeat, HeartbeatReply, VoteReply, VoteRequest
from rlog.wire.frames import (
    HEADER_BYTES,
    JSON_BYTES_MAX,
    FrameKind,
    FrameReader,
    FrameWriter,
    checked_span,
    cluster_hash,
    decode_json,
    decode_messages,
    encode_message,
)

OURS = cluster_hash("ours")
TARGET = bytes(range(16))
CAP = 1024 * 1024

generations = st.integers(0, 2**31 - 1)
offsets = st.integers(0, 2**62)
flags = st.booleans()
replies = {"accepted": flags, "match_offset": offsets, "flushed_offset": offsets}
conflicts = {"conflict_offset": offsets, "conflict_generation": generations}
probes = {"prev_offset": offsets, "prev_generation": generations, "hwm": offsets}
votes = {"last_generation": generations, "log_end": offsets, "pre": flags}
small_messages = st.one_of(
    st.builds(VoteRequest, generation=generations, **votes),
    st.builds(VoteReply, generation=generations, granted=flags, pre=flags, suspect=flags),
    st.builds(AppendReply, generation=generations, **replies, **conflicts),
    st.builds(Heartbeat, generation=generations, round=offsets, **probes),
    st.builds(HeartbeatReply, generation=generations, round=offsets, **replies, **conflicts),
)


@st.composite
def appends(draw):
    prev, records = draw(offsets), draw(st.integers(0, 1000))
    payload = draw(st.binary(min_size=1, max_size=200)) if records else b""
    fields = {
        "generation": generations,
        "prev_generation": generations,
        "span_generation": generations,
        "hwm": offsets,
    }
    built = st.builds(Append, prev_offset=st.just(prev), end_offset=st.just(prev + records), **fields)
    return draw(built), payload


entries = st.tuples(st.integers(0, 2**32 - 1), st.one_of(appends(), st.tuples(small_messages, st.just(b""))))


def writer() -> FrameWriter:
    return FrameWriter(cluster=OURS, sender=3, incarnation=7, target=TARGET)


def reader(cap: int = CAP) -> FrameReader:
    return FrameReader(cluster=OURS, frame_bytes_max=cap)


def frame_of(batch) -> bytes:
    head = b"".join(
        encode_message(partition, message, len(payload)) for partition, (message, payload) in batch
    )
    payloads = [memoryview(payload) for _, (_, payload) in batch]
    return b"".join(writer().frame(FrameKind.MESSAGES, head, payloads, sum(map(len, payloads))))


def feed(target: FrameReader, data: bytes, chunks: list[int]):
    """Everything the reader makes of `data` when it arrives in pieces (the last size repeats)."""
    at = 0
    sizes = list(chunks)
    while at < len(data):
        space = target.get_buffer()
        assert len(space) > 0
        size = min(len(space), sizes[0] if len(sizes) == 1 else sizes.pop(0), len(data) - at)
        space[:size] = data[at : at + size]
        at += size
        for frame in target.received(size):
            yield frame, decode_messages(bytes(frame.head), bytes(frame.payload))


@given(
    frames=st.lists(st.lists(entries, max_size=6), max_size=5),
    chunks=st.lists(st.integers(1, 300), min_size=1),
)
def test_what_is_written_is_read_however_the_stream_is_cut(frames, chunks):
    got = list(feed(reader(), b"".join(map(frame_of, frames)), chunks))
    assert len(got) == len(frames)
    for (frame, envelopes), sent in zip(got, frames, strict=True):
        assert (frame.kind, frame.sender, frame.incarnation, frame.target) == (
            FrameKind.MESSAGES,
            3,
            7,
            TARGET,
        )
        assert [(e.partition, (e.message, bytes(e.payload or b""))) for e in envelopes] == sent


def test_a_frame_larger_than_the_buffer_arrives_whole():
    payload = Random(1).randbytes(900_000)
    append = Append(1, 0, 0, 9, 1, 0)
    data = frame_of([(0, (append, payload))]) + frame_of([(1, (VoteReply(1, True), b""))])
    got = list(feed(reader(), data, [70_001]))
    assert [envelopes[0].message for _, envelopes in got] == [append, VoteReply(1, True)]
    assert got[0][1][0].payload == payload


def test_the_buffer_never_grows_above_the_cap():
    small = reader(cap=200_000)
    sizes = []
    for _ in feed(small, frame_of([(0, (Append(1, 0, 0, 9, 1, 0), bytes(199_000)))]) * 20, [50_000]):
        sizes.append(len(small.get_buffer()))
    assert len(sizes) == 20
    assert max(sizes) <= 200_000


def test_a_frame_above_the_cap_is_refused_before_its_body_is_read():
    data = frame_of([(0, (Append(1, 0, 0, 9, 1, 0), bytes(5000)))])
    with pytest.raises(ProtocolError, match="above the cap"):
        list(feed(reader(cap=4096), data[:HEADER_BYTES], [HEADER_BYTES]))


def test_a_hello_may_be_no_longer_than_it_takes_to_parse_in_a_moment():
    hello = writer().json(FrameKind.HELLO, "x" * JSON_BYTES_MAX)
    with pytest.raises(ProtocolError, match="above the cap of 1048576"):
        list(feed(reader(), hello[:HEADER_BYTES], [HEADER_BYTES]))


@settings(max_examples=300)
@given(batch=st.lists(entries, min_size=1, max_size=3), data=st.data())
def test_any_flipped_bit_outside_the_payload_is_noticed(batch, data):
    """A flip either raises or (in a length) leaves the frame incomplete; it never yields another message."""
    good = frame_of(batch)
    checked = len(good) - sum(len(payload) for _, (_, payload) in batch)
    bit = data.draw(st.integers(0, checked * 8 - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    try:
        got = list(feed(reader(), bytes(bad), [len(bad)]))
    except ProtocolError:
        return
    assert got == []
    assert 44 <= bit // 8 < 48, "only a length may leave the reader waiting"


@given(st.binary(max_size=2000))
def test_random_bytes_are_refused_or_incomplete(data):
    try:
        got = list(feed(reader(), data, [100]))
    except ProtocolError:
        return
    assert got == []


@given(head=st.binary(max_size=300), payload=st.binary(max_size=30))
def test_random_heads_raise_nothing_but_protocol_errors(head, payload):
    try:
        envelopes = decode_messages(head, payload)
    except ProtocolError:
        return
    again = b"".join(encode_message(e.partition, e.message, len(e.payload or b"")) for e in envelopes)
    assert len(again) == len(head)
    assert b"".join(bytes(e.payload or b"") for e in envelopes) == payload


@pytest.mark.parametrize(
    ("append", "payload", "complaint"),
    [
        (Append(1, 5, 1, 5, 0, 0), b"x", "0 records in 1 bytes"),
        (Append(1, 5, 1, 9, 1, 0), b"", "4 records in 0 bytes"),
        (Append(1, 5, 1, 4, 1, 0), b"x", "records 5 to 4"),
        (Append(1, -1, 1, 4, 1, 0), b"x", "records -1 to 4"),
    ],
)
def test_an_append_that_contradicts_its_payload_is_refused(append, payload, complaint):
    with pytest.raises(ProtocolError, match=complaint):
        decode_messages(encode_message(0, append, len(payload)), payload)


def test_payload_that_belongs_to_no_append_is_refused():
    with pytest.raises(ProtocolError, match="belong to no append"):
        decode_messages(encode_message(0, VoteReply(1, True)), b"stray")


def test_a_frame_of_another_cluster_is_refused():
    stranger = FrameWriter(cluster=cluster_hash("theirs"), sender=3, incarnation=7, target=TARGET)
    data = b"".join(stranger.frame(FrameKind.MESSAGES, encode_message(0, VoteReply(1, True))))
    with pytest.raises(ProtocolError, match="another cluster"):
        list(feed(reader(), data, [len(data)]))


@given(st.binary(max_size=200))
def test_json_frames_that_are_no_objects_are_refused(body):
    (data,) = writer().frame(FrameKind.HELLO, body)
    target = reader()
    target.get_buffer()[: len(data)] = data
    (frame,) = target.received(len(data))
    try:
        decoded = decode_json(frame)
    except ProtocolError:
        return
    assert isinstance(decoded, dict)


def span_bytes(base_offset: int, generation: int, values: list[list[bytes]]) -> bytes:
    builder = SpanBuilder(base_offset, generation)
    for batch_values in values:
        batch = BatchBuilder(batch_bytes_max=CAP)
        assert batch.append_values(batch_values, 0, 1) == len(batch_values)
        encoded = batch.build()
        builder.add(encoded, check_client_batches(encoded, batch_bytes_max=CAP)[0])
    return bytes(builder.build())


def test_the_batches_of_an_append_are_what_it_announces():
    payload = span_bytes(40, 3, [[b"a", b"b"], [b"c"]])
    span = checked_span(Append(5, 40, 2, 43, 3, 40), payload)
    assert (span.base_offset, span.end_offset, span.generation, bytes(span)) == (40, 43, 3, payload)


@pytest.mark.parametrize(
    "append",
    [
        Append(5, 39, 2, 43, 3, 40),
        Append(5, 40, 2, 44, 3, 40),
        Append(5, 40, 2, 43, 4, 40),
    ],
)
def test_batches_other_than_announced_are_refused(append):
    with pytest.raises(ProtocolError, match="append announces"):
        checked_span(append, span_bytes(40, 3, [[b"a", b"b"], [b"c"]]))


def test_every_flipped_bit_of_a_payload_is_noticed():
    """The frame has no checksum over its payload: the batches and their announcement leave no bit free."""
    append = Append(5, 40, 2, 43, 3, 40)
    good = span_bytes(40, 3, [[b"first", b"b"], [b"third"]])
    missed = []
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            checked_span(append, bad)
        except ProtocolError:
            continue
        missed.append(bit)
    assert missed == []
