"""The lists of a replication point by a manager's word, kept in step with its entries.

1. An entry is a list by group, of nested copies (CONFORMANCE R3, R5); and where the entry says which networks
   the group carries, lists by their numbers for who rewrites instead (RFC 9574). A number that several groups
   carry has the receivers of them all: a rewritten packet does not say which one it was sent to.
2. What the config lists itself is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ctrl import planner
from fastpath.model import Encap, GroupKey, IPAddress, ReplicationList, Scope, group_key, vni_key


@dataclass(frozen=True, slots=True)
class Point:
    """What a replication point calls itself, and whether rewritten copies carry that as their source."""

    address: IPAddress
    is_source: bool = True


class Receivers(NamedTuple):
    """Who gets the packets of a group; `onward` are points, which get none of what a point sent."""

    devices: tuple[IPAddress, ...] = ()
    onward: tuple[IPAddress, ...] = ()
    vnis: tuple[int, ...] = ()
    vsids: tuple[int, ...] = ()


Number = tuple[Encap, int]


class PointLists:
    """The lists that entries come to. `update` gives what is different since the last time."""

    def __init__(self) -> None:
        self._point: Point | None = None
        self._ways = planner.NOWHERE
        self._told: dict[IPAddress, Receivers] = {}
        self._by_number: dict[Number, dict[IPAddress, None]] = {}
        """The groups that each number carries."""
        self._changed: dict[GroupKey, None] = {}

    def rebase(self, point: Point | None, ways: planner.Ways) -> None:
        """Plan all of it for this point; None: this box is none."""
        self._point, self._ways = point, ways
        self._changed |= dict.fromkeys(self._keys(self._told))

    def reroute(self, ways: planner.Ways, moved: Iterable[IPAddress]) -> None:
        """Plan anew for those that are reached otherwise from now on."""
        self._ways = ways
        gone = set(moved)
        there = [g for g, told in self._told.items() if not gone.isdisjoint(told.devices + told.onward)]
        self._changed |= dict.fromkeys(self._keys(there))

    def instruct(self, group: IPAddress, told: Receivers | None) -> None:
        """This is the list of a group from now on; None: it has none."""
        self._changed |= dict.fromkeys(self._keys([group]))
        for number in _numbers(self._told.get(group)):
            self._by_number[number].pop(group)
            if not self._by_number[number]:
                del self._by_number[number]
        if told is None:
            self._told.pop(group, None)
            return
        self._told[group] = told
        for number in _numbers(told):
            self._by_number.setdefault(number, {})[group] = None
        self._changed |= dict.fromkeys(self._keys([group]))

    def devices(self, group: IPAddress) -> tuple[IPAddress, ...]:
        """Who gets the packets of a group by a manager's word, points aside."""
        told = self._told.get(group)
        return () if told is None else told.devices

    def update(self) -> Iterator[tuple[GroupKey, ReplicationList | None]]:
        """The keys whose lists may differ, and what they are now; None: nothing."""
        changed, self._changed = self._changed, {}
        for key in changed:
            yield key, self._planned(key)

    def _keys(self, groups: Iterable[IPAddress]) -> Iterator[GroupKey]:
        for group in groups:
            yield group_key(Scope.REPLICATOR, group)
            for number in _numbers(self._told.get(group)):
                yield vni_key(Scope.REPLICATOR, *number)

    def _planned(self, key: GroupKey) -> ReplicationList | None:
        point = self._point
        if point is None:
            return None
        remotes = self._ways.remotes
        if key.group is not None:
            told = self._told.get(key.group)
            if told is None:
                return None
            return planner.plan_point_group(
                key.group, remotes(told.devices), point.address, remotes(told.onward)
            )
        number = key.encap, key.vni
        several = [self._told[group] for group in self._by_number.get(number, ())]
        if not several:
            return None
        source = point.address if point.is_source else None
        devices = dict.fromkeys(address for told in several for address in told.devices)
        onward = dict.fromkeys(address for told in several for address in told.onward)
        (planned,) = planner.plan_point_number(
            *number,
            [planner.Receiver(r.address, r.out_port, *number, source) for r in remotes(devices)],
            [planner.Receiver(r.address, r.out_port, *number, source) for r in remotes(onward)],
        )
        return planned


def _numbers(told: Receivers | None) -> list[Number]:
    if told is None:
        return []
    return [*((Encap.VXLAN, vni) for vni in told.vnis), *((Encap.NVGRE, vsid) for vsid in told.vsids)]
