"""From a config to what the data path forwards by: the layout, the static members, and what else the
replication lists are made of.

Decisions:
1. A port without `mac` gets 02:fa:57:00:HH:NN, without `next_hop_mac` 02:fa:57:ff:HH:NN, where HHNN is its
   place in the config, from 1: locally administered, and told apart at a glance in a capture.
2. Lists by number keep the sender's outer source unless the list or the receiver says otherwise: plain VTEPs
   learn from it. `[replicator] source` is about a manager's lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from ctrl import overlays, planner
from ctrl.config.numbers import list_key, receiver_key, vsid_of
from ctrl.config.schema import (
    Config,
    DeviceTable,
    ListTable,
    NveTable,
    PortTable,
    ReplicatorTable,
    StormTable,
)
from ctrl.config.values import IPInterface
from ctrl.membership import ALL, Event, Membership, Origin, Who
from ctrl.point_lists import Point
from ctrl.publisher import Basis, Publisher
from ctrl.roles.attachment import Attachment
from ctrl.ways import uplink, vm_ports, ways
from fastpath.model import (
    AllowFrom,
    Encap,
    Endpoint,
    Faces,
    Form,
    GroupMap,
    IPAddress,
    Layout,
    LocalNve,
    Network,
    Peer,
    Port,
    Rate,
    ReplicationList,
    Scope,
    Storm,
)

ENCAPS = {"vxlan": Encap.VXLAN, "nvgre": Encap.NVGRE}
_LEAST_BURST = 64
"""Frames: a VM that answers a burst of requests sends so many at once."""
_FACES = {"nve": Faces.NVE, "core": Faces.CORE, "vm": Faces.VM}


@dataclass(frozen=True, slots=True)
class StaticPlan:
    """All that a config says to the data path."""

    layout: Layout
    lists: tuple[ReplicationList, ...]


def plan(config: Config) -> StaticPlan:
    """Plan a whole config that was found good, as it stands: before anybody joins."""
    ports = plan_ports(config.ports)
    membership = Membership()
    enroll(membership, config)
    publisher = Publisher(membership, basis(config, ports, ways(config)))
    return StaticPlan(plan_layout(config, ports), tuple(publisher.lists.values()))


def enroll(membership: Membership, config: Config) -> list[Event]:
    """Make the static members of a table those of the config."""
    wanted = dict.fromkeys(
        (m.group, Who(port_place(config, m.port), Origin.STATIC, address=m.nve))
        for m in (config.device.members if config.device else ())
    )
    gone = [place for place in membership.of_origin(Origin.STATIC) if place not in wanted]
    events = [membership.apply(*place, None) for place in gone]
    events += [membership.apply(*place, ALL) for place in wanted]
    return [event for event in events if event is not None]


def basis(
    config: Config,
    ports: tuple[Port, ...],
    found: planner.Ways,
    told: Mapping[IPAddress, planner.Receivers] = MappingProxyType({}),
) -> Basis:
    """What the lists of a config are made of, beside the members. `told`: whom managers have our NVE send
    what is for a group."""
    device, networks = config.device, tuple(_networks(config))
    sending, up = overlays.how_to_send(config, networks, found, told), _up(config, ports)
    peers: dict[IPAddress, list[planner.Remote]] = {}
    for p in device.peers if device else ():
        peers.setdefault(p.group, []).extend(found.remote(address) for address in p.addresses)
    return Basis(
        encaps=tuple(port.encap for port in ports),
        tunnel=tunnel_of(device) if device else None,
        peers=peers,
        fixed=tuple(_point_lists(config, config.replicator, found)) if config.replicator else (),
        overlay=tuple(overlays.lists(networks, up, sending)),
        networks=networks,
        snooped=tuple(overlays.snooped(config, networks, up, sending)),
        agnostic=tuple(overlays.agnostic(config, networks, up, sending, found)),
        refined=tuple(n for n in networks if n.snoop) if device or config.replicator else (),
        point=Point(config.replicator.address, config.replicator.source == "own")
        if config.replicator
        else None,
        ways=found,
    )


def plan_layout(config: Config, ports: tuple[Port, ...]) -> Layout:
    """Lay out the box: everything but its lists."""
    dataplane, device = config.dataplane, config.device
    nves = {
        LocalNve(port_place(config, m.port), m.nve): None
        for m in (device.members if device else ())
        if m.nve is not None
    }
    return Layout(
        ports=_shared(config, ports),
        endpoints=tuple(_endpoints(config)),
        networks=tuple(_networks(config)),
        peers=tuple(_peers(config)),
        nves=tuple(nves),
        allow_from=tuple(_allow_from(config)),
        point_vnis=tuple(sorted(config.replicator.vnis)) if config.replicator else (),
        vxlan_ports=dataplane.vxlan_ports,
        verify_checksums=dataplane.verify_checksums,
        strict_reserved=dataplane.strict_reserved,
        strict_members=device.strict_members if device else False,
    )


def plan_ports(tables: tuple[PortTable, ...]) -> tuple[Port, ...]:
    """The ports as the data path knows them, by their places."""
    return tuple(
        Port(
            name=table.name,
            faces=_faces(table),
            mac=table.mac or bytes((0x02, 0xFA, 0x57, 0x00, *place.to_bytes(2, "big"))),
            next_hop_mac=table.next_hop_mac or bytes((0x02, 0xFA, 0x57, 0xFF, *place.to_bytes(2, "big"))),
            encap=ENCAPS[table.encap],
            mtu=table.mtu,
            network=table.network or "",
            macs=table.macs,
            drop_tagged=table.tagged == "drop",
            storm=_storm(table.storm),
        )
        for place, table in enumerate(tables, 1)
    )


def _shared(config: Config, ports: tuple[Port, ...]) -> tuple[Port, ...]:
    """The ports of a device and an NVE in one box, where each has groups of its own; else as they are."""
    if config.nve is None or config.device is None:
        return ports
    by = uplink(config)
    return tuple(
        replace(port, group_scope=Scope.DEVICE) if port.faces == Faces.CORE and place != by else port
        for place, port in enumerate(ports)
    )


def tenant_mac(role: NveTable | DeviceTable | ReplicatorTable) -> bytes:
    """Our MAC in what VMs are asked and told: of each role another one, whatever its ports are."""
    return bytes((0x02, 0xFB)) + role.address.packed[-4:]


def needs(config: Config, ports: tuple[Port, ...]) -> dict[str, frozenset[tuple[int, IPAddress]]]:
    """The groups that the NVE is in for each network, and by which port: those of the networks with a VM port
    that is up (CONFORMANCE N3-N5); none, where what VMs send goes to no group."""
    by = uplink(config)
    if config.nve is None or config.nve.send_to or config.nve.manager or by is None:
        return {}
    return {
        network.name: frozenset((by, group) for group in network.groups())
        for network in _served(config, ports)
    }


def tunnelled(config: Config, ports: tuple[Port, ...]) -> frozenset[IPAddress]:
    """The groups that the NVE is in by the managers' books, in the place of those that it would join."""
    if config.nve is None or not config.nve.manager:
        return frozenset()
    return frozenset(group for network in _served(config, ports) for group in network.groups())


