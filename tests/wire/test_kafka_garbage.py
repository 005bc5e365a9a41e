"""Bytes that nobody should send: decoders refuse them with ProtocolError, and read nothing beyond them."""

import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlog.errors import ProtocolError
from rlog.wire import kafka
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka.messages import (
    Broker,
    DeletedPartition,
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    FetchedPartition,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    InitProducerIdResponse,
    ListedPartition,
    ListOffsetsPartition,
    ListOffsetsRequest,
    MetadataResponse,
    PartitionMetadata,
    PartitionReceipt,
    ProducedPartition,
    TopicMetadata,
)
from tests.wire.fakes import Door, FakeNode, run

Decode = Callable[[bytes], Any]

FETCH = FetchRequest(1, 1, 1, [("topic", [FetchPartition(0, 9, 9, 9), FetchPartition(1, 9, 9)])])
LIST = ListOffsetsRequest([("topic", [ListOffsetsPartition(0, -1), ListOffsetsPartition(1, -2)])])
DELETE = DeleteRecordsRequest([("topic", [DeleteRecordsPartition(0, 9), DeleteRecordsPartition(1, -1)])], 9)
METADATA = MetadataResponse(
    [Broker(1, "host", 9)],
    "cluster",
    1,
    [TopicMetadata(0, "topic", [PartitionMetadata(0, 0, 1, 1, [1, 2], [1], [2])])],
)
PRODUCED = [("topic", [ProducedPartition(0, 0, 5), ProducedPartition(1, 6)])]
FETCHED = FetchResponse(0, 0, [("topic", [FetchedPartition(0, 0, 5, 0, [b"records"], 5)])])


def request_case(decode: Callable[[kafka.Reader], Any], buffers: list) -> tuple[Decode, bytes]:
    def whole(frame: bytes) -> Any:
        reader = kafka.Reader(frame)
        kafka.read_request_header(reader)
        return decode(reader)

    return whole, b"".join(buffers)[4:]


def cases() -> dict[str, tuple[Decode, bytes]]:
    """A decoder and a good frame for it, for every message in its oldest and newest version."""
    found: dict[str, tuple[Decode, bytes]] = {}
    for v in (0, 3, 7):
        good = kafka.encode_produce_request(1, "me", -1, 9, [("topic", [(0, b"abc"), (1, b"")])], version=v)
        found[f"produce {v}"] = request_case(lambda r, v=v: kafka.decode_produce_request(r, v), good)
        answer = b"".join(kafka.encode_produce_response(1, v, PRODUCED))[4:]
        found[f"produced {v}"] = (lambda f, v=v: kafka.decode_produce_response(f, v), answer)
    good = kafka.encode_rlog_produce_request(1, "me", -1, 9, [("topic", [(0, b"abc"), (1, b"")])])
    found["rlog produce"] = request_case(kafka.decode_rlog_produce_request, good)
    receipts = [("topic", [PartitionReceipt(0, 0, 5, 1, 7, 0, "majority", (1, 2)), PartitionReceipt(1, 6)])]
    answer = b"".join(kafka.encode_rlog_produce_response(1, receipts))[4:]
    found["rlog produced"] = (kafka.decode_rlog_produce_response, answer)
    for v in (4, 7, 11):
        good = kafka.encode_fetch_request(1, "me", FETCH, version=v)
        found[f"fetch {v}"] = request_case(lambda r, v=v: kafka.decode_fetch_request(r, v), good)
        answer = b"".join(kafka.encode_fetch_response(1, v, FETCHED))[4:]
        found[f"fetched {v}"] = (lambda f, v=v: kafka.decode_fetch_response(f, v), answer)
    for v in (1, 4):
        good = kafka.encode_list_offsets_request(1, "me", LIST, version=v)
        found[f"list {v}"] = request_case(lambda r, v=v: kafka.decode_list_offsets_request(r, v), good)
        listed = [("topic", [ListedPartition(0, 0, -1, 5, 1)])]
        answer = b"".join(kafka.encode_list_offsets_response(1, v, listed))[4:]
        found[f"listed {v}"] = (lambda f, v=v: kafka.decode_list_offsets_response(f, v), answer)
    good = kafka.encode_delete_records_request(1, "me", DELETE)
    found["delete"] = request_case(kafka.decode_delete_records_request, good)
    deleted = [("topic", [DeletedPartition(0, 0, 5), DeletedPartition(1, 6)])]
    answer = b"".join(kafka.encode_delete_records_response(1, deleted))[4:]
    found["deleted"] = (kafka.decode_delete_records_response, answer)
    for v in (0, 8):
        good = kafka.encode_metadata_request(1, "me", ["one", "two"], version=v)
        found[f"metadata {v}"] = request_case(lambda r, v=v: kafka.decode_metadata_request(r, v), good)
        answer = b"".join(kafka.encode_metadata_response(1, v, METADATA))[4:]
        found[f"metadata answer {v}"] = (lambda f, v=v: kafka.decode_metadata_response(f, v), answer)
    for v in (0, 3):
        good = kafka.encode_api_versions_request(1, "me", software_version="1", version=v)
        found[f"versions {v}"] = request_case(lambda r, v=v: kafka.decode_api_versions_request(r, v), good)
        answer = b"".join(kafka.encode_api_versions_response(1, v, apis.ADVERTISED))[4:]
        found[f"versions answer {v}"] = (lambda f, v=v: kafka.decode_api_versions_response(f, v), answer)
    good = kafka.encode_init_producer_id_request(1, "me")
    found["producer id"] = request_case(kafka.decode_init_producer_id_request, good)
    answer = b"".join(kafka.encode_init_producer_id_response(1, InitProducerIdResponse(0, 5, 0)))[4:]
    found["producer id answer"] = (kafka.decode_init_producer_id_response, answer)
    good = kafka.encode_describe_node_request(1, "me")
    found["describe"] = request_case(kafka.decode_describe_node_request, good)
    answer = b"".join(kafka.encode_describe_node_response(1, {"a": 1}))[4:]
    found["describe answer"] = (kafka.decode_describe_node_response, answer)
    return found


