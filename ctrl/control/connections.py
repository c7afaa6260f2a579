"""Connections, bounded: so many at a time, and each for so long; aiohttp's low-level server underneath.

A router of aiohttp's would be more than these few paths need; its low-level server also lets connections be
counted before they cost anything.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

MAX_CONNECTIONS = 32
"""At a time, on each of the two sockets."""
MAX_LINE_SIZE = 4096
"""Bytes of a request line, or of a header."""
MAX_HEADERS = 64
LIFE_S = 60.0
"""Then a connection is cut, whatever it is doing: whoever asks nothing, or reads nothing, holds no place."""

_LAST_ANSWERS_S = 1.0
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Answer = Callable[[web.BaseRequest, Callable[[], None]], Awaitable[web.StreamResponse]]
"""Answers a request; the function that it is given spares the connection the cut."""


@asynccontextmanager
async def listening(answer: Answer, sock: socket.socket, end: Callable[[], None]) -> AsyncIterator[None]:
    """Have requests on a socket answered for as long as the context lasts; `end` is to end long answers."""
    server = _Server(answer)
    listener = await asyncio.get_running_loop().create_server(
        server.protocol, sock=sock, backlog=MAX_CONNECTIONS
    )
    try:
        yield
    finally:
        listener.close()
        end()
        await server.shutdown(_LAST_ANSWERS_S)


class _Server(web.Server):
    """Takes so many connections and no more, and each for so long and no longer. Who goes away is not
    answered any further."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(
            lambda request: answer(request, partial(self._spare, request.protocol)),
            handler_cancellation=True,
            access_log=None,
            max_line_size=MAX_LINE_SIZE,
            max_field_size=MAX_LINE_SIZE,
            max_headers=MAX_HEADERS,
            keepalive_timeout=LIFE_S,
            lingering_time=1.0,
        )
        self._cuts: dict[RequestHandler, asyncio.TimerHandle] = {}
        self._n_taken = 0

    def protocol(self) -> asyncio.Protocol:
        """Who speaks on the next connection."""
        if self._n_taken >= MAX_CONNECTIONS:
            return _Busy()
        self._n_taken += 1
        return self()

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._cuts[handler] = asyncio.get_running_loop().call_later(LIFE_S, transport.abort)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        self._n_taken -= 1
        self._spare(handler)
        super().connection_lost(handler, exc)

    def _spare(self, handler: RequestHandler) -> None:
        cut = self._cuts.pop(handler, None)
        if cut is not None:
            cut.cancel()


class _Busy(asyncio.Protocol):
    """Turns a connection away, once it has said what it wants or a second is over: an asker that is still
    writing would find a broken pipe instead of the answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        asyncio.get_running_loop().call_later(1.0, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_BUSY)
        self._transport.close()
