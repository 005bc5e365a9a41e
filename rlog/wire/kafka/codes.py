"""Error codes of the Kafka protocol that rlog sends or acts on, and when.

Plain ints: they are compared and written once per partition of every answer.
"""

from typing import Final

NONE: Final = 0
OFFSET_OUT_OF_RANGE: Final = 1  # below the log start or beyond its end
CORRUPT_MESSAGE: Final = 2  # not a record batch, or its checksum is wrong
UNKNOWN_TOPIC_OR_PARTITION: Final = 3  # the client refreshes its metadata and retries
LEADER_NOT_AVAILABLE: Final = 5  # metadata only: an election is under way
NOT_LEADER_OR_FOLLOWER: Final = 6  # *known not to be in the log*: librdkafka reads it as "not persisted"
REQUEST_TIMED_OUT: Final = 7  # may be in the log
MESSAGE_TOO_LARGE: Final = 10
NOT_ENOUGH_REPLICAS: Final = 19  # refused before the append
INVALID_REQUIRED_ACKS: Final = 21
INVALID_TIMESTAMP: Final = 32  # a producer claims the leader's clock
UNSUPPORTED_VERSION: Final = 35
OUT_OF_ORDER_SEQUENCE_NUMBER: Final = 45  # fatal to an idempotent producer
DUPLICATE_SEQUENCE_NUMBER: Final = 46  # success to clients
INVALID_PRODUCER_EPOCH: Final = 47
KAFKA_STORAGE_ERROR: Final = 56  # the disk is fenced
UNKNOWN_PRODUCER_ID: Final = 59
FETCH_SESSION_ID_NOT_FOUND: Final = 70
FENCED_LEADER_EPOCH: Final = 74  # the client's generation is older than ours
UNKNOWN_LEADER_EPOCH: Final = 75  # the client's generation is newer than ours: we lag
OFFSET_NOT_AVAILABLE: Final = 78  # a new leader whose high-water mark is not exact yet
INVALID_RECORD: Final = 87

# Answers after which a client refreshes its metadata and tries again; the write, if any, did not happen.
RETRIABLE_NOT_PERSISTED: Final = frozenset(
    {
        UNKNOWN_TOPIC_OR_PARTITION,
        LEADER_NOT_AVAILABLE,
        NOT_LEADER_OR_FOLLOWER,
        NOT_ENOUGH_REPLICAS,
        FENCED_LEADER_EPOCH,
        UNKNOWN_LEADER_EPOCH,
        OFFSET_NOT_AVAILABLE,
    }
)

NAMES: Final[dict[int, str]] = {
    value: name for name, value in list(globals().items()) if name.isupper() and isinstance(value, int)
}


def name_of(code: int) -> str:
    """`NOT_LEADER_OR_FOLLOWER (6)`, for logs and exceptions; unknown codes as their number."""
    return f"{NAMES.get(code, 'error')} ({code})"
