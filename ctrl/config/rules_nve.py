"""What takes two keys of [nve], the ports of its VMs and internal ports to judge."""

from __future__ import annotations

from collections.abc import Mapping

from ctrl.config.finding import Path, given
from ctrl.config.numbers import NumberKey, list_key, number_in, vsid_of
from ctrl.config.report import Report
from ctrl.config.rules_layout import repeats, unknown
from ctrl.config.rules_roles import check_senders, own_addresses
from ctrl.config.schema import Config, NetworkTable, NveTable, PortTable
from ctrl.ways import uplink, vm_ports
from fastpath.model import IPAddress

_OVERHEAD = {("vxlan", 4): 50, ("vxlan", 6): 70, ("nvgre", 4): 42, ("nvgre", 6): 62}
"""What a VM's packet gains on its way: inner Ethernet, VXLAN and UDP or GRE, and outer IP, by its version."""
_VM_MTU = 1500
_VM_KEYS = ("macs", "tagged", "storm")


def check_nve(config: Config, report: Report) -> None:
    """Check the NVE, and what only an NVE has."""
    for i, port in enumerate(config.ports):
        _check_vm_keys(config, report, ("port", i), port)
    _check_internal(config, report)
    _check_snooping(config, report)
    if config.nve:
        _check_address(config, report, config.nve)
        _check_role(config, report, config.nve)
        _check_networks(config, report, config.nve)
        _check_send_to(config, report, config.nve)
        _check_stations(config, report, config.nve)
        check_senders(config.nve.allow_from, report, ("nve", "allow_from"))


def _check_vm_keys(config: Config, report: Report, at: Path, port: PortTable) -> None:
    if "vm" not in port.faces:
        for name in _VM_KEYS:
            if name in port.model_fields_set:
                report.error((*at, name), 'given; expected only where faces = "vm"')
        return
    if config.nve is None and not report.is_damaged(("nve",)):
        report.error(
            (*at, "faces"), '"vm" given without an [nve], whose VMs these are; expected one, with its address'
        )
    if "encap" in port.model_fields_set:
        report.error(
            (*at, "encap"),
            "given; expected only where NVEs are: frames of VMs leave in the encap of their [[network]]",
        )
    for place, first, mac in repeats(((*at, "macs", i), mac) for i, mac in enumerate(port.macs)):
        report.error(place, f"{mac.hex(':')} is given twice, first in line {report.line(first)}")


def _check_internal(config: Config, report: Report) -> None:
    """Two ends that name each other: one of the device, one of the NVE (CONFORMANCE N11)."""
    ports = {port.name: port for port in config.ports}
    for i, port in enumerate(config.ports):
        at: Path = ("port", i)
        if port.kind != "internal":
            if port.peer is not None:
                report.error((*at, "peer"), 'given; expected only where kind = "internal"')
            continue
        if port.peer is None:
            if not report.is_damaged((*at, "peer")):
                report.error(at, 'peer is missing; expected the other [[port]], as kind = "internal"')
            continue
        other = ports.get(port.peer)
        if other is None:
            if not report.is_damaged(("port",)):
                report.error((*at, "peer"), unknown(port.peer, "[[port]]", list(ports)))
        elif other.kind != "internal" or other.peer != port.name or other is port:
            report.error(
                (*at, "peer"),
                f"port {given(port.peer)} is not the other end of this one; expected another port with "
                f'kind = "internal" and peer = {given(port.name)}',
            )
        elif {port.faces, other.faces} != {("nve",), ("core",)} and i < config.ports.index(other):
            report.error(
                (*at, "faces"),
                f"both ends given as {' and '.join(given(_faces(one)) for one in (port, other))}; expected "
                'one that faces "nve", the device\'s, and one that faces "core", the uplink of the NVE',
            )


def _check_snooping(config: Config, report: Report) -> None:
    """What listens to VMs takes VMs, or a role that gets their frames (CONFORMANCE N13)."""
    here = vm_ports(config)
    for i, network in enumerate(config.networks):
        at: Path = ("network", i)
        is_heard = network.name in here or _is_carried(config, network)
        if "unregistered" in network.model_fields_set and not network.snoop:
            if not report.is_damaged((*at, "snoop")):
                report.error((*at, "unregistered"), "given; expected only where snoop = true")
        elif network.snoop and not (is_heard or report.is_damaged(("port",)) or report.is_damaged(at)):
            report.warning(
                (*at, "snoop"),
                f"has no effect, as no port with VMs is in network {given(network.name)}, no port faces NVEs "
                "of its groups, and no list of a replication point is for it",
            )
        if network.igmp_to:
            _check_services(config, report, at, network, has_vms=network.name in here)


