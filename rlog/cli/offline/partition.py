"""The verdict on one partition: what its files hold, what is wrong with them, what the next start would do.

Every batch is read and checked, which a start does not do: it trusts a full segment that has its index file.
Of a log in use only what lies below its flushed watermark is judged; above it bytes come and go.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from rlog._core import SegmentIndex, judge_tail
from rlog.cli.offline.directory import ATTEMPTS, DataDirectory
from rlog.cli.offline.disk import read_file
from rlog.cli.offline.findings import Finding, Severity
from rlog.cli.offline.segments import OFFSET_MAX, Scan, scan_segment, why_bad, why_wrong
from rlog.errors import DataDirectoryError
from rlog.generations import GenerationTable
from rlog.log.anchor import anchor_name, decode_anchor
from rlog.log.meta import PartitionMeta
from rlog.log.recovery import Examined, Examiner
from rlog.log.segment import FILE_NAME, decode_index, index_name, segment_name
from rlog.log.settings import LogSettings
from rlog.log.storage import PARTITIONS
from rlog.log.watermarks import Watermark

FILLER_BYTES = 1 << 20

OnBytes = Callable[[int], None]


@dataclass(slots=True)
class PartitionReport:
    """What `verify` says of one partition. Offsets are ends, but for start_offset; a timestamp of -1: none.

    start_offset: where readers may begin. anchor: where the files do; what was below it is deleted.
    flushed_offset: by the watermark; None: its slot is lost. clean: it was shut down in order. in_use: only
    what lies below flushed_offset was judged. recovery: what the next start would do, in words.
    """

    name: str
    start_offset: int = 0
    anchor: int = 0
    end_offset: int = 0
    flushed_offset: int | None = None
    segments: int = 0
    batches: int = 0
    records: int = 0
    control_batches: int = 0
    bytes: int = 0
    file_bytes: int = 0
    timestamp_ms_max: int = -1
    generations: list[tuple[int, int]] = field(default_factory=list)
    clean: bool = False
    suspect: bool = False
    in_use: bool = False
    recovery: str = ""
    findings: list[Finding] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        return asdict(self)


def verify_partition(directory: DataDirectory, name: str, on_bytes: OnBytes) -> PartitionReport:
    """on_bytes: is told how many bytes were read. Raises DataDirectoryError when files cannot be read."""
    for attempt in range(ATTEMPTS):
        try:
            report = _Verifier(directory, name, on_bytes).verify()
        except FileNotFoundError:
            # Removed between listing and opening, which only a running process does.
            if directory.in_use_by is None or attempt == ATTEMPTS - 1:
                raise
        else:
            if directory.in_use_by is None or not report.findings:
                break
        now = directory.again()
        if now.state is None or directory.state is None:
            break
        if attempt and now.state.partitions[name] == directory.state.partitions[name]:
            break  # nothing was cut meanwhile that would explain it
        directory = now
    return report


class _Verifier:
    def __init__(self, directory: DataDirectory, name: str, on_bytes: OnBytes) -> None:
        assert directory.state is not None
        self._directory = directory
        self._path = directory.path_of(name)
        self._name = name
        self._meta: PartitionMeta = directory.state.partitions[name]
        self._watermark: Watermark | None = directory.watermark(name)
        self._generations = GenerationTable(self._meta.starts)
        self._settings = LogSettings()
        self._on_bytes = on_bytes
        self._tail: tuple[str, bytes, Scan] = ("", b"", Scan())  # of the last segment
        self._report = PartitionReport(
            name,
            start_offset=self._meta.log_start,
            anchor=self._meta.anchor,
            end_offset=self._meta.anchor,
            flushed_offset=self._watermark.flushed_offset if self._watermark is not None else None,
            clean=self._meta.clean_end is not None,
            suspect=self._meta.suspect,
            in_use=directory.in_use_by is not None,
        )

    def verify(self) -> PartitionReport:
        """Raises OSError: FileNotFoundError for a file that went meanwhile."""
        report = self._report
        bases = self._list()
        self._check_anchor()
        rebuilt = 0
        for base, end in pairwise(bases):
            rebuilt += self._sealed(base, end)
        if bases:
            self._active(bases[-1])
        report.segments = len(bases)
        report.generations = [each for each in self._generations.entries() if each[1] < report.end_offset]
        if report.in_use:
            report.recovery = "not asked: it is in use"
        else:
            self._foretell(rebuilt)
        return report

    def _note(
        self, severity: Severity, name: str, what: str, position: int | None = None, offset: int | None = None
    ) -> None:
        """A finding in the file of this name; the directory itself when it is empty."""
        file = f"{PARTITIONS}/{self._name}/{name}".rstrip("/")
        self._report.findings.append(Finding(severity, file, what, position, offset))

    def _list(self) -> list[int]:
        """The base offsets of the segments that count."""
        try:
            names = self._directory.vfs.listdir(self._path)
        except FileNotFoundError:
            self._note("damage", "", "its directory is missing")
            return []
        cut, anchor = self._meta.unfinished_cut, self._meta.anchor
        bases = []
        for name in names:
            match = FILE_NAME.fullmatch(name)
            if match is None:
                if not name.endswith(".tmp"):
                    self._note("blemish", name, "it is not a file of this version of rlog")
            elif match[2] == "log" and int(match[1]) >= anchor and (cut is None or int(match[1]) <= cut):
                bases.append(int(match[1]))
        if bases and bases[0] != anchor:
            what = f"the first segment is missing: the files begin at offset {bases[0]}, not at {anchor}"
            self._note("damage", segment_name(anchor), what, None, anchor)
        return sorted(bases)

    def _check_anchor(self) -> None:
        """The anchor stands for all that was deleted (SAFETY 26): without it the log cannot be opened."""
        offset = self._meta.anchor
        if not offset:
            return
        name = anchor_name(offset)
        try:
            anchor = decode_anchor(self._read(name))
        except FileNotFoundError:
            self._note("damage", name, "the anchor is missing; the log cannot do without", 0, offset)
            return
        if anchor is None or anchor.offset != offset:
            self._note("damage", name, "the anchor is damaged; the log cannot do without", 0, offset)
        elif anchor.generation != self._generations.at(offset - 1):
            what = f"the anchor has generation {anchor.generation}; meta {self._generations.at(offset - 1)}"
            self._note("damage", name, what, None, offset)

    def _read(self, name: str) -> bytes:
        data = read_file(self._directory.vfs, f"{self._path}/{name}")
        self._on_bytes(len(data))
        return data

    def _add(self, scan: Scan, data: bytes) -> None:
        report = self._report
        report.end_offset = scan.end_offset
        report.batches += scan.batches
        report.records += scan.records
        report.control_batches += scan.control_batches
        report.bytes += scan.bytes
        report.file_bytes += len(data)
        report.timestamp_ms_max = max(report.timestamp_ms_max, scan.timestamp_ms_max)

    # A segment with a successor

    def _sealed(self, base: int, end: int) -> int:
        """1 when its index file will be rebuilt."""
        name = segment_name(base)
        data = self._read(name)
        hints, is_absent = self._index_of(base)
        scan = scan_segment(data, base, self._generations, end)
        self._add(scan, data)
        self._bad_batches(name, scan)
        if scan.end_offset != end:
            why = why_bad(data, scan.end, scan.end_offset, self._generations.at(scan.end_offset))
            what = f"{why}; the segment should go on to offset {end}"
            self._note("damage", name, what, scan.end, scan.end_offset)
        elif not scan.bad:
            self._check_filler(name, data, scan)
            if hints is not None:
                self._check_index(base, end, hints, scan)
        self._report.end_offset = end
        return int(is_absent)

    def _bad_batches(self, name: str, scan: Scan) -> None:
        for bad in scan.bad:
            what = f"{bad.why}; the next good batch begins at byte {bad.position + bad.size}"
            self._note("damage", name, what, bad.position, bad.offset)

    def _index_of(self, base: int) -> tuple[tuple[SegmentIndex, int, int] | None, bool]:
        """((index, end offset, end position), whether there is none). Absent is no finding: it is rebuilt."""
        name = index_name(base)
        try:
            data = self._read(name)
        except FileNotFoundError:
            return None, True
        stored = decode_index(data, self._settings.index_interval_bytes)
        if stored is None or stored.base_offset != base:
            if not self._report.in_use:
                self._note("blemish", name, "the index is damaged; a start rebuilds it", 0, base)
            return None, True
        return (stored.index, stored.end_offset, stored.end_position), False

    def _check_index(self, base: int, end: int, stored: tuple[SegmentIndex, int, int], scan: Scan) -> None:
        """A start believes an intact index file: one that says something wrong hides records."""
        index, end_offset, end_position = stored
        wrong = why_wrong(index, scan.starts)
        if wrong is not None:
            offset, what = wrong
        elif (end_offset, end_position) != (end, scan.end):
            offset = end
            what = f"it ends at offset {end_offset}, byte {end_position}; the segment at {end}, {scan.end}"
        else:
            return
        self._note("damage", index_name(base), what, None, offset)

    def _check_filler(self, name: str, data: bytes, scan: Scan) -> None:
        for start in range(scan.end, len(data), FILLER_BYTES):
            part = data[start : start + FILLER_BYTES]
            if any(part):
                position = start + len(part) - len(part.lstrip(b"\0"))
                what = "the filler behind the last batch is not zero; it is never read"
                self._note("blemish", name, what, position, scan.end_offset)
                return

    # The last segment

    def _active(self, base: int) -> None:
        report, name = self._report, segment_name(base)
        data = self._read(name)
        end_max = OFFSET_MAX if self._meta.unfinished_cut is None else self._meta.unfinished_cut
        flushed = max(report.flushed_offset or 0, self._meta.clean_end or 0)
        if report.in_use:
            end_max = min(end_max, max(flushed, base))
        scan = scan_segment(data, base, self._generations, end_max)
        self._add(scan, data)
        self._bad_batches(name, scan)
        if scan.end_offset < min(flushed, end_max):
            why = why_bad(data, scan.end, scan.end_offset, self._generations.at(scan.end_offset))
            what = f"{why}; the log was flushed up to offset {flushed}"
            self._note("damage", name, what, scan.end, scan.end_offset)
        self._tail = (name, data, scan)

    # What a start would do

    def _foretell(self, rebuilt: int) -> None:
        examiner = Examiner(self._directory.vfs, self._path, self._meta, self._watermark, self._settings)
        try:
            found = examiner.examine()
        except DataDirectoryError as error:
            self._note("damage", "", str(error))
            self._report.recovery = "refuse to start: a file is not rlog's"
            return
        if found.damage is not None:
            if not any(each.severity == "damage" for each in self._report.findings):
                self._note("damage", self._last_file(), found.damage, offset=found.end_offset)
            self._report.recovery = f"quarantine it, and touch nothing: {found.damage}"
            return
        self._report.end_offset = found.end_offset
        steps = self._steps(found)
        if rebuilt:
            steps.append(f"rebuild {rebuilt} index file{'s' * (rebuilt > 1)}")
        self._report.recovery = "; ".join(steps) or "nothing to do"

    def _last_file(self) -> str:
        return self._tail[0]

    def _steps(self, found: Examined) -> list[str]:
        steps = []
        if self._meta.unfinished_cut is not None:
            steps.append(f"finish the cut at offset {self._meta.unfinished_cut}")
        if self._report.segments and self._meta.unfinished_cut is None:
            name, data, scan = self._tail
            verdict = judge_tail(data, scan.end, scan.end_offset, self._settings.round_bytes_max)
            if found.suspect:
                self._suspect(name, data, scan, verdict)
                steps.append(
                    f"keep it up to offset {found.end_offset}, and not campaign until it has caught up"
                )
            elif verdict != "end" and self._report.clean:
                what = "the filler behind the last batch is not zero, and nothing was being written"
                self._note("blemish", name, what, scan.end, scan.end_offset)
                steps.append("write the last segment anew")
            elif verdict == "torn":
                steps.append(f"drop a torn write at offset {found.end_offset}, never acknowledged")
        if found.rewrite and self._report.end_offset > (self._report.flushed_offset or 0):
            steps.append("write the last segment anew: a part of it is not known to be on disk")
        elif found.rewrite and not steps:
            steps.append("write the last segment anew")
        return steps

    def _suspect(self, name: str, data: bytes, scan: Scan, verdict: str) -> None:
        """Nothing proves that the log ends where its good batches do (SAFETY 19)."""
        if verdict == "end":
            what = "nobody can prove that nothing is missing behind the last batch"
            if self._meta.suspect:
                what += ": so it was at the last start, and it has not caught up since"
        else:
            what = why_bad(data, scan.end, scan.end_offset, self._generations.at(scan.end_offset))
            what += "; it was never known to be flushed, and is not proven torn either"
        self._note("damage", name, what, scan.end, scan.end_offset)
