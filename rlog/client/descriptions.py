"""What an rlog node says of itself; a newer node may say more than is named here."""

from typing import TypedDict


class FollowerDescription(TypedDict, total=False):
    """Offsets up to which a follower has the leader's log, and has flushed it; lag in records."""

    match: int
    flushed: int
    lag: int


class ReplicaDescription(TypedDict, total=False):
    """One node's replica of one partition.

    leader: -1 when none is known. followers: by node id, said by leaders only. damage, failed: why the
    replica is out of service, None when it is not.
    """

    topic: str
    partition: int
    role: str
    leader: int
    generation: int
    start_offset: int
    hwm: int
    end_offset: int
    flushed_offset: int
    followers: dict[str, FollowerDescription]
    suspect: bool
    damage: str | None
    failed: str | None


class NodeDescription(TypedDict, total=False):
    """requests: how many of each kind and version its clients have sent, as in ``{"Fetch 11": 3}``."""

    node_id: int
    cluster_id: str
    incarnation: int
    uuid: str
    version: str
    partitions: list[ReplicaDescription]
    requests: dict[str, int]
