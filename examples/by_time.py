"""From a moment on, exactly: `python examples/by_time.py HOST:PORT`, topic `orders`."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta

import rlog

HOURS = 5


async def main(bootstrap: str) -> None:
    now = datetime.now(UTC)
    async with rlog.connect(bootstrap) as cluster:
        async with cluster.producer("orders") as producer:
            acks = []
            for hours in range(HOURS):
                moment = int((now - timedelta(hours=hours)).timestamp() * 1000)
                acks.append(await producer.send(b"%d hours ago" % hours, partition=2, timestamp_ms=moment))
            last = [await ack for ack in acks][-1]
        start = now - timedelta(hours=1, minutes=30)
        async with cluster.consumer("orders", partition=2, start=start) as consumer:
            async for record in consumer:
                when = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
                if when >= start:  # what was appended later may be older
                    print(record.offset, when.isoformat(timespec="minutes"), record.value)
                if record.offset >= last.offset:
                    break


asyncio.run(main(sys.argv[1]))
