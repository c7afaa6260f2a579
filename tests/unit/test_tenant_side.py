"""Between the role that hears tenants and the data path (N13): whose a frame is, and how one gets out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import dpkt
import pytest

from ctrl import punt
from ctrl.config import parse
from ctrl.config.schema import MembershipTable
from ctrl.members import tenant_views
from ctrl.membership import ALL
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.refusals import Refused
from ctrl.roles.tenants import Tenants
from ctrl.rows import each_member
from ctrl.static import basis, plan_layout, plan_ports, tenant_mac
from ctrl.tenant_side import NOWHERE, TenantSide
from ctrl.ways import ways
from fastpath import Inner, Punted
from fastpath.model import Encap

UP, VM1, VM2, RED, GREEN = range(5)
G = ip_address("239.10.10.10")
TEXT = """
[nve]
address = "10.0.0.1"
{nve}
[[network]]
name = "blue"
vni = 5001
vsid = 6001
group = "239.1.1.1"
{blue}
[[network]]
name = "red"
vni = 5002
group = "239.1.1.2"
snoop = true
[[network]]
name = "green"
vni = 5003
group = "239.1.1.3"
[[port]]
name = "up"
faces = "core"
[[port]]
name = "vm1"
faces = "vm"
network = "blue"
[[port]]
name = "vm2"
faces = "vm"
network = "blue"
mtu = 1400
[[port]]
name = "vm3"
faces = "vm"
network = "red"
[[port]]
name = "vm4"
faces = "vm"
network = "green"
"""
ROUTER = int(ip_address("192.0.2.254"))
QUERY = igmp.query_frame(Query(3, robustness=2, interval_s=125.0), bytes(5) + b"\x42", ROUTER)


def report(port: int) -> bytes:
    record = Record(Kind.TO_EX, int(G), ())
    return igmp.report_frame(Report(3, (record,)), bytes((2, 0, 0, 0, 0, port)), ROUTER - port)


class Box:
    def __init__(self, nve: str = "", blue: str = "", *, is_reached: bool = True) -> None:
        reading = parse(TEXT.format(nve=nve, blue=blue if "snoop" in blue else f"snoop = true\n{blue}"))
        assert reading.config is not None, reading.findings
        self.config = reading.config
        self.at_s, self.refused = 10.0, Refused()
        assert self.config.nve is not None
        self.tenants = Tenants(self.refused, MembershipTable(), tenant_mac(self.config.nve), lambda: 0.5)
        self.side = TenantSide(self.tenants, self.refused)
        ports = plan_ports(self.config.ports)
        if not is_reached:
            ports = tuple(replace(port, next_hop_mac=None) for port in ports)
        self.ports = ports
        self.attach()
        self.side.poll(self.at_s + 30.0)
        self.side.take_frames()

    def attach(self, down: int | None = None) -> None:
        ports = tuple(replace(p, is_up=place != down) for place, p in enumerate(self.ports))
        found = basis(self.config, ports, ways(self.config))
        self.side.attach(found.snooped, found.agnostic, plan_layout(self.config, ports), {}, self.at_s)

    def hear(self, place: int, frame: bytes) -> None:
        self.side.hear(place, frame, self.at_s)

    def tunnelled(self, frame: bytes, encap: Encap = Encap.VXLAN, number: int = 5001) -> int:
        """Hear it from the overlay; its place."""
        place, alone = self.side.whose(
            Punted(UP, 0, b"outer" + frame + b"pad", Inner(encap, number, 5, 5 + len(frame)))
        )
        assert alone == frame
        self.hear(place, alone)
        return place

    def out(self, for_s: float = 0.0) -> list[tuple[int, bytes]]:
        until_s = self.at_s + for_s
        while (deadline_s := self.side.deadline_s) is not None and deadline_s <= until_s:
            self.at_s = max(self.at_s, deadline_s)
            self.side.poll(self.at_s)
        self.at_s = until_s
        return self.side.take_frames()


def test_a_frame_of_a_vm_is_its_ports_and_one_by_a_tunnel_its_networks_by_either_number():
    """N13, N8."""
    box = Box()
    assert box.side.whose(Punted(VM1, 0, b"frame", Inner(Encap.RAW, 5001, 0, 5))) == (VM1, b"frame")
    places = [
        box.tunnelled(report(1), encap, number)
        for encap, number in ((Encap.VXLAN, 5001), (Encap.NVGRE, 6001), (Encap.VXLAN, 5002))
    ]
    assert places[0] == places[1] != places[2]
    assert box.refused == {}
    assert box.tunnelled(report(1), Encap.VXLAN, 5003) == NOWHERE
    assert box.tunnelled(report(1), Encap.VXLAN, 6001) == NOWHERE
    assert box.refused == {"not_an_nve_port": 2}


def test_what_goes_to_a_vm_goes_as_it_is():
    box = Box()
    box.tunnelled(QUERY)
    assert box.out() == [(VM1, QUERY), (VM2, QUERY)]


@pytest.mark.parametrize("encap", ["vxlan", "nvgre"])
def test_what_goes_into_the_overlay_leaves_as_a_broadcast_of_the_network_would(encap):
    """N1, N2: one copy, to the group, in the network's own encapsulation."""
    box = Box(blue=f'encap = "{encap}"')
    box.hear(VM1, QUERY)
    (port, sent), to_vm = sorted(box.out())
    assert to_vm == (VM2, QUERY)
    assert port == UP
    assert sent[:6] == bytes.fromhex("01005e010101")
    packet = dpkt.ip.IP(sent[14:])
    assert (packet.src, packet.dst) == (ip_address("10.0.0.1").packed, ip_address("239.1.1.1").packed)
    if encap == "vxlan":
        assert packet.data.dport == 4789
        assert bytes(packet.data.data) == bytes.fromhex("0800000000138900") + QUERY
    else:
        assert bytes(packet.data)[:7] == bytes.fromhex("20006558001771")
        assert bytes(packet.data)[8:] == QUERY


