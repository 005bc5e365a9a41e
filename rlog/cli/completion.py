"""`rlog completion`: the script that makes a shell complete `rlog`'s commands and options."""

import os
import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from rlog.cli.exits import USAGE, fail

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_RLOG_COMPLETE"
INSTALL = {
    "bash": "in ~/.bashrc:  eval \"$(rlog completion bash)\"",
    "zsh": "in ~/.zshrc, after compinit:  eval \"$(rlog completion zsh)\"",
    "fish": "rlog completion fish > ~/.config/fish/completions/rlog.fish",
}  # fmt: skip


@click.command(name="completion")
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def command(shell: str | None) -> None:
    """Print the completion script of SHELL; without it, of the shell named by $SHELL.

    The script goes to standard output, and how to install it, when that is a terminal, to standard error.
    """
    shell = shell or _own_shell()
    completion = get_completion_class(shell)
    assert completion is not None
    # Imported here: the group imports this module to run the command.
    from rlog.cli.main import main

    click.echo(completion(main, {}, "rlog", VARIABLE).source())
    if sys.stdout.isatty():
        click.echo(f"To install it:\n{INSTALL[shell]}", err=True)


def _own_shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        fail(f"say which shell: rlog completion {'|'.join(SHELLS)}", exit_code=USAGE)
    return name
