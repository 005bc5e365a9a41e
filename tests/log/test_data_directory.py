"""The files beside the segments are the bytes that docs/format.md shows."""

from pathlib import Path

from crc32c import crc32c

from rlog._core import Vfs
from rlog.log.anchor import Anchor, decode_anchor, load_anchor
from rlog.log.meta import HEADER, MAGIC, VERSION, encode_frame
from rlog.log.producers import ProducerTable
from rlog.log.watermarks import Watermark, decode_slot, encode_slot, name_crc
from rlog.log.worked_bytes import worked_bytes

from .storage_kit import NAME, anchor_of, make_span, open_storage, settle

DOCUMENT = (Path(__file__).parents[2] / "docs/format.md").read_text()
PRODUCERS = ProducerTable()
PRODUCERS.appended([(41, 1, 100, 101, 996, 997, -1)])
ANCHOR = Anchor(1000, 3, 940, 1_760_000_009_000, PRODUCERS.encode())


def worked(section: str) -> bytes:
    """The bytes of the first block below a heading."""
    return worked_bytes(DOCUMENT.partition(f"\n### {section}\n")[2].split("```")[1])


def test_meta() -> None:
    frame, _ = encode_frame([["vote", "orders-0", 3, 2]], 8, 0)
    assert HEADER.pack(MAGIC, VERSION, crc32c(MAGIC + VERSION.to_bytes(4, "big"))) + frame == worked("Meta")


def test_watermarks() -> None:
    assert encode_slot(name_crc("orders-0"), 1, 1200, 1000, 1 << 20) == worked("Watermarks")
    assert decode_slot(worked("Watermarks"), name_crc("orders-0")) == Watermark(1, 1200, 1000, 1 << 20)


def test_anchor() -> None:
    assert ANCHOR.encode() == worked("Anchor")
    assert decode_anchor(worked("Anchor")) == ANCHOR


def test_any_flipped_bit_of_an_anchor_is_noticed() -> None:
    data = bytearray(ANCHOR.encode())
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        assert decode_anchor(bytes(data)) is None, bit
        data[bit // 8] ^= 1 << bit % 8
    for size in range(len(data)):
        assert decode_anchor(bytes(data[:size])) is None, size


def test_a_log_whose_anchor_is_damaged_is_quarantined(tmp_path: Path) -> None:
    """SAFETY 19, 26: without it nobody knows what the producers had written, or which generation it was."""
    storage = open_storage(Vfs.system(), str(tmp_path))
    log = storage.logs[NAME]
    log.install(anchor_of([make_span(0, 1), make_span(2, 2)], 4))
    settle(storage)
    log.append(make_span(4, 2))
    settle(storage)
    storage.close()
    (path,) = tmp_path.glob("partitions/*/*.anchor")
    assert load_anchor(Vfs.system(), str(path.parent), 4) is not None
    whole = path.read_bytes()
    for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        storage = open_storage(Vfs.system(), str(tmp_path))
        assert "anchor at offset 4" in (storage.logs[NAME].damage or "")
        storage.close()
    path.write_bytes(whole)
    storage = open_storage(Vfs.system(), str(tmp_path))
    assert storage.logs[NAME].damage is None
    storage.close()
