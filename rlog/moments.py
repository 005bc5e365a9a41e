"""Moments, as a caller names them; inside they are milliseconds since the epoch."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from rlog.errors import ConfigurationError

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TIMESTAMP_MS_MAX: Final = 2**63 - 1  # they are stored in 64 bits
MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class At:
    """A moment, in milliseconds since the epoch, where a `datetime` is not at hand."""

    timestamp_ms: int


Time = datetime | At
"""A moment: an aware datetime, or `At`."""


def timestamp_of(time: Time) -> int:
    """Milliseconds since the epoch, rounded up: nothing before `time` is found. Raises ConfigurationError."""
    if isinstance(time, datetime):
        if time.utcoffset() is None:
            raise ConfigurationError(
                f"{time!r} has no time zone: use datetime.now(tz=...) or time.astimezone()"
            )
        timestamp_ms = -((EPOCH - time) // MILLISECOND)
    elif isinstance(time, At):
        timestamp_ms = time.timestamp_ms
        if (
            not isinstance(timestamp_ms, int)
            or isinstance(timestamp_ms, bool)
            or timestamp_ms > TIMESTAMP_MS_MAX
        ):
            raise ConfigurationError(f"{time!r} is no whole number of milliseconds up to {TIMESTAMP_MS_MAX}")
    else:
        raise ConfigurationError(f"{time!r} is not a moment: give an aware datetime or At(timestamp_ms)")
    if timestamp_ms < 0:
        raise ConfigurationError(f"{time!r} lies before 1970; for the start of the log say 'earliest'")
    return timestamp_ms


def datetime_of(timestamp_ms: int) -> datetime:
    return EPOCH + timestamp_ms * MILLISECOND
