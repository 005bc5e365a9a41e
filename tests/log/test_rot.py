"""Damage on disk: a flipped bit or a shortened file never makes an acknowledged record vanish unnoticed.

The one property behind all of these (SAFETY 19): after a recovery, either everything flushed is there,
unchanged, or the log says that it may not be: it is `suspect`, or has `damage`.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from crc32c import crc32c

from rlog._core import BatchBuilder, SpanBuilder, Vfs, check_client_batches, iterate_batches, judge_tail
from rlog.errors import CorruptLog, DataDirectoryError, RlogError
from rlog.log.meta import HEADER, MAGIC, read_chain
from rlog.log.settings import LogSettings
from rlog.log.storage import Storage
from rlog.testing.disk import Fault, MemoryDisk
from tests.log.storage_kit import NAME, contents, make_span, open_storage, settle

PARTITION = f"/data/partitions/{NAME}"
FIRST = f"{PARTITION}/00000000000000000000.log"
# Value sizes that end batches just before, at and just after the ends of sectors, and long runs of zeros.
ROOMY = LogSettings(segment_bytes_min=16384, segment_bytes_max=16384)
SIZES = (1, 440, 1, 373, 7, 800, 1, 2, 1100, 90)


@dataclass
class Crashed:
    """A disk after a power cut, what was flushed on it, and up to where its watermark knew."""

    disk: MemoryDisk
    flushed: bytes
    watermark: int


def write_rounds(storage: Storage, *, zeros: bool, round_batches: int) -> None:
    log = storage.logs[NAME]
    for number, size in enumerate(SIZES):
        batch = BatchBuilder(batch_bytes_max=1 << 20, compression="none")
        batch.append_values([bytes(size) if zeros else bytes([number + 1]) * size], 0, 0)
        data = batch.build()
        builder = SpanBuilder(log.end_offset, 1)
        builder.add(data, check_client_batches(data, batch_bytes_max=1 << 20)[0])
        log.append(builder.build())
        if number % round_batches == round_batches - 1:
            settle(storage)


def crashed(*, lose_watermarks: bool, zeros: bool, round_batches: int = 1) -> Crashed:
    """Ten batches in flushed rounds, then a power cut; it may take the watermarks that were not synced."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk), settings=ROOMY)
    write_rounds(storage, zeros=zeros, round_batches=round_batches)
    flushed = contents(storage.logs[NAME])
    disk.power_cut([0 if lose_watermarks else count - 1 for count in disk.unsynced()])
    slot = disk.contents("/data/watermarks")[16:24]
    return Crashed(disk, flushed, int.from_bytes(slot))


@pytest.fixture(
    params=["watermarks kept", "watermarks lost", "zeros, watermarks lost", "5 a round, watermarks lost"]
)
def case(request: pytest.FixtureRequest) -> Crashed:
    return crashed(
        lose_watermarks="lost" in request.param,
        zeros=request.param.startswith("zeros"),
        round_batches=5 if request.param.startswith("5") else 1,
    )


def is_noticed_or_harmless(disk: MemoryDisk, flushed: bytes) -> str:
    """How a recovery took it. Anything flushed that is gone without a word fails the test."""
    log = open_storage(Vfs.of(disk), settings=ROOMY).logs[NAME]
    if log.damage is not None:
        return "rot"
    found = contents(log)
    if log.suspect:
        assert flushed.startswith(found) or found.startswith(flushed)
        return "suspect"
    assert found.startswith(flushed), f"{len(flushed) - len(found)} flushed bytes vanished"
    return "harmless"


def bits(flushed: bytes) -> Iterator[int]:
    """Every bit of the header fields that the CRC skips, of every batch, and a spread of all others."""
    for info in iterate_batches(flushed):
        yield from range(info.position * 8, (info.position + 21) * 8)
    yield from range(0, (len(flushed) + 40) * 8, 23)


def test_any_flipped_bit_of_a_segment_is_noticed(case: Crashed) -> None:
    verdicts = set()
    for bit in bits(case.flushed):
        disk = case.disk.copy()
        disk.flip(FIRST, bit)
        verdict = is_noticed_or_harmless(disk, case.flushed)
        assert verdict != "harmless" or bit >= 8 * len(case.flushed), f"bit {bit} passed unseen"
        verdicts.add(verdict)
    assert verdicts >= {"rot"} if case.watermark else verdicts >= {"suspect"}


def test_a_flip_that_empties_a_header_is_not_taken_for_a_torn_sector() -> None:
    """The first 8 bytes of a batch end a sector, and hold one bit: that of its base offset."""
    for offset, verdict in ((4, "unknown"), (6, "torn")):
        data = bytearray(4096)
        span = bytes(make_span(offset, 1, size=700))
        data[504 : 504 + len(span)] = span
        data[504:512] = bytes(8)
        assert judge_tail(data, 504, offset, 4096) == verdict


