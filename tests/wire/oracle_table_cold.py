"""The rest of the table: requests about the cluster. See oracle_table.py."""

from hypothesis import strategies as st

from rlog.wire import kafka
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka import messages as m
from tests.wire.oracle_table import (
    Api,
    Drawn,
    Plain,
    boolean,
    error,
    fetch_request,
    fetch_response,
    index,
    int32,
    int64,
    list_offsets_request,
    list_offsets_response,
    produce_request,
    produce_response,
    since,
    text,
    topics_of,
    values,
)
from tests.wire.oracles import CLIENT_ID, CORRELATION_ID

node_id = st.integers(-1, 2**31 - 1)
node_ids = st.lists(index, max_size=4)
UNKNOWN_OPERATIONS = -(2**31)


# --- Metadata ---
def metadata_request(version: int) -> st.SearchStrategy[Drawn]:
    names = st.lists(text, max_size=4)

    def drawn(asked: list[str] | None) -> Drawn:
        plain = {
            "topics": None if asked is None else [{"name": name} for name in asked],
            "allow_auto_topic_creation": False,
            "include_cluster_authorized_operations": False,
            "include_topic_authorized_operations": False,
        }
        encoded = kafka.encode_metadata_request(CORRELATION_ID, CLIENT_ID, asked, version=version)
        # In version 0 all topics are asked for by an empty list; later it asks for none.
        wanted = None if version == 0 and not asked else asked
        return Drawn(plain, m.MetadataRequest(wanted, allow_topic_creation=version < 4), encoded)

    return (names if version == 0 else st.none() | names).map(drawn)


def metadata_response(version: int) -> st.SearchStrategy[Drawn]:
    broker = st.builds(m.Broker, index, text, int32)
    partition = st.builds(m.PartitionMetadata, error, index, node_id, int32, node_ids, node_ids, node_ids)
    topic = st.builds(m.TopicMetadata, error, text, st.lists(partition, max_size=2), boolean)
    response = st.builds(
        m.MetadataResponse,
        st.lists(broker, max_size=3),
        st.none() | text,
        node_id,
        st.lists(topic, max_size=2),
    )

    def drawn(found: m.MetadataResponse) -> Drawn:
        encoded = kafka.encode_metadata_response(CORRELATION_ID, version, found)
        return Drawn(_plain_metadata(found), _metadata_read(found, version), encoded)

    return response.map(drawn)


def _plain_metadata(found: m.MetadataResponse) -> Plain:
    return {
        "throttle_time_ms": 0,
        "brokers": [b._asdict() | {"rack": None} for b in found.brokers],
        "cluster_id": found.cluster_id,
        "controller_id": found.controller_id,
        "topics": [
            {
                "error_code": t.error,
                "name": t.name,
                "is_internal": t.internal,
                "partitions": [
                    {
                        "error_code": p.error,
                        "partition_index": p.partition,
                        "leader_id": p.leader,
                        "leader_epoch": p.generation,
                        "replica_nodes": p.replicas,
                        "isr_nodes": p.in_sync,
                        "offline_replicas": p.offline,
                    }
                    for p in t.partitions
                ],
                "topic_authorized_operations": UNKNOWN_OPERATIONS,
            }
            for t in found.topics
        ],
        "cluster_authorized_operations": UNKNOWN_OPERATIONS,
    }


def _metadata_read(found: m.MetadataResponse, version: int) -> m.MetadataResponse:
    def partition(p: m.PartitionMetadata) -> m.PartitionMetadata:
        return p._replace(
            generation=since(version, 7, p.generation, -1), offline=since(version, 5, p.offline, ())
        )

    topics = [
        t._replace(
            internal=since(version, 1, t.internal, False), partitions=list(map(partition, t.partitions))
        )
        for t in found.topics
    ]
    cluster_id = since(version, 2, found.cluster_id, None)
    return m.MetadataResponse(found.brokers, cluster_id, since(version, 1, found.controller_id, -1), topics)


