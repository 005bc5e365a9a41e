"""The codecs that records are compressed with: their frames, their caps, and the bombs these are for."""

import gzip
import subprocess
import sys
import tracemalloc
from pathlib import Path

import lz4.frame
import pytest

from rlog._core import check_client_batches, decode_records, decode_values
from rlog.errors import CorruptBatch, UnsupportedCodec
from rlog.log import format as reference
from rlog.records import Record
from tests.log.test_records import (
    COMPRESS,
    GOOD_PAYLOAD,
    GOOD_RECORDS,
    assert_alike,
    batch_of,
    built,
)


@pytest.mark.parametrize("codec", COMPRESS)
def test_incompressible_records_are_sent_plain(codec: int) -> None:
    compression = reference.CODEC_NAMES[codec]
    batch = built([Record("", 0, 0, 0, 1, None, bytes(range(256)))], compression=compression)
    (info,) = check_client_batches(batch, batch_bytes_max=4096)
    assert info.codec == 0
    squeezed = built([Record("", 0, 0, 0, 1, None, b"a" * 1000)], compression=compression)
    (info,) = check_client_batches(squeezed, batch_bytes_max=4096)
    assert (info.codec, len(squeezed) < 200) == (codec, True)


ZSTD_MAGIC = bytes.fromhex("28b52ffd")
RLE_BLOCK = (128 << 10 << 3 | 1 << 1).to_bytes(3, "little") + b"x"  # 128 KiB of one byte
BOMBS = {
    "gzip": (reference.GZIP, lambda: gzip.compress(bytes(64 << 20), 1)),
    "lz4": (reference.LZ4, lambda: lz4.frame.compress(bytes(64 << 20))),
    "raw snappy": (reference.SNAPPY, lambda: COMPRESS[reference.SNAPPY](bytes(16 << 20))),
    "xerial snappy": (reference.SNAPPY, lambda: reference._snap(bytes(16 << 20))),
    "zstd that says its size": (reference.ZSTD, lambda: COMPRESS[reference.ZSTD](bytes(64 << 20))),
    # A window of 8 MiB, no size, then a gigabyte in 32 KiB.
    "zstd of one byte": (reference.ZSTD, lambda: ZSTD_MAGIC + b"\x00\x68" + RLE_BLOCK * 8192),
    "zstd with a window of 128 MiB": (reference.ZSTD, lambda: ZSTD_MAGIC + b"\x00\x88" + RLE_BLOCK * 8192),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_decompression_bomb_costs_no_more_than_the_cap(name: str) -> None:
    codec, make = BOMBS[name]
    bomb = batch_of(make(), codec=codec)
    cap = 1 << 20
    tracemalloc.start()
    try:
        for read in (decode_records, decode_values):
            with pytest.raises(CorruptBatch, match=f"more than {cap} bytes"):
                read(bomb, decompressed_bytes_max=cap)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * cap


def test_what_a_bomb_costs_the_whole_process_is_bounded_too(tmp_path: Path) -> None:
    """Resident memory, the codecs' own included; declared sizes and windows are not believed."""
    for number, (codec, make) in enumerate(BOMBS.values()):
        (tmp_path / f"{number}").write_bytes(batch_of(make(), codec=codec))
    script = """if True:
        import cramjam, resource, sys
        from rlog._core import decode_values
        from rlog.errors import CorruptBatch
        for path in sys.argv[1:]:
            data = open(path, "rb").read()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                decode_values(data, decompressed_bytes_max=8 << 20)
            except CorruptBatch as error:
                assert "more than" in str(error), error
                print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    paths = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
    grown_kib = [int(line) for line in done.stdout.split()]
    assert len(grown_kib) == len(BOMBS)
    assert max(grown_kib) < 3 * (8 << 10), grown_kib


@pytest.mark.parametrize("payload", [b"\xff\xff\xff\xff\x0f\x00a", b"\x80\x80\x80\x10\x00a"])
def test_a_size_that_snappy_cannot_have_takes_no_memory(payload: bytes) -> None:
    for data in (payload, reference.XERIAL_HEADER + len(payload).to_bytes(4, "big") + payload):
        tracemalloc.start()
        try:
            with pytest.raises(CorruptBatch, match="claim a size"):
                decode_values(batch_of(data, codec=reference.SNAPPY), decompressed_bytes_max=2**40)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("codec", COMPRESS)
def test_the_cap_is_exact(codec: int) -> None:
    batch = batch_of(COMPRESS[codec](GOOD_PAYLOAD), codec=codec, count=2)
    values = [record.value for record in GOOD_RECORDS]
    assert decode_values(batch, decompressed_bytes_max=len(GOOD_PAYLOAD)) == (values, 2)
    with pytest.raises(CorruptBatch, match="decompress to more"):
        decode_values(batch, decompressed_bytes_max=len(GOOD_PAYLOAD) - 1)


@pytest.mark.parametrize("codec", COMPRESS)
def test_a_frame_is_whole_and_alone(codec: int) -> None:
    frame = COMPRESS[codec](GOOD_PAYLOAD)
    for size in range(len(frame)):
        with pytest.raises(CorruptBatch):
            decode_values(batch_of(frame[:size], codec=codec, count=2))
    for tail in (b"\0", frame):
        with pytest.raises(CorruptBatch):
            decode_values(batch_of(frame + tail, codec=codec, count=2))


def test_snappy_comes_raw_and_in_javas_framing() -> None:
    payload = b"".join(
        reference.encode_record(
            Record("", 0, 0, 0, 1, None, bytes(30_000)), offset_delta=n, base_timestamp=1000
        )
        for n in range(3)
    )
    raw, framed = COMPRESS[reference.SNAPPY](payload), reference._snap(payload)
    assert framed[:16] == b"\x82SNAPPY\0\0\0\0\1\0\0\0\1"
    odd_versions = framed[:8] + b"\1\0\0\0\1\0\0\0" + framed[16:]  # little-endian, as some write them
    for frame in (raw, framed, odd_versions):
        batch = batch_of(frame, codec=reference.SNAPPY, count=3)
        assert decode_values(batch) == ([bytes(30_000)] * 3, 3)
        assert_alike(batch)
    for broken in (framed[:20] + b"\0" * 4, framed[:-1], framed + b"\0", framed + bytes(4)):
        batch = batch_of(broken, codec=reference.SNAPPY, count=3)
        with pytest.raises(CorruptBatch):
            decode_values(batch)
        assert_alike(batch)


@pytest.mark.parametrize("name", ["snappy", "zstd"])
def test_a_codec_whose_package_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = built([Record("", 0, 0, 0, 1, None, b"a" * 1000)], compression=name)
    monkeypatch.delitem(sys.modules, "cramjam")
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(UnsupportedCodec, match=f"{name} needs the package cramjam") as caught:
        decode_values(batch)
    assert caught.value.codec == name