def _served(config: Config, ports: tuple[Port, ...]) -> Iterator[Network]:
    """The networks with a VM port that is up."""
    up = _up(config, ports)
    return (network for network in _networks(config) if up.get(network.name))


def attachments(config: Config, ports: tuple[Port, ...]) -> dict[int, Attachment]:
    """The ports with NVEs behind them, and what the device is called there."""
    if config.device is None:
        return {}
    return {
        place: attachment(port, table.addresses, config.device.address)
        for place, (table, port) in enumerate(zip(config.ports, ports, strict=True))
        if "nve" in table.faces
    }


def uplinks(config: Config, ports: tuple[Port, ...]) -> dict[int, Attachment]:
    """The port by which the NVE is in its groups, and what it is called there."""
    place = uplink(config)
    if place is None or config.nve is None:
        return {}
    return {place: attachment(ports[place], config.ports[place].addresses, config.nve.address)}


def attachment(port: Port, addresses: Iterable[IPInterface], ours: IPAddress) -> Attachment:
    """What a role is called at a port: what it says comes from an address of the port, to which whoever is
    there has a route (CONFORMANCE W8), else from the role's."""
    own = [*(one.ip for one in addresses), ours]
    address = next((int(one) for one in own if one.version == 4), 0)
    return Attachment(port.mac, address, port.mtu, port.is_up)


