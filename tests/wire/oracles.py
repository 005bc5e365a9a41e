"""Two independent codecs of the Kafka protocol as oracles: kafka-python's and kio's, made from the schemas.

A message is given as a dict with the schema's field names (snake case, as kafka-python has them); each oracle
takes from it the fields of the version asked for and gives a whole frame.
"""

import dataclasses
import datetime
import io
import typing
from typing import Any

import kafka.protocol.admin as kp_admin
import kafka.protocol.consumer as kp_consumer
import kafka.protocol.metadata as kp_metadata
import kafka.protocol.producer as kp_producer
from kio.index import load_request_schema, load_response_schema
from kio.schema.errors import ErrorCode
from kio.schema.request_header.v1.header import RequestHeader as HeaderV1
from kio.schema.request_header.v2.header import RequestHeader as HeaderV2
from kio.serial import entity_writer

CORRELATION_ID = 1_234_567
CLIENT_ID = "probe-\N{GREEK SMALL LETTER ALPHA}"

NAMES = {
    0: (kp_producer, "Produce"),
    1: (kp_consumer, "Fetch"),
    2: (kp_consumer, "ListOffsets"),
    3: (kp_metadata, "Metadata"),
    10: (kp_metadata, "FindCoordinator"),
    11: (kp_consumer, "JoinGroup"),
    18: (kp_metadata, "ApiVersions"),
    21: (kp_admin, "DeleteRecords"),
    22: (kp_producer, "InitProducerId"),
}


def kafka_python(kind: str, api_key: int, version: int, plain: dict[str, Any]) -> bytes:
    module, name = NAMES[api_key]
    schema = getattr(module, name + kind)
    message = schema(version=version, **_kafka_python_fields(schema, plain, version))
    if kind == "Request":
        message.with_header(correlation_id=CORRELATION_ID, client_id=CLIENT_ID)
    else:
        message.with_header(correlation_id=CORRELATION_ID)
    return bytes(message.encode(header=True, framed=True))


def _kafka_python_fields(schema: Any, plain: dict[str, Any], version: int) -> dict[str, Any]:
    values = {}
    for name, value in plain.items():
        field = schema.fields.get(name)
        if field is None or not field.for_version_q(version):
            continue
        if field.is_struct_array() and value is not None:
            inner = field.data_class
            value = [inner(version=version, **_kafka_python_fields(inner, item, version)) for item in value]
        values[name] = value
    return values


def kio(kind: str, api_key: int, version: int, plain: dict[str, Any]) -> bytes:
    load = load_request_schema if kind == "Request" else load_response_schema
    schema = load(api_key, version)
    out = io.BytesIO()
    if kind == "Response":
        out.write(CORRELATION_ID.to_bytes(4, "big"))
    else:
        header_class = HeaderV2 if schema.__flexible__ else HeaderV1
        header = header_class(
            request_api_key=api_key,
            request_api_version=version,
            correlation_id=CORRELATION_ID,
            client_id=CLIENT_ID,
        )
        entity_writer(header_class)(out, header)
    entity_writer(schema)(out, _kio_entity(schema, plain))
    body = out.getvalue()
    return len(body).to_bytes(4, "big") + body


def _kio_entity(schema: Any, plain: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(schema)
    values = {}
    for field in dataclasses.fields(schema):
        if field.name in plain:
            values[field.name] = _kio_value(hints[field.name], plain[field.name])
        elif plain.get(field.name + "_ms", -1) != -1:
            values[field.name] = datetime.timedelta(milliseconds=plain[field.name + "_ms"])
    return schema(**values)


def _kio_value(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if hint is ErrorCode:
        return ErrorCode(value)
    if isinstance(value, list):
        options = [hint, *typing.get_args(hint)]  # tuple[X, ...], or that or None
        element = next(typing.get_args(option)[0] for option in options if typing.get_origin(option) is tuple)
        return tuple(
            _kio_entity(element, item) if dataclasses.is_dataclass(element) else item for item in value
        )
    return value


ORACLES = {"kafka-python": kafka_python, "kio": kio}
