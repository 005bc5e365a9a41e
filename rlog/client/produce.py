"""How a batch travels: as RlogProduce, whose answer is a whole receipt, where the node speaks it; or Produce.

Produce tells neither who flushed nor what was waited for: then `waited` is what was asked for. Requests with
acks=0 get no answer and go as Produce.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from rlog.client.connection import Connection, Encode
from rlog.client.router import expect_one
from rlog.records import Waited
from rlog.wire.kafka import apis
from rlog.wire.kafka._hot import (
    decode_produce_response,
    decode_rlog_produce_response,
    encode_produce_request,
    encode_rlog_produce_request,
)
from rlog.wire.kafka.messages import Buffer, PartitionReceipt

# By acks as on the wire.
WAITED: Final[dict[int, Waited]] = {-1: "majority", 1: "leader", 0: "none"}


class ProduceCall(NamedTuple):
    """encode(correlation): the frame. decode(frame): the answer; raises ProtocolError."""

    encode: Encode
    decode: Callable[[Buffer], PartitionReceipt]


def produce_call(
    connection: Connection,
    client_id: str,
    topic: str,
    partition: int,
    data: Buffer,
    *,
    acks: int,
    timeout_ms: int,
) -> ProduceCall:
    """The request that takes one batch to one partition. Raises UnsupportedNode."""
    topics = [(topic, [(partition, data)])]
    what = f"producing to {topic}-{partition}"
    if acks != 0 and apis.RLOG_PRODUCE in connection.versions:
        return ProduceCall(
            lambda correlation: encode_rlog_produce_request(correlation, client_id, acks, timeout_ms, topics),
            lambda frame: expect_one(decode_rlog_produce_response(frame), what),
        )
    version = connection.version(apis.PRODUCE)

    def decode(frame: Buffer) -> PartitionReceipt:
        answer = expect_one(decode_produce_response(frame, version), what)
        return PartitionReceipt(
            answer.partition,
            answer.error,
            answer.base_offset,
            log_append_time_ms=answer.log_append_time_ms,
            log_start_offset=answer.log_start_offset,
            waited=WAITED[acks],
        )

    return ProduceCall(
        lambda correlation: encode_produce_request(
            correlation, client_id, acks, timeout_ms, topics, version=version
        ),
        decode,
    )
