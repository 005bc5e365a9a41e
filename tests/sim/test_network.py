"""In-memory TCP: order, flow control, silence, resets, and what a kill or a power cut leaves behind."""

import asyncio
from collections.abc import Coroutine, Iterator
from random import Random
from typing import Any

import pytest

from rlog.testing.loop import Process, SimLoop
from rlog.testing.network import Network, NetworkSettings
from rlog.testing.transport import SimTransport

BIG = bytes(range(256)) * 8192  # 2 MiB


class World:
    """A loop, a network, and a process on each of three hosts."""

    def __init__(self, seed: int = 1, settings: NetworkSettings | None = None) -> None:
        self.loop = SimLoop(start=0.0)
        self.network = Network(self.loop, Random(seed), settings or NetworkSettings(split=0.3))
        self.processes: dict[str, Process] = {}
        for name in ("a", "b", "c"):
            self.network.add_host(name)
            self.processes[name] = Process(name, 1)

    def start(self, host: str, program: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.loop.create_task(program, context=self.processes[host].context())

    def run(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.loop.dispose()
    assert world.loop.failures == []


class Recorder(asyncio.Protocol):
    """Remembers everything that happens to it."""

    def __init__(self) -> None:
        self.transport: SimTransport | None = None
        self.data = bytearray()
        self.chunks = 0
        self.events: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.chunks += 1

    def eof_received(self) -> None:
        self.events.append("eof")

    def connection_lost(self, error: Exception | None) -> None:
        self.events.append(f"lost {type(error).__name__}")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same through get_buffer: the buffer is small, so that a chunk needs several."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray(1000)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(self.buffer[:count]))


async def serve(accepted: list[Recorder], kind: type[Recorder] = Recorder) -> Any:
    def factory() -> Recorder:
        accepted.append(kind())
        return accepted[-1]

    return await asyncio.get_running_loop().create_server(factory, "b", 80)


async def dial(to: list[Recorder], host: str = "b") -> Recorder:
    _, protocol = await asyncio.get_running_loop().create_connection(Recorder, host, 80)
    to.append(protocol)
    return protocol


def connect(world: World, kind: type[Recorder] = Recorder) -> tuple[Recorder, Recorder]:
    accepted: list[Recorder] = []
    dialled: list[Recorder] = []
    world.start("b", serve(accepted, kind))
    world.run(0.001)
    world.start("a", dial(dialled))
    world.run(0.1)
    return dialled[0], accepted[0]


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
def test_bytes_arrive_whole_and_in_order_in_chunks_unrelated_to_writes(
    world: World, kind: type[Recorder]
) -> None:
    near, far = connect(world, kind)
    context = world.processes["a"].context()
    sent = b""
    for number in range(200):
        data = bytes([number]) * (number + 1)
        sent += data
        world.loop.call_later(number // 10 * 0.01, near.transport.write, data, context=context)
    world.run(1)
    assert far.data == sent
    assert far.chunks != 200


def test_latency_passes_before_anything_arrives(world: World) -> None:
    near, far = connect(world)
    world.network.link("a", "b").extra_latency = 0.5
    near.transport.write(b"x")
    world.run(0.4)
    assert far.data == b""
    world.run(1.5)
    assert far.data == b"x"


def test_bandwidth_spreads_a_big_write_over_time() -> None:
    world = World(settings=NetworkSettings(bandwidth_bytes=1e6, window_bytes=1 << 30))
    near, far = connect(world)
    near.transport.write(BIG)
    near.transport.write(b"!")
    world.run(1.5)
    assert far.data == b""
    world.run(1)
    assert far.data == BIG + b"!"
    world.loop.dispose()


def test_a_reader_that_pauses_pauses_the_writer(world: World) -> None:
    near, far = connect(world)
    far.transport.pause_reading()
    near.transport.write(BIG)
    assert near.events == ["pause"]
    world.run(1)
    assert near.transport.get_write_buffer_size() == len(BIG) - 256 * 1024
    assert far.data == b""
    far.transport.resume_reading()
    world.run(1)
    assert near.events == ["pause", "resume"]
    assert far.data == BIG


def test_a_buffered_reader_that_pauses_within_a_chunk_gets_the_rest_later(world: World) -> None:
    near, far = connect(world, BufferedRecorder)
    receive = far.data_received

    def pause_after_each(data: bytes) -> None:
        receive(data)
        far.transport.pause_reading()

    far.data_received = pause_after_each
    near.transport.write(bytes(2500))
    sizes = []
    for _ in range(8):
        world.run(0.1)
        sizes.append(len(far.data))
        far.transport.resume_reading()
    assert sizes[-1] == 2500
    assert sizes[0] <= 1000
    assert sizes[1] <= 2000


def test_a_buffer_changed_after_write_fails_the_run() -> None:
    world = World()
    near, _ = connect(world)
    buffer = bytearray(b"before")

    def write_and_change() -> None:
        near.transport.write(buffer)
        buffer[0] = 0

    world.loop.call_soon(write_and_change)
    world.run(0.1)
    assert any("changed between write() and its sending" in failure for failure in world.loop.failures)
    world.loop.dispose()


def test_close_sends_what_was_written_and_then_the_end(world: World) -> None:
    near, far = connect(world)
    near.transport.write(BIG)
    near.transport.close()
    near.transport.write(b"not sent")
    world.run(1)
    assert far.data == BIG
    assert near.events == ["pause", "lost NoneType"]
    assert far.events == ["eof", "lost NoneType"]


def test_abort_resets_the_other_end(world: World) -> None:
    near, far = connect(world)
    near.transport.abort()
    world.run(1)
    assert near.events == ["lost NoneType"]
    assert far.events == ["lost ConnectionResetError"]


def test_a_blocked_direction_is_silent_and_delivers_after_healing(world: World) -> None:
    near, far = connect(world)
    world.network.block("a", "b")
    near.transport.write(b"one")
    far.transport.write(b"back")
    world.run(5)
    assert (bytes(far.data), bytes(near.data), near.events) == (b"", b"back", [])
    near.transport.write(b"two")
    world.network.heal("a", "b")
    near.transport.write(b"three")
    world.run(1)
    assert far.data == b"onetwothree"


def test_an_injected_reset_ends_both_ends_even_across_a_blocked_link(world: World) -> None:
    near, far = connect(world)
    world.network.block("a", "b")
    near.transport.write(b"never")
    world.network.reset(world.network.connections_between("a", "b")[0])
    world.run(1)
    world.network.heal("a", "b")
    world.run(1)
    assert near.events == far.events == ["lost ConnectionResetError"]
    assert far.data == b""


def test_nobody_listening_refuses_and_a_blocked_link_makes_it_wait(world: World) -> None:
    outcome: list[Any] = []

    async def try_dial() -> None:
        try:
            await dial(outcome)
        except ConnectionRefusedError:
            outcome.append("refused")

    world.start("a", try_dial())
    world.run(0.1)
    assert outcome == ["refused"]
    world.start("b", serve([]))
    world.network.block("b", "a")
    world.start("a", try_dial())
    world.run(5)
    assert len(outcome) == 1
    world.network.heal("b", "a")
    world.run(5)
    assert isinstance(outcome[1], Recorder)


def kill(world: World, host: str) -> None:
    world.loop.kill(world.processes[host])
    world.network.process_killed(world.processes[host])


def test_a_killed_process_has_sent_what_reached_its_kernel_and_its_peers_hear_of_it(world: World) -> None:
    near, far = connect(world)
    world.loop.call_later(0.1, near.transport.write, b"sent", context=world.processes["a"].context())
    world.loop.call_later(0.1001, kill, world, "a")
    world.run(1)
    assert bytes(far.data) == b"sent"
    assert far.events[-1].startswith("lost")
    assert near.events == []  # the dead hear nothing
    assert "b" not in [end.peer.process.host for end in world.network.hosts["b"].connections.values()]


def test_a_write_in_the_tick_of_the_kill_is_lost(world: World) -> None:
    near, far = connect(world)
    near.transport.write(b"lost")
    kill(world, "a")
    world.run(1)
    assert far.data == b""


def test_connecting_to_a_killed_process_is_refused(world: World) -> None:
    connect(world)
    kill(world, "b")
    task = world.start("c", dial([]))
    world.run(1)
    assert isinstance(task.exception(), ConnectionRefusedError)


def test_a_machine_without_power_is_silent_and_resets_old_connections_once_back(world: World) -> None:
    near, _ = connect(world)
    idle, _ = near, world.loop.kill(world.processes["b"])
    world.network.power_cut("b")
    near.transport.write(b"into the dark")
    task = world.start("c", dial([]))
    world.run(5)
    assert idle.events == []
    assert not task.done()
    world.network.power_on("b")
    world.run(5)
    assert near.events == ["lost ConnectionResetError"]
    assert isinstance(task.exception(), ConnectionRefusedError)  # nothing listens yet


def test_an_idle_connection_to_a_machine_that_lost_power_breaks_at_the_first_write(world: World) -> None:
    near, _ = connect(world)
    world.loop.kill(world.processes["b"])
    world.network.power_cut("b")
    world.network.power_on("b")
    world.run(5)
    assert near.events == []
    near.transport.write(b"anyone?")
    world.run(1)
    assert near.events == ["lost ConnectionResetError"]


def test_streams_work_on_it(world: World) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> list[bytes]:
        reader, writer = await asyncio.open_connection("b", 7)
        lines = []
        for word in (b"one\n", b"two\n"):
            writer.write(word)
            lines.append(await reader.readline())
        writer.close()
        await writer.wait_closed()
        return lines

    world.start("b", asyncio.start_server(echo, "b", 7))
    world.run(0.01)
    task = world.start("a", main())
    world.run(1)
    assert task.result() == [b"ONE\n", b"TWO\n"]


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    def digest(seed: int) -> str:
        world = World(seed)
        near, far = connect(world)
        far.data_received = lambda data: far.transport.write(data)
        context = world.processes["a"].context()
        for number in range(100):
            world.loop.call_later(number * 0.001, near.transport.write, bytes(number), context=context)
        world.run(1)
        far.transport.abort()
        world.run(1)
        world.loop.dispose()
        return world.loop.trace.digest()

    assert digest(1) == digest(1) != digest(2)
