"""What the fuzz tests share: how long, from which seed, and how bytes are mutated.

RLOG_FUZZ_SECONDS and RLOG_FUZZ_SEED change the first two; each test names its seed in what it fails of.
"""

import os
import time
from collections.abc import Iterator
from random import Random

SECONDS = float(os.environ.get("RLOG_FUZZ_SECONDS", "4"))
SEED = int(os.environ.get("RLOG_FUZZ_SEED", "1"))
# What parsers stumble over: ends of ranges, signs, lengths that promise too much.
INT32 = (0, 1, -1, -2, 2**31 - 1, -(2**31), 2**24, 2**16, 255)
INT64 = (*INT32, 2**63 - 1, -(2**63), 2**32, 2**53)


def rounds() -> Iterator[Random]:
    """A generator of its own for each round, until the time is over; the seed alone decides what is in it."""
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        yield Random(f"{SEED} {number}")
        number += 1


def mutated(random: Random, data: bytes) -> bytes:
    """One to three changes somewhere in it."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(changed) + 1)
        match random.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << random.randrange(8)
            case 1 if at < len(changed):
                changed[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                changed[at : at + 4] = random.choice(INT32).to_bytes(4, "big", signed=True)
            case 3:
                changed[at : at + 8] = random.choice(INT64).to_bytes(8, "big", signed=True)
            case 4:
                del changed[at : at + random.randint(1, 16)]
            case 5:
                changed[at:at] = random.randbytes(random.randint(1, 16))
            case _:
                changed[at:at] = changed[max(0, at - random.randint(1, 64)) : at]
    return bytes(changed)
