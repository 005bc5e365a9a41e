"""kcat, the command line of librdkafka: one process for each call."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache

from tests.clients.drivers.base import (
    DELIVERY_S,
    EARLIEST,
    PARTITIONS,
    PATIENCE_S,
    UNDER_WAY_MAX,
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


class Kcat:
    name = "kcat"
    tells_offsets = False  # a failed delivery makes its exit status 1; that is all it says
    can_delete = False

    @property
    def version(self) -> str:
        said = subprocess.run([_program(), "-V"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"Version (\S+) .*librdkafka (\S+)", said)
        assert found is not None, said
        return f"{found[1]}, librdkafka {found[2]}"

    def produce(
        self, bootstrap: str, topic: str, records: Iterable[Record], how: How, acked: Acked | None = None
    ) -> None:
        settings = {
            "acks": how.acks,
            "enable.idempotence": str(how.idempotent).lower(),
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": UNDER_WAY_MAX,
            "message.timeout.ms": DELIVERY_S * 1000,
        }
        options = [word for name, value in settings.items() for word in ("-X", f"{name}={value}")]
        command = [_program(), "-P", "-b", bootstrap, "-t", topic, "-K", ":", "-z", how.codec, *options]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            words = Words(process.stderr)
            try:
                assert process.stdin is not None
                for record in records:
                    process.stdin.write(record.key + b":" + record.value + b"\n")
                process.stdin.close()
                status = process.wait(DELIVERY_S)
            except BrokenPipeError:
                raise NotDelivered(f"kcat ended early: {words.last()}") from None
            finally:
                process.kill()
            if status != 0:
                raise NotDelivered(f"kcat ended with {status}: {words.last()}")

    def consume(
        self, bootstrap: str, topic: str, partition: int, start: int, *, if_gone: IfGone = "error"
    ) -> Iterator[Found]:
        command = [_program(), "-C", "-b", bootstrap, "-t", topic, "-p", str(partition)]
        command += ["-o", "beginning" if start == EARLIEST else str(start), "-u", "-f", "%o %k %s\n"]
        command += ["-X", f"auto.offset.reset={if_gone}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            words = Words(process.stderr)
            # A read of the pipe has no deadline: the process is ended when its time is up.
            impatience = Impatience(process)
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    impatience.rest()
                    offset, key, value = line.rstrip(b"\n").split(b" ")
                    yield Found(int(offset), key, value)
                    impatience.begin()
                if process.wait(PATIENCE_S) > 0:
                    raise Refused(f"kcat ended: {words.last()}")
                raise TimeoutError(f"nothing came for {PATIENCE_S} s; kcat said: {words.last()}")
            finally:
                impatience.end()
                process.kill()

    def bounds(self, bootstrap: str, topic: str) -> list[tuple[int, int]]:
        """kcat asks for offsets by time, of which -2 and -1 are the start and the end."""
        places = (bootstrap, topic, range(PARTITIONS))
        return list(zip(_query(*places, -2), _query(*places, -1), strict=True))

    def offsets_at(
        self, bootstrap: str, topic: str, partition: int, times_ms: Sequence[int]
    ) -> list[int | None]:
        found = [_query(bootstrap, topic, [partition], time_ms)[0] for time_ms in times_ms]
        return [None if offset == -1 else offset for offset in found]

    def delete_records(self, bootstrap: str, topic: str, below: Mapping[int, int]) -> None:
        raise Refused("kcat has no request for that")


def _query(bootstrap: str, topic: str, partitions: Sequence[int], time_ms: int) -> list[int]:
    """kcat -Q: of each partition the offset that a time stands for, -1 when there is none."""
    asked = [word for index in partitions for word in ("-t", f"{topic}:{index}:{time_ms}")]
    command = [_program(), "-Q", "-b", bootstrap, *asked]
    said = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE_S).stdout
    found = dict(re.findall(rb"\[(\d+)\] offset (-?\d+)", said))
    return [int(found[b"%d" % index]) for index in partitions]


@cache
def _program() -> str:
    found = shutil.which("kcat")
    if found is None:
        raise ClientMissing("kcat is not installed: apt-get install kcat")
    return found


DRIVER = Kcat()
