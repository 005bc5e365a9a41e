"""Every client behind the same two verbs, so that each behaviour is written once and tested with all of them.

`driver("aiokafka").produce(...)`, `.consume(...)`: base.py says what they mean. A client is imported when its
driver is asked for; what a client cannot do is said by its driver (`can_delete`), never
skipped in silence.
"""

from importlib import import_module

from tests.clients.drivers.base import Driver, Found, How, NotDelivered, Record, Refused

__all__ = ["CLIENTS", "Driver", "Found", "How", "NotDelivered", "Record", "Refused", "driver"]

_MODULES = {
    "confluent-kafka": "with_confluent",
    "kcat": "with_kcat",
    "kafka-python": "with_kafka_python",
    "aiokafka": "with_aiokafka",
    "kafkajs": "with_kafkajs",
    "rlog": "with_rlog",
    "rlog.sync": "with_rlog_sync",
}
CLIENTS = tuple(_MODULES)


def driver(name: str) -> Driver:
    """The driver of a client. Raises ClientMissing where the client is not installed."""
    return import_module(f"tests.clients.drivers.{_MODULES[name]}").DRIVER
