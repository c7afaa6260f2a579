"""From a config to what the data path forwards by: the layout, the static members, and what else the
replication lists are made of.

Decisions:
1. A port without `mac` gets 02:fa:57:00:HH:NN, without `next_hop_mac` 02:fa:57:ff:HH:NN, where HHNN is its
   place in the config, from 1: locally administered, and told apart at a glance in a capture.
2. A peer is reached by the port to which the kernel routes it (live, where there is a kernel to ask), else by
   the one whose `address` prefix holds it (the longest), else by the first that faces the core; ports that
   face VMs reach nobody.
3. Lists by number keep the sender's outer source unless the list or the receiver says otherwise: plain VTEPs
   learn from it. `[replicator] source` is about a manager's lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ctrl import planner
from ctrl.config.numbers import list_key, receiver_key, vsid_of
from ctrl.config.schema import Config, DeviceTable, ListTable, PortTable, ReplicatorTable
from ctrl.membership import ALL, Event, Membership, Origin, Who
from ctrl.point_lists import Point
from ctrl.publisher import Basis, Publisher
from ctrl.roles.attachment import Attachment
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
    ReplicationList,
    Scope,
)

_ENCAPS = {"vxlan": Encap.VXLAN, "nvgre": Encap.NVGRE}
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


def basis(config: Config, ports: tuple[Port, ...], found: planner.Ways) -> Basis:
    """What the lists of a config are made of, beside the members."""
    device = config.device
    peers: dict[IPAddress, list[planner.Remote]] = {}
    for p in device.peers if device else ():
        peers.setdefault(p.group, []).extend(found.remote(address) for address in p.addresses)
    return Basis(
        encaps=tuple(port.encap for port in ports),
        tunnel=tunnel_of(device) if device else None,
        peers=peers,
        fixed=tuple(_point_lists(config, config.replicator, found)) if config.replicator else (),
        networks=tuple(_networks(config)),
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
        ports=ports,
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
            encap=_ENCAPS[table.encap],
            mtu=table.mtu,
            network=table.network or "",
        )
        for place, table in enumerate(tables, 1)
    )


def ways(config: Config) -> planner.Ways:
    """Learn from the ports' addresses who is reached where."""
    outward = [(i, port) for i, port in enumerate(config.ports) if "vm" not in port.faces]
    return planner.Ways(
        tuple((i, address.network) for i, port in outward for address in port.addresses),
        tuple(i for i, port in outward if "core" in port.faces),
    )


def attachments(config: Config, ports: tuple[Port, ...]) -> dict[int, Attachment]:
    """The ports with NVEs behind them, and what we are called there: queries come from an address of the
    port, to which NVEs have a route, else from the device's."""
    found: dict[int, Attachment] = {}
    if config.device is None:
        return found
    for place, (table, port) in enumerate(zip(config.ports, ports, strict=True)):
        if "nve" in table.faces:
            own = [*(one.ip for one in table.addresses), config.device.address]
            address = next((int(one) for one in own if one.version == 4), 0)
            found[place] = Attachment(port.mac, address, port.mtu, port.is_up)
    return found


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
            planner.Receiver(r.address, found.remote(r.address).out_port, _ENCAPS[encap], number, source)
        )
    return planner.plan_point_number(_ENCAPS[key[0]], key[1], receivers)


def _endpoints(config: Config) -> Iterator[Endpoint]:
    device, point = config.device, config.replicator
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
            encap=_ENCAPS[table.encap],
            group=table.group,
            maps=tuple(GroupMap(m.inner, m.group) for m in table.maps),
            clear_reserved=table.clear_reserved,
        )


def _peers(config: Config) -> dict[Peer, None]:
    found: dict[Peer, None] = {}
    for peer in config.device.peers if config.device else ():
        found |= dict.fromkeys(Peer(Scope.DEVICE, address) for address in peer.addresses)
    for table in config.replicator.lists if config.replicator else ():
        found |= dict.fromkeys(Peer(Scope.REPLICATOR, receiver.address) for receiver in table.receivers)
    return found


def _allow_from(config: Config) -> Iterator[AllowFrom]:
    for scope, role in ((Scope.DEVICE, config.device), (Scope.REPLICATOR, config.replicator)):
        for prefix in role.allow_from if role else ():
            yield AllowFrom(scope, prefix)


def _faces(table: PortTable) -> Faces:
    faces = Faces(0)
    for face in table.faces:
        faces |= _FACES[face]
    return faces
