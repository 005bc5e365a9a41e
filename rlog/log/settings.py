"""Sizes of the log. All are bytes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How big things are on disk and in memory; the same for every partition of a data directory.

    segment_bytes_min, segment_bytes_max: the first segment is preallocated with the former, each next one
        with twice as much, up to the latter; a batch that is bigger gets a bigger segment. Powers of two.
    tail_bytes_max: recent flushed spans kept in memory, per partition; unflushed ones are always kept.
    index_interval_bytes: one index entry about this often.
    round_bytes_max: what one flush round writes, unless a single batch is bigger. Recovery relies on it.
    meta_bytes_max: meta is compacted when it grows beyond this.
    """

    segment_bytes_min: int = 1 << 20
    segment_bytes_max: int = 64 << 20
    tail_bytes_max: int = 8 << 20
    index_interval_bytes: int = 4096
    round_bytes_max: int = 4 << 20
    meta_bytes_max: int = 1 << 20

    def __post_init__(self) -> None:
        for size in (self.segment_bytes_min, self.segment_bytes_max):
            if size < 512 or size & (size - 1):
                raise ValueError(f"a segment size is a power of two of at least 512 bytes, not {size}")
        if self.segment_bytes_max < self.segment_bytes_min:
            raise ValueError("segment_bytes_max is below segment_bytes_min")
        if min(self.index_interval_bytes, self.round_bytes_max, self.meta_bytes_max) < 1:
            raise ValueError("sizes are at least 1 byte")
