"""The declared metrics: named as Prometheus asks, present on a real node, moved by what they count."""

import asyncio
import re
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import rlog
from rlog._core import Vfs
from rlog.node.observed import ObservedNode
from rlog.observe.counters import Histogram
from rlog.observe.exposition import render
from rlog.observe.metrics import METRICS, SECONDS, HistogramState, Metric
from rlog.wire import kafka
from tests.node.faulty_files import FaultyFiles
from tests.node.harness import TOPIC, Cluster, batch, on_uvloop, send, until

UNITS = ("seconds", "bytes", "records", "batches")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions_of_prometheus(metric: Metric) -> None:
    assert re.fullmatch(r"rlog(_[a-z]+)+", metric.name)
    assert metric.help.endswith(".")
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert (metric.kind == "info") == metric.name.endswith("_info")
    named = metric.name.removesuffix("_total")
    for unit in UNITS:
        # The unit comes last, and none is written in another way.
        assert f"_{unit}" not in named or named.endswith(f"_{unit}")
    assert not re.search(r"_(ms|millis|us|kb|mb|percent)(_|$)", metric.name)
    if metric.kind == "histogram":
        assert named.endswith("_seconds")
        assert metric.buckets[0] == 0.0001
        assert metric.buckets[-1] == 10.0


def test_names_are_unique_and_labels_few() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    labels = {label for metric in METRICS if metric.kind != "info" for label in metric.labels}
    # Nothing that a client chooses: no addresses, client ids, producer ids.
    assert labels == {
        "topic",
        "partition",
        "role",
        "follower",
        "peer",
        "file",
        "api",
        "version",
        "error",
        "reason",
    }


