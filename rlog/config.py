"""The configuration of a node: one frozen dataclass, checked once, with errors that name the mend.

`load_config` builds it from, in rising order of precedence: the defaults below, a TOML file, environment
variables (`RLOG_NODE_ID=1`; tables as JSON: `RLOG_TOPICS='{"orders": 3}'`), and keyword overrides.

```toml
cluster_id = "shop"
node_id = 1
data_dir = "data-1"
listen_host = "192.0.2.1"   # Kafka clients
listen_port = 9092
peer_host = "192.0.2.1"     # other nodes
peer_port = 9192

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

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from rlog.config_checks import check, check_topic, warnings_of
from rlog.errors import ConfigurationError

ENVIRONMENT_PREFIX = "RLOG_"
KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where another node listens: host and port for nodes, kafka_host and kafka_port as told to clients."""

    host: str
    """Where this node dials the other one."""
    port: int
    """The other node's `peer_port`."""
    kafka_host: str
    """Where clients are told to find the other node: its `advertised_host`."""
    kafka_port: int
    """The other node's `advertised_port`."""


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """Settings of one topic. Where the table of a topic is a number, it is `partitions`."""

    partitions: int
    """How many logs the topic has; a record's key chooses among them."""
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
    """Where this node stores, on a local disk; its own, and made at the first start."""
    listen_host: str = "127.0.0.1"
    """The address on which Kafka clients are listened for; "0.0.0.0" means all of this machine."""
    listen_port: int = 9092
    """Kafka clients connect here; 0 takes a free port."""
    advertised_host: str = ""
    """What clients are told to connect to; listen_host when empty."""
    advertised_port: int = 0
    """listen_port when 0."""
    peer_host: str = "127.0.0.1"
    """The address on which other nodes are listened for. There is no encryption: keep it private."""
    peer_port: int = 9192
    """Other nodes connect here."""
    peers: Mapping[int, PeerAddress] = field(default_factory=dict)
    """Every other node of the cluster."""
    topics: Mapping[str, TopicConfig | int] = field(default_factory=dict)
    """Topic name to its settings, or to its number of partitions alone; the same on all nodes."""
    admin_host: str = "127.0.0.1"
    """The address of the admin port. It asks nobody who they are: keep it private."""
    admin_port: int | None = None
    """HTTP: /metrics, /healthz, /ready, /status. None opens no such port; 0 takes a free one."""

    heartbeat_ms: int = 100
    """How often a leader says that it lives. The same on all nodes."""
    election_timeout_min_ms: int = 500
    """A follower that hears no leader campaigns after a random time between this, three heartbeats or more,
    and election_timeout_max_ms. A leader that no majority answers for so long steps down."""
    election_timeout_max_ms: int = 1000
    """See election_timeout_min_ms; about twice that, so that followers do not campaign in lock step."""
    append_bytes_max: int = 1 * MIB
    """What one message to a follower that catches up carries; one batch in any case."""
    inflight_bytes_max: int = 16 * MIB
    """Per partition and follower: sent and not yet answered."""
    inflight_count_max: int = 64
    """Per partition and follower: messages with records, sent and not yet answered."""
    peer_write_bytes_max: int = 32 * MIB
    """Per peer: above this much unsent, records are not sent to it until it drains; it catches up later."""
    peer_frame_bytes_max: int = 16 * MIB
    """The largest frame between nodes; a larger one ends the connection. The same on all nodes."""
    redial_min_ms: int = 20
    """The first pause after another node could not be reached; each further one is twice as long."""
    redial_max_ms: int = 500
    """The longest pause between two tries to reach another node."""

    batch_bytes_max: int = 1_048_588
    """The largest record batch taken from a client (Kafka's max.message.bytes)."""
    request_bytes_max: int = 100 * MIB
    """The largest request of a client; a larger one closes its connection."""
    fetch_bytes_max: int = 55 * MIB
    """The most record bytes in one answer to a consumer, whatever it asks for; one batch in any case. Of each
    partition at most 4 MiB of them come from disk."""
    connection_inflight_bytes_max: int = 16 * MIB
    """Per client connection: requests read and not yet answered; above it the connection is not read."""
    connection_inflight_count_max: int = 1024
    """Per client connection: requests started and not yet answered; above it the connection is not read."""
    connection_count_max: int = 10_000
    """Client connections; further ones are closed as they come. Fewer where the process may not open so many
    files."""
    clients_inflight_bytes_max: int = 128 * MIB
    """Requests of all client connections together, read and not yet answered."""
    client_stall_ms: int = 60_000
    """A client that takes nothing of its answers, or does not complete a request, is cut off after this."""
    queued_bytes_max: int = 64 * MIB
    """Per partition: appended and not yet flushed; above it producers are told to retry."""

    segment_bytes_max: int = 64 * MIB
    """The length of a log's files, a power of two; a new log begins with 1 MiB and doubles."""
    tail_bytes_max: int = 8 * MIB
    """Per partition: recent records kept in memory, so that reads of them touch no disk."""
    disk_threads: int = 2
    """Threads that write and flush; so many partitions' files are flushed at the same moment."""
    watermark_sync_ms: int = 1000
    """How often it is made durable how far each log is flushed; what recovery has to check anew after a power
    cut grows with it."""
    retention_check_ms: int = 10_000
    """How often a leader deletes what its topics' retention settings let go."""

    def __post_init__(self) -> None:
        check(self)

    def topic(self, name: str) -> TopicConfig:
        """Raises KeyError for a topic that is not configured."""
        topic = self.topics[name]
        return topic if isinstance(topic, TopicConfig) else TopicConfig(topic)

    @property
    def partition_counts(self) -> dict[str, int]:
        """Topic name to number of partitions, by name."""
        return {name: self.topic(name).partitions for name in sorted(self.topics)}

    def warnings(self) -> list[str]:
        """What is possible, and hardly meant: each names the setting, the consequence and the mend."""
        return warnings_of(self)

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


