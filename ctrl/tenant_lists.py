"""The lists of tenant groups at an NVE that snoops (CONFORMANCE N13): what its VMs want, as lists.

1. A group that changes plans its own lists and no other; a VM port or a way that changes, and who takes all
   groups (a multicast router, a VM port that is new), plan all groups of their networks.
2. A group that nobody is known to want has no list: those of its network are for it, or, where these drop it,
   one for all such groups, to who takes all (`ANY_GROUP`, law 8.3).
3. Who sends to a list of receivers by a manager's word leaves out those that it spares (framework 3.2).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol

from ctrl import planner
from ctrl.membership import Wants
from ctrl.tenants_told import Audience, TenantsTold
from fastpath.model import ANY_GROUP, GroupKey, IPAddress, ReplicationList


class Heard(Protocol):
    """What the VMs of an NVE said: `ctrl.roles.tenants`."""

    def take_changed(self) -> list[tuple[str, IPAddress | None]]: ...
    def groups(self, network: str) -> list[IPAddress]: ...
    def listeners(self, network: str, group: IPAddress) -> Mapping[int, Wants]: ...
    def takers(self, network: str) -> Collection[int]: ...


class TenantLists:
    """The lists by network and tenant group. `update` gives what is different since the last time."""

    def __init__(self, heard: Heard, told: TenantsTold) -> None:
        self._heard = heard
        self._told = told
        self._snooped: dict[str, planner.Snooped] = {}
        self._keys: dict[str, dict[IPAddress, tuple[GroupKey, ...]]] = {}
        """Of the lists that there are, by network and group."""
        self._due: dict[tuple[str, IPAddress], None] = {}

    def rebase(self, snooped: Iterable[planner.Snooped]) -> None:
        """Plan all of it, for these networks."""
        self.reroute(snooped)
        for network in self._snooped:
            self._plan_all(network)

    def reroute(self, snooped: Iterable[planner.Snooped]) -> None:
        """Plan anew the networks that differ from now on."""
        old, self._snooped = self._snooped, {one.network.name: one for one in snooped}
        for network in {**old, **self._snooped}:
            if old.get(network) != self._snooped.get(network):
                self._plan_all(network)

    def _plan_all(self, network: str) -> None:
        # those that are no longer there are among the changed ones
        groups = dict.fromkeys((*self._heard.groups(network), ANY_GROUP))
        snooped = self._snooped.get(network)
        if snooped is not None:
            for outer in snooped.network.groups():
                groups |= dict.fromkeys(self._told.groups(Audience(outer, snooped.network.vni)))
        self._due |= dict.fromkeys((network, group) for group in groups)

    def update(self) -> Iterator[tuple[GroupKey, ReplicationList | None]]:
        """The keys whose lists may differ, and what they are now; None: nothing."""
        for network, group in self._heard.take_changed():
            if group is None:
                self._plan_all(network)
            else:
                self._due[network, group] = None
        for audience, group in self._told.take_changed():
            for name, one in self._snooped.items():
                if one.network.vni != audience.vni or audience.outer not in one.network.groups():
                    continue
                if group is None:
                    self._plan_all(name)
                else:
                    self._due[name, group] = None
        due, self._due = self._due, {}
        gone: dict[GroupKey, None] = {}
        planned: dict[GroupKey, ReplicationList] = {}
        for network, group in due:
            lists = self._planned(network, group)
            keys = self._keys.setdefault(network, {})
            gone |= dict.fromkeys(keys.pop(group, ()))
            if lists:
                keys[group] = tuple(one.key for one in lists)
                planned |= {one.key: one for one in lists}
            elif not keys:
                del self._keys[network]
        yield from ((key, None) for key in gone if key not in planned)
        yield from planned.items()

    def _planned(self, network: str, group: IPAddress) -> tuple[ReplicationList, ...]:
        snooped = self._snooped.get(network)
        if snooped is None:
            return ()
        of, takers = snooped.network, self._heard.takers(network)
        outer = planner.outer_group(of, group)
        audience = None if outer is None else Audience(outer, of.vni)
        if group == ANY_GROUP:
            spared = frozenset() if audience is None else self._told.spared(audience, None)
            is_due = of.drop_unregistered and not of.maps and bool(spared or snooped.vm_ports & set(takers))
            return planner.plan_nve_group(snooped, group, (), takers, spared) if is_due else ()
        listeners = self._heard.listeners(network, group)
        members = [_member(*one) for one in sorted(listeners.items(), key=_place)]
        told = None if audience is None else self._told.told(audience, group)
        if told is None and not any(one.port in snooped.vm_ports for one in members):
            return ()
        spared = frozenset() if audience is None else self._told.spared(audience, group)
        return planner.plan_nve_group(snooped, group, members, takers, spared)


def _place(one: tuple[int, Wants]) -> int:
    return one[0]


def _member(port: int, wants: Wants) -> planner.Member:
    """A VM port that names too many sources gets all of them."""
    if len(wants.sources) > planner.SOURCES_MAX:
        return planner.Member(port)
    return planner.Member(port, None, wants.is_exclude, wants.sources)
