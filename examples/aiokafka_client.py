"""The same with aiokafka: `python examples/aiokafka_client.py HOST:PORT`, topic `orders`."""

import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition


async def main(bootstrap: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        sent = await producer.send_and_wait("orders", b"shipped", key=b"42", partition=0)
        print("flushed on a majority: offset", sent.offset)
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        consumer.assign([TopicPartition("orders", 0)])
        consumer.seek(TopicPartition("orders", 0), sent.offset)
        record = await consumer.getone()
        print("read back:", record.offset, record.key, record.value)


asyncio.run(main(sys.argv[1]))
