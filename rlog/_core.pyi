"""Types of the native core. Filled in by section as the native code lands."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias, final

from typing_extensions import Buffer

# --- codec: native/batch.pxi, codecs.pxi, records.pxi, builder.pxi, span.pxi --------------------------------

Compression: TypeAlias = Literal["none", "gzip", "snappy", "lz4", "zstd"]

@final
class BatchInfo:
    """What the header of one checked batch says, and where the batch lies in the buffer it was read from.

    Sizes and positions in bytes, timestamps in milliseconds since the epoch (-1: none). The producer fields
    are -1 for a batch of no idempotent producer. `codec`: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    """

    @property
    def position(self) -> int: ...
    @property
    def size(self) -> int:
        """The whole batch, header included."""
    @property
    def base_offset(self) -> int: ...
    @property
    def last_offset(self) -> int:
        """Offset of the last record: inclusive."""
    @property
    def generation(self) -> int: ...
    @property
    def attributes(self) -> int: ...
    @property
    def base_timestamp(self) -> int: ...
    @property
    def max_timestamp(self) -> int: ...
    @property
    def producer_id(self) -> int: ...
    @property
    def producer_epoch(self) -> int: ...
    @property
    def base_sequence(self) -> int: ...
    @property
    def last_sequence(self) -> int:
        """Sequence of the last record; sequences wrap from 2^31 - 1 to 0."""
    @property
    def count(self) -> int: ...
    @property
    def is_control(self) -> bool: ...
    @property
    def codec(self) -> int: ...

def check_client_batches(records: Buffer, *, batch_bytes_max: int) -> list[BatchInfo]:
    """Check the batches of one produce request: structure (SAFETY 54), CRC, and that nothing follows.

    At least one batch; no control, transactional or log-append-time batches. Records are not looked at.
    Raises CorruptBatch: BatchTooLarge for a batch of more than `batch_bytes_max` bytes, InvalidTimestamp for
    one that claims a leader's timestamps.
    """

def iterate_batches(data: Buffer, *, verify: bool = True) -> list[BatchInfo]:
    """The batches of a dense run of a log's bytes, generations never falling; empty data has none.

    `verify` checks the CRCs too. Raises CorruptBatch.
    """

@final
class Record:
    """One record as a consumer gets it. Immutable, hashable, compared by value.

    topic, partition: "" and 0 when decoded without being told.
    offset: its position in the partition's log. generation: of the leader that wrote it.
    timestamp_ms: milliseconds since the epoch; -1 when it has none.
    key, value: None when null. headers: (name, value) pairs in the producer's order.
    """

    __match_args__ = ("topic", "partition", "offset", "generation", "timestamp_ms", "key", "value", "headers")

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        generation: int,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes | None], ...] = (),
    ) -> None: ...
    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> tuple[tuple[str, bytes | None], ...]: ...
    def __hash__(self) -> int: ...

@final
class BatchBuilder:
    """Encodes records into one batch, as a producer sends it. build() ends it.

    batch_bytes_max: limit of the whole batch in bytes before compression, in [68, 2^31 - 1].
    compression: records are compressed with it by build(), where that makes them smaller.
    The producer fields are all -1 (not idempotent) or all >= 0. Raises ValueError for anything else.
    """

    def __init__(
        self,
        *,
        batch_bytes_max: int,
        compression: Compression = "none",
        producer_id: int = -1,
        producer_epoch: int = -1,
        base_sequence: int = -1,
    ) -> None: ...
    @property
    def count(self) -> int: ...
    @property
    def size(self) -> int:
        """Bytes so far, header included, before compression."""
    def append(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Iterable[tuple[str, bytes | None]] = (),
        timestamp_ms: int = -1,
    ) -> bool:
        """Add one record; False when it does not fit any more (nothing was added then).

        Raises BatchTooLarge when it would not fit an empty batch either, TypeError for wrong headers,
        ValueError after build().
        """
    def append_values(self, values: list[bytes] | tuple[bytes, ...], start: int, timestamp_ms: int) -> int:
        """Add values[start:], without keys, as far as they fit; returns how many were taken.

        Raises TypeError or BatchTooLarge when values[start] itself is not bytes or fits no batch (what comes
        before a bad value is taken first), ValueError after build() or for a `start` outside the values.
        """
    def set_producer(self, producer_id: int, epoch: int, base_sequence: int) -> None:
        """Set the idempotent producer's fields; counts until build()."""
    def build(self) -> bytes:
        """The encoded batch, unstamped (base offset 0, generation -1).

        Records that compression does not make smaller are sent plain. Raises ValueError when empty or built
        already.
        """

