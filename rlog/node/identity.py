"""Who the nodes of a cluster are, and from when on they may vote (SAFETY 20).

A replica uuid is born on disk, never configured. The node ids of the configuration are names; the *pin table*
(node id to uuid) says which data directory each name means, and is the cluster's bootstrap configuration.

First boot. Every node tells every other its uuid. A node that knows all of them fsyncs the table (pins) and
says so. A node that has heard every voter say that it fsynced the same table knows the table is the only one
there will ever be, and fsyncs that knowledge (confirmed). Only then does it vote, grant, or acknowledge. One
confirmed voter proves it for all: whoever hears it, and holds the same table, is confirmed too.

Why all of them: were a majority enough, nodes 1 and 2 could commit while 3 never ran; wipe 2, start 2 and 3:
both are empty, both are the majority, and what was committed is gone. With the table, the wiped node 2 has
another uuid than the one pinned, and is refused by name.

Ever after a majority suffices, because a confirmed node needs nobody's word. Each node also pins the last
incarnation it has seen of every peer and refuses an older one: an old copy of a data directory that came back
has forgotten votes. So that a copy which counts up to the same number is noticed too, the incarnation told to
peers has the counter of starts in its upper half and a number drawn at this start in its lower.

A difference in what all nodes must have in common (voters, topics, pins) is found at the first Hello. Which
side is wrong no program can know. So a node refuses to start when those that may still agree with it are no
majority (at the first boot, where all are needed: when one disagrees); a node that already agreed with a
majority goes on, and only refuses the other's connections.
"""

import logging
from collections.abc import Callable, Mapping
from random import Random
from typing import Protocol

from rlog.config import NodeConfig
from rlog.errors import ConfigurationError, DataDirectoryError, RlogError
from rlog.observe.events import emit
from rlog.wire.peer import EITHER, MINE, YOURS, Hello, Refusal

log = logging.getLogger("rlog.node")


class PinStore(Protocol):
    """What identity needs of `rlog.log.meta.Meta`. Each save returns the sequence to wait for."""

    @property
    def replica_uuid(self) -> str: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def pins(self) -> dict[int, str]: ...
    @property
    def pins_confirmed(self) -> bool: ...
    @property
    def peer_incarnations(self) -> dict[int, int]: ...
    def save_pins(self, pins: dict[int, str]) -> int: ...
    def confirm_pins(self) -> int: ...
    def save_peer_incarnation(self, node_id: int, incarnation: int) -> int: ...


