"""The two clients do not drift apart: same names, same arguments, same types, but for the waiting."""

import inspect
import re
from typing import Any

import pytest

import rlog.client
import rlog.sync

TWINS = ["Ack", "Cluster", "Consumer", "ListAck", "Producer"]
# What waits is spelled otherwise where nothing is awaited.
SPELLED = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "__await__": "result",
}
PROTOCOLS = {*SPELLED, *SPELLED.values()}
# Which parts of the async client the blocking one is built on: public in Python's sense, not for users.
INNER = {
    "Producer": {"is_open", "size_of", "check_takes", "leaders_changed"},
    "Consumer": {"take_decoded", "decode_more", "unread", "leaders_changed"},
    "Ack": {"admitted", "refused", "is_seen", "raise_unseen"},
}


def public(twin: type, name: str) -> dict[str, Any]:
    return {
        SPELLED.get(each, each): member
        for each, member in vars(twin).items()
        if (not each.startswith("_") or each in PROTOCOLS) and each not in INNER.get(name, set())
    }


def shape(member: Any) -> str:
    """The kind and the signature, with `async` taken out of the types and the module of a type left out."""
    if isinstance(member, property):
        return f"property {shape(member.fget)}"
    signature = str(inspect.signature(member))
    signature = re.sub(r"\b[a-z_]+(\.[a-z_]+)*\.(?=[A-Z])", "", signature.replace("'", "").replace('"', ""))
    return re.sub(r"Generator\[object, None, (\w+)\]", r"\1", signature)


@pytest.mark.parametrize("name", TWINS)
def test_the_twins_have_the_same_members_with_the_same_arguments(name: str) -> None:
    theirs = {key: shape(each) for key, each in public(getattr(rlog.client, name), name).items()}
    ours = {key: shape(each) for key, each in public(getattr(rlog.sync, name), name).items()}
    if "result" in theirs:
        # It waits, and may be told how long.
        mine = ours.pop("result").replace("self, timeout_ms: int | None = None", "self")
        assert mine == theirs.pop("result")
    assert ours == theirs


def test_connect_takes_the_same() -> None:
    assert shape(rlog.sync.connect) == shape(rlog.client.connect)


@pytest.mark.parametrize("name", TWINS)
def test_nothing_of_the_blocking_one_is_awaited_and_all_is_documented(name: str) -> None:
    for key, member in public(getattr(rlog.sync, name), name).items():
        function = member.fget if isinstance(member, property) else member
        assert not inspect.iscoroutinefunction(function), key
        assert function.__doc__ or key in {"__iter__", "__enter__", "__exit__", "done", "is_closed"}, key


def test_it_is_reached_from_the_package() -> None:
    assert rlog.sync is __import__("rlog.sync").sync
    assert set(rlog.sync.__all__) == {*TWINS, "connect"}
