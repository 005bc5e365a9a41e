"""The virtual-time loop: order, time, ownership, and what it refuses."""

import asyncio
from collections.abc import Iterator

import pytest

from rlog.testing.loop import Process, SimLoop, SimulationError, current_process


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    loop = SimLoop(start=0.0)
    yield loop
    loop.dispose()


def test_time_is_virtual_and_moves_to_the_next_deadline(loop: SimLoop) -> None:
    async def sleep_long() -> float:
        await asyncio.sleep(3600)
        return loop.time()

    assert 3600 <= loop.run_until_complete(sleep_long()) < 3600.001


def test_timers_with_equal_deadlines_run_in_the_order_of_scheduling(loop: SimLoop) -> None:
    order: list[int] = []
    for number in range(50):
        loop.call_at(1.0, order.append, number)
    loop.call_at(0.5, order.append, -1)
    loop.run_until_complete(asyncio.sleep(2))
    assert order == [-1, *range(50)]


def test_a_cancelled_timer_never_runs_and_does_not_hold_the_clock(loop: SimLoop) -> None:
    ran: list[int] = []
    handles = [loop.call_later(1 + number / 1000, ran.append, number) for number in range(3000)]
    for handle in handles[:-1]:
        handle.cancel()
    assert len(loop._timers) < 1500  # swept, not kept until due
    loop.run_until_complete(asyncio.sleep(5))
    assert ran == [2999]


def test_a_loop_of_sleep_zero_does_not_freeze_time(loop: SimLoop) -> None:
    turns = 0

    async def spin() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        spinner = loop.create_task(spin())
        await asyncio.sleep(0.01)
        spinner.cancel()

    loop.run_until_complete(main())
    assert 100 < turns < 10_000


def test_a_loop_with_nothing_left_to_do_says_so(loop: SimLoop) -> None:
    with pytest.raises(SimulationError, match="nothing will ever happen"):
        loop.run_until_complete(loop.create_future())


def test_threads_are_refused(loop: SimLoop) -> None:
    with pytest.raises(SimulationError):
        loop.call_soon_threadsafe(print)
    with pytest.raises(SimulationError):
        loop.run_in_executor(None, print)


def test_an_unhandled_exception_is_a_failure_of_the_run(loop: SimLoop) -> None:
    def fail() -> None:
        raise ValueError("boom")

    async def fail_in_a_task() -> None:
        raise KeyError("lost")

    async def main() -> None:
        loop.call_soon(fail)
        loop.create_task(fail_in_a_task())
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    loop.dispose()
    assert len(loop.failures) == 2
    assert "boom" in loop.failures[0]
    assert "lost" in loop.failures[1]


def test_kill_ends_exactly_one_incarnation_without_a_finally(
    loop: SimLoop, capfd: pytest.CaptureFixture[str]
) -> None:
    log: list[str] = []

    async def child(name: str) -> None:
        try:
            while True:
                await asyncio.sleep(0.1)
                log.append(name)
        finally:
            log.append(f"{name} ended")
            await asyncio.sleep(0)

    async def program(name: str) -> None:
        loop.call_later(0.55, log.append, f"{name} timer")
        await asyncio.gather(child(name), asyncio.create_task(child(name)))

    first, second = Process("a", 1), Process("b", 1)
    for process in (first, second):
        loop.create_task(program(process.host), context=process.context())

    async def main() -> None:
        await asyncio.sleep(0.35)
        loop.kill(first)
        log.append("kill")
        await asyncio.sleep(0.25)

    loop.run_until_complete(main())
    loop.kill(second)
    after = log[log.index("kill") + 1 :]
    assert log.count("a") == 6
    assert after == ["b", "b", "b", "b", "b timer"]
    assert loop.failures == []
    loop.dispose()
    assert capfd.readouterr() == ("", "")  # the dead end without a word


def test_callbacks_belong_to_whoever_added_them(loop: SimLoop) -> None:
    """A future resolved by one process wakes the waiter in the waiter's process."""
    seen: list[str] = []
    future = loop.create_future()
    waiter, resolver = Process("waiter", 1), Process("resolver", 1)

    async def wait() -> None:
        await future
        seen.append(repr(current_process()))

    loop.create_task(wait(), context=waiter.context())
    loop.call_later(1, future.set_result, None, context=resolver.context())
    loop.run_until_complete(asyncio.sleep(2))
    assert seen == ["waiter#1"]


def test_a_frozen_process_runs_nothing_and_then_everything_in_order(loop: SimLoop) -> None:
    log: list[tuple[str, float]] = []
    process = Process("a", 1)
    context = process.context()
    for number in range(5):
        loop.call_at(1 + number, lambda n=number: log.append((f"t{n}", loop.time())), context=context)

    async def main() -> None:
        await asyncio.sleep(1.5)
        loop.freeze(process)
        await asyncio.sleep(2)
        loop.thaw(process)
        await asyncio.sleep(10)

    loop.run_until_complete(main())
    assert [name for name, _ in log] == ["t0", "t1", "t2", "t3", "t4"]
    assert [round(when, 2) for _, when in log] == [1.0, 3.5, 3.5, 4.0, 5.0]


def test_the_observer_runs_after_each_handle_of_its_process_and_never_after_death(loop: SimLoop) -> None:
    seen: list[float] = []
    process = Process("a", 1, observe=lambda: seen.append(loop.time()))

    async def program() -> None:
        for _ in range(5):
            await asyncio.sleep(1)

    loop.create_task(program(), context=process.context())
    loop.call_at(2.5, loop.kill, process)
    loop.run_until_complete(asyncio.sleep(10))
    assert [round(when) for when in seen if when > 0.5] == [1, 1, 2, 2]


def test_the_harness_has_no_host(loop: SimLoop) -> None:
    with pytest.raises(SimulationError, match="host"):
        current_process()
