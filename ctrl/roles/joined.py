"""Second information: the groups that a node is in, and what of it the manager was not yet told.

1. What differs is reckoned against what was said last, not against each call: who joins and leaves between
   two messages has changed nothing, and nothing is said (CONFORMANCE D3, D4, D16).
2. `revision` names what was said; it moves when something else is said.
3. What is from before a restart counts until the first round of queries is over: else a restart would take
   the node out of all its groups for that long.

After US 9,838,462 steps 703 and 706.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from ctrl.rpc.messages import Group, Groups
from ctrl.topology.entry import Key

PART = 4096
"""Groups in one message at most."""


class Joined:
    """The groups of one node."""

    def __init__(self, held: Mapping[Key, Group]) -> None:
        self.groups: dict[Key, Group] = dict(held)
        self.revision = 1
        self._unconfirmed = set(held)
        self._before: dict[Key, Group | None] = {}
        """What was last said of the keys that differ from it."""
        self.unstored: set[Key] = set()
        """Keys that differ from what is on disk."""

    def join(self, group: Group) -> None:
        """It is in the group, with these networks."""
        self._unconfirmed.discard(group.key)
        if self.groups.get(group.key) != group:
            self._change(group.key, group)

    def leave(self, key: Key) -> None:
        """It is not."""
        self._unconfirmed.discard(key)
        if key in self.groups:
            self._change(key, None)

    def confirm(self) -> list[Key]:
        """Leave those from before the restart that nobody joined since; which they are."""
        gone, self._unconfirmed = list(self._unconfirmed), set()
        for key in gone:
            self._change(key, None)
        return gone

    def full(self) -> Iterable[Groups]:
        """Say all there is."""
        self._said()
        groups = iter(list(self.groups.values()))
        n_left = len(self.groups)
        while True:
            part = tuple(islice(groups, PART))
            n_left -= len(part)
            yield Groups(self.revision, added=part, is_full=True, more=n_left > 0)
            if not n_left:
                return

    def difference(self) -> Iterable[Groups]:
        """Say what differs from what was said last, each part on top of the one before it."""
        keys = list(self._before)
        for start in range(0, len(keys), PART):
            part = keys[start : start + PART]
            base = self.revision
            self.revision += 1
            yield Groups(
                self.revision,
                added=tuple([self.groups[key] for key in part if key in self.groups]),
                gone=tuple([key for key in part if key not in self.groups]),
                base=base,
            )
        self._before.clear()

    def _said(self) -> None:
        if self._before:
            self.revision += 1
            self._before.clear()

    def _change(self, key: Key, group: Group | None) -> None:
        was = self._before.setdefault(key, self.groups.get(key))
        if was == group:
            del self._before[key]
        if group is None:
            del self.groups[key]
        else:
            self.groups[key] = group
        self.unstored.add(key)
