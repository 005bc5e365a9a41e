"""A progress bar: on a terminal only, on standard error, gone when the work is done."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)


class Bar:
    """Moves the bar; does nothing where there is no terminal."""

    def __init__(self, progress: Progress, name: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total)

    def more(self, done: int) -> None:
        self._progress.advance(self._task, done)

    def at(self, done: int, *, name: str | None = None) -> None:
        self._progress.update(self._task, completed=done, description=name)

    def say(self, text: str) -> None:
        """A line of its own on standard error: above the bar, where there is one."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(name: str, total: int | None, *, in_bytes: bool = False) -> Iterator[Bar]:
    """total: None when nobody knows it. in_bytes: of both numbers."""
    console = Console(file=sys.stderr)
    counter: ProgressColumn = DownloadColumn(binary_units=True) if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description:<28}"), BarColumn(bar_width=40), counter, TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield Bar(progress, name, total)
