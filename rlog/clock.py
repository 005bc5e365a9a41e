"""The wall clock: for timestamps of records, never for timeouts (SAFETY 50)."""

import time


def wall_clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
