"""The commands and their document agree."""

import re
from pathlib import Path

import click
import pytest

import rlog.cli
from rlog.cli import exits
from rlog.cli.main import COMMANDS, main

DOCUMENT = (Path(__file__).parents[2] / "docs/cli.md").read_text()
STATUSES = {
    value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)
} | {0}  # fmt: skip


def command_of(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command


def options_of(name: str) -> list[str]:
    return [option for each in command_of(name).params for option in each.opts]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_for_everything_and_is_documented(name: str) -> None:
    command = command_of(name)
    assert command.help
    silent = [each.name for each in command.params if isinstance(each, click.Option) and not each.help]
    assert silent == ["log_level"] * (name == "serve")
    assert f"| `rlog {name}` |" in DOCUMENT
    assert f"\n## rlog {name}\n" in DOCUMENT


def test_every_exit_status_is_documented() -> None:
    documented = {int(number) for number in re.findall(r"^\| (\d+) \| ", DOCUMENT, flags=re.MULTILINE)}
    assert documented == STATUSES
    assert {
        int(number) for number in re.findall(r"^\* (\d+) ", rlog.cli.__doc__ or "", re.MULTILINE)
    } == STATUSES


def test_documented_options_exist() -> None:
    """Each --option named in a command's section is one of its options, or of the commands it names."""
    for section in DOCUMENT.split("\n## rlog ")[1:]:
        name = section.split("\n")[0]
        known = {
            option for command in COMMANDS for each in command_of(command).params for option in each.opts
        }
        named = set(re.findall(r"`(--?[a-z][a-z-]*)", section))
        assert named <= known | {"-1h", "-7d", "-15m", "-30s"}, (name, named - known)
