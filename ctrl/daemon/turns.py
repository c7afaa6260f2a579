"""Messages of many ports that wait for one reader. A port stands here for whatever has turns of its own.

1. Ports take turns: whatever one port sends, a message of another waits for one of its messages, not for all.
2. Together they are bounded. What is too much is taken from the port that has most: nobody else loses any.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

MOST_BYTES = 1 << 23
"""Of all ports, with what Python needs beside each message."""
BESIDE_BYTES = 64


P = TypeVar("P", bound=Hashable)


class _Queue(deque[bytes]):
    n_bytes = 0


class Turns(Generic[P]):
    """The messages that wait. `most_bytes`: more are not kept."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._n_bytes = 0
        self._queues: dict[P, _Queue] = {}
        """In the order in which it is the ports' turn."""

    def __bool__(self) -> bool:
        return bool(self._queues)

    def put(self, port: P, message: bytes) -> bool:
        """Have a message wait. False: there were too many, and the last one of the port with most is gone."""
        queue = self._queues.setdefault(port, _Queue())
        queue.append(message)
        self._book(queue, len(message) + BESIDE_BYTES)
        if self._n_bytes <= self._most_bytes:
            return True
        port = max(self._queues, key=lambda one: self._queues[one].n_bytes)
        queue = self._queues[port]
        self._book(queue, -len(queue.pop()) - BESIDE_BYTES)
        if not queue:
            del self._queues[port]
        return False

    def take(self) -> tuple[P, bytes]:
        """Take the oldest message of the port whose turn it is."""
        port = next(iter(self._queues))
        queue = self._queues.pop(port)
        message = queue.popleft()
        self._book(queue, -len(message) - BESIDE_BYTES)
        if queue:
            self._queues[port] = queue
        return port, message

    def _book(self, queue: _Queue, n_bytes: int) -> None:
        queue.n_bytes += n_bytes
        self._n_bytes += n_bytes
