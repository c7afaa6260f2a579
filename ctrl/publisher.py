"""From the membership table to the replication lists of a box: a burst of changes becomes one step.

1. What a config and a kernel say beside the members is a `Basis`; while it stands, a change of membership
   plans its own group anew and no other.
2. What a step gives is the difference: an NVE that joins behind a port where others are already changes
   nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ctrl import planner
from ctrl.membership import Membership, Wants, Who
from fastpath.model import Encap, GroupKey, IPAddress, Network, ReplicationList


@dataclass(frozen=True, slots=True)
class Basis:
    """What lists are made of beside members. `fixed` are lists that nobody joins: those of a point."""

    encaps: tuple[Encap, ...] = ()
    """What the NVEs of each port speak."""
    tunnel: planner.Tunnel | None = None
    """None: the box is no device."""
    peers: Mapping[IPAddress, Sequence[planner.Remote]] = field(default_factory=dict)
    fixed: tuple[ReplicationList, ...] = ()
    networks: tuple[Network, ...] = ()
    """The data path keeps the networks of a group with its list."""


class Step(NamedTuple):
    """The lists to set and the keys to remove."""

    lists: list[ReplicationList]
    removed: list[GroupKey]


class Publisher:
    """The lists of a box, kept in step with a membership table."""

    def __init__(self, membership: Membership, basis: Basis = Basis()) -> None:
        self._membership = membership
        self._basis = basis
        self._keys: dict[IPAddress, tuple[GroupKey, ...]] = {}
        """Those of each group of the device."""
        self.lists: dict[GroupKey, ReplicationList] = {}
        self.rebase(basis)

    def rebase(self, basis: Basis) -> Step:
        """Plan everything anew; what the table has collected by now is in it."""
        self._membership.take_changed()
        old, before = self.lists, self._basis
        self._basis, self._keys = basis, {}
        self.lists = {}
        if basis.tunnel is not None:
            for group in dict.fromkeys([*basis.peers, *self._membership.groups()]):
                planned = self._plan(group, basis.tunnel)
                self._keys[group] = tuple(one.key for one in planned)
                self.lists |= {one.key: one for one in planned}
        self.lists |= {one.key: one for one in basis.fixed}
        fresh = basis.networks != before.networks
        return Step(
            [one for key, one in self.lists.items() if fresh or old.get(key) != one],
            [key for key in old if key not in self.lists],
        )

    def update(self) -> Step:
        """Plan the groups whose members changed since the last step."""
        step = Step([], [])
        if self._basis.tunnel is None:
            return step
        for group in self._membership.take_changed():
            planned = self._plan(group, self._basis.tunnel)
            for one in planned:
                if self.lists.get(one.key) != one:
                    self.lists[one.key] = one
                    step.lists.append(one)
            keys = tuple(one.key for one in planned)
            for key in self._keys.get(group, ()):
                if key not in keys:
                    del self.lists[key]
                    step.removed.append(key)
            if keys:
                self._keys[group] = keys
            else:
                self._keys.pop(group, None)
        return step

    def _plan(self, group: IPAddress, tunnel: planner.Tunnel) -> tuple[ReplicationList, ...]:
        peers = self._basis.peers.get(group, ())
        members = _members(self._membership.of(group).items())
        if not members and not peers:
            return ()
        return planner.plan_device_group(group, members, peers, tunnel, self._basis.encaps)


def _members(found: Iterable[tuple[Who, Wants]]) -> list[planner.Member]:
    """Those who want the same at one port get one copy: they are one member to the planner."""
    return list(
        dict.fromkeys(
            planner.Member(who.port, None if who.mac else who.address, wants.is_exclude, wants.sources)
            for who, wants in found
        )
    )
