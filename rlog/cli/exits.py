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
INTERRUPTED = 130


def fail(message: str, *, exit_code: int = FAILED) -> NoReturn:
    """Say on standard error why, and end the command."""
    click.echo(f"rlog: {message}", err=True)
    raise SystemExit(exit_code)


def exit_code_of(error: RlogError) -> int:
    if isinstance(error, ConfigurationError):
        return USAGE
    if isinstance(error, DataDirectoryError | StorageFailed | CorruptLog):
        return STORAGE
    return FAILED


@contextmanager
def errors_as_exits() -> Iterator[None]:
    """Inside it, an error of rlog ends the command with its message and exit status, without a traceback."""
    try:
        yield
    except RlogError as error:
        fail(str(error), exit_code=exit_code_of(error))
