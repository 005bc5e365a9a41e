"""The configuration of a node: one frozen dataclass, checked once, with errors that name the mend.

`load_config` builds it from, in rising order of precedence: the defaults below, a TOML file, environment
variables (`RLOG_NODE_ID=1`; tables as JSON: `RLOG_TOPICS='{"orders": 3}'`), and keyword overrides.

```toml
cluster_id = "shop"
node_id = 1
data_dir = "data-1"
listen_port = 9092          # Kafka clients
peer_port = 9192            # other nodes

[topics]
orders = 3                  # partitions

[topics.clicks]             # or a table, where more than their number is to be said
partitions = 6
retention_ms = 604_800_000

[peers.2]                   # every other node
host = "192.0.2.2"
port = 9192
kafka_host = "192.0.2.2"
kafka_port = 9092
```
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from rlog.errors import ConfigurationError

ENVIRONMENT_PREFIX = "RLOG_"
KIB = 1024
MIB = 1024 * KIB

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where another node listens: host and port for nodes, kafka_host and kafka_port as told to clients."""

    host: str
    port: int
    kafka_host: str
    kafka_port: int


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """Settings of one topic. Where the table of a topic is a number, it is `partitions`."""

    partitions: int
    retention_ms: int = -1
    """Records older than this, by their timestamps, are deleted; -1 keeps them for ever."""
    retention_bytes: int = -1
    """Per partition: the oldest records above this size are deleted; -1 sets no bound."""
    timestamp_type: Literal["create", "append"] = "create"
    """Whose clock stamps a record: the producer's (CreateTime) or the leader's (LogAppendTime)."""
    acks_floor: Literal["majority", "leader"] = "majority"
    """What acks=1 waits for: a flushed majority, as acks=all, or the leader's own disk alone, which loses
    acknowledged records with that disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Settings of one node. Raises ConfigurationError when one is impossible or contradicts another."""

    cluster_id: str
    """The same on all nodes of a cluster, and on no node of another one."""
    node_id: int
    """1 or above; unique in the cluster; never given to another data directory."""
    data_dir: str
    listen_host: str = "127.0.0.1"
    listen_port: int = 9092
    """Kafka clients connect here."""
    advertised_host: str = ""
    """What clients are told to connect to; listen_host when empty."""
    advertised_port: int = 0
    """listen_port when 0."""
    peer_host: str = "127.0.0.1"
    peer_port: int = 9192
    """Other nodes connect here."""
    peers: Mapping[int, PeerAddress] = field(default_factory=dict)
    """Every other node of the cluster."""
    topics: Mapping[str, TopicConfig | int] = field(default_factory=dict)
    """Topic name to its settings, or to its number of partitions alone; the same on all nodes."""
    admin_host: str = "127.0.0.1"
    admin_port: int | None = None
    """HTTP: /metrics, /healthz, /ready, /status. None opens no such port; 0 takes a free one."""

    heartbeat_ms: int = 100
    election_timeout_min_ms: int = 500
    election_timeout_max_ms: int = 1000
    """A follower that hears no leader campaigns after a random time between the two."""
    append_bytes_max: int = 1 * MIB
    inflight_bytes_max: int = 16 * MIB
    """Per partition and follower: sent and not yet answered."""
    inflight_count_max: int = 64
    peer_write_bytes_max: int = 32 * MIB
    """Per peer: above this much unsent, records are not sent to it until it drains; it catches up later."""
    peer_frame_bytes_max: int = 16 * MIB
    redial_min_ms: int = 20
    redial_max_ms: int = 500

    batch_bytes_max: int = 1_048_588
    """The largest record batch taken from a client (Kafka's max.message.bytes)."""
    request_bytes_max: int = 100 * MIB
    fetch_bytes_max: int = 55 * MIB
    connection_inflight_bytes_max: int = 16 * MIB
    """Per client connection: requests read and not yet answered; above it the connection is not read."""
    connection_inflight_count_max: int = 1024
    """Per client connection: requests started and not yet answered; above it the connection is not read."""
    connection_count_max: int = 10_000
    """Client connections; further ones are closed as they come."""
    clients_inflight_bytes_max: int = 128 * MIB
    """Requests of all client connections together, read and not yet answered."""
    client_stall_ms: int = 60_000
    """A client that takes no byte of its answers, or none of a half-sent request, is cut off after this."""
    queued_bytes_max: int = 64 * MIB
    """Per partition: appended and not yet flushed; above it producers are told to retry."""

    segment_bytes_max: int = 64 * MIB
    tail_bytes_max: int = 8 * MIB
    """Per partition: recent records kept in memory, so that reads of them touch no disk."""
    disk_threads: int = 2
    watermark_sync_ms: int = 1000

    def __post_init__(self) -> None:
        _check(self)

    def topic(self, name: str) -> TopicConfig:
        """Raises KeyError for a topic that is not configured."""
        topic = self.topics[name]
        return topic if isinstance(topic, TopicConfig) else TopicConfig(topic)

    @property
    def partition_counts(self) -> dict[str, int]:
        """Topic name to number of partitions, by name."""
        return {name: self.topic(name).partitions for name in sorted(self.topics)}

    @property
    def voters(self) -> frozenset[int]:
        return frozenset((self.node_id, *self.peers))

    @property
    def partitions(self) -> list[tuple[str, int]]:
        """(topic, index) of every partition, in the order all nodes agree upon."""
        return [(topic, index) for topic, count in self.partition_counts.items() for index in range(count)]

    @property
    def kafka_address(self) -> tuple[str, int]:
        """What clients are told to connect to."""
        return self.advertised_host or self.listen_host, self.advertised_port or self.listen_port


