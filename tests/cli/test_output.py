"""Standard output that fails, and Ctrl-C before a command listens for it: a message and a status each."""

import importlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

import rlog.__main__
import rlog.cli
from rlog.cli.exits import INTERRUPTED, OUTPUT
from rlog.cli.local_cluster import LocalCluster
from rlog.cli.main import main
from rlog.cli.progress import bar
from tests.cli.commands import RLOG, environment
from tests.cli.directories import flip, make


@contextmanager
def nobody_reads() -> Iterator[int]:
    """The end to write to of a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def ended(arguments: list[str], stdout: int, **more: str) -> tuple[int, str]:
    """(exit status, what it said on standard error)."""
    done = subprocess.run(
        [*RLOG, *arguments], stdout=stdout, stderr=subprocess.PIPE, env=environment(**more), check=False
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("command", ["verify", "dump"])
def test_a_full_disk_under_its_output_is_said_and_is_no_verdict(tmp_path: Path, command: str) -> None:
    make(tmp_path / "data")
    with Path("/dev/full").open("wb") as full:
        told = ended([command, str(tmp_path / "data")], full.fileno())
    assert told == (OUTPUT, "rlog: standard output cannot be written: No space left on device\n")


def test_so_it_is_where_a_cluster_is_asked(cluster: LocalCluster) -> None:
    told = (OUTPUT, "rlog: standard output cannot be written: No space left on device\n")
    with Path("/dev/full").open("wb") as full:
        for arguments in (["produce", "one", __file__, "--report", "json"], ["consume", "one", "-e"]):
            assert ended(arguments, full.fileno(), RLOG_BOOTSTRAP=cluster.bootstrap) == told


def test_a_verdict_that_nobody_reads_stands(tmp_path: Path) -> None:
    make(tmp_path / "data")
    with nobody_reads() as pipe:
        assert ended(["dump", str(tmp_path / "data")], pipe) == (0, "")
        assert ended(["verify", str(tmp_path / "data")], pipe) == (0, "")
        flip(tmp_path / "data" / "meta.b", 40)
        assert ended(["verify", str(tmp_path / "data")], pipe) == (1, "")


def test_without_a_standard_output_it_fails_as_any_other() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *RLOG, "--version"],
        stderr=subprocess.PIPE,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stderr.decode()) == (
        OUTPUT,
        "rlog: standard output cannot be written: Bad file descriptor\n",
    )


def interrupt(*arguments: object, **settings: object) -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_while_a_command_is_being_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", interrupt)
    done = CliRunner().invoke(main, ["status"])
    assert (done.exit_code, done.output) == (INTERRUPTED, "rlog: interrupted\n")


def test_ctrl_c_while_the_program_is_being_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rlog.cli, "main", interrupt)
    with pytest.raises(SystemExit) as end:
        rlog.__main__.command()
    assert (end.value.code, capsys.readouterr().err) == (INTERRUPTED, "rlog: interrupted\n")


def test_ctrl_c_while_the_demo_reads_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlog.cli.demo.source.Source.standard_library", interrupt)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    done = CliRunner().invoke(main, ["demo"])
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert done.exit_code == INTERRUPTED
    assert done.output.splitlines()[-1] == "interrupted"
    assert "PROBLEM" not in done.output


def test_a_misspelt_command_gets_a_suggestion() -> None:
    done = CliRunner().invoke(main, ["cosume", "orders"])
    assert done.exit_code == 2
    assert "did you mean 'consume'?" in done.output


def test_what_is_said_above_a_bar_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with bar("reading", 10) as progress:
        progress.say("rlog: interrupted")
    written = capsys.readouterr().err
    assert "━" in written
    assert written.partition("rlog: interrupted")[0].endswith("\x1b[2K")
    assert written.partition("rlog: interrupted")[2].startswith("\n")
