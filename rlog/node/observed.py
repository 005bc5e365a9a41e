"""A running node as the admin port shows it: its metrics, its state, and what keeps it from being ready."""

from collections.abc import Iterator, Sequence
from typing import Any

from rlog.node.node import Node
from rlog.node.partition import Partition
from rlog.observe import metrics
from rlog.observe.metrics import Metric, Sample
from rlog.raft.effects import Role
from rlog.wire.kafka import apis, codes

# How many partitions a reason names; with a thousand of them the first few say enough.
NAMED_MAX = 20


class ObservedNode:
    """Fits `rlog.observe.admin.Observed`. warnings: of the configuration and the data directory."""

    def __init__(self, node: Node, *, version: str, warnings: Sequence[str]) -> None:
        self._node = node
        self._version = version
        self._warnings = list(warnings)

    def failure(self) -> str | None:
        return str(self._node.failure) if self._node.failure is not None else None

    def not_ready(self) -> list[str]:
        """Why clients should not be sent here; empty when they may be."""
        node = self._node
        if node.failure is not None:
            return [f"the node has failed: {node.failure}"]
        if node.is_stopping:
            return ["the node stops"]
        reasons = []
        if not node.identity.confirmed:
            reasons.append(
                "identity not confirmed: the first boot of a cluster needs every node up, to pin the others"
            )
        partitions = list(node.partitions.values())
        fenced = [f"{each.name} ({each.fenced})" for each in partitions if each.fenced is not None]
        leaderless = [each.name for each in partitions if each.fenced is None and each.leader_id == 0]
        if fenced:
            reasons.append(f"fenced: {_named(fenced)}")
        if leaderless:
            reasons.append(f"no leader known: {_named(leaderless)}")
        return reasons

    def status(self) -> dict[str, Any]:
        not_ready = self.not_ready()
        return {
            **self._node.describe(),
            "ready": not not_ready,
            "not_ready": not_ready,
            "failure": self.failure(),
            "warnings": self._warnings,
        }

    def samples(self) -> Iterator[Sample]:
        """All values as they are now. To be read on the node's loop, in as many steps as one likes."""
        node = self._node
        identity = (node.config.cluster_id, str(node.node_id), node.identity.uuid, self._version)
        yield Sample(metrics.NODE, identity, 1)
        yield Sample(metrics.READY, (), int(not self.not_ready()))
        yield from self._of_node()
        yield from self._of_clients()
        for peer in node.peers.links:
            yield from self._of_peer(peer)
        for partition in list(node.partitions.values()):
            yield from self._of_partition(partition)

    def _of_node(self) -> Iterator[Sample]:
        counters = self._node.counters
        yield Sample(metrics.LOOP_LAG, (), counters.loop_lag.state())
        yield Sample(metrics.HEARTBEAT_LATENESS, (), counters.heartbeat_lateness.state())
        yield Sample(metrics.COMMIT_LATENCY, (), counters.commit_latency.state())
        for file, duration in counters.flush_duration.items():
            yield Sample(metrics.FLUSH_DURATION, (file,), duration.state())
        yield Sample(metrics.FLUSHED_BYTES, (), counters.flushed_bytes)
        for file, count in counters.disk_errors.items():
            yield Sample(metrics.DISK_ERRORS, (file,), count)
        yield Sample(metrics.PEERS_REFUSED, (), counters.peers_refused)

    def _of_clients(self) -> Iterator[Sample]:
        counters, door = self._node.counters, self._node.door
        for (api_key, version), count in sorted(door.request_counts.items()):
            yield Sample(metrics.REQUESTS, (apis.NAMES[api_key], str(version)), count)
        for (api_key, error), count in sorted(counters.request_errors.items()):
            name = codes.NAMES.get(error, str(error))
            yield Sample(metrics.REQUEST_ERRORS, (apis.NAMES[api_key], name), count)
        yield Sample(metrics.CLIENT_RECEIVED_BYTES, (), counters.client_received_bytes)
        yield Sample(metrics.CLIENT_SENT_BYTES, (), counters.client_sent_bytes)
        yield Sample(metrics.CLIENT_CONNECTIONS, (), door.connection_count)
        yield Sample(metrics.CLIENTS_CONNECTED, (), counters.clients_connected)
        for reason, count in counters.clients_closed.items():
            yield Sample(metrics.CLIENTS_CLOSED, (reason,), count)
        yield Sample(metrics.CLIENT_INFLIGHT_BYTES, (), door.budget.used_bytes)

    def _of_peer(self, peer: int) -> Iterator[Sample]:
        link, labels = self._node.peers.links[peer], (str(peer),)
        yield Sample(metrics.PEER_CONNECTED, labels, int(link.is_up))
        yield Sample(metrics.PEER_QUEUED_BYTES, labels, link.unsent_bytes)
        yield Sample(metrics.PEER_SENT_BYTES, labels, link.counters.sent_bytes)
        yield Sample(metrics.PEER_RECEIVED_BYTES, labels, link.counters.received_bytes)
        yield Sample(metrics.PEER_DROPPED_APPENDS, labels, link.dropped_appends)
        yield Sample(metrics.PEER_LOSSES, labels, link.counters.losses)

    def _of_partition(self, partition: Partition) -> Iterator[Sample]:
        labels = (partition.topic, str(partition.index))
        replica, log, now = partition.replica, partition.log, partition.driver.now()
        since = partition.leadership.leaderless_since
        values: list[tuple[Metric, float]] = [
            (metrics.START_OFFSET, partition.start_offset),
            (metrics.HIGH_WATER_MARK, partition.hwm),
            (metrics.FLUSHED_OFFSET, log.flushed_offset),
            (metrics.END_OFFSET, partition.end_offset),
            (metrics.QUEUED_BYTES, log.queued_bytes),
            (metrics.SIZE_BYTES, log.size_bytes),
            (metrics.GENERATION, partition.generation),
            (metrics.LEADERLESS, now - since if since is not None else 0.0),
            (metrics.FENCED, int(partition.fenced is not None)),
            (metrics.SUSPECT, int(replica.suspect)),
            (metrics.LEADER_CHANGES, partition.leadership.change_count),
            (metrics.HEARTBEATS_MISSED, replica.heartbeats_missed),
            *_counted(partition),
        ]
        for metric, value in values:
            yield Sample(metric, labels, value)
        for role in Role:
            yield Sample(metrics.ROLE, (*labels, role.value), int(role is replica.role))
        for peer, (_, flushed, contact) in sorted(replica.progress().items()):
            yield Sample(metrics.FOLLOWER_LAG, (*labels, str(peer)), max(0, partition.end_offset - flushed))
            yield Sample(metrics.FOLLOWER_SILENCE, (*labels, str(peer)), max(0.0, now - contact))


def _counted(partition: Partition) -> list[tuple[Metric, float]]:
    counters = partition.counters
    return [
        (metrics.PRODUCED_RECORDS, counters.produced_records),
        (metrics.PRODUCED_BATCHES, counters.produced_batches),
        (metrics.PRODUCED_BYTES, counters.produced_bytes),
        (metrics.ACKNOWLEDGED_RECORDS, counters.acknowledged_records),
        (metrics.REPLICATED_RECORDS, counters.replicated_records),
        (metrics.REPLICATED_BYTES, counters.replicated_bytes),
        (metrics.LEADER_ACKS, partition.leader_acks_count),
        (metrics.FETCHED_BYTES, counters.fetched_bytes),
        (metrics.ELECTIONS_STARTED, counters.elections_started),
        (metrics.ELECTIONS_WON, counters.elections_won),
        (metrics.CUTS, counters.cuts),
        (metrics.CUT_RECORDS, counters.cut_records),
        (metrics.DELETED_RECORDS, counters.deleted_records),
    ]


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