def parse_topic(text: str) -> tuple[str, int]:
    """("orders", 3) from "orders:3", as the command line takes it. Raises ConfigurationError."""
    name, colon, count = text.rpartition(":")
    if not colon or not count.isascii() or not count.isdigit():
        raise ConfigurationError(f"topic {text!r}: write NAME:PARTITIONS, for example orders:3")
    check_topic(name, TopicConfig(int(count)))
    return name, int(count)


# The settings that are tables, and what an entry of each may hold.
TABLES: dict[str, type] = {"peers": PeerAddress, "topics": TopicConfig}
ARGUMENTS = "the arguments"


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
    origins: dict[str, str] = {}
    arguments = {name: value for name, value in overrides.items() if value is not None}
    _check_keys(arguments, origin=ARGUMENTS)
    if path is not None:
        values.update(_from_file(Path(path)))
        origins.update(dict.fromkeys(values, str(path)))
    for name, value in _from_environment(os.environ if environment is None else environment).items():
        values[name] = value
        origins[name] = _variable(name)
    values.update(arguments)
    origins.update(dict.fromkeys(arguments, ARGUMENTS))
    missing = [item.name for item in fields(NodeConfig) if _is_required(item) and item.name not in values]
    if missing:
        raise ConfigurationError(
            f"missing setting: {', '.join(missing)}; write it in the configuration file, set "
            f"{', '.join(map(_variable, missing))}, or give {', '.join(map(_flag, missing))} to rlog serve"
        )
    return _validated(values, origins)


