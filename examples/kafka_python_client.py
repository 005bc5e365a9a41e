"""The same with kafka-python: `python examples/kafka_python_client.py HOST:PORT`, topic `orders`."""

import sys

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

servers = sys.argv[1].split(",")

producer = KafkaProducer(bootstrap_servers=servers, enable_idempotence=True)
sent = producer.send("orders", b"shipped", key=b"42", partition=0).get(timeout=30)
print("flushed on a majority: offset", sent.offset)
producer.close()

consumer = KafkaConsumer(bootstrap_servers=servers)
consumer.assign([TopicPartition("orders", 0)])
consumer.seek(TopicPartition("orders", 0), sent.offset)
record = next(consumer)
print("read back:", record.offset, record.key, record.value)
consumer.close()
