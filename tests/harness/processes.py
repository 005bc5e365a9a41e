"""Clusters of real node processes for tests."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rlog.cli.local_cluster import LocalCluster

READY_TIMEOUT_S = 30.0


@contextmanager
def running_cluster(
    directory: Path,
    *,
    topics: Mapping[str, int],
    nodes: int = 3,
    settings: Mapping[str, int | str] | None = None,
    log_format: str = "text",
    admin: bool = False,
    tables: Mapping[str, Mapping[str, int | str]] | None = None,
) -> Iterator[LocalCluster]:
    """A cluster whose partitions all have leaders; its nodes end on leaving, by SIGKILL after a failure.

    settings: of every node's configuration, e.g. {"segment_bytes_max": 1 << 20}. log_format: of its log.
    admin: with admin ports. tables: more settings of a topic, e.g. {"orders": {"acks_floor": "leader"}}.
    """
    with LocalCluster(
        directory,
        nodes=nodes,
        topics=topics,
        cluster_id="test",
        settings=settings,
        log_format=log_format,
        admin=admin,
    ) as cluster:
        for topic, table in (tables or {}).items():
            _write_table(cluster, topic, table)
        cluster.start()
        cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
        yield cluster


def _write_table(cluster: LocalCluster, topic: str, table: Mapping[str, int | str]) -> None:
    """Into each node's configuration, in place of the number of partitions alone."""
    settings = {"partitions": cluster.topics[topic], **table}
    inline = ", ".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    for node in cluster.nodes.values():
        text = node.config_path.read_text()
        line = f'"{topic}" = {cluster.topics[topic]}'
        assert text.count(line) == 1
        node.config_path.write_text(text.replace(line, f'"{topic}" = {{{inline}}}'))


def wait_for(condition: Callable[[], bool], what: str, *, timeout_s: float = 20.0) -> None:
    """Poll until `condition()`. Raises AssertionError naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


def node_pids(directory: Path) -> list[int]:
    """Processes whose command line names a configuration in `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str(directory / "node-").encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found
