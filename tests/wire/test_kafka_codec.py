"""Every message in every version, against two other codecs, byte for byte and back."""

from collections.abc import Callable
from typing import Any

import pytest

from rlog.errors import ProtocolError
from rlog.wire import kafka
from rlog.wire.kafka import codes
from rlog.wire.kafka.apis import ADVERTISED
from rlog.wire.kafka.messages import (
    ApiVersionsRequest,
    ApiVersionsResponse,
    Broker,
    DeletedPartition,
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    FetchedPartition,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    InitProducerIdRequest,
    InitProducerIdResponse,
    ListedPartition,
    ListOffsetsPartition,
    ListOffsetsRequest,
    MetadataRequest,
    MetadataResponse,
    PartitionMetadata,
    PartitionReceipt,
    ProducedPartition,
    TopicMetadata,
)
from tests.wire.oracles import CLIENT_ID, CORRELATION_ID, ORACLES

Oracle = Callable[[str, int, int, dict[str, Any]], bytes]

SMALL = bytes(range(100))
LARGE = bytes(range(256)) * 64  # above the size from which sections are not copied
RECORDS = [("first", [(0, SMALL), (7, LARGE)]), ("zweite-\N{SNOWMAN}", [(2**31 - 1, b""), (1, LARGE[1:])])]


@pytest.fixture(params=list(ORACLES))
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return ORACLES[request.param]


def opened(frame: bytes, api_key: int, version: int) -> kafka.Reader:
    """A Reader behind the request header, which is checked on the way."""
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    reader = kafka.Reader(frame[4:])
    assert kafka.read_request_header(reader) == (api_key, version, CORRELATION_ID, CLIENT_ID)
    return reader


@pytest.mark.parametrize("version", range(3, 8))
def test_produce_request(oracle: Oracle, version: int) -> None:
    plain = {
        "transactional_id": None,
        "acks": -1,
        "timeout_ms": 30_000,
        "topic_data": [
            {
                "name": name,
                "partition_data": [{"index": index, "records": records} for index, records in partitions],
            }
            for name, partitions in RECORDS
        ],
    }
    expected = oracle("Request", 0, version, plain)
    ours = kafka.encode_produce_request(CORRELATION_ID, CLIENT_ID, -1, 30_000, RECORDS, version=version)
    assert b"".join(ours) == expected
    assert any(buffer is LARGE for buffer in ours), "a large section was copied"
    request = kafka.decode_produce_request(opened(expected, 0, version), version)
    assert request[:3] == (None, -1, 30_000)
    assert request.topics == RECORDS


@pytest.mark.parametrize("version", range(8))
def test_produce_response(oracle: Oracle, version: int) -> None:
    partitions = [ProducedPartition(3, 0, 2**40, -1, 17), ProducedPartition(4, 6)]
    plain = {
        "responses": [
            {
                "name": "t",
                "partition_responses": [
                    {
                        "index": p.partition,
                        "error_code": p.error,
                        "base_offset": p.base_offset,
                        "log_append_time_ms": p.log_append_time_ms,
                        "log_start_offset": p.log_start_offset,
                    }
                    for p in partitions
                ],
            }
        ],
        "throttle_time_ms": 0,
    }
    ours = b"".join(kafka.encode_produce_response(CORRELATION_ID, version, [("t", partitions)]))
    if version >= 3:  # the oracles have no older ones
        assert ours == oracle("Response", 0, version, plain)
    [(name, decoded)] = kafka.decode_produce_response(ours[4:], version)
    expected = partitions if version >= 5 else [p._replace(log_start_offset=-1) for p in partitions]
    assert (name, decoded) == ("t", expected)


