"""Three codecs of the Kafka protocol side by side: rlog's own, kafka-python's, kio's.

Prints microseconds a call (best of seven), for Metadata version 8, and the milliseconds that importing each
costs a fresh interpreter. Evidence of docs/decisions/kafka-codec-by-hand.md.
"""

import datetime
import io
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import kio.schema.metadata.v8.request as kio_request
import kio.schema.metadata.v8.response as kio_response
from kafka.protocol.metadata import MetadataRequest, MetadataResponse
from kio.schema.errors import ErrorCode
from kio.serial import entity_reader, entity_writer

from rlog.wire import kafka
from rlog.wire.kafka import messages

IMPORTS = {
    "rlog": "import rlog.wire.kafka",
    "kafka-python": "import kafka.protocol.metadata",
    "kio": "import kio.schema.metadata.v8.response, kio.serial",
}
NODES = (1, 2, 3)


def microseconds(call: Callable[[], Any], count: int = 300) -> float:
    best = float("inf")
    for _ in range(7):
        start = perf_counter()
        for _ in range(count):
            call()
        best = min(best, (perf_counter() - start) / count)
    return best * 1e6


def import_ms(statement: str) -> float:
    program = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", program]
    runs = [subprocess.run(command, capture_output=True, check=True) for _ in range(5)]
    return min(float(run.stdout) for run in runs) * 1e3


def rlog_answer(partitions: int) -> bytes:
    parts = [messages.PartitionMetadata(0, i, 1, 3, NODES, NODES) for i in range(partitions)]
    brokers = [messages.Broker(node, "127.0.0.1", 9092) for node in NODES]
    topics = [messages.TopicMetadata(0, "t", parts)]
    response = messages.MetadataResponse(brokers, "c", 1, topics)
    return b"".join(kafka.encode_metadata_response(1, 8, response))[8:]


def kafka_python_answer(partitions: int) -> bytes:
    topic = MetadataResponse.MetadataResponseTopic
    parts = [
        topic.MetadataResponsePartition(
            error_code=0,
            partition_index=i,
            leader_id=1,
            leader_epoch=3,
            replica_nodes=NODES,
            isr_nodes=NODES,
            offline_replicas=(),
        )
        for i in range(partitions)
    ]
    broker = MetadataResponse.MetadataResponseBroker
    response = MetadataResponse(
        version=8,
        brokers=[broker(node_id=node, host="127.0.0.1", port=9092, rack=None) for node in NODES],
        cluster_id="c",
        controller_id=1,
        topics=[topic(error_code=0, name="t", is_internal=False, partitions=parts)],
    )
    return bytes(response.encode())


write_kio = entity_writer(kio_response.MetadataResponse)


def kio_answer(partitions: int) -> bytes:
    parts = tuple(
        kio_response.MetadataResponsePartition(
            error_code=ErrorCode.none,
            partition_index=i,
            leader_id=1,
            leader_epoch=3,
            replica_nodes=NODES,
            isr_nodes=NODES,
            offline_replicas=(),
        )
        for i in range(partitions)
    )
    topic = kio_response.MetadataResponseTopic(
        error_code=ErrorCode.none, name="t", is_internal=False, partitions=parts
    )
    broker = kio_response.MetadataResponseBroker
    response = kio_response.MetadataResponse(
        throttle_time=datetime.timedelta(0),
        brokers=tuple(broker(node_id=node, host="127.0.0.1", port=9092, rack=None) for node in NODES),
        cluster_id="c",
        controller_id=1,
        topics=(topic,),
    )
    out = io.BytesIO()
    write_kio(out, response)
    return out.getvalue()


def main() -> None:
    body = rlog_answer(100)
    assert body == kafka_python_answer(100) == kio_answer(100)
    asked = b"".join(kafka.encode_metadata_request(1, "c", ["t"]))[4:]
    asked_body = asked[11:]
    read_response = entity_reader(kio_response.MetadataResponse)
    read_request = entity_reader(kio_request.MetadataRequest)

    def parse() -> messages.MetadataRequest:
        reader = kafka.Reader(asked)
        kafka.read_request_header(reader)
        return kafka.decode_metadata_request(reader, 8)

    rows = {
        "rlog": (rlog_answer, parse, lambda: kafka.decode_metadata_response(bytes(4) + body)),
        "kafka-python": (
            kafka_python_answer,
            lambda: MetadataRequest.decode(asked_body, version=8),
            lambda: MetadataResponse.decode(body, version=8),
        ),
        "kio": (kio_answer, lambda: read_request(asked_body, 0), lambda: read_response(body, 0)),
    }
    print("codec         answer(100)  answer(1200)  parse request  parse answer(100)  import ms")
    for name, (answer, parse_request, parse_answer) in rows.items():
        numbers = (
            microseconds(lambda answer=answer: answer(100)),
            microseconds(lambda answer=answer: answer(1200), 20),
            microseconds(parse_request),
            microseconds(parse_answer),
            import_ms(IMPORTS[name]),
        )
        print("{:12}  {:11.1f}  {:12.0f}  {:13.2f}  {:17.1f}  {:9.0f}".format(name, *numbers))


if __name__ == "__main__":
    main()
