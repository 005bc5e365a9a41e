"""What the documents tell a reader to type, typed: the shell blocks of each, one after the other.

A document's `toml` block becomes `node.toml`. `rlog dev` stays beside what follows, as in a terminal of its
own, on ports that are free; the commands after it find its nodes by RLOG_BOOTSTRAP.
"""

import os
import re
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TIMEOUT_S = 60
ROOT = Path(__file__).parents[1]
WITH_SHELL_BLOCKS = ("README.md", "docs/cli.md")
RLOG = shlex.quote(str(Path(sys.executable).with_name("rlog")))


class Failed(Exception):
    """A command did not do what the document says; the message has its words."""


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of that language, in order."""
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(document: str) -> Iterator[str]:
    """Each line of the shell blocks; `make` is what runs this."""
    for block in blocks(document, "sh"):
        for line in block.splitlines():
            if line.strip() and not line.startswith(("make ", "#")):
                yield line.replace(".venv/bin/rlog", RLOG)


def run(document: str, directory: Path) -> None:
    """Type it all, in `directory`. Raises Failed at the first command that ends otherwise than with 0."""
    for block in blocks(document, "toml"):
        (directory / "node.toml").write_text(block)
    environment = dict(os.environ)
    with ExitStack() as terminals:
        for line in commands(document):
            if line.startswith(f"{RLOG} dev"):
                environment["RLOG_BOOTSTRAP"] = terminals.enter_context(_cluster(line, directory))
                continue
            _type(line, directory, environment)


def _type(line: str, directory: Path, environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{line}: did not end within {TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise Failed(f"{line}: ended with {done.returncode}: {done.stderr}")


@contextmanager
def _cluster(line: str, directory: Path) -> Iterator[str]:
    """`rlog dev` until the end of the document; the addresses that it printed."""
    with subprocess.Popen(
        [*shlex.split(line, comments=True), "--port", "0"], cwd=directory, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            heard, _, _ = select.select([process.stdout], [], [], TIMEOUT_S)
            ready = re.match(r"ready bootstrap=(\S+)$", process.stdout.readline() if heard else "")
            if ready is None:
                raise Failed(f"{line}: is not ready after {TIMEOUT_S} s, or says so otherwise")
            yield ready[1]
        finally:
            process.terminate()
            if process.wait(TIMEOUT_S) != 0:
                raise Failed(f"{line}: ended with {process.returncode}")