def test_each_network_has_its_own_number_and_group():
    box = Box()
    box.hear(RED, QUERY)
    ((port, sent),) = box.out()
    packet = dpkt.ip.IP(sent[14:])
    assert (port, packet.dst) == (UP, ip_address("239.1.1.2").packed)
    assert bytes(packet.data.data) == bytes.fromhex("0800000000138a00") + QUERY


def test_without_a_group_it_goes_to_each_receiver_once():
    box = Box('send_to = ["10.0.0.8", "10.0.0.9"]')
    box.hear(VM1, QUERY)
    sent = [dpkt.ip.IP(frame[14:]).dst for port, frame in box.out() if port == UP]
    assert sent == [ip_address("10.0.0.8").packed, ip_address("10.0.0.9").packed]


def test_what_cannot_leave_is_counted():
    box = Box('send_to = "10.0.0.8"', is_reached=False)
    box.hear(VM1, QUERY)
    assert [port for port, _ in box.out()] == [VM2]
    assert box.refused == {"tenant_not_sent": 1}
    box.attach(down=UP)
    box.hear(VM1, QUERY)
    assert [port for port, _ in box.out()] == [VM2]
    assert box.refused == {"tenant_not_sent": 2}


def sent_to(box: Box) -> list[tuple[int, str, bytes]]:
    """(port, address, tenant's frame) of what left for the overlay."""
    frames = [(port, dpkt.ip.IP(frame[14:])) for port, frame in box.out() if port == UP]
    return [(port, str(ip_address(ip.dst)), bytes(ip.data.data)[8:]) for port, ip in frames]


AGNOSTIC = 'snoop = false\nigmp_to = ["10.0.0.9"]'


