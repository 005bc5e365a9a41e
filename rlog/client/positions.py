"""Places in a partition, as a caller names them: an offset, an end of the log, or a moment."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from rlog.errors import ConfigurationError
from rlog.wire.kafka.list_offsets import EARLIEST, LATEST

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class At:
    """A moment, in milliseconds since the epoch, where a `datetime` is not at hand."""

    timestamp_ms: int


Time = datetime | At
"""A moment: an aware datetime, or `At`."""

Start = Literal["earliest", "latest"] | int | datetime | At
"""Where to read from: an end of the log, an offset, or the first record with a timestamp at or after a
moment. Should there be none yet, reading starts at the end."""

OutOfRangePolicy = Literal["raise", "earliest", "latest"]


class OffsetRange(NamedTuple):
    """The offsets that a partition holds: from `start` on, up to and without `end`."""

    start: int
    end: int


def check_start(start: Start) -> Start:
    """`start` itself. Raises ConfigurationError when it names no place."""
    if isinstance(start, datetime | At):
        timestamp_of(start)
    elif start not in ("earliest", "latest") and (
        not isinstance(start, int) or isinstance(start, bool) or start < 0
    ):
        raise ConfigurationError(
            f"start={start!r} is neither 'earliest', 'latest', an offset, an aware datetime, nor At(...)"
        )
    return start


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
    else:
        raise ConfigurationError(f"{time!r} is not a moment: give an aware datetime or At(timestamp_ms)")
    if timestamp_ms < 0:
        raise ConfigurationError(f"{time!r} lies before 1970; for the start of the log say 'earliest'")
    return timestamp_ms


def datetime_of(timestamp_ms: int) -> datetime:
    return EPOCH + timestamp_ms * MILLISECOND


def wire_timestamp(place: Literal["earliest", "latest"]) -> int:
    """How ListOffsets spells the two ends."""
    return EARLIEST if place == "earliest" else LATEST
