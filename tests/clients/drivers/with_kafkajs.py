"""kafkajs, on node: a process for each call that runs tests/clients/kafkajs/driver.js."""

import atexit
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from rlog.wire.kafka import partition_of
from tests.clients.drivers.base import (
    PARTITIONS,
    PATIENCE_S,
    Acked,
    ClientMissing,
    Found,
    How,
    IfGone,
    NotDelivered,
    Record,
    Refused,
)
from tests.clients.drivers.processes import Impatience, Words

HERE = Path(__file__).parents[1] / "kafkajs"
PACKAGE = json.loads((HERE / "package-lock.json").read_text())["packages"]["node_modules/kafkajs"]
# Records of one `send`.
BATCH_COUNT = 1000
INSTALL_S = 120


class Kafkajs:
    name = "kafkajs"
    tells_offsets = True
    can_delete = True

    @property
    def version(self) -> str:
        return str(PACKAGE["version"])

    def produce(
        self, bootstrap: str, topic: str, records: Iterable[Record], how: How, acked: Acked | None = None
    ) -> None:
        settings = {
            "bootstrap": bootstrap,
            "topic": topic,
            "acks": how.acks,
            "codec": how.codec,
            "idempotent": how.idempotent,
        }
        command = [*_command(), "produce", json.dumps(settings)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment()
        ) as process:
            words, impatience = Words(process.stderr), Impatience(process)
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                taken = iter(records)
                impatience.rest()
                while batch := list(islice(taken, BATCH_COUNT)):
                    impatience.begin()
                    parts = _by_partition(batch)
                    for part in parts.values():
                        lines = [[record.key.decode(), record.value.decode()] for record in part]
                        process.stdin.write(json.dumps(lines).encode() + b"\n")
                    process.stdin.flush()
                    for partition, part in parts.items():
                        answer = process.stdout.readline()
                        if not answer:
                            raise NotDelivered(f"kafkajs ended: {words.last()}")
                        if how.acks != 0:
                            _report(part, partition, json.loads(answer), acked)
                    impatience.rest()
                process.stdin.close()
                assert process.wait(INSTALL_S) == 0, words.last()
            finally:
                impatience.end()
                process.kill()

    def consume(
        self, bootstrap: str, topic: str, partition: int, start: int, *, if_gone: IfGone = "error"
    ) -> Iterator[Found]:
        settings = {
            "bootstrap": bootstrap,
            "topic": topic,
            "partition": partition,
            "start": start,
            "ifGone": if_gone,
        }
        command = [*_command(), "consume", json.dumps(settings)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment()
        ) as process:
            words, impatience = Words(process.stderr), Impatience(process)
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    impatience.rest()
                    for offset, key, value in json.loads(line):
                        yield Found(int(offset), key.encode(), value.encode())
                    impatience.begin()
                if process.wait(PATIENCE_S) > 0:
                    raise Refused(f"kafkajs ended: {words.last()}")
                raise TimeoutError(f"nothing came in time; kafkajs said: {words.last()}")
            finally:
                impatience.end()
                process.kill()

    def bounds(self, bootstrap: str, topic: str) -> list[tuple[int, int]]:
        return [(int(low), int(high)) for low, high in _ask("bounds", bootstrap, topic)]

    def offsets_at(
        self, bootstrap: str, topic: str, partition: int, times_ms: Sequence[int]
    ) -> list[int | None]:
        """kafkajs answers with the end where there is no such record: no record is there."""
        found = _ask("offsetsAt", bootstrap, topic, partition=partition, times=list(times_ms))
        end = self.bounds(bootstrap, topic)[partition][1]
        return [None if int(offset) == end else int(offset) for offset in found]

    def delete_records(self, bootstrap: str, topic: str, below: Mapping[int, int]) -> None:
        asked = [{"partition": each, "offset": str(offset)} for each, offset in below.items()]
        _ask("deleteRecords", bootstrap, topic, partitions=asked)


def _ask(verb: str, bootstrap: str, topic: str, **settings: Any) -> Any:
    """A process that gives one answer."""
    command = [*_command(), verb, json.dumps({"bootstrap": bootstrap, "topic": topic, **settings})]
    ended = subprocess.run(
        command, capture_output=True, check=False, timeout=PATIENCE_S, env=_environment(), text=True
    )
    if ended.returncode != 0:
        raise Refused(f"kafkajs ended: {ended.stderr}")
    return json.loads(ended.stdout)


def _by_partition(batch: list[Record]) -> dict[int, list[Record]]:
    """One `send` is for one partition: when a leader moves to a node that has answered another partition of
    the same `send` already, kafkajs 2.2.4 does not send the rest to it and reports success."""
    parts: dict[int, list[Record]] = {}
    for record in batch:
        parts.setdefault(partition_of(record.key, PARTITIONS), []).append(record)
    return parts


def _report(part: list[Record], partition: int, answer: dict[str, str], acked: Acked | None) -> None:
    """kafkajs tells the first offset of a batch; the records follow in their order."""
    if list(answer) != [str(partition)]:
        raise NotDelivered(f"kafkajs answered {answer} for records of partition {partition}")
    first = int(answer[str(partition)])
    for place, record in enumerate(part):
        if acked is not None:
            acked(record.value, partition, first + place)


@cache
def _modules() -> Path:
    """kafkajs as package-lock.json pins it, in a directory that goes with this process."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise ClientMissing("node and npm are not installed: apt-get install nodejs npm")
    directory = Path(tempfile.mkdtemp(prefix="rlog-kafkajs-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, directory)
    command = [npm, "ci", "--no-audit", "--no-fund", "--silent"]
    ended = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_S, check=False
    )
    if ended.returncode != 0:
        raise ClientMissing(f"npm cannot install kafkajs: {ended.stdout}{ended.stderr}")
    return directory / "node_modules"


def _command() -> list[Any]:
    return ["node", HERE / "driver.js"]


def _environment() -> dict[str, str]:
    return {**os.environ, "NODE_PATH": str(_modules())}


DRIVER = Kafkajs()