@pytest.mark.parametrize("version", range(4, 12))
def test_fetch_request(oracle: Oracle, version: int) -> None:
    request = FetchRequest(
        max_wait_ms=500,
        bytes_min=1,
        bytes_max=50_000_000,
        topics=[("t", [FetchPartition(0, 2**40, 1_000_000, 5), FetchPartition(1, 0, 7, -1)]), ("u", [])],
        isolation_level=1,
    )
    plain = {
        "replica_id": -1,
        "max_wait_ms": 500,
        "min_bytes": 1,
        "max_bytes": 50_000_000,
        "isolation_level": 1,
        "session_id": 0,
        "session_epoch": -1,
        "topics": [
            {
                "topic": name,
                "partitions": [
                    {
                        "partition": p.partition,
                        "current_leader_epoch": p.generation,
                        "fetch_offset": p.fetch_offset,
                        "log_start_offset": -1,
                        "partition_max_bytes": p.bytes_max,
                    }
                    for p in partitions
                ],
            }
            for name, partitions in request.topics
        ],
        "forgotten_topics_data": [],
        "rack_id": "",
    }
    expected = oracle("Request", 1, version, plain)
    assert (
        b"".join(kafka.encode_fetch_request(CORRELATION_ID, CLIENT_ID, request, version=version)) == expected
    )
    if version < 9:
        request = request._replace(
            topics=[(n, [p._replace(generation=-1) for p in ps]) for n, ps in request.topics]
        )
    assert kafka.decode_fetch_request(opened(expected, 1, version), version) == request
    if version >= 7:  # sessions: read, so that they can be refused or ignored
        plain |= {"session_id": 9, "session_epoch": 3}
        plain["forgotten_topics_data"] = [{"topic": "gone", "partitions": [1, 2]}]
        plain["rack_id"] = "r1"
        frame = oracle("Request", 1, version, plain)
        decoded = kafka.decode_fetch_request(opened(frame, 1, version), version)
        assert decoded == request._replace(session_id=9, session_epoch=3)


@pytest.mark.parametrize("isolation_level", [0, 1])
@pytest.mark.parametrize("version", range(4, 12))
def test_fetch_response(oracle: Oracle, version: int, isolation_level: int) -> None:
    partitions = [
        FetchedPartition(0, 0, 2**33, 5, (SMALL, LARGE), 2**33),
        FetchedPartition(1, codes.OFFSET_OUT_OF_RANGE, 3, 0, (), 3),
    ]
    plain = {
        "throttle_time_ms": 0,
        "error_code": 0,
        "session_id": 0,
        "responses": [
            {
                "topic": "t",
                "partitions": [
                    {
                        "partition_index": p.partition,
                        "error_code": p.error,
                        "high_watermark": p.hwm,
                        "last_stable_offset": p.last_stable_offset,
                        "log_start_offset": p.log_start_offset,
                        "aborted_transactions": [] if isolation_level else None,
                        "preferred_read_replica": -1,
                        "records": b"".join(p.records),
                    }
                    for p in partitions
                ],
            }
        ],
    }
    expected = oracle("Response", 1, version, plain)
    response = FetchResponse(0, 0, [("t", partitions)])
    ours = kafka.encode_fetch_response(CORRELATION_ID, version, response, isolation_level)
    assert b"".join(ours) == expected
    assert any(buffer is LARGE for buffer in ours), "a large section was copied"
    [(name, decoded)] = kafka.decode_fetch_response(expected[4:], version).topics
    assert name == "t"
    assert decoded[0].records[0] == SMALL + LARGE
    assert [p._replace(records=()) for p in decoded] == [
        p._replace(records=(), log_start_offset=p.log_start_offset if version >= 5 else -1)
        for p in partitions
    ]
    assert decoded[1].records == ()


def test_fetch_response_with_aborted_transactions_is_read(oracle: Oracle) -> None:
    partition = {
        "partition_index": 3,
        "error_code": 0,
        "high_watermark": 9,
        "last_stable_offset": 8,
        "log_start_offset": 1,
        "aborted_transactions": [{"producer_id": 1, "first_offset": 2}] * 3,
        "preferred_read_replica": 2,
        "records": None,
    }
    plain = {
        "throttle_time_ms": 0,
        "error_code": 0,
        "session_id": 4,
        "responses": [{"topic": "t", "partitions": [partition]}],
    }
    decoded = kafka.decode_fetch_response(oracle("Response", 1, 11, plain)[4:])
    assert decoded == (0, 4, [("t", [FetchedPartition(3, 0, 9, 1, (), 8)])])


