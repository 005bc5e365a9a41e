"""A record as a JSON object: what `consume --json` prints and `produce --json` reads.

    {"topic": "orders", "partition": 0, "offset": 7, "generation": 3, "timestamp_ms": 1760000000000,
     "key": "42", "value": "paid", "headers": [{"name": "trace", "value": "a1"}]}

A key or value that is not UTF-8 is in `key_base64` or `value_base64` instead (RFC 4648); null is null. To
produce, only the value must be there; topic, offset and generation are ignored, they are the log's to give.
An unknown field is refused: a misspelt `value` would be lost data.
"""

import base64
import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rlog.errors import ConfigurationError
from rlog.moments import timestamp_of
from rlog.records import Record

FIELDS = ("topic", "partition", "offset", "generation", "timestamp_ms", "timestamp",
          "key", "key_base64", "value", "value_base64", "headers")  # fmt: skip
HEADER_FIELDS = ("name", "value", "value_base64")
INT64_MAX = 2**63 - 1


class BadRecord(Exception):
    """A line that is no record; the message says why and the mend."""


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to produce; partition and timestamp_ms are None where the line does not say."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


def encode(record: Record) -> dict[str, Any]:
    """The JSON object of a consumed record."""
    fields: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "generation": record.generation,
        "timestamp_ms": record.timestamp_ms,
        **encode_bytes("key", record.key),
        **encode_bytes("value", record.value),
    }
    if record.headers:
        fields["headers"] = encode_headers(record.headers)
    return fields


def encode_headers(headers: Iterable[tuple[str, bytes | None]]) -> list[dict[str, Any]]:
    return [{"name": name, **encode_bytes("value", value)} for name, value in headers]


def encode_bytes(name: str, value: bytes | None) -> dict[str, str | None]:
    """`{name: text}`, or `{name_base64: ...}` where the bytes are not UTF-8."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def decode(line: bytes) -> NewRecord:
    """The record that a line of JSON says. Raises BadRecord."""
    try:
        fields = json.loads(line)
    except ValueError as error:  # also of bytes that are no UTF-8
        raise BadRecord(f"not a line of JSON ({error})") from error
    except RecursionError as error:
        raise BadRecord("not a line of JSON that rlog reads: it nests too deeply") from error
    if not isinstance(fields, dict):
        raise BadRecord('not a JSON object: write {"key": ..., "value": ...}')
    _check_names(fields, FIELDS)
    if "value" not in fields and "value_base64" not in fields:
        raise BadRecord('there is no "value"; a record without one has "value": null')
    return NewRecord(
        value=_bytes(fields, "value"),
        key=_bytes(fields, "key"),
        headers=_headers(fields.get("headers") or []),
        partition=_integer(fields, "partition", 0, 2**31 - 1),
        timestamp_ms=_timestamp(fields),
    )


def _check_names(fields: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise BadRecord(f"unknown field {name!r}: {mend}")


def _bytes(fields: dict[str, Any], name: str) -> bytes | None:
    text, encoded = fields.get(name), fields.get(f"{name}_base64")
    if text is not None and encoded is not None:
        raise BadRecord(f"both {name!r} and '{name}_base64' are there: leave one of them")
    if isinstance(encoded, str):
        try:
            return base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise BadRecord(f"'{name}_base64' is not base64 ({error})") from error
    if isinstance(text, str):
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise BadRecord(f"{name!r} holds half a surrogate pair: bytes go into '{name}_base64'") from error
    if text is not None or encoded is not None:
        raise BadRecord(f"{name!r} is a string, or null; bytes go into '{name}_base64'")
    return None


def _headers(fields: Any) -> tuple[tuple[str, bytes | None], ...]:
    if isinstance(fields, dict):  # the short form, where no name comes twice
        fields = [{"name": name, "value": value} for name, value in fields.items()]
    if not isinstance(fields, list) or not all(isinstance(each, dict) for each in fields):
        raise BadRecord('"headers" is a list of {"name": ..., "value": ...}, or one object {name: value}')
    headers = []
    for each in fields:
        _check_names(each, HEADER_FIELDS)
        name = each.get("name")
        if not isinstance(name, str) or _bytes(each, "name") is None:
            raise BadRecord('a header needs a "name", a string')
        headers.append((name, _bytes(each, "value")))
    return tuple(headers)


def _integer(fields: dict[str, Any], name: str, least: int, most: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadRecord(f"{name!r} is {value!r}, not an integer from {least} to {most}")
    return value


def _timestamp(fields: dict[str, Any]) -> int | None:
    """timestamp_ms (-1: none), or timestamp: milliseconds, or ISO 8601 with a time zone."""
    moment = fields.get("timestamp")
    if moment is None or fields.get("timestamp_ms") is not None:
        return _integer(fields, "timestamp_ms", -1, INT64_MAX)
    if not isinstance(moment, str):
        return _integer(fields, "timestamp", -1, INT64_MAX)
    try:
        return timestamp_of(datetime.fromisoformat(moment))
    except (ValueError, ConfigurationError) as error:
        raise BadRecord(f"'timestamp' is {moment!r}: {error}") from error
