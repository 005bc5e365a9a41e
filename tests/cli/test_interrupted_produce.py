"""Ctrl-C while `rlog produce` waits for room: the record that was not sent is not in the report."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest
from click.testing import CliRunner

from rlog.cli import produce
from rlog.cli.exits import INTERRUPTED
from rlog.cli.main import main
from rlog.records import Receipt

ROOM = 70


class FullAt:
    """A producer, and its cluster, that admits ROOM records; the next one waits, and Ctrl-C comes."""

    def __init__(self) -> None:
        self.sent = 0

    def producer(self, topic: str, **settings: object) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *how: object) -> None:
        pass

    async def send(self, value: bytes, *more: object, **settings: object) -> "asyncio.Future[Receipt]":
        loop = asyncio.get_running_loop()
        if self.sent == ROOM:
            signal_soon(loop)
            await asyncio.Event().wait()
        ack: asyncio.Future[Receipt] = loop.create_future()
        ack.set_result(Receipt("orders", 0, self.sent))
        self.sent += 1
        return ack


def signal_soon(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(signal.raise_signal, signal.SIGINT)


def test_every_record_read_is_in_one_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def connected(*where: object) -> AsyncIterator[FullAt]:
        yield FullAt()

    monkeypatch.setattr(produce, "connected", connected)
    (tmp_path / "input").write_bytes(b"line\n" * 1000)
    done = CliRunner().invoke(main, ["produce", "orders", str(tmp_path / "input")])
    assert done.exit_code == INTERRUPTED, done.output
    assert f"{ROOM} of {ROOM} records acknowledged" in done.stderr
