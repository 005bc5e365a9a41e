"""`rlog completion`: the scripts, and what a shell gets from them."""

import shutil
import subprocess

import pytest

from tests.cli.commands import RLOG, environment, inside, on_a_terminal

SHELLS = ("bash", "zsh", "fish")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_names_the_program_and_its_variable(shell: str) -> None:
    script = inside("completion", shell).stdout.decode()
    assert "_RLOG_COMPLETE" in script
    assert "rlog" in script
    assert inside("completion", SHELL=f"/usr/bin/{shell}").stdout.decode() == script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script.encode(), check=True)


def test_bash_gets_commands_and_options() -> None:
    def completed(*words: str) -> list[str]:
        asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        told = subprocess.run(
            RLOG, env=environment(_RLOG_COMPLETE="bash_complete", **asked), capture_output=True, check=False
        )
        return [line.partition(",")[2] for line in told.stdout.decode().splitlines()]

    assert completed("rlog", "pro") == ["produce"]
    assert "--partition" in completed("rlog", "consume", "--pa")


def test_an_unknown_shell_is_asked_for() -> None:
    assert b"bash|zsh|fish" in inside("completion", status=2, SHELL="/bin/ksh").stderr
    assert b"'bash', 'zsh', 'fish'" in inside("completion", "ksh", status=2).stderr


def test_on_a_terminal_it_says_how_to_install() -> None:
    status, said = on_a_terminal("completion", "zsh")
    assert status == 0
    assert b'in ~/.zshrc, after compinit:  eval "$(rlog completion zsh)"' in said
