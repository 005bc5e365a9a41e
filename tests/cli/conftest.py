"""One cluster for the tests of the commands that talk to one."""

from collections.abc import Iterator

import pytest

from rlog.cli.local_cluster import LocalCluster
from tests.harness import running_cluster

TOPICS = {"orders": 3, "one": 1, "copies": 3, "lines": 1, "many": 1, "saved": 1, "measured": 1, "moments": 3}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), topics=TOPICS) as running:
        yield running
