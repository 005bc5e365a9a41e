"""Write the documents that are tables of what the code declares: `make docs`.

docs/configuration.md from the fields of the configuration and the options of `rlog serve`; docs/metrics.md
from the metrics; docs/errors.md from the error classes; the reference in docs/python.md and docs/embedded.md
from signatures and docstrings (api_docs.py). `tests/test_generated_docs.py` fails when one is
stale.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin

import rlog.client.errors
import rlog.config
import rlog.errors
from rlog.cli.serve import command as serve
from rlog.client.partition_queue import MAYBE_PERSISTED
from rlog.config import ENVIRONMENT_PREFIX, TABLES, NodeConfig, PeerAddress, TopicConfig
from rlog.errors import RlogError
from rlog.observe.metrics import METRICS, SECONDS
from scripts import api_docs

ROOT = Path(__file__).parents[1]
MADE = "<!-- Made by `make docs` from {}: change it there. -->\n"

# The first setting of each group.
GROUPS = {
    "cluster_id": "Who and where",
    "heartbeat_ms": "Elections and other nodes",
    "batch_bytes_max": "Clients",
    "segment_bytes_max": "Storage",
}
# What an option of `rlog serve` sets, where that is not the setting of its name; and those that set none.
FLAG_SETS = {
    "listen": ("listen_host", "listen_port"),
    "advertise": ("advertised_host", "advertised_port"),
    "peer_listen": ("peer_host", "peer_port"),
    "admin": ("admin_host", "admin_port"),
}
FLAGS_OF_THE_PROCESS = {"config_path", "as_json", "check", "log_level", "log_format", "stop_on_eof"}
UNITS = {"_ms": "ms", "_bytes_max": "bytes", "_bytes": "bytes", "_count_max": "count"}


# --- configuration ---


def docstrings(module: ModuleType, class_name: str) -> dict[str, str]:
    """Field name to the string that follows it in the source."""
    tree = ast.parse(inspect.getsource(module))
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name]
    found = {}
    for item, following in pairwise(body):
        if (
            isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            found[item.target.id] = " ".join(str(following.value.value).split())
    return found


def flags() -> dict[str, str]:
    """Setting to the option of `rlog serve` that sets it."""
    known = {item.name for item in fields(NodeConfig)}
    found = {}
    for option in serve.params:
        name = str(option.name)
        for setting in FLAG_SETS.get(name, (name,)):
            if name not in FLAGS_OF_THE_PROCESS:
                assert setting in known, f"which setting does --{name} set?"
                found[setting] = f"`{option.opts[0]}`"
    return found


def unit_of(name: str) -> str:
    return next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")


def type_of(item: "Field[object]") -> str:
    if item.name in TABLES:
        return "table"
    if get_origin(item.type) is Literal:
        return " or ".join(f'`"{choice}"`' for choice in get_args(item.type))
    return {"str": "text", "int": "number", "int | None": "number"}[
        item.type.__name__ if isinstance(item.type, type) else str(item.type)
    ]


def default_of(item: "Field[object]") -> str:
    if item.default_factory is not MISSING or item.default is None:
        return "none"
    if item.default is MISSING:
        return "**needed**"
    if isinstance(item.default, int):
        return f"{item.default:_}" if item.default >= 10_000 else str(item.default)
    return f'`"{item.default}"`'


def setting_row(item: "Field[object]", meaning: str, *more: str) -> str:
    cells = [f"`{item.name}`", type_of(item), default_of(item), unit_of(item.name), *more, meaning]
    return f"| {' | '.join(cells)} |"


def node_settings() -> Iterator[str]:
    meaning, flag_of = docstrings(rlog.config, "NodeConfig"), flags()
    for item in fields(NodeConfig):
        if item.name in GROUPS:
            yield f"\n## {GROUPS[item.name]}\n"
            yield "| setting | type | default | unit | environment | flag of `rlog serve` | meaning |"
            yield "|---|---|---|---|---|---|---|"
        variable = f"`{ENVIRONMENT_PREFIX}{item.name.upper()}`"
        yield setting_row(item, meaning[item.name], variable, flag_of.get(item.name, ""))


def table_settings(table: type) -> Iterator[str]:
    meaning = docstrings(rlog.config, table.__name__)
    yield "| setting | type | default | unit | meaning |"
    yield "|---|---|---|---|---|"
    for item in fields(table):
        yield setting_row(item, meaning[item.name])


CONFIGURATION = """# Configuration

{made}
A node is configured by a TOML file, environment variables and the flags of `rlog serve`; flags win over the
environment, the environment over the file. A setting that does not exist, is impossible or contradicts
another ends the start with status 2 and a message that names the mend; one that is possible and hardly meant
is a warning in the log and in `/status`.

In the environment a table is JSON: `RLOG_TOPICS='{{"orders": 3}}'`. From Python, `rlog.config.NodeConfig`
takes the same names. [cli.md](cli.md) shows a whole file.
{settings}

