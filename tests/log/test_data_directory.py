"""The files beside the segments are the bytes that docs/format.md shows."""

import json
import re
from dataclasses import asdict, astuple
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
from crc32c import crc32c

from rlog._core import Vfs
from rlog.log.anchor import Anchor, decode_anchor, load_anchor
from rlog.log.meta import (
    CHANGES,
    COPIES,
    HEADER,
    MAGIC,
    VERSION,
    Meta,
    MetaState,
    PartitionMeta,
    encode_frame,
)
from rlog.log.producers import ProducerTable
from rlog.log.storage import Kind, Storage
from rlog.log.watermarks import SLOT_BYTES, Watermark, decode_slot, encode_slot, name_crc
from rlog.log.worked_bytes import worked_bytes

from .storage_kit import NAME, SMALL, anchor_of, make_span, open_storage, settle

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/format.md").read_text()
UUID = "00112233445566778899aabbccddeeff"
PRODUCERS = ProducerTable()
PRODUCERS.appended([(41, 1, 100, 101, 996, 997, -1)])
ANCHOR = Anchor(1000, 3, 940, 1_760_000_009_000, PRODUCERS.encode())


def blocks(section: str) -> list[str]:
    """What stands between fences below a heading."""
    return DOCUMENT.partition(f"\n### {section}\n")[2].partition("\n### ")[0].split("```")[1::2]


def worked(section: str) -> bytes:
    return worked_bytes(blocks(section)[0])


def golden(name: str) -> bytes:
    return worked_bytes((ROOT / f"tests/golden/{name}.hex").read_text())


@pytest.mark.parametrize("kind", get_args(Kind))
def test_format(tmp_path: Path, kind: Kind) -> None:
    Storage.open(
        Vfs.system(), str(tmp_path), random=Random(1), partitions=(), settings=SMALL, kind=kind
    ).close()
    shown = blocks("Format")[0].lstrip("\n").replace("a cluster node", kind)
    assert (tmp_path / "format").read_text() == shown
    assert f"of {kind}`" in " ".join(DOCUMENT.split())


def test_meta() -> None:
    snapshot, shown = blocks("Meta")
    head, tail = (worked_bytes(part) for part in re.split(r" +\.\.\..*", shown))
    body = snapshot.replace("\n", "").encode()
    state = MetaState(UUID, incarnation=2)
    state.partitions["orders-0"] = PartitionMeta(slot=0, generation=2, vote=1, starts=[(1, 0), (2, 940)])
    first, crc = encode_frame([["snapshot", state.to_json()]], 7, 0)
    second, _ = encode_frame([["vote", "orders-0", 3, 2]], 8, crc)
    header = HEADER.pack(MAGIC, VERSION, crc32c(MAGIC + VERSION.to_bytes(4, "big")))
    assert head + body + tail == header + first + second
    assert MetaState.of_json(json.loads(body)[0][1]) == state


def test_the_document_names_each_record_of_meta_with_its_fields() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", DOCUMENT.partition("### Meta")[2], flags=re.MULTILINE))
    assert set(rows) == {"snapshot", *CHANGES}
    assert [name for name in asdict(PartitionMeta(0)) if f"`{name}`" not in DOCUMENT] == []
    assert [name for name in asdict(MetaState("")) if f"`{name}`" not in DOCUMENT] == []


HISTORY: list[list[list[Any]]] = [  # the records of each flush behind the snapshot: every kind there is
    [
        ["partition", "orders-1", 1],
        ["pins", {"1": UUID, "2": UUID[::-1]}],
        ["pins_confirmed"],
        ["peer_incarnation", 2, 5],
        ["clock", "boot", 12.5, 1_760_000_000_000, None, 1_760_000_000_007],
    ],
    [["vote", "orders-0", 3, 2], ["start", "orders-0", 3, 1200], ["suspect", "orders-0", True]],
    [["cut", "orders-0", 1200, 1]],
    [["cut_done", "orders-0", 1], ["log_start", "orders-0", 1003], ["anchor", "orders-0", 1000]],
    [["install", "orders-1", 500, 2, 480, 1], ["suspect", "orders-0", False], ["clean", {"orders-0": 1200}]],
]
AFTER = MetaState(
    UUID,
    incarnation=3,
    partitions={
        "orders-0": PartitionMeta(
            0, generation=3, vote=2, starts=[(2, 940)], cut_counter=1, anchor=1000, log_start=1003,
            clean_end=1200,
        ),
        "orders-1": PartitionMeta(
            1, starts=[(2, 480)], cut_counter=1, unfinished_cut=500, anchor=500, log_start=500
        ),
    },
    pins={1: UUID, 2: UUID[::-1]},
    pins_confirmed=True,
    peer_incarnations={2: 5},
    clock=["boot", 12.5, 1_760_000_000_000, None, 1_760_000_000_007],
)  # fmt: skip


def test_the_golden_meta_is_read_and_written(tmp_path: Path) -> None:
    """Every kind of record, in several frames; both copies are the same."""
    assert {record[0] for records in HISTORY for record in records} == set(CHANGES)
    (tmp_path / "read").mkdir()
    for copy in COPIES:
        (tmp_path / "read" / copy).write_bytes(golden("meta"))
    assert Meta.load(Vfs.system(), str(tmp_path / "read"), bytes_max=4096).state == AFTER
    state = MetaState(UUID, incarnation=3)
    state.partitions["orders-0"] = PartitionMeta(0, generation=2, vote=1, starts=[(1, 0), (2, 940)])
    meta = Meta(Vfs.system(), str(tmp_path), state, bytes_max=4096, sequence=41)
    meta.rewrite()
    for records in HISTORY:
        for record in records:
            meta.queue(*record)
        meta.flush()
    meta.close()
    assert [(tmp_path / copy).read_bytes() for copy in COPIES] == [golden("meta")] * 2
    assert state == AFTER


def test_the_golden_watermarks_are_read_and_written(tmp_path: Path) -> None:
    """Two partitions, a slot of 512 bytes each."""
    slots = {"orders-0": Watermark(1, 1200, 1000, 1 << 20), "payments-11": Watermark(0, 0, 0, 0)}
    data = golden("watermarks")
    for number, (name, watermark) in enumerate(slots.items()):
        slot = data[number * SLOT_BYTES :][:SLOT_BYTES]
        assert decode_slot(slot, name_crc(name)) == watermark
        assert encode_slot(name_crc(name), *astuple(watermark)).ljust(SLOT_BYTES, b"\0") == slot
    assert len(data) == len(slots) * SLOT_BYTES


def test_the_golden_anchor_is_read_and_written() -> None:
    """Two producers, one of them with two batches, in a topic with its leaders' times."""
    producers = ProducerTable()
    producers.appended(
        [
            (41, 1, 100, 101, 990, 991, 1_760_000_008_000),
            (77, 0, 2**31 - 1, 0, 992, 993, 1_760_000_008_500),
            (41, 1, 102, 102, 999, 999, 1_760_000_009_000),
        ]
    )
    anchor = Anchor(1000, 3, 940, 1_760_000_009_000, producers.encode())
    assert anchor.encode() == golden("anchor")
    read = decode_anchor(golden("anchor"))
    assert read == anchor
    assert ProducerTable.decode(read.producers) == producers


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
