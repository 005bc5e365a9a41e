"""What a node says: each log line is one event, a name and fields, as text for people or JSON for machines.

    2026-01-31 09:15:02,113 INFO rlog.node: leader_changed partition=orders-0 node=1 generation=5 …
    {"ts": "2026-01-31T09:15:02.113Z", "level": "info", "logger": "rlog.node", "event": "leader_changed", …}

Events are rare by design: nothing is said per request. What another process can provoke at will (a peer that
flaps, a client that sends garbage) carries its `peer` or `address`, and is let through only so often for each
of them; the next line that comes says how many were left out.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Literal

LogFormat = Literal["text", "json"]

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# A text value of these characters needs no quotes. What comes from the network may hold anything: control
# characters leave only as escapes, so no sender can forge a line.
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")
# The keys that every JSON line has; no field may take one of them.
RESERVED = frozenset({"ts", "level", "logger", "event", "message", "exception"})


class Event:
    """The message of a log record. fields: what str() or JSON can show; names say their unit."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: Mapping[str, object]) -> None:
        assert not RESERVED & fields.keys(), f"{name} has fields that every line has"
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={_text(value)}" for key, value in self.fields.items())])


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def emit(
    logger: logging.Logger, level: int, name: str, /, *, exc_info: bool = False, **fields: object
) -> None:
    """Log the event `name` with the fields that are not None.

    exc_info: with the traceback of the exception being handled.
    """
    if logger.isEnabledFor(level):
        known = {key: value for key, value in fields.items() if value is not None}
        logger.log(level, Event(name, known), exc_info=exc_info)


def address_text(address: object) -> str:
    """ "192.0.2.1:9092" or "[2001:db8::1]:9092" of a transport's peername; "?" when it has none."""
    if not isinstance(address, tuple) or len(address) < 2:
        return "?"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


class JsonFormatter(logging.Formatter):
    """One JSON object per record. Records of other libraries are the event "log", with a `message`."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "ts": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        message: object = record.msg
        if isinstance(message, Event):
            line |= {"event": message.name, **message.fields}
        else:
            line |= {"event": "log", "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class RepeatLimit(logging.Filter):
    """Lets `count_max` events of one name and cause through per `period_s` for each peer or address.

    The last one before the silence has `muted_s`, the first one after it `suppressed`, the number left out.
    Events that name neither a peer nor an address always pass: nobody outside can provoke them at will.
    """

    SOURCES_MAX = 1024

    def __init__(
        self, *, count_max: int = 10, period_s: float = 60.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._count_max = count_max
        self._period_s = period_s
        self._now = now
        # Begin of the period and count, by event, cause and source; the oldest period first.
        self._seen: dict[tuple[str, object, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        event: object = record.msg
        if not isinstance(event, Event):
            return True
        source = _source(event.fields)
        if source is None:
            return True
        key, now = (event.name, event.fields.get("cause"), source), self._now()
        begin, count = self._seen.get(key, (now, 0))
        suppressed = 0
        if now - begin >= self._period_s:
            suppressed = max(0, count - self._count_max)
            begin, count = now, 0
            self._seen.pop(key, None)  # to the end of the order
        if key not in self._seen and len(self._seen) >= self.SOURCES_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = begin, count + 1
        notes: dict[str, object] = {}
        if suppressed:
            notes["suppressed"] = suppressed
        if count + 1 == self._count_max:
            notes["muted_s"] = round(begin + self._period_s - now)
        if notes:
            record.msg = Event(event.name, {**event.fields, **notes})
        return count < self._count_max


def _source(fields: Mapping[str, object]) -> str | None:
    """Who provoked the event: a known node, or else the host of an address, whatever port it came from."""
    if "peer" in fields:
        return f"node {fields['peer']}"
    if "address" in fields:
        return str(fields["address"]).rpartition(":")[0]
    return None


def log_to_stderr(level: str, log_format: LogFormat) -> None:
    """Set up the root logger of a node's process. level: "debug", "info", "warning" or "error"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(TEXT_FORMAT))
    handler.addFilter(RepeatLimit())
    logging.basicConfig(level=level.upper(), handlers=[handler])
