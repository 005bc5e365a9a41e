"""The documents made from the code are what the code would make now, and nothing in them is left blank."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import rlog.client.errors
import rlog.errors
from rlog import config
from rlog.config import NodeConfig, PeerAddress, TopicConfig
from rlog.observe.metrics import METRICS
from scripts.generated_docs import DOCUMENTS, docstrings, error_classes, flags

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_generated_document_is_not_stale(name: str) -> None:
    assert (ROOT / name).read_text() == DOCUMENTS[name](), f"{name} is stale: run `make docs`"


@pytest.mark.parametrize("table", [NodeConfig, TopicConfig, PeerAddress])
def test_every_setting_says_what_it_means(table: type) -> None:
    told = docstrings(config, table.__name__)
    assert [item.name for item in fields(table) if not told.get(item.name)] == []


def test_every_error_says_what_it_means() -> None:
    for module in (rlog.errors, rlog.client.errors):
        assert [error.__name__ for error in error_classes(module) if not error.__doc__] == []


def test_operations_names_only_metrics_that_exist() -> None:
    named = set(re.findall(r"rlog_[a-z_]+", (ROOT / "docs/operations.md").read_text()))
    shown = {metric.name for metric in METRICS}
    for metric in METRICS:
        if metric.kind == "histogram":
            shown |= {f"{metric.name}_{part}" for part in ("bucket", "count", "sum")}
    assert named - shown == set()


def test_flags_are_those_that_serve_has() -> None:
    assert flags()["admin_port"] == flags()["admin_host"] == "`--admin`"
    assert flags()["node_id"] == "`--node-id`"
