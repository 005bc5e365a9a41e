"""The async client: `connect` to a cluster, produce, consume, ask. It speaks the Kafka protocol.

entering       cluster.py          what a user enters          settings.py      what a client is told
               home.py             its one loop and process    tasks.py         its background tasks
the way        router.py           who leads, and how there    metadata.py      what is known of the cluster
               connection.py       one TCP connection          pool.py          all of them
               retry.py            pauses between attempts     errors.py        what goes wrong
producing      producer.py         admission, memory           partition_queue.py  order and retries
               batch.py            until its fate is known     produce.py       how it travels
               producer_id.py      for telling repeats apart   receipts.py      what a producer gives back
consuming      consumer.py         reading, prefetch           fetcher.py       the long poll to one node
               cursor.py           where it stands             positions.py     places as a caller names them
both           options.py          what they are told
asking         offsets.py          starts, ends, moments       deletion.py      beginnings of partitions go
"""

from rlog.client.cluster import Cluster, connect
from rlog.client.consumer import Consumer
from rlog.client.cursor import PartitionState
from rlog.client.deletion import Below
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
from rlog.wire.kafka.describe_node import FollowerDescription, NodeDescription, ReplicaDescription

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
