"""What a store in this process tells its one reader: each change in order, or all anew to one that lags."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ctrl.store.model import Changes, Item

MAX_WAITING = 1 << 18
"""Items that wait for a reader who is busy; beyond that it gets all there is instead, which is less."""


class Feed:
    """A mailbox between who commits and who reads, both on one loop."""

    def __init__(self) -> None:
        self._waiting: list[Item] = []
        self._told = 0
        self._is_behind = True
        self._stirred = asyncio.Event()

    def tell(self, items: Sequence[Item]) -> None:
        """Have these items for the reader, who gets them once."""
        if not self._is_behind:
            self._waiting.extend(items)
            if len(self._waiting) > MAX_WAITING:
                self.relist()
        self._stirred.set()

    def relist(self) -> None:
        """Have the reader told of all there is."""
        self._waiting = []
        self._is_behind = True
        self._stirred.set()

    async def is_behind(self) -> bool:
        """Wait for something to tell; True: all there is (`begin`, `began`), False: some items (`take`)."""
        while not self._is_behind and not self._waiting:
            self._stirred.clear()
            await self._stirred.wait()
        return self._is_behind

    def begin(self) -> None:
        """Collect from here on: what is read after this call and told by it may overlap."""
        self._is_behind = False

    def began(self, revision: int) -> None:
        """Leave out what the reader knows by reading all there was at `revision`."""
        self._told = revision

    def take(self) -> Changes | None:
        """Take what waits; None where the reader knows it."""
        items = [item for item in self._waiting if item.revision > self._told]
        self._waiting = []
        if not items:
            return None
        self._told = items[-1].revision
        return Changes(self._told, items)
