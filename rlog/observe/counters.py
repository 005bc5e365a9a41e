"""What a running node counts: plain ints and lists, cheap enough for every turn of the loop.

Nothing here knows how it is shown; `rlog.node.observed` reads it when somebody asks.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

from rlog.observe.metrics import SECONDS, HistogramState

FILES = ("log", "meta", "watermarks")
CloseReason = Literal[
    "by_client",
    "lost",
    "refused",
    "protocol_error",
    "stalled",
    "acks_0_error",
    "internal_error",
    "stopping",
]
CLOSE_REASONS: tuple[CloseReason, ...] = get_args(CloseReason)


class Histogram:
    """Counts observations in buckets that end at `bounds` (inclusive), and above the last."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def state(self) -> HistogramState:
        return HistogramState(tuple(self.counts), self.sum)


@dataclass(slots=True)
class PartitionCounters:
    """As the metrics of the same names in rlog.observe.metrics."""

    produced_records: int = 0
    produced_batches: int = 0
    produced_bytes: int = 0
    acknowledged_records: int = 0
    replicated_records: int = 0
    replicated_bytes: int = 0
    fetched_bytes: int = 0
    elections_started: int = 0
    elections_won: int = 0
    cuts: int = 0
    cut_records: int = 0
    deleted_records: int = 0

    def produced(self, records: int, batches: int, size_bytes: int) -> None:
        """One turn's records were appended by the leader."""
        self.produced_records += records
        self.produced_batches += batches
        self.produced_bytes += size_bytes


@dataclass(slots=True)
class PeerCounters:
    sent_bytes: int = 0
    received_bytes: int = 0
    losses: int = 0


@dataclass(slots=True)
class NodeCounters:
    """request_errors: by (API key, error code). Keys of the other tables are FILES and CLOSE_REASONS."""

    commit_latency: Histogram = field(default_factory=Histogram)
    heartbeat_lateness: Histogram = field(default_factory=Histogram)
    loop_lag: Histogram = field(default_factory=Histogram)
    flush_duration: dict[str, Histogram] = field(
        default_factory=lambda: {file: Histogram() for file in FILES}
    )
    flushed_bytes: int = 0
    disk_errors: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FILES, 0))
    request_errors: Counter[tuple[int, int]] = field(default_factory=Counter)
    client_received_bytes: int = 0
    client_sent_bytes: int = 0
    clients_connected: int = 0
    clients_closed: dict[CloseReason, int] = field(default_factory=lambda: dict.fromkeys(CLOSE_REASONS, 0))
    peers_refused: int = 0
