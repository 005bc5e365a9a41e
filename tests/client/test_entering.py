"""A failed `__aenter__` leaves nothing: no task, connection, timer or listener, whatever failed when."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from rlog.client import Cluster
from rlog.errors import RlogError
from rlog.testing.loop import SimLoop
from rlog.testing.transport import SimTransport
from tests.client.fakes import Garble, Hang, Late, Refuse, Reset, Serve, Treatment, World, until, world

# What may go wrong with one answer; 35 is UNSUPPORTED_VERSION, 41 an error that no client retries.
TREATMENTS: list[Treatment] = [
    Hang(),
    Garble(),
    Reset(applied=True),
    Reset(applied=False),
    Refuse(35),
    Refuse(41),
    Late(5.0),
]
REQUESTS = ["ApiVersions", "Metadata", "InitProducerId", "ListOffsets"]
Enter = Callable[[Cluster], AbstractAsyncContextManager[Any]]
ENTERED: dict[str, Enter] = {
    "producer": lambda cluster: cluster.producer("orders"),
    "consumer": lambda cluster: cluster.consumer("orders", start="latest"),
}


def timers_of_clients() -> list[str]:
    """What the client's process still waits for, but for packets; the nodes share the loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return [
        repr(handle)
        for _, _, handle in loop._timers
        if not handle.cancelled() and handle.process is not None and handle.process.host == "client"
        if not isinstance(getattr(handle._callback, "__self__", None), SimTransport)
    ]


async def check_nothing_is_left(made: World) -> None:
    assert not timers_of_clients()
    await until(lambda: made.open_connections() == 0)


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("treatment", TREATMENTS, ids=str)
@pytest.mark.parametrize("request_kind", REQUESTS[:2])
def test_a_cluster_that_could_not_be_entered(request_kind: str, treatment: Treatment, position: int) -> None:
    """Every node fails in the same way; or one is well, and then it is entered."""

    async def program(made: World) -> None:
        made.cluster.treat(request_kind, *[Serve()] * position, *[treatment] * 500)
        entered = made.connect(request_timeout_ms=1500)
        try:
            await entered.__aenter__()
        except (RlogError, TimeoutError):
            made.cluster.script.clear()
        else:
            made.cluster.script.clear()
            await entered.close()
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert not [name for name in names if name.startswith(("refresh", "connect"))]
        await check_nothing_is_left(made)

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize("treatment", TREATMENTS, ids=str)
@pytest.mark.parametrize("request_kind", REQUESTS)
@pytest.mark.parametrize("what", ENTERED)
def test_what_could_not_be_entered_in_a_cluster(what: str, request_kind: str, treatment: Treatment) -> None:
    """The cluster goes on, is the same as before, and ends without a trace."""

    async def program(made: World) -> None:
        async with made.connect(request_timeout_ms=1500) as cluster:
            router = cluster._router
            assert router is not None
            made.cluster.treat(request_kind, *[treatment] * 500)
            entered = ENTERED[what](cluster)
            try:
                await entered.__aenter__()
            except (RlogError, TimeoutError):
                assert not router._listeners, "nobody is told of leaders any more"
                assert not [task for task in router.tasks._tasks if "orders" in task.get_name()]
            made.cluster.script.clear()
            await entered.__aexit__(None, None, None)
            assert not router._listeners
            async with cluster.producer("orders") as producer:
                assert (await (await producer.send(b"x"))).offset == 0
        await check_nothing_is_left(made)

    with world() as made:
        made.run(program(made))


@pytest.mark.parametrize("after_ms", [0, 1, 2, 3, 5, 8, 13, 21, 34])
@pytest.mark.parametrize("what", ["cluster", *ENTERED])
def test_entering_that_is_cancelled_at_any_moment(what: str, after_ms: int) -> None:
    async def enter(made: World) -> None:
        async with made.connect() as cluster:
            if what != "cluster":
                async with ENTERED[what](cluster):
                    pass

    async def program(made: World) -> None:
        task = asyncio.ensure_future(enter(made))
        await asyncio.sleep(after_ms / 1000)
        task.cancel()
        await asyncio.wait([task])
        await check_nothing_is_left(made)

    with world() as made:
        made.run(program(made))
