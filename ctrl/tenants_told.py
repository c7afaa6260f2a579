"""What managers said of tenants: in which networks which other nodes want which of their groups.

1. Who sends copies leaves out those of whom it is known that they do not want them, and nobody else: a node
   that was not named for a group, nor for all groups, and that reads what its tenants say (`AWARE`).
2. So what is not known yet, or not any more, costs copies and never a receiver.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from fastpath.model import IPAddress


class Audience(NamedTuple):
    """A network as an outer group carries it."""

    outer: IPAddress
    vni: int


class Told(NamedTuple):
    """Which other nodes want it, and the networks' numbers on the wire."""

    nodes: frozenset[IPAddress] = frozenset()
    vnis: tuple[int, ...] = ()
    vsids: tuple[int, ...] = ()


NOBODY = Told()


class TenantsTold:
    """All of it, at one role of a box."""

    def __init__(self) -> None:
        self._groups: dict[Audience, dict[IPAddress, Told]] = {}
        self._any: dict[Audience, Told] = {}
        self._aware: dict[Audience, Told] = {}
        self._changed: dict[tuple[Audience, IPAddress | None], None] = {}

    def instruct(self, audience: Audience, group: IPAddress, told: Told | None) -> None:
        """Others want this group of the tenants; None: nobody does any more, we included."""
        groups = self._groups.setdefault(audience, {})
        if told is None:
            groups.pop(group, None)
            if not groups:
                del self._groups[audience]
        else:
            groups[group] = told
        self._changed[audience, group] = None

    def instruct_any(self, audience: Audience, told: Told | None) -> None:
        """Others want all groups of the tenants."""
        self._put(self._any, audience, told)

    def instruct_aware(self, audience: Audience, told: Told | None) -> None:
        """Others read what their tenants say; whoever else is there wants all of it."""
        self._put(self._aware, audience, told)

    def _put(self, into: dict[Audience, Told], audience: Audience, told: Told | None) -> None:
        if told is None:
            into.pop(audience, None)
        else:
            into[audience] = told
        self._changed[audience, None] = None

    def take_changed(self) -> list[tuple[Audience, IPAddress | None]]:
        """What may be filtered otherwise since the last call, each once; None: all groups of the audience."""
        changed, self._changed = list(self._changed), {}
        return changed

    def audiences(self) -> Collection[Audience]:
        """Those of which some group was told."""
        return self._groups.keys()

    def groups(self, audience: Audience) -> Collection[IPAddress]:
        """The groups that were told."""
        return self._groups.get(audience, {}).keys()

    def told(self, audience: Audience, group: IPAddress) -> Told | None:
        """What was told of a group."""
        return self._groups.get(audience, {}).get(group)

    def wants_any(self, audience: Audience) -> frozenset[IPAddress]:
        """The other nodes that want all groups."""
        return self._any.get(audience, NOBODY).nodes

    def spared(self, audience: Audience, group: IPAddress | None) -> frozenset[IPAddress]:
        """The nodes that want no copy of a group (None: of one that nobody joined), as far as it is known."""
        told = NOBODY if group is None else self.told(audience, group)
        if told is None:
            return frozenset()
        return self._aware.get(audience, NOBODY).nodes - told.nodes - self.wants_any(audience)
