"""Requests about the cluster rather than about records: who is there, who leads, what is spoken."""

import logging
from collections.abc import Mapping

from rlog.node.kafka_connection import Request
from rlog.node.serving import ServedNode, ServedPartition
from rlog.observe.events import emit
from rlog.wire.kafka import (
    Reader,
    apis,
    codes,
    decode_api_versions_request,
    decode_describe_node_request,
    decode_find_coordinator_request,
    decode_init_producer_id_request,
    decode_join_group_request,
    decode_metadata_request,
    encode_api_versions_response,
    encode_describe_node_response,
    encode_find_coordinator_response,
    encode_init_producer_id_response,
    encode_join_group_refusal,
    encode_metadata_response,
)
from rlog.wire.kafka.messages import (
    Broker,
    FindCoordinatorResponse,
    InitProducerIdResponse,
    MetadataResponse,
    PartitionMetadata,
    TopicMetadata,
)

log = logging.getLogger("rlog.node")

PRODUCER_ID_BITS = 63
# Of FindCoordinator's key types.
GROUP = 0
GROUP_SHOWN_MAX = 100
NO_GROUPS = "there are no groups here: assign the partitions to read instead of subscribing"
NO_TRANSACTIONS = "there are no transactions here: use an idempotent producer without a transactional id"


def handle_api_versions(request: Request, reader: Reader) -> None:
    """A version that is not known here is answered in version 0 with error 35 (KIP-511)."""
    version, error = request.version, codes.NONE
    low, high = apis.RANGES[apis.API_VERSIONS]
    if low <= version <= high:
        decode_api_versions_request(reader, version)
    else:
        version, error = 0, codes.UNSUPPORTED_VERSION
    request.answer(
        encode_api_versions_response(request.correlation_id, version, apis.ADVERTISED, error=error)
    )


def handle_metadata(request: Request, reader: Reader) -> None:
    """All configured nodes, up or down: node ids and addresses never change under a client's feet."""
    asked = decode_metadata_request(reader, request.version)
    node = request.node
    names = sorted(node.config.topics) if asked.topics is None else asked.topics
    response = MetadataResponse(
        brokers=_brokers(node, request.connection.server.kafka_address),
        cluster_id=node.config.cluster_id,
        controller_id=node.config.node_id,  # where to send cluster requests: any node, so this one
        topics=[_topic(node, name) for name in names],
    )
    request.answer(encode_metadata_response(request.correlation_id, request.version, response))


def _brokers(node: ServedNode, own_address: tuple[str, int]) -> list[Broker]:
    config = node.config
    brokers = [Broker(node_id, peer.kafka_host, peer.kafka_port) for node_id, peer in config.peers.items()]
    brokers.append(Broker(config.node_id, *own_address))
    return sorted(brokers)


def _topic(node: ServedNode, name: str) -> TopicMetadata:
    if name not in node.config.topics:
        return TopicMetadata(codes.UNKNOWN_TOPIC_OR_PARTITION, name, [])
    count = node.config.topic(name).partitions
    return TopicMetadata(
        codes.NONE, name, [_partition(index, node.partitions[name, index]) for index in range(count)]
    )


def _partition(index: int, partition: ServedPartition) -> PartitionMetadata:
    leader = partition.leader_id or -1
    return PartitionMetadata(
        error=codes.LEADER_NOT_AVAILABLE if leader == -1 else codes.NONE,
        partition=index,
        leader=leader,
        generation=partition.generation,
        replicas=sorted(partition.voters),
        in_sync=sorted(partition.in_sync()),
    )


def handle_init_producer_id(request: Request, reader: Reader) -> None:
    """A random 63-bit number: it needs no coordinator, and two are equal once in 2^63 pairs."""
    asked = decode_init_producer_id_request(reader)
    response = InitProducerIdResponse(codes.UNSUPPORTED_VERSION)
    if asked.transactional_id is None:
        producer_id = request.node.env.random.getrandbits(PRODUCER_ID_BITS)
        response = InitProducerIdResponse(codes.NONE, producer_id, 0)
    request.answer(encode_init_producer_id_response(request.correlation_id, response))


def handle_find_coordinator(request: Request, reader: Reader) -> None:
    """This node, for a group: librdkafka makes every consumer name one, and is content with that. Whoever
    would join it is refused then. There is no coordinator of transactions."""
    asked = decode_find_coordinator_request(reader, request.version)
    if asked.key_type == GROUP:
        host, port = request.connection.server.kafka_address
        response = FindCoordinatorResponse(codes.NONE, None, request.node.config.node_id, host, port)
    else:
        response = FindCoordinatorResponse(codes.UNSUPPORTED_VERSION, NO_TRANSACTIONS)
    request.answer(encode_find_coordinator_response(request.correlation_id, request.version, response))


def handle_join_group(request: Request, reader: Reader) -> None:
    group = decode_join_group_request(reader)
    emit(
        log,
        logging.WARNING,
        "group_refused",
        node=request.node.config.node_id,
        address=request.connection.peer,
        group=group[:GROUP_SHOWN_MAX],
        reason=NO_GROUPS,
    )
    request.answer(encode_join_group_refusal(request.correlation_id, codes.UNSUPPORTED_VERSION))


def handle_describe_node(request: Request, reader: Reader, counts: Mapping[tuple[int, int], int]) -> None:
    """What the node says of itself, and which requests in which versions its clients have sent."""
    decode_describe_node_request(reader)
    description = request.node.describe()
    description["requests"] = {
        f"{apis.NAMES[api_key]} {version}": count for (api_key, version), count in sorted(counts.items())
    }
    request.answer(encode_describe_node_response(request.correlation_id, description))
