"""What the demo shows while it runs: progress bars on a terminal, plain lines elsewhere; and the summary."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rlog.cli.demo.result import Result
from rlog.cli.output import printing


class Show:
    """Events and progress. `quiet_stdout` keeps standard output free for JSON."""

    def __init__(self, *, quiet_stdout: bool) -> None:
        self._console = Console(
            file=sys.stderr if quiet_stdout else sys.stdout, soft_wrap=True, highlight=False
        )
        self._started = time.monotonic()
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> "Show":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def event(self, text: str) -> None:
        """One line: what just happened."""
        with printing():
            self._console.print(f"[{time.monotonic() - self._started:6.2f} s] {text}", markup=False)

    def bar(self, name: str, done: int, total: int) -> None:
        """Move the bar of this name, made at its first use."""
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._bars[name], completed=done, total=total)

    def summary(self, result: Result) -> None:
        self._console.print()
        for name, value in result.lines():
            self._console.print(f"{name:<16}{value}", markup=False)
        for problem in result.problems:
            self._console.print(f"PROBLEM: {problem}", markup=False)
        verdict = "interrupted" if result.interrupted else "verified" if result.is_good() else "FAILED"
        self._console.print(verdict, markup=False)
