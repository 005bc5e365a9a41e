"""`python -m examples`: run every example, those in the documents too, against nodes; 1 when one fails.

An example whose program is not on this machine is passed over, or with RLOG_TESTS_STRICT=1 has failed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from examples import _documents
from rlog.cli.local_cluster import LocalCluster

TIMEOUT_S = 60
HERE = Path(__file__).parent
INTERPRETERS = {".py": sys.executable, ".sh": "sh", ".js": "node"}
NEEDS = {"kcat_client.sh": ("kcat",), "kafkajs_client.js": ("node", "npm")}
# kafkajs, as package-lock.json there pins it.
NODE_PACKAGES = HERE.parent / "tests/clients/kafkajs"
WITH_PYTHON_BLOCKS = ("README.md", "docs/python.md", "docs/embedded.md")


def programs(directory: Path, bootstrap: str) -> list[Path]:
    """The examples beside this file, and the Python blocks of documents with this cluster's address."""
    shown = []
    for document in WITH_PYTHON_BLOCKS:
        for number, block in enumerate(_documents.blocks(document, "python"), start=1):
            shown.append(directory / f"{Path(document).stem.lower()}-{number}.py")
            shown[-1].write_text(block.replace("127.0.0.1:9092", bootstrap))
    beside = [path for path in sorted(HERE.iterdir()) if path.suffix in INTERPRETERS]
    return [*(path for path in beside if not path.name.startswith("_")), *shown]


def missing_for(path: Path) -> list[str]:
    return [program for program in NEEDS.get(path.name, ()) if shutil.which(program) is None]


def install_node_packages(directory: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(NODE_PACKAGES / name, directory)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(command, cwd=directory, check=True, timeout=TIMEOUT_S)


def run(path: Path, directory: Path, cluster: LocalCluster) -> bool:
    """Whether it ended well."""
    print(f"== {path.name}", flush=True)
    if missing := missing_for(path):
        print(f"not run: {' and '.join(missing)} not installed")
        return os.environ.get("RLOG_TESTS_STRICT") != "1"
    if path.suffix == ".js":
        install_node_packages(directory)
    done = subprocess.run(
        [INTERPRETERS[path.suffix], str(path), cluster.bootstrap, cluster.admin],
        cwd=directory,  # what they store is theirs
        timeout=TIMEOUT_S,
        env={
            **os.environ,
            "RLOG": str(Path(sys.executable).with_name("rlog")),
            "NODE_PATH": str(directory / "node_modules"),
        },
        check=False,
    )
    return done.returncode == 0


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
            if not run(path, Path(directory), cluster):
                failed.append(path.name)
    for document, words in documents.result().items():
        print(f"== {words}")
        failed.append(document)
    print(f"failed: {', '.join(failed)}" if failed else "all examples ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
