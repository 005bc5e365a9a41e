"""The embedded log on an asyncio loop: `python examples/embedded_async.py`. Tasks append, one follows."""

import asyncio
import tempfile
from pathlib import Path

import rlog

TASKS, RECORDS = 50, 20


async def work(log: rlog.AsyncLog, name: int) -> None:
    """Tasks that append at the same time share one write and one fdatasync; the loop never waits for it."""
    for number in range(RECORDS):
        await log.append(b"task %d, step %d" % (name, number))


async def count(log: rlog.AsyncLog) -> int:
    """Read what is there, and then what comes, in lists as it is flushed."""
    seen = 0
    async for records in log.read_batches(follow=True):
        seen += len(records)
        if seen == TASKS * RECORDS:
            break
    return seen


async def main(directory: str) -> None:
    async with rlog.open_async(Path(directory) / "steps") as log:
        follower = asyncio.create_task(count(log))
        async with asyncio.TaskGroup() as group:
            for name in range(TASKS):
                group.create_task(work(log, name))
        print(log.end_offset, "records on disk,", await follower, "followed")


with tempfile.TemporaryDirectory() as temporary:
    asyncio.run(main(temporary))
