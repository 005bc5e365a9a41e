"""Is a cluster well? Ask each node's admin port: `python examples/observe.py HOST:PORT ADMIN:PORT,...`.

`rlog dev --admin` prints both. Nodes of your own have admin ports where `admin_port` is set.
"""

import asyncio
import json
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

import rlog

RECORDS = 1000


async def produce(bootstrap: str) -> None:
    async with rlog.connect(bootstrap) as cluster, cluster.producer("orders") as producer:
        await (await producer.send_many([b"order %d" % number for number in range(RECORDS)], partition=0))


def metrics(admin: str) -> dict[str, float]:
    """Each metric of a node, summed over its labels."""
    totals: dict[str, float] = {}
    with urlopen(f"http://{admin}/metrics", timeout=10) as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals


def is_ready(admin: str) -> bool:
    try:
        with urlopen(f"http://{admin}/ready", timeout=10):
            return True
    except HTTPError as error:  # 503, and why
        print(f"{admin} is not ready: {json.load(error)['reasons']}")
        return False


def main(bootstrap: str, admins: list[str]) -> None:
    asyncio.run(produce(bootstrap))
    produced = 0.0
    for admin in admins:
        seen = metrics(admin)
        produced += seen["rlog_produced_records_total"]
        commits = seen["rlog_commit_latency_seconds_count"]
        mean_ms = 1000 * seen["rlog_commit_latency_seconds_sum"] / commits if commits else 0.0
        print(
            f"{admin}: ready {is_ready(admin)}, fenced partitions {seen['rlog_partition_fenced']:.0f}, "
            f"disk errors {seen['rlog_disk_errors_total']:.0f}, mean commit {mean_ms:.2f} ms"
        )
    print(f"produced on all nodes together: {produced:.0f} records")
    assert produced >= RECORDS


main(sys.argv[1], sys.argv[2].split(","))
