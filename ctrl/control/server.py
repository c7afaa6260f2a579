"""HTTP on the control socket: GET /v1/OBJECT?KEY=VALUE and /v1/monitor, POST /v1/notify and /v1/explain,
/metrics and /healthz; on TCP the last two alone.

Every answer is made of one view. Rows are made in another thread: the view does not change, and a hundred
thousand groups must not hold up whoever else waits for the loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from aiohttp import web

from ctrl.control.box import Box
from ctrl.control.connections import listening
from ctrl.control.listen import Sockets
from ctrl.control.misasked import Misasked
from ctrl.control.posts import POSTS
from ctrl.control.streams import Streams
from ctrl.objects import OBJECTS
from ctrl.view import View
from ctrl.view_rows import ROWS, matching

_WALKED: Mapping[str, tuple[str, ...]] = {
    "members": ("members",),
    "macs": ("macs",),
    "tunnels": ("devices",),
    "devices": ("devices",),
    "groups": ("groups",),
    "sessions": ("sessions",),
    "metrics": ("devices", "sessions"),
}
"""What a page takes beside the view, as it may be many: methods of a box, and fields of a view."""
_SLICE = 1000
"""Members, stations, nodes or sessions that are asked for in one go: about a millisecond."""
_log = logging.getLogger("fastpath.control")


@asynccontextmanager
async def serving(box: Box, bound: Sockets) -> AsyncIterator[None]:
    """Answer on these sockets for as long as the context lasts. The box is asked in the loop's thread."""
    async with AsyncExitStack() as servers:
        if bound.tcp:
            far = _Service(box, local=False)
            await servers.enter_async_context(listening(far.answer, bound.tcp, far.end))
        if bound.file:
            near = _Service(box, local=True)
            await servers.enter_async_context(listening(near.answer, bound.file.sock, near.end))
            bound.file.publish()
        yield


class _Service:
    """What is answered; `local` is the control socket."""

    def __init__(self, box: Box, *, local: bool) -> None:
        self._box = box
        self._local = local
        self._streams = Streams()

    async def answer(self, request: web.BaseRequest, spare: Callable[[], None]) -> web.StreamResponse:
        """One request, one answer; whatever goes wrong in it is logged, and nobody else notices."""
        try:
            return await self._answered(request, spare)
        except Misasked as why:
            return _refusal(why.status, str(why))
        except ConnectionError:
            raise  # it went away
        except Exception:  # noqa: BLE001  one bad answer must not end the daemon
            _log.exception("no answer to %s", request.path)
            return _refusal(500, "the answer could not be made; the log of the daemon says why")

    def end(self) -> None:
        """End the answers that go on and on."""
        self._streams.end()

    async def _answered(self, request: web.BaseRequest, spare: Callable[[], None]) -> web.StreamResponse:
        method, path = request.method, request.path
        name = path.removeprefix("/v1/") if self._local and path.startswith("/v1/") else ""
        if name in POSTS:
            if method != "POST":
                raise Misasked(405, f"{method} given; {path} answers POST only")
            return await POSTS[name](self._box, request)
        if method != "GET":
            raise Misasked(405, f"{method} given; only GET is answered")
        if path == "/healthz":
            return web.Response(text="ok\n")
        if path == "/metrics":
            return await asyncio.to_thread(_metrics, await self._view("metrics"))
        if name == "monitor":
            return await self._streams.stream(self._box.events, request, spare)
        if name in OBJECTS:
            return await asyncio.to_thread(_rows, await self._view(name), name, request)
        raise Misasked(404, f"{path}: no such page; there are {self._pages()}")

    async def _view(self, page: str) -> View:
        """The view, with what this page alone shows of many."""
        view = self._box.view()
        for name in _WALKED.get(page, ()):
            more: dict[str, Any] = {name: await _walked(getattr(self._box, name)())}
            view = replace(view, **more)
        return view

    def _pages(self) -> str:
        if not self._local:
            return "/metrics and /healthz"
        return f"/metrics, /healthz and /v1/ with {', '.join((*OBJECTS, 'monitor', *POSTS))}"


async def _walked(items: Iterable[object]) -> list[object]:
    """All of them, with room for others in between."""
    found: list[object] = []
    for item in items:
        found.append(item)
        if len(found) % _SLICE == 0:
            await asyncio.sleep(0)
    return found


def _rows(view: View, name: str, request: web.BaseRequest) -> web.Response:
    keys = OBJECTS[name].keys
    for key in request.query:
        if key not in keys:
            raise Misasked(400, f"{name} has no key {key}; it has {', '.join(keys)}")
    rows = matching(ROWS[name](view), request.query.items())
    # Row by row: one call for all would keep the interpreter's lock, and with it the loop, until it is done.
    text = f"[{', '.join(map(json.dumps, rows))}]"
    return web.Response(body=text.encode(), content_type="application/json")


def _metrics(view: View) -> web.Response:
    # brings prometheus_client, which many a box is never asked for
    from ctrl.control.metrics import CONTENT_TYPE, exposition  # noqa: PLC0415

    return web.Response(body=exposition(view), headers={"Content-Type": CONTENT_TYPE})


def _refusal(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status)