@given(st.lists(st.floats(min_value=0, max_value=20, allow_nan=False)))
def test_a_histogram_counts_each_value_once_in_the_first_bucket_that_holds_it(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    state = histogram.state()
    assert sum(state.counts) == histogram.count == len(values)
    assert state.sum == pytest.approx(sum(values))
    for bound, below in zip(SECONDS, accumulate(state.counts), strict=False):
        assert below == sum(value <= bound for value in values)
    for value in values:
        assert state.counts[bisect_left(SECONDS, value)] > 0


Values = dict[tuple[str, ...], Any]


def values(cluster: Cluster, node_id: int) -> Values:
    """(metric name, label values...): value, of one node now."""
    observed = ObservedNode(cluster.nodes[node_id], version="1", warnings=[])
    return {(sample.metric.name, *sample.labels): sample.value for sample in observed.samples()}


@asynccontextmanager
async def led_cluster(directory: Path, **settings: Any) -> AsyncIterator[tuple[Cluster, int]]:
    """Three nodes, and who leads."""
    async with Cluster(directory, **settings) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        yield cluster, leader.replica.node_id


@on_uvloop
async def test_counters_move_by_what_they_count(tmp_path: Path) -> None:
    async with led_cluster(tmp_path) as (cluster, leader):
        before = values(cluster, leader)
        records = [batch([b"a", b"b"]), batch([b"c"]) + batch([b"d"])]
        for each in records:
            assert (await send(cluster.partition(leader), each)).error == 0
        await cluster.all_hold(4)
        after = values(cluster, leader)

        def moved(name: str, *labels: str) -> float:
            return after[name, *labels] - before[name, *labels]

        part = (TOPIC, "0")
        assert moved("rlog_produced_records_total", *part) == 4
        assert moved("rlog_acknowledged_records_total", *part) == 4
        assert moved("rlog_produced_batches_total", *part) == 3
        assert moved("rlog_produced_bytes_total", *part) == sum(map(len, records))
        assert moved("rlog_flushed_bytes_total") == sum(map(len, records))
        assert moved("rlog_partition_high_water_mark", *part) == 4
        assert moved("rlog_partition_size_bytes", *part) == sum(map(len, records))
        commits = after["rlog_commit_latency_seconds",]
        # Requests of one turn of the loop are one append.
        assert 1 <= sum(commits.counts) <= 2
        assert 0 < commits.sum < 60
        assert 1 <= sum(after["rlog_flush_duration_seconds", "log"].counts) <= 2
        for follower in set(cluster.nodes) - {leader}:
            seen = values(cluster, follower)
            assert seen["rlog_replicated_records_total", *part] == 4
            assert seen["rlog_replicated_bytes_total", *part] == sum(map(len, records))
            assert seen["rlog_produced_records_total", *part] == 0
            assert seen["rlog_partition_size_bytes", *part] == sum(map(len, records))
            assert after["rlog_follower_lag_records", *part, str(follower)] == 0
            assert after["rlog_peer_sent_bytes_total", str(follower)] > sum(map(len, records))
            assert seen["rlog_peer_received_bytes_total", str(leader)] > sum(map(len, records))


@on_uvloop
async def test_a_leader_change_is_counted_where_it_is_seen(tmp_path: Path) -> None:
    async with led_cluster(tmp_path) as (cluster, old):
        before = {node_id: values(cluster, node_id) for node_id in cluster.nodes}
        assert before[old]["rlog_partition_role", TOPIC, "0", "leader"] == 1
        assert before[old]["rlog_elections_won_total", TOPIC, "0"] == 1
        await cluster.stop(old)
        new = (await cluster.leader()).replica.node_id
        (other,) = set(cluster.nodes) - {new}
        await until(lambda: cluster.partition(other).leader_id == new, "the other follows")
        for node_id in (new, other):
            seen = values(cluster, node_id)
            name = ("rlog_leader_changes_total", TOPIC, "0")
            assert seen[name] > before[node_id][name]
            assert seen["rlog_partition_role", TOPIC, "0", "leader"] == int(node_id == new)
            assert seen["rlog_peer_connected", str(old)] == 0
            assert seen["rlog_peer_connections_lost_total", str(old)] >= 1
            assert seen["rlog_partition_leaderless_seconds", TOPIC, "0"] == 0
        won = ("rlog_elections_won_total", TOPIC, "0")
        assert values(cluster, new)[won] == before[new][won] + 1
        # The dead one answers no heartbeat.
        missed = ("rlog_heartbeats_missed_total", TOPIC, "0")
        await until(lambda: values(cluster, new)[missed] >= 2, "heartbeats without an answer are counted")
        await until(
            lambda: values(cluster, new)["rlog_follower_silence_seconds", TOPIC, "0", str(old)] > 0.1,
            "its silence grows",
        )
        assert sum(values(cluster, new)["rlog_heartbeat_lateness_seconds",].counts) >= 2


@on_uvloop
async def test_who_only_votes_for_another_does_not_stand(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.start(2, 3, election_timeout_min_ms=50_000, election_timeout_max_ms=60_000)
        await cluster.start(1)
        assert (await cluster.leader()).leader_id == 1
        counted = {
            node_id: values(cluster, node_id)["rlog_elections_started_total", TOPIC, "0"]
            for node_id in (1, 2, 3)
        }
        assert counted[1] >= 1
        assert counted[2] == counted[3] == 0


@on_uvloop
async def test_deleted_records_are_counted_on_every_replica(tmp_path: Path) -> None:
    async with led_cluster(tmp_path) as (cluster, leader):
        records = [batch([b"a", b"b"]), batch([b"c"])]
        for each in records:
            assert (await send(cluster.partition(leader), each)).error == 0
        cluster.partition(leader).trim(2)
        for node_id in cluster.nodes:
            partition = cluster.partition(node_id)
            await until(lambda partition=partition: partition.start_offset == 2, f"node {node_id} deletes")
            assert values(cluster, node_id)["rlog_deleted_records_total", TOPIC, "0"] == 2
            assert values(cluster, node_id)["rlog_partition_start_offset", TOPIC, "0"] == 2


@on_uvloop
async def test_the_size_of_a_log_falls_by_what_is_deleted_and_survives_a_restart(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1, segment_bytes_max=4096) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        for _ in range(10):
            await send(leader, sent := batch([b"." * 1000]))
        size = ("rlog_partition_size_bytes", TOPIC, "0")
        assert values(cluster, 1)[size] == 10 * len(sent)
        leader.trim(9)
        await until(lambda: leader.log.base_offset > 0, "files go")
        kept = (10 - leader.log.base_offset) * len(sent)
        assert values(cluster, 1)[size] == kept
        await cluster.stop()
        await cluster.start()
        leader = await cluster.leader()
        start_entry = leader.log.read(10, bytes_max=1, end_max=11)[0]
        assert values(cluster, 1)[size] == kept + len(start_entry)


@on_uvloop
async def test_a_failed_flush_is_a_disk_error_and_a_fenced_partition(tmp_path: Path) -> None:
    async with Cluster(tmp_path, count=1) as cluster:
        files = FaultyFiles()
        await cluster.start(1, vfs=Vfs.of(files))
        await cluster.leader()
        assert values(cluster, 1)["rlog_disk_errors_total", "log"] == 0
        files.failing = f"{TOPIC}-0/"
        answer = send(cluster.partition(1), batch([b"x"]))
        await until(answer.done, "the write fails")
        seen = values(cluster, 1)
        assert seen["rlog_disk_errors_total", "log"] == 1
        assert seen["rlog_partition_fenced", TOPIC, "0"] == 1
        assert seen["rlog_node_ready",] == 0
        (reason,) = ObservedNode(cluster.nodes[1], version="1", warnings=[]).not_ready()
        assert reason.startswith(f"fenced: {TOPIC}-0 (")


async def ask_for_an_unknown_topic(host: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    writer.writelines(kafka.encode_produce_request(1, "c", -1, 10_000, [("nothing", [(0, batch([b"x"]))])]))
    await reader.readexactly(8)
    writer.close()


@on_uvloop
async def test_every_declared_metric_appears_and_can_be_parsed(tmp_path: Path) -> None:
    """On three nodes after some traffic each has a sample somewhere, in both formats scrapers ask for."""
    async with led_cluster(tmp_path) as (cluster, leader):
        host, port = cluster.configs[leader].kafka_address
        async with rlog.connect(f"{host}:{port}") as client:
            async with client.producer(TOPIC) as producer:
                await (await producer.send_many([b"x"] * 10, partition=0))
            async with client.consumer(TOPIC, partition=0) as consumer:
                async for _ in consumer:
                    break
        await ask_for_an_unknown_topic(host, port)
        samples = [
            sample
            for node_id in cluster.nodes
            for sample in ObservedNode(cluster.nodes[node_id], version="1", warnings=[]).samples()
        ]
        assert {sample.metric.name for sample in samples} == {metric.name for metric in METRICS}
        for sample in samples:
            assert len(sample.labels) == len(sample.metric.labels), sample
            assert isinstance(sample.value, HistogramState) == (sample.metric.kind == "histogram"), sample

        # On a busy machine another node may have come to lead meanwhile.
        counts = {
            node: sum(p.counters.produced_records for p in cluster.nodes[node].partitions.values())
            for node in cluster.nodes
        }
        assert sum(counts.values()) >= 10
        observed = ObservedNode(cluster.nodes[leader], version="1", warnings=[])
        for accept, parse in (("", parse_text), ("application/openmetrics-text", parse_openmetrics)):
            body, content_type = render(list(observed.samples()), accept)
            assert (accept or "text/plain") in content_type
            families = {family.name: family for family in parse(body.decode())}
            assert {metric.name.removesuffix("_total").removesuffix("_info") for metric in METRICS} <= {
                name.removesuffix("_info") for name in families
            }
            assert sum(sample.value for sample in families["rlog_produced_records"].samples) == counts[leader]
            assert families["rlog_commit_latency_seconds"].type == "histogram"
            assert "process_resident_memory_bytes" in families
