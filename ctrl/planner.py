"""Which copies a group key needs: from members, peers and receivers to replication lists.

1. Pure: values in, `fastpath.model` values out. No I/O, no clock, no config; whoever knows where a peer is
   reached (a prefix of the config, a route of the kernel) says so in `Remote.out_port`.
2. Per group key: one change of membership re-plans one group, whatever else the box replicates.
3. An owner stands in a list once (`ReplicationList`); the first mention of it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from fastpath.model import (
    Egress,
    Encap,
    Form,
    GroupKey,
    IPAddress,
    IPNetwork,
    KeyKind,
    Network,
    Owner,
    ReplicationList,
    Scope,
    group_key,
    vni_key,
)

SOURCES_MAX = 512
"""Lists of sources of one group, for each port: who joins names sources at will, and each costs a list."""


class Member(NamedTuple):
    """Someone behind `port` who wants a group: whoever joined there, or one NVE served by unicast.

    Packets of which sources it wants: all but `sources` (`is_exclude`), or of these alone.
    """

    port: int
    nve: IPAddress | None = None
    is_exclude: bool = True
    sources: frozenset[IPAddress] = frozenset()

    def wants(self, source: IPAddress | None) -> bool:
        """Say whether it wants packets of a source; None is one that nobody named."""
        return (source in self.sources) != self.is_exclude


@dataclass(frozen=True, slots=True)
class Remote:
    """A peer and the port by which it is reached."""

    address: IPAddress
    out_port: int


@dataclass(frozen=True, slots=True)
class Tunnel:
    """How a device sends to its peers: `form` is NESTED or REWRITE. `source` is the outer source of the
    copies; None keeps the NVE's own, which only REWRITE can (a nested copy is always ours, CONFORMANCE
    D20)."""

    form: Form
    source: IPAddress | None


@dataclass(frozen=True, slots=True)
class Receiver:
    """One of the receivers of a replication point's list by number: what it speaks, and its number there."""

    address: IPAddress
    out_port: int
    encap: Encap
    number: int
    source: IPAddress | None = None
    """The outer source of its copies; None keeps the sender's."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """How an NVE sends what it has for several or unknown stations: from `source`, to the group of the
    network by the port `uplink`; or to no group, but to each of the `receivers`, where there are some, or to
    each of those that a manager told of the group (framework 3.2)."""

    source: IPAddress
    uplink: int
    receivers: tuple[Remote, ...] = ()
    told: Mapping[IPAddress, tuple[Egress, ...]] | None = None
    """The copies to those, by group; one that is not in here has no receiver. None: no manager is asked."""

    def egress(self, network: Network, to: Remote) -> Egress:
        """Plan the copy to a receiver, or to a group."""
        owner = Owner(address=to.address)
        return Egress(to.out_port, Form.REWRITE, owner, to.address, self.source, encap=network.encap)


@dataclass(frozen=True, slots=True)
class Receivers:
    """Those that a manager told an NVE of a group. Their copies are planned once: there may be a thousand
    receivers of each of hundreds of groups, and what is planned anew whenever the kernel has news is compared
    with what was."""

    addresses: tuple[IPAddress, ...]
    _planned: dict[tuple[Encap, IPAddress], tuple[list[int], tuple[Egress, ...]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def egresses(
        self, network: Network, overlay: Overlay, out_port: Callable[[IPAddress], int]
    ) -> tuple[Egress, ...]:
        """Plan the copies of a network's frames; the same object as long as they leave by the same ports."""
        ports = [out_port(address) for address in self.addresses]
        before = self._planned.get((network.encap, overlay.source))
        if before is None or before[0] != ports:
            remotes = map(Remote, self.addresses, ports)
            before = ports, _once(overlay.egress(network, one) for one in remotes)
            self._planned[network.encap, overlay.source] = before
        return before[1]


@dataclass(frozen=True, slots=True)
class Snooped:
    """A network whose tenant groups an NVE knows: the VM ports of it that are up, and how it sends."""

    network: Network
    vm_ports: frozenset[int]
    overlay: Overlay


@dataclass(frozen=True, slots=True)
class Agnostic:
    """A network whose tenants' IGMP and MLD goes where its other frames go, and to `services` besides: its
    VM ports that are up, and how the NVE sends (CONFORMANCE N12)."""

    network: Network
    vm_ports: frozenset[int]
    overlay: Overlay
    services: tuple[Remote, ...]


