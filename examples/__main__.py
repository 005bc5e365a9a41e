"""`python -m examples`: run every example, those in the documents too, against nodes; 1 when one fails."""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from examples import _documents
from rlog.cli.local_cluster import LocalCluster

TIMEOUT_S = 60
HERE = Path(__file__).parent
WITH_PYTHON_BLOCKS = ("README.md", "docs/python.md", "docs/embedded.md")


def programs(directory: Path, bootstrap: str) -> list[Path]:
    """The examples beside this file, and the Python blocks of documents with this cluster's address."""
    shown = []
    for document in WITH_PYTHON_BLOCKS:
        for number, block in enumerate(_documents.blocks(document, "python"), start=1):
            shown.append(directory / f"{Path(document).stem.lower()}-{number}.py")
            shown[-1].write_text(block.replace("127.0.0.1:9092", bootstrap))
    return [*sorted(HERE.glob("[!_]*.py")), *sorted(HERE.glob("*.sh")), *shown]


def run_documents() -> dict[str, str]:
    """Type what the documents tell to; what went wrong, by document."""
    failed = {}
    for document in _documents.WITH_SHELL_BLOCKS:
        with tempfile.TemporaryDirectory(prefix="rlog-examples-") as directory:
            try:
                _documents.run(document, Path(directory))
            except _documents.Failed as error:
                failed[document] = str(error)
    return failed


def main() -> int:
    failed = []
    with (
        tempfile.TemporaryDirectory(prefix="rlog-examples-") as directory,
        LocalCluster(Path(directory), topics={"orders": 3}, admin=True) as cluster,
        ThreadPoolExecutor(1) as beside,
    ):
        cluster.start()
        cluster.wait_ready()
        documents = beside.submit(run_documents)
        for path in programs(Path(directory), cluster.bootstrap):
            print(f"== {path.name}", flush=True)
            program = ["sh"] if path.suffix == ".sh" else [sys.executable]
            done = subprocess.run(
                [*program, str(path), cluster.bootstrap, cluster.admin],
                cwd=directory,  # what they store is theirs
                timeout=TIMEOUT_S,
                env={**os.environ, "RLOG": str(Path(sys.executable).with_name("rlog"))},
                check=False,
            )
            if done.returncode != 0:
                failed.append(path.name)
    for document, words in documents.result().items():
        print(f"== {words}")
        failed.append(document)
    print(f"failed: {', '.join(failed)}" if failed else "all examples ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
