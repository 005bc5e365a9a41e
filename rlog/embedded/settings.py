"""What a user may choose when an embedded log is opened."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Final, Literal, get_args

from rlog._core import BatchBuilder, Vfs
from rlog.clock import uptime, wall_clock_ms
from rlog.errors import BatchTooLarge, ConfigurationError
from rlog.log.settings import LogSettings
from rlog.records import Compression

BATCH_BYTES_MAX: Final = 4 << 20
TimestampType = Literal["create", "append"]
BATCH_BYTES_LIMIT: Final = 64 << 20  # a reader decompresses no more than this from one batch


@dataclass(frozen=True, slots=True)
class Settings:
    """See `rlog.open`."""

    compression: Compression = "none"
    batch_bytes_max: int = BATCH_BYTES_MAX
    timestamp_type: TimestampType = "create"
    retention_ms: int | None = None
    retention_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_bytes_max", "retention_ms", "retention_bytes"):
            value = getattr(self, name)
            if type(value) is not int and (value is not None or name == "batch_bytes_max"):
                raise ConfigurationError(f"{name}={value!r} is not an integer")
        if self.batch_bytes_max > BATCH_BYTES_LIMIT:
            raise ConfigurationError(
                f"batch_bytes_max={self.batch_bytes_max} is above {BATCH_BYTES_LIMIT}: name a smaller one"
            )
        if self.timestamp_type not in get_args(TimestampType):
            raise ConfigurationError(
                f"timestamp_type={self.timestamp_type!r} is neither 'create' nor 'append'"
            )
        for name in ("retention_ms", "retention_bytes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigurationError(f"{name}={value} is below 0: leave it out to keep everything")
        try:
            self.builder()
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error)) from error

    def builder(self) -> BatchBuilder:
        """An empty batch."""
        return BatchBuilder(batch_bytes_max=self.batch_bytes_max, compression=self.compression)

    def too_large(self, error: BatchTooLarge) -> BatchTooLarge:
        """With the mend."""
        return BatchTooLarge(
            f"{error}. Append less at once, or open the log with a larger batch_bytes_max",
            size_bytes=error.size_bytes,
            bytes_max=error.bytes_max,
        )


# Readers have descriptors of their own and read what the page cache holds; nothing is kept in memory twice.
# A node starts with smaller files, for it may have a thousand logs; here each new file is a pause of one.
LOG_SETTINGS: Final = LogSettings(tail_bytes_max=0, segment_bytes_min=8 << 20)


@dataclass(frozen=True, slots=True)
class World:
    """What a log takes from outside: files, randomness for its identity, and the clocks.

    uptime: (name of this start of the machine, seconds since then).
    """

    vfs: Vfs
    random: Random
    wall_clock_ms: Callable[[], int]
    log_settings: LogSettings = LOG_SETTINGS
    monotonic_s: Callable[[], float] = time.monotonic
    uptime: Callable[[], tuple[str, float]] = uptime

    @staticmethod
    def real() -> "World":
        return World(Vfs.system(), Random(SystemRandom().getrandbits(128)), wall_clock_ms)
