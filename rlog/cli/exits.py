"""Exit statuses, and how an error of rlog becomes one (documented in rlog.cli)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from rlog.errors import ConfigurationError, CorruptLog, DataDirectoryError, RlogError, StorageFailed

FAILED = 1
USAGE = 2
UNREACHABLE = 3
STORAGE = 4
OUTPUT = 5
INTERRUPTED = 130


def fail(message: str, *, exit_code: int = FAILED) -> NoReturn:
    """Say on standard error why, and end the command."""
    click.echo(f"rlog: {message}", err=True)
    raise SystemExit(exit_code)


def exit_code_of(error: RlogError) -> int:
    # Imported here: a command that needs no client, and does not fail, does not wait for it.
    from rlog.client import (
        ConnectionLost,
        DeadlineExceeded,
        LeaderUnavailable,
        UnknownPartition,
        UnknownTopic,
    )

    if isinstance(error, ConfigurationError | UnknownTopic | UnknownPartition):
        return USAGE
    if isinstance(error, DeadlineExceeded | LeaderUnavailable | ConnectionLost):
        return UNREACHABLE
    if isinstance(error, DataDirectoryError | StorageFailed | CorruptLog):
        return STORAGE
    return FAILED


def explain(error: BaseException) -> str:
    """The message; of a client's error also that of the one behind it, where that adds something."""
    from rlog.client import ClientError

    text = str(error) or type(error).__name__
    cause = error.__cause__ if isinstance(error, ClientError) else None
    if cause is None or not str(cause) or str(cause) in text:
        return text
    return f"{text} (last: {cause})"


@contextmanager
def errors_as_exits() -> Iterator[None]:
    """Inside it, an error of rlog ends the command with its message and exit status, without a traceback."""
    try:
        yield
    except RlogError as error:
        fail(explain(error), exit_code=exit_code_of(error))
