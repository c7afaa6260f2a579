"""What is told to a box, and asked of it with more than an address line holds: POST /v1/notify, /v1/explain.

The body is bounded before it is read, and every fault of it is told in a sentence.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

from aiohttp import web

from ctrl.control.box import Box
from ctrl.control.misasked import Misasked
from ctrl.view import View
from fastpath.model import IPAddress

if TYPE_CHECKING:
    from fastpath.reference import MacTable

MAX_NOTICE = 64 << 10
MAX_FRAME = 512 << 10
"""Bytes of a body."""

_NOTICE = '{"moved": ["10.1.1.2", ...]}'


async def notify(box: Box, request: web.BaseRequest) -> web.Response:
    """Query the NVEs to which a VM has moved, or from which (CONFORMANCE D19); a manager has all its devices
    do that."""
    nves = moved_nves(await _body(request, MAX_NOTICE))
    return web.json_response({"queried": box.moved(nves), "told": box.tell_moved(nves)})


async def explain(box: Box, request: web.BaseRequest) -> web.Response:
    """Say what would become of a frame; nothing is sent."""
    body = await _body(request, MAX_FRAME)
    rows = await asyncio.to_thread(_explained, body, box.view(), box.stations())
    return web.Response(body=rows, content_type="application/json")


def _explained(body: bytes, view: View, macs: MacTable | None) -> bytes:
    from ctrl.explain.answer import BadQuestion, answer  # noqa: PLC0415  brings the reference; few ask

    try:
        strict = view.config.membership.strict_headers
        rows = answer(body, view.layout, view.lists, view.next_hops, strict_headers=strict, macs=macs)
        return json.dumps(rows).encode()
    except BadQuestion as error:
        raise Misasked(400, str(error)) from None


POSTS: Mapping[str, Callable[[Box, web.BaseRequest], Awaitable[web.Response]]] = {
    "notify": notify,
    "explain": explain,
}
"""What answers a POST, by page."""


def moved_nves(body: bytes) -> list[IPAddress]:
    """Read the NVEs of a notice, each once; Misasked if it is none."""
    try:
        notice = json.loads(body)
    except (ValueError, RecursionError):
        raise Misasked(400, f"the body is no JSON; expected {_NOTICE}") from None
    moved = notice.get("moved") if isinstance(notice, dict) and len(notice) == 1 else None
    if not isinstance(moved, list):
        raise Misasked(400, f"the body is no notice; expected {_NOTICE}")
    return list(dict.fromkeys(map(_nve, moved)))


def _nve(word: object) -> IPAddress:
    try:
        return ip_address(word if isinstance(word, str) else "")
    except ValueError:
        raise Misasked(400, f"{json.dumps(word)[:80]}: no IP address of an NVE; expected {_NOTICE}") from None


async def _body(request: web.BaseRequest, most: int) -> bytes:
    body = bytearray()
    if (request.content_length or 0) <= most:
        async for part in request.content.iter_any():
            body += part
            if len(body) > most:
                break
        else:
            return bytes(body)
    raise Misasked(413, f"the body is too long; expected up to {most} bytes")
