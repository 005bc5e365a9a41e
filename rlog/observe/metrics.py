"""Every metric of a node, declared once: name with its unit, kind, labels, and what it means.

`docs/metrics.md` is made from these declarations, and `/metrics` shows what `rlog.node.observed` reads of
them from a running node. Names follow Prometheus: base units (seconds, bytes), the unit last, counters end in
`_total`. A label's values are few or known to the operator (topics, partitions, nodes), never a client's.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]

# From 0.1 ms to 10 s in steps of about 2.5: a factor at which a reader of a graph sees a change of kind.
SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """buckets: upper bounds, of a histogram only. labels: their values come in this order."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric. labels: the values of the metric's labels. value: a Histogram's is its state."""

    metric: Metric
    labels: tuple[str, ...]
    value: "float | HistogramState"


@dataclass(frozen=True, slots=True)
class HistogramState:
    """counts: of each bucket alone, the one above the last bound included."""

    counts: tuple[int, ...]
    sum: float


METRICS: list[Metric] = []


def _declare(name: str, kind: Kind, meaning: str, *labels: str, buckets: tuple[float, ...] = ()) -> Metric:
    metric = Metric(name, kind, meaning, labels, buckets)
    METRICS.append(metric)
    return metric


PARTITION = ("topic", "partition")

# --- the node ---
NODE = _declare(
    "rlog_node_info", "info", "Always 1; the labels say which node this is.",
    "cluster", "node", "uuid", "version",
)  # fmt: skip
READY = _declare(
    "rlog_node_ready",
    "gauge",
    "1 while /ready answers 200: the identity is confirmed, every partition has a leader, none is fenced.",
)
LOOP_LAG = _declare(
    "rlog_loop_lag_seconds",
    "histogram",
    "How late the event loop called a timer: what blocked it blocks heartbeats too. Resolution: 1 ms.",
    buckets=SECONDS,
)
HEARTBEAT_LATENESS = _declare(
    "rlog_heartbeat_lateness_seconds",
    "histogram",
    "How long after its due time this node's round of heartbeats as a leader left. Resolution: 1 ms.",
    buckets=SECONDS,
)

# --- commits ---
PRODUCED_RECORDS = _declare(
    "rlog_produced_records_total", "counter", "Records appended by this node as the leader.", *PARTITION
)
PRODUCED_BATCHES = _declare(
    "rlog_produced_batches_total", "counter", "Batches appended by this node as the leader.", *PARTITION
)
PRODUCED_BYTES = _declare(
    "rlog_produced_bytes_total", "counter", "Bytes of those batches, as they lie in the log.", *PARTITION
)
ACKNOWLEDGED_RECORDS = _declare(
    "rlog_acknowledged_records_total",
    "counter",
    "Records of produce requests that ended well; a repeated request of an idempotent producer counts again.",
    *PARTITION,
)
LEADER_ACKS = _declare(
    "rlog_leader_acks_total",
    "counter",
    "Produce requests with acks=1 that the leader's disk alone was enough for (acks_floor).",
    *PARTITION,
)
REPLICATED_RECORDS = _declare(
    "rlog_replicated_records_total", "counter", "Records appended by this node as a follower.", *PARTITION
)
REPLICATED_BYTES = _declare(
    "rlog_replicated_bytes_total", "counter", "Bytes of those records, as they lie in the log.", *PARTITION
)
COMMIT_LATENCY = _declare(
    "rlog_commit_latency_seconds",
    "histogram",
    "On the leader, from the append of a loop turn's records to their commit: flushed on a majority.",
    buckets=SECONDS,
)

# --- the disk ---
FLUSH_DURATION = _declare(
    "rlog_flush_duration_seconds",
    "histogram",
    "One round of a file: from handing it to the disk threads until the loop hears that it is flushed.",
    "file",
    buckets=SECONDS,
)
FLUSHED_BYTES = _declare(
    "rlog_flushed_bytes_total", "counter", "Bytes of records written and flushed by rounds of logs."
)
DISK_ERRORS = _declare(
    "rlog_disk_errors_total",
    "counter",
    "Failed writes, flushes and reads. Each is final: a log's fences the partition, another ends the node.",
    "file",
)

# --- clients ---
REQUESTS = _declare(
    "rlog_requests_total", "counter", "Requests of clients, by the API and version they used.",
    "api", "version",
)  # fmt: skip
REQUEST_ERRORS = _declare(
    "rlog_request_errors_total",
    "counter",
    "Error codes answered to Produce and Fetch, one for each partition that got one.",
    "api",
    "error",
)
FETCHED_BYTES = _declare(
    "rlog_fetched_bytes_total", "counter", "Bytes of records answered to Fetch requests.", *PARTITION
)
CLIENT_RECEIVED_BYTES = _declare("rlog_client_received_bytes_total", "counter", "Bytes read from clients.")
CLIENT_SENT_BYTES = _declare("rlog_client_sent_bytes_total", "counter", "Bytes of answers to clients.")
CLIENT_CONNECTIONS = _declare("rlog_client_connections", "gauge", "Client connections that are open now.")
CLIENTS_CONNECTED = _declare(
    "rlog_client_connections_opened_total", "counter", "Client connections accepted, those refused included."
)
CLIENTS_CLOSED = _declare(
    "rlog_client_connections_closed_total",
    "counter",
    "Client connections that ended: by the client, lost, refused (connection_count_max), protocol_error, "
    "stalled (client_stall_ms), acks_0_error (closing is the only answer it has), internal_error (a fault of "
    "the node, logged), or stopping.",
    "reason",
)
CLIENT_INFLIGHT_BYTES = _declare(
    "rlog_client_inflight_bytes",
    "gauge",
    "Bytes of requests read and not yet answered, bounded by clients_inflight_bytes_max.",
)

