"""Input in pieces: a file, or standard input, split at a delimiter, with bounded memory.

Nothing here is a thread: what can be waited for (a pipe, a terminal, a socket) is waited for by the loop, so
that Ctrl-C is heard; anything else is read directly.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import suppress

import click

CHUNK_BYTES = 256 * 1024

ESCAPES = {"\\n": b"\n", "\\t": b"\t", "\\r": b"\r", "\\0": b"\0", "\\\\": b"\\"}


def as_bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> bytes | None:
    """Callback of an option whose value is bytes: see `bytes_of`."""
    try:
        return None if value is None else bytes_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def bytes_of(text: str) -> bytes:
    r"""As written, but `\n`, `\t`, `\r`, `\0`, `\\` and `\xHH` as in C. Raises ValueError."""
    parts = bytearray()
    position = 0
    while position < len(text):
        pair = text[position : position + 2]
        if pair in ESCAPES:
            parts += ESCAPES[pair]
            position += 2
        elif pair == "\\x":
            with suppress(ValueError):
                parts.append(int(text[position + 2 : position + 4].rjust(2, "?"), 16))
                position += 4
                continue
            raise ValueError(f"{text!r}: write two hexadecimal digits after \\x")
        else:
            parts += os.fsencode(text[position])
            position += 1
    if not parts:
        raise ValueError("it is empty: name at least one character")
    return bytes(parts)


class TooLong(Exception):
    """A piece exceeds the size allowed."""


async def pieces(descriptor: int, delimiter: bytes, *, bytes_max: int) -> AsyncIterator[list[bytes]]:
    """Lists of pieces, without the delimiter that ends each; what stands behind the last one is a piece too.

    Raises TooLong for a piece of more than `bytes_max` bytes, OSError when reading fails.
    """
    rest = b""
    async for chunk in _chunks(descriptor):
        # A delimiter may lie across the border, so the rest is split again; it is below bytes_max.
        *whole, rest = (rest + chunk).split(delimiter)
        if whole:
            yield whole
        if len(rest) > bytes_max:
            raise TooLong
    if rest:
        yield [rest]


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    waits = _can_be_waited_for(descriptor)
    while True:
        if waits:
            readable = loop.create_future()
            loop.add_reader(descriptor, _set, readable)
            try:
                await readable
            finally:
                loop.remove_reader(descriptor)
        chunk = os.read(descriptor, CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _can_be_waited_for(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