@pytest.mark.parametrize("topics", [None, [], ["a", "b-\N{SNOWMAN}"]])
@pytest.mark.parametrize("version", range(9))
def test_metadata_request(oracle: Oracle, version: int, topics: list[str] | None) -> None:
    plain = {
        "topics": None if topics is None else [{"name": name} for name in topics],
        "allow_auto_topic_creation": False,
        "include_cluster_authorized_operations": False,
        "include_topic_authorized_operations": False,
    }
    if version == 0 and topics is None:
        plain["topics"] = []
    expected = oracle("Request", 3, version, plain)
    ours = kafka.encode_metadata_request(CORRELATION_ID, CLIENT_ID, topics, version=version)
    assert b"".join(ours) == expected
    decoded = kafka.decode_metadata_request(opened(expected, 3, version), version)
    wanted = None if version == 0 and not topics else topics
    assert decoded == MetadataRequest(wanted, allow_topic_creation=version < 4)


@pytest.mark.parametrize("version", range(9))
def test_metadata_response(oracle: Oracle, version: int) -> None:
    partitions = [
        PartitionMetadata(0, 0, 2, 7, [1, 2, 3], [2, 3], [1]),
        PartitionMetadata(codes.LEADER_NOT_AVAILABLE, 1, -1, 8, [1, 2, 3], [], []),
    ]
    response = MetadataResponse(
        [Broker(1, "127.0.0.1", 9092), Broker(2, "h\N{SNOWMAN}", 65535)],
        "cluster",
        2,
        [TopicMetadata(0, "t", partitions), TopicMetadata(3, "none", [], True)],
    )
    plain = {
        "throttle_time_ms": 0,
        "brokers": [
            {"node_id": b.node_id, "host": b.host, "port": b.port, "rack": None} for b in response.brokers
        ],
        "cluster_id": "cluster",
        "controller_id": 2,
        "topics": [
            {
                "error_code": t.error,
                "name": t.name,
                "is_internal": t.internal,
                "partitions": [
                    {
                        "error_code": p.error,
                        "partition_index": p.partition,
                        "leader_id": p.leader,
                        "leader_epoch": p.generation,
                        "replica_nodes": p.replicas,
                        "isr_nodes": p.in_sync,
                        "offline_replicas": p.offline,
                    }
                    for p in t.partitions
                ],
                "topic_authorized_operations": -(2**31),
            }
            for t in response.topics
        ],
        "cluster_authorized_operations": -(2**31),
    }
    expected = oracle("Response", 3, version, plain)
    assert b"".join(kafka.encode_metadata_response(CORRELATION_ID, version, response)) == expected
    decoded = kafka.decode_metadata_response(expected[4:], version)
    assert decoded.brokers == response.brokers
    assert decoded.cluster_id == ("cluster" if version >= 2 else None)
    assert decoded.controller_id == (2 if version >= 1 else -1)
    assert [t[:2] for t in decoded.topics] == [t[:2] for t in response.topics]
    assert [t.internal for t in decoded.topics] == [False, version >= 1]
    assert decoded.topics[0].partitions == [
        p._replace(generation=p.generation if version >= 7 else -1, offline=p.offline if version >= 5 else ())
        for p in partitions
    ]


@pytest.mark.parametrize("version", range(4))
def test_api_versions_request(oracle: Oracle, version: int) -> None:
    plain = {"client_software_name": "rlog", "client_software_version": "0.1.0"}
    expected = oracle("Request", 18, version, plain)
    ours = kafka.encode_api_versions_request(
        CORRELATION_ID, CLIENT_ID, software_version="0.1.0", version=version
    )
    assert b"".join(ours) == expected
    decoded = kafka.decode_api_versions_request(opened(expected, 18, version), version)
    assert decoded == (ApiVersionsRequest("rlog", "0.1.0") if version >= 3 else ApiVersionsRequest())


@pytest.mark.parametrize("version", range(4))
def test_api_versions_response(oracle: Oracle, version: int) -> None:
    plain = {
        "error_code": 0,
        "api_keys": [
            {"api_key": a.api_key, "min_version": a.version_min, "max_version": a.version_max}
            for a in ADVERTISED
        ],
        "throttle_time_ms": 0,
    }
    expected = oracle("Response", 18, version, plain)
    assert b"".join(kafka.encode_api_versions_response(CORRELATION_ID, version, ADVERTISED)) == expected
    assert kafka.decode_api_versions_response(expected[4:], version) == ApiVersionsResponse(
        0, list(ADVERTISED)
    )


