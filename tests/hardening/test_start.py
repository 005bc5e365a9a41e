"""`rlog serve` as users start it wrongly: it ends at once, names what is wrong and the mend, and leaves no
traceback.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rlog.cli.local_cluster import LocalNode
from tests.harness import running_cluster

TIMEOUT_S = 30
USAGE, STORAGE = 2, 4


def serve(data: Path | str, *arguments: str, under: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """under: a command that runs the one behind it."""
    command = [*under, sys.executable, "-m", "rlog", "serve", "--cluster-id", "c", "--node-id", "1",
               "--data-dir", str(data), *arguments]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RLOG_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False
    )


def complaint(ended: subprocess.CompletedProcess[str], status: int) -> str:
    """What it said last. It ended with `status`, and by itself."""
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip().splitlines()[-1]


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_busy_port_is_named_by_its_setting_with_who_has_it(tmp_path: Path, busy: int) -> None:
    me = f"pid {os.getpid()} ({Path('/proc/self/comm').read_text().strip()})"
    free = ["--listen", "127.0.0.1:0"]
    peer = ["--peer", "2=127.0.0.1:1,127.0.0.1:2", "--peer", "3=127.0.0.1:3,127.0.0.1:4"]
    told = complaint(serve(tmp_path / "1", "--listen", f"127.0.0.1:{busy}"), USAGE)
    assert told == (
        f"rlog: cannot listen on listen_host = '127.0.0.1', listen_port = {busy}: port {busy} is in use by "
        f"{me}: end that, or set another listen_port"
    )
    told = complaint(serve(tmp_path / "1", *free, *peer, "--peer-listen", f"127.0.0.1:{busy}"), USAGE)
    assert told == (
        f"rlog: cannot listen on peer_host = '127.0.0.1', peer_port = {busy}: port {busy} is in use by "
        f"{me}: end that, or set another peer_port"
    )
    told = complaint(serve(tmp_path / "1", *free, "--admin", f"127.0.0.1:{busy}"), USAGE)
    assert told.endswith(f"{me}: end that, or set another admin_port")


@pytest.mark.parametrize("files", [8, 12, 30, 145])
def test_too_few_open_files_are_named_with_the_limit(tmp_path: Path, files: int) -> None:
    for more in ([], ["--check"]):
        few = ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"]
        told = complaint(
            serve(tmp_path / "1", "--listen", "127.0.0.1:0", "--topic", "t:1", *more, under=few), USAGE
        )
        assert told == (
            f"rlog: this process may open {files} files, and a node with 0 peers and 1 partitions needs 145 "
            "before the first client: raise its limit (ulimit -n, or LimitNOFILE of its service)"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "mend"),
    [
        ("198.51.100.1:0", "it is no address of this machine: name one that is"),
        ("no-such-host.invalid:0", "name an address of this machine"),
    ],
)
def test_an_address_that_is_not_ours_is_named(tmp_path: Path, address: str, mend: str) -> None:
    told = complaint(serve(tmp_path / "1", "--listen", address), USAGE)
    assert told.startswith(f"rlog: cannot listen on listen_host = '{address.partition(':')[0]}'")
    assert told.endswith(mend)


def test_a_directory_that_cannot_hold_data_ends_it(tmp_path: Path) -> None:
    told = complaint(serve(tmp_path / "absent" / "1", "--listen", "127.0.0.1:0"), STORAGE)
    assert told == (
        f"rlog: {tmp_path}/absent/1 cannot be made: {tmp_path}/absent is no directory; make that first, or "
        "name another"
    )
    (tmp_path / "letter").touch()
    told = complaint(serve(tmp_path, "--listen", "127.0.0.1:0"), STORAGE)
    assert told.endswith("is not an rlog data directory: it holds 'letter'; name another, or an empty one")


def test_a_directory_in_use_names_its_process_and_warnings_come_once(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "node-1")
    with running_cluster(tmp_path, topics={"orders": 1}, nodes=2) as cluster:
        told = complaint(serve(link, "--listen", "127.0.0.1:0"), STORAGE)
        assert told.startswith(f"rlog: {link} is in use by pid {cluster.nodes[1].pid} (")
        assert told.endswith("): end that, or name another directory")
        said = cluster.nodes[1].log_path.read_text()
        assert (
            said.count(
                'WARNING rlog.node: hardly_meant node=1 reason="peers: 2 nodes vote, of which 2 must be up'
            )
            == 1
        )


def test_nodes_of_two_clusters_do_not_meet(tmp_path: Path) -> None:
    """A node that was given another cluster's id is told so, and ends; the others go on."""
    with running_cluster(tmp_path, topics={"orders": 1}) as cluster:
        cluster.stop(3)
        give_another_cluster_id(cluster.nodes[3])
        cluster.start(3)
        process = cluster.nodes[3].process
        assert process is not None
        assert process.wait(TIMEOUT_S) == USAGE, cluster.nodes[3].last_words()
        assert "cluster_id" in cluster.nodes[3].last_words().splitlines()[-1]
        cluster.check_running([1, 2])


def give_another_cluster_id(node: LocalNode) -> None:
    """And an empty directory: it knows nothing of where it was."""
    text = node.config_path.read_text().replace('cluster_id = "test"', 'cluster_id = "other"')
    node.config_path.write_text(text.replace(str(node.data_dir), f"{node.data_dir}-other"))


def test_check_starts_nothing_and_says_what_a_start_would(tmp_path: Path, busy: int) -> None:
    arguments = ["--check", "--listen", f"127.0.0.1:{busy}"]
    peer = ["--peer", "2=127.0.0.1:1,127.0.0.1:2"]
    done = serve(tmp_path / "1", *arguments, *peer)
    assert (done.returncode, done.stdout) == (0, "node 1 of cluster 'c' may start\n")
    assert "rlog: warning: peers: 2 nodes vote, of which 2 must be up" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert "no directory" in complaint(serve(tmp_path / "absent" / "1", *arguments), STORAGE)
    assert "--listen" in complaint(serve(tmp_path / "1", "--check", "--listen", "nonsense"), USAGE)
    with running_cluster(tmp_path, topics={"orders": 1}, nodes=1) as cluster:
        node = cluster.nodes[1]
        done = serve(node.data_dir, *arguments)
        assert done.returncode == 0
        assert f"is in use by pid {node.pid} (" in done.stdout
        cluster.check_running([1])
