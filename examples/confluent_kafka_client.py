"""Any Kafka client will do, here confluent-kafka: `python examples/confluent_kafka_client.py HOST:PORT`."""

import sys

from confluent_kafka import Consumer, Message, Producer, TopicPartition

bootstrap = sys.argv[1]
delivered: list[Message] = []


def on_delivery(error: object, message: Message) -> None:
    assert error is None, error
    delivered.append(message)


producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
producer.produce("orders", b"shipped", key=b"42", partition=0, on_delivery=on_delivery)
producer.flush(30)
offset = delivered[0].offset()
print("flushed on a majority: offset", offset)

consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "none", "enable.auto.commit": False})
consumer.assign([TopicPartition("orders", 0, offset)])
message = consumer.poll(30)
assert message is not None
assert message.error() is None
print("read back:", message.offset(), message.key(), message.value())
consumer.close()
