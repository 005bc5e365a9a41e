"""Commands as processes: run to the end, in the background, on a terminal of their own; or inside this one.

A process costs half a second, and adds standard input, signals and the end of the interpreter.
"""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from click.testing import CliRunner

from rlog.cli.main import main

RLOG = [sys.executable, "-m", "rlog"]
TIMEOUT_S = 60


def environment(**more: str) -> dict[str, str]:
    """This process's, without what would configure rlog."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RLOG_")} | more


def rlog(
    *arguments: str, stdin: bytes = b"", status: int | None = 0, **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end, which must have the exit status given (None: any) and no traceback."""
    done = subprocess.run(
        [*RLOG, *arguments],
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        env=environment(**more),
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert status is None or done.returncode == status, (done.returncode, done.stdout[-500:], done.stderr)
    return done


@dataclass(frozen=True)
class Said:
    """What a command that was run inside this process wrote, and its exit status."""

    stdout: bytes
    stderr: bytes
    returncode: int


def inside(*arguments: str, status: int | None = 0, **more: str) -> Said:
    """As `rlog`, in this process, and without standard input."""
    mine = {name: None for name in os.environ if name.startswith("RLOG_")}
    done = CliRunner().invoke(main, arguments, env={**mine, **more}, prog_name="rlog")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert status is None or done.exit_code == status, (done.exit_code, done.stdout[-500:], done.stderr)
    return Said(done.stdout_bytes, done.stderr_bytes, done.exit_code)


@contextmanager
def background(*arguments: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command with pipes for all three streams; killed on leaving if it still runs."""
    process = subprocess.Popen(
        [*RLOG, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**more),
    )
    try:
        yield process
    finally:
        process.kill()
        with suppress(BrokenPipeError):
            process.communicate()


def on_a_terminal(*arguments: str, **more: str) -> tuple[int, bytes]:
    """(exit status, everything that it wrote) of the command on a pseudo-terminal."""
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [*RLOG, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment(TERM="xterm", COLUMNS="120", **more),
    ) as process:
        os.close(terminal)
        said = bytearray()
        with suppress(OSError):  # EIO: the other end is closed
            while part := os.read(controller, 65536):
                said += part
        os.close(controller)
        return process.wait(TIMEOUT_S), bytes(said)
