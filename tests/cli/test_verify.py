"""`rlog verify`: finds every flipped bit, says where, changes nothing, and disturbs nobody."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlog._core import Vfs
from rlog.cli import verify
from rlog.cli.local_cluster import LocalCluster
from rlog.cli.offline.disk import read_only
from rlog.log.segment import segment_name
from tests.cli.commands import on_a_terminal, rlog
from tests.cli.directories import GENERATIONS, NAME, RECORDS, ROUNDS, SETTINGS, fingerprint, flip, make, run
from tests.harness import running_cluster
from tests.harness.workload import Load
from tests.log.storage_kit import make_span, open_storage, settle

BLEMISHED, STORAGE, INTERRUPTED = 1, 4, 130
END = GENERATIONS * ROUNDS * 2 * RECORDS


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sound") / "data"
    make(directory)
    return directory


@pytest.fixture(scope="session")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trimmed") / "data"
    make(directory, trim=True)
    return directory


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "data"))


def verified(directory: Path, status: int | None = 0) -> dict[str, Any]:
    """The report, after which the directory is as it was."""
    before = fingerprint(directory)
    result = run("verify", directory, "--json")
    assert fingerprint(directory) == before
    assert status is None or result.exit_code == status, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    verdicts = {0: "sound", BLEMISHED: "blemished", STORAGE: "damaged"}
    assert report["verdict"] == verdicts[result.exit_code]
    return report


def segments(directory: Path) -> list[Path]:
    return sorted((directory / "partitions" / NAME).glob("*.log"))


def test_a_sound_directory_is_counted(sound: Path) -> None:
    report = verified(sound)
    empty, orders = report["partitions"]
    assert (empty["name"], empty["end_offset"], empty["segments"]) == ("empty-0", 0, 0)
    assert (orders["name"], orders["start_offset"], orders["end_offset"]) == (NAME, 0, END)
    assert (orders["batches"], orders["records"]) == (GENERATIONS * ROUNDS * 2, END)
    assert [generation for generation, _ in orders["generations"]] == [1, 2, 3]
    assert orders["segments"] == len(segments(sound)) >= 4
    assert (orders["clean"], orders["flushed_offset"], orders["recovery"]) == (True, END, "nothing to do")
    assert (report["findings"], report["in_use_by"], report["of"]) == ([], None, "cluster node")
    text = run("verify", sound).stdout
    assert f"{NAME}: offsets 0 to {END}, flushed up to {END}" in text
    assert "sound: 2 of 2 partitions" in text


FILES = ("format", "meta.a", "meta.b", "watermarks", "first segment", "first index", "last segment", "anchor")


def file_of(directory: Path, which: str) -> Path:
    partition = directory / "partitions" / NAME
    found = {
        "first segment": segments(directory)[0],
        "first index": min(partition.glob("*.index")),
        "last segment": segments(directory)[-1],
        "anchor": next(partition.glob("*.anchor"), partition),
    }
    return found.get(which, directory / which)


@given(which=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_flipped_bit_is_found_in_its_file(trimmed: Path, which: str, place: float, bit: int) -> None:
    path = file_of(trimmed, which)
    whole, position = path.read_bytes(), int(place * path.stat().st_size)
    flip(path, position, bit)
    try:
        if which == "format":
            refused = run("verify", trimmed, "--json")
            assert refused.exit_code == STORAGE
            assert str(trimmed) in refused.stderr
            return
        report = verified(trimmed, None)
    finally:
        path.write_bytes(whole)
    assert report["verdict"] != "sound"
    named = [each for each in report["findings"] if each["file"] == str(path.relative_to(trimmed))]
    assert named, report["findings"]
    assert min(each["position"] or 0 for each in named) <= position


@pytest.mark.parametrize("position", range(61 + 4))
def test_a_damaged_batch_in_a_full_segment_is_named_with_its_place(copy: Path, position: int) -> None:
    """A start would not notice: it trusts the index file of a full segment."""
    path = segments(copy)[1]
    data = path.read_bytes()
    size = int.from_bytes(data[8:12]) + 12
    flip(path, size + position, 3)
    report = verified(copy, STORAGE)
    (finding,) = report["findings"]
    base = int(path.stem)
    assert finding["file"] == f"partitions/{NAME}/{path.name}"
    assert (finding["position"], finding["offset"]) == (size, base + RECORDS)
    orders = report["partitions"][1]
    assert (orders["end_offset"], orders["records"]) == (END, END - RECORDS)  # what is behind it is read on


def test_several_damaged_batches_are_each_named(copy: Path) -> None:
    path = segments(copy)[1]
    size = int.from_bytes(path.read_bytes()[8:12]) + 12
    for number in (0, 2, 3, 5):
        flip(path, number * size + 100)
    found = verified(copy, STORAGE)["findings"]
    assert [each["position"] for each in found] == [0, 2 * size, 5 * size]
    assert all("CRC" in each["what"] for each in found)
    assert f"the next good batch begins at byte {4 * size}" in found[1]["what"]


def test_missing_and_shortened_files_are_damage(copy: Path) -> None:
    second = segments(copy)[1]
    whole = second.read_bytes()
    second.write_bytes(whole[:2000])
    assert verified(copy, STORAGE)["findings"][0]["file"] == f"partitions/{NAME}/{second.name}"
    second.unlink()
    found = verified(copy, STORAGE)["findings"]
    assert any(each["file"].endswith(segments(copy)[0].name) for each in found)
    second.write_bytes(whole)
    segments(copy)[0].unlink()
    first = verified(copy, STORAGE)["findings"][0]
    assert (first["file"], first["offset"]) == (f"partitions/{NAME}/{segment_name(0)}", 0)


def test_what_a_start_makes_anew_is_no_damage(copy: Path) -> None:
    for path in (copy / "partitions" / NAME).glob("*.index"):
        path.unlink()
    report = verified(copy)
    assert f"rebuild {len(segments(copy)) - 1} index files" in report["partitions"][1]["recovery"]
    (copy / "meta.a").unlink()
    found = verified(copy, BLEMISHED)["findings"]
    assert [each["file"] for each in found] == ["meta.a"]
    open_storage(Vfs.system(), str(copy), settings=SETTINGS, names=(NAME, "empty-0")).close()
    assert verified(copy)["partitions"][1]["end_offset"] == END


def test_an_intact_index_that_says_something_wrong_is_damage(copy: Path) -> None:
    """A start believes it: its records would not be found."""
    path = min((copy / "partitions" / NAME).glob("*.index"))
    whole = path.read_bytes()
    for position in (
        47,
        63,
        31,
    ):  # low bytes of the first entry: offset, time; and of the end
        data = bytearray(whole)
        data[position] ^= 1
        data[-4:] = crc32c(bytes(data[:-4])).to_bytes(4)
        path.write_bytes(data)
        (finding,) = verified(copy, STORAGE)["findings"]
        assert finding["file"] == f"partitions/{NAME}/{path.name}"


def test_what_a_crash_leaves_behind_is_no_damage(copy: Path) -> None:
    (copy / "partitions" / NAME / f"{segment_name(END)}.tmp").write_bytes(bytes(4096))
    (copy / "meta.a.tmp").write_bytes(b"half of a new copy")
    assert verified(copy)["findings"] == []


def test_files_that_are_not_rlogs_are_named(copy: Path) -> None:
    (copy / "partitions" / NAME / "notes.txt").touch()
    (copy / "partitions" / "unknown-0").mkdir()
    report = verified(copy, STORAGE)  # a start refuses it
    assert {each["file"] for each in report["findings"]} >= {
        f"partitions/{NAME}/notes.txt",
        "partitions/unknown-0",
    }
    assert report["partitions"][1]["recovery"].startswith("refuse to start")


def test_an_unfinished_cut_is_foretold(tmp_path: Path) -> None:
    """The cut is on record in meta, and the process ended before it was carried out in the segments."""
    live = tmp_path / "live"
    storage = make(live, close=False)
    log = storage.logs[NAME]
    offset = log.end_offset - 4 * RECORDS
    log.cut(offset)
    storage.meta.flush()
    crashed = Path(shutil.copytree(live, tmp_path / "crashed"))
    orders = verified(crashed)["partitions"][1]
    assert orders["end_offset"] == offset
    assert f"finish the cut at offset {offset}" in orders["recovery"]
    reopened = open_storage(Vfs.system(), str(crashed), settings=SETTINGS, names=(NAME, "empty-0"))
    assert reopened.logs[NAME].end_offset == offset
    reopened.close()
    settle(storage)
    storage.close()


def test_both_copies_of_meta_damaged_is_damage(copy: Path) -> None:
    for name in ("meta.a", "meta.b"):
        flip(copy / name, 40)
    report = verified(copy, STORAGE)
    assert "a vote may be lost" in report["findings"][-1]["what"]
    assert report["partitions"] == []


def test_a_torn_write_of_a_crash_is_sound_and_foretold(tmp_path: Path) -> None:
    live = tmp_path / "live"
    storage = make(live, close=False)
    log = storage.logs[NAME]
    crashed = Path(shutil.copytree(live, tmp_path / "crashed"))
    path = segments(crashed)[-1]
    position = log._segments[-1].fill
    whole = bytes(make_span(END, GENERATIONS, records=4, size=300))
    data = bytearray(path.read_bytes())
    data[position : position + 600] = whole[:600]  # of some 1,300 bytes two sectors were never written
    path.write_bytes(data)
    orders = verified(crashed)["partitions"][1]
    assert (orders["clean"], orders["end_offset"]) == (False, END)
    assert f"drop a torn write at offset {END}" in orders["recovery"]
    reopened = open_storage(Vfs.system(), str(crashed), settings=SETTINGS, names=(NAME, "empty-0"))
    assert reopened.logs[NAME].end_offset == END
    reopened.close()
    storage.close()


def test_an_end_that_nobody_can_prove_is_damage(tmp_path: Path) -> None:
    """As after a crash, but the batch behind the watermark is wrong in a way that no torn write is."""
    live = tmp_path / "live"
    storage = make(live, close=False)
    crashed = Path(shutil.copytree(live, tmp_path / "crashed"))
    position = storage.logs[NAME]._segments[-1].fill
    data = bytearray(segments(crashed)[-1].read_bytes())
    whole = bytearray(bytes(make_span(END, GENERATIONS, records=1, size=100)))
    whole[80] ^= 1
    data[position : position + len(whole)] = whole
    segments(crashed)[-1].write_bytes(data)
    report = verified(crashed, STORAGE)
    assert "not proven torn either" in report["findings"][0]["what"]
    assert "not campaign" in report["partitions"][1]["recovery"]
    storage.close()


def test_an_anchor_stands_for_what_was_deleted(trimmed: Path, tmp_path: Path) -> None:
    report = verified(trimmed)
    orders = report["partitions"][1]
    assert orders["start_offset"] == END // 2
    assert 0 < orders["anchor"] <= END // 2
    assert orders["records"] == END - orders["anchor"]
    copy = Path(shutil.copytree(trimmed, tmp_path / "data"))
    file_of(copy, "anchor").unlink()
    assert "the anchor is missing" in verified(copy, STORAGE)["findings"][0]["what"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "has no file 'format'"),
        ({"format": "something else\n"}, "is damaged, or not of an rlog data directory"),
        ({"format": "rlog data directory\nformat 7\n"}, "use the rlog that wrote it"),
    ],
)
def test_what_is_no_data_directory_is_refused(tmp_path: Path, content: dict[str, str], told: str) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    for command in ("verify", "dump"):
        refused = run(command, tmp_path)
        assert refused.exit_code == STORAGE
        assert told in refused.stderr
    assert run("verify", tmp_path / "nowhere").exit_code == STORAGE


def test_a_node_at_work_is_left_alone(tmp_path: Path) -> None:
    """Under load: the lock stays the node's, nothing above the watermark is judged, the node goes on."""

    async def scenario(cluster: LocalCluster) -> None:
        async with Load(cluster.bootstrap, "orders") as load:
            await load.acked(500)
            for node in cluster.nodes.values():
                done = await asyncio.to_thread(rlog, "verify", str(node.data_dir), "--json")
                report = json.loads(done.stdout)
                assert report["in_use_by"].startswith(f"pid {node.pid} ")
                assert report["partitions"][0]["records"] > 0
                dumped = await asyncio.to_thread(rlog, "dump", str(node.data_dir), "--headers-only")
                assert f"in use by pid {node.pid}".encode() in dumped.stderr
            await load.acked(500)

    with running_cluster(tmp_path, topics={"orders": 1}) as cluster:
        asyncio.run(scenario(cluster))
        cluster.check_running([1, 2, 3])


