"""From the membership table to the replication lists of a box: a burst of changes becomes one step.

1. What a config and a kernel say beside the members is a `Basis`; while it stands, a change of membership
   plans its own group anew and no other. So does a word of a manager (`instruct`), a route that changes
   the groups that have a peer behind it, and a VM port of an NVE the lists of its network (`reroute`).
   What VMs join or leave plans their own group of their network; what refines a list follows it.
2. What a step gives is the difference.
3. Members that share copies are one to the planner, which wants what they want together. Each source that it
   names has a list of its own; one that would have more than planner.SOURCES_MAX gets all sources.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from ctrl import planner
from ctrl.membership import ALL, Membership, Wants, Who
from ctrl.point_lists import Point, PointLists, Receivers
from ctrl.refined_lists import RefinedLists
from ctrl.tenant_lists import TenantLists
from fastpath.model import (
    Egress,
    Encap,
    GroupKey,
    IPAddress,
    Network,
    ReplicationList,
    Scope,
    group_key,
)


@dataclass(frozen=True, slots=True)
class Basis:
    """What lists are made of beside members. `fixed` are lists that nobody joins: those of a point."""

    encaps: tuple[Encap, ...] = ()
    """What the NVEs of each port speak."""
    tunnel: planner.Tunnel | None = None
    """None: the box is no device."""
    peers: Mapping[IPAddress, Sequence[planner.Remote]] = field(default_factory=dict)
    fixed: tuple[ReplicationList, ...] = ()
    overlay: tuple[ReplicationList, ...] = field(default=(), compare=False)
    """Those of an NVE, which follow its VM ports; others take no more than `reroute`."""
    networks: tuple[Network, ...] = ()
    """The data path keeps the networks of a group with its list."""
    snooped: tuple[planner.Snooped, ...] = field(default=(), compare=False)
    """The networks whose tenant groups have lists of their own at an NVE; as `overlay`."""
    agnostic: tuple[planner.Agnostic, ...] = field(default=(), compare=False)
    """The networks whose tenants' IGMP and MLD an NVE hands on, not reads; no lists are made of them."""
    refined: tuple[Network, ...] = ()
    """Those whose tenants a device or a point listens to."""
    point: Point | None = None
    """None: the box is no replication point."""
    ways: planner.Ways = field(default=planner.NOWHERE, compare=False)
    """To peers that a manager names; another one takes no more than `reroute`."""


class Step(NamedTuple):
    """The lists to set and the keys to remove."""

    lists: list[ReplicationList]
    removed: list[GroupKey]


