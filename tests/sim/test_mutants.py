"""The table of planted bugs fits the code as it is; hunting them takes minutes and has its own command."""

import ast
from pathlib import Path

import pytest

from tests.sim.mutants import MUTANTS, ROOT, Mutant, plant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_planted_bug_still_has_its_place(mutant: Mutant, tmp_path: Path) -> None:
    for file in {change.file for change in mutant.replacements}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text((ROOT / file).read_text())
    plant(mutant, tmp_path)
    for file in {change.file for change in mutant.replacements}:
        text = (tmp_path / file).read_text()
        assert text != (ROOT / file).read_text()
        ast.parse(text)


def test_the_eight_bugs_of_the_contract_are_planted() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 8


def test_the_document_lists_the_planted_bugs() -> None:
    section = (ROOT / "docs/testing.md").read_text().partition("## Planted bugs")[2].partition("\n## ")[0]
    rows = [tuple(line.split(" | ")[:2]) for line in section.splitlines() if line.startswith("| ")]
    assert rows[1:] == [(f"| {mutant.name}", mutant.rules) for mutant in MUTANTS]