def test_api_versions_of_an_unknown_version_is_answered_in_version_0(oracle: Oracle) -> None:
    error = codes.UNSUPPORTED_VERSION
    keys = [{"api_key": 18, "min_version": 0, "max_version": 3}]
    expected = oracle("Response", 18, 0, {"error_code": error, "api_keys": keys})
    own = [api for api in ADVERTISED if api.api_key == 18]
    assert b"".join(kafka.encode_api_versions_response(CORRELATION_ID, 0, own, error=error)) == expected
    assert kafka.decode_api_versions_response(expected[4:], 3) == ApiVersionsResponse(error, own)


@pytest.mark.parametrize("version", range(1, 5))
def test_list_offsets(oracle: Oracle, version: int) -> None:
    asked = [ListOffsetsPartition(0, kafka.EARLIEST, 4), ListOffsetsPartition(1, kafka.LATEST)]
    plain = {
        "replica_id": -1,
        "isolation_level": 1,
        "topics": [
            {
                "name": "t",
                "partitions": [
                    {
                        "partition_index": p.partition,
                        "current_leader_epoch": p.generation,
                        "timestamp": p.timestamp_ms,
                    }
                    for p in asked
                ],
            }
        ],
    }
    expected = oracle("Request", 2, version, plain)
    request = ListOffsetsRequest([("t", asked)], isolation_level=1)
    ours = kafka.encode_list_offsets_request(CORRELATION_ID, CLIENT_ID, request, version=version)
    assert b"".join(ours) == expected
    decoded = kafka.decode_list_offsets_request(opened(expected, 2, version), version)
    assert decoded.isolation_level == (1 if version >= 2 else 0)
    assert decoded.topics == [("t", asked if version >= 4 else [p._replace(generation=-1) for p in asked])]


@pytest.mark.parametrize("version", range(1, 5))
def test_list_offsets_response(oracle: Oracle, version: int) -> None:
    listed = [ListedPartition(0, 0, -1, 2**40, 3), ListedPartition(1, codes.NOT_LEADER_OR_FOLLOWER)]
    plain = {
        "throttle_time_ms": 0,
        "topics": [
            {
                "name": "t",
                "partitions": [
                    {
                        "partition_index": p.partition,
                        "error_code": p.error,
                        "timestamp": p.timestamp_ms,
                        "offset": p.offset,
                        "leader_epoch": p.generation,
                    }
                    for p in listed
                ],
            }
        ],
    }
    expected = oracle("Response", 2, version, plain)
    assert b"".join(kafka.encode_list_offsets_response(CORRELATION_ID, version, [("t", listed)])) == expected
    wanted = listed if version >= 4 else [p._replace(generation=-1) for p in listed]
    assert kafka.decode_list_offsets_response(expected[4:], version) == [("t", wanted)]


@pytest.mark.parametrize("version", [0, 1])
def test_delete_records(oracle: Oracle, version: int) -> None:
    asked = [DeleteRecordsPartition(0, 2**40), DeleteRecordsPartition(1, kafka.HIGH_WATER_MARK)]
    partitions = [{"partition_index": each.partition, "offset": each.offset} for each in asked]
    plain = {"topics": [{"name": "t", "partitions": partitions}], "timeout_ms": 7}
    expected = oracle("Request", 21, version, plain)
    request = DeleteRecordsRequest([("t", asked)], 7)
    ours = kafka.encode_delete_records_request(CORRELATION_ID, CLIENT_ID, request, version=version)
    assert b"".join(ours) == expected
    assert kafka.decode_delete_records_request(opened(expected, 21, version)) == request


@pytest.mark.parametrize("version", [0, 1])
def test_delete_records_response(oracle: Oracle, version: int) -> None:
    deleted = [DeletedPartition(0, 0, 2**40), DeletedPartition(1, codes.OFFSET_OUT_OF_RANGE)]
    partitions = [
        {"partition_index": each.partition, "low_watermark": each.log_start_offset, "error_code": each.error}
        for each in deleted
    ]
    plain = {"throttle_time_ms": 0, "topics": [{"name": "t", "partitions": partitions}]}
    expected = oracle("Response", 21, version, plain)
    assert b"".join(kafka.encode_delete_records_response(CORRELATION_ID, [("t", deleted)])) == expected
    assert kafka.decode_delete_records_response(expected[4:]) == [("t", deleted)]


