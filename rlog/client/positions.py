"""Places in a partition, as a caller names them: an offset, an end of the log, or a moment."""

from datetime import datetime
from typing import Final, Literal, NamedTuple

from rlog.errors import ConfigurationError
from rlog.moments import At, timestamp_of
from rlog.wire.kafka.list_offsets import EARLIEST, LATEST

Start = Literal["earliest", "latest"] | int | datetime | At
"""Where to read from: an end of the log, an offset, or the first record with a timestamp at or after a
moment. Should there be none yet, reading starts at the end."""

INT64_MAX: Final = 2**63 - 1  # offsets travel in 64 bits

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
        not isinstance(start, int) or isinstance(start, bool) or not 0 <= start <= INT64_MAX
    ):
        raise ConfigurationError(
            f"start={start!r} is neither 'earliest', 'latest', an offset, an aware datetime, nor At(...)"
        )
    return start


def wire_timestamp(place: Literal["earliest", "latest"]) -> int:
    """How ListOffsets spells the two ends."""
    return EARLIEST if place == "earliest" else LATEST
