"""docs/kafka.md says what the code does."""

import re
from pathlib import Path

import kafka.errors

from rlog.wire.kafka import apis, codes

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/kafka.md").read_text()


def rows(heading: str) -> list[list[str]]:
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line
    ][2:]


def test_the_documented_versions_are_the_advertised_ones() -> None:
    documented = []
    for name, key, versions, notes in rows("What is served"):
        low, _, high = versions.partition(" to ")
        documented.append((int(key), int(low), int(high or low)))
        assert apis.NAMES[int(key)] == name
        implemented = re.match(r"from (\d+);", notes)
        assert (implemented and int(implemented[1])) == apis.IMPLEMENTED_FROM.get(int(key))
    assert documented == list(apis.ADVERTISED)


def test_the_documented_errors_are_those_that_are_sent() -> None:
    documented = {int(code): name for code, name, _ in rows("Errors")}
    sources = [*(ROOT / "rlog/node").glob("*.py")]
    sent = set(re.findall(r"codes\.([A-Z_]+)", "".join(path.read_text() for path in sources))) - {"NONE"}
    assert documented == {code: name for code, name in codes.NAMES.items() if name in sent}


def test_error_codes_are_the_protocols() -> None:
    """As kafka-python has them: a client acts on the number."""
    theirs = {
        error.errno: error.message
        for error in vars(kafka.errors).values()
        if isinstance(error, type) and issubclass(error, kafka.errors.BrokerResponseError)
    }
    theirs |= {6: "NOT_LEADER_OR_FOLLOWER", 10: "MESSAGE_TOO_LARGE"}  # their names of old
    ours = {code: name for code, name in codes.NAMES.items() if code != codes.NONE}
    assert ours == {code: theirs[code] for code in ours}
