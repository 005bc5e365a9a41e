"""What a run of the demo found."""

from dataclasses import asdict, dataclass, field
from typing import Any

AFTER_KILL_SHARE_MIN = 0.3
PROBLEMS_MAX = 20


@dataclass(slots=True)
class Result:
    """Filled in as the run goes on, so that an interrupted run can still say what was done."""

    records: int
    sent: int = 0
    acknowledged: int = 0
    unacknowledged: int = 0
    seconds: float = 0.0
    killed_node: int = 0
    killed_generation: int = 0
    killed_at: int | None = None
    """How many records were acknowledged when the leader was killed; None: it was not."""
    in_flight_at_kill: int = 0
    new_leader: int = 0
    new_generation: int = 0
    election_ms: float = 0.0
    """From the kill until another node says that it leads."""
    gap_ms: float = 0.0
    """The longest time without an acknowledgement after the kill."""
    acknowledged_after_kill: int = 0
    caught_up_ms: float = 0.0
    """From the restart of the killed node until it had flushed all that the leader had."""
    consumed: int = 0
    hwm: int = 0
    replicas_compared: int = 0
    replica_bytes: int = 0
    finished: bool = False
    interrupted: bool = False
    problems: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)

    def is_good(self) -> bool:
        return self.finished and not self.problems

    def judge(self) -> None:
        """Add what the numbers themselves forbid."""
        if self.killed_at is None:
            self.problem("the leader was never killed")
        elif self.in_flight_at_kill == 0:
            self.problem("no record was in flight when the leader was killed: the run proves too little")
        if self.acknowledged_after_kill < AFTER_KILL_SHARE_MIN * self.records:
            self.problem(
                f"only {self.acknowledged_after_kill} of {self.records} acknowledgements came after the kill"
            )
        if self.unacknowledged:
            self.problem(f"{self.unacknowledged} records were never acknowledged")

    def report(self) -> dict[str, Any]:
        return {**asdict(self), "good": self.is_good(), "durability": "fdatasync on a majority of 3 nodes"}

    def lines(self) -> list[tuple[str, str]]:
        """(name, value) of the summary."""
        rate = self.acknowledged / self.seconds if self.seconds else 0.0
        lines = [
            (
                "acknowledged",
                f"{self.acknowledged:,} of {self.records:,} records, each flushed on a majority",
            ),
            ("rate", f"{rate:,.0f} records/s over {self.seconds:.1f} s, the failover included"),
        ]
        if self.killed_at is not None:
            lines += [
                ("killed", f"node {self.killed_node}, leader of generation {self.killed_generation}, at "
                 f"{self.killed_at:,} acknowledged with {self.in_flight_at_kill:,} in flight"),
                ("new leader", f"node {self.new_leader} in generation {self.new_generation}, "
                 f"after {self.election_ms:,.0f} ms"),
                ("longest gap", f"{self.gap_ms:,.0f} ms without an acknowledgement after the kill"),
                ("after the kill", f"{self.acknowledged_after_kill:,} acknowledged"),
                ("caught up", f"the killed node, {self.caught_up_ms:,.0f} ms after its restart"),
            ]  # fmt: skip
        if self.consumed:
            lines.append(("consumed", f"{self.consumed:,} records, compared with the input one by one"))
        if self.replicas_compared:
            lines.append(
                ("replicas", f"{self.replicas_compared} read from disk, {self.replica_bytes:,} bytes each, "
                 f"equal up to the high-water mark {self.hwm:,}")
            )  # fmt: skip
        return lines
