"""The boxes of the fuzzer: hand-made ones for the captures, those of the cases, random ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from fastpath.model import (
    Egress,
    Encap,
    Endpoint,
    Faces,
    Form,
    Layout,
    Network,
    Owner,
    Peer,
    ReplicationList,
    Scope,
    group_key,
    vni_key,
)
from tests.captures_io import read_frames
from tests.cases import CASES
from tests.cases import box as b
from tests.strategies import seeded_scenes

CAPTURES = Path(__file__).resolve().parents[1] / "captures"
RANDOM_BOXES = 60


@dataclass(frozen=True)
class Box:
    """A layout, its lists, and frames that find them; `name` finds it again."""

    name: str
    layout: Layout
    lists: tuple[ReplicationList, ...]
    seeds: tuple[bytes, ...]
    in_ports: tuple[int, ...]

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
    for i, scene in enumerate(seeded_scenes(seed, RANDOM_BOXES, 60)):
        seeds = tuple(frame.data for _, frame in scene.batch if frame.data)
        yield Box(
            f"random {seed} {i}", scene.layout, scene.lists, seeds, tuple(range(len(scene.layout.ports)))
        )


def all_boxes(seed: int) -> list[Box]:
    """Every box; those for the captures come as often as all others together."""
    seeds = captured()
    others = [*case_boxes(), *random_boxes(seed)]
    wide = list(wide_boxes(seeds))
    mixed: list[Box] = []
    for i, box in enumerate(others):
        mixed += [box, wide[i % len(wide)]]
    return mixed


def all_seeds(boxes: Iterable[Box]) -> tuple[bytes, ...]:
    """The frames of all boxes."""
    return tuple(dict.fromkeys(data for box in boxes for data in box.seeds))
