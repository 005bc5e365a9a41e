"""`python -m examples`: run every example, those of the README too, against three nodes; 1 when one fails."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rlog.cli.local_cluster import LocalCluster

TIMEOUT_S = 60
HERE = Path(__file__).parent


def programs(directory: Path, bootstrap: str) -> list[Path]:
    """The examples beside this file, and the Python blocks of the README with this cluster's address."""
    blocks = re.findall(r"```python\n(.*?)```", (HERE.parent / "README.md").read_text(), flags=re.DOTALL)
    readme = []
    for number, block in enumerate(blocks, start=1):
        readme.append(directory / f"readme-{number}.py")
        readme[-1].write_text(block.replace("127.0.0.1:9092", bootstrap))
    return [*sorted(HERE.glob("[!_]*.py")), *sorted(HERE.glob("*.sh")), *readme]


def main() -> int:
    failed = []
    with (
        tempfile.TemporaryDirectory(prefix="rlog-examples-") as directory,
        LocalCluster(Path(directory), topics={"orders": 3}, admin=True) as cluster,
    ):
        cluster.start()
        cluster.wait_ready()
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
    print(f"failed: {', '.join(failed)}" if failed else "all examples ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
