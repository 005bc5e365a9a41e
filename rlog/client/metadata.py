"""Who leads what, as far as this client has heard.

Answers come from any node, and a node cut off from the others may be behind. So per partition only news of
the same or a later generation is taken: an old leader's opinion never replaces a newer one. Generation -1 (a
broker that does not tell) is always taken.
"""

from dataclasses import dataclass, field
from types import MappingProxyType

from rlog.client.errors import LeaderUnavailable, UnknownPartition, UnknownTopic, WrongCluster
from rlog.client.settings import Address
from rlog.wire.kafka import codes
from rlog.wire.kafka.messages import MetadataResponse, TopicMetadata

NO_NODE = -1


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it advertises itself."""

    node_id: int
    host: str
    port: int

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)

    def __str__(self) -> str:
        return f"node {self.node_id} at {self.address}"


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """leader: a node id, None when no leader is known. generation: -1 when the node did not tell."""

    topic: str
    partition: int
    leader: int | None
    generation: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClusterMetadata:
    """One node's view of the cluster at one moment."""

    cluster_id: str | None
    nodes: MappingProxyType[int, Node]
    topics: MappingProxyType[str, tuple[PartitionInfo, ...]]


def view_of(answer: MetadataResponse) -> ClusterMetadata:
    nodes = {broker.node_id: Node(*broker) for broker in answer.brokers}
    topics = {topic.name: _partitions_of(topic) for topic in answer.topics if topic.error == codes.NONE}
    return ClusterMetadata(answer.cluster_id, MappingProxyType(nodes), MappingProxyType(topics))


def _partitions_of(topic: TopicMetadata) -> tuple[PartitionInfo, ...]:
    return tuple(
        PartitionInfo(
            topic.name,
            partition.partition,
            partition.leader if partition.leader != NO_NODE else None,
            partition.generation,
            tuple(partition.replicas),
            tuple(partition.in_sync),
        )
        for partition in sorted(topic.partitions, key=lambda partition: partition.partition)
    )


@dataclass(slots=True)
class _Entry:
    """is_stale: the leader it names refused or was lost; it is not used before newer news came."""

    info: PartitionInfo
    is_stale: bool = False


@dataclass(slots=True)
class MetadataCache:
    """What is known, for the topics that somebody asked about."""

    cluster_id: str | None = None
    nodes: dict[int, Node] = field(default_factory=dict)
    # Topics asked about, in order; the value says how often in a row nodes did not know the topic.
    topics: dict[str, int] = field(default_factory=dict)
    _entries: dict[str, dict[int, _Entry]] = field(default_factory=dict)

    def want(self, topic: str) -> None:
        self.topics.setdefault(topic, 0)

    def take(self, answer: MetadataResponse) -> None:
        """Merge a node's answer. Raises WrongCluster when it comes from somewhere else."""
        self.check_cluster(answer.cluster_id)
        self.cluster_id = answer.cluster_id
        self.nodes.update((broker.node_id, Node(*broker)) for broker in answer.brokers)
        for topic in answer.topics:
            if topic.error == codes.UNKNOWN_TOPIC_OR_PARTITION:
                self.topics[topic.name] = self.topics.get(topic.name, 0) + 1
            elif topic.error == codes.NONE:
                self.topics[topic.name] = 0
                self._take_topic(topic)

    def check_cluster(self, cluster_id: str | None) -> None:
        """Raises WrongCluster for another id than the one that was met first; before that, any will do."""
        if self.cluster_id is not None and cluster_id != self.cluster_id:
            raise WrongCluster(
                f"a node of cluster {cluster_id!r} answered, this client is connected to "
                f"{self.cluster_id!r}: check the bootstrap and advertised addresses"
            )

    def _take_topic(self, topic: TopicMetadata) -> None:
        entries = self._entries.setdefault(topic.name, {})
        for info in _partitions_of(topic):
            known = entries.get(info.partition)
            if known is None or info.generation == -1 or info.generation > known.info.generation:
                entries[info.partition] = _Entry(info)
            elif info.generation == known.info.generation:
                # One leader per generation: a node that does not know it yet, or lost it, takes nothing away.
                entries[info.partition] = _Entry(info if info.leader is not None else known.info)

    def knows(self, topic: str) -> bool:
        return topic in self._entries

    def is_unknown(self, topic: str, times: int) -> bool:
        """`times` answers in a row said that there is no such topic."""
        return self.topics.get(topic, 0) >= times

    def partition_count(self, topic: str) -> int:
        """Raises UnknownTopic when nothing is known of it."""
        entries = self._entries.get(topic)
        if not entries:
            raise UnknownTopic(topic)
        return len(entries)

    def check_partition(self, topic: str, partition: int) -> None:
        """Raises UnknownPartition or UnknownTopic."""
        count = self.partition_count(topic)
        if not 0 <= partition < count:
            raise UnknownPartition(topic, partition, count)

    def leader(self, topic: str, partition: int) -> tuple[Node, int]:
        """The node to ask and its generation. Raises LeaderUnavailable when none is known or it is stale."""
        entry = self._entries.get(topic, {}).get(partition)
        if entry is not None and not entry.is_stale and entry.info.leader is not None:
            node = self.nodes.get(entry.info.leader)
            if node is not None:
                return node, entry.info.generation
        raise LeaderUnavailable(
            f"no leader of {topic}-{partition} is known", topic=topic, partition=partition
        )

    def doubt(self, topic: str, partition: int) -> None:
        """The named leader refused or was lost: ask again before it is used."""
        entry = self._entries.get(topic, {}).get(partition)
        if entry is not None:
            entry.is_stale = True

    def has_moved(self, topic: str, partition: int, address: Address) -> bool:
        """A leader at another address than this one is known."""
        entry = self._entries.get(topic, {}).get(partition)
        node = None if entry is None or entry.info.leader is None else self.nodes.get(entry.info.leader)
        return node is not None and node.address != address
