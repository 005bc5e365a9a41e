"""A consumer says where it stands: `python examples/consumer_state.py HOST:PORT`, topic `orders`.

It is never alive and silent: for each partition it tells position, lag, and what it waits for.
"""

import asyncio
import sys

import rlog


def show(consumer: rlog.Consumer) -> None:
    for state in consumer.state:
        print(
            f"{state.topic}-{state.partition}: at {state.position} of {state.end_offset}, lag {state.lag}, "
            f"waiting for: {state.waiting or 'its reader'}"
        )
    print("lag of all:", consumer.lag, "last progress:", consumer.last_progress)


async def main(bootstrap: str) -> None:
    async with rlog.connect(bootstrap) as cluster, cluster.producer("orders") as producer:
        receipt = await (await producer.send_many([b"order %d" % number for number in range(100)]))
        async with cluster.consumer("orders", start="latest") as consumer:
            while await consumer.fetch(timeout_ms=100):
                pass
            show(consumer)  # at the end of all partitions: waiting for new records
            consumer.seek(receipt.partition, receipt.first_offset)
            print("read again:", len(await consumer.fetch()), "records")
            consumer.pause(receipt.partition)
            show(consumer)
            consumer.resume()


asyncio.run(main(sys.argv[1]))
