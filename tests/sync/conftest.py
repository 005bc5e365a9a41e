"""One real node for these tests: a process, sockets, a disk."""

from collections.abc import Iterator

import pytest

from tests.harness.processes import running_cluster

TOPICS = {"orders": 1, "wide": 3, "quiet": 1}


@pytest.fixture(scope="session")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_cluster(tmp_path_factory.mktemp("node"), topics=TOPICS, nodes=1) as cluster:
        yield cluster.bootstrap
