"""What nodes tell each other when a connection begins: the Hello and the Refusal (SAFETY 20, 48).

Both are JSON objects in a checksummed frame: they are rare, they carry tables, and a person who reads a
capture should see at once why two nodes do not talk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlog.errors import ProtocolError

CONTROL = "control"
BULK = "bulk"
CHANNELS = (CONTROL, BULK)
YOURS = "yours"
MINE = "mine"
EITHER = "either"


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame in each direction of a connection; sent again when what it says about pins changed.

    uuid: 32 hex digits. incarnation: starts so far in the upper 32 bits, random ones of this in the lower.
    target: the node id that the sender believes it talks to. topics: name to partitions.
    pins: node id to uuid, only what is fsynced at the sender; pins_confirmed: it is fsynced there that every
    voter has this very table.
    """

    cluster_id: str
    node_id: int
    uuid: str
    incarnation: int
    target: int
    channel: str
    topics: Mapping[str, int]
    voters: tuple[int, ...]
    pins: Mapping[int, str] = field(default_factory=dict)
    pins_confirmed: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "cluster_id": self.cluster_id,
            "node_id": self.node_id,
            "uuid": self.uuid,
            "incarnation": self.incarnation,
            "target": self.target,
            "channel": self.channel,
            "topics": dict(self.topics),
            "voters": list(self.voters),
            "pins": {str(node_id): uuid for node_id, uuid in self.pins.items()},
            "pins_confirmed": self.pins_confirmed,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Hello":
        """Raises ProtocolError when a field is missing or of the wrong type."""
        try:
            hello = cls(
                cluster_id=_typed(body["cluster_id"], str),
                node_id=_typed(body["node_id"], int),
                uuid=_uuid(body["uuid"]),
                incarnation=_typed(body["incarnation"], int),
                target=_typed(body["target"], int),
                channel=_typed(body["channel"], str),
                topics={_typed(k, str): _typed(v, int) for k, v in _typed(body["topics"], dict).items()},
                voters=tuple(_typed(voter, int) for voter in _typed(body["voters"], list)),
                pins={int(k): _uuid(v) for k, v in _typed(body["pins"], dict).items()},
                pins_confirmed=_typed(body["pins_confirmed"], bool),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"malformed hello: {error!r}") from error
        if hello.channel not in CHANNELS:
            raise ProtocolError(f"malformed hello: unknown channel {hello.channel!r}")
        return hello


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the connection is closed, and which end must be mended: YOURS, MINE, or EITHER (who knows?)."""

    reason: str
    whose: str

    def to_json(self) -> dict[str, Any]:
        return {"reason": self.reason, "whose": self.whose}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Refusal":
        """Raises ProtocolError when a field is missing or of the wrong type."""
        try:
            return cls(_typed(body["reason"], str), _typed(body["whose"], str))
        except (KeyError, TypeError) as error:
            raise ProtocolError(f"malformed refusal: {error!r}") from error


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _uuid(value: Any) -> str:
    if len(bytes.fromhex(_typed(value, str))) != 16:
        raise ValueError(f"{value!r} is no uuid")
    return str(value)
