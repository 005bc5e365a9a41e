"""The async client: `connect` to a cluster, produce, consume, ask. It speaks the Kafka protocol.

connection.py  one TCP connection           router.py          who leads, and the way there
cluster.py     what a user enters           metadata.py        what is known of the cluster
producer.py    admission, memory            partition_queue.py order and retries of one partition
consumer.py    reading, prefetch            fetcher.py         the long poll to one node
"""

from rlog.client.cluster import Cluster, connect
from rlog.client.consumer import Consumer
from rlog.client.cursor import PartitionState
from rlog.client.deletion import Below
from rlog.client.descriptions import FollowerDescription, NodeDescription, ReplicaDescription
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
    WrongLoop,
)
from rlog.client.metadata import ClusterMetadata, Node, PartitionInfo
from rlog.client.options import Acks
from rlog.client.positions import OffsetRange, OutOfRangePolicy, Start
from rlog.client.producer import Producer
from rlog.client.receipts import Ack, ListAck
from rlog.errors import ForkedProcess
from rlog.moments import At, Time
from rlog.records import Compression, ListReceipt, Receipt, Record

__all__ = [
    "Ack",
    "Acks",
    "At",
    "Below",
    "ClientClosed",
    "ClientError",
    "Cluster",
    "ClusterMetadata",
    "Compression",
    "ConnectionLost",
    "Consumer",
    "DeadlineExceeded",
    "DeliveryFailed",
    "FollowerDescription",
    "ForkedProcess",
    "LeaderUnavailable",
    "ListAck",
    "ListReceipt",
    "MessageTooLarge",
    "Node",
    "NodeDescription",
    "NotConnected",
    "OffsetOutOfRange",
    "OffsetRange",
    "OutOfOrderSequence",
    "OutOfRangePolicy",
    "PartitionInfo",
    "PartitionState",
    "Producer",
    "Receipt",
    "Record",
    "ReplicaDescription",
    "RequestRefused",
    "Start",
    "Time",
    "UnknownPartition",
    "UnknownTopic",
    "UnsupportedNode",
    "WrongCluster",
    "WrongLoop",
    "connect",
]
