"""The async client: `connect` to a cluster, produce, consume, ask. It speaks the Kafka protocol.

connection.py  one TCP connection           router.py          who leads, and the way there
cluster.py     what a user enters           metadata.py        what is known of the cluster
producer.py    admission, memory            partition_queue.py order and retries of one partition
consumer.py    reading, prefetch            fetcher.py         the long poll to one node
"""

from rlog.client.cluster import Cluster, connect
from rlog.client.consumer import Consumer
from rlog.client.cursor import PartitionState
from rlog.client.errors import (
    ClientClosed,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    DeliveryFailed,
    LeaderUnavailable,
    MessageTooLarge,
    NotConnected,
    OffsetOutOfRange,
    OutOfOrderSequence,
    RequestRefused,
    UnknownPartition,
    UnknownTopic,
    UnsupportedNode,
    WrongCluster,
)
from rlog.client.metadata import ClusterMetadata, Node, PartitionInfo
from rlog.client.producer import Producer
from rlog.client.receipts import Ack, ListAck, ListReceipt
from rlog.records import Receipt, Record

__all__ = [
    "Ack",
    "ClientClosed",
    "ClientError",
    "Cluster",
    "ClusterMetadata",
    "ConnectionLost",
    "Consumer",
    "DeadlineExceeded",
    "DeliveryFailed",
    "LeaderUnavailable",
    "ListAck",
    "ListReceipt",
    "MessageTooLarge",
    "Node",
    "NotConnected",
    "OffsetOutOfRange",
    "OutOfOrderSequence",
    "PartitionInfo",
    "PartitionState",
    "Producer",
    "Receipt",
    "Record",
    "RequestRefused",
    "UnknownPartition",
    "UnknownTopic",
    "UnsupportedNode",
    "WrongCluster",
    "connect",
]
