"""The commands and their document agree."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import rlog.cli
from rlog.cli import bench, exits, produce
from rlog.cli.main import COMMANDS, main
from rlog.cli.record_json import FIELDS, encode
from rlog.records import Receipt, Record
from tests.cli.directories import flip, make, run

DOCUMENT = (Path(__file__).parents[2] / "docs/cli.md").read_text()
STATUSES = {
    value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)
} | {0}  # fmt: skip


def command_of(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command


def options_of(name: str) -> list[str]:
    return [option for each in command_of(name).params for option in each.opts]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_for_everything_and_is_documented(name: str) -> None:
    command = command_of(name)
    assert command.help
    silent = [each.name for each in command.params if isinstance(each, click.Option) and not each.help]
    assert silent == ["log_level"] * (name == "serve")
    assert f"| `rlog {name}` |" in DOCUMENT
    assert f"\n## rlog {name}\n" in DOCUMENT


def test_every_exit_status_is_documented() -> None:
    documented = {int(number) for number in re.findall(r"^\| (\d+) \| ", DOCUMENT, flags=re.MULTILINE)}
    assert documented == STATUSES
    assert {
        int(number) for number in re.findall(r"^\* (\d+) ", rlog.cli.__doc__ or "", re.MULTILINE)
    } == STATUSES


def test_documented_options_exist() -> None:
    """Each --option named in a command's section is one of its options, or of the commands it names."""
    for section in DOCUMENT.split("\n## rlog ")[1:]:
        name = section.split("\n")[0]
        known = {
            option for command in COMMANDS for each in command_of(command).params for option in each.opts
        }
        named = set(re.findall(r"`(--?[a-z][a-z-]*)", section))
        assert named <= known | {"-1h", "-7d", "-15m", "-30s"}, (name, named - known)


def section(name: str) -> str:
    return DOCUMENT.partition(f"\n## rlog {name}\n")[2].partition("\n## ")[0]


def names_in(value: object) -> Iterator[str]:
    """Every name in a JSON object, as deep as it goes; but those that are data, not names."""
    if isinstance(value, dict):
        for name, content in value.items():
            yield name
            yield from names_in(content)
    elif isinstance(value, list):
        for content in value:
            yield from names_in(content)


def test_the_json_of_produce_and_consume_is_documented() -> None:
    report = produce.Report("orders", "all", first_failure=produce.Failure(1, "no", "why"))
    record = Record("orders", 0, 7, 1, -1, b"\xff", b"\xff", (("name", b"\xff"),))
    plain = Record("orders", 0, 7, 1, -1, b"key", b"value")
    report.acknowledge(Receipt("orders", 0, 7), 1)
    documented = section("produce")
    missing = [name for name in names_in(report.fields()) if f"`{name}`" not in documented and name != "0"]
    assert missing == []
    known = {*names_in(encode(record)), *names_in(encode(plain))}
    assert [name for name in known if f"`{name}`" not in section("consume") and name != "name"] == []
    assert [name for name in FIELDS if f"`{name}`" not in documented] == []


def test_the_json_of_verify_dump_and_bench_is_documented(tmp_path: Path) -> None:
    make(tmp_path / "data")
    flip(tmp_path / "data" / "meta.b", 40)
    report = json.loads(run("verify", tmp_path / "data", "--json").stdout)
    assert report["findings"]
    assert [name for name in names_in(report) if f"`{name}`" not in section("verify")] == []
    batch = json.loads(run("dump", tmp_path / "data", "--headers-only", "--json").stdout.splitlines()[0])
    assert [name for name in names_in(batch["batch"]) if f"`{name}`" not in section("dump")] == []
    measured = bench.Report(
        "", {}, [], 100, {"p50_us": 1.0, "p99_us": 1.0, "max_us": 1.0}, [1.0], [{"p50_us": 1.0}]
    )
    names = set(names_in(measured.fields())) - {"write_bytes"}
    assert [name for name in names if f"`{name}`" not in section("bench")] == []