def test_without_watermarks_zeros_in_a_batch_do_not_make_it_torn() -> None:
    """They may be the batch's own; only a watermark that is known to be low enough tells (SAFETY 19)."""
    case = crashed(lose_watermarks=False, zeros=True)
    case.disk.unlink("/data/watermarks")
    for bit in range(0, len(case.flushed) * 8, 29):
        disk = case.disk.copy()
        disk.flip(FIRST, bit)
        assert is_noticed_or_harmless(disk, case.flushed) in ("rot", "suspect")


def test_a_segment_of_any_shorter_length_is_noticed(case: Crashed) -> None:
    size = dict(case.disk.files())[FIRST]
    for shorter in [*range(0, len(case.flushed) + 20, 7), size - 1]:
        disk = case.disk.copy()
        disk.shorten(FIRST, shorter)
        verdict = is_noticed_or_harmless(disk, case.flushed)
        assert verdict in ("rot", "suspect"), f"{shorter} of {size} bytes: {verdict}"


@pytest.mark.parametrize("into_batch", [0, 1, 12, 61, 70, 100])
def test_a_segment_that_is_shortened_while_it_is_open_is_noticed_when_it_is_read(into_batch: int) -> None:
    """Where the batch begins, inside its header, just behind that, inside its records, and behind it."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk), settings=replace(ROOMY, tail_bytes_max=1))
    write_rounds(storage, zeros=False, round_batches=1)
    log = storage.logs[NAME]
    positions = [info.position for info in iterate_batches(contents(log))]
    disk.shorten(FIRST, positions[4] + into_batch)
    disk.faults = [Fault("pread", errno.EBADF, path=FIRST, skip=4, times=-1)]  # who goes on is stopped
    read = log.disk_read(4, bytes_max=1 << 20, end_max=log.end_offset)
    assert read is not None
    assert read.run() is None
    with pytest.raises(CorruptLog, match="shorter than what was written"):
        log.read(4, bytes_max=1 << 20, end_max=log.end_offset)
    assert log.damage is not None


def test_rot_below_the_watermark_is_told_from_a_torn_tail_above_it() -> None:
    case = crashed(lose_watermarks=False, zeros=False)
    assert case.watermark == len(SIZES)
    case.disk.flip(FIRST, 8 * (len(case.flushed) - 1))
    log = open_storage(Vfs.of(case.disk)).logs[NAME]
    assert log.damage == "the batch at offset 9 is damaged: the log was flushed up to 10"
    assert log.end_offset == 9
    with pytest.raises(CorruptLog):
        log.append(make_span(9, 1))
    assert open_storage_again(case.disk).logs[NAME].damage == log.damage, "quarantine survives a restart"


def open_storage_again(disk: MemoryDisk) -> Storage:
    disk.kill()
    return open_storage(Vfs.of(disk))


def test_rot_with_a_later_round_behind_it_is_rot_above_the_watermark_too() -> None:
    """SAFETY 19: more than one round's bytes further on lies a good batch; all before it had been flushed."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    big = make_span(0, 1, size=2800, records=1)
    log.append(big)
    settle(storage)
    for offset in range(1, 8):
        log.append(make_span(offset, 1, size=200, records=1))
        settle(storage)
    assert len(log._segments) == 2
    span = make_span(8, 1, size=3600, records=1)
    log.append(span)
    settle(storage)
    for offset in range(9, 12):
        log.append(make_span(offset, 1, size=600, records=1))
        settle(storage)
    disk.power_cut([0] * len(disk.unsynced()))
    active = log._segments[-1].base_offset
    disk.flip(f"{PARTITION}/{active:020}.log", 8 * 30)
    recovered = open_storage(Vfs.of(disk)).logs[NAME]
    assert recovered.damage is not None
    assert "later flush" in recovered.damage


def test_a_suspect_stays_suspect_until_cleared() -> None:
    case = crashed(lose_watermarks=True, zeros=False)
    case.disk.flip(FIRST, 8 * (len(case.flushed) - 1))
    storage = open_storage(Vfs.of(case.disk))
    assert storage.logs[NAME].suspect
    storage.close()
    storage = open_storage_again(case.disk)
    assert storage.logs[NAME].suspect, "a clean restart does not bring back what may be missing"
    storage.logs[NAME].clear_suspect()
    settle(storage)
    assert not open_storage_again(case.disk).logs[NAME].suspect


def test_a_missing_segment_is_noticed() -> None:
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    while len(log._segments) < 3:
        log.append(make_span(log.end_offset, 1, size=400))
        settle(storage)
    flushed = contents(log)
    disk.power_cut([0] * len(disk.unsynced()))
    for segment in log._segments:
        damaged = disk.copy()
        damaged.unlink(f"{PARTITION}/{segment.base_offset:020}.log")
        assert is_noticed_or_harmless(damaged, flushed) == "rot"


