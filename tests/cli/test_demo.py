"""The demo, small: the same course and checks as `make demo`."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.harness import node_pids


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


def test_an_interrupted_demo_says_what_was_done_and_leaves_nothing_running(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "rlog", "demo", "--records", "50000000", "--json", "--data", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert demo.stderr is not None
        assert "3 nodes are up" in demo.stderr.readline()
        assert len(node_pids(tmp_path)) == 3
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode == 130
    report = json.loads(output)
    assert (report["interrupted"], report["problems"]) == (True, [])
    assert not report["good"]
    assert node_pids(tmp_path) == []
