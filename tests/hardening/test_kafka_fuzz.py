"""The client port of real nodes under mutated requests of every kind and version it advertises, in pipelines.

Each is answered with an error, or ends its connection with a reason in the log. Batches get a new checksum
after they were changed, so that what is wrong with them is found by the checks behind it.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random

import pytest

from rlog.log import format as batches
from rlog.records import Record
from rlog.wire import kafka
from rlog.wire.kafka import apis
from rlog.wire.kafka.messages import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    FetchPartition,
    FetchRequest,
    ListOffsetsPartition,
    ListOffsetsRequest,
)
from tests.hardening import fuzz
from tests.hardening.siege import MIB, Siege, connect

VICTIM = "victim"
CONNECTIONS_MAX = 32
LINES_MAX = 200


@pytest.fixture
def siege(tmp_path) -> Iterator[Siege]:
    # Small, so that much of what is fetched comes from disk.
    settings = {"tail_bytes_max": 64 * 1024, "segment_bytes_max": MIB, "clients_inflight_bytes_max": 32 * MIB}
    with Siege(tmp_path, topics={VICTIM: 2}, settings=settings) as siege:
        yield siege


def batch(random: Random) -> bytes:
    """Good, or changed in its header or its records, with a checksum that fits."""
    records = [
        Record(
            "", 0, n, 0, 1_700_000_000_000 + random.randrange(9), b"k", random.randbytes(random.randrange(99))
        )
        for n in range(random.choice((1, 3, 50)))
    ]
    good = batches.encode_batch(records)
    if random.random() < 0.3:
        return good
    changed = good[:8] + fuzz.mutated(random, good[8:])
    if len(changed) > batches.HEADER_SIZE:
        attributes = random.choice((0, 0, *range(8), 0x08, 0x10, 0x20, 0x30, 0xFFFF))
        changed = changed[:21] + struct.pack(">H", attributes) + changed[23:]
        length = random.choice((len(changed) - 12,) * 9 + fuzz.INT32)
        changed = changed[:8] + struct.pack(">i", length) + changed[12:]
        changed = changed[:17] + struct.pack(">I", batches.crc32c(changed[21:])) + changed[21:]
    return changed


def good_request(random: Random) -> bytes:
    """A whole frame of an advertised API and version."""
    api = random.choice(apis.ADVERTISED)
    version = random.randint(api.version_min, api.version_max)
    partition = random.choice((0, 0, 1, 2, -1))
    offset = random.choice((0, 0, 1, 50, *fuzz.INT64))
    topic = random.choice((VICTIM, VICTIM, VICTIM, "nowhere", ""))
    number, client = random.randrange(2**31), random.choice((None, "", "stranger"))
    produced = [(topic, [(partition, batch(random)) for _ in range(random.choice((1, 1, 2)))])]
    acks = random.choice((-1, -1, 1, 0))
    match api.api_key:
        case apis.PRODUCE:
            buffers = kafka.encode_produce_request(number, client, acks, 2000, produced, version=version)
        case apis.RLOG_PRODUCE:
            buffers = kafka.encode_rlog_produce_request(number, client, acks, 2000, produced)
        case apis.FETCH:
            parts = [FetchPartition(partition, offset, random.choice((1, MIB, *fuzz.INT32)))]
            fetch = FetchRequest(
                random.choice((0, 0, 50)), 1, random.choice((1, MIB, 2**31 - 1)), [(topic, parts)]
            )
            buffers = kafka.encode_fetch_request(number, client, fetch, version=version)
        case apis.LIST_OFFSETS:
            times = random.choice((-1, -2, -3, 0, 1_700_000_000_004, 2**62))
            listed = ListOffsetsRequest([(topic, [ListOffsetsPartition(partition, times)])])
            buffers = kafka.encode_list_offsets_request(number, client, listed, version=max(1, version))
        case apis.METADATA:
            buffers = kafka.encode_metadata_request(number, client, [topic], version=version)
        case apis.DELETE_RECORDS:
            deleted = DeleteRecordsRequest([(topic, [DeleteRecordsPartition(partition, offset)])], 500)
            buffers = kafka.encode_delete_records_request(number, client, deleted, version=version)
        case apis.API_VERSIONS:
            buffers = kafka.encode_api_versions_request(number, client, software_version="1", version=version)
        case apis.INIT_PRODUCER_ID:
            buffers = kafka.encode_init_producer_id_request(number, client, version=version)
        case apis.DESCRIBE_NODE:
            buffers = kafka.encode_describe_node_request(number, client)
        case _:
            # Groups are refused, whatever is asked of them.
            body = struct.pack(">h", len(topic)) + topic.encode() + random.randbytes(random.randrange(30))
            head = struct.pack(">hhih", api.api_key, version, number, -1)
            return framed(head + body)
    return b"".join(map(bytes, buffers))


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def request(random: Random) -> bytes:
    """Good as it is; changed in its body, its size made to fit; or cut, or of another size than it says."""
    good = good_request(random)
    match random.randrange(6):
        case 0 | 1:
            return good
        case 2 | 3 | 4:
            return framed(good[4:12] + fuzz.mutated(random, good[12:]))
        case _:
            return fuzz.mutated(random, good)


def talk(stack: ExitStack, siege: Siege, random: Random) -> socket.socket:
    """A pipeline of requests on a connection of its own; what is answered at once is read, or nothing is."""
    node = (
        random.choice(list(siege.cluster.nodes.values()))
        if random.random() < 0.2
        else siege.leader_of(VICTIM)
    )
    connection = stack.enter_context(connect(node))
    connection.settimeout(0.02)
    try:
        connection.sendall(b"".join(request(random) for _ in range(random.randint(1, 20))))
        while random.random() < 0.9 and connection.recv(1 << 16):
            pass
    except OSError:
        return connection  # closed on us, or nothing is to come: both are well
    return connection


def test_requests_that_no_client_sends_harm_nobody(siege: Siege) -> None:
    fuzzed = 0
    with siege.assault(), ExitStack() as stack:
        held: list[socket.socket] = []
        for random in fuzz.rounds():
            held.append(talk(stack, siege, random))
            fuzzed += 1
            while len(held) > random.randrange(1, CONNECTIONS_MAX):
                held.pop(random.randrange(len(held))).close()
    assert fuzzed > 20
    siege.check_log_lines(lines_max=LINES_MAX)
    answered = kafka.encode_describe_node_request(1, "witness")
    for node in siege.cluster.nodes.values():
        with connect(node) as connection:
            connection.sendall(b"".join(answered))
            assert connection.recv(4, socket.MSG_WAITALL)
