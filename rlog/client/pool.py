"""Connections by (address, lane), opened when first needed and shared by all who ask.

A *lane* keeps traffic apart that would wait for each other, since a node answers in order: "control" for
short questions, "produce", and one per consumer, whose long polls hold their connection for as long as they
like.
"""

import asyncio
from collections.abc import Callable

from rlog.client.connection import Connection
from rlog.client.errors import ClientClosed, ConnectionLost, afresh
from rlog.client.settings import Address, ClientSettings
from rlog.client.tasks import Tasks, join
from rlog.errors import RlogError

Key = tuple[Address, str]


class Pool:
    """check_cluster: see Connection. on_overdue: called when a connection's oldest request waits too long."""

    def __init__(
        self,
        settings: ClientSettings,
        tasks: Tasks,
        *,
        check_cluster: Callable[[str | None], None],
        on_overdue: Callable[[Connection], None],
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._check_cluster = check_cluster
        self._on_overdue = on_overdue
        self._loop = asyncio.get_running_loop()
        self._connections: dict[Key, Connection] = {}  # opened or being opened
        self._opening: dict[Key, asyncio.Task[Connection | RlogError]] = {}
        self._is_closed = False

    def live(self, address: Address, lane: str) -> Connection | None:
        """The connection, when there is one to use at once."""
        connection = self._connections.get((address, lane))
        return connection if connection is not None and connection.usable and connection.versions else None

    async def get(self, address: Address, lane: str, deadline: float) -> Connection:
        """The connection, opened if need be; one attempt at a time, however many wait for it.

        Raises ConnectionLost, UnsupportedNode, ClientClosed.
        """
        if self._is_closed:
            raise ClientClosed("the client is closed")
        connection = self.live(address, lane)
        if connection is not None:
            return connection
        key = (address, lane)
        task = self._opening.get(key)
        if task is None:
            task = self._opening[key] = self._tasks.spawn(self._open(key), f"connect {address} {lane}")
        try:
            async with asyncio.timeout_at(deadline):
                opened = await join(task)
        except TimeoutError as error:
            raise ConnectionLost(f"{address} could not be reached in time", outcome="no") from error
        if isinstance(opened, RlogError):
            raise afresh(opened)
        return opened

    async def _open(self, key: Key) -> Connection | RlogError:
        """The error is the result: nobody may be waiting any more, and no error goes unseen."""
        connection = Connection(
            key[0],
            self._settings,
            check_cluster=self._check_cluster,
            on_lost=lambda lost: self._forget(key, lost),
            on_overdue=self._on_overdue,
        )
        self._connections[key] = connection
        try:
            await connection.open(self._loop.time() + self._settings.connect_timeout_ms / 1000)
        except RlogError as error:
            return error
        finally:
            del self._opening[key]
        return connection

    def _forget(self, key: Key, connection: Connection) -> None:
        if self._connections.get(key) is connection:
            del self._connections[key]

    async def drop(self, lane: str) -> None:
        """Close the connections of one lane, whoever uses them."""
        await self._abort([connection for key, connection in self._connections.items() if key[1] == lane])

    async def close(self) -> None:
        """Close all. Bounded: no connection is waited for longer than its transport takes to abort."""
        self._is_closed = True
        await self._abort(list(self._connections.values()))

    async def _abort(self, connections: list[Connection]) -> None:
        for connection in connections:
            connection.abort(ClientClosed("the client was closed meanwhile", outcome="unknown"))
        for connection in connections:
            await connection.wait_closed()
