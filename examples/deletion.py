"""What is old goes, by age, size or request: `python examples/deletion.py HOST:PORT`, topic `orders`."""

import asyncio
import sys
import tempfile
from pathlib import Path

import rlog
from rlog.errors import OffsetOutOfRange


def embedded(path: Path) -> None:
    """Of a log of your own. In a cluster the topic says it: `retention_ms`, `retention_bytes`."""
    with rlog.open(path, retention_bytes=1 << 30, retention_ms=7 * 24 * 3600 * 1000) as log:
        log.append_many([b"event %d" % number for number in range(1000)])
        log.delete_before(900)
        print("it begins at", log.start_offset, "and ends at", log.end_offset)
        try:
            next(log.read(100))
        except OffsetOutOfRange as error:
            print("refused:", error)


async def cluster(bootstrap: str) -> None:
    """A majority of the nodes has the new start on disk when `delete_records` returns."""
    async with rlog.connect(bootstrap) as connection, connection.producer("orders") as producer:
        receipt = await (
            await producer.send_many([b"order %d" % number for number in range(100)], partition=1)
        )
        starts = await connection.delete_records("orders", {1: receipt.first_offset + 90})
        async with connection.consumer("orders", partition=1, start="earliest") as consumer:
            print("partition 1 begins at", starts[1], "with", (await anext(aiter(consumer))).value)


with tempfile.TemporaryDirectory() as directory:
    embedded(Path(directory) / "events")
asyncio.run(cluster(sys.argv[1]))
