"""A node takes as many files as it may, and says when those are fewer than the connections it would take."""

import subprocess
import sys

import pytest

NODE = """
import logging, resource, sys
from rlog.config import NodeConfig
from rlog.node.process import raise_descriptor_limit

logging.basicConfig(stream=sys.stdout, format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 900))
config = NodeConfig(cluster_id="c", node_id=1, data_dir="d", connection_count_max={count})
fits = raise_descriptor_limit(config)
print(resource.getrlimit(resource.RLIMIT_NOFILE), fits.connection_count_max)
"""


@pytest.mark.parametrize("count", [700, 800])
def test_the_limit_of_open_files_is_raised_and_judged(count: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", NODE.format(count=count)], capture_output=True, text=True, check=True
    )
    *warnings, limits = ended.stdout.splitlines()
    assert limits == f"(900, 900) {min(count, 757)}"
    warning = (
        "node=1 connection_count_max = 800, but this process may open 900 files, of which the node itself "
        "needs 143: it takes 757 connections"
    )
    assert [line.startswith(warning) for line in warnings] == ([True] if count == 800 else [])


def test_a_node_that_could_not_start_is_told_the_limit_and_the_mend() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", NODE.replace("(200, 900)", "(12, 143)").format(count=100)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "rlog.errors.ConfigurationError: this process may open 143 files, and a node with 0 peers and 0 "
        "partitions needs 143 before the first client: raise its limit (ulimit -n, or LimitNOFILE of its "
        "service)"
    )
