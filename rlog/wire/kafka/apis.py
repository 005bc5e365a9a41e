"""Which requests of the Kafka protocol a node answers, in which versions (published schemas of Apache Kafka).

ADVERTISED is what ApiVersions says; IMPLEMENTED is what is served. They differ where raising the advertised
minimum would break clients: librdkafka stops compressing when Produce starts above 0 (KAFKA-18659), so the
versions below IMPLEMENTED are parsed and answered UNSUPPORTED_VERSION. FindCoordinator is advertised though
there are no groups: librdkafka compresses with lz4 only where it is, and otherwise sends the records plain
without a word; JoinGroup, so that a client that follows it there is refused instead of looking on for ever.
Keys from 32000 are rlog's own.
"""

from typing import Final

from rlog.wire.kafka.messages import ApiVersion

PRODUCE: Final = 0
FETCH: Final = 1
LIST_OFFSETS: Final = 2
METADATA: Final = 3
FIND_COORDINATOR: Final = 10
JOIN_GROUP: Final = 11
API_VERSIONS: Final = 18
DELETE_RECORDS: Final = 21
INIT_PRODUCER_ID: Final = 22
DESCRIBE_NODE: Final = 32001
RLOG_PRODUCE: Final = 32002

ADVERTISED: Final[tuple[ApiVersion, ...]] = (
    ApiVersion(PRODUCE, 0, 7),
    ApiVersion(FETCH, 4, 11),
    ApiVersion(LIST_OFFSETS, 0, 4),
    ApiVersion(METADATA, 0, 8),
    ApiVersion(FIND_COORDINATOR, 0, 2),
    ApiVersion(JOIN_GROUP, 0, 0),
    ApiVersion(API_VERSIONS, 0, 3),
    ApiVersion(DELETE_RECORDS, 0, 1),
    ApiVersion(INIT_PRODUCER_ID, 0, 1),
    ApiVersion(DESCRIBE_NODE, 0, 0),
    ApiVersion(RLOG_PRODUCE, 0, 0),
)

IMPLEMENTED_FROM: Final[dict[int, int]] = {PRODUCE: 3, LIST_OFFSETS: 1}

RANGES: Final[dict[int, tuple[int, int]]] = {
    api.api_key: (api.version_min, api.version_max) for api in ADVERTISED
}

NAMES: Final[dict[int, str]] = {
    PRODUCE: "Produce",
    FETCH: "Fetch",
    LIST_OFFSETS: "ListOffsets",
    METADATA: "Metadata",
    FIND_COORDINATOR: "FindCoordinator",
    JOIN_GROUP: "JoinGroup",
    API_VERSIONS: "ApiVersions",
    DELETE_RECORDS: "DeleteRecords",
    INIT_PRODUCER_ID: "InitProducerId",
    DESCRIBE_NODE: "DescribeNode",
    RLOG_PRODUCE: "RlogProduce",
}
