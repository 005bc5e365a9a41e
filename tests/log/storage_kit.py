"""What the storage tests share: spans to append, and a driver that runs every job to its end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from random import Random
from typing import TYPE_CHECKING

from rlog._core import (
    BatchBuilder,
    BatchInfo,
    DiskJob,
    SegmentIndex,
    Span,
    SpanBuilder,
    Vfs,
    check_client_batches,
    decode_records,
    iterate_batches,
)
from rlog.log.anchor import Anchor
from rlog.log.format import APPEND_TIME_BIT
from rlog.log.log import PartitionLog
from rlog.log.producers import ProducerTable
from rlog.log.settings import LogSettings
from rlog.log.storage import Storage
from rlog.log.time_search import TimeStep

if TYPE_CHECKING:
    from rlog._core import Compression

SMALL = LogSettings(
    segment_bytes_min=4096,
    segment_bytes_max=16384,
    tail_bytes_max=2048,
    index_interval_bytes=256,
    round_bytes_max=4096,
    meta_bytes_max=4096,
)
NAME = "orders-0"


def make_span(
    base: int,
    generation: int,
    *,
    batches: int = 1,
    records: int = 2,
    size: int = 40,
    seed: int = 0,
    producer: tuple[int, int, int] | None = None,
    append_time_ms: int = -1,
    times_ms: Sequence[int] = (1_700_000_000_000,),
    compression: Compression = "none",
) -> Span:
    """`batches` batches of `records` records, with values of `size` random bytes.

    producer: (producer id, epoch, first sequence). times_ms: the producer's timestamps, over and over.
    append_time_ms: the leader's, or -1.
    """
    times = cycle(times_ms)
    random = Random(f"{seed} {base} {generation}")
    builder = SpanBuilder(base, generation, append_time_ms=append_time_ms)
    for number in range(batches):
        batch = BatchBuilder(batch_bytes_max=1 << 22, compression=compression)
        if producer is not None:
            batch.set_producer(producer[0], producer[1], producer[2] + number * records)
        for _ in range(records):
            assert batch.append(random.randbytes(size), timestamp_ms=next(times))
        data = batch.build()
        builder.add(data, check_client_batches(data, batch_bytes_max=1 << 22)[0])
    return builder.build()


def open_storage(
    vfs: Vfs, directory: str = "/data", *, settings: LogSettings = SMALL, names: tuple[str, ...] = (NAME,)
) -> Storage:
    return Storage.open(vfs, directory, random=Random(7), partitions=names, settings=settings)


def run_one(storage: Storage) -> bool:
    """Build and run one job of whoever has one, meta first; whether there was any."""
    job = storage.meta.flush_job()
    if job is not None:
        job.run()
        storage.meta.flush_done(job)
        return True
    for log in storage.logs.values():
        job = log.flush_job()
        if job is not None:
            job.run()
            log.flush_done(job)
            return True
    return False


def settle(storage: Storage) -> None:
    """Run jobs until none is left. A failing one raises StorageFailed."""
    while run_one(storage):
        pass


def contents(log: PartitionLog, start: int | None = None) -> bytes:
    """The log's bytes from the batch that holds `start`, or from where its files begin, to the end."""
    parts: list[memoryview] = []
    end = log.base_offset if start is None else start
    while end < log.end_offset:
        parts += log.read(end, bytes_max=1 << 30, end_max=log.end_offset)
        end = log.boundary(end, bytes_max=1 << 30, end_max=log.end_offset)
    return b"".join(parts)


def operations(job: DiskJob) -> list[str]:
    """The job's operations in words, directories left out."""
    return [" ".join(part.rpartition("/")[2] for part in job.operation(i).split()) for i in range(len(job))]


def anchor_of(history: list[Span], offset: int) -> Anchor:
    """What stands for `history` below `offset`."""
    infos = iterate_batches(b"".join(bytes(span) for span in history if span.end_offset <= offset))
    runs: dict[int, int] = {}
    for info in infos:
        runs.setdefault(info.generation, info.base_offset)
    assert infos[-1].last_offset + 1 == offset, "not a boundary"
    last = infos[-1]
    time_ms = last.max_timestamp if last.attributes & APPEND_TIME_BIT else -1
    return Anchor(offset, last.generation, runs[last.generation], time_ms, rebuilt_producers(infos).encode())


def rebuilt_producers(infos: list[BatchInfo]) -> ProducerTable:
    """The producer table of a log of these batches, from scratch."""
    table = ProducerTable()
    table.appended(
        (
            info.producer_id,
            info.producer_epoch,
            info.base_sequence,
            info.last_sequence,
            info.base_offset,
            info.last_offset,
            info.max_timestamp if info.attributes & APPEND_TIME_BIT else -1,
        )
        for info in infos
        if info.producer_id >= 0
    )
    return table


def rebuilt_index(data: bytes, interval_bytes: int) -> SegmentIndex:
    """The index of a segment that holds these batches, from scratch."""
    index = SegmentIndex(interval_bytes)
    for info in iterate_batches(data, verify=False):
        index.add(Span.parse(data[info.position : info.position + info.size]), info.position)
    return index


def check_indexes(log: PartitionLog, settings: LogSettings) -> None:
    """SAFETY 13: the index of each segment equals its rebuild from the log."""
    data = contents(log)
    infos = iterate_batches(data, verify=False)
    for segment in log._segments:
        held = [info for info in infos if segment.base_offset <= info.base_offset < segment.end_offset]
        batches = data[held[0].position : held[-1].position + held[-1].size] if held else b""
        index = rebuilt_index(batches, settings.index_interval_bytes)
        assert segment.index.to_bytes() == index.to_bytes()
        times = [info.max_timestamp for info in held if not info.is_control]
        assert segment.max_timestamp_ms == max([-1, *times])


def first_at(data: bytes, timestamp_ms: int, start: int = 0) -> tuple[int, int] | None:
    """(offset, timestamp) of the first record that late, by reading all of them."""
    for record in decode_records(data, from_offset=start):
        if record.timestamp_ms >= timestamp_ms:
            return record.offset, record.timestamp_ms
    return None


def find(log: PartitionLog, timestamp_ms: int, *, end_max: int) -> tuple[int, int] | None:
    """(offset, timestamp) of the first record below `end_max` that late, step by step as a node searches."""
    step = TimeStep(None, log.start_offset)
    while step.found is None and step.next_offset < end_max:
        step = log.search_time(timestamp_ms, start=step.next_offset, end_max=end_max)
    return step.found