def test_ctrl_c_says_what_was_verified(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = verify.verify_partition

    def interrupted(directory: Any, name: str, on_bytes: Any) -> Any:
        if name == NAME:
            raise KeyboardInterrupt
        return original(directory, name, on_bytes)

    monkeypatch.setattr(verify, "verify_partition", interrupted)
    result = run("verify", sound, "--json")
    assert result.exit_code == INTERRUPTED
    report = json.loads(result.stdout)
    assert (report["interrupted"], len(report["partitions"]), report["partitions_total"]) == (True, 1, 2)


def test_a_bar_is_drawn_on_a_terminal_only(sound: Path) -> None:
    status, said = on_a_terminal("verify", str(sound))
    assert status == 0
    assert "━".encode() in said
    assert b"\x1b" not in rlog("verify", str(sound)).stderr


def test_nothing_can_be_written_through_it(sound: Path) -> None:
    vfs = read_only()
    file = vfs.open(f"{sound}/meta.a")
    for change in (
        lambda: vfs.open(f"{sound}/new", new=True),
        lambda: vfs.unlink(f"{sound}/meta.a"),
        lambda: vfs.lock(f"{sound}/lock"),
        lambda: vfs.mkdir(f"{sound}/new"),
        lambda: vfs.rename(f"{sound}/meta.a", f"{sound}/new"),
        lambda: file.pwrite(b"x", 0),
        lambda: file.fallocate(1 << 20),
    ):
        with pytest.raises(OSError, match=r"reading only|Read-only"):
            change()
    file.close()
