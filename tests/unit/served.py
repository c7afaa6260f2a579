"""A box behind a real control socket, in a loop and a thread of its own: for commands, which wait."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, contextmanager

from ctrl.control import server
from ctrl.control.listen import sockets
from ctrl.table import Row
from ctrl.topics import EVENTS
from tests.unit.viewed import Box


@asynccontextmanager
async def serving(box, path, http):
    """Bind both sockets, and answer on them; "" and None leave one out."""
    with sockets(path, http) as bound:
        async with server.serving(box, bound):
            yield


class Served(Box):
    """What happens in it is told to whoever is there by then."""

    def __init__(self) -> None:
        super().__init__()
        self.events_to_tell: list[tuple[str, Row]] = []
        self.ends_then = False
        self.watched: list[str] = []
        self.stopping = asyncio.Event()

    def stop(self):
        self._loop.call_soon_threadsafe(self.stopping.set)

    async def live(self, path, ready):
        self._loop = asyncio.get_running_loop()
        async with serving(self, str(path), None):
            ready.set()
            telling = asyncio.create_task(self._tell())
            await self.stopping.wait()
            telling.cancel()

    async def _tell(self):
        """What there is to tell, once a reader of it is there; with nothing left to tell, the box ends."""
        while self.events_to_tell:
            topic, row = self.events_to_tell[0]
            if self.events.wanted(topic):
                self.watched = list(filter(self.events.wanted, EVENTS))
                self.events.publish(topic, row)
                del self.events_to_tell[0]
            else:
                await asyncio.sleep(0.005)
        if self.ends_then:
            self.stopping.set()


@contextmanager
def served(path, *events, ends_then=False):
    """A box that tells these events and, then or at the end of the context, is gone."""
    box, ready = Served(), threading.Event()
    box.events_to_tell = list(events)
    box.ends_then = ends_then
    thread = threading.Thread(target=lambda: asyncio.run(box.live(path, ready)))
    thread.start()
    try:
        assert ready.wait(60)
        yield box
    finally:
        if thread.is_alive():
            box.stop()
        thread.join(10)
        assert not thread.is_alive()
