"""Commands as processes: run to the end, in the background, or on a terminal of their own."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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
