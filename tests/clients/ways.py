"""The ways of producing that each client is tested with, and the topic that each has for itself."""

from collections.abc import Iterable

from tests.clients.drivers import CLIENTS, How
from tests.clients.drivers.base import CODECS, PARTITIONS

WAYS = (
    *(How(codec=codec) for codec in CODECS),
    *(How(codec=codec, idempotent=True) for codec in CODECS),
    *(How(acks=acks, codec=codec) for acks in (1, 0) for codec in CODECS),
)
MATRIX = [(client, how) for client in CLIENTS for how in WAYS]
# Through the death of a leader: every codec with an idempotent producer, and each weaker promise once.
KILLED_WAYS = (
    *(How(codec=codec, idempotent=True) for codec in CODECS),
    *(How(acks=acks) for acks in (-1, 1, 0)),
)
KILLED_MATRIX = [(client, how) for client, how in MATRIX if how in KILLED_WAYS]


def ids(cases: Iterable[tuple[str, How]]) -> list[str]:
    return [f"{client}-{how}" for client, how in cases]


def topic_of(client: str, how: How) -> str:
    return f"{client}-{str(how).replace('=', '-').replace(',', '-')}"


TOPICS = {topic_of(client, how): PARTITIONS for client, how in MATRIX}
TOPICS |= {f"versions-{client}": PARTITIONS for client in CLIENTS}
TOPICS |= {"librdkafka-tail": 1, "librdkafka-errors": 1}
TOPICS |= {f"times-{client}": 1 for client in CLIENTS}
TOPICS |= {f"deleted-{client}": PARTITIONS for client in CLIENTS}

KILLED_TOPICS = {topic_of(client, how): PARTITIONS for client, how in KILLED_MATRIX}
KILLED_TOPICS |= {f"{client}-{verb}": PARTITIONS for client in CLIENTS for verb in ("idempotent", "consume")}
