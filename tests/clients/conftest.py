"""Clusters of three real node processes for all clients: one in peace, one whose leaders are killed."""

from collections.abc import Iterator

import pytest

from rlog.cli.local_cluster import LocalCluster
from tests.clients.drivers import Driver, driver
from tests.clients.drivers.base import ClientMissing
from tests.clients.ways import KILLED_TOPICS, TOPICS
from tests.harness.processes import running_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), topics=TOPICS) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def mortal_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with running_cluster(tmp_path_factory.mktemp("mortal"), topics=KILLED_TOPICS) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def bootstrap(cluster: LocalCluster) -> str:
    return cluster.bootstrap


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Driver:
    """The driver of the client named by the parameter."""
    try:
        found = driver(request.param)
        assert found.version
    except (ImportError, ClientMissing) as error:
        pytest.skip(str(error))
    return found
