"""HTTP on the control socket: GET /v1/OBJECT?KEY=VALUE, /metrics and /healthz; on TCP the last two alone.

A router of aiohttp's would be more than these few paths need; its low-level server also lets connections be
counted before they cost anything. Every answer is made of one view. Rows are made in another thread: the view
does not change, and a hundred thousand groups must not hold up whoever else waits for the loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from ctrl.config.values import HostPort
from ctrl.control.listen import bound, socket_file
from ctrl.control.metrics import CONTENT_TYPE, exposition
from ctrl.objects import OBJECTS
from ctrl.view import View
from ctrl.view_rows import ROWS, matching

MAX_CONNECTIONS = 32
"""At a time, on each of the two sockets."""
MAX_LINE_SIZE = 4096
"""Bytes of a request line, or of a header."""
MAX_HEADERS = 64
LIFE_S = 60.0
"""Then a connection is cut, whatever it is doing: whoever asks nothing, or reads nothing, holds no place."""

_LAST_ANSWERS_S = 1.0
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_log = logging.getLogger("fastpath.control")

Answer = Callable[[View, web.BaseRequest], web.Response]


@asynccontextmanager
async def serving(view: Callable[[], View], socket_path: str, http: HostPort | None) -> AsyncIterator[None]:
    """Answer on both sockets for as long as the context lasts; "" and None leave one out.

    `view` is called in the loop's thread, once a request, and not before the body of the context has begun:
    what that does before it first waits (giving up privileges, which each thread has for itself) no request
    and no thread of one forestalls. ControlError if a socket cannot be had, or another process answers there.
    """
    begun = asyncio.Event()
    with ExitStack() as files:
        file = files.enter_context(socket_file(Path(socket_path))) if socket_path else None
        async with AsyncExitStack() as servers:
            if http:
                tcp = bound(http)
                files.callback(tcp.close)
                await servers.enter_async_context(_listening(_Service(view, begun, local=False), tcp))
            if file:
                await servers.enter_async_context(_listening(_Service(view, begun, local=True), file.sock))
                file.publish()
            begun.set()
            yield


@asynccontextmanager
async def _listening(service: _Service, sock: socket.socket) -> AsyncIterator[None]:
    server = _Server(
        service.answer,
        access_log=None,
        max_line_size=MAX_LINE_SIZE,
        max_field_size=MAX_LINE_SIZE,
        max_headers=MAX_HEADERS,
        keepalive_timeout=LIFE_S,
        lingering_time=1.0,
    )
    listening = await asyncio.get_running_loop().create_server(
        server.protocol, sock=sock, backlog=MAX_CONNECTIONS
    )
    try:
        yield
    finally:
        listening.close()
        await server.shutdown(_LAST_ANSWERS_S)


class _Server(web.Server):
    """Takes so many connections and no more, and each for so long and no longer."""

    _n_taken = 0

    def protocol(self) -> asyncio.Protocol:
        """Who speaks on the next connection."""
        if self._n_taken >= MAX_CONNECTIONS:
            return _Busy()
        self._n_taken += 1
        return self()

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        asyncio.get_running_loop().call_later(LIFE_S, transport.abort)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        self._n_taken -= 1
        super().connection_lost(handler, exc)


class _Busy(asyncio.Protocol):
    """Turns a connection away, once it has said what it wants or a second is over: an asker that is still
    writing would find a broken pipe instead of the answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        asyncio.get_running_loop().call_later(1.0, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_BUSY)
        self._transport.close()


class _Service:
    """What is answered; `local` is the control socket."""

    def __init__(self, view: Callable[[], View], begun: asyncio.Event, *, local: bool) -> None:
        self._view = view
        self._begun = begun
        self._local = local

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """One request, one answer; whatever goes wrong in it is logged, and nobody else notices."""
        await self._begun.wait()
        try:
            if request.method != "GET":
                return _refusal(405, f"{request.method} given; only GET is answered")
            if request.path == "/healthz":
                return web.Response(text="ok\n")
            make = self._find(request.path)
            if make is None:
                return self._unknown(request.path)
            return await asyncio.to_thread(make, self._view(), request)
        except Exception:  # noqa: BLE001  one bad answer must not end the daemon
            _log.exception("no answer to %s", request.path)
            return _refusal(500, "the answer could not be made; the log of the daemon says why")

    def _find(self, path: str) -> Answer | None:
        if path == "/metrics":
            return _metrics
        name = path.removeprefix("/v1/")
        return _rows if self._local and path.startswith("/v1/") and name in OBJECTS else None

    def _unknown(self, path: str) -> web.Response:
        if not self._local:
            return _refusal(404, f"{path}: no such page; there are /metrics and /healthz")
        names = ", ".join(OBJECTS)
        return _refusal(404, f"{path}: no such page; there are /metrics, /healthz and /v1/ with {names}")


def _rows(view: View, request: web.BaseRequest) -> web.Response:
    name = request.path.removeprefix("/v1/")
    keys = OBJECTS[name].keys
    for key in request.query:
        if key not in keys:
            return _refusal(400, f"{name} has no key {key}; it has {', '.join(keys)}")
    rows = matching(ROWS[name](view), request.query.items())
    # Row by row: one call for all would keep the interpreter's lock, and with it the loop, until it is done.
    text = f"[{', '.join(map(json.dumps, rows))}]"
    return web.Response(body=text.encode(), content_type="application/json")


def _metrics(view: View, request: web.BaseRequest) -> web.Response:
    return web.Response(body=exposition(view), headers={"Content-Type": CONTENT_TYPE})


def _refusal(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status)
