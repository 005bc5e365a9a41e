"""The group of commands. A command's module is imported only when that command runs."""

import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import click

from rlog import __version__
from rlog.cli.exits import INTERRUPTED, OUTPUT
from rlog.cli.output import OutputFailed, ReaderGone, guarded

COMMANDS = {
    "serve": "Run one node of a cluster.",
    "dev": "Run a whole cluster on this machine, for trying things out.",
    "status": "Show each partition's leader, generation, high-water mark and lag.",
    "produce": "Write lines, or JSON, from a file or standard input to a topic.",
    "consume": "Print a topic's records.",
    "verify": "Check everything in a data directory; changes nothing.",
    "dump": "Print the batches and records in a data directory; changes nothing.",
    "bench": "Measure commit throughput and latency on this machine.",
    "demo": "Three nodes, real disks, the leader killed under load: verify that nothing is lost.",
    "completion": "Print the completion script of a shell.",
}


class Commands(click.Group):
    """Finds a command in the module of its name: `rlog serve` is `command` in rlog.cli.serve.

    What may end any command, and none handles, ends it here: Ctrl-C before it listens for it, and standard
    output that cannot be written.
    """

    def main(self, args: Sequence[str] | None = None, *rest: Any, **settings: Any) -> Any:
        try:
            with guarded():
                return super().main(args, *rest, **settings)
        except ReaderGone:
            sys.exit(0)
        except OutputFailed as error:
            click.echo(f"rlog: {error}", err=True)
            sys.exit(OUTPUT)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            click.echo("rlog: interrupted", err=True)
            sys.exit(INTERRUPTED)

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"rlog.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = get_close_matches(args[0], COMMANDS, n=1)
        if near and args[0] not in COMMANDS and not context.resilient_parsing:
            context.fail(f"No such command {args[0]!r}; did you mean {near[0]!r}?")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Commands, name="rlog")
@click.version_option(__version__, prog_name="rlog")
def main() -> None:
    """A replicated log: what is acknowledged is flushed to disk on a majority."""
