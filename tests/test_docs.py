"""What the documents tell a reader to type exists, and what they link to is there."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINE_CHARACTERS_MAX = 120
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shell_lines() -> Iterator[tuple[str, str]]:
    """(document, command) of each line in a ```sh block."""
    for path in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(), flags=re.DOTALL):
            for line in block.splitlines():
                if line.split("#")[0].strip():
                    yield path.name, line.split("#")[0].strip()


COMMANDS = sorted(set(shell_lines()))


@cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"], capture_output=True, text=True, check=True
    )
    return done.stdout


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize(("document", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_every_command_in_the_documents_exists(document: str, line: str) -> None:
    words = shlex.split(line.split(" | ")[-1])
    if words[0] == "make":
        assert words[1] in make_targets(), document
    elif words[0] == ".venv/bin/rlog":
        options = [word for word in words[2:] if word.startswith("--")]
        shown = help_of("rlog", words[1])
        assert [option for option in options if option not in shown] == []
    elif words[:2] == [".venv/bin/python", "-m"]:
        options = [word for word in words[3:] if word.startswith("--")]
        shown = help_of(words[2])
        assert [option for option in options if option not in shown] == []
    else:
        assert (ROOT / words[0]).exists(), f"{document} tells to run {line}"


def test_no_line_of_prose_is_over_long() -> None:
    wrong = [
        f"{path.name}:{number}"
        for path in DOCUMENTS
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > LINE_CHARACTERS_MAX and not line.startswith("|")
    ]
    assert not wrong, wrong


def test_links_to_files_lead_somewhere() -> None:
    broken = [
        f"{path.name}: {target}"
        for path in DOCUMENTS
        for target in re.findall(r"\]\(([^)#]+)", path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert not broken, broken


def test_nobody_is_told_to_install_another_project() -> None:
    """The name rlog belongs to someone else on PyPI."""
    wrong = [
        path.name for path in DOCUMENTS if re.search(r"pip install\s+(-\S+\s+)*rlog\b(?!-)", path.read_text())
    ]
    assert not wrong, wrong


def test_the_table_of_safety_rules_names_tests_that_exist() -> None:
    rows = re.findall(r"`(tests/[\w/]+\.py)::(\w+)", (ROOT / "docs/testing.md").read_text())
    missing = [f"{path}::{name}" for path, name in rows if f"def {name}(" not in _text(ROOT / path)]
    paths = re.findall(r"`(tests/[\w/.]+)`", (ROOT / "docs/testing.md").read_text())
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert len(rows) > 50
    assert not missing, missing


def rules_cited() -> set[int]:
    """By comments and tests as `SAFETY n, m`, by the table of docs/testing.md in its first cell."""
    found: list[str] = []
    for folder in ("rlog", "tests"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in {".py", ".pyi", ".pyx", ".pxi", ".txt"}:
                found += re.findall(r"SAFETY[\s#]+(\d+(?:,\s+\d+)*)", path.read_text())
    found += re.findall(r"^\| (\d+(?:, \d+)*) \|", (ROOT / "docs/testing.md").read_text(), flags=re.MULTILINE)
    return {int(number) for numbers in found for number in numbers.split(",")}


def test_each_safety_rule_that_is_cited_has_its_line() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/safety.md").read_text(), flags=re.MULTILINE)
    assert sorted(map(int, rows)) == sorted(rules_cited())


def test_documents_for_users_cite_no_bare_rule() -> None:
    rules = ROOT / "docs/safety.md"
    wrong = [path.name for path in DOCUMENTS if path != rules and re.search(r"SAFETY \d", _text(path))]
    assert not wrong, wrong


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
