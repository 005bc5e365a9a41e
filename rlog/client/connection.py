"""One TCP connection to a node: requests go out, answers come back in the same order.

A connection is used from the loop only and never blocks. Each request has a *deadline*: an answer later than
that ends the connection, since answers are in order and nothing behind it can be trusted to come. Earlier, at
`overdue`, the owner is told, so that it can ask other nodes whether this one still leads.

`abort` is synchronous: when it returns, every pending request has been answered with the error, in order, no
later answer will be delivered, and who asked for it with `watch` knows.

Requests that get no answer (acks=0) have a connection of their own: `post` reports when the socket took them.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, cast

from rlog.client.errors import ConnectionLost, DeadlineExceeded, UnsupportedNode, afresh
from rlog.client.settings import Address, ClientSettings
from rlog.errors import ProtocolError, RlogError
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka._hot import FrameReceiver, correlation_id
from rlog.wire.kafka.api_versions import decode_api_versions_response, encode_api_versions_request
from rlog.wire.kafka.messages import Buffer
from rlog.wire.kafka.metadata import decode_metadata_response, encode_metadata_request

# What this client can encode: lowest and highest version of each request. What it sends is the highest that
# the node speaks too.
SPOKEN: Final[dict[int, tuple[int, int]]] = {
    apis.PRODUCE: (3, 7),
    apis.FETCH: (4, 11),
    apis.LIST_OFFSETS: (1, 4),
    apis.METADATA: (1, 8),
    apis.DELETE_RECORDS: (0, 1),
    apis.INIT_PRODUCER_ID: (0, 1),
    apis.DESCRIBE_NODE: (0, 0),
    apis.RLOG_PRODUCE: (0, 0),
}
# Brokers answer this one to everybody; version 2 is the last with a fixed layout.
API_VERSIONS_VERSION: Final = 2
# Above the largest answer a client asks for, and above Kafka's default fetch limit of 55 MiB.
RESPONSE_BYTES_MAX: Final = 128 * 1024 * 1024

Done = Callable[[Buffer | None, RlogError | None], None]
Written = Callable[[RlogError | None], None]
Encode = Callable[[int], list[Buffer]]


class _Pending(NamedTuple):
    """Times are loop seconds. Exactly one call of `done(frame, error)` ends it."""

    correlation: int
    overdue_at: float
    deadline: float
    done: Done


class Connection(asyncio.BufferedProtocol):
    """See the module. check_cluster(cluster id) raises WrongCluster for a node of another cluster."""

    def __init__(
        self,
        address: Address,
        settings: ClientSettings,
        *,
        check_cluster: Callable[[str | None], None],
        on_lost: Callable[["Connection"], None],
        on_overdue: Callable[["Connection"], None],
    ) -> None:
        self.address = address
        self.error: RlogError | None = None  # why it ended; None while it is usable
        self.versions: dict[int, int] = {}
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._check_cluster = check_cluster
        self._on_lost = on_lost
        self._on_overdue = on_overdue
        self._receiver = FrameReceiver(RESPONSE_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._correlation = 0
        self._pending: deque[_Pending] = deque()
        self._unwritten: list[Written] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = self._loop.create_future()
        self._watchers: list[Callable[[RlogError], None]] = []

    @property
    def usable(self) -> bool:
        return self.error is None and self._transport is not None

    @property
    def is_overdue(self) -> bool:
        """The oldest request has waited longer for its answer than a healthy node takes."""
        return bool(self._pending) and self._loop.time() >= self._pending[0].overdue_at

    async def open(self, deadline: float) -> None:
        """Connect and learn which versions the node speaks.

        Raises ConnectionLost, WrongCluster, or UnsupportedNode when it lacks what this client needs. Whatever
        happens, cancellation included, a connection that is not usable afterwards is closed.
        """
        try:
            async with asyncio.timeout_at(deadline):
                await self._connect()
                frame = await self.request(self._encode_hello, deadline)
                versions = self._usable_versions(frame)
                await self._meet_cluster(versions[apis.METADATA], deadline)
            self.versions = versions
        except TimeoutError as error:
            self.abort(
                ConnectionLost(f"{self.address} did not answer in time; is the node up and reachable?")
            )
            raise self._reason() from error
        except OSError as error:
            self.abort(ConnectionLost(f"cannot connect to {self.address}: {error}"))
            raise self._reason() from error
        except RlogError as error:
            self.abort(error)
            raise
        finally:
            if not self.versions:
                self.abort(ConnectionLost(f"opening the connection to {self.address} was given up"))

    async def _connect(self) -> None:
        """Raises ConnectionLost for what is no host name or no port, too: a node may advertise such."""
        host, port = self.address
        try:
            await self._loop.create_connection(lambda: self, host, port)
        except (ValueError, OverflowError) as error:
            raise ConnectionLost(f"{self.address} is no address: {error}", outcome="no") from error

    def _reason(self) -> RlogError:
        if self.error is not None:
            return afresh(self.error)
        return ConnectionLost(f"the connection to {self.address} ended")

    def _encode_hello(self, correlation: int) -> list[Buffer]:
        return encode_api_versions_request(
            correlation, self._settings.client_id, version=API_VERSIONS_VERSION
        )

    async def _meet_cluster(self, version: int, deadline: float) -> None:
        """An address may be somebody else's by now; no record goes to another cluster."""
        client_id = self._settings.client_id
        frame = await self.request(
            lambda correlation: encode_metadata_request(correlation, client_id, [], version=version), deadline
        )
        self._check_cluster(decode_metadata_response(frame, version).cluster_id)

    def _usable_versions(self, frame: Buffer) -> dict[int, int]:
        answer = decode_api_versions_response(frame, API_VERSIONS_VERSION)
        if answer.error != codes.NONE:
            kind = UnsupportedNode if answer.error == codes.UNSUPPORTED_VERSION else ConnectionLost
            raise kind(f"{self.address} answered ApiVersions with {codes.name_of(answer.error)}")
        offered = {api.api_key: (api.version_min, api.version_max) for api in answer.versions}
        versions = {}
        for api, (lowest, highest) in SPOKEN.items():
            version = min(highest, offered.get(api, (0, -1))[1])
            if version >= max(lowest, offered.get(api, (0, -1))[0]):
                versions[api] = version
        for api in (apis.PRODUCE, apis.FETCH, apis.METADATA, apis.LIST_OFFSETS):
            if api not in versions:
                lowest, highest = SPOKEN[api]
                raise UnsupportedNode(
                    f"{self.address} speaks {apis.NAMES[api]} in none of the versions {lowest} to {highest}"
                )
        return versions

    def version(self, api: int) -> int:
        """The version to send; raises UnsupportedNode when the node does not have this request at all."""
        version = self.versions.get(api)
        if version is None:
            raise UnsupportedNode(f"{self.address} does not answer {apis.NAMES[api]}")
        return version

    def send(self, encode: Encode, done: Done, *, answer_within_ms: int = 0) -> None:
        """Send the frame that `encode(correlation)` gives and call `done(frame, error)` once, later.

        answer_within_ms: how long a healthy node may take on purpose, a long poll's wait for instance.
        Raises the error that ended the connection, if one did.
        """
        if self._transport is None or self.error is not None:
            raise self._reason()
        correlation = self._next_correlation()
        frame = encode(correlation)
        expected = self._loop.time() + answer_within_ms / 1000
        overdue_at = expected + self._settings.suspect_after_ms / 1000
        deadline = expected + self._settings.request_timeout_ms / 1000
        self._pending.append(_Pending(correlation, overdue_at, deadline, done))
        self._transport.writelines(frame)
        if self._timer is None:
            self._timer = self._loop.call_at(overdue_at, self._watch)

    def post(self, encode: Encode, done: Written) -> None:
        """Send a frame that gets no answer, and call `done(error)` once, later: when the socket took all of
        it, or the connection ended before.

        Raises the error that ended the connection, if one did.
        """
        if self._transport is None or self.error is not None:
            raise self._reason()
        if not self._unwritten:
            self._transport.set_write_buffer_limits(high=0)  # so that `resume_writing` means: all is written
            self._loop.call_soon(self._report_written)
        self._unwritten.append(done)
        self._transport.writelines(encode(self._next_correlation()))

    def _report_written(self) -> None:
        """Does nothing while bytes wait in the transport: `resume_writing` comes then."""
        if self._transport is None or self.error is not None or self._transport.get_write_buffer_size():
            return
        written, self._unwritten = self._unwritten, []
        for done in written:
            done(None)

    def _next_correlation(self) -> int:
        self._correlation = (self._correlation + 1) & 0x7FFFFFFF
        return self._correlation

    async def request(self, encode: Encode, deadline: float) -> Buffer:
        """Send and wait for the answer. Raises ConnectionLost, or DeadlineExceeded at `deadline`."""
        # Errors travel as results: an exception set on a future whose waiter is cancelled would be reported.
        answer: asyncio.Future[Buffer | RlogError] = self._loop.create_future()

        def done(frame: Buffer | None, error: RlogError | None) -> None:
            if not answer.done():
                answer.set_result(frame if frame is not None else error or self._reason())

        self.send(encode, done)
        try:
            async with asyncio.timeout_at(deadline):
                result = await answer
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.address} did not answer in time", outcome="unknown") from error
        if isinstance(result, RlogError):
            raise afresh(result)
        return result

    def abort(self, error: RlogError) -> None:
        """End the connection now. Idempotent; see the module about what holds afterwards."""
        if self.error is not None:
            return
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        else:
            self._closed.set_result(None)
        self._on_lost(self)
        while self._pending:
            self._pending.popleft().done(None, error)
        unwritten, self._unwritten = self._unwritten, []
        for done in unwritten:
            done(error)
        for watcher in self._watchers:
            watcher(error)

    def watch(self, on_ended: Callable[[RlogError], None]) -> None:
        """on_ended(error): called once, when the connection ends, after all requests have been answered with
        that; for an owner that may have nothing under way.
        """
        self._watchers.append(on_ended)

    async def wait_closed(self) -> None:
        """Return when the transport is gone; bounded, since `abort` waits for nobody."""
        await asyncio.shield(self._closed)

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has no asyncio base class
        if self.error is not None:  # given up while it was being made
            self._closed = self._loop.create_future()
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.abort(
            ConnectionLost(f"the connection to {self.address} was lost: {error or 'closed by the node'}")
        )
        if not self._closed.done():
            self._closed.set_result(None)

    def resume_writing(self) -> None:
        self._report_written()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._receiver.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for frame in self._receiver.received(nbytes):
                if self.error is None:
                    self._answered(frame)
        except ProtocolError as error:
            self.abort(ConnectionLost(f"{self.address} broke the protocol: {error}"))

    def _answered(self, frame: Buffer) -> None:
        correlation = correlation_id(frame)
        if not self._pending or self._pending[0].correlation != correlation:
            expected = self._pending[0].correlation if self._pending else "none"
            raise ProtocolError(f"{self.address} answered request {correlation}; expected was {expected}")
        self._pending.popleft().done(frame, None)

    def _watch(self) -> None:
        """The one timer: looks at the oldest request only, because answers come in order."""
        self._timer = None
        if not self._pending:
            return
        now = self._loop.time()
        oldest = self._pending[0]
        if now >= oldest.deadline:
            self.abort(ConnectionLost(f"{self.address} did not answer in time; the connection was given up"))
            return
        again_at = oldest.overdue_at
        if now >= again_at:
            self._on_overdue(self)
            again_at = now + self._settings.suspect_after_ms / 1000
        if self.error is None:
            self._timer = self._loop.call_at(min(again_at, oldest.deadline), self._watch)
