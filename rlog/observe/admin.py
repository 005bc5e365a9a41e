"""The admin port of a node: HTTP, for its operator's tools and not for its clients.

    /metrics   what Prometheus scrapes          /ready    may clients be sent here? 200, or 503 with reasons
    /healthz   does the process live? 200 / 503  /status  all that the node knows of itself, as JSON

It answers on the node's loop, so that an answer means that the loop turns; everything that takes time (making
text of thousands of samples) happens on a thread, one at a time, and in a fifth of the time at most. At most
`CONNECTIONS_MAX` connections are open, each for one request and `CONNECTION_S_MAX`: who reads slowly, or
sends nothing, occupies one of them for a while and harms nobody else.

There is no authentication: it listens on this machine alone unless the configuration names another address.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol, cast

from aiohttp import web

from rlog.observe.events import address_text, emit
from rlog.observe.exposition import render
from rlog.observe.metrics import Sample

logger = logging.getLogger("rlog.node")

CONNECTIONS_MAX = 32
CONNECTION_S_MAX = 10.0
# Samples read between two looks at the rest of the loop: about a millisecond.
SAMPLES_PER_STEP = 1000
# What was rendered is given out again for this many times as long as rendering took.
RENDERED_FOR = 4
ACCEPT_LENGTH_MAX = 1000


class Observed(Protocol):
    """What is shown. Asked on the loop."""

    def failure(self) -> str | None:
        """What the node failed of; None while it runs."""

    def not_ready(self) -> list[str]: ...
    def status(self) -> dict[str, Any]:
        """What JSON can hold."""

    def samples(self) -> Iterator[Sample]:
        """May be read in steps, between which the node goes on."""


class Admin:
    """Bind, then `serve` what there is to observe, then `close`. On the node's running loop."""

    def __init__(self, host: str, port: int, *, node_id: int) -> None:
        """Bind and listen; connections wait until `serve`. Raises OSError. port 0: one that is free."""
        self._loop = asyncio.get_running_loop()
        self._node_id = node_id
        self._socket = _listen(host, port)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._connections: dict[_Connection, None] = {}

    @property
    def address(self) -> str:
        """HOST:PORT, as bound."""
        return address_text(self._socket.getsockname())

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    async def serve(self, observed: Observed) -> None:
        """Answer requests from now on."""
        app = web.Application(middlewares=[_one_request_each])
        pages = _Pages(observed)
        app.router.add_get("/metrics", pages.metrics)
        app.router.add_get("/healthz", pages.healthz)
        app.router.add_get("/ready", pages.ready)
        app.router.add_get("/status", pages.status)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        self._server = await self._loop.create_server(self._connection, sock=self._socket)
        emit(logger, logging.INFO, "admin_listening", node=self._node_id, admin=self.address)

    async def close(self) -> None:
        if self._server is None:
            self._socket.close()
            return
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        assert self._runner is not None
        await self._runner.cleanup()

    def _connection(self) -> asyncio.Protocol:
        assert self._runner is not None
        assert self._runner.server is not None
        handler = cast(asyncio.Protocol, self._runner.server())
        return _Connection(handler, self._connections, self._loop)


class _Connection(asyncio.Protocol):
    """What aiohttp makes of a connection, bounded in number and time: it bounds neither by itself."""

    def __init__(
        self, handler: asyncio.Protocol, others: "dict[_Connection, None]", loop: asyncio.AbstractEventLoop
    ) -> None:
        self._handler = handler
        self._others = others
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._others) >= CONNECTIONS_MAX:
            self._transport.abort()
            return
        self._others[self] = None
        self._patience = self._loop.call_later(CONNECTION_S_MAX, self.abort)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self in self._others:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received() if self in self._others else None

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
            del self._others[self]
            self._handler.connection_lost(exc)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address, family=family, backlog=CONNECTIONS_MAX)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _one_request_each(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.force_close()
        raise
    response.force_close()
    response.headers["Server"] = "rlog"
    return response


class _Pages:
    """The four pages."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._rendering = asyncio.Lock()
        self._rendered: dict[str, tuple[float, bytes, str]] = {}  # by `accept`: until when, body, its type

    async def healthz(self, request: web.Request) -> web.Response:
        failure = self._observed.failure()
        state = {"alive": failure is None, "failure": failure}
        return _json(json.dumps(state), 200 if failure is None else 503)

    async def ready(self, request: web.Request) -> web.Response:
        reasons = self._observed.not_ready()
        state = {"ready": not reasons, "reasons": reasons}
        return _json(json.dumps(state), 503 if reasons else 200)

    async def status(self, request: web.Request) -> web.Response:
        async with self._rendering:
            status = self._observed.status()
            return _json(await asyncio.to_thread(json.dumps, status, indent=1))

    async def metrics(self, request: web.Request) -> web.Response:
        # Only what names another format: each kind of scraper is remembered, not each spelling of its header.
        accept = request.headers.get("Accept", "")
        accept = accept if "openmetrics" in accept and len(accept) <= ACCEPT_LENGTH_MAX else ""
        async with self._rendering:
            loop = asyncio.get_running_loop()
            until, body, content_type = self._rendered.get(accept, (0.0, b"", ""))
            if loop.time() >= until:
                begin = loop.time()
                body, content_type = await asyncio.to_thread(render, await self._samples(), accept)
                end = loop.time()
                self._rendered = {accept: (end + RENDERED_FOR * (end - begin), body, content_type)}
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _samples(self) -> list[Sample]:
        samples: list[Sample] = []
        for sample in self._observed.samples():
            samples.append(sample)
            if len(samples) % SAMPLES_PER_STEP == 0:
                await asyncio.sleep(0)
        return samples


def _json(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text + "\n", content_type="application/json", status=status)