## A topic: `[topics.NAME]`

`NAME = 3` below `[topics]` is short for a table with `partitions = 3`. Topics are the same on all nodes.

{topic}

## Another node: `[peers.ID]`

One table for each other node, named after its `node_id`; one for this node is ignored, so that one file may
serve all. Every setting is needed.

{peer}
"""


def configuration() -> str:
    return CONFIGURATION.format(
        made=MADE.format("rlog/config.py"),
        settings="\n".join(node_settings()),
        topic="\n".join(table_settings(TopicConfig)),
        peer="\n".join(table_settings(PeerAddress)),
    )


# --- metrics ---


TABLE_OF_METRICS = """# Metrics

{made}
With `admin_port` set, a node shows these at `/metrics`, in the Prometheus text format or as OpenMetrics.
[operations.md](operations.md) says which to watch. Offsets are exclusive ends. A partition is labelled
`topic` and `partition`; `peer` and `follower` are node ids. No label has a value that a client chooses.

Histograms of seconds have these buckets, and one above them:
{buckets}.

| metric | kind | labels | meaning |
|---|---|---|---|
{rows}

The process is shown under Prometheus' own names: `process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_virtual_memory_bytes`, `process_open_fds`, `process_max_fds`,
`process_start_time_seconds`, and `python_info`.
"""


def metric_rows() -> Iterator[str]:
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"


def metrics() -> str:
    return TABLE_OF_METRICS.format(
        made=MADE.format("rlog/observe/metrics.py"),
        buckets=", ".join(f"{bound:g}" for bound in SECONDS),
        rows="\n".join(metric_rows()),
    )


# --- errors ---


def error_classes(module: ModuleType) -> Iterator[type[RlogError]]:
    """Those that the module defines, in the order of their definition."""
    for item in vars(module).values():
        if inspect.isclass(item) and issubclass(item, RlogError) and item.__module__ == module.__name__:
            yield item


def error_rows(module: ModuleType) -> Iterator[str]:
    yield "| error | is a | outcome | meaning, and what to do |"
    yield "|---|---|---|---|"
    varying = told_by_instances(module)
    for error in error_classes(module):
        outcome = "no or unknown" if error.__name__ in varying else error.outcome
        bases = ", ".join(f"`{base.__name__}`" for base in error.__bases__)
        meaning = " ".join((error.__doc__ or "").split())
        yield f"| `{error.__name__}` | {bases} | {outcome} | {meaning} |"


def told_by_instances(module: ModuleType) -> set[str]:
    """The classes of which some instances are made with an outcome of their own."""
    found = set()
    for error in error_classes(module):
        outcome = inspect.signature(error).parameters.get("outcome")
        if outcome is not None and outcome.default is inspect.Parameter.empty:
            found.add(error.__name__)
    for path in (ROOT / "rlog").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found |= {node.func.id for keyword in node.keywords if keyword.arg == "outcome"}
    return found


def kafka_errors() -> Iterator[str]:
    """The table of docs/kafka.md, with what an answer to Produce means for the records."""
    section = (ROOT / "docs/kafka.md").read_text().split("## Errors\n")[1].split("\n## ")[0]
    yield "| code | name | in the log | means here |"
    yield "|---|---|---|---|"
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].isdigit():
            code, name, meaning = cells
            yield f"| {code} | {name} | {'unknown' if int(code) in MAYBE_PERSISTED else 'no'} | {meaning} |"


TABLES_OF_ERRORS = """# Errors

{made}
Every error of rlog is an `RlogError`. Its `outcome` answers the question that a writer has after one: **no**,
the operation is known not to have taken effect, and doing it again is safe; **unknown**, it may have taken
effect, and only an idempotent producer may repeat it. Where both are given, each error says its own. A
message names the thing and the mend.

## Of rlog: `rlog.errors`

{node}

## Of the client: `rlog.client.errors`

What the client itself tries again until the deadline (`Retriable`) is seen only as the `__cause__` of a
`DeadlineExceeded` or `DeliveryFailed`.

{client}

## What a node answers to Kafka clients

*in the log*: whether the records of a Produce that is answered so may be in the log. Kafka clients make
errors of their own of these codes; [kafka.md](kafka.md) says more of them.

{kafka}
"""


def errors() -> str:
    return TABLES_OF_ERRORS.format(
        made=MADE.format("the docstrings of rlog/errors.py and rlog/client/errors.py"),
        node="\n".join(error_rows(rlog.errors)),
        client="\n".join(error_rows(rlog.client.errors)),
        kafka="\n".join(kafka_errors()),
    )


DOCUMENTS = {
    "docs/configuration.md": configuration,
    "docs/metrics.md": metrics,
    "docs/errors.md": errors,
    "docs/python.md": api_docs.python,
    "docs/embedded.md": api_docs.embedded,
}


def main() -> None:
    for name, made in DOCUMENTS.items():
        (ROOT / name).write_text(made())


if __name__ == "__main__":
    main()