def _is_carried(config: Config, network: NetworkTable) -> bool:
    """Say whether the device or the point here may copy frames of a network."""
    groups = {network.group, *(one.group for one in network.maps)} - {None}
    if config.device and groups and any("nve" in port.faces for port in config.ports):
        return True
    point = config.replicator
    if point is None:
        return False
    numbers = {("vxlan", network.vni), ("nvgre", vsid_of(network))}
    return bool(point.manager) or any(one.group in groups or list_key(one) in numbers for one in point.lists)


def _check_services(
    config: Config, report: Report, at: Path, network: NetworkTable, *, has_vms: bool
) -> None:
    """What hands tenants' IGMP and MLD on does not read it (CONFORMANCE N12)."""
    at = (*at, "igmp_to")
    if network.snoop:
        report.error(
            at,
            "given beside snoop = true, with which nothing of it is forwarded that is not asked for; "
            "expected one of the two",
        )
    elif config.device or config.replicator:
        role = "device" if config.device else "replicator"
        report.error(
            at, f"given on a box with a [{role}], which would hand it on as well; expected an NVE alone"
        )
    elif not has_vms and not report.is_damaged(("port",)):
        report.warning(at, f"has no effect, as no port with VMs is in network {given(network.name)}")
    own = own_addresses(config)
    for i, address in enumerate(network.igmp_to):
        if config.nve:
            _check_vtep(report, config.nve, (*at, i), address, own)
    places = (((*at, i), address) for i, address in enumerate(network.igmp_to))
    for place, first, address in repeats(places):
        report.error(place, f"{address} is given twice, first in line {report.line(first)}")


def _faces(port: PortTable) -> object:
    return port.faces[0] if len(port.faces) == 1 else port.faces


def _check_address(config: Config, report: Report, nve: NveTable) -> None:
    """One address is one tunnel end of one role."""
    device, point = config.device, config.replicator
    others = {
        "device.address": device.address if device else None,
        "replicator.address": point.address if point else None,
        "replicator.replicate": point.replicate if point else None,
    }
    for key, address in others.items():
        if address == nve.address and not report.is_damaged(("nve", "address")):
            report.error(
                ("nve", "address"), f"{address} is also {key}; expected an address of its own for each role"
            )
            return


def _check_role(config: Config, report: Report, nve: NveTable) -> None:
    if report.is_damaged(("port",)):
        return
    by = uplink(config)
    if by is None:
        if config.ports:
            report.error(
                ("nve",), 'no port leads to the network device; expected a [[port]] with faces = "core" alone'
            )
        return
    if not any("vm" in port.faces for port in config.ports):
        report.warning(("nve",), 'no [[port]] has faces = "vm", so there is no VM to serve')
    if config.device and nve.manager:
        report.warning(
            ("nve", "manager"),
            "[device] is on the same box: neither reaches the other by a tunnel, so in a group of both NVEs "
            "of the one miss frames of the other; expected no manager here, and two ports with "
            'kind = "internal" between them',
        )
    elif config.device and config.ports[by].kind != "internal":
        report.warning(
            ("nve",),
            f"[device] is on the same box, but the NVE joins by port {given(config.ports[by].name)}: the "
            'device hears it only if that leads back here; expected two ports with kind = "internal" '
            "between them",
        )
    _check_room(config, report, nve, by)


def _check_room(config: Config, report: Report, nve: NveTable, by: int) -> None:
    """Whether what VMs may send fits the uplink."""
    mtu = config.ports[by].mtu
    networks = {network.name: network for network in config.networks}
    for name, places in vm_ports(config).items():
        network = networks.get(name)
        if network is None or report.is_damaged(("nve", "address")):
            continue
        largest = max(config.ports[place].mtu or _VM_MTU for place in places)
        adds = _OVERHEAD[network.encap, nve.address.version]
        if 0 < mtu < largest + adds:
            needs = largest + adds
            report.warning(
                ("port", by, "mtu"),
                f"{mtu} is too small for network {given(name)}: {network.encap.upper()} adds {adds} bytes to "
                f"packets of up to {largest} from its VMs, so the larger ones are dropped (over_mtu); "
                f"expected {needs} or more, say {max(1600, -(-needs // 100) * 100)}",
            )
            return


def _check_networks(config: Config, report: Report, nve: NveTable) -> None:
    """The networks that have VM ports here."""
    here = vm_ports(config)
    first: dict[NumberKey, NetworkTable] = {}
    for i, network in enumerate(config.networks):
        if network.name not in here:
            continue
        at: Path = ("network", i)
        if not nve.send_to and not report.is_damaged(("nve", "send_to")):
            _check_groups(config, report, nve, at, network)
        numbers = [(encap, n) for encap in ("vxlan", "nvgre") if (n := number_in(network, encap)) is not None]
        for encap, number in numbers:
            other = first.setdefault((encap, number), network)
            if other is not network and other.name != network.name:
                report.error(
                    (*at, "vsid" if encap == "nvgre" and network.vsid is not None else "vni"),
                    f"{'VSID' if encap == 'nvgre' else 'VNI'} {number} is also that of network "
                    f"{given(other.name)}, and both have VM ports; expected one network for all of them",
                )
                break


