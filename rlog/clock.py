"""Clocks of this machine that are not for timeouts (SAFETY 50): for timestamps, and to watch that one by."""

import time
from functools import cache
from pathlib import Path
from uuid import uuid4

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux: drawn at each start of the kernel


def wall_clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def uptime() -> tuple[str, float]:
    """(name of this start of the machine, seconds since then, its sleep included): comparable between
    processes as long as the name is the same."""
    return _boot(), time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def _boot() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:  # hidden from this process: then each process counts as a start of its own
        return uuid4().hex