def test_any_flipped_bit_of_a_full_segment_is_noticed_when_it_is_read() -> None:
    """Full segments are not scanned at start; what they hold is checked as it is read (SAFETY 55)."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    while len(log._segments) < 2:
        log.append(make_span(log.end_offset, 1, size=300))
        settle(storage)
    flushed = contents(log)
    fill = log._segments[0].fill
    storage.close()
    for bit in range(0, fill * 8, 97):
        damaged = disk.copy()
        damaged.flip(FIRST, bit)
        log = open_storage(Vfs.of(damaged)).logs[NAME]
        with pytest.raises(CorruptLog):
            contents(log)
        assert log.damage is not None
    assert contents(open_storage(Vfs.of(disk.copy())).logs[NAME]) == flushed


@pytest.mark.parametrize("copy", ["meta.a", "meta.b"])
def test_any_flipped_bit_of_one_copy_of_meta_is_healed(copy: str) -> None:
    case = crashed(lose_watermarks=False, zeros=False)
    expected = open_storage(Vfs.of(case.disk.copy())).meta
    size = dict(case.disk.files())[f"/data/{copy}"]
    for bit in range(0, size * 8, 5):
        disk = case.disk.copy()
        disk.flip(f"/data/{copy}", bit)
        storage = open_storage(Vfs.of(disk))
        assert storage.meta.state == expected.state
        assert storage.logs[NAME].damage is None


def test_any_flipped_bit_of_both_copies_of_meta_is_refused() -> None:
    """SAFETY 52: no start as a voter."""
    case = crashed(lose_watermarks=False, zeros=False)
    size = dict(case.disk.files())["/data/meta.a"]
    for bit in range(0, size * 8, 11):
        disk = case.disk.copy()
        disk.flip("/data/meta.a", bit)
        disk.flip("/data/meta.b", (bit * 7) % (size * 8))
        with pytest.raises(DataDirectoryError, match="both copies of meta"):
            open_storage(Vfs.of(disk))


def test_any_flipped_bit_of_the_watermarks_loses_no_record() -> None:
    case = crashed(lose_watermarks=False, zeros=False)
    for bit in range(44 * 8):
        disk = case.disk.copy()
        disk.flip("/data/watermarks", bit)
        assert is_noticed_or_harmless(disk, case.flushed) == "harmless"


def test_a_lost_index_or_watermark_file_is_rebuilt() -> None:
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    log = storage.logs[NAME]
    while len(log._segments) < 4:
        log.append(make_span(log.end_offset, 1, size=300, producer=(9, 0, log.end_offset)))
        settle(storage)
    flushed, producers = contents(log), log.producers
    disk.power_cut([0] * len(disk.unsynced()))
    indexes = [path for path, _ in disk.files() if path.endswith(".index")]
    for path in [*indexes, "/data/watermarks"]:
        damaged = disk.copy()
        damaged.unlink(path)
        recovered = open_storage(Vfs.of(damaged)).logs[NAME]
        assert contents(recovered) == flushed
        assert recovered.producers == producers
        assert not recovered.suspect
    for path in indexes:
        damaged = disk.copy()
        damaged.flip(path, 8 * 60 + 3)
        recovered = open_storage(Vfs.of(damaged)).logs[NAME]
        assert (contents(recovered), recovered.producers == producers) == (flushed, True)
    assert [path for path, _ in damaged.files() if path.endswith(".index")] == indexes


def test_nothing_unknown_is_skipped() -> None:
    """SAFETY 49: a file or a format of a newer rlog refuses to start."""
    for path, content in (
        (f"{PARTITION}/00000000000000000000.timeindex", b""),
        ("/data/format", b"rlog data directory\nformat 2\n"),
        ("/data/format", b"something else\n"),
    ):
        case = crashed(lose_watermarks=False, zeros=False)
        fd = case.disk.open(path, True)
        case.disk.pwrite(fd, content, 0)
        with pytest.raises(DataDirectoryError):
            open_storage(Vfs.of(case.disk))


def test_a_record_or_a_version_of_meta_that_is_unknown_is_refused() -> None:
    """SAFETY 49: whole and intact, so written by a newer rlog."""
    disk = MemoryDisk()
    storage = open_storage(Vfs.of(disk))
    storage.meta._queued.append(["from the future", 1])
    storage.meta._sequence += 1
    storage.meta.flush()
    disk.kill()
    with pytest.raises(DataDirectoryError, match="unknown kind 'from the future'"):
        open_storage(Vfs.of(disk))
    with pytest.raises(DataDirectoryError, match="version 2"):
        read_chain(HEADER.pack(MAGIC, 2, crc32c(HEADER.pack(MAGIC, 2, 0)[:12])))


def test_a_foreign_directory_is_refused() -> None:
    disk = MemoryDisk()
    disk.mkdir("/data")
    disk.open("/data/precious", True)
    with pytest.raises(DataDirectoryError, match="precious"):
        open_storage(Vfs.of(disk))
    assert [path for path, _ in disk.files()] == ["/data/lock", "/data/precious"]


def test_errors_are_rlog_errors() -> None:
    with pytest.raises(RlogError):
        open_storage(Vfs.of(MemoryDisk()), "/absent/data")
