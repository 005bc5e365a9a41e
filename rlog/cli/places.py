"""A place in a partition as a user writes it: earliest, latest, an offset, or a time.

A time is ISO 8601 (`2026-01-31`, `2026-01-31T08:00`, `...Z`, `...+02:00`; without a zone it is local), or how
long ago: `-30s`, `-15m`, `-1h`, `-7d`, `-2w`, also put together, `-1h30m`.
"""

import re
from datetime import datetime, timedelta
from typing import Literal

from rlog.client import At, Start
from rlog.errors import ConfigurationError
from rlog.moments import EPOCH, timestamp_of

UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
AGO = re.compile(r"-((?:[0-9]+(?:ms|[smhdw]))+)")
PART = re.compile(r"([0-9]+)(ms|[smhdw])")
OFFSET_MAX = 2**63 - 1


def parse_place(text: str, *, option: str, now: datetime) -> Start:
    """now: an aware datetime. Raises ConfigurationError, which names the option."""
    ends: dict[str, Literal["earliest", "latest"]] = {"earliest": "earliest", "latest": "latest"}
    if text in ends:
        return ends[text]
    try:
        if re.fullmatch(r"[0-9]+", text):
            return _offset(text)
        ago = AGO.fullmatch(text)
        if ago is not None:
            return _before(now, ago[1])
        return At(timestamp_of(datetime.fromisoformat(text).astimezone()))
    except (ValueError, OverflowError, ConfigurationError) as error:
        raise ConfigurationError(
            f"{option} {text!r} is no place in a log: write earliest, latest, an offset (4711), a time "
            f"(2026-01-31T08:00:00Z; without a zone it is local), or how long ago (-30s, -1h, -7d)"
        ) from error


def _offset(digits: str) -> int:
    offset = int(digits)
    if offset > OFFSET_MAX:
        raise ValueError("an offset is below 2^63")
    return offset


def _before(now: datetime, duration: str) -> At:
    """The moment so long before `now`; the beginning of time as computers count it when that is past it."""
    ago = sum((timedelta(**{UNITS[unit]: int(count)}) for count, unit in PART.findall(duration)), timedelta())
    return At(timestamp_of(max(now - ago, EPOCH)))
