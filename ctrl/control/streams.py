"""GET /v1/monitor?topic=TOPIC...: events as they come, a JSON object a line, until either side ends it.

1. An empty line comes first, and then whenever nothing else has come for a while: so a reader knows that it
   is heard, and that the box lives.
2. So many readers and no more. One that is slow misses events, and is told how many (`ctrl.events`); one that
   takes nothing at all is cut.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from aiohttp import web

from ctrl.control.misasked import Misasked
from ctrl.events import Bus, Subscription
from ctrl.topics import EVENTS

MAX_STREAMS = 8
ALIVE_S = 15.0
"""Between two empty lines."""
STUCK_S = 60.0
"""For so long a reader may take nothing of what is sent to it."""


class Streams:
    """The readers of a box's events."""

    def __init__(self) -> None:
        self._readers: set[Subscription] = set()

    async def stream(
        self, bus: Bus, request: web.BaseRequest, spare: Callable[[], None]
    ) -> web.StreamResponse:
        """Send the events of the topics that the request names, of all where it names none."""
        for key in request.query:
            if key != "topic":
                raise Misasked(400, f"monitor has no key {key}; it has topic")
        topics = request.query.getall("topic", list(EVENTS))
        for topic in topics:
            if topic not in EVENTS:
                raise Misasked(400, f"{topic}: no such topic; there are {', '.join(EVENTS)}")
        if len(self._readers) >= MAX_STREAMS:
            raise Misasked(503, f"{MAX_STREAMS} readers watch this box already; try again")
        with bus.subscribe(topics) as reader:
            self._readers.add(reader)
            try:
                return await _send(reader, request, spare)
            finally:
                self._readers.remove(reader)

    def end(self) -> None:
        """Send what there is, and no more."""
        for reader in self._readers:
            reader.close()


async def _send(
    reader: Subscription, request: web.BaseRequest, spare: Callable[[], None]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
    response.force_close()  # spared, it would never be cut
    spare()
    try:
        await response.prepare(request)
        await response.write(b"\n")
        while reader.is_open:
            rows = await reader.read(ALIVE_S)
            lines = "".join(f"{json.dumps(row)}\n" for row in rows) or "\n"
            async with asyncio.timeout(STUCK_S):
                await response.write(lines.encode())
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response
