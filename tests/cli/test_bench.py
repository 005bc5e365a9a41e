"""`rlog bench`: a short run, on nodes of its own and on a cluster; and Ctrl-C in the middle."""

import json
import signal
from pathlib import Path

from rlog.cli.local_cluster import LocalCluster
from tests.cli.commands import TIMEOUT_S, background, rlog
from tests.harness import node_pids, wait_for


def nodes_in(data: Path) -> list[int]:
    return [pid for directory in data.iterdir() for pid in node_pids(directory)]


SHORT = ("--rounds", "2", "--seconds", "0.1", "--json")
USAGE, INTERRUPTED = 2, 130


def test_nodes_of_its_own(tmp_path: Path) -> None:
    report = json.loads(rlog("bench", *SHORT, "--data", str(tmp_path)).stdout)
    assert report["durability"] == "each acknowledgement: fdatasync completed on a majority of 3 nodes"
    assert 0 < report["disk"]["p50_us"] <= report["disk"]["p99_us"]
    assert len(report["throughput"]["rounds_records_s"]) == 2
    assert report["throughput"]["records_s"] > 0
    assert len(report["latency"]["rounds"]) == 2
    assert 0 < report["latency"]["p50_us"] <= report["latency"]["p99_us"]
    assert (report["interrupted"], list(tmp_path.iterdir())) == (False, [])


def test_a_cluster_that_is_there(cluster: LocalCluster) -> None:
    arguments = ("bench", "-b", cluster.bootstrap, *SHORT)
    assert b"topic 'bench' does not exist" in rlog(*arguments, status=USAGE).stderr
    report = json.loads(rlog(*arguments, "--topic", "measured", "--record-bytes", "1000").stdout)
    assert (report["disk"], report["throughput"]["record_bytes"]) == (None, 1000)
    assert report["throughput"]["records_s"] > 0


def test_an_embedded_log(tmp_path: Path) -> None:
    report = json.loads(rlog("bench", "--embedded", *SHORT, "--data", str(tmp_path)).stdout)
    assert report["durability"].startswith("each append: fdatasync completed before it returns")
    assert 0 < report["disk"]["p50_us"] <= report["disk"]["p99_us"]
    assert [each["records"] for each in report["embedded"]] == [1, 100, 10_000]
    for each in report["embedded"]:
        assert len(each["rounds_records_s"]) == 2
        assert 0 < each["bare_p50_us"] <= each["bare_p99_us"]
        assert 0 < each["p50_us"] <= each["p99_us"]
        assert each["records_s"] > 0
    assert (report["interrupted"], list(tmp_path.iterdir())) == (False, [])
    text = rlog("bench", "--embedded", *SHORT[:4], "--record-bytes", "1000", "--data", str(tmp_path)).stdout
    assert text.startswith(b"durability   each append: fdatasync completed")
    assert text.count(b"\nappend       ") == 2, "ten thousand of these make no batch"
    both = rlog("bench", "--embedded", "-b", "localhost:1", status=USAGE).stderr
    assert b"leave --embedded or --bootstrap" in both


def test_ctrl_c_ends_an_embedded_one_too(tmp_path: Path) -> None:
    with background("bench", "--embedded", "--seconds", "60", "--json", "--data", str(tmp_path)) as bench:
        wait_for(lambda: list(tmp_path.glob("*/bare")) != [], "it measures")
        bench.send_signal(signal.SIGINT)
        answer, said = bench.communicate(timeout=TIMEOUT_S)
        assert bench.returncode == INTERRUPTED, said
    assert json.loads(answer)["interrupted"] is True
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_prints_what_was_measured(tmp_path: Path) -> None:
    with background("bench", "--seconds", "60", "--json", "--data", str(tmp_path)) as bench:
        wait_for(lambda: len(nodes_in(tmp_path)) == 3, "its nodes run")
        bench.send_signal(signal.SIGINT)
        answer, said = bench.communicate(timeout=TIMEOUT_S)
        assert bench.returncode == INTERRUPTED, said
    report = json.loads(answer)
    assert (report["interrupted"], report["latency"]["rounds"]) == (True, [])
    assert report["disk"]["p50_us"] > 0
    assert list(tmp_path.iterdir()) == []