CASES = cases()


@pytest.mark.parametrize("name", list(CASES))
def test_every_shorter_and_every_longer_message_is_refused(name: str) -> None:
    decode, good = CASES[name]
    decode(good)
    for length in range(len(good)):
        with pytest.raises(ProtocolError):
            decode(good[:length])
    with pytest.raises(ProtocolError, match="left after the message"):
        decode(good + b"\0")


@pytest.mark.parametrize("name", list(CASES))
def test_changed_bytes_are_decoded_or_refused_and_nothing_else(name: str) -> None:
    decode, good = CASES[name]
    pieces = random.Random(name)
    refused = 0
    for _ in range(2000):
        changed = bytearray(good)
        for _ in range(pieces.randint(1, 4)):
            changed[pieces.randrange(len(good))] = pieces.choice(
                [0, 1, 0x7F, 0x80, 0xFF, pieces.randrange(256)]
            )
        try:
            decode(bytes(changed))
        except ProtocolError:
            refused += 1
    assert refused > 0 or name == "producer id answer"  # which has no length


@given(st.sampled_from(sorted(CASES)), st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_decoded_or_refused(name: str, data: bytes) -> None:
    decode, _ = CASES[name]
    with contextlib.suppress(ProtocolError):
        decoded = decode(data)
        assert decoded is not data, "nothing else is raised"


def test_a_length_that_promises_too_much_takes_no_memory() -> None:
    header = kafka.encode_metadata_request(1, "c", [])[0][4:-7]
    for count in (2**31 - 1, 1_000_000, 100):
        reader = kafka.Reader(header + count.to_bytes(4, "big") + bytes(100))
        kafka.read_request_header(reader)
        with pytest.raises(ProtocolError, match="array of"):
            kafka.decode_metadata_request(reader, 8)


def test_varints_of_more_than_32_bits_are_refused() -> None:
    assert kafka.Reader(b"\xff\xff\xff\xff\x0f").unsigned_varint() == 2**32 - 1
    for data in (b"\xff\xff\xff\xff\x10", b"\x80" * 6, b"\x80\x80"):
        with pytest.raises(ProtocolError):
            kafka.Reader(data).unsigned_varint()


@pytest.mark.parametrize("seed", range(4))
def test_the_door_survives_anything(seed: int) -> None:
    """Each changed request is answered or closes its own connection; the node goes on."""
    pieces = random.Random(seed)
    good = [frame for name, (_, frame) in sorted(CASES.items()) if "answer" not in name and "ed " not in name]

    async def main() -> None:
        async with Door(FakeNode(topics={"topic": 2})) as door:
            for _ in range(150):
                client = await door.client()
                for _ in range(3):
                    frame = bytearray(pieces.choice(good))
                    for _ in range(pieces.randint(0, 3)):
                        frame[pieces.randrange(len(frame))] = pieces.randrange(256)
                    client.send([len(frame).to_bytes(4, "big"), bytes(frame)])
                client.send([b"\xff\xff\xff\xff"])
                await client.closed()
                client.close()
            witness = await door.client()
            answer = await witness.ask(kafka.encode_metadata_request(1, "c", None))
            assert kafka.decode_metadata_response(answer).topics[0].error == codes.NONE

    run(main())
