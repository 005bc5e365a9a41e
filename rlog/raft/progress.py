"""What a leader knows about one follower, and how much it may have under way to it.

A Progress belongs to one key (connection incarnation, generation): a new connection or a new generation
starts a new one at *probing*, and nothing is carried over by max (SAFETY 4).

    probing      where the logs agree is not known; one empty Append asks, each answer asks anew
    replicating  they agree up to `match_offset`; Appends are pipelined from `next_offset`

A probe that is lost is asked again at the answer to the next heartbeat. While replicating, a heartbeat's
answer that shows less than what had been sent when that heartbeat left makes the leader ask, behind all
that is in flight, "do you hold everything up to `next_offset`?" (SAFETY 45). Nothing lost: yes, and nothing
changes. Lost: the refusal names the gap, and probing finds where to resume.
"""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    # Probing: the offset asked about. Replicating: end of what was sent. A batch end of the leader's log.
    next_offset: int
    # When the follower last answered in this generation (loop seconds); what check-quorum counts.
    contact: float
    # End of what the follower said it verified against this leader (dirty). Only flow control uses it.
    match_offset: int = 0
    # End of what it has flushed of that; flushed_offset <= match_offset (SAFETY 4). Commits are counted by
    # it.
    flushed_offset: int = 0
    replicating: bool = False
    # Where it has on disk that the log starts.
    log_start: int = 0
    # `next_offset` as the last heartbeat left: less than this in its answer means in flight, or lost.
    round_offset: int = 0
    # (end, charge in bytes) of each Append that is not known to be flushed; ends rise.
    inflight: deque[tuple[int, int]] = field(default_factory=deque)
    # Sum of the charges in `inflight`.
    inflight_bytes: int = 0

    def probe(self, offset: int) -> None:
        """Start asking at `offset`; what was under way is forgotten, it may or may not arrive."""
        # The flushed part is on the follower's disk whatever message was lost, late or doubled.
        self.next_offset = max(offset, self.flushed_offset)
        self.match_offset = min(self.match_offset, self.next_offset)
        self.replicating = False
        self.inflight.clear()
        self.inflight_bytes = 0

    def accepted(self, match_offset: int, flushed_offset: int) -> None:
        """The follower verified up to `match_offset` and flushed up to `flushed_offset`."""
        # Within one key both only grow, so a reply that was overtaken changes nothing.
        if match_offset > self.match_offset:
            self.match_offset = match_offset
        if flushed_offset > self.flushed_offset:
            self.flushed_offset = flushed_offset
            inflight = self.inflight
            while inflight and inflight[0][0] <= flushed_offset:
                self.inflight_bytes -= inflight.popleft()[1]
        if self.next_offset <= self.match_offset:
            # Probing: what was asked about is answered. Replicating: it holds more than we knew to have sent.
            self.next_offset = self.match_offset
            self.replicating = True

    def admits(self, charge_bytes: int, bytes_max: int, count_max: int) -> bool:
        """Whether one more Append may leave. One is always possible when none is under way (SAFETY 45)."""
        if not self.replicating:
            return False
        if not self.inflight:
            return True
        return len(self.inflight) < count_max and self.inflight_bytes + charge_bytes <= bytes_max

    def sent(self, end_offset: int, charge_bytes: int) -> None:
        self.next_offset = end_offset
        self.inflight.append((end_offset, charge_bytes))
        self.inflight_bytes += charge_bytes