def test_n12_who_does_not_read_igmp_hands_it_on_as_any_frame_and_once_more_to_each_service_node():
    """N12: a router anywhere in the network hears it still; who joined is written down nowhere."""
    box = Box(blue=AGNOSTIC)
    for frame in (report(VM1), QUERY):
        box.hear(VM1, frame)
        local = [one for one in box.side._sent if one.port == VM2]
        assert [one.frame for one in local] == [frame]
        assert sent_to(box) == [(UP, "239.1.1.1", frame), (UP, "10.0.0.9", frame)]
    assert box.tunnelled(report(1)) < 0
    assert box.out() == [(VM1, report(1)), (VM2, report(1))], "what came by a tunnel goes into none"
    assert box.tenants.groups("blue") == []
    box.hear(RED, report(RED))
    assert box.tenants.groups("red") == [G]
    assert box.refused == {}


def test_n12_igmp_of_a_group_that_the_network_maps_goes_where_its_frames_go():
    box = Box(blue=f'{AGNOSTIC}\n[[network.map]]\ninner = "224.0.0.0/8"\ngroup = "239.1.1.7"')
    box.hear(VM1, report(VM1))
    assert [to for _, to, _ in sent_to(box)] == ["239.1.1.7", "10.0.0.9"]


def test_n12_a_vm_port_that_is_down_gets_nothing_and_is_not_heard():
    box = Box(blue=AGNOSTIC)
    box.attach(down=VM2)
    box.hear(VM1, QUERY)
    assert {port for port, _ in box.out()} == {UP}
    box.hear(VM2, QUERY)
    assert box.out() == []
    assert box.refused == {"not_an_nve_port": 1}


def test_frames_are_taken_in_turns():
    box = Box()
    for _ in range(5):
        box.hear(VM1, QUERY)
    assert box.side.n_frames == 10
    assert len(box.side.take_frames(4)) == 4
    assert box.side.n_frames == 6


def test_a_vm_port_that_goes_down_has_no_members_and_what_is_said_there_is_nobodys():
    box = Box()
    box.hear(VM1, report(VM1))
    box.hear(RED, report(RED))
    assert box.tenants.listeners("blue", G) == {VM1: ALL}
    box.attach(down=VM1)
    assert box.tenants.listeners("blue", G) == {}
    assert box.tenants.listeners("red", G) == {RED: ALL}
    box.hear(VM1, report(VM1))
    assert box.refused == {"not_an_nve_port": 1}


def test_a_network_that_snoops_no_more_is_forgotten():
    box = Box()
    box.hear(VM1, report(VM1))
    box.hear(RED, report(RED))
    networks = [n.model_copy(update={"snoop": n.name == "red"}) for n in box.config.networks]
    box.config = box.config.model_copy(update={"networks": tuple(networks)})
    box.attach()
    assert box.tenants.groups("blue") == []
    assert box.tenants.groups("red") == [G]
    assert box.tunnelled(report(1)) == NOWHERE
    assert {port for port, _ in box.out(200.0)} <= {RED, UP}


def test_a_vm_that_joined_is_shown_with_its_port_and_network():
    box = Box()
    box.hear(VM2, report(VM2))
    names = [port.name for port in box.config.ports]
    (row,) = each_member(box.config, list(tenant_views(names, box.tenants, box.at_s)))
    assert (row["port"], row["network"], row["vni"]) == ("vm2", "blue", ["5001"])
    assert (row["nve"], row["mac"], row["group"]) == ("192.0.2.252", "02:00:00:00:00:02", str(G))
    assert (row["mode"], row["origin"]) == ("exclude", "igmp")
    ((network, event),) = box.side.take_events()
    assert (network, event.group, event.who.port) == ("blue", G, VM2)


def test_vms_are_asked_from_our_own_mac_and_from_no_address():
    box = Box()
    asked = [(port, frame) for port, frame in box.out(130.0) if port != UP]
    assert {port for port, _ in asked} == {VM1, VM2, RED}
    read = [punt.read(frame, strict_headers=True) for _, frame in asked]
    heard = [one for one in read if isinstance(one, punt.Heard)]
    assert len(heard) == len(read)
    assert {one.mac for one in heard} == {bytes.fromhex("02fb0a000001")}
    assert {one.source for one in heard if one.bits == 32} == {0}
