"""What waits to be said on one stream: in order, bounded, and given up when the other side does not read.

Messages wait as they are; each is made into bytes when its turn comes, part by part, so that a long one holds
up nobody and costs its bytes once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from ctrl.rpc.transport import LOST
from ctrl.rpc.writing import TooLarge

M = TypeVar("M")


class Outbox(Generic[M]):
    """Messages for one peer. `on_stuck` is called, once, with a sentence, when they cannot be got rid of."""

    def __init__(
        self,
        encode: Callable[[M], Iterable[bytes]],
        write: Callable[[bytes], Awaitable[None]],
        on_stuck: Callable[[str], None],
        *,
        max_queued: int,
        stall_s: float,
    ) -> None:
        self._encode = encode
        self._write = write
        self._on_stuck = on_stuck
        self._max_queued = max_queued
        self._stall_s = stall_s
        self._queue: deque[M] = deque()
        self._task: asyncio.Task[None] | None = None  # lives while there is something to say
        self._is_open = True

    def put(self, message: M) -> None:
        """Say it after all that waits. Nothing, once it is closed."""
        if not self._is_open:
            return
        if len(self._queue) >= self._max_queued:
            self._give_up(f"it does not read: {len(self._queue)} messages wait")
            return
        self._queue.append(message)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain())

    def close(self) -> None:
        """Forget what waits."""
        self._is_open = False
        self._queue.clear()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _drain(self) -> None:
        try:
            while self._queue:
                for data in self._encode(self._queue.popleft()):
                    async with asyncio.timeout(self._stall_s):
                        await self._write(data)
        except TimeoutError:
            self._give_up(f"it does not read: a message waited for {self._stall_s:g} s")
        except TooLarge as error:
            self._give_up(str(error))
        except LOST:
            self.close()  # whoever reads of that stream learns why
        finally:
            self._task = None

    def _give_up(self, why: str) -> None:
        if self._is_open:
            self.close()
            self._on_stuck(why)
