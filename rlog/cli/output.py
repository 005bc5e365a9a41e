"""Standard output that cannot be written to is no traceback, and no wrong verdict.

A command's own errors from files and sockets are OSErrors, and libraries below it take a BrokenPipeError for
their own business. So what goes wrong with standard output is given a class of its own, here, at the bottom.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT = 1


class OutputFailed(Exception):
    """Standard output cannot be written: a disk is full, say. The message says why."""


class ReaderGone(OutputFailed):
    """Whoever read standard output has what it wanted (`| head`)."""


class _Descriptor(io.FileIO):
    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError as error:
            raise _failed(ReaderGone("nobody reads standard output any more")) from error
        except OSError as error:
            why = f"standard output cannot be written: {error.strerror or error}"
            raise _failed(OutputFailed(why)) from error


def _failed(failure: OutputFailed) -> OutputFailed:
    """What is buffered, or said later, goes nowhere: Python's own flush at the end must not fail again."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), STDOUT)
    return failure


@contextmanager
def guarded() -> Iterator[None]:
    """Inside it what fails of standard output raises OutputFailed, and what is written is flushed at its end.

    Where sys.stdout is not the process's own (a test captures it) it changes nothing.
    """
    if sys.stdout is not sys.__stdout__:
        yield
        return
    with redirect_stdout(_stream()) as stream:
        try:
            yield
        finally:
            stream.flush()


def _stream() -> io.TextIOWrapper:
    own = sys.__stdout__
    if own is None:  # started without one, whose number no socket must get; what is written to it fails
        nowhere = os.open(os.devnull, os.O_RDONLY)
        if nowhere != STDOUT:
            os.dup2(nowhere, STDOUT)
            os.close(nowhere)
        return io.TextIOWrapper(io.BufferedWriter(_Descriptor(STDOUT, "wb", closefd=False)))
    own.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(STDOUT, "wb", closefd=False)),
        encoding=own.encoding,
        errors=own.errors,
        line_buffering=own.line_buffering,
    )


@contextmanager
def printing() -> Iterator[None]:
    """Around what a command says of work that is done: its verdict stands also when nobody reads it."""
    with suppress(ReaderGone):
        yield
        sys.stdout.flush()
