"""Each file of `scripts/` is a conversation with the exact transcript that it must give; see `script.py`.

RLOG_SCRIPTS_REWRITE=1 writes the transcripts as they are, to be read and judged before they are committed.
"""

import os
from pathlib import Path

import pytest

from tests.raft.script import Script

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_conversation_goes_as_written(path: Path) -> None:
    written = path.read_text()
    happened = Script(written).run()
    if os.environ.get("RLOG_SCRIPTS_REWRITE") == "1":
        path.write_text(happened)
        written = happened
    assert happened == written


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 20
