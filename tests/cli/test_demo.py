"""The demo, small: the same course and checks as `make demo`."""

import json
import subprocess
import sys


def test_a_small_demo_verifies_everything() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlog", "demo", "--records", "50000", "--json"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["good"]
    assert report["acknowledged"] == report["consumed"] == 50000
    assert report["replicas_compared"] == 3
    assert report["new_generation"] > report["killed_generation"]
