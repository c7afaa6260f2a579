"""The lists of tenants' groups at a device or a point: what is left of the list that their network has anyway
(framework 3.2, RFC 4541).

1. A group that somebody is known to want has a list, here or elsewhere: without those who do not. All others
   have none, and go by the list of the network (or, where that drops them, to who wants any group).
2. Who is left out is known not to want it: a place here that is listened to, or a node that a manager named
   and spares. Whatever else is in the list stays: not knowing costs copies, never a receiver.
3. A group whose NVEs named sources of theirs is not refined: there is more than one list to refine then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

from ctrl import planner
from ctrl.membership import ALL, Wants
from ctrl.tenants_told import Audience, TenantsTold, Told
from fastpath.model import (
    ANY_GROUP,
    Egress,
    Encap,
    GroupKey,
    IPAddress,
    KeyKind,
    Network,
    Owner,
    ReplicationList,
    Scope,
    group_key,
    vni_key,
)


class Heard(Protocol):
    """What tenants said to a device or a point; who is at a place is known by the owner of its copies."""

    def take_changed(self) -> list[tuple[str, IPAddress | None]]: ...
    def groups(self, network: str) -> Collection[IPAddress]: ...
    def places(self, network: str) -> Collection[Owner]: ...
    def listeners(self, network: str, group: IPAddress) -> Mapping[Owner, Wants]: ...
    def takers(self, network: str) -> Collection[Owner]: ...


class Bases(Protocol):
    """What is refined."""

    def base(self, key: GroupKey) -> ReplicationList | None:
        """The list of a network or group, unless it has others for sources."""

    def named(self, scope: Scope, group: IPAddress) -> Collection[IPAddress]:
        """The receivers of a group that are there by a manager's word, each with a copy of its own."""


class _Tenancy(NamedTuple):
    """A network whose tenants' groups have lists: of the config, or one that a manager tells a point of."""

    name: str
    outer: tuple[IPAddress, ...]
    vni: int
    network: Network | None


Number = tuple[Encap, int]


