"""One record, flushed on a majority, and read back: `python examples/hello.py HOST:PORT`, topic `orders`."""

import asyncio
import sys

import rlog


async def main(bootstrap: str) -> None:
    async with rlog.connect(bootstrap) as cluster:
        async with cluster.producer("orders") as producer:
            acknowledgement = await producer.send(b"paid", key=b"42")
            receipt = await acknowledgement
            print("flushed on a majority: partition", receipt.partition, "offset", receipt.offset)
        async with cluster.consumer("orders", partition=receipt.partition, start=receipt.offset) as consumer:
            async for record in consumer:
                print("read back:", record.offset, record.key, record.value)
                break


asyncio.run(main(sys.argv[1]))
