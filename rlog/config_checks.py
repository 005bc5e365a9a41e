"""What a configuration must not say, and what it may say and hardly means: each message names the setting
and the mend.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from rlog.errors import ConfigurationError
from rlog.log.anchor import ANCHOR_BYTES_MAX

if TYPE_CHECKING:
    from rlog.config import NodeConfig, TopicConfig

KIB = 1024
INT32_MAX = 2**31 - 1
SEGMENT_BYTES_MIN = 512
WILDCARD_HOSTS = {"0.0.0.0", "::"}

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_LOOPBACK = re.compile(r"localhost|127\..*|::1")


def check(config: "NodeConfig") -> None:
    """Raises ConfigurationError when a setting is impossible or contradicts another."""

    def refuse(message: str) -> None:
        raise ConfigurationError(message)

    if not config.cluster_id:
        refuse("cluster_id is empty: give the cluster a name that no other cluster has")
    if not config.data_dir:
        refuse("data_dir is empty: name a directory on a local disk")
    if config.data_dir.startswith("~"):
        refuse(f"data_dir = {config.data_dir!r}: only a shell expands '~', so write the whole path")
    for node_id in (config.node_id, *config.peers):
        if not 1 <= node_id <= INT32_MAX:
            refuse(f"node id {node_id} is out of range: use 1 or above")
    if config.node_id in config.peers:
        refuse(f"peers names node {config.node_id}, which is this node: peers holds the other nodes only")
    _check_addresses(config)
    for name in config.topics:
        check_topic(name, config.topic(name))
    _check_timing(config)
    _check_sizes(config)


def check_topic(name: str, topic: "TopicConfig") -> None:
    """Raises ConfigurationError unless Kafka clients would accept this topic."""
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        raise ConfigurationError(
            f"topic name {name!r}: use 1 to 249 letters, digits, '.', '_' and '-' (and not '.' or '..')"
        )
    if not 1 <= topic.partitions <= 10_000:
        raise ConfigurationError(f"topics.{name}.partitions = {topic.partitions}: use 1 to 10,000")
    for setting in ("retention_ms", "retention_bytes"):
        value = getattr(topic, setting)
        if value < -1 or value == 0:
            raise ConfigurationError(f"topics.{name}.{setting} = {value}: use 1 or more, or -1 for no bound")


def _check_addresses(config: "NodeConfig") -> None:
    own = {name: getattr(config, f"{name}_host") for name in ("listen", "peer", "admin")}
    ports = {name: getattr(config, f"{name}_port") or 0 for name in (*own, "advertised")}
    peers = config.peers.items()
    hosts = {f"{name}_host": host for name, host in own.items()}
    for node_id, peer in peers:
        hosts |= {f"peers.{node_id}.host": peer.host, f"peers.{node_id}.kafka_host": peer.kafka_host}
        for name, port in (("port", peer.port), ("kafka_port", peer.kafka_port)):
            if not 1 <= port < 65536:
                raise ConfigurationError(f"peers.{node_id}.{name} = {port}: a port is a number below 65536")
    for name, port in ports.items():
        if not 0 <= port < 65536:
            raise ConfigurationError(f"{name}_port = {port}: a port is a number below 65536")
    for name, host in hosts.items():
        if not host:
            raise ConfigurationError(f"{name} is empty: name a host or an address")
    _check_distinct({f"{name}_port": (host, ports[name]) for name, host in own.items()})
    _check_distinct({f"peers.{node_id}.port": (peer.host, peer.port) for node_id, peer in peers})
    _check_distinct(
        {f"peers.{node_id}.kafka_port": (peer.kafka_host, peer.kafka_port) for node_id, peer in peers}
    )


def _check_distinct(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Raises ConfigurationError when two of these settings name one address. Port 0 takes a free one."""
    seen: dict[tuple[str, int], str] = {}
    for name, (host, port) in addresses.items():
        other = seen.setdefault((host, port), name) if port else name
        if other != name:
            raise ConfigurationError(f"{other} and {name} are both {port} of {host}: they must differ")


def _check_timing(config: "NodeConfig") -> None:
    low, high = config.election_timeout_min_ms, config.election_timeout_max_ms
    if config.heartbeat_ms < 1:
        raise ConfigurationError(f"heartbeat_ms = {config.heartbeat_ms}: use 1 or more")
    if low < 3 * config.heartbeat_ms:
        raise ConfigurationError(
            f"election_timeout_min_ms = {low} is under three heartbeats of {config.heartbeat_ms} ms: "
            "one late heartbeat would depose the leader; raise it, or lower heartbeat_ms"
        )
    if high <= low:
        raise ConfigurationError(
            f"election_timeout_max_ms = {high} is not above election_timeout_min_ms = {low}: "
            "the nodes would campaign in lock step; use twice the minimum"
        )
    if not 1 <= config.redial_min_ms <= config.redial_max_ms:
        raise ConfigurationError(
            f"redial_min_ms = {config.redial_min_ms} and redial_max_ms = {config.redial_max_ms}: "
            "use 1 or more, and not the first above the second"
        )


