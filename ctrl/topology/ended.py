"""Tenants' keys that nobody wants any more, for who comes back and may still hold something of them.

Of a group a device knows itself whether it is in it; of these only managers know, and a key that nobody wants
is in no list.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import takewhile

from ctrl.topology.entry import Key

MOST = 4096
"""Of more, who comes back is told all there is."""


class Ended:
    """The last of them, in order."""

    def __init__(self) -> None:
        self._ended: deque[tuple[int, Key]] = deque()
        self._since = 0
        """The store's revision up to which they are not known."""

    def forget(self, revision: int) -> None:
        """Know none of those up to here: what was removed before is in no full list."""
        self._ended.clear()
        self._since = revision

    def add(self, key: Key, revision: int) -> None:
        """Nobody wants it any more."""
        if len(self._ended) == MOST:
            self._since = self._ended.popleft()[0]
        self._ended.append((revision, key))

    def since(self, revision: int) -> Iterator[Key] | None:
        """List those that ended after a revision; None: that is not known any more."""
        if revision < self._since:
            return None
        newest_first = takewhile(lambda one: one[0] > revision, reversed(self._ended))
        return (key for _, key in newest_first)