def decode_records(
    data: Buffer,
    *,
    from_offset: int = 0,
    verify: bool = True,
    topic: str = "",
    partition: int = 0,
    decompressed_bytes_max: int = 67108864,
) -> list[Record]:
    """The records at or above `from_offset` in a fetch answer's bytes; control batches are skipped.

    The last batch may be cut short and is ignored then; batches need not be dense (Kafka's compacted topics).
    `verify` checks the CRCs. `decompressed_bytes_max` limits what one batch may decompress to.
    Raises CorruptBatch, and UnsupportedCodec for snappy and zstd where cramjam is not installed.
    """

def decode_values(
    data: Buffer,
    *,
    from_offset: int = 0,
    verify: bool = True,
    decompressed_bytes_max: int = 67108864,
) -> tuple[list[bytes | None], int]:
    """As decode_records, the bare values only (None: null); and the offset to fetch from next.

    That offset is the end of the last whole batch, control batches included, and never below `from_offset`.
    """

@final
class Span:
    """Stamped batches of one generation with dense offsets: read-only bytes, never empty, never changed.

    Supports the buffer protocol (`bytes(span)`, `memoryview(span)`, writev); the memory lives until the last
    export dies.
    """

    @property
    def base_offset(self) -> int: ...
    @property
    def end_offset(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def size(self) -> int:
        """Bytes."""
    @property
    def count(self) -> int:
        """Batches."""
    def __len__(self) -> int:
        """Bytes, as `size`."""
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @staticmethod
    def parse(data: Buffer) -> Span:
        """Copy and check the bytes of a span: dense offsets, one generation, exact lengths, every CRC.

        Raises CorruptBatch; its `position` is that of the bad batch. Empty data is refused.
        """
    @staticmethod
    def of_builder(
        builder: BatchBuilder, base_offset: int, generation: int, *, append_time_ms: int = -1
    ) -> Span:
        """End `builder`, and stamp its batch in place: a span of this one batch, without a copy.

        append_time_ms: the time that its records get (LogAppendTime); -1 leaves them their own. Raises
        ValueError as BatchBuilder.build() does, and when offsets are exhausted.
        """
    def slice(self, start: int, end: int | None = None, bytes_max: int | None = None) -> memoryview:
        """Whole batches from the one that contains `start` up to the last that ends at or below `end`.

        At most `bytes_max` bytes, but at least one batch unless the first ends above `end` (or `start` is the
        end offset): then empty. Raises ValueError when `start` lies outside the span.
        """
    def boundary(self, start: int, bytes_max: int, end_max: int) -> int:
        """The end offset that slice(start, end_max, bytes_max) reaches; `start` when that is empty."""
    def span_from(self, start: int) -> Span:
        """The part of this span from batch boundary `start` on, sharing this span's memory.

        Raises ValueError when `start` is not the base offset of one of its batches.
        """
    def producer_batches(self) -> list[tuple[int, int, int, int, int, int, int]]:
        """(producer_id, epoch, base_sequence, last_sequence, base_offset, last_offset, append_time_ms) of
        each batch of an idempotent producer, in order; the last is -1 where timestamps are the producer's."""

@final
class SpanBuilder:
    """A leader's group buffer of one tick: checked client batches, stamped and copied once.

    It grows with what is added; the caller bounds that (`size`). build() ends it; ValueError afterwards.
    append_time_ms: the time that every record added gets (LogAppendTime); -1 leaves them the producer's.
    """

    def __init__(self, base_offset: int, generation: int, *, append_time_ms: int = -1) -> None: ...
    @property
    def append_time_ms(self) -> int: ...
    @property
    def base_offset(self) -> int: ...
    @property
    def end_offset(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def size(self) -> int:
        """Bytes so far."""
    def add(self, records: Buffer, info: BatchInfo) -> int:
        """Copy the batch that `info` describes out of the buffer that check_client_batches() checked.

        `records` is that whole buffer (the batch lies at info.position), or just this batch's bytes. The base
        offset becomes this span's end offset, the generation this span's; returns the new end offset. Raises
        ValueError when the buffer does not hold that batch, or offsets are exhausted.
        """
    def add_start(self, timestamp_ms: int) -> int:
        """Add a start-of-generation entry: a control batch of one record, in KRaft's LEADER_CHANGE form.

        It consumes one offset (SAFETY 37); returns the new end offset.
        """
    def build(self) -> Span:
        """The span of everything added. Raises ValueError when nothing was, or it was built already."""

# --- storage: native/vfs.pxi, native/disk.pxi, native/segment.pxi -------------------------------------------

@final
class Vfs:
    """A table of file functions. `target` of `Vfs.of` is a `rlog.testing.disk.Disk`. Methods raise OSError.

    They block: for start-up and reads. `DiskJob` is the way that needs no GIL.
    """

    @staticmethod
    def system() -> Vfs: ...
    @staticmethod
    def of(target: object) -> Vfs: ...
    def open(self, path: str, *, new: bool = False) -> File:
        """Open for reading and writing. `new`: create it, or empty what a crash left there."""
    def rename(self, source: str, target: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def mkdir(self, path: str) -> None: ...
    def fsync_dir(self, path: str) -> None: ...
    def lock(self, path: str) -> File:
        """Open, creating, and lock for this process; BlockingIOError when another one holds it."""
    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted."""

@final
class File:
    """An open file of a Vfs, or one that a DiskJob will open. Closed when closed or forgotten."""

    def __init__(self, vfs: Vfs, path: str) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def is_open(self) -> bool: ...
    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes at `offset`; less only at the end of the file."""
    def pwrite(self, data: Buffer, offset: int) -> None: ...
    def fdatasync(self) -> None: ...
    def fsync(self) -> None: ...
    def size(self) -> int: ...
    def fallocate(self, length: int) -> None: ...
    def close(self) -> None: ...
    def unlock(self) -> None:
        """Close a file that Vfs.lock() opened, and end its lock, whoever has inherited the descriptor."""

@final
class DiskJob:
    """An ordered list of file operations: build it, then `run()` it or `step()` through it, once.

    `error`: 0, or the errno of `error_operation`; nothing after that operation was done.
    """

    tag: Any
    def __init__(self, vfs: Vfs) -> None: ...
    def create(self, file: File) -> None:
        """Create `file` (or empty what a crash left under its name) and open it."""
    def fallocate(self, file: File, length: int) -> None: ...
    def write(self, file: File, offset: int, buffers: Sequence[Buffer], *, batches: bool = False) -> None:
        """One vectored write, without copies. `batches`: they are whole batches of a log."""
    def zero(self, file: File, offset: int, length: int) -> None: ...
    def fdatasync(self, file: File) -> None: ...
    def fsync(self, file: File) -> None: ...
    def sync_if_sparse(self, file: File) -> None:
        """Fdatasync `file` if the batches written could pass for torn later (SAFETY 19)."""
    def rename(self, source: str, target: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def fsync_dir(self, path: str) -> None: ...
    def uncache(self, file: File) -> None:
        """Let the page cache forget what is flushed of `file`; an in-memory disk has nothing to forget."""
    def run(self) -> None:
        """Execute everything on this thread, without the GIL."""
    def step(self) -> bool:
        """Execute one operation; True while there is another one to do."""
    def __len__(self) -> int: ...
    def operation(self, index: int) -> str: ...
    @property
    def error(self) -> int: ...
    @property
    def error_operation(self) -> str: ...
    @property
    def finished(self) -> bool: ...

@final
class WriteRound:
    """The job of an ordinary flush round, made once for a segment and run again and again: one span written,
    fdatasync, the watermark written, and synced where the span asks for that."""

    def __init__(self, vfs: Vfs, segment: File, watermarks: File, slot_position: int) -> None: ...
    @property
    def segment(self) -> File: ...
    @property
    def span(self) -> Span:
        """The one loaded last."""
    def load(self, span: Span, position: int, slot: bytes) -> None:
        """Write `span` at `position` of the segment, then `slot`. Both are kept until the next load."""
    def run(self) -> None:
        """Execute it on this thread, without the GIL."""
    @property
    def error(self) -> int: ...
    @property
    def error_operation(self) -> str: ...
    @property
    def finished(self) -> bool: ...

@final
class DiskPool:
    """Threads that run DiskJobs and never take the GIL; `fileno()` is readable when jobs completed."""

    def __init__(self, threads: int = 2, *, queued_jobs_max: int = 4096) -> None: ...
    @property
    def pending(self) -> int:
        """Jobs submitted and not drained yet."""
    def fileno(self) -> int: ...
    def submit(self, job: DiskJob) -> None:
        """RuntimeError when the queue is full, the pool is closed, or the job was submitted before."""
    def drain(self) -> list[DiskJob]:
        """The jobs that completed since the last call, in that order. Never blocks."""
    def close(self) -> None:
        """Finish what is queued and end the threads; `drain()` still gives the completions."""

@final
class SegmentIndex:
    """Where batches start in one segment, at least `interval_bytes` apart, and how late the records from each
    such place up to the next are. Positions in bytes of the segment, timestamps in milliseconds."""

    def __init__(self, interval_bytes: int = 4096) -> None: ...
    @property
    def interval_bytes(self) -> int: ...
    @property
    def max_timestamp_ms(self) -> int:
        """Of all records noted; -1 when none has a timestamp."""
    def __len__(self) -> int: ...
    def add(self, span: Span, position: int) -> None:
        """Note the batches of `span`, which lies at `position`, after all that is noted."""
    def find(self, offset: int) -> tuple[int, int] | None:
        """(offset, position) of the last noted batch that starts at or below `offset`; None: none does."""
    def find_time(self, timestamp_ms: int, start: int) -> tuple[int, int, int | None, int | None] | None:
        """(offset, position, next offset, next position) of the first interval that has, by its batches'
        headers, a record that late and reaches past offset `start`. The latter two are None in the last
        interval, which ends where the segment does. None: there is no such record."""
    def seam(self, offset: int) -> tuple[int, int] | None:
        """(offset, position) from which the batches below `offset` must be added anew after cut(offset); None
        when nothing has to."""
    def cut(self, offset: int) -> None:
        """Forget the batches that start at or past seam(offset), or else at or past `offset`."""
    def to_bytes(self) -> bytes:
        """Triples of big-endian 64-bit numbers: offset, position, largest timestamp up to the next entry."""
    @staticmethod
    def from_bytes(data: Buffer, interval_bytes: int = 4096) -> SegmentIndex:
        """ValueError when the entries do not rise."""

def scan_batches(
    data: Buffer,
    position: int,
    offset: int,
    generation: int,
    offset_end: int,
    index: SegmentIndex | None,
    producers: list[tuple[int, int, int, int, int, int, int]] | None,
) -> tuple[int, int]:
    """Walk over good batches of one generation; (position, offset) reached."""

def find_batches(
    data: Buffer, offset: int, start: int, generation: int, bytes_max: int, end_max: int
) -> tuple[int, int, int, int]:
    """(first, last, end_offset, missing) of a read from disk. Raises CorruptBatch."""

def find_time(
    data: Buffer, timestamp_ms: int, *, start: int = 0, decompressed_bytes_max: int = 67108864
) -> tuple[int, int] | None:
    """(offset, timestamp) of the first record at or past offset `start` that is `timestamp_ms` or later.

    `data` are whole batches of a log, checked before; control batches are skipped, and so are those whose
    headers say that no record of theirs is late enough. Raises CorruptBatch when the records of a batch do
    not parse, or decompress to more than `decompressed_bytes_max`; UnsupportedCodec.
    """

def judge_tail(
    data: Buffer, position: int, offset: int, round_bytes_max: int
) -> Literal["end", "torn", "later", "unknown"]:
    """What the bytes of an active segment prove about its end at (position, offset) (SAFETY 19)."""

def retain_freed_memory(retained_bytes: int) -> bool:
    """Let this process keep freed memory at the top of its heap. Returns whether the C library took it."""