@dataclass(frozen=True, slots=True)
class Ways:
    """By which port an address is reached."""

    prefixes: tuple[tuple[int, IPNetwork], ...]
    core_ports: tuple[int, ...]
    routes: Mapping[IPAddress, int] = field(default_factory=dict)
    """What the kernel says, where it was asked: address -> place of the port."""

    def out_port(self, address: IPAddress) -> int | None:
        out_port = self.routes.get(address)
        return choose_out_port(address, self.prefixes, self.core_ports) if out_port is None else out_port

    def remote(self, address: IPAddress) -> Remote:
        """The peer and its port; a checked config has a way to each of its peers."""
        out_port = self.out_port(address)
        if out_port is None:
            raise ValueError(f"no port reaches {address}: check the config first")
        return Remote(address, out_port)

    def remotes(self, addresses: Iterable[IPAddress]) -> list[Remote]:
        """Those of these peers that a port reaches: a box without one that faces the core has no way to what
        a manager may name, which `check` warns of."""
        found = ((address, self.out_port(address)) for address in addresses)
        return [Remote(address, out_port) for address, out_port in found if out_port is not None]


NOWHERE = Ways((), ())


def plan_tunnels(peers: Iterable[Remote], tunnel: Tunnel) -> tuple[Egress, ...]:
    """Plan the copies to peers (CONFORMANCE TI): those of every list of a group."""
    return _once(
        Egress(p.out_port, tunnel.form, Owner(address=p.address), p.address, tunnel.source) for p in peers
    )


def plan_device_group(
    group: IPAddress, members: Sequence[Member], remote: tuple[Egress, ...], encaps: Sequence[Encap]
) -> tuple[ReplicationList, ...]:
    """Plan a group of a device: copies to its members (CONFORMANCE D9, NI), and those to its peers, which
    `plan_tunnels` gives. `encaps`: what the NVEs of each port speak.

    The first list is that of the group. Each source that a member named has one of its own behind it: to
    those who want it. A peer that rewrites sends as itself, so who is behind it is not known: what has a peer
    for its source goes to every member.
    """

    def planned(source: IPAddress | None, wanting: Iterable[Member]) -> ReplicationList:
        local = {(m.port, m.nve): _local_egress(m, encaps[m.port], group.version) for m in wanting}
        return ReplicationList(group_key(Scope.DEVICE, group, source), tuple(local.values()), remote)

    named: dict[IPAddress, None] = {}
    for m in members:
        if m.sources:
            named |= dict.fromkeys(m.sources)
    if not named:
        return (planned(None, members),)
    behind = dict.fromkeys(egress.address for egress in remote)
    return (
        planned(None, (m for m in members if m.wants(None))),
        *(planned(s, (m for m in members if m.wants(s))) for s in named if s not in behind),
        *(planned(address, members) for address in behind),
    )


@cache
def _group_egress(port: int, encap: Encap, version: int) -> Egress:
    """The copy to whoever joined at a port: one object for all groups, of which there may be many."""
    return Egress(port, Form.GROUP, Owner(port=port), encap=encap, version=version)


def _local_egress(member: Member, encap: Encap, version: int) -> Egress:
    if member.nve is None:
        return _group_egress(member.port, encap, version)
    return Egress(member.port, Form.REWRITE, Owner(member.port, member.nve), member.nve, encap=encap)


def plan_nve_network(
    network: Network, vm_ports: Iterable[int], overlay: Overlay
) -> tuple[ReplicationList, ...]:
    """Plan a network of an NVE: what comes in goes to its VMs at these ports (CONFORMANCE N8), what a VM
    sends to the other VMs and in one copy to the network's group (N1, N2), or to each of the receivers.

    VTEPs may speak either encapsulation, so the list stands under both numbers. Frames whose inner
    destination the network maps to another group have a list each, under that group and the number (N9).
    """
    local = tuple(vm_egress(port) for port in vm_ports)
    remote = overlay_egresses(network, overlay, network.group)
    groups = () if overlay.receivers else dict.fromkeys(one.group for one in network.maps)
    return (
        *(ReplicationList(vni_key(Scope.NVE, *number), local, remote) for number in numbers(network)),
        *(
            ReplicationList(_mapped_key(network, group), local, overlay_egresses(network, overlay, group))
            for group in groups
        ),
    )


def plan_nve_group(
    snooped: Snooped,
    group: IPAddress,
    members: Sequence[Member],
    takers: Collection[int],
    spared: Collection[IPAddress] = (),
) -> tuple[ReplicationList, ...]:
    """Plan a tenant group of a network that an NVE snoops: what comes in goes to the VM ports of its members
    and to those that take all groups (CONFORMANCE N13); what a VM sends goes into the overlay besides, as all
    of its network does, but for receivers that are `spared`: who wants it there is theirs to know (N2).

    Each source that a member named has a list of its own.
    """
    network = snooped.network
    outer = outer_group(network, group)
    remote = tuple(e for e in overlay_egresses(network, snooped.overlay, outer) if e.address not in spared)

    def planned(source: IPAddress | None) -> Iterator[ReplicationList]:
        wanting = {*takers, *(m.port for m in members if m.wants(source))} & snooped.vm_ports
        local = tuple(vm_egress(port) for port in sorted(wanting))
        for number in numbers(network):
            yield ReplicationList(vni_key(Scope.NVE, *number, group, source), local, remote)

    named = dict.fromkeys(source for m in members for source in m.sources)
    return tuple(one for source in (None, *named) for one in planned(source))


