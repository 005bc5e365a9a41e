"""The ways of producing that each client is tested with, and the topic that each has for itself."""

from tests.clients.drivers import CLIENTS, How
from tests.clients.drivers.base import CODECS, PARTITIONS

WAYS = (
    *(How(codec=codec) for codec in CODECS),
    *(How(codec=codec, idempotent=True) for codec in CODECS),
    *(How(acks=acks, codec=codec) for acks in (1, 0) for codec in ("none", "gzip", "lz4")),
)
# What a client does not have. kafkajs has the other codecs with plugins only.
CODECS_OF = dict.fromkeys(CLIENTS, CODECS) | {"kafkajs": ("none", "gzip")}
MATRIX = [(client, how) for client in CLIENTS for how in WAYS if how.codec in CODECS_OF[client]]


def topic_of(client: str, how: How) -> str:
    return f"{client}-{str(how).replace('=', '-').replace(',', '-')}"


TOPICS = {topic_of(client, how): PARTITIONS for client, how in MATRIX}
TOPICS |= {f"versions-{client}": PARTITIONS for client in CLIENTS}
TOPICS |= {"librdkafka-tail": 1, "librdkafka-errors": 1}
TOPICS |= {f"times-time-with-{client}": 1 for client in ("confluent", "kafka-python", "aiokafka")}

KILLED_TOPICS = {
    f"{client}-{verb}": PARTITIONS for client in CLIENTS for verb in ("idempotent", "plain", "consume")
}