# --- ApiVersions ---
def api_versions_request(version: int) -> st.SearchStrategy[Drawn]:
    """From version 3 on flexible: the header has tagged fields, the names are compact and not null."""

    def drawn(software_name: str, software_version: str) -> Drawn:
        plain = {"client_software_name": software_name, "client_software_version": software_version}
        encoded = None
        if software_name == "rlog" or version < 3:
            encoded = kafka.encode_api_versions_request(
                CORRELATION_ID, CLIENT_ID, software_version=software_version, version=version
            )
        read = m.ApiVersionsRequest(software_name, software_version)
        return Drawn(plain, since(version, 3, read, m.ApiVersionsRequest()), encoded)

    return st.builds(drawn, st.just("rlog") | text, text)


def api_versions_response(version: int) -> st.SearchStrategy[Drawn]:
    api = st.builds(m.ApiVersion, index.map(lambda n: n % 2**15), st.integers(0, 9), st.integers(9, 99))

    def drawn(found: list[m.ApiVersion]) -> Drawn:
        keys = [{"api_key": a, "min_version": low, "max_version": high} for a, low, high in found]
        plain = {"error_code": 0, "api_keys": keys, "throttle_time_ms": 0}
        encoded = kafka.encode_api_versions_response(CORRELATION_ID, version, found)
        return Drawn(plain, m.ApiVersionsResponse(0, found), encoded)

    return st.lists(api, max_size=5, unique_by=lambda a: a.api_key).map(drawn)


# --- InitProducerId ---
def init_producer_id_request(version: int) -> st.SearchStrategy[Drawn]:
    def drawn(transactional_id: str | None, timeout_ms: int) -> Drawn:
        plain = {"transactional_id": transactional_id, "transaction_timeout_ms": timeout_ms}
        ours = m.InitProducerIdRequest(transactional_id, timeout_ms)
        encoded = None
        if ours == m.InitProducerIdRequest():
            encoded = kafka.encode_init_producer_id_request(CORRELATION_ID, CLIENT_ID, version=version)
        return Drawn(plain, ours, encoded)

    return st.builds(drawn, st.none() | text, st.just(2**31 - 1) | st.integers(0, 2**31 - 1))


def init_producer_id_response(version: int) -> st.SearchStrategy[Drawn]:
    def drawn(error_code: int, producer_id: int, epoch: int) -> Drawn:
        plain = {"error_code": error_code, "producer_id": producer_id, "producer_epoch": epoch}
        ours = m.InitProducerIdResponse(error_code, producer_id, epoch)
        encoded = kafka.encode_init_producer_id_response(CORRELATION_ID, ours)
        return Drawn(plain | {"throttle_time_ms": 0}, ours, encoded)

    return st.builds(drawn, error, int64, st.integers(-(2**15), 2**15 - 1))


# --- DeleteRecords ---
def delete_records_request(version: int) -> st.SearchStrategy[Drawn]:
    partition = st.fixed_dictionaries({"partition_index": index, "offset": int64})

    def drawn(plain: Plain) -> Drawn:
        topics = [
            (
                topic["name"],
                [m.DeleteRecordsPartition(p["partition_index"], p["offset"]) for p in topic["partitions"]],
            )
            for topic in plain["topics"]
        ]
        ours = m.DeleteRecordsRequest(topics, plain["timeout_ms"])
        encoded = kafka.encode_delete_records_request(CORRELATION_ID, CLIENT_ID, ours, version=version)
        return Drawn(plain, ours, encoded)

    topics = topics_of("name", "partitions", partition, "partition_index")
    return st.fixed_dictionaries({"topics": topics, "timeout_ms": st.integers(0, 2**31 - 1)}).map(drawn)


def delete_records_response(version: int) -> st.SearchStrategy[Drawn]:
    partition = st.fixed_dictionaries({"partition_index": index, "low_watermark": int64, "error_code": error})

    def drawn(plain: Plain) -> Drawn:
        names = ("partition_index", "error_code", "low_watermark")
        ours = [
            (topic["name"], [m.DeletedPartition(*values(p, names)) for p in topic["partitions"]])
            for topic in plain["topics"]
        ]
        encoded = kafka.encode_delete_records_response(CORRELATION_ID, ours)
        return Drawn(plain | {"throttle_time_ms": 0}, ours, encoded)

    topics = topics_of("name", "partitions", partition, "partition_index")
    return st.fixed_dictionaries({"topics": topics}).map(drawn)


