"""Finds the way: who leads a partition, over which connection, and what to do while nobody does.

Metadata comes from any node that answers, bootstrap addresses included. A refresh asks one node after the
other until one answers, starting with a different one each time: a node that is up but behind the others must
not be asked twice in a row. A node that failed to answer is asked last for a while. How long one node may
take doubles with each round in which none answered.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from rlog.client.connection import Connection
from rlog.client.errors import (
    ClientClosed,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    NotConnected,
    Retriable,
    UnknownTopic,
    WrongCluster,
    afresh,
)
from rlog.client.home import Home
from rlog.client.metadata import MetadataCache, Node
from rlog.client.pool import Pool
from rlog.client.retry import Backoff
from rlog.client.settings import Address, ClientSettings
from rlog.client.tasks import Tasks, join
from rlog.errors import ProtocolError, RlogError
from rlog.wire.kafka import apis
from rlog.wire.kafka.messages import MetadataResponse
from rlog.wire.kafka.metadata import decode_metadata_response, encode_metadata_request

T = TypeVar("T")

CONTROL: Final = "control"
PRODUCE: Final = "produce"
UNANSWERED: Final = "produce without answers"
# A topic just created is not known to every node at once: so many answers in a row deny it.
UNKNOWN_TOPIC_ANSWERS: Final = 6
# A node that did not answer is asked after the others for this long.
SHUN_SECONDS: Final = 2.0


class Listener(Protocol):
    def leaders_changed(self) -> None:
        """New metadata came; some leader may be another than before. Must not block or raise."""


class Router:
    """One per cluster object. All calls are made on the loop on which it was created."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.home = Home()
        self.loop = self.home.loop
        self.tasks = Tasks()
        self.cache = MetadataCache()
        self.pool = Pool(
            settings, self.tasks, check_cluster=self.cache.check_cluster, on_overdue=self._overdue
        )
        self.is_closed = False
        self._listeners: dict[Listener, None] = {}
        self._refreshing: asyncio.Task[RlogError | None] | None = None
        self._turn = settings.random.randrange(len(settings.bootstrap))
        self._shunned_until: dict[Address, float] = {}
        self._failures: dict[Address, str] = {}  # of the nodes asked since one answered
        self._patience_ms = settings.suspect_after_ms

    async def start(self, deadline: float) -> None:
        """Hear from one node. Raises NotConnected at the deadline, with each address and its error."""
        await self.retry("connecting to the cluster", self.refresh, deadline)

    def _overdue(self, connection: Connection) -> None:
        """An answer is late: somebody else may lead by now."""
        self.refresh_soon()

    async def close(self) -> None:
        """End every task and connection. Bounded, and safe to call twice."""
        self.is_closed = True
        await self.tasks.close()
        await self.pool.close()

    def check_open(self) -> None:
        """Raises ClientClosed, or WrongLoop and ForkedProcess where the client does not live."""
        self.home.check()
        if self.is_closed:
            raise ClientClosed("the cluster is closed; connect again")

    def share_of(self, deadline: float) -> float:
        """When to give up on one node: one that hangs costs half of the time left, never all of it."""
        now = self.loop.time()
        return now + max(0.0, deadline - now) / 2

    def deadline(self, timeout_ms: int | None) -> float:
        """Loop seconds at which a call that starts now has to end."""
        self.check_open()
        return (
            self.loop.time() + (self.settings.request_timeout_ms if timeout_ms is None else timeout_ms) / 1000
        )

    def listen(self, listener: Listener) -> None:
        self._listeners[listener] = None

    def unlisten(self, listener: Listener) -> None:
        self._listeners.pop(listener, None)

    # -- retrying

    async def retry(self, what: str, attempt: Callable[[float], Awaitable[T]], deadline: float) -> T:
        """The first result of `attempt(deadline)`; Retriable errors are tried again until the deadline.

        Raises DeadlineExceeded (`__cause__`: the last error), and at once what is not Retriable.
        """
        backoff = Backoff(self.settings)
        is_unknown = False
        while True:
            try:
                return await attempt(deadline)
            except (Retriable, DeadlineExceeded) as error:
                last = error
                is_unknown = is_unknown or error.outcome == "unknown"
            if self.loop.time() < deadline and not self.is_closed:
                await backoff.wait(deadline)
            self.check_open()
            if self.loop.time() >= deadline:
                kind = NotConnected if isinstance(last, NotConnected) else DeadlineExceeded
                raise kind(
                    f"{what}: the deadline passed; last: {last}", outcome="unknown" if is_unknown else "no"
                ) from last

    # -- metadata

    async def refresh(self, deadline: float) -> None:
        """Ask for metadata, or join whoever asks already. Raises NotConnected when no node answered."""
        self.check_open()
        try:
            async with asyncio.timeout_at(deadline):
                error = await join(self.refresh_soon())
        except TimeoutError as timeout:
            raise self._not_connected() from timeout
        if error is not None:
            raise afresh(error)

    def refresh_soon(self) -> "asyncio.Task[RlogError | None]":
        if self._refreshing is None:
            self._refreshing = self.tasks.spawn(self._refresh(), "refresh metadata")
        return self._refreshing

    async def _refresh(self) -> RlogError | None:
        strangers: list[WrongCluster] = []
        candidates = self._candidates()
        try:
            for address in candidates:
                try:
                    self.cache.take(await self._ask_metadata(address))
                except (ClientError, ProtocolError) as error:
                    if isinstance(error, WrongCluster):
                        strangers.append(error)
                    self._failures[address] = str(error)
                    self._shunned_until[address] = self.loop.time() + SHUN_SECONDS
                    continue
                self._shunned_until.pop(address, None)
                self._failures.clear()
                self._patience_ms = self.settings.suspect_after_ms
                break
            else:
                self._patience_ms = min(2 * self._patience_ms, self.settings.request_timeout_ms)
                if len(strangers) == len(candidates):
                    return strangers[0]  # nobody of ours is left: waiting would not help
                return self._not_connected()
        finally:
            self._refreshing = None
        for listener in list(self._listeners):
            listener.leaders_changed()
        return None

    def _not_connected(self) -> NotConnected:
        failures = "; ".join(f"{address}: {why}" for address, why in sorted(self._failures.items()))
        return NotConnected(f"no node answered ({failures or 'all are silent'}); check that the nodes run")

    def _candidates(self) -> list[Address]:
        """All known addresses once, each refresh from the next one on, the silent ones last."""
        known = [node.address for node in self.cache.nodes.values()]
        addresses = list(dict.fromkeys([*known, *self.settings.bootstrap]))
        self._turn = (self._turn + 1) % len(addresses)
        turned = addresses[self._turn :] + addresses[: self._turn]
        now = self.loop.time()
        return sorted(turned, key=lambda address: self._shunned_until.get(address, 0.0) > now)

    async def _ask_metadata(self, address: Address) -> MetadataResponse:
        deadline = self.loop.time() + self._patience_ms / 1000
        connection = await self.pool.get(address, CONTROL, deadline)
        version = connection.version(apis.METADATA)
        topics = list(self.cache.topics)
        frame = await connection.request(
            lambda correlation: encode_metadata_request(
                correlation, self.settings.client_id, topics, version=version
            ),
            deadline,
        )
        return decode_metadata_response(frame, version)

    async def load_topic(self, topic: str, deadline: float) -> int:
        """The number of partitions of a topic. Raises UnknownTopic, DeadlineExceeded."""

        async def attempt(deadline: float) -> int:
            self.cache.want(
                topic
            )  # each time: another lookup of a topic that is none ends with forgetting it
            if not self.cache.knows(topic):
                await self.refresh(deadline)
            return self._count_or_retry(topic)

        return await self.retry(f"looking up topic {topic!r}", attempt, deadline)

    def _count_or_retry(self, topic: str) -> int:
        if self.cache.knows(topic):
            return self.cache.partition_count(topic)
        if self.cache.is_unknown(topic, UNKNOWN_TOPIC_ANSWERS):
            self.cache.topics.pop(topic, None)
            raise UnknownTopic(topic)
        raise Retriable(f"no node has told about topic {topic!r} yet")

    # -- leaders

    async def leader_once(self, topic: str, partition: int, deadline: float) -> tuple[Node, int]:
        """The leader and its generation, after one refresh if need be. Raises LeaderUnavailable, and as
        `load_topic`.
        """
        await self.load_topic(topic, deadline)
        self.cache.check_partition(topic, partition)
        try:
            return self.cache.leader(topic, partition)
        except Retriable:
            await self.refresh(deadline)
        return self.cache.leader(topic, partition)

    async def connection_once(self, topic: str, partition: int, lane: str, deadline: float) -> Connection:
        """A connection to the leader: one attempt, whose failure makes the next one ask who leads."""
        node, _ = await self.leader_once(topic, partition, deadline)
        try:
            return await self.pool.get(node.address, lane, deadline)
        except (ConnectionLost, WrongCluster):
            self.cache.doubt(topic, partition)
            raise

    async def ask_any(
        self, what: str, ask: Callable[[Connection, float], Awaitable[T]], deadline: float
    ) -> T:
        """Put a question to any node that answers, until the deadline.

        What one node refuses another may grant: the error is raised once every node has refused.
        """
        refused: set[Address] = set()

        async def attempt(deadline: float) -> T:
            candidates = self._candidates()
            address = next((each for each in candidates if each not in refused), candidates[0])
            limit = min(deadline, self.loop.time() + 4 * self._patience_ms / 1000)
            try:
                return await ask(await self.pool.get(address, CONTROL, limit), limit)
            except ClientClosed:
                raise
            except (ClientError, ProtocolError) as error:
                self._shunned_until[address] = self.loop.time() + SHUN_SECONDS
                if isinstance(error, Retriable | DeadlineExceeded):
                    raise
                refused.add(address)
                if refused.issuperset(candidates):
                    raise
                raise Retriable(str(error)) from error

        return await self.retry(what, attempt, deadline)


def expect_one(topics: list[tuple[str, list[T]]], what: str) -> T:
    """The one partition of an answer about one partition; raises ProtocolError when it is not that."""
    if len(topics) != 1 or len(topics[0][1]) != 1:
        raise ProtocolError(f"{what}: the answer is not about exactly one partition")
    return topics[0][1][0]
