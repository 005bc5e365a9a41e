"""rlog: a replicated log for Python services, and an embedded one with the same names.

`import rlog` loads nothing: each name below is fetched from its module when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlog.client import Cluster as Cluster
    from rlog.client import Consumer as Consumer
    from rlog.client import Producer as Producer
    from rlog.client import connect as connect
    from rlog.embedded import AsyncLog as AsyncLog
    from rlog.embedded import Log as Log
    from rlog.embedded import NewRecord as NewRecord
    from rlog.embedded import open as open
    from rlog.embedded import open_async as open_async
    from rlog.errors import RlogError as RlogError
    from rlog.records import Receipt as Receipt
    from rlog.records import Record as Record

    from . import sync as sync

__version__ = "0.1.0"

__all__ = [
    "AsyncLog",
    "Cluster",
    "Consumer",
    "Log",
    "NewRecord",
    "Producer",
    "Receipt",
    "Record",
    "RlogError",
    "__version__",
    "connect",
    "open",
    "open_async",
    "sync",
]

_HOMES = {
    "AsyncLog": "rlog.embedded",
    "Cluster": "rlog.client",
    "Consumer": "rlog.client",
    "Producer": "rlog.client",
    "connect": "rlog.client",
    "Log": "rlog.embedded",
    "NewRecord": "rlog.embedded",
    "open": "rlog.embedded",
    "open_async": "rlog.embedded",
    "RlogError": "rlog.errors",
    "Receipt": "rlog.records",
    "Record": "rlog.records",
}


def __getattr__(name: str) -> Any:
    """PEP 562: import on first use."""
    from importlib import import_module

    if name == "sync":
        return import_module("rlog.sync")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'rlog' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
