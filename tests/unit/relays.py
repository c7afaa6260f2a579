"""What hears tenants at a device or a point, between its role and the reference: frames in, frames out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import dpkt

from ctrl.config import parse
from ctrl.membership import ALL, Membership, Origin, Who
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.publisher import Publisher
from ctrl.refined_lists import RefinedLists
from ctrl.refusals import Refused
from ctrl.static import basis, enroll, plan_layout, plan_ports
from ctrl.tenant_relay import TenantRelay, relays_of
from ctrl.tenants_told import Audience, TenantsTold
from ctrl.ways import ways
from fastpath import Inner, Punted
from fastpath.model import Frame, IPAddress, KeyKind, Scope
from fastpath.reference import Reference, Trail
from tests import frames as f

CORE, P1, P2, P3 = range(4)
OUTER, G, H = ip_address("239.1.1.1"), ip_address("239.77.1.3"), ip_address("239.77.1.4")
PEER, OTHER = ip_address("10.0.0.2"), ip_address("10.0.0.3")
BLUE = Audience(OUTER, 5001)
DEVICE = """
[device]
address = "10.0.0.1"
[[device.peer]]
group = "239.1.1.1"
addresses = ["10.0.0.2", "10.0.0.3"]
[[device.member]]
port = "p3"
group = "239.1.1.1"
nve = "10.1.3.7"
"""
POINT = """
[replicator]
address = "10.0.0.1"
[[replicator.list]]
vni = 5001
addresses = [
    { address = "10.1.1.2" },
    { address = "10.1.2.2", encap = "nvgre" },
    { address = "10.1.3.2" },
]
"""
TEXT = """
[membership]
startup_response_interval_s = 0.1
[[network]]
name = "blue"
vni = 5001
vsid = 6001
group = "239.1.1.1"
snoop = true
[[network]]
name = "red"
vni = 5002
group = "239.1.1.2"
[[port]]
name = "core"
faces = "core"
address = "10.0.0.1/24"
""" + "".join(
    f'[[port]]\nname = "p{n}"\nfaces = "nve"\naddress = "10.1.{n}.1/24"\nencap = "{encap}"\n'
    for n, encap in ((1, "vxlan"), (2, "nvgre"), (3, "vxlan"))
)
VMS = int(ip_address("172.16.5.0"))
QUERY = igmp.query_frame(Query(3, robustness=2, interval_s=125.0), bytes(5) + b"\x42", VMS + 99)
OF_NOBODY = igmp.query_frame(Query(3, robustness=2, interval_s=125.0), bytes(5) + b"\x42", 0)


def report(vm: int, kind: Kind = Kind.TO_EX, group: object = G) -> bytes:
    record = Record(kind, int(ip_address(str(group))), ())
    return igmp.report_frame(Report(3, (record,)), bytes((2, 0, 0, 0, 0, vm)), VMS + vm)


def from_nve(n: int, inner: bytes, to: str = "239.1.1.1", host: int = 2) -> bytes:
    """What the NVE behind port n sends, in VXLAN or NVGRE."""
    if n == P2:
        return f.wire(f.nvgre_packet(inner, f"10.1.{n}.{host}", to, 6001))
    return f.wire(f.vxlan_packet(inner, f"10.1.{n}.{host}", to, 5001))


def from_peer(inner: bytes, peer: object = PEER) -> bytes:
    """What another device sends."""
    return f.wire(
        f.nested_packet(f.vxlan_packet(inner, "10.2.1.2", "239.1.1.1", 5001), str(peer), "10.0.0.1")
    )


class Box:
    """A device with NVEs at three ports, one of which is served by unicast, or a point for them."""

    def __init__(
        self,
        text: str = DEVICE,
        *,
        joins: tuple[int, ...] = (P1, P2, P3),
        scope: Scope = Scope.DEVICE,
        maps: str = "",
    ) -> None:
        reading = parse(TEXT.replace("snoop = true\n", f"snoop = true\n{maps}") + text)
        assert reading.config is not None, reading.findings
        self.config, self.at_s = reading.config, 100.0
        self.refused, self.told, self.membership = Refused(), TenantsTold(), Membership()
        relays = relays_of(self.config, dict.fromkeys(Scope, self.told), self.refused, lambda: 0.5)
        self.relay: TenantRelay = next(one for one in relays if one.scope is scope)
        ports = plan_ports(self.config.ports)
        self.layout = plan_layout(self.config, ports)
        self.basis = basis(self.config, ports, ways(self.config))
        enroll(self.membership, self.config)
        self.publisher = Publisher(
            self.membership, self.basis, refined=[RefinedLists(scope, self.relay, self.told)]
        )
        for port in joins:
            self.join(port)
        self.publisher.update()
        self.attach()

    def attach(self) -> None:
        fixed = {one.key for one in self.basis.fixed}
        self.relay.attach(self.publisher.lists, self.layout, {}, fixed, self.at_s)

    def join(self, port: int, group: IPAddress = OUTER, *, leaves: bool = False) -> None:
        """An NVE joins an outer group, or leaves it."""
        self.membership.apply(group, Who(port, Origin.STATIC), None if leaves else ALL)

    def update(self) -> None:
        step = self.publisher.update()
        self.relay.touched([*(one.key for one in step.lists), *step.removed], self.at_s)
        self.publisher.update()

    def hear(self, in_port: int, frame: bytes) -> None:
        """A punted frame, as the data path hands it over."""
        trail = Trail()
        self.reference.forward(in_port, Frame(frame), trail)
        parsed = trail.parsed
        assert trail.snooped
        assert parsed is not None
        assert trail.scope is self.relay.scope
        inner = Inner(parsed.encap, parsed.number, parsed.inner, parsed.inner_end, self.relay.scope)
        self.relay.hear(*self.relay.whose(Punted(in_port, 0, frame, inner)), self.at_s)

    @property
    def reference(self) -> Reference:
        return Reference(self.layout, self.publisher.lists)

    def copied(self, in_port: int, frame: bytes) -> list[tuple[int, bytes]]:
        """What the data path makes of a frame where nobody snoops: who would see it."""
        deaf = [replace(network, snoop=False) for network in self.layout.networks]
        lists = {k: one for k, one in self.publisher.lists.items() if k.kind > KeyKind.INNER_GROUP}
        outcome = Reference(replace(self.layout, networks=tuple(deaf)), lists).forward(in_port, Frame(frame))
        return sorted((copy.out_port, unnumbered(copy.data)) for copy in outcome.copies)

    def handed_on(self) -> list[tuple[int, bytes]]:
        """What left, to be held against `copied`."""
        return sorted((port, unnumbered(frame)) for port, frame in self.out())

    def out(self, for_s: float = 0.0) -> list[tuple[int, bytes]]:
        until_s = self.at_s + for_s
        while (deadline_s := self.relay.deadline_s) is not None and deadline_s <= until_s:
            self.at_s = deadline_s
            self.relay.poll(self.at_s)
        self.at_s = until_s
        return self.relay.take_frames()

    def quiet(self) -> Box:
        """Wait until no place is new, and no query is under way."""
        self.out(60.0)
        self.publisher.update()
        return self


def unnumbered(frame: bytes) -> bytes:
    """A frame without the number of its IPv4 header, which counts copies, and the checksum over it."""
    return frame[:18] + bytes(2) + frame[20:24] + bytes(2) + frame[26:]


def inside(frame: bytes) -> bytes:
    """The tenant's frame of one that left to an NVE."""
    packet = dpkt.ip.IP(frame[14:])
    return bytes(packet.data.data)[8:] if packet.p == dpkt.ip.IP_PROTO_UDP else bytes(packet.data)[8:]


def destination(frame: bytes) -> str:
    return str(ip_address(dpkt.ip.IP(frame[14:]).dst))
