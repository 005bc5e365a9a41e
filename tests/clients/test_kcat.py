"""kcat, the command line of librdkafka: produce, consume, list."""

import json
import subprocess
from collections.abc import Callable

from rlog.cli.local_cluster import LocalCluster
from tests.clients.conftest import Versions

TIMEOUT_S = 30


def kcat(bootstrap: str, *arguments: str, stdin: bytes = b"") -> bytes:
    command = ["kcat", "-b", bootstrap, *arguments]
    ended = subprocess.run(command, input=stdin, capture_output=True, timeout=TIMEOUT_S, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout


def test_kcat_produces_and_consumes(bootstrap: str, versions_sent: Callable[[], Versions]) -> None:
    lines = [b"key%d:value %d" % (number % 7, number) for number in range(2000)]
    kcat(bootstrap, "-P", "-t", "kcat", "-K", ":", stdin=b"\n".join(lines) + b"\n")
    consumed = kcat(bootstrap, "-C", "-t", "kcat", "-K", ":", "-e", "-q", "-o", "beginning").splitlines()
    assert sorted(consumed) == sorted(lines)
    one = kcat(bootstrap, "-C", "-t", "kcat", "-p", "0", "-o", "5", "-c", "1", "-q", "-f", "%o %p\n")
    assert one == b"5 0\n"
    assert versions_sent() == {
        "ApiVersions": [3],
        "Fetch": [11],
        "ListOffsets": [2],
        "Metadata": [4],
        "Produce": [7],
    }


def test_kcat_produces_idempotently(bootstrap: str, versions_sent: Callable[[], Versions]) -> None:
    lines = [b"%d" % number for number in range(500)]
    settings = ["-X", "enable.idempotence=true", "-z", "lz4"]
    kcat(bootstrap, "-P", "-t", "kcat-idempotent", *settings, stdin=b"\n".join(lines) + b"\n")
    consumed = kcat(bootstrap, "-C", "-t", "kcat-idempotent", "-e", "-q", "-o", "beginning", "-f", "%o %s\n")
    assert consumed.splitlines() == [b"%d %d" % (number, number) for number in range(500)]
    assert versions_sent()["InitProducerId"] == [1]


def test_kcat_lists_the_cluster(cluster: LocalCluster, bootstrap: str) -> None:
    listing = json.loads(kcat(bootstrap, "-L", "-J"))
    assert sorted(broker["id"] for broker in listing["brokers"]) == sorted(cluster.nodes)
    assert {topic["topic"]: len(topic["partitions"]) for topic in listing["topics"]} == cluster.topics
