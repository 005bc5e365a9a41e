"""Who may be a peer, and when the first boot is over (SAFETY 20). Nodes here are Identity objects that talk
directly; what they save is 'fsynced' when the test says so."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from rlog.config import NodeConfig, PeerAddress
from rlog.errors import ConfigurationError, DataDirectoryError, RlogError
from rlog.node.identity import Identity, PeerRefusedError
from rlog.wire.peer import CONTROL, YOURS, Hello, Refusal


@dataclass
class Store:
    """A data directory: what survives is what `fsync` was called for."""

    replica_uuid: str
    incarnation: int = 1
    pins: dict[int, str] = field(default_factory=dict)
    pins_confirmed: bool = False
    peer_incarnations: dict[int, int] = field(default_factory=dict)
    sequence: int = 0

    def save_pins(self, pins: dict[int, str]) -> int:
        self.pins = dict(pins)
        return self._next()

    def confirm_pins(self) -> int:
        self.pins_confirmed = True
        return self._next()

    def save_peer_incarnation(self, node_id: int, incarnation: int) -> int:
        self.peer_incarnations[node_id] = incarnation
        return self._next()

    def _next(self) -> int:
        self.sequence += 1
        return self.sequence


class Member:
    def __init__(self, node_id: int, store: Store, *, voters: int = 3, **settings) -> None:
        peers = {n: PeerAddress("h", n, "h", n) for n in range(1, voters + 1) if n != node_id}
        values = {"cluster_id": "c", "topics": {"orders": 3}} | settings
        self.config = NodeConfig(node_id=node_id, data_dir="d", peers=peers, **values)
        self.store = store
        self.waiting: list[Callable[[], None]] = []
        self.fsynced = store.sequence
        self.began = 0
        self.announced = 0
        self.failures: list[RlogError] = []
        self.identity = Identity(
            self.config,
            store,
            random=Random(0),
            when_saved=self._when_saved,
            announce=self._announce,
            confirmed_now=self._begin,
            failed=self.failures.append,
        )

    def _when_saved(self, sequence: int, callback: Callable[[], None]) -> None:
        if sequence <= self.fsynced:
            callback()
        else:
            self.waiting.append(callback)

    def _announce(self) -> None:
        self.announced += 1

    def _begin(self) -> None:
        self.began += 1

    def fsync(self) -> None:
        self.fsynced = self.store.sequence
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()

    def hello(self, target: int) -> Hello:
        return self.identity.hello(target=target, channel=CONTROL)

    def tell(self, other: "Member", *, is_answer: bool = False) -> bool:
        """Say hello; whether it was accepted at once."""
        accepted: list[bool] = []
        hello = self.hello(other.identity.node_id)
        other.identity.receive(hello, lambda: accepted.append(True), is_answer=is_answer)
        return bool(accepted)


def fresh(node_id: int, **settings) -> Member:
    return Member(node_id, Store(f"{node_id:032x}"), **settings)


def pinned(node_id: int, *, uuid: int | None = None, **settings) -> Member:
    table = {n: f"{n:032x}" for n in (1, 2, 3)}
    store = Store(f"{uuid or node_id:032x}", incarnation=5, pins=table, pins_confirmed=True)
    return Member(node_id, store, **settings)


def exchange(members: list[Member], rounds: int = 4) -> None:
    """Everybody says hello to everybody, and everything is fsynced, until nothing is left to say."""
    for _ in range(rounds):
        for sender in members:
            for receiver in members:
                if sender is not receiver:
                    sender.tell(receiver)
        for member in members:
            member.fsync()


def test_the_first_boot_pins_one_table_and_then_consensus_begins_once():
    members = [fresh(1), fresh(2), fresh(3)]
    exchange(members)
    table = {n: f"{n:032x}" for n in (1, 2, 3)}
    assert [member.store.pins for member in members] == [table] * 3
    assert [member.began for member in members] == [1, 1, 1]
    assert not any(member.failures for member in members)


def test_nothing_begins_while_one_of_the_configured_nodes_was_never_seen():
    one, two = fresh(1), fresh(2)
    exchange([one, two], rounds=10)
    assert (one.began, two.began) == (0, 0)
    assert one.store.pins == {}


def test_pins_are_announced_only_once_they_are_fsynced():
    members = [fresh(1), fresh(2), fresh(3)]
    one = members[0]
    for other in members[1:]:
        other.tell(one)
    assert one.store.pins, "it has queued the table"
    assert one.hello(2).pins == {}
    one.fsync()
    assert one.hello(2).pins == one.store.pins
    assert one.announced == 1


def test_a_node_that_pinned_does_not_begin_before_every_voter_has_pinned():
    members = [fresh(1), fresh(2), fresh(3)]
    one, two, three = members
    for sender in members:
        for receiver in members:
            if sender is not receiver:
                sender.tell(receiver)
    one.fsync()
    two.fsync()
    for _ in range(3):
        one.tell(two)
        two.tell(one)
        one.fsync()
        two.fsync()
    assert (one.began, two.began) == (0, 0), "node 3 has not fsynced the table"
    exchange([one, two, three])
    assert [member.began for member in members] == [1, 1, 1]


def test_a_hello_that_was_overtaken_takes_nothing_back():
    """A peer says hello on two connections; the one without its pins may arrive last."""
    members = [fresh(1), fresh(2), fresh(3)]
    one, two, three = members
    early = {sender.identity.node_id: sender.hello(1) for sender in (two, three)}
    for sender in members:
        for receiver in members:
            if sender is not receiver:
                sender.tell(receiver)
    for member in members:
        member.fsync()
    for sender in (two, three):
        sender.tell(one)
        one.identity.receive(early[sender.identity.node_id], lambda: None)
        one.fsync()
    assert one.began == 1


def test_one_confirmed_voter_proves_it_to_a_node_that_crashed_before_it_knew():
    late = Member(3, Store(f"{3:032x}", incarnation=2, pins={n: f"{n:032x}" for n in (1, 2, 3)}))
    one = pinned(1)
    one.tell(late)
    late.fsync()
    late.fsync()
    assert (late.began, late.store.pins_confirmed) == (1, True)


def test_a_confirmed_node_needs_nobody():
    one = pinned(1)
    one.identity.start()
    assert one.identity.confirmed


def test_a_single_node_confirms_itself():
    alone = fresh(1, voters=1)
    alone.identity.start()
    alone.fsync()
    alone.fsync()
    assert alone.began == 1


def test_a_wiped_node_is_refused_by_name_and_stops():
    one, wiped = pinned(1), Member(2, Store("f" * 32))
    with pytest.raises(PeerRefusedError, match="node 2 is pinned on node 1") as refused:
        wiped.tell(one)
    wiped.identity.refused_by(1, refused.value.refusal)
    assert isinstance(wiped.failures[0], DataDirectoryError)
    assert "Bring back the old directory" in str(wiped.failures[0])
    assert not one.failures


def test_a_wiped_node_also_learns_it_from_the_others_hello():
    one, wiped = pinned(1), Member(2, Store("f" * 32))
    with pytest.raises(PeerRefusedError, match="node 2 is pinned on node 1"):
        one.tell(wiped)
    assert isinstance(wiped.failures[0], DataDirectoryError)


def test_wiped_and_fresh_nodes_together_are_no_cluster():
    """Nodes 1 and 2 committed while 3 never ran is impossible (the first boot needs 3); 2 and 3 both wiped
    find no third empty node, and node 1 refuses both."""
    wiped = [Member(2, Store("e" * 32)), Member(3, Store("f" * 32))]
    exchange(wiped, rounds=10)
    assert [member.began for member in wiped] == [0, 0]
    one = pinned(1)
    for member in wiped:
        with pytest.raises(PeerRefusedError):
            member.tell(one)


def test_an_old_copy_of_a_data_directory_is_refused():
    one, two = pinned(1), pinned(2)
    two.tell(one)
    one.fsync()
    assert one.store.peer_incarnations == {2: two.identity.incarnation}
    assert two.tell(one), "the same start again: another connection of it"
    for count, drawn in ((4, 0), (5, 1)):
        two.store.incarnation = count
        copy = Member(2, two.store)
        copy.identity.incarnation += drawn
        with pytest.raises(PeerRefusedError, match=f"incarnation {count}, but another 5 was seen"):
            copy.tell(one)
    two.store.incarnation = 6
    Member(2, two.store).tell(one)


def test_a_new_incarnation_is_accepted_only_once_it_is_fsynced():
    one, two = pinned(1), pinned(2)
    accepted: list[int] = []
    one.identity.receive(two.hello(1), lambda: accepted.append(1))
    one.identity.receive(two.hello(1), lambda: accepted.append(2))
    assert accepted == [], "neither the first connection nor the second"
    one.fsync()
    assert accepted == [1, 2]
    assert two.tell(one), "known now: accepted at once"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"topics": {"orders": 4}}, "topics differ: orders:3 on node 1, orders:4 on node 2"),
        ({"topics": {"orders": 3, "x": 1}}, "topics differ: x:0 on node 1, x:1 on node 2"),
        ({"voters": 4}, r"voters differ: \[1, 2, 3\] on node 1, \[1, 2, 3, 4\] on node 2"),
        ({"cluster_id": "d"}, "cluster_id is 'c' on node 1, 'd' on node 2"),
    ],
)
def test_a_difference_is_named(settings, complaint):
    with pytest.raises(PeerRefusedError, match=complaint):
        fresh(2, **settings).tell(fresh(1))


def test_at_the_first_boot_one_difference_stops_both():
    one, two = fresh(1), fresh(2, topics={"orders": 4})
    with pytest.raises(PeerRefusedError) as refused:
        two.tell(one)
    two.identity.refused_by(1, refused.value.refusal)
    assert [type(failure) for failure in one.failures + two.failures] == [ConfigurationError] * 2


def test_later_a_node_stops_when_those_that_may_agree_are_no_majority():
    odd, one, two = pinned(3, topics={"orders": 4}), pinned(1), pinned(2)
    for other in (one, two):
        assert odd.failures == []
        with pytest.raises(PeerRefusedError):
            other.tell(odd)
    assert "topics differ" in str(odd.failures[0])


def test_that_a_node_accepts_its_peers_does_not_hide_that_they_refuse_it():
    old = pinned(1)
    for peer in (pinned(2), pinned(3)):
        peer.tell(old)
        old.identity.refused_by(peer.identity.node_id, Refusal("an old copy", YOURS))
        peer.tell(old)
    assert isinstance(old.failures[0], DataDirectoryError)


def test_a_node_that_agreed_with_a_majority_goes_on():
    one, two = pinned(1), pinned(2)
    two.tell(one, is_answer=True)
    one.fsync()
    for node_id in (2, 3):
        with pytest.raises(PeerRefusedError):
            pinned(node_id, topics={"orders": 4}).tell(one)
    assert one.failures == []


def test_a_stranger_stops_nobody():
    one = fresh(1)
    with pytest.raises(PeerRefusedError, match="node 9 is no peer of node 1"):
        Member(9, Store("9" * 32)).tell(one)
    assert one.failures == []


def test_tables_that_differ_are_named():
    one, two = pinned(1), pinned(2)
    two.store.pins[3] = "d" * 32
    other = Member(2, two.store)
    with pytest.raises(
        PeerRefusedError, match=r"pin tables differ: .*3=00000000 on node 1, .*3=dddddddd on node 2"
    ):
        other.tell(one)


def test_a_data_directory_of_another_node_does_not_start():
    foreign = Member(1, pinned(2).store)
    with pytest.raises(DataDirectoryError, match="belongs to"):
        foreign.identity.start()
