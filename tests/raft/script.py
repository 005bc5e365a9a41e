"""A language for conversations between replicas; scripts are the files in `scripts/`, read by
`test_scripts.py`.

A script is prose (`#`), commands, a line `----`, and what happens, line by line. A blank line ends a block,
and the next block goes on in the same world. In a transcript `10@4` is a log boundary: offset 10, after a
record of generation 4.

    cluster N [leader=L] [NAME=VALUE]…
                                N empty replicas, started; L leads in generation 1, which is not told; NAME is
                                a field of RaftSettings
    replica N log=L [generation=G] [vote=V] [suspect]
                                stop replica N and start it anew on that disk; L is a list of batches
                                (generation x records), as 1x3,2x5 or 1x100*20 for twenty of a hundred
    trim N OFFSET               leader N deletes what is below OFFSET
    keep N                      N's disk has the log start that was asked for
    unlink N OFFSET             N's files below OFFSET go
    elect N                     let N's election timeout pass, then settle
    timeout N                   let time pass in silence until N's next deadline, and tick N alone
    wait MS                     let time pass; every replica ticks when due, and all settles after each tick
    tick N                      tick N alone, at its next deadline
    propose N COUNT…            leader N appends batches of so many records
    deliver|drop|double|hold [A->B] [KIND]
                                take the queued messages that match, in order; `hold` keeps them for
                                `release`; KIND: append, probe, reply, heartbeat, heartbeat-reply, anchor,
                                vote, vote-reply
    release                     queue the held messages again
    save N, flush N             N's disk finishes all votes, its log's flush
    begin N                     N's disk starts a flush that only `flush N` finishes
    settle                      deliver, save, keep, flush until nothing is left to do; tells all but messages
    part A B | C…               only replicas on one side of a bar hear each other;  heal  ends it
    mute A->B                   messages from A to B are lost;  heal  ends it
    crash N, start N            the process ends, and recovers from what was flushed
    reconnect A B               each learns that its connection to the other is new
    gone N, fail N              N's redial of the leader is refused; N's disk fails
    show [N…]                   the state of all or some replicas
    marks                       everybody's high-water mark
    traffic                     how many messages were sent since the last `traffic`
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import groupby

from rlog.raft.effects import (
    Cut,
    Effect,
    Fatal,
    HwmMoved,
    Install,
    Role,
    RoleChanged,
    SaveVote,
    Send,
    StartHeld,
    StartMoved,
    SuspectCleared,
    Write,
    WriteStart,
)
from rlog.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallAnchor,
    Message,
    VoteReply,
    VoteRequest,
)
from tests.raft.model import Batch, Envelope, ModelLog, Node, World

STEPS_MAX = 100_000


class ScriptWorld(World):
    """Nothing happens unless the script says so."""

    def __init__(self, count: int, **settings: int) -> None:
        super().__init__(count, 1, **settings)
        self.queue: list[Envelope] = []
        self.held: list[Envelope] = []
        self.deaf: set[tuple[int, int]] = set()
        # Nodes whose flush under way was begun by hand.
        self.begun: set[int] = set()
        self.told: list[str] = []
        self.sent_before = 0
        for node in self.nodes.values():
            self.start(node)

    def on_send(self, envelope: Envelope) -> None:
        self.queue.append(envelope)

    def on_event(self, node: Node, effect: Effect) -> None:
        if not isinstance(effect, Send):
            self.told.append(f"{node.node_id}: {describe_effect(effect)}")

    def fatal(self, node: Node, effect: Fatal) -> None:
        """A script may provoke one; it is told like anything else."""

    def up(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.replica is not None]

    def node(self, word: str) -> Node:
        return self.nodes[int(word)]

    # ---- messages ----------------------------------------------------------------------------------------

    def take(self, words: list[str]) -> list[Envelope]:
        """Remove the queued messages that the words name."""
        link = next((word for word in words if "->" in word), None)
        kinds = [word for word in words if "->" not in word and not word.isdigit()]
        count = next((int(word) for word in words if word.isdigit()), len(self.queue))
        chosen = [
            envelope
            for envelope in self.queue
            if link in (None, f"{envelope.sender}->{envelope.to}")
            and (not kinds or kind_of(envelope.message) in kinds)
        ][:count]
        self.queue = [envelope for envelope in self.queue if not any(envelope is each for each in chosen)]
        return chosen

    def do_deliver(self, *words: str) -> None:
        for envelope in self.take(list(words)):
            if self.hears(envelope):
                self.tell(envelope)
                self.deliver(envelope)

    def do_drop(self, *words: str) -> None:
        for envelope in self.take(list(words)):
            self.tell(envelope, "lost: ")

    def do_double(self, *words: str) -> None:
        for envelope in self.take(list(words)):
            self.queue += [envelope, envelope]

    def do_hold(self, *words: str) -> None:
        taken = self.take(list(words))
        assert taken, "nothing to hold"
        self.held += taken

    def do_release(self) -> None:
        self.queue += self.held
        self.held = []

    def hears(self, envelope: Envelope) -> bool:
        return (envelope.sender, envelope.to) not in self.deaf and self.nodes[envelope.to].replica is not None

    def tell(self, envelope: Envelope, prefix: str = "") -> None:
        message = envelope.message
        self.told.append(
            f"{prefix}{envelope.sender} -> {envelope.to} g{message.generation} {describe(message)}"
        )

    # ---- time and disks ----------------------------------------------------------------------------------

    def do_settle(self) -> None:
        for _ in range(STEPS_MAX):
            if self.queue:
                envelope = self.queue.pop(0)
                if self.hears(envelope):
                    self.deliver(envelope)
            elif unsaved := next((node for node in self.up() if node.unsaved), None):
                self.finish_save(unsaved)
            elif unkept := next((node for node in self.up() if node.unsaved_start > node.log_start), None):
                self.finish_start(unkept)
            elif dirty := next((node for node in self.up() if self.has_flush(node)), None):
                self.finish_flush(dirty)
            else:
                return
        raise AssertionError("it does not settle")

    def has_flush(self, node: Node) -> bool:
        return node.node_id not in self.begun and node.log.start_flush()

    def do_tick(self, word: str) -> None:
        node = self.node(word)
        self.now = max(self.now, node.alive.deadline)
        self.tick(node)

    do_timeout = do_tick

    def do_elect(self, word: str) -> None:
        self.do_tick(word)
        self.do_settle()

    def do_wait(self, word: str) -> None:
        until = self.now + float(word.removesuffix("ms")) / 1000
        for _ in range(STEPS_MAX):
            node = min(self.up(), key=lambda each: each.alive.deadline)
            if node.alive.deadline > until:
                self.now = until
                return
            self.now = max(self.now, node.alive.deadline)
            self.tick(node)
            self.do_settle()
        raise AssertionError("time does not pass")

    def do_save(self, word: str) -> None:
        self.finish_save(self.node(word))

    def do_keep(self, word: str) -> None:
        self.finish_start(self.node(word))

    def do_trim(self, word: str, offset: str) -> None:
        self.trim(self.node(word), int(offset))

    def do_unlink(self, word: str, offset: str) -> None:
        self.drop_files(self.node(word), int(offset))

    def do_begin(self, word: str) -> None:
        assert self.node(word).log.start_flush(), "nothing to flush"
        self.begun.add(int(word))

    def do_flush(self, word: str) -> None:
        node = self.node(word)
        if node.node_id in self.begun:
            self.begun.discard(node.node_id)
        else:
            assert node.log.start_flush(), "nothing to flush"
        if not self.finish_flush(node):
            self.told.append(f"{node.node_id}: ignored a flush that is older than a cut")

    # ---- the world ---------------------------------------------------------------------------------------

    def do_propose(self, word: str, *counts: str) -> None:
        self.propose(self.node(word), [int(count) for count in counts])

    def do_part(self, *words: str) -> None:
        sides = [set(map(int, side.split())) for side in " ".join(words).split("|")]
        self.deaf |= {
            (a, b)
            for a in self.voters
            for b in self.voters
            if not any({a, b} <= side for side in sides) and a != b
        }

    def do_mute(self, link: str) -> None:
        sender, to = link.split("->")
        self.deaf.add((int(sender), int(to)))

    def do_heal(self) -> None:
        self.deaf.clear()

    def do_crash(self, word: str) -> None:
        self.crash(self.node(word))

    def do_start(self, word: str) -> None:
        self.start(self.node(word))

    def do_reconnect(self, *words: str) -> None:
        for mine, other in (words, reversed(words)):
            node = self.node(mine)
            node.alive.peer_lost(self.now, int(other))
            node.alive.peer_connected(self.now, int(other))
            self.settle(node)

    def do_gone(self, word: str) -> None:
        self.node(word).alive.leader_gone(self.now)
        self.settle(self.node(word))

    def do_fail(self, word: str) -> None:
        self.node(word).log.is_failed = True
        self.node(word).alive.storage_failed(self.now, "EIO")
        self.settle(self.node(word))

    def do_replica(self, word: str, *words: str) -> None:
        options = dict(word.split("=") if "=" in word else (word, "yes") for word in words)
        node = self.node(word)
        batches = read_log(options.pop("log", ""))
        last = batches[-1].generation if batches else 0
        node.vote = (int(options.pop("generation", last)), int(options.pop("vote", 0)))
        node.suspect = options.pop("suspect", "") == "yes"
        assert not options, options
        self.crash(node)
        node.log = ModelLog()
        for batch in batches:
            self.append(node, batch)
        node.log.disk = batches
        self.start(node)

    # ---- questions ---------------------------------------------------------------------------------------

    def do_show(self, *words: str) -> None:
        for node in self.nodes.values():
            if words and str(node.node_id) not in words:
                continue
            if node.replica is None:
                self.told.append(f"{node.node_id}: down")
                continue
            replica = node.replica
            log = write_log(node.log.batches) or "empty"
            serving = ", serving" if replica.serving else ""
            suspect = ", suspect" if replica.suspect else ""
            start = f", starts at {replica.log_start}" if replica.log_start else ""
            self.told.append(
                f"{node.node_id}: {replica.role.value} in {replica.generation}, leader {replica.leader}, "
                f"log {log}, flushed {replica.flushed_offset}, hwm {replica.hwm}"
                f"{start}{serving}{suspect}"
            )

    def do_marks(self) -> None:
        marks = " ".join(f"{node.node_id}={node.alive.hwm}" for node in self.up())
        self.told.append(f"high-water mark: {marks}")

    def do_traffic(self) -> None:
        self.told.append(f"{self.messages_sent - self.sent_before} messages")
        self.sent_before = self.messages_sent


# ---- notation ----------------------------------------------------------------------------------------------


def read_log(text: str) -> list[Batch]:
    """1x3,2x100*20: a batch of 3 records of generation 1, then twenty of a hundred of generation 2."""
    batches: list[Batch] = []
    end = 0
    for word in filter(None, text.split(",")):
        generation, records, times = map(int, re.fullmatch(r"(\d+)x(\d+)(?:\*(\d+))?", word).groups("1"))
        for _ in range(times):
            batches.append(Batch(end, end + records, generation, f"given {end} {generation}"))
            end += records
    return batches


def write_log(batches: list[Batch]) -> str:
    """Runs of equal batches, as `read_log` reads them."""
    words = []
    for (generation, records), group in groupby(
        batches, lambda batch: (batch.generation, batch.end - batch.base)
    ):
        times = len(list(group))
        words.append(f"{generation}x{records}" + (f"*{times}" if times > 1 else ""))
    return ",".join(words)


def kind_of(message: Message) -> str:
    if isinstance(message, Append):
        return "append" if message.end_offset > message.prev_offset else "probe"
    names: dict[type, str] = {
        AppendReply: "reply",
        Heartbeat: "heartbeat",
        HeartbeatReply: "heartbeat-reply",
        InstallAnchor: "anchor",
    }
    return names.get(type(message), "vote" if isinstance(message, VoteRequest) else "vote-reply")


def describe(message: Message) -> str:
    kind = kind_of(message)
    if isinstance(message, Append):
        upto = f"..{message.end_offset} of {message.span_generation}" if kind == "append" else ""
        return f"{kind} {message.prev_offset}@{message.prev_generation}{upto} hwm {message.hwm}"
    if isinstance(message, InstallAnchor):
        return f"anchor {message.offset}@{message.anchor_generation}"
    if isinstance(message, Heartbeat):
        return f"heartbeat {message.prev_offset}@{message.prev_generation} hwm {message.hwm}"
    if isinstance(message, (AppendReply, HeartbeatReply)):
        if message.accepted:
            return f"{kind} holds {message.match_offset} flushed {message.flushed_offset}"
        return f"{kind} no, try {message.conflict_offset}@{message.conflict_generation}"
    pre = "pre-" if message.pre else ""
    if isinstance(message, VoteRequest):
        return f"{pre}vote? {message.log_end}@{message.last_generation}"
    assert isinstance(message, VoteReply)
    suspect = " (suspect)" if message.suspect else ""
    return f"{pre}vote {'yes' if message.granted else 'no'}{suspect}"


def describe_effect(effect: Effect) -> str:
    if isinstance(effect, RoleChanged):
        who = f" of {effect.leader}" if effect.role is Role.FOLLOWER and effect.leader else ""
        return f"{effect.role.value}{who} in {effect.generation}: {effect.reason}"
    if isinstance(effect, SaveVote):
        return f"save generation {effect.generation} vote {effect.vote}"
    if isinstance(effect, Cut):
        return f"cut at {effect.offset}"
    if isinstance(effect, Write):
        return f"write {effect.base_offset}..{effect.end_offset} of {effect.generation}"
    if isinstance(effect, WriteStart):
        return f"write start of {effect.generation} at {effect.offset}"
    if isinstance(effect, HwmMoved):
        return f"committed {effect.hwm}"
    if isinstance(effect, Install):
        return f"install anchor {effect.offset}@{effect.generation}"
    if isinstance(effect, StartMoved):
        return f"log start {effect.log_start}"
    if isinstance(effect, StartHeld):
        return f"log start {effect.log_start} held by a majority"
    if isinstance(effect, SuspectCleared):
        return "suspect no more"
    assert isinstance(effect, Fatal)
    return f"FATAL {effect.reason}"


# ---- running -----------------------------------------------------------------------------------------------


class Script:
    """One file: blocks of commands with the transcript that each must give."""

    def __init__(self, text: str) -> None:
        self.blocks = [block for block in re.split(r"\n\s*\n", text.strip()) if block]
        self.world: ScriptWorld | None = None

    def run(self) -> str:
        """The text with the transcripts as they are."""
        return "\n\n".join(self.run_block(block) for block in self.blocks) + "\n"

    def run_block(self, block: str) -> str:
        head = block.split("\n----")[0]
        commands = [line for line in head.split("\n") if line and not line.startswith("#")]
        if not commands:
            return head
        for line in commands:
            self.command(*line.split())
        assert self.world is not None
        told, self.world.told = self.world.told, []
        return "\n".join([head, "----", *told])

    def command(self, name: str, *words: str) -> None:
        if name == "cluster":
            settings = {key: int(value) for key, value in (word.split("=") for word in words[1:])}
            leader = settings.pop("leader", 0)
            self.world = ScriptWorld(int(words[0]), **settings)
            if leader:
                self.world.do_elect(str(leader))
                self.world.told.clear()
            return
        act: Callable[..., None] = getattr(self.world, f"do_{name}")
        act(*words)
        assert self.world is not None
        assert self.world.now < math.inf, "no deadline to wait for"