# --- groups, the node's side ---
def find_coordinator_request(version: int) -> st.SearchStrategy[Drawn]:
    def drawn(key: str, key_type: int) -> Drawn:
        ours = m.FindCoordinatorRequest(key, since(version, 1, key_type, 0))
        return Drawn({"key": key, "key_type": key_type}, ours, None)

    return st.builds(drawn, text, st.integers(0, 1))


def find_coordinator_response(version: int) -> st.SearchStrategy[Drawn]:
    def drawn(found: m.FindCoordinatorResponse) -> Drawn:
        plain = found._asdict()
        plain = {"error_code": plain.pop("error"), "error_message": plain.pop("message"), **plain}
        encoded = kafka.encode_find_coordinator_response(CORRELATION_ID, version, found)
        return Drawn(plain | {"throttle_time_ms": 0}, None, encoded)

    return st.builds(m.FindCoordinatorResponse, error, st.none() | text, int32, text, int32).map(drawn)


def join_group_request(version: int) -> st.SearchStrategy[Drawn]:
    protocol = st.fixed_dictionaries({"name": text, "metadata": st.binary(max_size=20)})
    return st.fixed_dictionaries(
        {
            "group_id": text,
            "session_timeout_ms": st.integers(0, 2**31 - 1),
            "member_id": text,
            "protocol_type": text,
            "protocols": st.lists(protocol, max_size=3, unique_by=lambda p: p["name"]),
        }
    ).map(lambda plain: Drawn(plain, plain["group_id"], None))


def join_group_response(version: int) -> st.SearchStrategy[Drawn]:
    plain = {"error_code": codes.UNSUPPORTED_VERSION, "generation_id": -1, "members": []}
    plain |= {"protocol_name": "", "leader": "", "member_id": ""}
    encoded = kafka.encode_join_group_refusal(CORRELATION_ID, codes.UNSUPPORTED_VERSION)
    return st.just(Drawn(plain, None, encoded))


TABLE: dict[int, Api] = {
    apis.PRODUCE: Api(
        produce_request, kafka.decode_produce_request, produce_response, kafka.decode_produce_response
    ),
    apis.FETCH: Api(fetch_request, kafka.decode_fetch_request, fetch_response, kafka.decode_fetch_response),
    apis.LIST_OFFSETS: Api(
        list_offsets_request,
        kafka.decode_list_offsets_request,
        list_offsets_response,
        kafka.decode_list_offsets_response,
    ),
    apis.METADATA: Api(
        metadata_request, kafka.decode_metadata_request, metadata_response, kafka.decode_metadata_response
    ),
    apis.FIND_COORDINATOR: Api(
        find_coordinator_request, kafka.decode_find_coordinator_request, find_coordinator_response, None
    ),
    apis.JOIN_GROUP: Api(
        join_group_request,
        lambda reader, _: kafka.decode_join_group_request(reader),
        join_group_response,
        None,
    ),
    apis.API_VERSIONS: Api(
        api_versions_request,
        kafka.decode_api_versions_request,
        api_versions_response,
        kafka.decode_api_versions_response,
    ),
    apis.DELETE_RECORDS: Api(
        delete_records_request,
        lambda reader, _: kafka.decode_delete_records_request(reader),
        delete_records_response,
        lambda frame, _: kafka.decode_delete_records_response(frame),
    ),
    apis.INIT_PRODUCER_ID: Api(
        init_producer_id_request,
        lambda reader, _: kafka.decode_init_producer_id_request(reader),
        init_producer_id_response,
        lambda frame, _: kafka.decode_init_producer_id_response(frame),
    ),
}

# Versions that no oracle has, or that are nobody else's, and where they are tested.
OLD_PRODUCE = "test_kafka_door.py::test_old_produce_versions_are_refused_in_their_own_encoding"
OLD_LIST_OFFSETS = "test_list_offsets.py::test_list_offsets_version_0_is_refused_in_its_own_encoding"
WITHOUT_ORACLE: dict[tuple[int, int], str] = {
    **{(apis.PRODUCE, version): OLD_PRODUCE for version in range(3)},
    (apis.LIST_OFFSETS, 0): OLD_LIST_OFFSETS,
    (apis.DESCRIBE_NODE, 0): "test_kafka_codec.py::test_describe_node",
    (apis.RLOG_PRODUCE, 0): "test_kafka_codec.py::test_rlog_produce",
}
