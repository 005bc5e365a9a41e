"""`rlog dump`: everything that is there, what is damaged in its place, and nothing changed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlog._core import Vfs, decode_records
from rlog.cli.local_cluster import LocalCluster
from rlog.cli.record_json import encode
from tests.cli.commands import background, rlog
from tests.cli.directories import NAME, RECORDS, SETTINGS, fingerprint, flip, make, run
from tests.log.storage_kit import contents, open_storage

STORAGE, USAGE = 4, 2


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dumped") / "data"
    make(directory)
    return directory


@pytest.fixture(scope="session")
def stored(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The records in it as the log itself reads them."""
    copy = shutil.copytree(sound, tmp_path_factory.mktemp("read") / "data")
    storage = open_storage(Vfs.system(), str(copy), settings=SETTINGS, names=(NAME, "empty-0"))
    records = decode_records(contents(storage.logs[NAME]), topic="orders")
    storage.close()
    return [encode(record) for record in records]


def dumped(directory: Path, *arguments: object, status: int = 0) -> list[dict[str, Any]]:
    before = fingerprint(directory)
    result = run("dump", directory, "--json", *arguments)
    assert fingerprint(directory) == before
    assert result.exit_code == status, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_batches_and_records_in_order(sound: Path, stored: list[dict[str, Any]]) -> None:
    lines = dumped(sound)
    assert [line["record"] for line in lines if "record" in line] == stored
    batches = [line["batch"] for line in lines if "batch" in line]
    assert [batch["base_offset"] for batch in batches] == list(range(0, len(stored), RECORDS))
    assert {batch["records"] for batch in batches} == {RECORDS}
    assert sorted({batch["generation"] for batch in batches}) == [1, 2, 3]
    assert dumped(sound, "--records", "--partition", NAME) == stored
    assert dumped(sound, "--headers-only") == [{"batch": batch} for batch in batches]
    for batch in batches:
        data = (sound / "partitions" / NAME / batch["file"]).read_bytes()[batch["position"] :]
        assert int.from_bytes(data[:8]) == batch["base_offset"]


def test_from_and_count(sound: Path, stored: list[dict[str, Any]]) -> None:
    assert dumped(sound, "--records", "--from", 100, "-c", 5) == stored[100:105]
    assert dumped(sound, "--records", "--from", len(stored)) == []
    (batch,) = dumped(sound, "--headers-only", "--from", 100, "-c", 1)
    assert batch["batch"]["base_offset"] == 100 - 100 % RECORDS


def test_text_is_for_people(sound: Path) -> None:
    lines = run("dump", sound, "-c", 1).stdout.splitlines()
    assert lines[:2] == ["# empty-0", f"# {NAME}"]
    assert lines[2].startswith(f"batch 0 to {RECORDS - 1}: generation 1, {RECORDS} records, ")
    assert lines[3].startswith("  0 2023-11-14T22:13:20.000+00:00 b'")
    assert lines[3].endswith("200 bytes)") or lines[3].endswith("'")


def test_damage_is_named_in_its_place_and_the_rest_is_printed(
    sound: Path, stored: list[dict[str, Any]], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(sound, tmp_path / "data"))
    batch = dumped(copy, "--headers-only", "--from", 60, "-c", 1)[0]["batch"]
    flip(copy / "partitions" / NAME / batch["file"], batch["position"] + 70)
    lines = dumped(copy, status=STORAGE)
    (damage,) = [line["batch"] for line in lines if "damage" in line.get("batch", {})]
    assert (damage["file"], damage["position"]) == (batch["file"], batch["position"])
    assert "CRC" in damage["damage"]
    first = batch["base_offset"]
    assert [line["record"] for line in lines if "record" in line] == stored[:first] + stored[
        first + RECORDS :
    ]
    told = run("dump", copy, "--records", "--json")
    assert f"DAMAGE partitions/{NAME}/{batch['file']}, byte {batch['position']}" in told.stderr


def test_meta_and_index_files(sound: Path) -> None:
    meta = json.loads(run("dump", sound, "--meta").stdout)
    assert [copy["file"] for copy in meta["copies"]] == ["meta.a", "meta.b"]
    assert meta["copies"][0]["records"] == meta["copies"][1]["records"]
    assert [generation for generation, _ in meta["state"]["partitions"][NAME]["starts"]] == [1, 2, 3]
    assert meta["watermarks"][NAME]["flushed_offset"] == meta["state"]["partitions"][NAME]["clean_end"]
    indexes = [json.loads(line) for line in run("dump", sound, "--index").stdout.splitlines()]
    names = {path.name for path in (sound / "partitions" / NAME).glob("*.index")}
    assert {each["file"] for each in indexes} == names
    for each in indexes:
        assert each["max_timestamp_ms"] == max(latest for _, _, latest in each["entries"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--partition", "order-0"), "did you mean 'orders-0'?"),
        (("--partition", "x"), "it holds empty-0, orders-0"),
        (("--meta", "--records"), "choose one"),
    ],
)
def test_mistakes_are_named(sound: Path, arguments: tuple[str, ...], told: str) -> None:
    result = run("dump", sound, *arguments)
    assert result.exit_code == USAGE
    assert told in result.stderr


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    make(tmp_path / "data", rounds=400)
    with background("dump", str(tmp_path / "data")) as dump:
        assert dump.stdout is not None
        dump.stdout.readline()
        dump.stdout.close()
        assert dump.wait(60) == 0
        assert dump.stderr is not None
        assert dump.stderr.read() == b""


def test_a_log_is_saved_from_its_directory(
    sound: Path, stored: list[dict[str, Any]], cluster: LocalCluster
) -> None:
    """What dump prints, produce takes: the way out of a directory whose node is lost."""
    lines = rlog("dump", str(sound), "--records", "--json").stdout
    rlog("produce", "saved", "--json", stdin=lines, RLOG_BOOTSTRAP=cluster.bootstrap)
    again = rlog("consume", "saved", "-e", "--json", RLOG_BOOTSTRAP=cluster.bootstrap).stdout.splitlines()
    found = [json.loads(line) for line in again]
    assert [each["value_base64"] for each in found] == [each["value_base64"] for each in stored]
    assert [each["timestamp_ms"] for each in found] == [each["timestamp_ms"] for each in stored]