class PeerRefusedError(RlogError):
    """The other side of a connection is not who or what it has to be."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Identity:
    """Decides who is accepted as a peer, and keeps the pin table. No I/O of its own.

    when_saved(sequence, callback): calls back once meta is fsynced up to the sequence; at once if it is.
    announce(): what `hello()` says has changed; tell the peers.
    confirmed_now(): the table is confirmed; consensus may begin.
    failed(error): this node must not run.
    """

    def __init__(
        self,
        config: NodeConfig,
        store: PinStore,
        *,
        random: Random,
        when_saved: Callable[[int, Callable[[], None]], None],
        announce: Callable[[], None],
        confirmed_now: Callable[[], None],
        failed: Callable[[RlogError], None],
    ) -> None:
        self._config = config
        self._store = store
        self._when_saved = when_saved
        self._announce = announce
        self._confirmed_now = confirmed_now
        self._failed = failed
        self.node_id = config.node_id
        self.uuid = store.replica_uuid
        self.incarnation = store.incarnation << 32 | random.getrandbits(32)
        self.voters = tuple(sorted(config.voters))
        self.topics = config.partition_counts
        # Only what is fsynced may be announced: a peer takes it as a promise that outlives this process.
        self.fsynced_pins: dict[int, str] = dict(store.pins)
        self.confirmed = store.pins_confirmed
        self._saving = False
        self._incarnation_saves: dict[int, int] = {}  # by peer: the meta sequence of its incarnation
        self._heard: dict[int, Hello] = {}
        self._objections: dict[int, str] = {}
        self._agreed: dict[int, None] = {}  # peers that accepted us as we accepted them

    def start(self) -> None:
        """Call once, when the loop runs. Raises DataDirectoryError when the directory is another node's."""
        pinned = self.fsynced_pins.get(self.node_id, self.uuid)
        if pinned != self.uuid or (self.fsynced_pins and set(self.fsynced_pins) != set(self.voters)):
            raise DataDirectoryError(
                f"the data directory belongs to a cluster of nodes {_table(self.fsynced_pins)} and to uuid "
                f"{self.uuid}; the configuration says node {self.node_id} of voters {list(self.voters)}"
            )
        self._advance()

    def hello(self, *, target: int, channel: str) -> Hello:
        return Hello(
            cluster_id=self._config.cluster_id,
            node_id=self.node_id,
            uuid=self.uuid,
            incarnation=self.incarnation,
            target=target,
            channel=channel,
            topics=self.topics,
            voters=self.voters,
            pins=self.fsynced_pins,
            pins_confirmed=self.confirmed,
        )

    def receive(self, hello: Hello, accepted: Callable[[], None], *, is_answer: bool = False) -> None:
        """Judge a peer's Hello; `accepted` is called when it counts, at once or after an fsync.

        is_answer: it answers ours, so the peer accepts us. Raises PeerRefusedError.
        """
        refusal = self._judge(hello)
        if refusal is not None:
            if refusal.whose != YOURS:
                self._object(hello.node_id, refusal)
            raise PeerRefusedError(refusal)
        self._hear(hello)
        if is_answer:
            # That we accept the peer says nothing about its opinion of us; its answer does.
            self._objections.pop(hello.node_id, None)
            self._agreed[hello.node_id] = None
        self._advance()
        if self._store.peer_incarnations.get(hello.node_id) != hello.incarnation:
            sequence = self._store.save_peer_incarnation(hello.node_id, hello.incarnation)
            self._incarnation_saves[hello.node_id] = sequence
        # Fsynced before anything of the new incarnation counts: else a crash of ours would let an older copy
        # of the peer back in.
        self._when_saved(self._incarnation_saves.get(hello.node_id, 0), accepted)

    def _hear(self, hello: Hello) -> None:
        """Keep it, unless the same start of that peer has told more: Hellos of two connections may cross."""
        known = self._heard.get(hello.node_id)
        if known is not None and (known.uuid, known.incarnation) == (hello.uuid, hello.incarnation):
            told_more = (bool(known.pins), known.pins_confirmed) > (bool(hello.pins), hello.pins_confirmed)
            if told_more:
                return
        self._heard[hello.node_id] = hello

    def refused_by(self, node_id: int, refusal: Refusal) -> None:
        """A peer refused this node: what is the receiver's there is the sender's here."""
        reason = f"node {node_id} refuses this node: {refusal.reason}"
        if refusal.whose == MINE:
            emit(
                log,
                logging.WARNING,
                "refused_by_peer",
                node=self.node_id,
                peer=node_id,
                reason=refusal.reason,
            )
        else:
            self._object(node_id, Refusal(reason, MINE if refusal.whose == YOURS else EITHER))

    # -------------------------------------------------------------------------------------------- judging

    def _judge(self, hello: Hello) -> Refusal | None:
        peer, here = hello.node_id, self.node_id
        if hello.cluster_id != self._config.cluster_id:
            ours, theirs = self._config.cluster_id, hello.cluster_id
            return Refusal(f"cluster_id is {ours!r} on node {here}, {theirs!r} on node {peer}", EITHER)
        if peer == here or peer not in self.voters:
            return Refusal(
                f"node {peer} is no peer of node {here}, whose voters are {list(self.voters)}", EITHER
            )
        if hello.target != here:
            return Refusal(f"this is node {here}; node {peer} looks for node {hello.target}", EITHER)
        if tuple(sorted(hello.voters)) != self.voters:
            return Refusal(
                f"voters differ: {list(self.voters)} on node {here}, {sorted(hello.voters)} on node {peer}",
                EITHER,
            )
        if dict(hello.topics) != self.topics:
            return Refusal(self._topic_difference(hello), EITHER)
        return self._judge_identity(hello)

    def _judge_identity(self, hello: Hello) -> Refusal | None:
        peer = hello.node_id
        pinned = self._store.pins.get(peer)
        if pinned is not None and pinned != hello.uuid:
            return Refusal(_not_pinned(peer, self.node_id, pinned, hello.uuid), YOURS)
        ours, theirs = self._store.pins, hello.pins
        if theirs and theirs.get(self.node_id) != self.uuid:
            return Refusal(_not_pinned(self.node_id, peer, theirs.get(self.node_id), self.uuid), MINE)
        if ours and theirs and dict(ours) != dict(theirs):
            return Refusal(
                f"pin tables differ: {_table(ours)} on node {self.node_id}, {_table(theirs)} on node {peer}. "
                "A node was wiped during the first boot: wipe all of them and start again",
                EITHER,
            )
        last = self._store.peer_incarnations.get(peer, 0)
        if hello.incarnation != last and hello.incarnation >> 32 <= last >> 32:
            return Refusal(
                f"node {peer} runs incarnation {hello.incarnation >> 32}, but another {last >> 32} was seen "
                "before: its data directory is an old copy and has forgotten votes",
                YOURS,
            )
        return None

    def _topic_difference(self, hello: Hello) -> str:
        names = sorted({*self.topics, *hello.topics})
        differing = [name for name in names if self.topics.get(name) != hello.topics.get(name)]
        ours = ", ".join(f"{name}:{self.topics.get(name, 0)}" for name in differing)
        theirs = ", ".join(f"{name}:{hello.topics.get(name, 0)}" for name in differing)
        return f"topics differ: {ours} on node {self.node_id}, {theirs} on node {hello.node_id}"

    def _object(self, peer: int, refusal: Refusal) -> None:
        """This node and a peer disagree, and it is not known to be the peer's fault."""
        if self._objections.get(peer) != refusal.reason:
            emit(log, logging.ERROR, "peer_disagrees", node=self.node_id, peer=peer, reason=refusal.reason)
        self._objections[peer] = refusal.reason
        if (self.confirmed and 2 * (len(self._agreed) + 1) > len(self.voters)) or peer not in self.voters:
            return
        may_agree = sum(voter not in self._objections for voter in self.voters)
        if not self.confirmed or 2 * may_agree <= len(self.voters):
            kind = DataDirectoryError if refusal.whose == MINE else ConfigurationError
            self._failed(kind(refusal.reason))

    # ------------------------------------------------------------------------------------------- the table

    def _advance(self) -> None:
        """Take the next step of the first boot, if what is known allows it."""
        if self.confirmed or self._saving:
            return
        others = [voter for voter in self.voters if voter != self.node_id]
        if not self.fsynced_pins:
            if all(voter in self._heard for voter in others):
                table = {voter: self._heard[voter].uuid for voter in others} | {self.node_id: self.uuid}
                pins = dict(sorted(table.items()))
                self._save(self._store.save_pins(pins), lambda: self._pinned(pins))
            return
        told = [self._heard[voter] for voter in others if voter in self._heard and self._heard[voter].pins]
        if len(told) == len(others) or any(hello.pins_confirmed for hello in told):
            self._save(self._store.confirm_pins(), self._confirm)

    def _save(self, sequence: int, then: Callable[[], None]) -> None:
        self._saving = True

        def saved() -> None:
            self._saving = False
            then()
            self._announce()
            self._advance()

        self._when_saved(sequence, saved)

    def _pinned(self, pins: dict[int, str]) -> None:
        self.fsynced_pins = pins
        emit(log, logging.INFO, "peers_pinned", node=self.node_id, pins=_table(pins))

    def _confirm(self) -> None:
        self.confirmed = True
        emit(
            log,
            logging.INFO,
            "identity_confirmed",
            node=self.node_id,
            reason="every voter has pinned the same uuids: consensus begins",
        )
        self._confirmed_now()


def _not_pinned(node_id: int, witness: int, pinned: str | None, uuid: str) -> str:
    return (
        f"node {node_id} is pinned on node {witness} to replica uuid {pinned}, but its directory is {uuid}: "
        "it was wiped or exchanged, and what it acknowledged is not in it. Bring back the old directory"
    )


def _table(pins: Mapping[int, str]) -> str:
    return ", ".join(f"{node_id}={uuid[:8]}" for node_id, uuid in sorted(pins.items()))
