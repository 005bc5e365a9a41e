"""Data directories on the real disk, made by the real storage, for commands that read them from outside."""

import hashlib
import os
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from rlog._core import Vfs
from rlog.cli.main import main
from rlog.log.settings import LogSettings
from rlog.log.storage import Storage
from tests.log.storage_kit import make_span, open_storage, settle

NAME = "orders-0"
SETTINGS = LogSettings(segment_bytes_min=4096, segment_bytes_max=16384)
GENERATIONS = 3
ROUNDS = 8
RECORDS = 3


def make(directory: Path, *, trim: bool = False, close: bool = True, rounds: int = ROUNDS) -> Storage:
    """`orders-0` of several segments and generations, and `empty-0`; closed in order, or left open."""
    storage = open_storage(Vfs.system(), str(directory), settings=SETTINGS, names=(NAME, "empty-0"))
    log = storage.logs[NAME]
    for generation in range(1, GENERATIONS + 1):
        for _ in range(rounds):
            log.append(make_span(log.end_offset, generation, batches=2, records=RECORDS, size=200))
            settle(storage)
    if trim:
        log.committed(log.end_offset)
        log.trim(log.end_offset // 2)
        settle(storage)
    if close:
        storage.close()
    return storage


def fingerprint(directory: Path) -> dict[str, tuple[str, int, int]]:
    """Name -> (SHA-256, time of the last change, mode) of everything in it."""
    found = {}
    for top, directories, files in os.walk(directory):
        for name in [*directories, *files]:
            path = Path(top, name)
            content = path.read_bytes() if path.is_file() else b""
            status = path.stat()
            found[str(path.relative_to(directory))] = (
                hashlib.sha256(content).hexdigest(), status.st_mtime_ns, status.st_mode,
            )  # fmt: skip
    return found


def run(*arguments: Any) -> Result:
    """A command in this process; what it prints is in `.stdout` and `.stderr`, its status in `.exit_code`."""
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)
