"""Ctrl-C, forks and the interpreter's end: nothing hangs, nothing is lost, nothing goes on unseen."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from itertools import islice

import pytest

import rlog
from rlog.client import ClientClosed, ClientError
from rlog.errors import ForkedProcess
from rlog.sync.portal import Portal, _Call
from tests.harness.processes import wait_for

PATIENCE_S = 30


def interrupt_when_waiting(portal: Portal) -> threading.Thread:
    """Ctrl-C for the main thread, once it waits for a call."""

    def work() -> None:
        wait_for(lambda: bool(portal._calls), "what is to be interrupted")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


READS: dict[str, Callable[[rlog.sync.Consumer], object]] = {
    "iterate": next,
    "fetch": lambda consumer: consumer.fetch(timeout_ms=60_000),
    "values": lambda consumer: consumer.values(timeout_ms=60_000),
}


@pytest.mark.parametrize("way", READS)
def test_an_interrupted_reader_reads_on_where_it_was(bootstrap: str, way: str) -> None:
    with rlog.sync.connect(bootstrap) as cluster, cluster.producer("orders") as producer:
        begin = producer.send(b"before").result().offset
        with cluster.consumer("orders", start=begin) as consumer:
            assert next(consumer).value == b"before"
            thread = interrupt_when_waiting(consumer._portal)
            with pytest.raises(KeyboardInterrupt):
                READS[way](consumer)
            thread.join()
            producer.send_many([b"1", b"2", b"3"])
            assert [record.value for record in islice(consumer, 3)] == [b"1", b"2", b"3"]


def test_an_interrupted_flush_may_be_asked_again(bootstrap: str) -> None:
    with (
        rlog.sync.connect(bootstrap) as cluster,
        cluster.producer("wide", linger_ms=60_000, delivery_timeout_ms=120_000) as producer,
    ):
        ack = producer.send(b"x", partition=1)
        wait_for(lambda: producer.buffered_bytes > 0, "the record is taken")
        thread = interrupt_when_waiting(producer._portal)
        with pytest.raises(KeyboardInterrupt):
            ack.result()
        thread.join()
        producer.flush()
        assert ack.result().partition == 1


def test_a_read_that_ended_just_as_it_was_interrupted_is_read_again(bootstrap: str) -> None:
    with rlog.sync.connect(bootstrap) as cluster, cluster.producer("orders") as producer:
        begin = producer.send_many([b"1", b"2", b"3"]).result().first_offset
        with cluster.consumer("orders", start=begin) as consumer:
            got = consumer.values()
            assert got[0] == b"1"
            consumer._portal.call(consumer._consumer.unread)
            assert consumer.position() == begin
            assert next(consumer).value == b"1"
            rest = consumer.fetch()
            consumer._portal.call(consumer._consumer.unread)
            assert consumer.fetch() == rest


def test_a_call_that_ends_in_spite_of_its_cancellation_is_undone() -> None:
    portal = Portal("test")
    undone: list[int] = []

    async def stubborn() -> int:
        try:
            await asyncio.sleep(PATIENCE_S)
        except asyncio.CancelledError:
            return 1
        return 2

    thread = interrupt_when_waiting(portal)
    with pytest.raises(KeyboardInterrupt):
        portal.run(stubborn(), undo=lambda: undone.append(1))
    thread.join()
    assert undone == [1]
    portal.close()


def test_what_is_cancelled_before_it_began_has_ended() -> None:
    portal = Portal("test")

    async def never() -> None:
        raise AssertionError("it was cancelled before")

    call = _Call(never())

    def start_and_cancel() -> None:
        call.start()
        call.cancel()

    portal.call(start_and_cancel)
    with pytest.raises(futures.CancelledError):
        call.ended.result(PATIENCE_S)
    portal.close()


def test_a_portal_ends_what_it_runs_and_refuses_what_cannot_work() -> None:
    portal = Portal("test")
    with pytest.raises(ZeroDivisionError):
        portal.call(lambda: 1 // 0)
    with pytest.raises(ClientError, match="own thread"):
        portal.call(lambda: portal.call(int))
    errors: list[Exception] = []
    started = threading.Event()

    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    def wait() -> None:
        try:
            portal.run(endless())
        except ClientClosed as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert started.wait(PATIENCE_S)
    portal.close()
    thread.join(PATIENCE_S)
    assert len(errors) == 1
    with pytest.raises(ClientClosed):
        portal.call(int)
    portal.close()


def test_a_fork_is_refused_and_its_parent_goes_on(bootstrap: str) -> None:
    """In the child nothing may touch the parent's sockets, or wait for a thread that is not there."""
    with (
        rlog.sync.connect(bootstrap) as cluster,
        cluster.producer("orders") as producer,
        cluster.consumer("orders") as consumer,
    ):
        producer.send(b"x").result()
        next(consumer)
        child = os.fork()
        if child == 0:
            try:
                os._exit(in_a_child(cluster, producer, consumer))
            finally:
                os._exit(99)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert producer.send(b"y").result().offset > 0