def _check_groups(config: Config, report: Report, nve: NveTable, at: Path, network: NetworkTable) -> None:
    if network.group is None and not report.is_damaged((*at, "group")):
        port = given(config.ports[vm_ports(config)[network.name][0]].name)
        report.error(
            at,
            f"group is missing: by it managers know the network of the VMs at port {port}; expected one"
            if nve.manager
            else f"group is missing: its VMs at port {port} send to it; expected one, or nve.send_to = the "
            "address of a service node or a list of VTEPs",
        )
    if report.is_damaged(("nve", "address")):
        return
    groups: list[tuple[Path, IPAddress]] = [
        ((*at, "map", i, "group"), m.group) for i, m in enumerate(network.maps)
    ]
    if network.group is not None:
        groups.append(((*at, "group"), network.group))
    for place, group in groups:
        if group.version != nve.address.version:
            report.error(
                place,
                f"{group} is IPv{group.version}, but nve.address, from which its VMs' frames are sent, is "
                f"{nve.address}; expected one IP version",
            )


def _check_send_to(config: Config, report: Report, nve: NveTable) -> None:
    at: Path = ("nve", "send_to")
    if nve.manager and "send_to" in nve.model_fields_set:
        report.error(at, "given beside manager, who tells where frames go; expected one of the two")
    own = own_addresses(config)
    for address in nve.send_to:
        _check_vtep(report, nve, at, address, own)
    for _, _, address in repeats((at, address) for address in nve.send_to):
        report.error(at, f"{address} is given twice")


def _check_vtep(
    report: Report, nve: NveTable, at: Path, address: IPAddress, own: Mapping[IPAddress, str]
) -> None:
    """What is sent to another VTEP comes from our address."""
    if address in own:
        report.error(at, f"{address} is our own address ({own[address]}); expected that of another VTEP")
    elif address.version != nve.address.version and not report.is_damaged(("nve", "address")):
        report.error(
            at,
            f"{address} is IPv{address.version}, but nve.address is {nve.address}; expected one IP version",
        )


def _check_stations(config: Config, report: Report, nve: NveTable) -> None:
    own = own_addresses(config)
    networks = {network.name: network for network in config.networks}
    ports = {port.name: port for port in config.ports}
    for i, station in enumerate(nve.stations):
        at: Path = ("nve", "mac", i)
        if station.network not in networks and not report.is_damaged(("network",)):
            report.error((*at, "network"), unknown(station.network, "[[network]]", list(networks)))
        if (station.port is None) == (station.vtep is None):
            if not any(report.is_damaged((*at, name)) for name in ("port", "vtep")):
                both = "neither port nor vtep" if station.port is None else "port and vtep"
                report.error(at, f"{both} given; expected exactly one of them")
        elif station.vtep is None and station.encap is not None:
            report.error((*at, "encap"), "given; expected only with vtep")
        elif station.vtep is not None:
            _check_vtep(report, nve, (*at, "vtep"), station.vtep, own)
            network = networks.get(station.network)
            if station.encap == "nvgre" and network is not None and number_in(network, "nvgre") is None:
                report.error(
                    (*at, "encap"),
                    f'"nvgre" given, but network {given(network.name)} can have no VSID; expected "vxlan", '
                    "or a vsid of the network",
                )
        elif station.port is not None and not report.is_damaged(("port",)):
            port = ports.get(station.port)
            if port is None:
                report.error((*at, "port"), unknown(station.port, "[[port]]", list(ports)))
            elif port.network != station.network:
                where = f"is one of network {given(port.network)}" if port.network else "is no port of VMs"
                report.error(
                    (*at, "port"),
                    f"port {given(port.name)} {where}; expected a VM port of {given(station.network)}",
                )
    places = ((("nve", "mac", i, "mac"), (one.network, one.mac)) for i, one in enumerate(nve.stations))
    for place, first, (name, mac) in repeats(places):
        report.error(place, f"{mac.hex(':')} of {given(name)} is already given in line {report.line(first)}")
    if len(nve.stations) > nve.max_macs and not report.is_damaged(("nve", "max_macs")):
        report.error(
            ("nve", "max_macs"), f"{nve.max_macs} given, but there are {len(nve.stations)} static stations"
        )
