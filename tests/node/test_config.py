"""Configuration: where it comes from, and errors that name the mend."""

from pathlib import Path

import pytest

from rlog.cli.serve import overrides
from rlog.config import NodeConfig, PeerAddress, TopicConfig, load_config, parse_topic
from rlog.errors import ConfigurationError

BASE = {"cluster_id": "shop", "node_id": 1, "data_dir": "data"}
FILE = """
cluster_id = "shop"
node_id = 1
data_dir = "data/1"
heartbeat_ms = 50

[topics]
orders = 3

[peers.1]
host = "10.0.0.1"
port = 9192
kafka_host = "10.0.0.1"
kafka_port = 9092

[peers.2]
host = "10.0.0.2"
port = 9192
kafka_host = "shop-2"
kafka_port = 9092
"""


def test_a_file_the_environment_and_overrides_in_rising_order(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text(FILE)
    environment = {"RLOG_HEARTBEAT_MS": "60", "RLOG_PEER_PORT": "7000", "RLOG_SEED": "not ours", "HOME": "/"}
    config = load_config(path, environment=environment, heartbeat_ms=70, listen_port=None)
    assert (config.heartbeat_ms, config.peer_port, config.listen_port) == (70, 7000, 9092)
    assert config.peers == {2: PeerAddress("10.0.0.2", 9192, "shop-2", 9092)}
    assert config.voters == {1, 2}
    assert config.partitions == [("orders", 0), ("orders", 1), ("orders", 2)]


def test_tables_from_the_environment_are_json():
    peers = '{"2": {"host": "h", "port": 1, "kafka_host": "k", "kafka_port": 2}}'
    config = load_config(environment={"RLOG_PEERS": peers, "RLOG_TOPICS": '{"orders": 2}'}, **BASE)
    assert config.peers == {2: PeerAddress("h", 1, "k", 2)}
    assert config.topics == {"orders": 2}


PEER = {"host": "h2", "port": 9192, "kafka_host": "h2", "kafka_port": 9092}
TOPIC = "known are partitions, retention_ms, retention_bytes, timestamp_type, acks_floor"
HERE = "in the arguments"

# What is given beside BASE, and the whole message.
REFUSED = [
    ({"hartbeat_ms": 1}, f"unknown setting 'hartbeat_ms' {HERE}; did you mean heartbeat_ms?"),
    ({"q": 1}, f"unknown setting 'q' {HERE}; docs/configuration.md lists all settings"),
    (
        {"topics": {"x": {"partitions": 1, "retention_mss": 5}}},
        f"unknown setting 'topics.x.retention_mss' {HERE}; did you mean retention_ms?",
    ),
    ({"topics": {"x": {"partitions": 1, "q": 5}}}, f"unknown setting 'topics.x.q' {HERE}; {TOPIC}"),
    (
        {"topics": {"x": {"partitions": 1, "heartbeat_ms": 5}}},
        f"unknown setting 'topics.x.heartbeat_ms' {HERE}; "
        "heartbeat_ms is a setting of the node: write it above the first [table]",
    ),
    ({"peers": {"2": PEER | {"prot": 1}}}, f"unknown setting 'peers.2.prot' {HERE}; did you mean port?"),
    ({"peers": {"2": {"host": "h"}}}, f"peers.2 {HERE} lacks port, kafka_host, kafka_port"),
    ({"peers": {"2": "h2:9192"}}, f"peers.2 = 'h2:9192' {HERE}: write a table, [peers.2]"),
    ({"peers": {"two": PEER}}, f"peers.two {HERE}: name the table after the node's id, as [peers.2]"),
    ({"peers": {"2": PEER, "02": PEER}}, f"peers {HERE} names node 2 twice: leave one of them"),
    (
        {"peers": {"2": PEER, "3": PEER}},
        "peers.2.port and peers.3.port are both 9192 of h2: they must differ",
    ),
    (
        {"peers": {"2": PEER, "3": PEER | {"host": "h3"}}},
        "peers.2.kafka_port and peers.3.kafka_port are both 9092 of h2: they must differ",
    ),
    ({"peers": {"2": PEER | {"port": 0}}}, "peers.2.port = 0: a port is a number below 65536"),
    ({"peers": {"0": PEER}}, "node id 0 is out of range: use 1 or above"),
    ({"peers": 2}, f"peers = 2 {HERE}: write a table, [peers]"),
    ({"topics": {"x": "three"}}, f"topics.x = 'three' {HERE}: use a valid integer"),
    ({"topics": {"x": {"retention_ms": 5}}}, f"topics.x {HERE} lacks partitions"),
    (
        {"topics": {"x": {"partitions": 1, "acks_floor": "none"}}},
        f"topics.x.acks_floor = 'none' {HERE}: use 'majority' or 'leader'",
    ),
    (
        {"topics": {"x": {"partitions": 1, "retention_ms": 0}}},
        "topics.x.retention_ms = 0: use 1 or more, or -1 for no bound",
    ),
    (
        {"topics": {"x": {"partitions": 1, "retention_bytes": -2}}},
        "topics.x.retention_bytes = -2: use 1 or more, or -1 for no bound",
    ),
    (
        {"topics": {"a b": 1}},
        "topic name 'a b': use 1 to 249 letters, digits, '.', '_' and '-' (and not '.' or '..')",
    ),
    (
        {"topics": {"..": 1}},
        "topic name '..': use 1 to 249 letters, digits, '.', '_' and '-' (and not '.' or '..')",
    ),
    ({"topics": {"orders": 0}}, "topics.orders.partitions = 0: use 1 to 10,000"),
    ({"heartbeat_ms": "soon"}, f"heartbeat_ms = 'soon' {HERE}: use a valid integer"),
    ({"heartbeat_ms": 0}, "heartbeat_ms = 0: use 1 or more"),
    (
        {"heartbeat_ms": 200},
        "election_timeout_min_ms = 500 is under three heartbeats of 200 ms: one late heartbeat would depose "
        "the leader; raise it, or lower heartbeat_ms",
    ),
    (
        {"election_timeout_max_ms": 500},
        "election_timeout_max_ms = 500 is not above election_timeout_min_ms = 500: the nodes would campaign "
        "in lock step; use twice the minimum",
    ),
    ({"admin_port": False}, f"admin_port = false {HERE}: no setting is true or false; leave it out"),
    ({"node_id": 0}, "node id 0 is out of range: use 1 or above"),
    ({"listen_port": 70000}, "listen_port = 70000: a port is a number below 65536"),
    ({"listen_port": 9192}, "listen_port and peer_port are both 9192 of 127.0.0.1: they must differ"),
    ({"admin_port": 9092}, "listen_port and admin_port are both 9092 of 127.0.0.1: they must differ"),
    ({"listen_host": ""}, "listen_host is empty: name a host or an address"),
    ({"cluster_id": ""}, "cluster_id is empty: give the cluster a name that no other cluster has"),
    ({"data_dir": ""}, "data_dir is empty: name a directory on a local disk"),
    ({"data_dir": "~/rlog"}, "data_dir = '~/rlog': only a shell expands '~', so write the whole path"),
    ({"disk_threads": 0}, "disk_threads = 0: use 1 or more"),
    (
        {"segment_bytes_max": 100_000_000},
        "segment_bytes_max = 100000000: use a power of two, 512 or more, such as 67_108_864",
    ),
    (
        {"segment_bytes_max": 256},
        "segment_bytes_max = 256: use a power of two, 512 or more, such as 67_108_864",
    ),
    (
        {"request_bytes_max": 2**31},
        "request_bytes_max = 2147483648: use 2147483647 at most, the largest length of a frame",
    ),
    (
        {"batch_bytes_max": 90_000_000},
        "peer_frame_bytes_max = 16777216 has no room for a batch of batch_bytes_max = 90000000: raise the "
        "first, or lower the second",
    ),
    (
        {"append_bytes_max": 16 << 20},
        "append_bytes_max = 16777216 does not fit into peer_frame_bytes_max = 16777216: lower the first, or "
        "raise the second",
    ),
    (
        {"peer_frame_bytes_max": 1_700_000, "append_bytes_max": 100_000},
        "peer_frame_bytes_max = 1700000 has no room for what stands for deleted records, up to 1720044 "
        "bytes: use 1785580 or more",
    ),
    (
        {"peer_write_bytes_max": 1_700_000},
        "peer_write_bytes_max = 1700000 has no room for what stands for deleted records, up to 1720044 "
        "bytes: use 1785580 or more",
    ),
    (
        {"redial_min_ms": 900},
        "redial_min_ms = 900 and redial_max_ms = 500: use 1 or more, and not the first above the second",
    ),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_an_impossible_setting_is_refused_with_the_mend(values, message):
    with pytest.raises(ConfigurationError) as caught:
        load_config(environment={}, **(BASE | values))
    assert str(caught.value) == message


VARIABLES = [
    ("RLOG_NODEID", "1", "unknown environment variable RLOG_NODEID; did you mean RLOG_NODE_ID?"),
    ("RLOG_HEARTBEAT_MS", "soon", "heartbeat_ms = 'soon' in RLOG_HEARTBEAT_MS: use a valid integer"),
    ("RLOG_TOPICS", "orders:3", "RLOG_TOPICS is not JSON: Expecting value: line 1 column 1 (char 0)"),
    ("RLOG_TOPICS", "3", "topics = 3 in RLOG_TOPICS: write a table, [topics]"),
    ("RLOG_TOPICS", '{"a": 1, "a": 2}', "RLOG_TOPICS names 'a' twice: leave one of them"),
    (
        "RLOG_PEERS",
        '{"2": {"hots": "h"}}',
        "unknown setting 'peers.2.hots' in RLOG_PEERS; did you mean host?",
    ),
]


@pytest.mark.parametrize(("variable", "text", "message"), VARIABLES)
def test_a_wrong_variable_is_refused_by_its_name(variable, text, message):
    with pytest.raises(ConfigurationError) as caught:
        load_config(environment={variable: text}, **BASE)
    assert str(caught.value) == message


def test_what_is_missing_is_named():
    with pytest.raises(ConfigurationError) as caught:
        load_config(environment={}, cluster_id="shop")
    assert str(caught.value) == (
        "missing setting: node_id, data_dir; write it in the configuration file, set RLOG_NODE_ID, "
        "RLOG_DATA_DIR, or give --node-id, --data-dir to rlog serve"
    )


LEADER = TopicConfig(1, acks_floor="leader")
THERE = PeerAddress("10.0.0.2", 9192, "10.0.0.2", 9092)
NEAR = PeerAddress("127.0.0.1", 9292, "localhost", 9293)

WARNED = [
    (
        {"peers": {2: NEAR}},
        "peers: 2 nodes vote, of which 2 must be up: they survive no more failures than 1 would; add a node",
    ),
    (
        {"topics": {"x": LEADER}},
        "topics.x.acks_floor = 'leader': records sent with acks=1 are acknowledged by one disk and can be "
        "lost with it; 'majority' keeps them",
    ),
    (
        {"topics": {"x": TopicConfig(1, retention_bytes=1000)}, "segment_bytes_max": 1 << 20},
        "topics.x.retention_bytes = 1000 is below segment_bytes_max = 1048576, and room is freed by whole "
        "segments: lower segment_bytes_max too",
    ),
    (
        {"topics": {"heartbeat_ms": 50}},
        "topics.heartbeat_ms is a topic of the name of a setting; if the setting is meant, write it above "
        "the first [table]",
    ),
    (
        {"listen_host": "0.0.0.0"},
        "listen_host = '0.0.0.0' is no address that clients elsewhere can connect to, and they are told to: "
        "set advertised_host",
    ),
    (
        {"peers": {2: THERE, 3: NEAR}, "listen_host": "10.0.0.1"},
        "peer_host = '127.0.0.1' is heard on this machine only, but peers.2.host = '10.0.0.2' is elsewhere: "
        "set peer_host to an address of this machine",
    ),
    (
        {"peers": {2: THERE, 3: NEAR}, "peer_host": "10.0.0.1"},
        "listen_host = '127.0.0.1' is heard on this machine only, but peers.2.kafka_host = '10.0.0.2' is "
        "elsewhere: set listen_host to an address of this machine",
    ),
    (
        {"topics": {}},
        "topics: none is declared, so no record can be written, and no client can create one: declare each "
        "topic at every node, under [topics], with --topic or in RLOG_TOPICS, and start them anew",
    ),
]


@pytest.mark.parametrize(("values", "message"), WARNED, ids=[message for _, message in WARNED])
def test_what_is_hardly_meant_is_warned_of(values, message):
    assert NodeConfig(**(BASE | {"topics": {"orders": 3}} | values)).warnings() == [message]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"peers": {2: NEAR, 3: PeerAddress("::1", 9292, "127.0.0.2", 9293)}, "topics": {"orders": 3}},
        {"listen_host": "0.0.0.0", "advertised_host": "shop-1"},
        {"topics": {"x": TopicConfig(1, retention_ms=1000, retention_bytes=1 << 30)}},
    ],
)
def test_what_is_usual_is_not_warned_of(values):
    assert NodeConfig(**(BASE | {"topics": {"orders": 3}} | values)).warnings() == []


