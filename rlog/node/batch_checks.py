"""What a partition asks of batches beyond their own structure: of those it takes, and of those it serves."""

from struct import Struct

from rlog._core import BatchInfo
from rlog.errors import InvariantBroken, OutOfOrder

SEQUENCES = 2**31
_BASE_OFFSET = Struct(">q")
_LAST_OFFSET_DELTA = Struct(">i")


def check_follows(before: BatchInfo, info: BatchInfo) -> None:
    """Batches of one request: all of one producer and consecutive, or all of none. Raises OutOfOrder."""
    same_producer = (before.producer_id, before.producer_epoch) == (info.producer_id, info.producer_epoch)
    expected = (
        (before.base_sequence + before.count) % SEQUENCES if before.producer_id >= 0 else info.base_sequence
    )
    if not same_producer or info.base_sequence != expected:
        raise OutOfOrder("the batches of one request do not follow each other")


def check_holds(batches: list[memoryview], offset: int) -> None:
    """SAFETY 55: what is served holds what was asked for. Raises InvariantBroken."""
    if batches:
        (base_offset,) = _BASE_OFFSET.unpack_from(batches[0], 0)
        (delta,) = _LAST_OFFSET_DELTA.unpack_from(batches[0], 23)
        if not base_offset <= offset <= base_offset + delta:
            raise InvariantBroken(f"a read at {offset} yields records {base_offset} to {base_offset + delta}")
