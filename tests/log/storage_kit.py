"""What the storage tests share: spans to append, and a driver that runs every job to its end."""

from random import Random

from rlog._core import (
    BatchBuilder,
    BatchInfo,
    DiskJob,
    Span,
    SpanBuilder,
    Vfs,
    check_client_batches,
    iterate_batches,
)
from rlog.log.anchor import Anchor
from rlog.log.format import APPEND_TIME_BIT
from rlog.log.log import PartitionLog
from rlog.log.producers import ProducerTable
from rlog.log.settings import LogSettings
from rlog.log.storage import Storage

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
) -> Span:
    """`batches` batches of `records` records, with values of `size` random bytes.

    producer: (producer id, epoch, first sequence). append_time_ms: -1 for the producer's timestamps.
    """
    random = Random(f"{seed} {base} {generation}")
    builder = SpanBuilder(base, generation, append_time_ms=append_time_ms)
    for number in range(batches):
        batch = BatchBuilder(batch_bytes_max=1 << 22, compression="none")
        if producer is not None:
            batch.set_producer(producer[0], producer[1], producer[2] + number * records)
        batch.append_values([random.randbytes(size) for _ in range(records)], 0, 1_700_000_000_000)
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
    generation = infos[-1].generation
    return Anchor(offset, generation, runs[generation], rebuilt_producers(infos).batches())


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