def in_a_child(cluster: rlog.sync.Cluster, producer: rlog.sync.Producer, consumer: rlog.sync.Consumer) -> int:
    """0, or which of the uses was not refused."""
    uses: list[Callable[[], object]] = [
        lambda: producer.send(b"z"),
        lambda: producer.send_many([b"z"]),
        producer.flush,
        lambda: next(consumer),
        consumer.values,
        lambda: consumer.state,
        cluster.topics,
        lambda: cluster.producer("orders"),
    ]
    for number, use in enumerate(uses, start=1):
        try:
            use()
        except ForkedProcess:
            continue
        return number
    for close in (producer.close, producer.abandon, consumer.close, cluster.close):
        close()
    return 0


EXITS = {
    "nothing is closed": "",
    "a thread waits for records": "threading.Thread(target=list, args=(consumer,), daemon=True).start()",
    "records are on their way": "[producer.send(bytes(1000)) for _ in range(5000)]",
    "an exception": "raise KeyError",
    "sys.exit": "sys.exit(1)",
}


@pytest.mark.parametrize("name", EXITS)
def test_the_interpreter_ends_with_everything_left_open(bootstrap: str, name: str) -> None:
    program = f"""
import sys, threading
import rlog.sync
cluster = rlog.sync.connect({bootstrap!r}).__enter__()
producer = cluster.producer("wide").__enter__()
consumer = cluster.consumer("quiet").__enter__()
producer.send(b"x").result()
{EXITS[name]}
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        timeout=PATIENCE_S,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if name in ("an exception", "sys.exit") else 0), done.stderr
    assert "ResourceWarning: the client" in done.stderr
    assert "Fatal" not in done.stderr


def test_what_is_sent_after_an_interrupted_send_is_admitted(
    bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between telling the loop and noting that it knows, or the other way round."""
    with rlog.sync.connect(bootstrap) as cluster, cluster.producer("orders") as producer:
        portal = producer._portal
        post = portal.post

        def interrupted(function: Callable[[], None]) -> None:
            monkeypatch.setattr(portal, "post", post)
            raise KeyboardInterrupt

        monkeypatch.setattr(portal, "post", interrupted)
        with pytest.raises(KeyboardInterrupt):
            producer.send(b"interrupted")
        acks = [producer.send(b"later") for _ in range(5)]
        wait_for(lambda: all(ack.done() for ack in acks), "what was sent later")
        producer.flush()
        assert producer.buffered_bytes == 0


def test_a_signal_handler_may_send_while_its_thread_does(
    bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rlog.sync.connect(bootstrap) as cluster, cluster.producer("orders") as producer:
        begin = cluster.end_offset("orders")
        from_handler: list[rlog.sync.Ack] = []
        post = producer._portal.post

        def interrupted(function: Callable[[], None]) -> None:
            """In the middle of `send`."""
            monkeypatch.setattr(producer._portal, "post", post)
            with producer._portal._lock:
                signal.raise_signal(signal.SIGUSR1)
            post(function)

        def handle(*_: object) -> None:
            from_handler.append(producer.send(b"from the handler"))

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            monkeypatch.setattr(producer._portal, "post", interrupted)
            ack = producer.send(b"x")
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert sorted([ack.result().offset, from_handler[0].result().offset]) == [begin, begin + 1]


def test_an_interrupt_of_a_call_that_is_cancelled_stays_an_interrupt() -> None:
    async def work() -> None:
        pass

    call = _Call(work())
    call.ended.cancel()
    assert not call.raised(KeyboardInterrupt())
    call.work.close()