# --- each partition ---
START_OFFSET = _declare(
    "rlog_partition_start_offset", "gauge", "The first offset that the log still holds.", *PARTITION
)
HIGH_WATER_MARK = _declare(
    "rlog_partition_high_water_mark", "gauge", "Every record below this offset is committed.", *PARTITION
)
FLUSHED_OFFSET = _declare(
    "rlog_partition_flushed_offset", "gauge", "Every record below is on this node's disk.", *PARTITION
)
END_OFFSET = _declare(
    "rlog_partition_end_offset", "gauge", "Where the next record will be appended.", *PARTITION
)
QUEUED_BYTES = _declare(
    "rlog_partition_queued_bytes",
    "gauge",
    "Bytes appended and not yet flushed; above queued_bytes_max producers are told to retry.",
    *PARTITION,
)
SIZE_BYTES = _declare(
    "rlog_partition_size_bytes",
    "gauge",
    "Bytes of the batches in the log, as retention_bytes counts them; its files are preallocated, up to a "
    "segment more.",
    *PARTITION,
)
GENERATION = _declare("rlog_partition_generation", "gauge", "The generation this replica is in.", *PARTITION)
ROLE = _declare(
    "rlog_partition_role", "gauge", "1 for the role this replica has, 0 for the others.", *PARTITION, "role"
)
LEADERLESS = _declare(
    "rlog_partition_leaderless_seconds",
    "gauge",
    "For how long this node has known of no leader; 0 while it knows one.",
    *PARTITION,
)
FENCED = _declare(
    "rlog_partition_fenced",
    "gauge",
    "1 when this replica's disk failed, its log is damaged or an invariant broke: it serves no more.",
    *PARTITION,
)
SUSPECT = _declare(
    "rlog_partition_suspect",
    "gauge",
    "1 while recovery could not prove that nothing is missing: it does not campaign until the leader has it.",
    *PARTITION,
)
FOLLOWER_LAG = _declare(
    "rlog_follower_lag_records",
    "gauge",
    "On the leader: records in its log that the follower has not flushed.",
    *PARTITION,
    "follower",
)
FOLLOWER_SILENCE = _declare(
    "rlog_follower_silence_seconds",
    "gauge",
    "On the leader: how long ago the follower answered last.",
    *PARTITION,
    "follower",
)
LEADER_CHANGES = _declare(
    "rlog_leader_changes_total",
    "counter",
    "Leaders that became known to this node, the first after its start included.",
    *PARTITION,
)
ELECTIONS_STARTED = _declare(
    "rlog_elections_started_total",
    "counter",
    "Elections in which this replica stood: it took a new generation and voted for itself.",
    *PARTITION,
)
ELECTIONS_WON = _declare(
    "rlog_elections_won_total", "counter", "Elections that made this replica the leader.", *PARTITION
)
HEARTBEATS_MISSED = _declare(
    "rlog_heartbeats_missed_total",
    "counter",
    "On the leader: times that a heartbeat was due and a follower had not answered since the one before.",
    *PARTITION,
)
CUTS = _declare(
    "rlog_cuts_total",
    "counter",
    "Times that this replica dropped an uncommitted tail which the leader does not have.",
    *PARTITION,
)
CUT_RECORDS = _declare("rlog_cut_records_total", "counter", "Records of those tails.", *PARTITION)
DELETED_RECORDS = _declare(
    "rlog_deleted_records_total",
    "counter",
    "Records deleted from the beginning of the log, by retention or by request.",
    *PARTITION,
)

# --- the other nodes ---
PEER_CONNECTED = _declare(
    "rlog_peer_connected", "gauge", "1 while both connections to the other node are up.", "peer"
)
PEER_QUEUED_BYTES = _declare(
    "rlog_peer_queued_bytes",
    "gauge",
    "Bytes for the other node that its socket has not taken; above peer_write_bytes_max records are dropped.",
    "peer",
)
PEER_SENT_BYTES = _declare("rlog_peer_sent_bytes_total", "counter", "Bytes sent to the other node.", "peer")
PEER_RECEIVED_BYTES = _declare(
    "rlog_peer_received_bytes_total", "counter", "Bytes received from the other node.", "peer"
)
PEER_DROPPED_APPENDS = _declare(
    "rlog_peer_dropped_appends_total",
    "counter",
    "Appends not sent because the other node could not take them; it catches up later.",
    "peer",
)
PEER_LOSSES = _declare(
    "rlog_peer_connections_lost_total", "counter", "Times that the other node's link went down.", "peer"
)
PEERS_REFUSED = _declare(
    "rlog_peer_connections_refused_total",
    "counter",
    "Connections to the peer port that were not those of a peer: another cluster, another uuid, garbage.",
)
