"""A data directory as a whole: its format, who uses it, what both copies of meta say, and the watermarks."""

from dataclasses import dataclass, field
from pathlib import Path

from rlog._core import Vfs
from rlog.cli.offline.disk import read_file, read_only
from rlog.cli.offline.findings import Finding, Severity
from rlog.errors import DataDirectoryError, InvariantBroken
from rlog.log.directory import locked_by, refusal
from rlog.log.meta import COPIES, FRAME, HEADER, Chain, MetaState, judge, read_chain
from rlog.log.storage import FORMAT, FORMAT_TEXT, PARTITIONS
from rlog.log.watermarks import NAME, SLOT, SLOT_BYTES, Watermark, decode_slot, name_crc

KINDS = {"of a cluster node\n": "cluster node", "of an embedded log\n": "embedded log"}
ATTEMPTS = 3
META_BYTES_MAX = 1 << 30


@dataclass(slots=True)
class Copy:
    """One copy of meta: the records of its valid part, which ends at byte `end`, and where damage begins."""

    name: str
    chain: Chain
    end: int
    bytes: int


@dataclass(slots=True)
class DataDirectory:
    """What was read at one moment.

    in_use_by: "pid 71 (rlog)" of the process that holds its lock; None when none is seen. state: what meta
    says, None when nobody can tell any more. slots: the bytes of the watermarks file.
    """

    path: str
    vfs: Vfs
    kind: str
    in_use_by: str | None
    copies: list[Copy]
    state: MetaState | None
    slots: bytes
    findings: list[Finding] = field(default_factory=list)

    @staticmethod
    def read(path: Path) -> "DataDirectory":
        """Raises DataDirectoryError: not a data directory, of another format, or it cannot be read."""
        directory = str(path)
        vfs = read_only()
        try:
            kind = _check_format(vfs, directory)
            found = _read(vfs, directory, kind)
            for _ in range(ATTEMPTS):  # of a running process a write may be seen half
                if not found.findings or found.in_use_by is None:
                    break
                found = _read(vfs, directory, kind)
        except OSError as error:
            raise refusal(directory, error) from error
        return found

    def again(self) -> "DataDirectory":
        """The same directory as it is now. Raises as `read`."""
        return DataDirectory.read(Path(self.path))

    @property
    def partitions(self) -> list[str]:
        return sorted(self.state.partitions) if self.state is not None else []

    def path_of(self, partition: str) -> str:
        return f"{self.path}/{PARTITIONS}/{partition}"

    def watermark(self, partition: str) -> Watermark | None:
        """None when the slot is lost."""
        assert self.state is not None
        number = self.state.partitions[partition].slot
        return decode_slot(self.slots[number * SLOT_BYTES : (number + 1) * SLOT_BYTES], name_crc(partition))


def _check_format(vfs: Vfs, directory: str) -> str:
    """The kind of its owner, "cluster node" or "embedded log"."""
    try:
        text = read_file(vfs, f"{directory}/format")[:4096].decode("utf-8", "replace")
    except FileNotFoundError as error:
        raise DataDirectoryError(
            f"{directory} is not an rlog data directory: it has no file 'format'; name a node's data_dir, or "
            "the path of an embedded log"
        ) from error
    match = FORMAT_TEXT.fullmatch(text)
    if match is None or (int(match[1]) == FORMAT and match[2] not in KINDS):
        raise DataDirectoryError(
            f"{directory}/format is damaged, or not of an rlog data directory: {text[:60]!r}"
        )
    if int(match[1]) != FORMAT:
        raise DataDirectoryError(
            f"{directory} has format {match[1]}; this rlog reads format {FORMAT}: use the rlog that wrote it"
        )
    return KINDS[match[2]]


def _read(vfs: Vfs, directory: str, kind: str) -> DataDirectory:
    # Watermarks before meta: what one of them covers has its generation starts in any later meta.
    slots = _bytes_or_none(vfs, f"{directory}/{NAME}")
    copies = [_read_copy(vfs, directory, name) for name in COPIES]
    found = DataDirectory(directory, vfs, kind, locked_by(f"{directory}/lock"), copies, None, slots or b"")
    _judge_meta(found)
    if slots is None:
        found.findings.append(Finding("blemish", NAME, "it is missing: less can be proven of each log's end"))
    elif found.state is not None:
        _judge_slots(found)
        _judge_names(found)
    return found


def _bytes_or_none(vfs: Vfs, path: str) -> bytes | None:
    try:
        return read_file(vfs, path)
    except FileNotFoundError:
        return None


def _read_copy(vfs: Vfs, directory: str, name: str) -> Copy:
    data = _bytes_or_none(vfs, f"{directory}/{name}")
    if data is None:
        return Copy(name, Chain([]), 0, 0)
    chain = read_chain(data)
    end, first = HEADER.size, chain.last_sequence - len(chain.records) + 1
    while chain.records and end + FRAME.size <= len(data):
        length, _, sequence = FRAME.unpack_from(data, end)
        if not first <= sequence <= chain.last_sequence:
            break
        first = sequence + 1
        end += FRAME.size + length
    return Copy(name, chain, end if chain.records else 0, len(data))


def _judge_meta(found: DataDirectory) -> None:
    """The state that both copies prove; and what is wrong with either."""
    a, b = (copy.chain for copy in found.copies)
    chain = judge(a, b)
    severity: Severity = "blemish" if chain is not None else "damage"
    for copy in found.copies:
        if copy.bytes == 0:
            what = "it is missing"
        elif copy.chain.damaged:
            what = f"what follows record {copy.chain.last_sequence} is damaged"
        else:
            continue
        found.findings.append(Finding(severity, copy.name, what, copy.end))
    if chain is None:
        found.findings.append(
            Finding("damage", "meta.a", "so is the other copy: a vote may be lost; it must not vote again")
        )
        return
    if a.last_sequence != b.last_sequence and not any(copy.chain.damaged for copy in found.copies):
        lower = found.copies[0 if a.last_sequence < b.last_sequence else 1]
        if found.in_use_by is None and lower.bytes and lower.name == "meta.a":
            what = f"it ends at record {lower.chain.last_sequence}, before its twin"
            found.findings.append(Finding("blemish", lower.name, what, lower.end))
    try:
        state = MetaState.of_json(chain.records[0][1])
        for record in chain.records[1:]:
            state.apply(record)
    except (KeyError, TypeError, IndexError, AttributeError, InvariantBroken) as error:
        what = f"it holds a record that this rlog does not know ({error})"
        found.findings.append(Finding("damage", "meta.a", what))
        return
    found.state = state


def _judge_slots(found: DataDirectory) -> None:
    assert found.state is not None
    for name, partition in found.state.partitions.items():
        start = partition.slot * SLOT_BYTES
        sector = found.slots[start : start + SLOT_BYTES]
        if decode_slot(sector, name_crc(name)) is None:
            what = f"the slot of {name} is damaged: less can be proven of its end"
        elif any(sector[SLOT.size + 4 :]):
            what = f"the filler behind the slot of {name} is not zero"
        else:
            continue
        found.findings.append(Finding("blemish", NAME, what, start))


def _judge_names(found: DataDirectory) -> None:
    """Partitions that meta does not know: a node that is given one refuses to start."""
    assert found.state is not None
    try:
        names = found.vfs.listdir(f"{found.path}/{PARTITIONS}")
    except FileNotFoundError:
        names = []
    for name in names:
        if name not in found.state.partitions:
            what = "meta does not know this partition"
            found.findings.append(Finding("blemish", f"{PARTITIONS}/{name}", what))