class RefinedLists:
    """The lists of a scope, DEVICE or REPLICATOR. `update` gives what is different since the last time."""

    def __init__(self, scope: Scope, heard: Heard, told: TenantsTold) -> None:
        self._scope = scope
        self._heard = heard
        self._told = told
        self._tenancies: dict[str, _Tenancy] = {}
        self._by_audience: dict[Audience, str] = {}
        self._by_base: dict[GroupKey, dict[str, None]] = {}
        self._keys: dict[tuple[str, IPAddress], tuple[GroupKey, ...]] = {}
        """Of the lists that there are, by network and tenants' group."""
        self._due: dict[tuple[str, IPAddress], None] = {}

    def rebase(self, networks: Iterable[Network]) -> None:
        """Plan all of it, for these networks of the config."""
        self._tenancies, self._by_audience, self._by_base, self._keys = {}, {}, {}, {}
        for network in networks:
            self._add(_Tenancy(network.name, tuple(network.groups()), network.vni, network))
        for audience in self._told.audiences():
            self._meet(audience)
        for name in self._tenancies:
            self._plan_all(name)

    def touch(self, keys: Iterable[GroupKey]) -> None:
        """These lists differ, or are gone: plan anew what is refined of them."""
        for key in keys if self._by_base else ():
            base = key if key.source is None else replace(key, kind=KeyKind.GROUP, source=None)
            for tenancy in self._by_base.get(base, ()):
                self._plan_all(tenancy)

    def update(self, bases: Bases) -> Iterator[tuple[GroupKey, ReplicationList | None]]:
        """The keys whose lists may differ, and what they are now; None: nothing."""
        for name, group in self._heard.take_changed():
            self._change(name, group)
        for audience, group in self._told.take_changed():
            met = self._meet(audience)
            if met is not None:
                self._change(met, group)
        due, self._due = self._due, {}
        gone: dict[GroupKey, None] = {}
        planned: dict[GroupKey, ReplicationList] = {}
        for name, group in due:
            tenancy = self._tenancies.get(name)
            refined = [] if tenancy is None else list(self._refined(tenancy, group, bases))
            gone |= dict.fromkeys(self._keys.pop((name, group), ()))
            if refined:
                self._keys[name, group] = tuple(one.key for one in refined)
                planned |= {one.key: one for one in refined}
        yield from ((key, None) for key in gone if key not in planned)
        yield from planned.items()

    def _meet(self, audience: Audience) -> str | None:
        """The tenancy of what was told: a point may hear of networks that its config does not have."""
        name = self._by_audience.get(audience)
        if name is None and self._scope is Scope.REPLICATOR:
            name = f"{audience.vni} in {audience.outer}"
            self._add(_Tenancy(name, (audience.outer,), audience.vni, None))
        return name

    def _add(self, tenancy: _Tenancy) -> None:
        self._tenancies[tenancy.name] = tenancy
        for outer in tenancy.outer:
            self._by_audience.setdefault(Audience(outer, tenancy.vni), tenancy.name)
        for key in self._bases(tenancy):
            self._by_base.setdefault(key, {})[tenancy.name] = None

    def _bases(self, tenancy: _Tenancy) -> Iterator[GroupKey]:
        for outer in tenancy.outer:
            yield group_key(self._scope, outer)
        if self._scope is Scope.REPLICATOR and tenancy.network is not None:
            for number in planner.numbers(tenancy.network):
                yield vni_key(self._scope, *number)

    def _change(self, name: str, group: IPAddress | None) -> None:
        if group is None:
            self._plan_all(name)
        else:
            self._due[name, group] = None

    def _plan_all(self, name: str) -> None:
        tenancy = self._tenancies.get(name)
        if tenancy is None:
            return
        groups = dict.fromkeys(self._heard.groups(name))
        for outer in tenancy.outer:
            groups |= dict.fromkeys(self._told.groups(Audience(outer, tenancy.vni)))
        self._due |= dict.fromkeys((name, group) for group in (*groups, ANY_GROUP))

    def _refined(self, tenancy: _Tenancy, group: IPAddress, bases: Bases) -> Iterator[ReplicationList]:
        """Plan the lists of one tenants' group, one a number and source; none where it is nobody's."""
        network = tenancy.network
        is_any = group == ANY_GROUP
        if is_any and (network is None or not network.drop_unregistered or network.maps):
            return
        outer = tenancy.outer[0] if network is None else planner.outer_group(network, group)
        if outer is None:
            return
        audience = Audience(outer, tenancy.vni)
        told = None if is_any else self._told.told(audience, group)
        listeners = {} if is_any else self._heard.listeners(tenancy.name, group)
        if not (is_any or listeners or told):
            return
        spared = self._told.spared(audience, None if is_any else group)
        if spared:
            spared &= frozenset(bases.named(self._scope, outer))
        wanting = {owner: _bounded(wants) for owner, wants in listeners.items()}
        sources = dict.fromkeys(s for wants in wanting.values() for s in wants.sources)
        for number in _numbers(network, told):
            base = self._base(outer, number, network, bases)
            if base is None:
                continue
            for source in (None, *sources):
                keeps = self._filter(tenancy.name, wanting, spared, source)
                yield ReplicationList(
                    vni_key(self._scope, *number, group, source),
                    tuple(filter(keeps, base.local)),
                    tuple(filter(keeps, base.remote)),
                )

    def _base(
        self, outer: IPAddress, number: Number, network: Network | None, bases: Bases
    ) -> ReplicationList | None:
        by_number = None
        if self._scope is Scope.REPLICATOR and network is not None:
            by_number = bases.base(vni_key(self._scope, *number))
        return by_number or bases.base(group_key(self._scope, outer))

    def _filter(
        self,
        name: str,
        wanting: Mapping[Owner, Wants],
        spared: frozenset[IPAddress],
        source: IPAddress | None,
    ) -> Callable[[Egress], bool]:
        places, takers = self._heard.places(name), self._heard.takers(name)

        def keeps(egress: Egress) -> bool:
            owner = egress.owner
            if owner in places:
                wants = wanting.get(owner)
                return owner in takers or (
                    wants is not None and (source in wants.sources) != wants.is_exclude
                )
            return egress.address is None or egress.address not in spared

        return keeps


def _numbers(network: Network | None, told: Told | None) -> Iterable[Number]:
    """What the network is called on the wire; where the config does not have it, the manager says so."""
    if network is not None:
        return planner.numbers(network)
    if told is None:
        return ()
    return [*((Encap.VXLAN, vni) for vni in told.vnis), *((Encap.NVGRE, vsid) for vsid in told.vsids)]


def _bounded(wants: Wants) -> Wants:
    """Who names too many sources gets all of them."""
    return ALL if len(wants.sources) > planner.SOURCES_MAX else wants
