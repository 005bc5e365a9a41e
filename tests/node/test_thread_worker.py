"""Tasks on threads: what is cancelled before its turn is not done, and a fault is told to whoever waits."""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlog.node.process import ThreadWorker

from .harness import on_uvloop, until


class Task:
    """Waits for leave, and keeps count."""

    def __init__(self, leave: threading.Event) -> None:
        self.leave = leave
        self.has_begun = threading.Event()

    def __call__(self) -> str:
        self.has_begun.set()
        assert self.leave.wait(30)
        return "done"


def never() -> None:
    raise AssertionError("no task failed")


@on_uvloop
async def test_a_task_can_be_cancelled_until_it_begins() -> None:
    worker = ThreadWorker(asyncio.get_running_loop(), threads=1, name="test-cancel")
    leave, results = threading.Event(), []
    first, second = Task(leave), Task(leave)
    begun = worker.submit(first, results.append, never)
    queued = worker.submit(second, results.append, never)
    assert first.has_begun.wait(30)
    assert not begun.cancel()
    assert queued.cancel()
    gone = weakref.ref(second)
    second_began = second.has_begun
    del second
    gc.collect()
    assert gone() is None, "what waits in the queue holds nothing"
    third = worker.submit(lambda: "third", results.append, never)
    leave.set()
    await until(lambda: len(results) == 2, "what was not cancelled is done")
    assert results == ["done", "third"]
    assert not second_began.is_set()
    assert not third.cancel()
    worker.close()


@on_uvloop
async def test_a_fault_is_logged_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault() -> None:
        raise MemoryError("no room")

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    worker = ThreadWorker(asyncio.get_running_loop(), threads=1, name="test-fault")
    results, failures = [], []
    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "_adjust_thread_count", refuse)
        worker.submit(lambda: "unwanted", results.append, lambda: failures.append("start"))
        assert not failures, "never before submit returns"
        await until(lambda: failures, "the refusal is told")
    worker.submit(fault, results.append, lambda: failures.append("fault"))
    worker.submit(lambda: "fine", results.append, never)
    await until(lambda: results, "the worker goes on")
    assert (results, failures) == (["fine"], ["start", "fault"])
    assert "can't start new thread" in caplog.text
    assert "no room" in caplog.text
    worker.close()


@on_uvloop
async def test_nothing_is_told_after_the_end() -> None:
    worker = ThreadWorker(asyncio.get_running_loop(), threads=1, name="test-close")
    results: list[str] = []
    worker.submit(lambda: "late", results.append, never)
    worker.close()
    worker.submit(lambda: "later", results.append, never)
    told = asyncio.Event()
    asyncio.get_running_loop().call_soon(told.set)
    await told.wait()
    assert results == []