def _check_sizes(config: "NodeConfig") -> None:
    for name in (item.name for item in fields(config)):
        is_size = name.endswith(("_bytes_max", "_count_max", "_threads", "_sync_ms", "_stall_ms"))
        if is_size and getattr(config, name) < 1:
            raise ConfigurationError(f"{name} = {getattr(config, name)}: use 1 or more")
    for name in ("batch_bytes_max", "request_bytes_max", "fetch_bytes_max", "peer_frame_bytes_max"):
        if getattr(config, name) > INT32_MAX:
            raise ConfigurationError(
                f"{name} = {getattr(config, name)}: use {INT32_MAX} at most, the largest length of a frame"
            )
    size = config.segment_bytes_max
    if size < SEGMENT_BYTES_MIN or size & (size - 1):
        raise ConfigurationError(
            f"segment_bytes_max = {size}: use a power of two, {SEGMENT_BYTES_MIN} or more, such as 67_108_864"
        )
    # A batch is never split: whatever is taken from a client must fit into every later container.
    for name in ("peer_frame_bytes_max", "peer_write_bytes_max", "queued_bytes_max", "request_bytes_max"):
        if getattr(config, name) < config.batch_bytes_max + 64 * KIB:
            raise ConfigurationError(
                f"{name} = {getattr(config, name)} has no room for a batch of "
                f"batch_bytes_max = {config.batch_bytes_max}: raise the first, or lower the second"
            )
    for name in ("peer_frame_bytes_max", "peer_write_bytes_max"):
        if getattr(config, name) < ANCHOR_BYTES_MAX + 64 * KIB:
            raise ConfigurationError(
                f"{name} = {getattr(config, name)} has no room for what stands for deleted records, up to "
                f"{ANCHOR_BYTES_MAX} bytes: use {ANCHOR_BYTES_MAX + 64 * KIB} or more"
            )
    if config.append_bytes_max > config.peer_frame_bytes_max - 64 * KIB:
        raise ConfigurationError(
            f"append_bytes_max = {config.append_bytes_max} does not fit into peer_frame_bytes_max = "
            f"{config.peer_frame_bytes_max}: lower the first, or raise the second"
        )


def warnings_of(config: "NodeConfig") -> list[str]:
    """What is possible, and hardly meant: the setting, the consequence, the mend."""
    found = []
    count = len(config.voters)
    if count % 2 == 0:
        found.append(
            f"peers: {count} nodes vote, of which {count // 2 + 1} must be up: they survive no more failures "
            f"than {count - 1} would; add a node"
        )
    if not config.topics:
        found.append(
            "topics: none is declared, so no record can be written, and no client can create one: declare "
            "each topic at every node, under [topics], with --topic or in RLOG_TOPICS, and start them anew"
        )
    for name in sorted(config.topics):
        found += _warnings_of_topic(config, name, config.topic(name))
    return found + _warnings_of_addresses(config)


def _warnings_of_topic(config: "NodeConfig", name: str, topic: "TopicConfig") -> list[str]:
    found = []
    if topic.acks_floor == "leader":
        found.append(
            f"topics.{name}.acks_floor = 'leader': records sent with acks=1 are acknowledged by one disk and "
            "can be lost with it; 'majority' keeps them"
        )
    if 0 < topic.retention_bytes < config.segment_bytes_max:
        found.append(
            f"topics.{name}.retention_bytes = {topic.retention_bytes} is below segment_bytes_max = "
            f"{config.segment_bytes_max}, and room is freed by whole segments: lower segment_bytes_max too"
        )
    if name in {item.name for item in fields(config)}:
        found.append(
            f"topics.{name} is a topic of the name of a setting; if the setting is meant, write it above the "
            "first [table]"
        )
    return found


def _warnings_of_addresses(config: "NodeConfig") -> list[str]:
    found = []
    if config.listen_host in WILDCARD_HOSTS and not config.advertised_host:
        found.append(
            f"listen_host = {config.listen_host!r} is no address that clients elsewhere can connect to, and "
            "they are told to: set advertised_host"
        )
    pairs = {
        "peer_host": "host",
        "advertised_host" if config.advertised_host else "listen_host": "kafka_host",
    }
    for here, there in pairs.items():
        mine = getattr(config, here)
        elsewhere = (
            f"peers.{node_id}.{there} = {getattr(peer, there)!r}"
            for node_id, peer in config.peers.items()
            if _LOOPBACK.fullmatch(mine) and not _LOOPBACK.fullmatch(getattr(peer, there))
        )
        if first := next(elsewhere, None):
            found.append(
                f"{here} = {mine!r} is heard on this machine only, but {first} is elsewhere: "
                f"set {here} to an address of this machine"
            )
    return found
