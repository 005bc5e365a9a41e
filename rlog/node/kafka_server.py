"""The client door: listens for Kafka clients and gives each request to its handler."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from rlog.errors import ProtocolError
from rlog.node.delete_records import handle_delete_records
from rlog.node.fetch import handle_fetch
from rlog.node.kafka_connection import SHED_SECONDS, Answers, Budget, Connection, Request
from rlog.node.list_offsets import handle_list_offsets
from rlog.node.metadata import (
    handle_api_versions,
    handle_describe_node,
    handle_find_coordinator,
    handle_init_producer_id,
    handle_join_group,
    handle_metadata,
)
from rlog.node.produce import handle_produce, handle_rlog_produce
from rlog.node.serving import ServedNode
from rlog.wire.kafka import Reader, apis, read_request_header

# How long `stop` waits for clients to take what is already written.
STOP_SECONDS = 1.0
SHED_INTERVAL_SECONDS = 1.0

HANDLERS: dict[int, Callable[[Request, Reader], None]] = {
    apis.PRODUCE: handle_produce,
    apis.FETCH: handle_fetch,
    apis.LIST_OFFSETS: handle_list_offsets,
    apis.METADATA: handle_metadata,
    apis.FIND_COORDINATOR: handle_find_coordinator,
    apis.JOIN_GROUP: handle_join_group,
    apis.DELETE_RECORDS: handle_delete_records,
    apis.INIT_PRODUCER_ID: handle_init_producer_id,
    apis.RLOG_PRODUCE: handle_rlog_produce,
}


class KafkaServer:
    """All client connections of a node. Made and used on the node's running loop."""

    def __init__(self, node: ServedNode) -> None:
        self.node = node
        self.loop = asyncio.get_running_loop()
        self.budget = Budget(node.config.clients_inflight_bytes_max)
        self.answers = Answers(node.config.clients_inflight_bytes_max)
        self.request_counts: Counter[tuple[int, int]] = Counter()  # by (API key, version), of those served
        self._connections: dict[Connection, None] = {}
        self._listener: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._shed: asyncio.TimerHandle | None = None
        self._all_gone: asyncio.Future[None] | None = None

    @property
    def port(self) -> int:
        """The port listened at; the one that was given when 0 was asked for."""
        assert self._listener is not None, "start() was not called"
        return int(self._listener.sockets[0].getsockname()[1])

    @property
    def kafka_address(self) -> tuple[str, int]:
        """Where this node tells clients to connect: as configured, or the port that was given."""
        host, port = self.node.config.kafka_address
        return host, port or self.port

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    async def start(self) -> None:
        """Listen at `config.listen_host:listen_port`. Raises OSError when that is not possible."""
        config = self.node.config
        self._listener = await self.loop.create_server(
            lambda: Connection(self), config.listen_host, config.listen_port
        )
        self._sweep_later()
        self._shed_later()

    async def stop(self) -> None:
        """Stop listening and close all connections. Returns within STOP_SECONDS and a bit."""
        for timer in (self._sweep, self._shed):
            if timer is not None:
                timer.cancel()
        if self._listener is not None:
            self._listener.close()
        self._all_gone = self.loop.create_future()
        if not self._connections:
            return
        for connection in list(self._connections):
            connection.close("this node stops", logging.INFO, cause="stopping")
        patience = self.loop.call_later(STOP_SECONDS, self._abort_all)
        await self._all_gone
        patience.cancel()

    def connected(self, connection: Connection) -> None:
        count_max = self.node.config.connection_count_max
        self._connections[connection] = None
        self.node.counters.clients_connected += 1
        if self._all_gone is not None:
            connection.close("this node stops", logging.INFO, cause="stopping")
        elif len(self._connections) > count_max:
            reason = f"there are {count_max} connections already (connection_count_max)"
            connection.close(reason, cause="refused")

    def disconnected(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        if self._all_gone is not None and not self._connections and not self._all_gone.done():
            self._all_gone.set_result(None)

    def handle(self, request: Request, reader: Reader) -> None:
        """Read the header and start the request. Raises ProtocolError when it is not one that is served."""
        api_key, version, correlation_id, _ = read_request_header(reader)
        request.api_key, request.version, request.correlation_id = api_key, version, correlation_id
        low, high = apis.RANGES.get(api_key, (0, -1))
        if low <= version <= high:
            self.request_counts[api_key, version] += 1
        elif api_key != apis.API_VERSIONS:
            raise ProtocolError("not served; the answer to ApiVersions tells what is")
        if api_key == apis.API_VERSIONS:
            handle_api_versions(request, reader)
        elif api_key == apis.DESCRIBE_NODE:
            handle_describe_node(request, reader, self.request_counts)
        else:
            HANDLERS[api_key](request, reader)

    def _abort_all(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    def _sweep_later(self) -> None:
        stall_seconds = self.node.config.client_stall_ms / 1000
        self._sweep = self.loop.call_later(stall_seconds / 4, self._sweep_now, stall_seconds)

    def _sweep_now(self, stall_seconds: float) -> None:
        now = self.loop.time()
        for connection in list(self._connections):
            connection.abort_if_stalled(now, stall_seconds)
        self._sweep_later()

    def _shed_later(self) -> None:
        self._shed = self.loop.call_later(SHED_INTERVAL_SECONDS, self._shed_now)

    def _shed_now(self) -> None:
        """While room is short, those that hold it must use it sooner."""
        now = self.loop.time()
        shed_seconds = min(SHED_SECONDS, self.node.config.client_stall_ms / 1000)
        if self.budget.waiting_count:
            for connection in list(self._connections):
                if connection.holds_room:
                    connection.abort_if_stalled(now, shed_seconds)
        if self.answers.is_short:
            self.answers.is_short = False
            for connection in list(self.answers.holders):
                connection.abort_if_stalled(now, shed_seconds)
        self._shed_later()
