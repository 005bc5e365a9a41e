"""`rlog verify` and `rlog dump` on what `rlog.open` has made: sound, deleted from, rotten, torn, in use."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rlog
from rlog._core import Vfs
from rlog.embedded.log import open_in
from rlog.embedded.settings import Settings
from rlog.errors import CorruptLog
from tests.cli.directories import fingerprint, flip, run
from tests.embedded.kit import segments_of, world_of

STORAGE = 4
RECORDS, DELETED = 200, 120


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several segments, the first ones deleted, closed in order."""
    directory = tmp_path_factory.mktemp("embedded") / "orders"
    with open_in(directory, Settings(), world_of(Vfs.system())) as log:
        for number in range(RECORDS // 2):
            log.append(b"%d" % number * 40, key=b"key", headers=[("name", b"value")])
        log.append_many([b"%d" % number * 40 for number in range(RECORDS // 2, RECORDS)])
        log.delete_before(DELETED)
        log.append(b"last")
    return directory


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "orders"))


def verified(directory: Path, status: int = 0) -> dict[str, Any]:
    before = fingerprint(directory)
    result = run("verify", directory, "--json")
    assert fingerprint(directory) == before, "not a byte, not a time of change"
    assert result.exit_code == status, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def dumped(directory: Path, status: int = 0) -> list[dict[str, Any]]:
    before = fingerprint(directory)
    result = run("dump", directory, "--json")
    assert fingerprint(directory) == before
    assert result.exit_code == status, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def offsets(lines: list[dict[str, Any]]) -> list[int]:
    return [line["record"]["offset"] for line in lines if "record" in line]


def test_a_sound_log_is_counted_from_where_its_files_begin(sound: Path) -> None:
    report = verified(sound)
    (log,) = report["partitions"]
    assert (report["of"], report["verdict"], report["in_use_by"]) == ("embedded log", "sound", None)
    assert (log["name"], log["start_offset"], log["end_offset"]) == ("log", DELETED, RECORDS + 1)
    assert 0 < log["anchor"] <= DELETED
    assert log["segments"] == len(segments_of(sound))
    assert (log["records"], log["clean"], log["recovery"]) == (
        RECORDS + 1 - log["anchor"],
        True,
        "nothing to do",
    )
    text = run("verify", sound).stdout
    assert f"{sound}: data of an embedded log" in text
    assert f"log: offsets {DELETED} to {RECORDS + 1}, files from {log['anchor']}" in text


def test_its_records_are_printed(sound: Path) -> None:
    lines = dumped(sound)
    with rlog.open(sound) as log:
        assert offsets(lines)[-1] + 1 == log.end_offset
    last = [line["record"] for line in lines if "record" in line][-1]
    assert (last["value"], last["offset"]) == ("last", RECORDS)


def test_a_flipped_bit_is_named_with_its_place(copy: Path) -> None:
    whole = offsets(dumped(copy))
    path = segments_of(copy)[0]
    flip(path, 100)
    report = verified(copy, STORAGE)
    (finding,) = report["findings"]
    assert report["verdict"] == "damaged"
    assert finding["file"] == f"partitions/log/{path.name}"
    assert (finding["position"], finding["offset"]) == (0, int(path.stem))
    lines = dumped(copy, STORAGE)
    assert any("damage" in line.get("batch", {}) for line in lines)
    found = offsets(lines)
    assert found
    assert found == whole[-len(found) :], "what lies behind it is printed"
    with pytest.raises(CorruptLog), rlog.open(copy) as log:
        list(log.read())


@pytest.mark.parametrize("lost", [1, 2, 4])
def test_a_torn_tail_is_foretold(tmp_path: Path, lost: int) -> None:
    """A crash in the middle of a write of several sectors, of which the last ones never came."""
    directory = tmp_path / "orders"
    log = rlog.open(directory)
    log.append(b"first")
    (path,) = segments_of(directory)
    before, watermarks = path.read_bytes(), (directory / "watermarks").read_bytes()
    log.append_many([b"second" * 400])
    after = path.read_bytes()
    log._store.drop()
    end = max(position for position in range(len(after)) if after[position] != before[position])
    cut = end // 512 * 512 - (lost - 1) * 512
    path.write_bytes(after[:cut] + before[cut:])
    (directory / "watermarks").write_bytes(watermarks)
    (found,) = verified(directory)["partitions"]
    assert (found["end_offset"], found["clean"]) == (1, False)
    assert "drop a torn write at offset 1" in found["recovery"]
    assert offsets(dumped(directory)) == [0]
    with rlog.open(directory) as log:
        assert list(log.values()) == [b"first"]
    assert verified(directory)["partitions"][0]["recovery"] == "nothing to do"


APPENDER = """
import signal, sys
import rlog
log = rlog.open(sys.argv[1])
for number in range(50):
    log.append(b"%d" % number)
print("appended", flush=True)
signal.pause()
"""


def test_a_log_in_use_is_left_alone_and_one_whose_process_was_killed_is_foretold(tmp_path: Path) -> None:
    directory = tmp_path / "orders"
    with subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(directory)], stdout=subprocess.PIPE
    ) as appender:
        assert appender.stdout is not None
        assert appender.stdout.readline() == b"appended\n"
        assert verified(directory)["in_use_by"].startswith(f"pid {appender.pid} (")
        assert offsets(dumped(directory)) == list(range(50))
        appender.send_signal(signal.SIGKILL)
    report = verified(directory)
    (found,) = report["partitions"]
    assert (report["in_use_by"], found["end_offset"], found["clean"]) == (None, 50, False)
    with rlog.open(directory) as log:
        assert log.end_offset == 50
    assert verified(directory)["partitions"][0]["clean"]
