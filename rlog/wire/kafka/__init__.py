"""The Kafka protocol, both sides, in the versions that rlog speaks (published schemas of Apache Kafka).

`encode_*` gives a whole frame, size prefix included, as a list of buffers for `transport.writelines`.
`decode_*_request` reads from a Reader that stands behind the header; `decode_*_response` takes a frame as
FrameReceiver cuts it: without the size prefix, starting with the correlation id. Everything that comes from
the other side is checked, and what is wrong raises `rlog.errors.ProtocolError`.
"""

from rlog.wire.kafka._hot import (
    FrameReceiver,
    Reader,
    Writer,
    correlation_id,
    decode_fetch_request,
    decode_fetch_response,
    decode_produce_request,
    decode_produce_response,
    decode_rlog_produce_request,
    decode_rlog_produce_response,
    encode_fetch_request,
    encode_fetch_response,
    encode_produce_request,
    encode_produce_response,
    encode_rlog_produce_request,
    encode_rlog_produce_response,
    murmur2,
    partition_of,
    read_request_header,
)
from rlog.wire.kafka.api_versions import (
    decode_api_versions_request,
    decode_api_versions_response,
    encode_api_versions_request,
    encode_api_versions_response,
)
from rlog.wire.kafka.delete_records import (
    HIGH_WATER_MARK,
    decode_delete_records_request,
    decode_delete_records_response,
    encode_delete_records_request,
    encode_delete_records_response,
)
from rlog.wire.kafka.describe_node import (
    decode_describe_node_request,
    decode_describe_node_response,
    encode_describe_node_request,
    encode_describe_node_response,
)
from rlog.wire.kafka.groups import (
    decode_find_coordinator_request,
    decode_join_group_request,
    encode_find_coordinator_response,
    encode_join_group_refusal,
)
from rlog.wire.kafka.init_producer_id import (
    decode_init_producer_id_request,
    decode_init_producer_id_response,
    encode_init_producer_id_request,
    encode_init_producer_id_response,
)
from rlog.wire.kafka.list_offsets import (
    EARLIEST,
    LATEST,
    decode_list_offsets_request,
    decode_list_offsets_response,
    encode_list_offsets_request,
    encode_list_offsets_response,
)
from rlog.wire.kafka.metadata import (
    decode_metadata_request,
    decode_metadata_response,
    encode_metadata_request,
    encode_metadata_response,
)

__all__ = [
    "EARLIEST",
    "HIGH_WATER_MARK",
    "LATEST",
    "FrameReceiver",
    "Reader",
    "Writer",
    "correlation_id",
    "decode_api_versions_request",
    "decode_api_versions_response",
    "decode_delete_records_request",
    "decode_delete_records_response",
    "decode_describe_node_request",
    "decode_describe_node_response",
    "decode_fetch_request",
    "decode_fetch_response",
    "decode_find_coordinator_request",
    "decode_init_producer_id_request",
    "decode_init_producer_id_response",
    "decode_join_group_request",
    "decode_list_offsets_request",
    "decode_list_offsets_response",
    "decode_metadata_request",
    "decode_metadata_response",
    "decode_produce_request",
    "decode_produce_response",
    "decode_rlog_produce_request",
    "decode_rlog_produce_response",
    "encode_api_versions_request",
    "encode_api_versions_response",
    "encode_delete_records_request",
    "encode_delete_records_response",
    "encode_describe_node_request",
    "encode_describe_node_response",
    "encode_fetch_request",
    "encode_fetch_response",
    "encode_find_coordinator_response",
    "encode_init_producer_id_request",
    "encode_init_producer_id_response",
    "encode_join_group_refusal",
    "encode_list_offsets_request",
    "encode_list_offsets_response",
    "encode_metadata_request",
    "encode_metadata_response",
    "encode_produce_request",
    "encode_produce_response",
    "encode_rlog_produce_request",
    "encode_rlog_produce_response",
    "murmur2",
    "partition_of",
    "read_request_header",
]
