"""The embedded log on an event loop: groups of tasks, a loop that never waits for the disk, clean ends."""

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

import rlog
from rlog._core import Vfs
from rlog.embedded.aio import AsyncLog, Opening
from rlog.embedded.room import Room
from rlog.embedded.settings import Settings
from rlog.errors import (
    BatchTooLarge,
    ConfigurationError,
    DataDirectoryError,
    LogClosed,
    OffsetConflict,
    OffsetOutOfRange,
    StorageFailed,
    WrongLoop,
)
from rlog.testing.disk import Disk, Fault, MemoryDisk
from tests.embedded.kit import DIRECTORY, open_on, world_of
from tests.embedded.test_threads import SlowDisk

TIMEOUT_S = 60


def opening_on(disk: Disk, *, queued_bytes_max: int = 1 << 20) -> Opening:
    world = world_of(Vfs.of(disk))
    return Opening(DIRECTORY, Settings(), world, queued_bytes_max=queued_bytes_max, on_system=False)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """On asyncio's own loop, in bounded time."""

    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await main()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(TIMEOUT_S * 1000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def all_of(items: AsyncIterator[bytes | None]) -> list[bytes | None]:
    return [item async for item in items]


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_same_names_do_the_same(
    tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        async with rlog.open_async(tmp_path / "orders", compression="lz4") as log:
            receipt = await log.append(b"paid", key=b"42", headers=[("h", b"1")], timestamp_ms=5)
            assert receipt == rlog.Receipt("orders", 0, 0, 1, (), "disk", 5)
            many = await log.append_many([b"a", rlog.NewRecord(b"b", b"k"), None], expect_offset=1)
            assert list(many.offsets()) == [1, 2, 3]
            assert (log.start_offset, log.end_offset, log.name) == (0, 4, "orders")
            assert [record.value async for record in log.read(receipt.offset)] == [b"paid", b"a", b"b", None]
            assert [len(records) async for records in log.read_batches()] == [4]
            assert await all_of(log.values(1, end=3)) == [b"a", b"b"]
            assert [values async for values in log.value_batches(3)] == [[None]]
            with pytest.raises(OffsetConflict):
                await log.append(b"no", expect_offset=0)
            with pytest.raises(OffsetOutOfRange):
                log.read(5)
            with pytest.raises(ConfigurationError):
                log.read(0, end=1, follow=True)
            with pytest.raises(BatchTooLarge, match="batch_bytes_max"):
                await log.append(b"x" * (5 << 20))
            with pytest.raises(TypeError):
                await log.append("text")
            assert not await log.wait(4, timeout_ms=1)
            assert await log.wait(3)
        with rlog.open(tmp_path / "orders") as log:
            assert list(log.values()) == [b"paid", b"a", b"b", None]

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_every_method_of_the_one_is_a_method_of_the_other() -> None:
    def names(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert names(rlog.Log) == names(AsyncLog)


def test_tasks_share_rounds_and_the_loop_goes_on_meanwhile() -> None:
    disk = SlowDisk()

    async def main() -> None:
        async with opening_on(disk) as log:
            await asyncio.gather(*(log.append(b"%d" % number) for number in range(100)))
            assert disk.syncs == 1, "all of one turn"
            disk.hold()
            first = asyncio.ensure_future(log.append(b"first"))
            await until(disk.begun.is_set)
            others = [asyncio.ensure_future(log.append(b"other")) for _ in range(50)]
            await turns()
            assert not first.done(), "and the loop has run all the while"
            assert log.end_offset == 100
            disk.release()
            receipts = await asyncio.gather(first, *others)
            assert disk.syncs == 3
            assert [receipt.offset for receipt in receipts] == list(range(100, 151))

    run(main)


def test_of_tasks_that_expect_one_offset_exactly_one_appends(tmp_path: Path) -> None:
    async def main() -> None:
        async with rlog.open_async(tmp_path / "orders") as log:
            for number in range(10):
                tries = (log.append(b"%d" % each, expect_offset=number) for each in range(8))
                results = await asyncio.gather(*tries, return_exceptions=True)
                assert sum(isinstance(result, rlog.Receipt) for result in results) == 1
                conflicts = [result for result in results if isinstance(result, OffsetConflict)]
                assert [conflict.actual for conflict in conflicts] == [number + 1] * 7
                assert log.end_offset == number + 1, "what won can be read by then"

    run(main)


def test_a_failed_disk_fences_and_tells_each_its_outcome() -> None:
    disk = SlowDisk()

    async def main() -> None:
        async with opening_on(disk) as log:
            await log.append(b"safe")
            following = asyncio.ensure_future(all_of(log.values(1, follow=True)))
            disk.hold()
            written = asyncio.ensure_future(log.append(b"in the round"))
            await until(disk.begun.is_set)
            behind = asyncio.ensure_future(log.append(b"behind it"))
            await turns()
            disk.faults.append(Fault("fdatasync", errno.EIO, path=".log"))
            disk.release()
            errors = await asyncio.gather(written, behind, following, return_exceptions=True)
            assert [type(error) for error in errors] == [StorageFailed] * 3
            assert [error.outcome for error in errors] == ["unknown", "no", "no"]
            with pytest.raises(StorageFailed, match="takes no more appends; this was not stored"):
                await log.append(b"no")
            with pytest.raises(StorageFailed):
                await log.wait(1)
            assert await all_of(log.values()) == [b"safe"]
        disk.kill()

    run(main)
    with open_on(disk) as log:
        assert list(log.values())[:1] == [b"safe"]


def test_followers_read_on_and_end_with_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with rlog.open_async(tmp_path / "orders") as log:
            followers = [asyncio.ensure_future(all_of(log.values(follow=True))) for _ in range(3)]
            for number in range(30):
                await log.append(b"%d" % number)
            await turns()
        for follower in followers:
            values = await follower
            assert values == [b"%d" % number for number in range(len(values))]

    run(main)


def test_appends_wait_for_room_in_their_order_and_memory_stays_bounded() -> None:
    disk = SlowDisk()

    async def main() -> None:
        async with opening_on(disk, queued_bytes_max=5000) as log:
            disk.hold()
            tasks = [asyncio.ensure_future(log.append(b"x" * 900)) for _ in range(30)]
            await until(disk.begun.is_set)
            await turns()
            assert log._writer.end_offset == 5
            tasks[10].cancel()
            disk.release()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            offsets = [receipt.offset for receipt in done if isinstance(receipt, rlog.Receipt)]
            assert offsets == list(range(29))
            await log.append(b"x" * 9000), "more than the room, alone"

    run(main)


def test_bytes_of_cancelled_appends_keep_their_room_while_they_wait() -> None:
    disk = SlowDisk()

    async def main() -> None:
        async with opening_on(disk, queued_bytes_max=5000) as log:
            disk.hold()
            tasks = []
            for _ in range(30):
                tasks.append(asyncio.ensure_future(log.append(b"", headers=[("trace", b"x" * 800)])))
                await turns()
                tasks[-1].cancel()
            await until(disk.begun.is_set)
            await asyncio.wait(tasks)
            assert log._writer.end_offset == 5, "headers are counted too"
            disk.release()
            assert (await log.append(b"x" * 4000)).offset == 5
            assert log._room._taken == 0
            with pytest.raises(TypeError):
                await log.append(5)
            with pytest.raises(OffsetConflict):
                await log.append(b"x", expect_offset=1)
            assert log._room._taken == 0

    run(main)


def test_nobody_overtakes_a_task_that_was_given_room() -> None:
    async def main() -> None:
        room = Room(10)
        order: list[str] = []

        async def take(name: str, size: int) -> None:
            await room.take(size)
            order.append(name)

        await room.take(10)
        first = asyncio.ensure_future(take("first", 4))
        await turns(2)
        room.give(10)  # `first` has room now, and has not run
        await take("newcomer", 4)
        await first
        assert order == ["first", "newcomer"]

        room.give(8)
        await room.take(10)
        tasks = [asyncio.ensure_future(take(name, 4)) for name in ("a", "b", "c")]
        await turns(2)
        room.give(10)
        tasks[0].cancel()
        late = asyncio.ensure_future(take("late", 1))
        await asyncio.wait([*tasks[1:], late])
        assert order[2:] == ["b", "c", "late"]

    run(main)


def test_room_that_was_granted_to_a_cancelled_task_goes_on() -> None:
    async def main() -> None:
        room = Room(10)
        await room.take(10)
        first, second = asyncio.ensure_future(room.take(10)), asyncio.ensure_future(room.take(10))
        await turns(2)
        room.give(10)
        first.cancel()
        await second
        assert first.cancelled()

    run(main)


def test_closing_waits_for_the_disk_and_refuses_the_rest() -> None:
    disk = SlowDisk()

    async def main() -> None:
        log = await opening_on(disk, queued_bytes_max=1000)
        disk.hold()
        first = asyncio.ensure_future(log.append(b"x" * 900))
        waiting = asyncio.ensure_future(log.append(b"no room"))
        await until(disk.begun.is_set)
        closing = [asyncio.ensure_future(log.close()) for _ in range(2)]
        await turns()
        with pytest.raises(LogClosed):
            await log.append(b"late")
        with pytest.raises(LogClosed):
            await waiting
        assert not closing[0].done()
        closing[0].cancel()
        disk.release()
        assert (await first).offset == 0
        await closing[1]
        await log.close()
        with pytest.raises(LogClosed):
            log.read()
        assert "closed" in repr(log)

    run(main)
    disk.kill()
    with open_on(disk) as log:
        assert log.end_offset == 1


def test_an_opening_that_fails_or_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    class StuckDisk(MemoryDisk):
        def __init__(self) -> None:
            super().__init__()
            self.asked, self.go_on, self.unlocked = (threading.Event() for _ in range(3))

        def lock(self, path: str) -> int:
            self.asked.set()
            assert self.go_on.wait(TIMEOUT_S)
            return super().lock(path)

        def close(self, fd: int) -> None:
            is_lock = fd in self._locks
            super().close(fd)
            if is_lock:
                self.unlocked.set()

    async def main() -> None:
        with pytest.raises(DataDirectoryError):
            async with rlog.open_async(tmp_path / "absent" / "orders"):
                raise AssertionError
        with pytest.raises(ConfigurationError):
            rlog.open_async(tmp_path / "orders", queued_bytes_max=0)
        disk = StuckDisk()
        opening = asyncio.ensure_future(opening_on(disk)._opened())
        await until(disk.asked.is_set)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        disk.go_on.set()
        await until(disk.unlocked.is_set)
        async with opening_on(disk) as log:
            assert log.end_offset == 0

    run(main)


def test_use_on_another_loop_is_refused(tmp_path: Path) -> None:
    async def open_it() -> AsyncLog:
        return await rlog.open_async(tmp_path / "orders")

    loop = asyncio.new_event_loop()
    log = loop.run_until_complete(open_it())

    async def use() -> None:
        for call in (log.append(b"x"), log.append_many([b"x"]), log.wait(0), log.close()):
            with pytest.raises(WrongLoop, match="was opened on another event loop"):
                await call

    asyncio.run(use())
    loop.run_until_complete(log.close())
    loop.close()


ENDINGS = {
    "not closed": "",
    "forked": """
    import os, warnings
    from rlog.errors import ForkedProcess
    warnings.simplefilter("ignore")
    child = os.fork()
    if child == 0:
        for use in (log.append(b"child"), log.append_many([b"child"]), log.wait(0)):
            try:
                await use
            except ForkedProcess:
                continue
            os._exit(1)
        await log.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    await log.append(b"x")
""",
    "interrupted": """
    import signal
    asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
    while True:
        await log.append(b"x")
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_ends_of_processes(tmp_path: Path, ending: str) -> None:
    program = f"""
import asyncio, sys
import rlog

async def main():
    log = await rlog.open_async(sys.argv[1])
    await log.append(b"x")
{ENDINGS[ending]}
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "orders")],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if ending != "interrupted":
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    with rlog.open(tmp_path / "orders") as log:
        assert set(log.values()) == {b"x"}
        assert os.path.isdir(log.path)


def test_a_reading_goes_on_after_a_timeout_around_one_step(tmp_path: Path) -> None:
    """Whether it waited for a record or for the disk; and no waiting leaves anything behind."""

    async def main() -> None:
        async with rlog.open_async(tmp_path / "orders") as log:
            following = log.read(follow=True)
            for offset in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await anext(following)
                await log.append(b"x")
                for _ in range(2):
                    step = asyncio.ensure_future(anext(following))
                    await turns(2)  # it is at the executor
                    step.cancel()
                    await asyncio.wait([step])
                    if not step.cancelled():
                        assert step.result().offset == offset
                        break
                else:
                    assert (await anext(following)).offset == offset
            for _ in range(10):
                assert not await log.wait(9, timeout_ms=0)
            assert not log._watchers
        with pytest.raises(StopAsyncIteration):
            await anext(following)
        with pytest.raises(StopAsyncIteration):
            await anext(following)

    run(main)


@pytest.mark.parametrize("moment", ["take", "job_done"])
def test_an_error_of_no_kind_fences_and_leaves_nobody_waiting(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = MemoryDisk()
    reported: list[dict[str, object]] = []

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with opening_on(disk) as log:
            await log.append(b"safe")
            monkeypatch.setattr(log._writer, moment, fail)
            done = await asyncio.gather(*(log.append(b"x") for _ in range(3)), return_exceptions=True)
            assert [type(error) for error in done] == [StorageFailed] * 3
            with pytest.raises(StorageFailed, match="Too many open files"):
                await log.append(b"no")
        assert log.is_closed
        assert len(reported) == 1, "the loop is told of it"

    run(main)
    disk.kill()
    with open_on(disk) as log:
        assert next(log.values()) == b"safe"


def test_a_loop_that_ends_while_a_log_is_closing_leaves_it_closed(tmp_path: Path) -> None:
    kept = []

    async def main() -> None:
        log = await rlog.open_async(tmp_path / "orders")
        kept.append(log)
        for _ in range(3):
            kept.append(asyncio.ensure_future(log.append(b"x" * 100_000)))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await log.close()

    asyncio.run(main())
    with rlog.open(tmp_path / "orders") as log:
        assert log.end_offset in (0, 3)