def test_an_entry_twice_on_the_command_line_is_refused():
    names = ("cluster_id", "node_id", "data_dir", "listen", "advertise", "peer_listen", "admin")
    flags = dict.fromkeys(names)
    with pytest.raises(ConfigurationError, match="--topic names orders twice: leave one of them"):
        overrides(**flags, peers=(), topics=("orders:1", "orders:2"))
    with pytest.raises(ConfigurationError, match="--peer names 2 twice: leave one of them"):
        overrides(**flags, peers=("2=h:1,h:2", "2=i:1,i:2"), topics=())


@pytest.mark.parametrize("content", ["heartbeat_ms = ", "\x00"])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "node.toml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"node\.toml is not a TOML file"):
        load_config(path, environment={})
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_config(tmp_path / "absent.toml", environment={})


def test_a_node_is_not_its_own_peer():
    with pytest.raises(ConfigurationError, match="which is this node"):
        NodeConfig(cluster_id="c", node_id=2, data_dir="d", peers={2: PeerAddress("h", 1, "h", 2)})


def test_topics_on_the_command_line():
    assert parse_topic("orders:3") == ("orders", 3)
    for text in ("orders", "orders:", ":3", "orders:-1", "orders:³"):
        with pytest.raises(ConfigurationError, match="topic"):
            parse_topic(text)


def test_a_topic_is_a_number_or_a_table(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        'cluster_id = "shop"\nnode_id = 1\ndata_dir = "data"\n'
        "[topics]\norders = 3\n[topics.clicks]\npartitions = 6\nretention_ms = 1000\n"
    )
    config = load_config(file, environment={})
    assert config.partition_counts == {"clicks": 6, "orders": 3}
    assert config.topic("orders") == TopicConfig(3)
    assert config.topic("clicks").retention_ms == 1000
