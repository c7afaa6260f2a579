"""The shrink hold-down: a sudden loss of most tunnels is not believed at once.

1. A batch of instructions is judged as a whole: where more than half of the keys that have peers, and not
   just a few, would have none, those stay as they are for a while. All else of the batch counts at once.
2. Only keys that the node is still in count: who leaves its groups loses their tunnels without delay. What
   tenants want never counts: it is no tunnel.
3. A newer word about a key replaces the held one; a key's time begins once, so a manager that says it again
   and again does not put it off.
"""

from __future__ import annotations

from collections.abc import Callable

from ctrl.roles.batch import Words
from ctrl.roles.tunnels import Tunnels
from ctrl.topology.entry import Entry, Key, is_tenant

FEW = 10
"""Fewer than these at once are believed."""


class Holding:
    """What a node was told and does not follow yet."""

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self.held: dict[Key, tuple[float, Entry | None]] = {}
        """(until when, what was said) by key, in the order of time."""

    def sift(self, words: Words, tunnels: Tunnels, is_ours: Callable[[Key], bool], now_s: float) -> int:
        """Take out of a batch what is to wait; how many keys began to."""
        losing = {
            key: word
            for key, word in words.items()
            if (word is None or not word.peers)
            and (old := tunnels.entries.get(key)) is not None
            and old.peers
            and is_ours(key)
            and not is_tenant(key)
        }
        is_shrink = self._hold_s > 0 and len(losing) >= FEW and 2 * len(losing) > tunnels.n_with_peers
        n_before = len(self.held)
        for key in [key for key in words if key in self.held and key not in losing]:
            del self.held[key]
            n_before -= 1
        for key, word in losing.items():
            if is_shrink or key in self.held:
                until_s, _ = self.held.get(key, (now_s + self._hold_s, None))
                self.held[key] = until_s, word
                del words[key]
        return len(self.held) - n_before

    def take(self, key: Key) -> Words:
        """What is held of the key, to be followed now."""
        return {key: self.held.pop(key)[1]} if key in self.held else {}

    def take_due(self, now_s: float) -> Words:
        """What waited long enough."""
        due: Words = {}
        for key, (until_s, word) in self.held.items():
            if until_s > now_s:
                break
            due[key] = word
        for key in due:
            del self.held[key]
        return due

    @property
    def deadline_s(self) -> float | None:
        """When the next is due."""
        return next((until_s for until_s, _ in self.held.values()), None)
