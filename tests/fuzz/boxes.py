"""The boxes of the fuzzer: hand-made ones for the captures, those of the cases, random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from itertools import product
from pathlib import Path

from fastpath.model import (
    AllowFrom,
    Egress,
    Encap,
    Endpoint,
    Faces,
    Form,
    GroupKey,
    GroupMap,
    KeyKind,
    Layout,
    Network,
    Owner,
    Peer,
    Port,
    Rate,
    ReplicationList,
    Scope,
    Storm,
    group_key,
    vni_key,
)
from fastpath.reference import MacTable
from tests import frames as f
from tests.arrivals import VM_MACS
from tests.captures_io import read_frames
from tests.cases import CASES
from tests.cases import box as b
from tests.strategies import seeded_scenes

CAPTURES = Path(__file__).resolve().parents[1] / "captures"
RANDOM_BOXES = 60
NVE_BOXES = ("vms", "ruled", "nve")
"""What VMs send to our own NVE, the same by ports with rules, and what other NVEs send it."""


@dataclass(frozen=True)
class Box:
    """A layout, its lists, and frames that find them; `name` finds it again."""

    name: str
    layout: Layout
    lists: tuple[ReplicationList, ...]
    seeds: tuple[bytes, ...]
    in_ports: tuple[int, ...]
    macs: MacTable | None = None

    def ports(self) -> list[int]:
        """Every port that frames may come in on: a port to VMs has a network."""
        names = {network.name for network in self.layout.networks}
        return [
            i
            for i, port in enumerate(self.layout.ports)
            if port.faces is not Faces.VM or port.network in names
        ]


def captured() -> tuple[bytes, ...]:
    """All frames of our captures."""
    paths = sorted(path for path in CAPTURES.iterdir() if path.suffix in {".pcap", ".pcapng"})
    return tuple(dict.fromkeys(data for path in paths for _, _, data in read_frames(path)))


def all_forms(version: int, encap: Encap | None = None) -> tuple[Egress, ...]:
    """One egress and more of every form, to every kind of port."""
    own, own6 = ip_address("10.0.0.1"), ip_address("2001:db8::1")
    at_group = [
        Egress(port, Form.GROUP, Owner(port), encap=encap, version=version) for port in (b.P0, b.P1, b.SMALL)
    ]
    return (
        *at_group,
        Egress(b.P7, Form.GROUP, Owner(b.P7), encap=Encap.NVGRE, version=version),
        Egress(
            b.MIX,
            Form.GROUP,
            Owner(b.MIX),
            source=own6 if version == 6 else own,
            encap=Encap.VXLAN,
            vni=0x777,
            version=version,
        ),
        b.at_nve(b.P1, "10.1.1.2"),
        b.at_nve(b.P0, "10.1.2.2", source=own),
        b.at_nve(b.P0, "2001:db8:1::2", source=own6, encap=Encap.VXLAN),
        b.at_nve(b.SMALL, "10.1.3.2", source=own, encap=Encap.NVGRE),
        b.at_peer(b.CORE, "10.0.0.2"),
        b.at_peer(b.CORE, "10.0.0.3", Form.REWRITE, encap=Encap.NVGRE),
        b.at_peer(b.MIX, "2001:db8::2", source="2001:db8::1"),
        b.at_peer(b.MIX, "2001:db8::3", Form.REWRITE, source="2001:db8::1"),
        b.at_vm(b.VM_BLUE),
        b.at_vm(b.VM_GREEN),
    )


def wide_boxes(seeds: tuple[bytes, ...]) -> Iterator[Box]:
    """Boxes for the captures: one role, then all of them, then strict."""
    networks = (
        Network("blue", 100, 5000, Encap.VXLAN, ip_address("239.1.1.100")),
        Network("green", 200, 6000, Encap.NVGRE, ip_address("239.1.1.50"), clear_reserved=True),
        Network("v6", 101, 5001, Encap.VXLAN, ip_address("ff05::100")),
    )
    device = (
        Endpoint(ip_address("10.0.0.1"), Scope.DEVICE),
        Endpoint(ip_address("2001:db8::1"), Scope.DEVICE),
    )
    peers = tuple(
        Peer(scope, ip_address(one))
        for scope in Scope
        for one in ("10.0.0.2", "10.0.0.3", "2001:db8::2", "10.1.1.2")
    )
    groups = ("239.1.1.100", "239.1.1.200", "239.1.1.7", "239.1.1.50", "ff05::100", "ff05::200")
    lists = [
        ReplicationList(group_key(Scope.DEVICE, g), all_forms(g.version)) for g in map(ip_address, groups)
    ]
    for encap, number in ((Encap.VXLAN, 100), (Encap.NVGRE, 5000), (Encap.NVGRE, 6000), (Encap.VXLAN, 300)):
        lists += [
            ReplicationList(vni_key(scope, encap, number), all_forms(4, Encap.VXLAN)[5:], all_forms(4)[:2])
            for scope in (Scope.REPLICATOR, Scope.NVE)
        ]
    narrow = Layout(b.PORTS, device, networks, peers)
    more = (
        Endpoint(ip_address("10.9.9.9"), Scope.REPLICATOR, replicate=True),
        Endpoint(ip_address("10.1.2.2"), Scope.REPLICATOR),
        Endpoint(ip_address("10.1.1.1"), Scope.NVE),
    )
    wide = replace(narrow, endpoints=(*device, *more), vxlan_ports=(4789, 8472))
    strict = replace(narrow, strict_members=True, strict_reserved=True, verify_checksums=False)
    for name, layout in (("narrow", narrow), ("wide", wide), ("strict", strict)):
        yield Box(name, layout, tuple(lists), seeds, tuple(range(len(b.PORTS))))


def from_vms() -> Iterator[bytes]:
    """What VMs send, to one MAC that is known, to one that is not, to many: all that we look into."""
    macs = (*VM_MACS[:3], b"\xff" * 6, bytes.fromhex("01005e4d0103"), bytes.fromhex("333300000007"))
    for dst, src in product(macs, VM_MACS[::3]):
        to: f.Knobs = {"dst_mac": dst, "src_mac": src}
        yield f.tenant(**to)
        yield f.tenant("fd00:0:0:5::9", "ff15::7", protocol=f.TCP, size=120, **to)
        yield f.tenant(tags=[(f.SERVICE_TAG, 5), (f.TAG, 6)], packet={"options": bytes(8), "tos": 3}, **to)
        yield f.tenant("172.16.5.9", "172.16.5.77", size=1400, tags=[(f.TAG, 0)], packet={"offset": 9}, **to)
        for data in (
            f.arp(),
            f.wire(f.igmp("172.16.5.9", "224.0.0.22")),
            f.wire(f.mld("fe80::7", "ff02::16")),
        ):
            yield dst + src + data[12:]
    yield f.arp()[:14]


def to_nves(tenants: Iterable[bytes]) -> Iterator[bytes]:
    """The same as other NVEs send them: VXLAN and NVGRE, IPv4 and IPv6, to the group and to us."""
    ways: tuple[tuple[Callable[..., bytes], str, str, int, f.Knobs], ...] = (
        (f.vxlan_packet, "10.1.1.77", b.GROUP, b.VNI, {"datagram": {"checksum": f.RIGHT}}),
        (f.nvgre_packet, "10.1.1.78", b.VTEP, b.VSID, {"packet": {"tos": 3}}),
        (f.vxlan_packet, "2001:db8:1::77", b.GROUP6, b.VNI, {"datagram": {"checksum": f.RIGHT}}),
        (f.nvgre_packet, "2001:db8:1::77", b.VTEP6, b.OTHER_VSID, {}),
        (f.vxlan_packet, "10.1.1.77", b.VTEP, b.OTHER_VNI, {}),
    )
    for i, tenant in enumerate(tenants):
        make, sender, to, number, knobs = ways[i % len(ways)]
        packet = make(tenant, sender, to, number, **knobs)
        yield f.wire(packet)
        if i % 7 == 0 and to == b.GROUP:
            yield f.wire(f.nested_packet(packet, b.PEER, b.VTEP, datagram={"checksum": f.RIGHT}))


def nve_ports(storm: Storm | None) -> tuple[Port, ...]:
    """Those of the cases, two of VMs in BLUE; with rates also with the other rules, one each."""
    ports = list(b.PORTS)
    ports[b.P0] = replace(ports[b.P0], faces=Faces.VM, network="blue", mtu=1000)
    if storm is not None:
        ports[b.P0] = replace(ports[b.P0], macs=VM_MACS, storm=storm)
        ports[b.VM_BLUE] = replace(ports[b.VM_BLUE], drop_tagged=True, storm=storm)
    return tuple(ports)


def nve_boxes() -> Iterator[Box]:
    """Our own NVE with a MAC table, three times (`NVE_BOXES`)."""
    maps = (GroupMap(ip_network("ff15::/16"), ip_address(b.GROUP6)),)
    blue = replace(b.BLUE, group=ip_address(b.GROUP), maps=maps, clear_reserved=True, snoop=True)
    networks = (blue, b.GREEN, replace(b.BLUE, name="six", group=ip_address(b.GROUP6)))

    def at_vtep(to: str, own: str, encap: Encap, port: int = b.CORE) -> Egress:
        address = ip_address(to)
        return Egress(port, Form.REWRITE, Owner(address=address), address, ip_address(own), encap)

    def up(group: str, own: str, encap: Encap) -> Egress:
        return replace(at_vtep(group, own, encap), owner=Owner(b.CORE if ":" in group else b.SMALL))

    vms = (b.at_vm(b.P0), b.at_vm(b.VM_BLUE)), (b.at_vm(b.VM_GREEN),)
    ups = (
        (up(b.GROUP, b.VTEP, Encap.VXLAN), up(b.GROUP6, b.VTEP6, Encap.VXLAN)),
        (up(b.GROUP6, b.VTEP6, Encap.NVGRE), up("239.2.9.4", b.VTEP, Encap.NVGRE)),
    )
    lists = [
        ReplicationList(vni_key(Scope.NVE, encap, number), local, remote)
        for network, local, remote in zip(networks[:2], vms, ups, strict=True)
        for encap, number in ((Encap.VXLAN, network.vni), (Encap.NVGRE, network.vsid or 0))
    ]
    lists.append(b.of_number(Scope.NVE, b.VNI, b.at_vm(b.P0), group=b.INNER_GROUP))
    lists.append(b.of_number(Scope.NVE, b.VSID, b.at_vm(b.P0), encap=Encap.NVGRE, group="0.0.0.0"))
    mapped = GroupKey(Scope.NVE, KeyKind.GROUP, ip_address(b.GROUP6), None, blue.encap, b.VNI)
    lists.append(ReplicationList(mapped, vms[0], ups[0][1:]))
    stations = (
        b.at_vm(b.VM_BLUE),
        at_vtep("10.1.1.77", b.VTEP, Encap.VXLAN),
        at_vtep("2001:db8:1::77", b.VTEP6, Encap.NVGRE, b.SMALL),
    )
    macs = {
        (vni, mac): one for vni in (b.VNI, b.OTHER_VNI) for mac, one in zip(VM_MACS, stations, strict=False)
    }
    macs[b.OTHER_VNI, VM_MACS[0]] = b.at_vm(b.VM_GREEN)
    tenants = tuple(from_vms())
    plain = replace(b.EDGE, ports=nve_ports(None), networks=networks)
    ruled = replace(
        plain,
        ports=nve_ports(Storm(Rate(100, 5), Rate(300, 20), Rate(100, 5))),
        networks=(replace(blue, drop_unregistered=True), *networks[1:]),
        allow_from=(AllowFrom(Scope.NVE, ip_network("10.1.0.0/16")),),
    )
    of_vms = (b.P0, b.VM_BLUE, b.VM_GREEN)
    tunnelled = tuple(to_nves(tenants))
    parts = ((plain, tenants, of_vms), (ruled, tenants, of_vms), (plain, tunnelled, (b.CORE, b.SMALL)))
    for name, (layout, seeds, in_ports) in zip(NVE_BOXES, parts, strict=True):
        yield Box(name, layout, tuple(lists), seeds, in_ports, macs)


def to_devices(tenants: Iterable[bytes]) -> Iterator[bytes]:
    """The same as NVEs and devices send it: to the group, rewritten or nested to a device or a point."""
    right: f.Knobs = {"datagram": {"checksum": f.RIGHT}}
    for i, tenant in enumerate(tenants):
        sender, to = ("10.1.1.77", b.GROUP) if i % 5 else ("2001:db8:1::77", b.GROUP6)
        peer, own = (b.PEER, ("10.0.0.1", "10.0.0.110", "10.0.0.111")[i % 3])
        packets = (
            f.vxlan_packet(tenant, sender, to, b.VNI, **right),
            f.nvgre_packet(tenant, sender, to, b.VSID),
            f.vxlan_packet(tenant, peer, own, b.VNI, **right),
            f.nvgre_packet(tenant, peer, own, b.VSID),
        )
        yield f.wire(packets[i % 4])
        if i % 4 < 2:
            yield f.wire(f.nested_packet(packets[i % 4], peer, own, **right))


def tenant_box() -> Box:
    """A device and a point whose tenants say what they want: refined lists, and who wants any group."""
    networks = tuple(replace(one, snoop=True, drop_unregistered=True) for one in (b.BLUE, b.GREEN))
    six = replace(networks[0], name="six", group=ip_address(b.GROUP6))
    own = (Endpoint(ip_address(b.OWN), Scope.DEVICE), Endpoint(ip_address(b.OWN6), Scope.DEVICE))
    layout = replace(
        b.BOX,
        endpoints=(*own, *b.POINT.endpoints),
        networks=(*networks, six),
        peers=(*b.BOX.peers, *b.POINT.peers),
    )
    lists: list[ReplicationList] = []
    for scope in (Scope.DEVICE, Scope.REPLICATOR):
        remote = tuple(b.at_peer(b.CORE, one) for one in (b.PEER, b.FAR_PEER))
        lists += [
            ReplicationList(group_key(scope, ip_address(group)), (b.at_port(b.P0), b.at_port(b.P7)), remote)
            for group in (b.GROUP, b.GROUP6)
        ]
        narrow = b.at_port(b.P0), b.at_nve(b.P1, b.UNICAST_NVE)
        lists += [
            b.of_number(scope, b.VNI, *narrow, group=b.INNER_GROUP, source=b.INNER_SOURCE),
            b.of_number(scope, b.VNI, b.at_port(b.P7), remote=remote[1:], group=b.INNER_GROUP6),
            b.of_number(scope, b.VSID, *narrow, encap=Encap.NVGRE, group=b.INNER_GROUP),
            b.of_number(scope, b.VSID, *narrow[:1], remote=remote[:1], encap=Encap.NVGRE, group="0.0.0.0"),
        ]
    return Box("tenants", layout, tuple(lists), tuple(to_devices(from_vms())), (b.P0, b.P1, b.CORE, b.MIX))


def case_boxes() -> Iterator[Box]:
    """The boxes of the cases, with their own frames."""
    found: dict[str, list[int]] = {}
    for i, case in enumerate(CASES):
        found.setdefault(repr((case.layout, case.lists)), []).append(i)
    for places in found.values():
        first = CASES[places[0]]
        seeds = tuple(CASES[i].frame.data for i in places if CASES[i].frame.data)
        in_ports = tuple(sorted({CASES[i].in_port for i in places}))
        yield Box(f"case {first.name}", first.layout, first.lists, seeds, in_ports)


def random_boxes(seed: int) -> Iterator[Box]:
    """Boxes of every mixture of roles, each with frames aimed at its lists."""
    for i, scene in enumerate(seeded_scenes(seed, RANDOM_BOXES, 60, rates=True)):
        seeds = tuple(frame.data for _, frame in scene.batch if frame.data)
        in_ports = tuple(range(len(scene.layout.ports)))
        yield Box(f"random {seed} {i}", scene.layout, scene.lists, seeds, in_ports, scene.macs)


def all_boxes(seed: int) -> list[Box]:
    """Every box; those for the captures and of our own NVE come as often as all others together."""
    seeds = captured()
    others = [*case_boxes(), *random_boxes(seed)]
    wide = [*wide_boxes(seeds), *nve_boxes(), tenant_box()]
    mixed: list[Box] = []
    for i, box in enumerate(others):
        mixed += [box, wide[i % len(wide)]]
    return mixed


def all_seeds(boxes: Iterable[Box]) -> tuple[bytes, ...]:
    """The frames of all boxes."""
    return tuple(dict.fromkeys(data for box in boxes for data in box.seeds))
