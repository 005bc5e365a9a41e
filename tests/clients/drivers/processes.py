"""Clients that are processes of their own."""

import math
import subprocess
import threading
import time
from typing import IO

from tests.clients.drivers.base import PATIENCE_S

WORDS_MAX = 20


class Impatience:
    """A thread that kills a process which is waited for longer than PATIENCE_S."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._ended = threading.Event()
        self.begin()
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> None:
        """Something is waited for from now on."""
        self._deadline = time.monotonic() + PATIENCE_S

    def rest(self) -> None:
        """Nothing is waited for."""
        self._deadline = math.inf

    def end(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(1):
            if time.monotonic() > self._deadline:
                self._process.kill()
                return


class Words:
    """Reads what a process says on standard error, so that it never waits for a reader; keeps the end."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self._stream = stream
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._stream:
            self._lines = [*self._lines[1 - WORDS_MAX :], line.decode(errors="replace").rstrip()]

    def last(self) -> str:
        """The last lines, when the process has ended."""
        self._reader.join(5)
        return "\n".join(self._lines)
