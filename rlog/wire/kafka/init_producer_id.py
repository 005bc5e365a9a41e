"""InitProducerId 0 and 1: an id of its own for an idempotent producer (KIP-98)."""

from rlog.wire.kafka._hot import Reader, Writer, request_writer, response_writer
from rlog.wire.kafka.apis import INIT_PRODUCER_ID
from rlog.wire.kafka.messages import Buffer, InitProducerIdRequest, InitProducerIdResponse


def decode_init_producer_id_request(reader: Reader) -> InitProducerIdRequest:
    request = InitProducerIdRequest(reader.nullable_string(), reader.int32())
    reader.end()
    return request


def encode_init_producer_id_response(correlation_id: int, response: InitProducerIdResponse) -> list[Buffer]:
    writer = response_writer(correlation_id)
    writer.int32(0)  # throttle_time_ms
    writer.int16(response.error)
    writer.int64(response.producer_id)
    writer.int16(response.producer_epoch)
    return writer.frame()


def encode_init_producer_id_request(
    correlation_id: int, client_id: str | None, *, version: int = 1
) -> list[Buffer]:
    """For an idempotent producer without transactions."""
    writer: Writer = request_writer(INIT_PRODUCER_ID, version, correlation_id, client_id)
    request = InitProducerIdRequest()
    writer.nullable_string(request.transactional_id)
    writer.int32(request.transaction_timeout_ms)
    return writer.frame()


def decode_init_producer_id_response(frame: Buffer) -> InitProducerIdResponse:
    reader = Reader(frame, 4)
    reader.int32()
    response = InitProducerIdResponse(reader.int16(), reader.int64(), reader.int16())
    reader.end()
    return response