class Publisher:
    """The lists of a box, kept in step with a membership table."""

    def __init__(
        self,
        membership: Membership,
        basis: Basis = Basis(),
        tenants: TenantLists | None = None,
        refined: Sequence[RefinedLists] = (),
    ) -> None:
        self._membership = membership
        self._basis = basis
        self._told: dict[IPAddress, tuple[IPAddress, ...]] = {}
        """The peers that a manager named, by group."""
        self._meshed: dict[IPAddress, None] = {}
        """Groups where these are devices, not points."""
        self._refined = refined
        self._retunnelled: dict[IPAddress, None] = {}
        """Groups whose peers may differ since the last step."""
        self._points = PointLists()
        self._tenants = tenants
        self._tunnels: dict[IPAddress, tuple[Egress, ...]] = {}
        """The copies to peers, by group."""
        self._named: dict[IPAddress, list[GroupKey]] = {}
        """The keys of the lists of sources, by group."""
        self.lists: dict[GroupKey, ReplicationList] = {}
        self.rebase(basis)

    def instruct(self, group: IPAddress, peers: tuple[IPAddress, ...], is_mesh: bool = True) -> None:
        """A manager says who gets copies of a group besides the peers of the config (CONFORMANCE D8)."""
        if peers:
            self._told[group] = peers
        else:
            self._told.pop(group, None)
        if peers and is_mesh:
            self._meshed[group] = None
        else:
            self._meshed.pop(group, None)
        self._retunnelled[group] = None

    def instruct_point(self, group: IPAddress, receivers: Receivers | None) -> None:
        """A manager says whom a replication point serves (CONFORMANCE R1)."""
        self._points.instruct(group, receivers)

    def rebase(self, basis: Basis) -> Step:
        """Plan everything anew; what the table has collected by now is in it."""
        self._membership.take_changed()
        self._retunnelled.clear()
        old, before = self.lists, self._basis
        self._basis, self._tunnels, self._named, self.lists = basis, {}, {}, {}
        if basis.tunnel is not None:
            for group in dict.fromkeys([*basis.peers, *self._told]):
                self._retunnel(group)
            for group in dict.fromkeys([*self._tunnels, *self._membership.groups()]):
                self._replan(group, Step([], []))
        self.lists |= {one.key: one for one in (*basis.fixed, *basis.overlay)}
        self._points.rebase(basis.point, basis.ways)
        self._take_points(Step([], []))
        if self._tenants is not None:
            self._tenants.rebase(basis.snooped)
            self._take_tenants(Step([], []))
        for refined in self._refined:
            refined.rebase(basis.refined)
            self._take(refined.update(self), Step([], []))
        fresh = basis.networks != before.networks
        return Step(
            [one for key, one in self.lists.items() if fresh or old.get(key) != one],
            [key for key in old if key not in self.lists],
        )

    def reroute(self, basis: Basis) -> Step:
        """Plan anew for the peers that are reached otherwise from now on, and for the VM ports that came or
        went, by a basis that differs in nothing else; `update` besides."""
        old, ways = self._basis.ways, basis.ways
        overlay: dict[GroupKey, ReplicationList | None] = {one.key: None for one in self._basis.overlay}
        overlay |= {one.key: one for one in basis.overlay}
        of_vms = Step([], [])
        self._take(overlay.items(), of_vms)
        self._basis = basis
        routes = {*old.routes, *ways.routes}
        moved = {address for address in routes if old.out_port(address) != ways.out_port(address)}
        if moved:
            self._retunnelled |= dict.fromkeys(g for g, p in self._told.items() if not moved.isdisjoint(p))
        self._points.reroute(ways, moved)
        if self._tenants is not None:
            self._tenants.reroute(basis.snooped)
        step = self.update()
        return Step(of_vms.lists + step.lists, of_vms.removed + step.removed)

    def update(self) -> Step:
        """Plan the groups whose members, or whose peers, changed since the last step."""
        step = Step([], [])
        changed = self._membership.take_changed()
        if self._basis.tunnel is not None:
            if self._retunnelled:
                changed = list(dict.fromkeys([*changed, *self._retunnelled]))
                for group in self._retunnelled:
                    self._retunnel(group)
            for group in changed:
                self._replan(group, step)
        retunnelled, self._retunnelled = self._retunnelled, {}
        self._take_points(step)
        self._take_tenants(step)
        if self._refined:
            touched = [*(one.key for one in step.lists), *step.removed]
            touched += [group_key(Scope.DEVICE, group) for group in retunnelled]
            for refined in self._refined:
                refined.touch(touched)
                self._take(refined.update(self), step)
        return step

    def base(self, key: GroupKey) -> ReplicationList | None:
        """What may be refined: the list of a network or group, unless it has others for sources."""
        if key.scope is Scope.DEVICE and key.group in self._named:
            return None
        return self.lists.get(key)

    def named(self, scope: Scope, group: IPAddress) -> Collection[IPAddress]:
        """The receivers of a group that are there by a manager's word, each with a copy of its own."""
        if scope is Scope.REPLICATOR:
            return self._points.devices(group)
        return self._told[group] if group in self._meshed else ()

    def _retunnel(self, group: IPAddress) -> None:
        """Work out the copies to peers of a group anew."""
        tunnel = self._basis.tunnel
        if tunnel is None:
            return
        told = self._basis.ways.remotes(self._told.get(group, ()))
        tunnels = planner.plan_tunnels([*self._basis.peers.get(group, ()), *told], tunnel)
        if tunnels:
            self._tunnels[group] = tunnels
        else:
            self._tunnels.pop(group, None)

    def _take_points(self, step: Step) -> None:
        fixed = {one.key for one in self._basis.fixed}
        self._take((one for one in self._points.update() if one[0] not in fixed), step)

    def _take_tenants(self, step: Step) -> None:
        if self._tenants is not None:
            self._take(self._tenants.update(), step)

    def _take(self, several: Iterable[tuple[GroupKey, ReplicationList | None]], step: Step) -> None:
        """Add to a step what is different of these; None: there is no such list any more."""
        for key, planned in several:
            if planned is None:
                if self.lists.pop(key, None) is not None:
                    step.removed.append(key)
            elif self.lists.get(key) != planned:
                self.lists[key] = planned
                step.lists.append(planned)

    def _replan(self, group: IPAddress, step: Step) -> None:
        """Plan a group anew, and add to a step what is different."""
        remote = self._tunnels.get(group, ()) if self._tunnels else ()
        members = _members(self._membership.of(group))
        planned: Sequence[ReplicationList] = ()
        if members or remote:
            planned = planner.plan_device_group(group, members, remote, self._basis.encaps)
        for one in planned:
            before = self.lists.setdefault(one.key, one)
            if before is one:
                step.lists.append(one)
            elif before != one:
                self.lists[one.key] = one
                step.lists.append(one)
        gone = self._named.pop(group, []) if self._named else []
        named = [one.key for one in planned[1:]]
        if named:
            self._named[group] = named
            gone = list(set(gone) - set(named))
        if not planned:
            gone.append(group_key(Scope.DEVICE, group))
        for key in gone:
            if self.lists.pop(key, None) is not None:
                step.removed.append(key)


def _members(found: Mapping[Who, Wants]) -> list[planner.Member]:
    """Those who share copies are one member to the planner, in an order that does not tell who came first."""
    sharing: dict[tuple[int, IPAddress | None], list[Wants]] = {}
    for who, wants in found.items():
        sharing.setdefault((who.port, who.unicast), []).append(wants)
    if len(sharing) > 1:
        for who in found:  # an NVE that joins, although the config thinks it never does, gets one copy
            if who.mac:
                sharing.pop((who.port, who.address), None)
    members = []
    for port, nve in sorted(sharing, key=_order) if len(sharing) > 1 else sharing:
        several = sharing[port, nve]
        wants = _together(several)
        members.append(planner.Member(port, nve, wants.is_exclude, wants.sources))
    return members


def _order(place: tuple[int, IPAddress | None]) -> tuple[int, int]:
    port, nve = place
    return port, 0 if nve is None else int(nve)


def _together(several: Sequence[Wants]) -> Wants:
    """What some members want together (RFC 9776 section 3.2), or all where that is too many sources."""
    if ALL in several:
        return ALL
    blocked = [one.sources for one in several if one.is_exclude]
    sources: AbstractSet[IPAddress] = frozenset()
    for one in several:
        if not one.is_exclude and (blocked or len(sources) <= planner.SOURCES_MAX):
            sources |= one.sources
    if blocked:
        sources = frozenset.intersection(*blocked) - sources
    if len(sources) > planner.SOURCES_MAX:
        return ALL
    return Wants(is_exclude=bool(blocked), sources=frozenset(sources))
