"""Signal handlers that use the log, wherever in an append of their own thread they come."""

from itertools import count

import pytest

from rlog.embedded.log import Log
from rlog.errors import LogClosed, Reentered
from rlog.testing.disk import MemoryDisk
from tests.embedded.interrupting import interrupted
from tests.embedded.kit import open_on, values_of


def test_a_handler_may_close_the_log_wherever_it_interrupts_an_append() -> None:
    """The append ends as it would have, or is refused as any after a close; and the files are closed."""
    for step in count():
        disk = MemoryDisk()
        log = open_on(disk)
        log.append(b"before")
        appended = []

        def append(log: Log = log, appended: list[bytes] = appended) -> None:
            try:
                log.append(b"x")
                appended.append(b"x")
            except LogClosed:
                pass

        has_come, _ = interrupted(append, step, handler=lambda *_, log=log: log.close())
        assert log.is_closed == has_come
        if not has_come:
            break
        with open_on(disk) as log:
            assert values_of(log) == [b"before", *appended]
    assert step > 20


def test_a_handler_that_appends_amid_an_append_is_refused_and_harms_nothing() -> None:
    """Where it does not interrupt the core of one, it appends as everybody."""
    refused = 0
    for step in count():
        with open_on(MemoryDisk()) as log:
            handled: list[bytes] = []

            def append(*_: object, log: Log = log, handled: list[bytes] = handled) -> None:
                nonlocal refused
                try:
                    log.append(b"handler")
                    handled.append(b"handler")
                except Reentered:
                    refused += 1

            has_come, _ = interrupted(lambda log=log: log.append(b"x"), step, handler=append)
            assert sorted(values_of(log)) == sorted([b"x", *handled])
            log.append(b"goes on")
        if not has_come:
            break
    assert refused > 10


def test_a_handler_may_close_what_is_closing() -> None:
    for step in count():
        disk = MemoryDisk()
        log = open_on(disk)
        has_come, _ = interrupted(log.close, step, handler=lambda *_, log=log: log.close())
        if not has_come:
            break
        open_on(disk).close()
    assert step > 5


def test_a_handler_that_lets_its_refusal_out_ends_the_append_with_it() -> None:
    """Once its fate is known, as any interrupt does."""

    def append_until_refused(log: Log) -> None:
        for step in count():
            interrupted(lambda: log.append(b"x"), step, handler=lambda *_: log.append(b"handler"))

    with open_on(MemoryDisk()) as log:
        with pytest.raises(Reentered, match="let it set a flag"):
            append_until_refused(log)
        log.append(b"goes on")
