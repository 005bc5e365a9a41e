"""The commands as processes: what they print, how they end, and what they leave behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner

from rlog.cli.main import main
from tests.harness import node_pids, wait_for

RLOG = [sys.executable, "-m", "rlog"]
TIMEOUT_S = 60


def rlog(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RLOG, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, **environment},
        check=False,
    )


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command in the background, killed on leaving if it still runs."""
    process = subprocess.Popen([*RLOG, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ready_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"ended with {process.wait(5)}: {process.stderr.read() if process.stderr else ''}"
    return line.strip()


def test_help_names_every_command() -> None:
    done = rlog("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("serve", "dev", "status", "demo"))


def test_a_misspelt_setting_is_refused_with_the_right_one(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('cluster_id = "c"\nnode_id = 1\ndata_dir = "d"\nlisten_prot = 9092\n')
    done = rlog("serve", "--config", str(path))
    assert done.returncode == 2
    assert "listen_port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = rlog("dev", "--port", str(port), "--data", str(tmp_path))
        assert done.returncode == 2
        assert f"port {port} is in use" in done.stderr
        served = rlog("serve", "--cluster-id", "c", "--node-id", "1", "--data-dir", str(tmp_path / "1"),
                      "--listen", f"127.0.0.1:{port}", "--peer-listen", "127.0.0.1:0")  # fmt: skip
        assert served.returncode == 2
        assert str(port) in served.stderr
        assert "Traceback" not in served.stderr


def test_status_of_nothing_says_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        done = rlog("status", "--bootstrap", address, "--json")
    assert done.returncode == 3
    assert list(json.loads(done.stdout)["silent"]) == [address]


def test_dev_prints_one_line_serves_and_ends_clean(tmp_path: Path) -> None:
    with running("dev", "--port", "0", "--data", str(tmp_path), "--topic", "orders:2") as dev:
        line = ready_line(dev)
        name, bootstrap = line.split("=")
        assert name == "ready bootstrap"
        assert len(bootstrap.split(",")) == 3
        assert len(node_pids(tmp_path)) == 3

        status = rlog("status", "--bootstrap", bootstrap, "--json")
        assert status.returncode == 0, status.stderr
        partitions = json.loads(status.stdout)["partitions"]
        assert [(each["topic"], each["partition"]) for each in partitions] == [("orders", 0), ("orders", 1)]
        for each in partitions:
            assert each["leader"] in (1, 2, 3)
            assert sorted(replica["role"] for replica in each["replicas"]) == [
                "follower",
                "follower",
                "leader",
            ]
            assert all(replica["lag"] == 0 for replica in each["replicas"])
        table = rlog("status", "--bootstrap", bootstrap)
        assert table.returncode == 0
        assert "orders-0" in table.stdout

        dev.send_signal(signal.SIGTERM)
        rest, complaints = dev.communicate(timeout=TIMEOUT_S)
        assert dev.returncode == 0, complaints
        assert rest == ""
    assert node_pids(tmp_path) == []


def test_dev_starts_again_on_the_data_it_left(tmp_path: Path) -> None:
    for form in ([], ["--json"]):
        with running("dev", "--port", "0", "--data", str(tmp_path), "--topic", "orders:1", *form) as dev:
            line = ready_line(dev)
            if form:
                ready = json.loads(line)
                nodes = ready.pop("nodes")
                assert ready.pop("bootstrap") == ",".join(each["bootstrap"] for each in nodes)
                assert ready == {"ready": True, "cluster_id": "dev", "admin": None}
                assert sorted(each["pid"] for each in nodes) == node_pids(tmp_path)
                assert [each["data_dir"] for each in nodes] == [f"{tmp_path}/node-{i}" for i in (1, 2, 3)]
            else:
                assert line.startswith("ready bootstrap=")
            dev.send_signal(signal.SIGINT)
            dev.communicate(timeout=TIMEOUT_S)
            assert dev.returncode == 0


def test_serve_says_as_json_that_it_is_ready(tmp_path: Path) -> None:
    arguments = ("serve", "--cluster-id", "shop", "--node-id", "1", "--data-dir", str(tmp_path / "1"),
                 "--listen", "127.0.0.1:0", "--topic", "orders:1", "--json")  # fmt: skip
    with running(*arguments) as node:
        ready = json.loads(ready_line(node))
        address = ready.pop("bootstrap")
        assert ready == {"ready": True, "cluster_id": "shop", "node_id": 1, "pid": node.pid}
        status = CliRunner().invoke(main, ["status", "--bootstrap", address, "--json"])
        assert json.loads(status.stdout)["partitions"][0]["leader"] == 1
        checked = json.loads(CliRunner().invoke(main, [*arguments, "--check"]).stdout)
        assert checked["in_use_by"].startswith(f"pid {node.pid} ")
        assert checked["warnings"] == []
        node.send_signal(signal.SIGTERM)
        rest, complaints = node.communicate(timeout=TIMEOUT_S)
        assert (node.returncode, rest) == (0, ""), complaints


def test_dev_refuses_a_directory_in_use_and_leaves_it_alone(tmp_path: Path) -> None:
    with running("dev", "--port", "0", "--data", str(tmp_path)) as dev:
        ready_line(dev)
        before = (tmp_path / "node-1.toml").read_text()
        second = rlog("dev", "--port", "0", "--data", str(tmp_path))
        assert second.returncode == 4
        assert f"{tmp_path}/node-1 is in use by pid {node_pids(tmp_path)[0]} (" in second.stderr
        assert second.stderr.count("\n") == 1
        assert (tmp_path / "node-1.toml").read_text() == before
        dev.send_signal(signal.SIGTERM)
        dev.communicate(timeout=TIMEOUT_S)
        assert dev.returncode == 0


def test_the_nodes_end_with_a_killed_dev(tmp_path: Path) -> None:
    with running("dev", "--port", "0", "--data", str(tmp_path)) as dev:
        ready_line(dev)
        assert len(node_pids(tmp_path)) == 3
        dev.kill()
        dev.wait(TIMEOUT_S)
    wait_for(lambda: node_pids(tmp_path) == [], "the nodes end when nobody holds their pipe")
    assert node_pids(tmp_path) == []
