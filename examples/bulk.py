"""Many records in lists, the fast way in: `python examples/bulk.py HOST:PORT`, topic `orders`."""

import asyncio
import sys
import time

import rlog

LISTS, VALUES = 100, 1000


async def main(bootstrap: str) -> None:
    async with rlog.connect(bootstrap) as cluster, cluster.producer("orders") as producer:
        begin = time.perf_counter()
        receipts = []
        for number in range(LISTS):
            values = [b"order %d" % (number * VALUES + each) for each in range(VALUES)]
            receipts.append(await producer.send_many(values, partition=0))  # waits only when buffers are full
        for receipt in receipts:
            await receipt
        rate = LISTS * VALUES / (time.perf_counter() - begin)
        print(f"{LISTS * VALUES:,} records flushed on a majority, {rate:,.0f} records/s")


asyncio.run(main(sys.argv[1]))