def _check(config: NodeConfig) -> None:
    def refuse(message: str) -> None:
        raise ConfigurationError(message)

    if not config.cluster_id:
        refuse("cluster_id is empty: give the cluster a name that no other cluster has")
    if not config.data_dir:
        refuse("data_dir is empty: name a directory on a local disk")
    for node_id in (config.node_id, *config.peers):
        if not 1 <= node_id < 2**31:
            refuse(f"node id {node_id} is out of range: use 1 or above")
    if config.node_id in config.peers:
        refuse(f"peers names node {config.node_id}, which is this node: peers holds the other nodes only")
    _check_ports(config)
    for name in config.topics:
        check_topic(name, config.topic(name))
    _check_timing(config)
    _check_sizes(config)


def check_topic(name: str, topic: TopicConfig) -> None:
    """Raises ConfigurationError unless Kafka clients would accept this topic."""
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        raise ConfigurationError(
            f"topic name {name!r}: use 1 to 249 letters, digits, '.', '_' and '-' (and not '.' or '..')"
        )
    if not 1 <= topic.partitions <= 10_000:
        raise ConfigurationError(f"topic {name}: {topic.partitions} partitions; use 1 to 10,000")
    for setting in ("retention_ms", "retention_bytes"):
        if getattr(topic, setting) < -1 or getattr(topic, setting) == 0:
            raise ConfigurationError(
                f"topic {name}: {setting} = {getattr(topic, setting)}; use 1 or more, or -1 for no bound"
            )


def _check_ports(config: NodeConfig) -> None:
    ports = {
        "listen_port": config.listen_port,
        "advertised_port": config.advertised_port,
        "peer_port": config.peer_port,
        "admin_port": config.admin_port or 0,
    }
    for node_id, peer in config.peers.items():
        ports[f"peers.{node_id}.port"] = peer.port
        ports[f"peers.{node_id}.kafka_port"] = peer.kafka_port
    for name, port in ports.items():
        if not 0 <= port < 65536:
            raise ConfigurationError(f"{name} = {port}: a port is a number below 65536")
    if config.listen_port and (config.listen_host, config.listen_port) == (
        config.peer_host,
        config.peer_port,
    ):
        raise ConfigurationError(f"listen_port and peer_port are both {config.peer_port}: they must differ")


def _check_timing(config: NodeConfig) -> None:
    low, high = config.election_timeout_min_ms, config.election_timeout_max_ms
    if config.heartbeat_ms < 1:
        raise ConfigurationError(f"heartbeat_ms = {config.heartbeat_ms}: use 1 or more")
    if low < 3 * config.heartbeat_ms:
        raise ConfigurationError(
            f"election_timeout_min_ms = {low} is under three heartbeats of {config.heartbeat_ms} ms: "
            "one late heartbeat would depose the leader"
        )
    if high <= low:
        raise ConfigurationError(
            f"election_timeout_max_ms = {high} is not above election_timeout_min_ms = {low}: "
            "the nodes would campaign in lock step"
        )
    if not 1 <= config.redial_min_ms <= config.redial_max_ms:
        raise ConfigurationError(
            f"redial_min_ms = {config.redial_min_ms} and redial_max_ms = {config.redial_max_ms}: "
            "use 1 or more, and not the first above the second"
        )


