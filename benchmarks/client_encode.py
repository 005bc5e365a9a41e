"""How fast one producer encodes and sends on one core, when the broker costs nothing.

The broker is in this process: a transport that reads no record and answers each Produce request in the next
turn of the loop. So the numbers are the client's own: batches, checksums, requests, answers, acks.

    python -m benchmarks.client_encode [--seconds 3] [--record-bytes 100]
"""

import argparse
import asyncio
import json
from collections.abc import Callable
from time import perf_counter
from typing import Any

import uvloop

import rlog
from rlog.client.connection import Connection
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka._hot import Reader, encode_produce_response, read_request_header
from rlog.wire.kafka.api_versions import encode_api_versions_response
from rlog.wire.kafka.init_producer_id import encode_init_producer_id_response
from rlog.wire.kafka.messages import (
    Broker,
    InitProducerIdResponse,
    MetadataResponse,
    PartitionMetadata,
    ProducedPartition,
    TopicMetadata,
)
from rlog.wire.kafka.metadata import encode_metadata_response

LIST_LENGTH = 10_000
OFFSET = 0  # of every answer: nobody reads the log


class NullTransport(asyncio.Transport):
    """A node that takes everything at once."""

    def __init__(self, protocol: asyncio.BufferedProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self.sent_bytes = 0

    def writelines(self, list_of_data: Any) -> None:
        frame = list(list_of_data)
        self.sent_bytes += sum(map(len, frame))
        header = read_request_header(Reader(bytes(frame[0][4:64])))
        answer = ANSWERS[header.api_key](header.correlation_id, header.api_version)
        self._loop.call_soon(self._deliver, b"".join(answer))

    def _deliver(self, data: bytes) -> None:
        while data:
            buffer = self._protocol.get_buffer(len(data))
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            self._protocol.buffer_updated(count)
            data = data[count:]

    def abort(self) -> None:
        self._loop.call_soon(self._protocol.connection_lost, None)


def metadata(correlation: int, version: int) -> Any:
    partition = PartitionMetadata(codes.NONE, 0, 1, 1, [1], [1])
    topics = [TopicMetadata(codes.NONE, "bench", [partition])]
    answer = MetadataResponse([Broker(1, "null", 1)], "bench", 1, topics)
    return encode_metadata_response(correlation, version, answer)


ANSWERS: dict[int, Callable[[int, int], Any]] = {
    apis.API_VERSIONS: lambda correlation, version: encode_api_versions_response(
        correlation, version, apis.ADVERTISED
    ),
    apis.METADATA: metadata,
    apis.INIT_PRODUCER_ID: lambda correlation, _: encode_init_producer_id_response(
        correlation, InitProducerIdResponse(codes.NONE, 1, 0)
    ),
    apis.PRODUCE: lambda correlation, version: encode_produce_response(
        correlation, version, [("bench", [ProducedPartition(0, codes.NONE, OFFSET)])]
    ),
}


async def create_null_connection(factory: Callable[[], Connection], *_: Any) -> tuple[Any, Connection]:
    protocol = factory()
    transport = NullTransport(protocol)
    protocol.connection_made(transport)
    return transport, protocol


async def send_lists(producer: rlog.Producer, value: bytes, seconds: float) -> float:
    values = [value] * LIST_LENGTH
    count, began = 0, perf_counter()
    while perf_counter() - began < seconds:
        await producer.send_many(values)
        count += LIST_LENGTH
    await producer.flush()
    return count / (perf_counter() - began)


async def send_one_by_one(producer: rlog.Producer, value: bytes, seconds: float) -> float:
    count, began = 0, perf_counter()
    while perf_counter() - began < seconds:
        for _ in range(1000):
            await producer.send(value)
        count += 1000
    await producer.flush()
    return count / (perf_counter() - began)


async def measure(seconds: float, record_bytes: int) -> dict[str, float]:
    """Records per second of both ways to send."""
    loop = asyncio.get_running_loop()
    loop.create_connection = create_null_connection
    value = bytes(record_bytes)
    async with rlog.connect("null:1") as cluster, cluster.producer("bench") as producer:
        return {
            "send_many": await send_lists(producer, value, seconds),
            "send": await send_one_by_one(producer, value, seconds),
        }


class NullLoop(uvloop.Loop):
    """uvloop whose `create_connection` may be replaced."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--record-bytes", type=int, default=100)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=NullLoop) as runner:
        rates = runner.run(measure(options.seconds, options.record_bytes))
    print(json.dumps({"record_bytes": options.record_bytes, "records_per_second": rates}, indent=2))


if __name__ == "__main__":
    main()
