"""For each advertised request of the Kafka protocol: what may be in it, in the schemas' words and in ours.

Each entry draws a message as the plain dict that the oracles take, and says what ours must make of it. What a
version does not carry is left out or takes its default; `since` says from which version a field is there.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from rlog.wire import kafka
from rlog.wire.kafka import messages as m
from tests.wire.oracles import CLIENT_ID, CORRELATION_ID

Plain = dict[str, Any]
# Behind frame size and header: the body of a request, or an answer from its correlation id on.
Body = kafka.Reader


class Drawn(NamedTuple):
    """plain: for the oracles. ours: what our decoder must give, None where only the other end decodes.
    encoded: what our encoder makes of it, None where only the other end encodes."""

    plain: Plain
    ours: Any
    encoded: Sequence[m.Buffer] | None


class Api(NamedTuple):
    """request, response: what to draw in a version. decode_*: ours, of a body or a frame, and a version."""

    request: Callable[[int], st.SearchStrategy[Drawn]]
    decode_request: Callable[[kafka.Reader, int], Any]
    response: Callable[[int], st.SearchStrategy[Drawn]]
    decode_response: Callable[[bytes, int], Any] | None


int16 = st.integers(-(2**15), 2**15 - 1)
int32 = st.integers(-(2**31), 2**31 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
index = st.integers(0, 2**31 - 1)
# An error code that both oracles know.
error = st.sampled_from([0, 1, 2, 3, 6, 7, 10, 19, 35, 45, 56, 74, 87])
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
boolean = st.booleans()
# Small, or above the size from which sections are not copied.
LARGE = bytes(range(256)) * 40
batches = st.binary(min_size=1, max_size=50) | st.integers(0, 9).map(lambda n: LARGE[n:])


def topics_of(name: str, of: str, strategy: st.SearchStrategy, key: str) -> st.SearchStrategy:
    """A list of {name: topic, of: partitions}."""
    partitions = st.lists(strategy, max_size=3, unique_by=lambda p: p[key])
    topic = st.fixed_dictionaries({name: text, of: partitions})
    return st.lists(topic, max_size=3, unique_by=lambda t: t[name])


def since(version: int, first: int, value: Any, default: Any) -> Any:
    return value if version >= first else default


# The schemas' names of our fields, in our order.
PRODUCED = ("index", "error_code", "base_offset", "log_append_time_ms", "log_start_offset")
LISTED = ("partition_index", "error_code", "timestamp", "offset", "leader_epoch")


def values(plain: Plain, names: Sequence[str]) -> list[Any]:
    return [plain[name] for name in names]


# --- Produce ---
def produce_request(version: int) -> st.SearchStrategy[Drawn]:
    partition = st.fixed_dictionaries({"index": index, "records": st.none() | batches})

    def drawn(plain: Plain) -> Drawn:
        topics = [
            (t["name"], [(p["index"], p["records"]) for p in t["partition_data"]])
            for t in plain["topic_data"]
        ]
        ours = m.ProduceRequest(plain["transactional_id"], plain["acks"], plain["timeout_ms"], topics)
        writes = plain["transactional_id"] is None and all(r is not None for _, ps in topics for _, r in ps)
        encoded = None
        if writes:
            encoded = kafka.encode_produce_request(
                CORRELATION_ID, CLIENT_ID, plain["acks"], plain["timeout_ms"], topics, version=version
            )
        return Drawn(plain, ours, encoded)

    return st.fixed_dictionaries(
        {
            "transactional_id": st.none() | text,
            "acks": int16,
            "timeout_ms": st.integers(0, 2**31 - 1),
            "topic_data": topics_of("name", "partition_data", partition, "index"),
        }
    ).map(drawn)


def produce_response(version: int) -> st.SearchStrategy[Drawn]:
    partition = st.fixed_dictionaries(
        {
            "index": index,
            "error_code": error,
            "base_offset": int64,
            "log_append_time_ms": st.just(-1),
            "log_start_offset": int64,
        }
    )

    def drawn(plain: Plain) -> Drawn:
        topics = [
            (t["name"], [m.ProducedPartition(*values(p, PRODUCED)) for p in t["partition_responses"]])
            for t in plain["responses"]
        ]
        encoded = kafka.encode_produce_response(CORRELATION_ID, version, topics)
        ours = [
            (name, [p._replace(log_start_offset=since(version, 5, p.log_start_offset, -1)) for p in ps])
            for name, ps in topics
        ]
        return Drawn(plain | {"throttle_time_ms": 0}, ours, encoded)

    responses = topics_of("name", "partition_responses", partition, "index")
    return st.fixed_dictionaries({"responses": responses}).map(drawn)


# --- Fetch ---
def fetch_request(version: int) -> st.SearchStrategy[Drawn]:
    partition = st.fixed_dictionaries(
        {
            "partition": index,
            "current_leader_epoch": int32,
            "fetch_offset": int64,
            "log_start_offset": st.just(-1),
            "partition_max_bytes": int32,
        }
    )

    def drawn(plain: Plain) -> Drawn:
        def topics(*, is_whole: bool) -> list:
            return [
                (
                    t["topic"],
                    [
                        m.FetchPartition(
                            p["partition"],
                            p["fetch_offset"],
                            p["partition_max_bytes"],
                            p["current_leader_epoch"] if is_whole else -1,
                        )
                        for p in t["partitions"]
                    ],
                )
                for t in plain["topics"]
            ]

        limits = plain["max_wait_ms"], plain["min_bytes"], plain["max_bytes"]
        whole = m.FetchRequest(*limits, topics(is_whole=True), plain["isolation_level"])
        encoded = kafka.encode_fetch_request(CORRELATION_ID, CLIENT_ID, whole, version=version)
        return Drawn(plain, whole._replace(topics=topics(is_whole=version >= 9)), encoded)

    return st.fixed_dictionaries(
        {
            "replica_id": st.just(-1),
            "max_wait_ms": st.integers(0, 2**31 - 1),
            "min_bytes": int32,
            "max_bytes": int32,
            "isolation_level": st.integers(0, 1),
            "session_id": st.just(0),
            "session_epoch": st.just(-1),
            "topics": topics_of("topic", "partitions", partition, "partition"),
            "forgotten_topics_data": st.just([]),
            "rack_id": st.just(""),
        }
    ).map(drawn)


def fetch_response(version: int) -> st.SearchStrategy[Drawn]:
    partition = st.fixed_dictionaries(
        {
            "partition_index": index,
            "error_code": error,
            "high_watermark": int64,
            "last_stable_offset": int64,
            "log_start_offset": int64,
            "aborted_transactions": st.none(),
            "preferred_read_replica": st.just(-1),
            "records": batches,
        }
    )

    def drawn(plain: Plain) -> Drawn:
        topics = [
            (
                t["topic"],
                [
                    m.FetchedPartition(
                        p["partition_index"],
                        p["error_code"],
                        p["high_watermark"],
                        p["log_start_offset"],
                        (p["records"],),
                        p["last_stable_offset"],
                    )
                    for p in t["partitions"]
                ],
            )
            for t in plain["responses"]
        ]
        response = m.FetchResponse(0, 0, topics)
        encoded = kafka.encode_fetch_response(CORRELATION_ID, version, response, 0)
        read = [
            (name, [p._replace(log_start_offset=since(version, 5, p.log_start_offset, -1)) for p in ps])
            for name, ps in topics
        ]
        plain = plain | {"throttle_time_ms": 0, "error_code": 0, "session_id": 0}
        return Drawn(plain, response._replace(topics=read), encoded)

    responses = topics_of("topic", "partitions", partition, "partition_index")
    return st.fixed_dictionaries({"responses": responses}).map(drawn)


# --- ListOffsets ---
def list_offsets_request(version: int) -> st.SearchStrategy[Drawn]:
    partition = st.fixed_dictionaries(
        {"partition_index": index, "current_leader_epoch": int32, "timestamp": int64}
    )

    def drawn(plain: Plain) -> Drawn:
        topics = [
            (
                t["name"],
                [
                    m.ListOffsetsPartition(p["partition_index"], p["timestamp"], p["current_leader_epoch"])
                    for p in t["partitions"]
                ],
            )
            for t in plain["topics"]
        ]
        whole = m.ListOffsetsRequest(topics, plain["isolation_level"])
        encoded = kafka.encode_list_offsets_request(CORRELATION_ID, CLIENT_ID, whole, version=version)
        read = [
            (name, [p._replace(generation=since(version, 4, p.generation, -1)) for p in ps])
            for name, ps in topics
        ]
        return Drawn(
            plain, m.ListOffsetsRequest(read, since(version, 2, plain["isolation_level"], 0)), encoded
        )

    return st.fixed_dictionaries(
        {
            "replica_id": st.just(-1),
            "isolation_level": st.integers(0, 1),
            "topics": topics_of("name", "partitions", partition, "partition_index"),
        }
    ).map(drawn)


def list_offsets_response(version: int) -> st.SearchStrategy[Drawn]:
    partition = st.fixed_dictionaries(
        {
            "partition_index": index,
            "error_code": error,
            "timestamp": int64,
            "offset": int64,
            "leader_epoch": int32,
        }
    )

    def drawn(plain: Plain) -> Drawn:
        topics = [
            (t["name"], [m.ListedPartition(*values(p, LISTED)) for p in t["partitions"]])
            for t in plain["topics"]
        ]
        encoded = kafka.encode_list_offsets_response(CORRELATION_ID, version, topics)
        read = [
            (name, [p._replace(generation=since(version, 4, p.generation, -1)) for p in ps])
            for name, ps in topics
        ]
        return Drawn(plain | {"throttle_time_ms": 0}, read, encoded)

    topics = topics_of("name", "partitions", partition, "partition_index")
    return st.fixed_dictionaries({"topics": topics}).map(drawn)
