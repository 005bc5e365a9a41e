"""Configuration: where it comes from, and errors that name the mend."""

from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"hartbeat_ms": 1}, "did you mean heartbeat_ms"),
        ({"heartbeat_ms": "soon"}, "heartbeat_ms: .*valid integer"),
        ({"heartbeat_ms": 200}, "under three heartbeats"),
        ({"election_timeout_max_ms": 500}, "lock step"),
        ({"topics": {"a b": 1}}, "topic name 'a b'"),
        ({"topics": {"..": 1}}, "topic name"),
        ({"topics": {"orders": 0}}, "0 partitions"),
        ({"node_id": 0}, "node id 0"),
        ({"peers": {"2": {"host": "h"}}}, r"peers\.2\.port"),
        ({"listen_port": 70000}, "below 65536"),
        ({"listen_port": 9192}, "must differ"),
        ({"cluster_id": ""}, "cluster_id is empty"),
        ({"batch_bytes_max": 90_000_000}, "no room for a batch"),
        ({"disk_threads": 0}, "disk_threads = 0"),
        ({"redial_min_ms": 900}, "redial_min_ms"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(values, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        load_config(environment={}, **(BASE | values))


def test_a_misspelt_variable_is_refused_with_the_right_name():
    with pytest.raises(ConfigurationError, match="did you mean RLOG_NODE_ID"):
        load_config(environment={"RLOG_NODEID": "1"}, **BASE)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigurationError, match="missing setting: node_id, data_dir"):
        load_config(environment={}, cluster_id="shop")


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


@pytest.mark.parametrize("bad", ["retention_ms = 0", "retention_bytes = -2", 'acks_floor = "none"'])
def test_an_impossible_topic_setting_is_refused_by_name(tmp_path: Path, bad: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        f'cluster_id = "shop"\nnode_id = 1\ndata_dir = "data"\n[topics.clicks]\npartitions = 6\n{bad}\n'
    )
    with pytest.raises(ConfigurationError, match=bad.split()[0]):
        load_config(file, environment={})
