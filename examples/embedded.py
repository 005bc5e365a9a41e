"""A durable log in this process, no server: `python examples/embedded.py`. An account kept as events."""

import tempfile
from pathlib import Path

import rlog
from rlog.errors import OffsetConflict


def balance(log: rlog.Log) -> tuple[int, int]:
    """(what is in the account, the offset that this is true of)."""
    total, end = 0, 0
    for record in log.read():
        total += int(record.value or b"0")
        end = record.offset + 1
    return total, end


def withdraw(log: rlog.Log, amount: int) -> bool:
    """Only if there is enough: decided on what was read, refused if somebody else was faster."""
    while True:
        total, end = balance(log)
        if total < amount:
            return False
        try:
            log.append(b"%d" % -amount, expect_offset=end)
            return True
        except OffsetConflict:
            continue


with tempfile.TemporaryDirectory() as directory:
    with rlog.open(Path(directory) / "account") as log:
        receipt = log.append(b"100", key=b"deposit")
        print("on disk at offset", receipt.offset)
        log.append_many([b"10", b"20", b"30"])
        print("withdrawn:", withdraw(log, 150), withdraw(log, 150))
    with rlog.open(Path(directory) / "account") as log:
        print("after opening it again:", balance(log))
