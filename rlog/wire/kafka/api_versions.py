"""ApiVersions 0 to 3: which requests, in which versions (KIP-35, KIP-511).

Two rules of its own. The answer's header is always version 0. A version that the node does not know is
answered with error 35 in the encoding of version 0, so that a newer client can learn and fall back.
"""

from collections.abc import Sequence

from rlog.wire.kafka import codes
from rlog.wire.kafka._hot import Reader, Writer, request_writer, response_writer
from rlog.wire.kafka.apis import API_VERSIONS
from rlog.wire.kafka.messages import ApiVersion, ApiVersionsRequest, ApiVersionsResponse, Buffer

FLEXIBLE_FROM = 3


def decode_api_versions_request(reader: Reader, version: int) -> ApiVersionsRequest:
    """Raises ProtocolError when the bytes are not such a request."""
    request = ApiVersionsRequest()
    if version >= FLEXIBLE_FROM:
        request = ApiVersionsRequest(reader.compact_string(), reader.compact_string())
        reader.skip_tagged_fields()
    reader.end()
    return request


def encode_api_versions_response(
    correlation_id: int, version: int, versions: Sequence[ApiVersion], *, error: int = codes.NONE
) -> list[Buffer]:
    """`version` 0 together with `error` UNSUPPORTED_VERSION answers a version that is not known."""
    writer = response_writer(correlation_id)
    writer.int16(error)
    if version >= FLEXIBLE_FROM:
        writer.unsigned_varint(len(versions) + 1)
    else:
        writer.int32(len(versions))
    for api in versions:
        writer.int16(api.api_key)
        writer.int16(api.version_min)
        writer.int16(api.version_max)
        if version >= FLEXIBLE_FROM:
            writer.unsigned_varint(0)
    if version >= 1:
        writer.int32(0)  # throttle_time_ms
    if version >= FLEXIBLE_FROM:
        writer.unsigned_varint(0)
    return writer.frame()


def encode_api_versions_request(
    correlation_id: int, client_id: str | None, *, software_version: str = "", version: int = 2
) -> list[Buffer]:
    """From version 3 on the client says what it is: rlog, and its `software_version`."""
    writer: Writer = request_writer(API_VERSIONS, version, correlation_id, client_id)
    if version >= FLEXIBLE_FROM:
        writer.unsigned_varint(0)
        writer.compact_string("rlog")
        writer.compact_string(software_version)
        writer.unsigned_varint(0)
    return writer.frame()


def decode_api_versions_response(frame: Buffer, version: int = 2) -> ApiVersionsResponse:
    """Raises ProtocolError. An answer with error 35 is always in version 0, whatever was asked."""
    reader = Reader(frame, 4)
    error = reader.int16()
    if error == codes.UNSUPPORTED_VERSION:
        version = 0
    flexible = version >= FLEXIBLE_FROM
    count = reader.compact_array_length(7) if flexible else reader.array_length(6)
    versions = []
    for _ in range(count):
        versions.append(ApiVersion(reader.int16(), reader.int16(), reader.int16()))
        if flexible:
            reader.skip_tagged_fields()
    if version >= 1:
        reader.int32()
    if flexible:
        reader.skip_tagged_fields()
    reader.end()
    return ApiVersionsResponse(error, versions)