def _is_required(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def _flag(name: str) -> str:
    """Of `rlog serve`, which has one for every required setting."""
    return f"--{name.replace('_', '-')}"


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
    known = _names(NodeConfig)
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name in known:
            values[name] = _from_json(variable, text) if name in TABLES else text
            _check_keys({name: values[name]}, origin=variable)
        elif near := get_close_matches(name, known, n=1, cutoff=0.8):
            # Other RLOG_ variables (of tests, of builds) are not ours; a near miss is a misspelt setting.
            raise ConfigurationError(
                f"unknown environment variable {variable}; did you mean {_variable(near[0])}?"
            )
    return values


def _from_json(variable: str, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigurationError(f"{variable} names {twice!r} twice: leave one of them")
        return table

    try:
        return json.loads(text, object_pairs_hook=once)
    except ValueError as error:
        raise ConfigurationError(f"{variable} is not JSON: {error}") from error


def _names(table: type) -> list[str]:
    return [item.name for item in fields(table)]


def _check_keys(values: Mapping[str, Any], *, origin: str) -> None:
    """Raises ConfigurationError for a key that is no setting, in a nested table too."""
    for name, value in values.items():
        if name not in _names(NodeConfig):
            raise ConfigurationError(_unknown(name, _names(NodeConfig), origin))
        if isinstance(value, bool):
            raise ConfigurationError(
                f"{name} = {str(value).lower()} in {origin}: no setting is true or false; leave it out"
            )
        if name not in TABLES:
            continue
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{name} = {value!r} in {origin}: write a table, [{name}]")
        for key, entry in value.items():
            if isinstance(entry, Mapping):
                known = _names(TABLES[name])
                for inner in entry:
                    if inner not in known:
                        raise ConfigurationError(_unknown(inner, known, origin, f"{name}.{key}."))
            elif name == "peers" and not isinstance(entry, PeerAddress):
                raise ConfigurationError(f"peers.{key} = {entry!r} in {origin}: write a table, [peers.{key}]")


def _unknown(name: str, known: list[str], origin: str, table: str = "") -> str:
    near = get_close_matches(name, known, n=1)
    if table and not near and name in _names(NodeConfig):
        hint = f"{name} is a setting of the node: write it above the first [table]"
    elif near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = f"known are {', '.join(known)}" if table else "docs/configuration.md lists all settings"
    return f"unknown setting {table + name!r} in {origin}; {hint}"


def _validated(values: dict[str, Any], origins: Mapping[str, str]) -> NodeConfig:
    """Convert to the declared types. pydantic is imported here only: it is not needed to run a node."""
    from pydantic import TypeAdapter, ValidationError

    if "peers" in values:
        # One file may serve all nodes: the entry of this very node is not a peer.
        peers = _by_node_id(values["peers"], origins["peers"])
        values["peers"] = {key: peer for key, peer in peers.items() if str(key) != str(values["node_id"])}
    try:
        return TypeAdapter(NodeConfig).validate_python(values)
    except ValidationError as error:
        raise ConfigurationError(_complaint(error.errors(include_url=False), origins)) from error


def _complaint(errors: Sequence[Mapping[str, Any]], origins: Mapping[str, str]) -> str:
    """What pydantic found, in our words."""
    # A topic is tried as a table, then as a number: the deepest complaint, or else the last, is meant.
    worst = max(reversed(errors), key=lambda each: len(each["loc"]))
    *table, name = (str(part) for part in worst["loc"] if part not in ("TopicConfig", "int"))
    origin = origins[(table or [name])[0]]
    if worst["type"] == "missing":
        names = [each["loc"][-1] for each in errors if each["loc"][:-1] == worst["loc"][:-1]]
        return f"{'.'.join(table)} in {origin} lacks {', '.join(names)}"
    mend = worst["msg"].replace("Input should be", "use").partition(",")[0]
    return f"{'.'.join([*table, name])} = {worst['input']!r} in {origin}: {mend}"


def _by_node_id(peers: Mapping[Any, Any], origin: str) -> dict[int, Any]:
    """Raises ConfigurationError where a key is no number, or two are the same one (2 and "02")."""
    found: dict[int, Any] = {}
    for key, peer in peers.items():
        text = str(key)
        if not (text.isascii() and text.isdigit()):
            raise ConfigurationError(
                f"peers.{key} in {origin}: name the table after the node's id, as [peers.2]"
            )
        if int(text) in found:
            raise ConfigurationError(f"peers in {origin} names node {int(text)} twice: leave one of them")
        found[int(text)] = peer
    return found
