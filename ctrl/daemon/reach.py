"""What a config means on this kernel at this moment: pure, from a config and a picture of the kernel.

1. A port keeps its place for the life of the process, whatever becomes of the config: lists name ports by
   place, and unchanged lists must not change. The place of a port that is gone stays empty, without a face.
2. The kernel's routes say by which port a peer is reached. One that it reaches by none of our ports keeps
   the port that the config suggests, and has no next hop: its copies are counted, not lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ctrl.config import Config
from ctrl.config.schema import PortTable
from ctrl.netlink import NextHop, View
from ctrl.planner import Receivers
from ctrl.publisher import Basis
from ctrl.roles.attachment import Attachment
from ctrl.static import attachments, basis, plan_layout, plan_ports, port_place
from ctrl.ways import uplink, ways
from fastpath.claims import Claims
from fastpath.compiler import NextHops
from fastpath.model import IPAddress, Layout, Peer, Port, Scope


@dataclass(frozen=True, slots=True)
class Told:
    """Peers that managers named to the roles of this box: copies go to them, and packets come from them.

    `vnis`: the ranges that a manager has the replication point serve alone; None: whatever its config says.
    `vteps`: where the stations are that the NVE learned. `receivers`: those of the NVE's copies, by group;
    they are among `nve`.
    """

    device: frozenset[IPAddress] = frozenset()
    point: frozenset[IPAddress] = frozenset()
    vnis: tuple[tuple[int, int], ...] | None = None
    vteps: frozenset[IPAddress] = frozenset()
    nve: frozenset[IPAddress] = frozenset()
    receivers: Mapping[IPAddress, Receivers] = field(default_factory=dict)

    @property
    def peers(self) -> frozenset[IPAddress]:
        """All that managers named."""
        return self.device | self.point | self.nve


@dataclass(frozen=True, slots=True)
class Reach:
    """A layout, what its lists are made of, the MAC of each peer's next hop, and how each peer is reached in
    a word."""

    layout: Layout
    basis: Basis
    hops: NextHops
    states: Mapping[IPAddress, str]


def placed(config: Config, places: Sequence[str]) -> Config:
    """The config with its ports where they were: `places` are the names so far, those that are gone included.

    Gone ports stand in with no face; new ones come behind.
    """
    by_name = {port.name: port for port in config.ports}
    kept = [by_name.pop(name) if name in by_name else _gone(name) for name in places]
    return config.model_copy(update={"ports": (*kept, *by_name.values())})


def _gone(name: str) -> PortTable:
    return PortTable.model_construct(
        name=name, device=None, kind="memory", faces=(), encap="vxlan", network=None,
        mac=None, addresses=(), next_hop_mac=None, mtu=0,
    )  # fmt: skip


def device_of(port: PortTable) -> str:
    """The Linux interface of a port."""
    return port.device or port.name


def devices(config: Config) -> dict[str, int]:
    """Linux interface -> place of its port."""
    return {device_of(port): place for place, port in enumerate(config.ports) if port.faces}


def peers(config: Config, told: Told = Told()) -> dict[IPAddress, None]:
    """Every unicast address that copies may go to."""
    return dict.fromkeys([*_remotes(config, told), *(nve for _, nve in _nves(config))])


def _remotes(config: Config, told: Told) -> dict[IPAddress, None]:
    """Peers, and the receivers of lists."""
    found: dict[IPAddress, None] = {}
    for peer in config.device.peers if config.device else ():
        found |= dict.fromkeys(peer.addresses)
    for table in config.replicator.lists if config.replicator else ():
        found |= dict.fromkeys(receiver.address for receiver in table.receivers)
    if config.nve:
        found |= dict.fromkeys(config.nve.send_to)
        found |= dict.fromkeys(one.vtep for one in config.nve.stations if one.vtep is not None)
        found |= dict.fromkeys(address for network in config.networks for address in network.igmp_to)
    return found | dict.fromkeys(sorted(told.peers | told.vteps, key=_order))


def _order(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)


def _nves(config: Config) -> dict[tuple[int, IPAddress], None]:
    """Port and address of the NVEs that are served by unicast."""
    members = config.device.members if config.device else ()
    return {(port_place(config, m.port), m.nve): None for m in members if m.nve is not None}


def claims(config: Config) -> Claims:
    """What is ours of the traffic on a live port."""
    own = [config.device.address] if config.device else []
    if config.replicator:
        own += [config.replicator.address]
        own += [config.replicator.replicate] if config.replicator.replicate else []
    own += [config.nve.address] if config.nve else []
    return Claims(config.dataplane.vxlan_ports, tuple(dict.fromkeys(own)))


def common_claims(old: Claims, new: Claims) -> Claims:
    """What is ours before and after a change: claimed while the data path changes from one to the other."""
    ports = tuple(port for port in old.vxlan_ports if port in new.vxlan_ports)
    return Claims(ports, tuple(address for address in old.addresses if address in new.addresses))


def work_out(config: Config, kernel: View, told: Told = Told()) -> Reach:
    """Work out what a config whose ports are `placed` comes to."""
    by_device = devices(config)
    ports = tuple(
        replace(
            port,
            # the MAC of a TAP is that of the host behind it, ours is another; an internal port has none
            mac=table.mac or (link.mac if link and table.kind not in {"tap", "internal"} else port.mac),
            mtu=min(filter(None, (table.mtu, link.mtu if link else 0)), default=0),
            next_hop_mac=table.next_hop_mac or (port.next_hop_mac if table.kind == "internal" else None),
            is_up=bool(link and link.is_up),
        )
        for port, table in zip(plan_ports(config.ports), config.ports, strict=True)
        for link in [kernel.links.get(device_of(table)) if table.faces else None]
    )
    routes = {
        address: by_device[hop.device] for address, hop in kernel.hops.items() if hop.device in by_device
    }
    found = replace(ways(config), routes=routes)
    hops: dict[tuple[int, IPAddress], bytes | None] = {}
    states: dict[IPAddress, str] = {}
    remotes = ((remote.out_port, remote.address) for remote in found.remotes(_remotes(config, told)))
    for place, address in [*_nves(config), *remotes]:
        if ports[place].next_hop_mac is not None:
            continue
        device = device_of(config.ports[place])
        hop = kernel.hops.get(address, NextHop(None))
        hops[place, address] = hop.mac if hop.device == device else None
        states[address] = _state(hop, device, kernel)
    made = basis(config, ports, found, told.receivers)
    return Reach(_layout(config, ports, told), made, hops, states)


def _layout(config: Config, ports: tuple[Port, ...], told: Told) -> Layout:
    layout = plan_layout(config, ports)
    scopes = ((Scope.NVE, told.nve), (Scope.DEVICE, told.device), (Scope.REPLICATOR, told.point))
    named = (Peer(scope, one) for scope, several in scopes for one in sorted(several, key=_order))
    return replace(
        layout,
        peers=tuple(dict.fromkeys([*layout.peers, *named])),
        point_vnis=layout.point_vnis if told.vnis is None else told.vnis,
    )


def attached(config: Config, layout: Layout, kernel: View) -> dict[int, Attachment]:
    """The ports with NVEs behind them whose interfaces are there, and what we are called on each."""
    links = [kernel.links.get(device_of(table)) for table in config.ports]
    here = tuple(
        table.model_copy(update={"addresses": (*table.addresses, *link.addresses)} if link else {"faces": ()})
        for table, link in zip(config.ports, links, strict=True)
    )
    return attachments(config.model_copy(update={"ports": here}), layout.ports)


def uplinks(config: Config, layout: Layout, kernel: View) -> dict[int, Attachment]:
    """The port by which the NVE is in its groups, and what it is called there: reports come from an address
    of the interface (CONFORMANCE W8), else from the NVE's."""
    place = uplink(config)
    if place is None or config.nve is None:
        return {}
    table, port = config.ports[place], layout.ports[place]
    link = kernel.links.get(device_of(table))
    own = [*(one.ip for one in (*table.addresses, *(link.addresses if link else ()))), config.nve.address]
    address = next((int(one) for one in own if one.version == 4), 0)
    return {place: Attachment(port.mac, address, port.mtu, port.is_up)}


def _state(hop: NextHop, device: str, kernel: View) -> str:
    link = kernel.links.get(device)
    if link is None or not link.is_up:
        return "down"
    if hop.device != device:
        return "no_route"
    return "no_neighbour" if hop.mac is None else "up"


NOTHING = Reach(Layout(()), Basis(), {}, {})
