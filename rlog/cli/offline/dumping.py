"""The batches of a log one by one, good and bad ones, and what the other files say: for people to read."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rlog._core import BatchInfo, decode_records, iterate_batches
from rlog.cli.offline.directory import DataDirectory
from rlog.cli.offline.disk import read_file
from rlog.cli.offline.segments import HEADER_BYTES, LENGTH_END, entries_of, scan_segment, why_bad
from rlog.errors import CorruptBatch, UnsupportedCodec
from rlog.generations import GenerationTable
from rlog.log.anchor import anchor_name, decode_anchor
from rlog.log.format import CODEC_NAMES
from rlog.log.producers import producer_batches
from rlog.log.segment import FILE_NAME, decode_index
from rlog.log.settings import LogSettings
from rlog.records import Record

PLACE = struct.Struct(">qi11xi")  # base offset, length, last offset delta
NAME = re.compile(r"(.+)-([0-9]+)")


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: where it lies, what its header says, and its bytes. why: what is wrong with it, if so."""

    file: str
    position: int
    info: BatchInfo | None
    data: bytes
    why: str | None = None

    def fields(self) -> dict[str, Any]:
        """Its JSON object."""
        place: dict[str, Any] = {"file": self.file, "position": self.position}
        if self.info is None:
            return {**place, "damage": self.why}
        info = self.info
        return {
            **place,
            "base_offset": info.base_offset,
            "last_offset": info.last_offset,
            "generation": info.generation,
            "bytes": info.size,
            "records": info.count,
            "control": info.is_control,
            "compression": CODEC_NAMES[info.codec],
            "timestamps_are": "the leader's" if info.attributes & 8 else "the producer's",
            "base_timestamp_ms": info.base_timestamp,
            "max_timestamp_ms": info.max_timestamp,
            "producer_id": info.producer_id,
            "producer_epoch": info.producer_epoch,
            "base_sequence": info.base_sequence,
        }

    def records(self, partition: str, from_offset: int) -> list[Record]:
        """None of a control batch. Raises CorruptBatch, UnsupportedCodec."""
        match = NAME.fullmatch(partition)
        topic, number = (match[1], int(match[2])) if match is not None else (partition, 0)
        return decode_records(self.data, from_offset=from_offset, topic=topic, partition=number)


def batches(directory: DataDirectory, partition: str, from_offset: int) -> Iterator[Batch]:
    """From the batch that holds `from_offset` on; a bad one in its place, and where no way leads on the last.

    Of a directory in use: up to what is flushed. Raises OSError.
    """
    assert directory.state is not None
    meta = directory.state.partitions[partition]
    watermark = directory.watermark(partition)
    generations = GenerationTable(meta.starts)
    flushed = watermark.flushed_offset if watermark is not None else 0
    path = directory.path_of(partition)
    matches = [match for name in directory.vfs.listdir(path) if (match := FILE_NAME.fullmatch(name))]
    bases = [int(match[1]) for match in matches if match[2] == "log" and int(match[1]) >= meta.anchor]
    for base, end in pairwise([*bases, None]):
        assert base is not None
        if end is not None and end <= from_offset:
            continue
        name = f"{base:020}.log"
        try:
            data = read_file(directory.vfs, f"{path}/{name}")
        except FileNotFoundError:
            if directory.in_use_by is None:
                raise
            continue  # deleted meanwhile
        end_max = end if end is not None else flushed if directory.in_use_by else 2**63 - 1
        scan = scan_segment(data, base, generations, end_max)
        bad = {each.position: each for each in scan.bad}
        starts = scan.starts
        for position in sorted([*(place for _, place, _ in entries_of(starts)), *bad]):
            if position in bad:
                yield Batch(name, position, None, b"", bad[position].why)
            elif _end_of(data, position) > from_offset:
                yield _batch(name, data, position)
        if scan.end_offset < (end if end is not None else flushed):
            why = why_bad(data, scan.end, scan.end_offset, generations.at(scan.end_offset))
            yield Batch(name, scan.end, None, b"", why)


def _end_of(data: bytes, position: int) -> int:
    base_offset, _, last_offset_delta = PLACE.unpack_from(data, position)
    return int(base_offset + last_offset_delta + 1)


def _batch(name: str, data: bytes, position: int) -> Batch:
    """One that scan_segment called good."""
    _, length, _ = PLACE.unpack_from(data, position)
    whole = data[position : position + LENGTH_END + length]
    assert len(whole) >= HEADER_BYTES
    return Batch(name, position, iterate_batches(whole, verify=False)[0], whole)


def record_trouble(batch: Batch, partition: str, from_offset: int) -> tuple[list[Record], str | None]:
    """Its records, or why they cannot be read."""
    try:
        return batch.records(partition, from_offset), None
    except (CorruptBatch, UnsupportedCodec) as error:
        return [], str(error)


def meta_fields(directory: DataDirectory) -> dict[str, Any]:
    """What meta and the watermarks say, as one JSON object."""
    state = directory.state
    return {
        "copies": [
            {
                "file": copy.name,
                "bytes": copy.bytes,
                "valid_bytes": copy.end,
                "last_sequence": copy.chain.last_sequence,
                "damaged": copy.chain.damaged,
                "records": copy.chain.records,
            }
            for copy in directory.copies
        ],
        "state": state.to_json() if state is not None else None,
        "watermarks": {name: _watermark(directory, name) for name in directory.partitions},
    }


def _watermark(directory: DataDirectory, name: str) -> dict[str, int] | None:
    slot = directory.watermark(name)
    if slot is None:
        return None
    return {field: getattr(slot, field) for field in slot.__slots__}


def index_fields(directory: DataDirectory, partition: str) -> list[dict[str, Any]]:
    """What the index files and the anchor of a partition say. Raises OSError."""
    path = directory.path_of(partition)
    found: list[dict[str, Any]] = []
    for name in directory.vfs.listdir(path):
        match = FILE_NAME.fullmatch(name)
        if match is None or match[2] == "log":
            continue
        data = read_file(directory.vfs, f"{path}/{name}")
        fields = _anchor_fields(data) if name == anchor_name(int(match[1])) else _index_fields(data)
        found.append({"file": name, "bytes": len(data), **fields})
    return found


def _index_fields(data: bytes) -> dict[str, Any]:
    index = decode_index(data, LogSettings().index_interval_bytes)
    if index is None:
        return {"damage": "it is not a whole index file"}
    return {
        "base_offset": index.base_offset,
        "end_offset": index.end_offset,
        "end_position": index.end_position,
        "max_timestamp_ms": index.index.max_timestamp_ms,
        "entries": list(entries_of(index.index)),
        "producer_batches": producer_batches(index.producers),
    }


def _anchor_fields(data: bytes) -> dict[str, Any]:
    anchor = decode_anchor(data)
    if anchor is None:
        return {"damage": "it is not a whole anchor"}
    return {
        "offset": anchor.offset,
        "generation": anchor.generation,
        "run_start": anchor.run_start,
        "append_time_ms": anchor.append_time_ms,
        "producer_batches": producer_batches(anchor.producers),
    }
