"""Options that several commands share, spelt and explained the same everywhere."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

BOOTSTRAP = "127.0.0.1:9092,127.0.0.1:9093,127.0.0.1:9094"


def bootstrap_option(command: F) -> F:
    """--bootstrap, or RLOG_BOOTSTRAP in the environment; `bootstrap` of the command."""
    return click.option(
        "-b",
        "--bootstrap",
        default=BOOTSTRAP,
        show_default=True,
        envvar="RLOG_BOOTSTRAP",
        show_envvar=True,
        metavar="HOST:PORT,...",
        help="Nodes of the cluster; one that answers is enough.",
    )(command)


def timeout_option(command: F) -> F:
    """--timeout in seconds; `timeout_s` of the command."""
    return click.option(
        "--timeout",
        "timeout_s",
        default=10.0,
        show_default=True,
        type=click.FloatRange(0.1, 3600),
        help="Seconds to wait for the cluster.",
    )(command)


def json_option(text: str) -> Callable[[F], F]:
    """--json; `as_json` of the command."""
    return click.option("--json", "as_json", is_flag=True, help=text)
