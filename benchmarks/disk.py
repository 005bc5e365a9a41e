"""The limit of the disk itself: write and fdatasync in a loop, nothing else; alone, and three at once.

Each writer is a process with a file of its own, preallocated and zero-filled, as a segment is.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

SMALL_BYTES = 128
SMALL_COUNT = 1000
LARGE_BYTES = 1 << 20
LARGE_COUNT = 128


@dataclass(frozen=True, slots=True)
class DiskLimit:
    """small_us: p50 of one 128-byte write and its fdatasync.

    large_mb_s: of each writer, by 1 MiB writes with an fdatasync each.
    """

    writers: int
    small_us: float
    large_mb_s: float


def measure(directory: Path, *, writers: int) -> DiskLimit:
    """Run `writers` loops at once, each in a process; medians over them."""
    arguments = [sys.executable, "-m", "benchmarks.disk"]
    processes = [
        subprocess.Popen([*arguments, str(directory / f"limit-{number}")], stdout=subprocess.PIPE)
        for number in range(writers)
    ]
    answers = [json.loads(process.communicate()[0]) for process in processes]
    return DiskLimit(
        writers,
        small_us=median(answer["small_us"] for answer in answers),
        large_mb_s=median(answer["large_mb_s"] for answer in answers),
    )


def _write_loop(file: int, size: int, count: int) -> list[float]:
    """Seconds of each write and fdatasync; sequential, over bytes that were zero-filled before."""
    for at in range(0, size * count, LARGE_BYTES):
        os.pwrite(file, bytes(min(LARGE_BYTES, size * count - at)), at)
    os.fsync(file)
    data = os.urandom(size)
    seconds = []
    for number in range(count):
        begin = time.perf_counter()
        os.pwrite(file, data, number * size)
        os.fdatasync(file)
        seconds.append(time.perf_counter() - begin)
    return seconds


def main(path: str) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        small = _write_loop(file, SMALL_BYTES, SMALL_COUNT)
        os.ftruncate(file, 0)
        large = _write_loop(file, LARGE_BYTES, LARGE_COUNT)
    finally:
        os.close(file)
        os.unlink(path)
    print(
        json.dumps(
            {"small_us": median(small) * 1e6, "large_mb_s": LARGE_BYTES * LARGE_COUNT / sum(large) / 1e6}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