def _check_sizes(config: NodeConfig) -> None:
    for name in (item.name for item in fields(config)):
        is_size = name.endswith(("_bytes_max", "_count_max", "_threads", "_sync_ms", "_stall_ms"))
        if is_size and getattr(config, name) < 1:
            raise ConfigurationError(f"{name} = {getattr(config, name)}: use 1 or more")
    # A batch is never split: whatever is taken from a client must fit into every later container.
    for name in ("peer_frame_bytes_max", "peer_write_bytes_max", "queued_bytes_max", "request_bytes_max"):
        if getattr(config, name) < config.batch_bytes_max + 64 * KIB:
            raise ConfigurationError(
                f"{name} = {getattr(config, name)} has no room for a batch "
                f"of batch_bytes_max = {config.batch_bytes_max}"
            )
    if config.append_bytes_max > config.peer_frame_bytes_max - 64 * KIB:
        raise ConfigurationError(
            f"append_bytes_max = {config.append_bytes_max} does not fit into "
            f"peer_frame_bytes_max = {config.peer_frame_bytes_max}"
        )


def parse_topic(text: str) -> tuple[str, int]:
    """("orders", 3) from "orders:3", as the command line takes it. Raises ConfigurationError."""
    name, colon, count = text.rpartition(":")
    if not colon or not count.isascii() or not count.isdigit():
        raise ConfigurationError(f"topic {text!r}: write NAME:PARTITIONS, for example orders:3")
    check_topic(name, TopicConfig(int(count)))
    return name, int(count)


def load_config(
    path: str | Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    **overrides: Any,
) -> NodeConfig:
    """A node's configuration from a TOML file, `RLOG_*` variables and overrides (those that are not None).

    environment: os.environ when None. Raises ConfigurationError, with the nearest key for an unknown one.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values.update(_from_file(Path(path)))
    values.update(_from_environment(os.environ if environment is None else environment))
    values.update({name: value for name, value in overrides.items() if value is not None})
    _check_keys(values, origin="the overrides")
    missing = [item.name for item in fields(NodeConfig) if _is_required(item) and item.name not in values]
    if missing:
        raise ConfigurationError(f"missing setting: {', '.join(missing)}")
    return _validated(values)


def _is_required(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _from_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is not a TOML file: {error}") from error
    _check_keys(values, origin=str(path))
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    known = [item.name for item in fields(NodeConfig)]
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name in known:
            values[name] = text
        elif near := get_close_matches(name, known, n=1, cutoff=0.8):
            # Other RLOG_ variables (of tests, of builds) are not ours; a near miss is a misspelt setting.
            raise ConfigurationError(
                f"unknown environment variable {variable}; "
                f"did you mean {ENVIRONMENT_PREFIX}{near[0].upper()}?"
            )
    return values


def _check_keys(values: Iterable[str], *, origin: str) -> None:
    known = [item.name for item in fields(NodeConfig)]
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigurationError(f"unknown setting {name!r} in {origin}{hint}")


def _validated(values: dict[str, Any]) -> NodeConfig:
    """Convert to the declared types. pydantic is imported here only: it is not needed to run a node."""
    from pydantic import Json, TypeAdapter, ValidationError

    try:
        for name in ("peers", "topics"):
            if isinstance(values.get(name), str):
                values[name] = TypeAdapter(Json[Any]).validate_python(values[name])
        peers = values.get("peers")
        if isinstance(peers, Mapping):
            # One file may serve all nodes: the entry of this very node is not a peer.
            values["peers"] = {key: peer for key, peer in peers.items() if str(key) != str(values["node_id"])}
        return TypeAdapter(NodeConfig).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "configuration"
        raise ConfigurationError(f"{where}: {first['msg']} (got {first['input']!r})") from error