def outer_group(network: Network, inner: IPAddress) -> IPAddress | None:
    """The group that carries a network's frames to an inner group (CONFORMANCE N9)."""
    maps = [one for one in network.maps if inner in one.inner]
    return max(maps, key=lambda one: one.inner.prefixlen).group if maps else network.group


def overlay_egresses(
    network: Network, overlay: Overlay, group: IPAddress | None, besides: Sequence[Remote] = ()
) -> tuple[Egress, ...]:
    """Plan the copies into the overlay: one to the outer group, or one to each of the receivers; and one to
    each of those `besides`."""
    remotes = overlay.receivers
    planned: tuple[Egress, ...] = ()
    if overlay.told is not None:
        planned = overlay.told.get(group, ()) if group is not None else ()
    elif not remotes and group is not None:
        remotes = (Remote(group, overlay.uplink),)
    if not (remotes or besides):
        return planned
    return _once([*planned, *(overlay.egress(network, one) for one in (*remotes, *besides))])


@cache
def vm_egress(port: int) -> Egress:
    """The copy to a VM port: one object for all lists, of which there may be many."""
    return Egress(port, Form.DECAPSULATED, Owner(port=port))


def numbers(network: Network) -> Iterator[tuple[Encap, int]]:
    """What a network is called on the wire, by encapsulation."""
    for encap in (Encap.VXLAN, Encap.NVGRE):
        number = network.number(encap)
        if number is not None:
            yield encap, number


def _mapped_key(network: Network, group: IPAddress) -> GroupKey:
    """Key of the frames of VMs that a network maps to a group."""
    number = network.number(network.encap)
    if number is None:
        raise ValueError(f"network {network.name} has no number of its own: check the config first")
    return GroupKey(Scope.NVE, KeyKind.GROUP, group, None, network.encap, number)


def plan_point_group(
    group: IPAddress, receivers: Iterable[Remote], source: IPAddress, onward: Sequence[Remote] = ()
) -> ReplicationList:
    """Plan a group of a replication point: nested copies from `source` to all its devices (CONFORMANCE R3).

    In a tree, `onward` are the points that get one besides: what they send in their turn goes to devices
    alone, which is why these are the list's local segment then (R11; IR-IP of RFC 9574).
    """

    def nested(remotes: Iterable[Remote]) -> tuple[Egress, ...]:
        return _once(
            Egress(r.out_port, Form.NESTED, Owner(address=r.address), r.address, source) for r in remotes
        )

    return _point_list(group_key(Scope.REPLICATOR, group), nested(receivers), nested(onward))


def _point_list(key: GroupKey, devices: tuple[Egress, ...], onward: tuple[Egress, ...]) -> ReplicationList:
    return ReplicationList(key, devices, onward) if onward else ReplicationList(key, (), devices)


def plan_point_number(
    encap: Encap, number: int, receivers: Sequence[Receiver], onward: Sequence[Receiver] = ()
) -> tuple[ReplicationList, ...]:
    """Plan a network of a replication point for VTEPs that know no nesting (RFC 9574); `onward` as above.

    A VTEP that speaks another encapsulation, or has another number, sends with that one as well: so the same
    list stands under each (encap, number) of the receivers, and under the network's own.
    """
    names = dict.fromkeys([(encap, number), *((r.encap, r.number) for r in receivers)])
    is_mixed = len(names) > 1

    def rewritten(several: Iterable[Receiver]) -> tuple[Egress, ...]:
        return _once(
            Egress(
                r.out_port,
                Form.REWRITE,
                Owner(address=r.address),
                r.address,
                r.source,
                r.encap if is_mixed else None,
                r.number if is_mixed else None,
            )
            for r in several
        )

    devices, points = rewritten(receivers), rewritten(onward)
    return tuple(_point_list(vni_key(Scope.REPLICATOR, *name), devices, points) for name in names)


def choose_out_port(
    address: IPAddress, prefixes: Iterable[tuple[int, IPNetwork]], core_ports: Sequence[int]
) -> int | None:
    """The port whose prefix holds `address` (the longest wins, then the first), else the first that faces the
    core.

    `prefixes` are (port, prefix) pairs; None where there is no way at all.
    """
    holding = [(prefix.prefixlen, -port) for port, prefix in prefixes if address in prefix]
    if holding:
        return -max(holding)[1]
    return core_ports[0] if core_ports else None


def _once(egresses: Iterable[Egress]) -> tuple[Egress, ...]:
    by_owner: dict[Owner, Egress] = {}
    for egress in egresses:
        by_owner.setdefault(egress.owner, egress)
    return tuple(by_owner.values())
