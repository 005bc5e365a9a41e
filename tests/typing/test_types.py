"""The types that a user sees: sample programs under `mypy --strict`, and the compiled modules' stubs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAMS = sorted(path.name for path in HERE.glob("user_*.py") if path.name != "user_mistakes.py")
TIMEOUT_S = 110


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT), "COLUMNS": "200"},
        timeout=TIMEOUT_S,
        capture_output=True,
        text=True,
        check=False,
    )


def check(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """As a user would, with a configuration of their own: none."""
    strict = ["--strict", "--config-file=", "--explicit-package-bases", "--follow-imports=silent"]
    return run("mypy", *strict, *options, f"tests/typing/{name}")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_users_program_is_clean_and_no_type_is_any(name: str) -> None:
    done = check(name, "--disallow-any-expr")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_users_mistakes_are_found() -> None:
    expected = [
        (number, match[1])
        for number, line in enumerate((HERE / "user_mistakes.py").read_text().split("\n"), start=1)
        if (match := re.search(r"# wrong: ([\w-]+)$", line))
    ]
    done = check("user_mistakes.py", "--enable-error-code=unused-awaitable")
    found = re.findall(r"user_mistakes\.py:(\d+): error: .*\[([\w-]+)\]", done.stdout)
    assert {(int(line), code) for line, code in found} >= set(expected), done.stdout
    assert {int(line) for line, _ in found} == {line for line, _ in expected}, done.stdout


def test_the_stubs_of_the_compiled_modules_say_what_is_there() -> None:
    allowed = f"--allowlist={HERE / 'stubtest_allowed.txt'}"
    done = run("mypy.stubtest", "rlog._core", "rlog.wire.kafka._hot", allowed)
    assert done.returncode == 0, done.stdout + done.stderr
