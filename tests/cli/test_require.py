"""scripts/require on a machine that lacks things: it says what, and the one command that installs it."""

import shutil
import subprocess
from pathlib import Path

import pytest

REQUIRE = Path(__file__).parents[2] / "scripts/require"


def require(
    directory: Path, *, tools: tuple[str, ...], fakes: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    """Run it where only these tools exist; `fakes` do nothing and succeed."""
    for tool in ("sh", *tools):
        found = shutil.which(tool)
        assert found is not None
        (directory / tool).symlink_to(found)
    for fake in fakes:
        (directory / fake).write_text("#!/bin/sh\n")
        (directory / fake).chmod(0o755)
    shell = str(directory / "sh")
    environment = {"PATH": str(directory)}
    return subprocess.run([shell, str(REQUIRE)], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(("manager", "command"), [
    ("apt-get", "apt-get install -y"),
    ("dnf", "dnf install -y"),
    ("apk", "apk add"),
])  # fmt: skip
def test_what_is_missing_is_named_with_one_command(tmp_path: Path, manager: str, command: str) -> None:
    done = require(tmp_path, tools=("id", "git"), fakes=(manager,))
    assert done.returncode == 1
    assert done.stdout == ""
    lacks, _, install, *rest = done.stderr.splitlines()
    assert "make" in lacks
    assert "cc" in lacks
    assert " git" not in lacks
    assert command in install
    assert "gcc" in install
    assert rest == []


def test_without_a_known_package_manager_it_says_what_to_install(tmp_path: Path) -> None:
    done = require(tmp_path, tools=("id",), fakes=())
    assert done.returncode == 1
    assert "Install git, make, a C compiler and Python 3.11" in done.stderr


def test_with_everything_there_it_prints_the_interpreter(tmp_path: Path) -> None:
    done = require(tmp_path, tools=("git", "make", "python3"), fakes=("cc",))
    assert (done.returncode, done.stderr) == (0, "")
    assert "python3" in done.stdout