@pytest.mark.parametrize("version", [0, 1])
def test_init_producer_id(oracle: Oracle, version: int) -> None:
    plain = {"transactional_id": None, "transaction_timeout_ms": 2**31 - 1}
    expected = oracle("Request", 22, version, plain)
    assert (
        b"".join(kafka.encode_init_producer_id_request(CORRELATION_ID, CLIENT_ID, version=version))
        == expected
    )
    assert kafka.decode_init_producer_id_request(opened(expected, 22, version)) == InitProducerIdRequest()
    frame = oracle("Request", 22, version, plain | {"transactional_id": "x"})
    decoded = kafka.decode_init_producer_id_request(opened(frame, 22, version))
    assert decoded.transactional_id == "x"
    response = InitProducerIdResponse(0, 2**62 + 1, 0)
    expected = oracle(
        "Response",
        22,
        version,
        {"throttle_time_ms": 0, "error_code": 0, "producer_id": 2**62 + 1, "producer_epoch": 0},
    )
    assert b"".join(kafka.encode_init_producer_id_response(CORRELATION_ID, response)) == expected
    assert kafka.decode_init_producer_id_response(expected[4:]) == response


def test_describe_node() -> None:
    request = b"".join(kafka.encode_describe_node_request(CORRELATION_ID, CLIENT_ID))
    kafka.decode_describe_node_request(opened(request, 32001, 0))
    answer = b"".join(kafka.encode_describe_node_response(CORRELATION_ID, {"node_id": 1, "partitions": []}))
    assert kafka.decode_describe_node_response(answer[4:]) == {"node_id": 1, "partitions": []}
    for bad in ("-1", "not json", "[1]", "\N{SNOWMAN}"[0:1]):
        body = bad.encode()
        with pytest.raises(ProtocolError):
            kafka.decode_describe_node_response(bytes(4) + len(body).to_bytes(4, "big") + body)


def test_rlog_produce() -> None:
    """The request is Produce 7 under another key; the answer is laid out as the bytes here say."""
    ours = b"".join(kafka.encode_rlog_produce_request(CORRELATION_ID, CLIENT_ID, 1, 9, RECORDS))
    twin = b"".join(kafka.encode_produce_request(CORRELATION_ID, CLIENT_ID, 1, 9, RECORDS, version=7))
    assert ours[:4] + bytes(4) + ours[8:] == twin[:4] + bytes(4) + twin[8:]
    request = kafka.decode_rlog_produce_request(opened(ours, 32002, 0))
    assert request == (None, 1, 9, RECORDS)
    receipts = [
        PartitionReceipt(3, 0, 2**40, 7, 2**41, 17, "leader", (2, 1)),
        PartitionReceipt(4, 10, message="too large"),
    ]
    answer = b"".join(kafka.encode_rlog_produce_response(CORRELATION_ID, [("t", receipts)]))[4:]
    first = "00000003 0000 0000010000000000 00000007 0000020000000000 0000000000000011 01"
    first += "00000002 00000002 00000001 ffff"
    second = "00000004 000a ffffffffffffffff ffffffff ffffffffffffffff ffffffffffffffff ff 00000000"
    expected = bytes.fromhex("00000001 0001 74 00000002" + first + second + "0009") + b"too large"
    assert answer == CORRELATION_ID.to_bytes(4, "big") + expected
    assert kafka.decode_rlog_produce_response(answer) == [("t", receipts)]
    with pytest.raises(ProtocolError, match="waited is 2"):
        kafka.decode_rlog_produce_response(answer.replace(b"\x11\x01", b"\x11\x02"))


# Values that Java's own test of the hash expects.
JAVA_HASHES = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def test_murmur2_is_javas() -> None:
    from kafka.partitioner.default import murmur2 as other

    for key, hashed in JAVA_HASHES.items():
        assert kafka.murmur2(key) == hashed
        assert kafka.partition_of(key, 12) == (hashed & 0x7FFFFFFF) % 12
    for length in range(40):
        key = bytes(range(250 - length, 250))
        assert kafka.murmur2(key) & 0xFFFFFFFF == other(key) & 0xFFFFFFFF
    with pytest.raises(ValueError, match="at least 1"):
        kafka.partition_of(b"k", 0)