def port_place(config: Config, name: str) -> int:
    """The place of a port by its name."""
    return next(i for i, port in enumerate(config.ports) if port.name == name)


def tunnel_of(device: DeviceTable) -> planner.Tunnel:
    """How the device sends to its peers."""
    if device.tunnel == "nested":
        return planner.Tunnel(Form.NESTED, device.address)
    return planner.Tunnel(Form.REWRITE, device.address if device.source == "own" else None)


def _point_lists(config: Config, point: ReplicatorTable, found: planner.Ways) -> Iterator[ReplicationList]:
    for table in point.lists:
        yield from _point_list(config, point, table, found)


def _point_list(
    config: Config, replicator: ReplicatorTable, table: ListTable, found: planner.Ways
) -> tuple[ReplicationList, ...]:
    key = list_key(table)
    if key is None:
        if table.group is None:
            raise ValueError("a list without a key: check the config first")
        remotes = [found.remote(r.address) for r in table.receivers]
        return (planner.plan_point_group(table.group, remotes, replicator.address),)
    receivers = []
    for r in table.receivers:
        encap, number = receiver_key(key, r, config.networks)
        source = replicator.address if (r.source or table.source) == "own" else None
        receivers.append(
            planner.Receiver(r.address, found.remote(r.address).out_port, ENCAPS[encap], number, source)
        )
    return planner.plan_point_number(ENCAPS[key[0]], key[1], receivers)


def _up(config: Config, ports: tuple[Port, ...]) -> dict[str, list[int]]:
    """The places of the VM ports that are up, of each network that has any, up or not."""
    return {
        name: [place for place in places if ports[place].is_up] for name, places in vm_ports(config).items()
    }


def _endpoints(config: Config) -> Iterator[Endpoint]:
    device, point = config.device, config.replicator
    if config.nve:
        yield Endpoint(config.nve.address, Scope.NVE)
    if device:
        yield Endpoint(device.address, Scope.DEVICE)
    if point:
        replicate = point.replicate or point.address
        if replicate != point.address and not (device and device.address == point.address):
            yield Endpoint(point.address, Scope.REPLICATOR)
        yield Endpoint(replicate, Scope.REPLICATOR, replicate=True)


def _networks(config: Config) -> Iterator[Network]:
    for table in config.networks:
        yield Network(
            name=table.name,
            vni=table.vni,
            vsid=vsid_of(table),
            encap=ENCAPS[table.encap],
            group=table.group,
            maps=tuple(GroupMap(m.inner, m.group) for m in table.maps),
            clear_reserved=table.clear_reserved,
            snoop=table.snoop or bool(table.igmp_to),
            drop_unregistered=table.unregistered == "drop",
        )


def _peers(config: Config) -> dict[Peer, None]:
    found: dict[Peer, None] = {}
    if config.nve:
        vteps = (one.vtep for one in config.nve.stations if one.vtep is not None)
        services = (address for network in config.networks for address in network.igmp_to)
        named = (*config.nve.send_to, *vteps, *services)
        found |= dict.fromkeys(Peer(Scope.NVE, address) for address in named)
    for peer in config.device.peers if config.device else ():
        found |= dict.fromkeys(Peer(Scope.DEVICE, address) for address in peer.addresses)
    for table in config.replicator.lists if config.replicator else ():
        found |= dict.fromkeys(Peer(Scope.REPLICATOR, receiver.address) for receiver in table.receivers)
    return found


def _allow_from(config: Config) -> Iterator[AllowFrom]:
    roles = ((Scope.NVE, config.nve), (Scope.DEVICE, config.device), (Scope.REPLICATOR, config.replicator))
    for scope, role in roles:
        for prefix in role.allow_from if role else ():
            yield AllowFrom(scope, prefix)


def _storm(table: StormTable | None) -> Storm | None:
    if table is None:
        return None

    def rate(pps: int) -> Rate | None:
        return Rate(pps, max(pps, _LEAST_BURST)) if pps else None

    return Storm(rate(table.broadcast_pps), rate(table.multicast_pps), rate(table.unknown_pps))


def _faces(table: PortTable) -> Faces:
    faces = Faces(0)
    for face in table.faces:
        faces |= _FACES[face]
    return faces
