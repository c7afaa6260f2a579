"""What frames of our own NVE meet: its MAC table, and the rates of VM ports; sequences, in both engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, Protocol

import pytest

from fastpath.model import Egress, Encap, Form, Frame, Layout, Owner, Rate, ReplicationList, Storm, Verdict
from fastpath.reference import Lesson, MacTable, Outcome, Reference
from tests import frames as f
from tests.cases import box as b
from tests.cases import made as m
from tests.compiled import Compiled

A, B, C, FAR = (bytes((2, 0x10, 0xAA, 0xBB, 0xCC, i)) for i in range(4))
ALL, GROUP_MAC = b"\xff" * 6, bytes.fromhex("01005e4d0103")
VM_A, VM_B = b.VM_BLUE, b.VM_GREEN
FAR_NVE, FAR_NVE6 = "10.1.1.77", "2001:db8:1::77"
SECOND = 1_000_000_000
FAR_ADDRESS = ip_address(FAR_NVE)

HOST = replace(b.EDGE, ports=(*b.PORTS[:VM_B], replace(b.PORTS[VM_B], network="blue"), *b.PORTS[VM_B + 1 :]))
"""EDGE, both of its VM ports in BLUE."""


def at_vtep(address: str, own: str, encap: Encap = Encap.VXLAN) -> Egress:
    """The station of a VTEP."""
    to = ip_address(address)
    return Egress(b.CORE, Form.REWRITE, Owner(address=to), to, ip_address(own), encap)


UP = Egress(b.CORE, Form.REWRITE, Owner(b.CORE), ip_address(b.GROUP), ip_address(b.VTEP), Encap.VXLAN)
LISTS = tuple(
    b.of_number(b.NVE, number, b.at_vm(VM_A), b.at_vm(VM_B), remote=(UP,), encap=encap)
    for encap, number in ((Encap.VXLAN, b.VNI), (Encap.NVGRE, b.VSID))
)
TABLE: MacTable = {
    (b.VNI, A): b.at_vm(VM_A),
    (b.VNI, B): b.at_vm(VM_B),
    (b.VNI, FAR): at_vtep(FAR_NVE, b.VTEP),
}


class Engine(Protocol):
    """What the frames run through."""

    def forward(self, in_port: int, frame: Frame) -> Outcome: ...


Engines = Callable[..., Engine]


def referring(layout: Layout, macs: MacTable | None, lists: tuple[ReplicationList, ...] = LISTS) -> Engine:
    return Reference(layout, lists, macs=macs)


def compiled(layout: Layout, macs: MacTable | None, lists: tuple[ReplicationList, ...] = LISTS) -> Engine:
    return Compiled(layout, lists, macs=macs, stepwise=True)


@pytest.fixture(params=[referring, compiled], ids=["reference", "compiled"])
def engine(request: pytest.FixtureRequest) -> Engines:
    """Make an engine for a layout, its MAC table and lists."""
    made: Engines = request.param
    return made


def inner(dst: bytes, src: bytes, **knobs: Any) -> bytes:
    return f.tenant("172.16.5.9", "172.16.5.77", dst_mac=dst, src_mac=src, **knobs)


def sent(dst: bytes, src: bytes, at: float = 1) -> Frame:
    """A VM's frame, so many seconds after the start."""
    return Frame(inner(dst, src), time_ns=round(at * SECOND))


def heard(dst: bytes, src: bytes, sender: str = FAR_NVE, to: str = b.VTEP, vni: int = b.VNI) -> Frame:
    """A VXLAN frame of another NVE."""
    return Frame(f.wire(f.vxlan_packet(inner(dst, src), sender, to, vni)), time_ns=SECOND)


def heard_nvgre(dst: bytes, src: bytes, to: str = b.VTEP) -> Frame:
    return Frame(f.wire(f.nvgre_packet(inner(dst, src), FAR_NVE, to, b.VSID)), time_ns=SECOND)


def out_ports(outcome: Outcome) -> list[int]:
    return [copy.out_port for copy in outcome.copies]


def fate(outcome: Outcome) -> str:
    return outcome.reason or outcome.verdict.name


# --- where frames go ----------------------------------------------------------------------------------------


def test_known_unicast_goes_to_its_vm_alone(engine):
    outcome = engine(HOST, TABLE).forward(VM_A, sent(B, A))
    assert [(copy.out_port, copy.data) for copy in outcome.copies] == [(VM_B, inner(B, A))]
    assert (outcome.key, outcome.lesson, outcome.unknown_unicast) == (None, None, False)


def test_known_unicast_is_tunnelled_straight_to_its_vtep(engine):
    outcome = engine(HOST, TABLE).forward(VM_A, sent(FAR, A))
    ip = {**m.OURS, "tos": 0}
    packet = m.vxlan(inner(FAR, A), b.VTEP, FAR_NVE, ip=ip, sport=0xC000 | outcome.flow & 0x3FFF)
    assert [(copy.out_port, copy.data) for copy in outcome.copies] == [m.leaving(b.CORE, packet)]


def test_an_nvgre_vtep_gets_the_networks_vsid(engine):
    outcome = engine(HOST, {(b.VNI, FAR): at_vtep(FAR_NVE, b.VTEP, Encap.NVGRE)}).forward(VM_A, sent(FAR, A))
    packet = m.nvgre(inner(FAR, A), b.VTEP, FAR_NVE, b.VSID, outcome.flow >> 16 & 0xFF, **m.OURS, tos=0)
    assert [(copy.out_port, copy.data) for copy in outcome.copies] == [m.leaving(b.CORE, packet)]


def test_an_ipv6_vtep_gets_a_full_checksum(engine):
    """W4."""
    outcome = engine(HOST, {(b.VNI, FAR): at_vtep(FAR_NVE6, b.VTEP6)}).forward(VM_A, sent(FAR, A))
    port = 0xC000 | outcome.flow & 0x3FFF
    packet = m.vxlan(inner(FAR, A), b.VTEP6, FAR_NVE6, ip={"ttl": 64}, sport=port, chksum=None)
    assert [(copy.out_port, copy.data) for copy in outcome.copies] == [m.leaving(b.CORE, packet)]


def test_unknown_unicast_goes_to_the_whole_network(engine):
    """N1."""
    outcome = engine(HOST, TABLE).forward(VM_A, sent(C, A))
    assert (out_ports(outcome), outcome.unknown_unicast) == ([VM_B, b.CORE], True)
    assert outcome.key == LISTS[0].key


def test_unknown_unicast_does_not_go_by_the_tenants_groups(engine):
    """A frame to one MAC, its packet to a group: nobody who joined that group asked for it."""
    joined = b.of_number(b.NVE, b.VNI, b.at_vm(VM_B), group=b.INNER_GROUP)
    odd = Frame(f.tenant(dst_mac=C, src_mac=A), time_ns=SECOND)
    box = engine(HOST, TABLE, (*LISTS, joined))
    assert out_ports(box.forward(VM_A, odd)) == [VM_B, b.CORE]
    to_group = Frame(f.tenant(dst_mac=GROUP_MAC, src_mac=A), time_ns=SECOND)
    assert box.forward(VM_A, to_group).key == joined.key
    assert engine(HOST, None, (*LISTS, joined)).forward(VM_A, odd).key == joined.key


@pytest.mark.parametrize("mac", [ALL, GROUP_MAC], ids=["broadcast", "multicast"])
def test_a_frame_to_many_goes_by_its_list(mac, engine):
    outcome = engine(HOST, TABLE).forward(VM_A, sent(mac, A))
    assert (out_ports(outcome), outcome.unknown_unicast) == ([VM_B, b.CORE], False)


def test_without_a_table_nothing_is_unknown_and_nothing_taught(engine):
    outcome = engine(HOST, None).forward(VM_A, sent(B, A))
    assert (out_ports(outcome), outcome.unknown_unicast, outcome.lesson) == ([VM_B, b.CORE], False, None)


@pytest.mark.parametrize(
    ("in_port", "to"), [(b.CORE, b.GROUP), (b.CORE, b.VTEP), (b.P0, b.VTEP), (b.MIX, b.VTEP)]
)
def test_a_copy_from_a_tunnel_is_never_sent_to_a_tunnel(in_port, to, engine):
    """N10: to a VM here or nowhere, also what comes by the port of a device in the same box."""
    macs = {**TABLE, (b.VNI, C): at_vtep("10.1.1.78", b.VTEP)}
    box = engine(HOST, macs)
    assert out_ports(box.forward(in_port, heard(A, FAR, to=to))) == [VM_A]
    for mac in (bytes(6), ALL, GROUP_MAC):
        assert out_ports(box.forward(in_port, heard(mac, FAR, to=to))) == [VM_A, VM_B]
    assert fate(box.forward(in_port, heard(C, FAR, to=to))) == "no_receiver"
    assert fate(box.forward(in_port, heard(FAR, FAR, to=to))) == "no_receiver"


def test_a_frame_does_not_go_back_to_the_port_it_came_from(engine):
    outcome = engine(HOST, TABLE).forward(VM_B, sent(B, C))
    assert fate(outcome) == "no_receiver"
    assert outcome.lesson == Lesson(b.VNI, C, VM_B, None, Encap.RAW)


def test_vxlan_and_nvgre_frames_of_a_network_share_its_macs(engine):
    box = engine(HOST, TABLE)
    assert out_ports(box.forward(b.CORE, heard_nvgre(B, C))) == [VM_B]
    assert out_ports(box.forward(b.CORE, heard_nvgre(B, C, to=b.GROUP))) == [VM_B]


def test_no_entry_leads_to_a_port_of_another_network(engine):
    """N8: however old it is; nor to a port that is none of a VM, or not there."""
    for place in (b.VM_GREEN, b.CORE, b.P0, len(b.PORTS), 255):
        outcome = engine(b.EDGE, {(b.VNI, B): b.at_vm(place)}).forward(VM_A, sent(B, A))
        assert (outcome.key, outcome.unknown_unicast) == (LISTS[0].key, True)


def test_a_number_without_a_network_knows_no_macs(engine):
    lists = (b.of_number(b.NVE, 0x42, b.at_vm(VM_A)),)
    outcome = engine(HOST, {(0x42, B): b.at_vm(VM_B)}, lists).forward(b.CORE, heard(B, C, vni=0x42))
    assert (out_ports(outcome), outcome.lesson) == ([VM_A], None)


def test_a_mac_of_one_network_is_unknown_in_another(engine):
    """N8: also where the low 16 bits of the VNIs are the same."""
    box = engine(HOST, {(b.VNI ^ 1 << 16, B): b.at_vm(VM_B), (b.VNI ^ 1, B): b.at_vm(VM_B)})
    assert box.forward(VM_A, sent(B, A)).unknown_unicast


# --- what frames teach --------------------------------------------------------------------------------------


def test_a_new_source_teaches_where_it_is(engine):
    box = engine(HOST, {})
    assert box.forward(VM_A, sent(ALL, A)).lesson == Lesson(b.VNI, A, VM_A, None, Encap.RAW)
    far = Lesson(b.VNI, FAR, b.CORE, FAR_ADDRESS, Encap.VXLAN)
    assert box.forward(b.CORE, heard(ALL, FAR, to=b.GROUP)).lesson == far
    assert box.forward(b.CORE, heard(B, C)).lesson == Lesson(b.VNI, C, b.CORE, FAR_ADDRESS, Encap.VXLAN)


def test_a_nested_frame_teaches_who_made_the_packet_inside(engine):
    inside = f.vxlan_packet(inner(ALL, FAR), FAR_NVE, b.GROUP, b.VNI)
    frame = Frame(f.wire(f.nested_packet(inside, b.PEER, b.VTEP)), time_ns=SECOND)
    lesson = engine(HOST, {}).forward(b.CORE, frame).lesson
    assert lesson == Lesson(b.VNI, FAR, b.CORE, FAR_ADDRESS, Encap.VXLAN)


@pytest.mark.parametrize("in_port", [VM_A, b.CORE])
def test_a_source_that_is_where_the_table_has_it_teaches_nothing(in_port, engine):
    frame = sent(ALL, A) if in_port == VM_A else heard(ALL, FAR)
    assert engine(HOST, TABLE).forward(in_port, frame).lesson is None


def test_a_source_that_moved_teaches(engine):
    """VM to VM port, VTEP to VM port and back, VTEP to VTEP, one encapsulation to the other."""
    box = engine(HOST, TABLE)
    assert box.forward(VM_B, sent(ALL, A)).lesson == Lesson(b.VNI, A, VM_B, None, Encap.RAW)
    assert box.forward(VM_B, sent(ALL, FAR)).lesson == Lesson(b.VNI, FAR, VM_B, None, Encap.RAW)
    assert box.forward(b.CORE, heard(ALL, B)).lesson == Lesson(b.VNI, B, b.CORE, FAR_ADDRESS, Encap.VXLAN)
    other = ip_address("10.1.1.99")
    moved = box.forward(b.CORE, heard(ALL, FAR, sender="10.1.1.99")).lesson
    assert moved == Lesson(b.VNI, FAR, b.CORE, other, Encap.VXLAN)
    assert box.forward(b.CORE, heard_nvgre(ALL, FAR)).lesson == replace(
        moved, sender=FAR_ADDRESS, encap=Encap.NVGRE
    )


def test_frames_that_are_dropped_teach_nothing(engine):
    """N9: those of a shared group whose VNI is not ours above all."""
    box = engine(HOST, {})
    shared = heard(ALL, FAR, to="239.2.9.4")
    congested = Frame(f.wire(f.vxlan_packet(inner(ALL, FAR), FAR_NVE, b.VTEP, b.VNI, packet={"tos": 3})))
    for in_port, frame, reason in (
        (b.CORE, shared, "wrong_group"),
        (b.CORE, heard(ALL, FAR, to=b.GROUP, vni=b.OTHER_VNI), "unknown_vni"),
        (b.CORE, heard(ALL, FAR, sender=b.VTEP), "own_source"),
        (b.CORE, congested, "ecn_not_capable"),
        (VM_A, sent(ALL, bytes(6)), "bad_source"),
    ):
        outcome = box.forward(in_port, frame)
        assert (fate(outcome), outcome.lesson) == (reason, None)


@pytest.mark.parametrize("mac", [bytes(6), GROUP_MAC, ALL])
def test_a_received_frame_from_no_station_is_delivered_and_teaches_nothing(mac, engine):
    outcome = engine(HOST, {}).forward(b.CORE, heard(A, mac))
    assert (out_ports(outcome), outcome.lesson) == ([VM_A, VM_B], None)


# --- storms -------------------------------------------------------------------------------------------------


def stormy(storm: Storm) -> Layout:
    """HOST, its first VM port with rates."""
    port = replace(HOST.ports[VM_A], storm=storm)
    return replace(HOST, ports=(*HOST.ports[:VM_A], port, *HOST.ports[VM_A + 1 :]))


KINDS = {
    "broadcast": (ALL, "broadcast"),
    "multicast": (GROUP_MAC, "multicast"),
    "unknown": (C, "unknown_unicast"),
}
PASSED = Verdict.REPLICATE.name


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_sends_its_burst_and_then_its_rate(kind, engine):
    mac, name = KINDS[kind]
    box = engine(stormy(Storm(**{name: Rate(2, 3)})), TABLE)
    fates = [fate(box.forward(VM_A, sent(mac, A, at))) for at in (1, 1, 1, 1, 1.4, 1.5, 1.6, 2.0, 9, 9, 9, 9)]
    over = f"storm_{kind}"
    assert fates == [*[PASSED] * 3, over, over, PASSED, over, PASSED, *[PASSED] * 3, over]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_rate_of_its_own(kind, engine):
    """And each port; known unicast has none."""
    _, name = KINDS[kind]
    box = engine(stormy(Storm(**{name: Rate(1, 1)})), TABLE)
    for mac, other in KINDS.values():
        fates = [fate(box.forward(VM_A, sent(mac, A))) for _ in range(2)]
        assert fates == [PASSED, f"storm_{kind}" if other == name else PASSED]
        assert fate(box.forward(VM_B, sent(mac, B))) == PASSED
    assert [fate(box.forward(VM_A, sent(B, A))) for _ in range(3)] == [PASSED] * 3


def test_without_a_table_no_unicast_is_a_storm(engine):
    box = engine(stormy(Storm(unknown_unicast=Rate(1, 1))), None)
    assert [fate(box.forward(VM_A, sent(C, A))) for _ in range(3)] == [PASSED] * 3


def test_a_flood_still_teaches_and_counts_as_unknown(engine):
    box = engine(stormy(Storm(unknown_unicast=Rate(1, 1))), {})
    box.forward(VM_A, sent(C, A))
    outcome = box.forward(VM_A, sent(C, B))
    assert fate(outcome) == "storm_unknown"
    assert (outcome.lesson, outcome.unknown_unicast) == (Lesson(b.VNI, B, VM_A, None, Encap.RAW), True)
    assert not outcome.copies


def test_what_is_dropped_anyway_takes_nothing_of_a_rate(engine):
    """No list, nobody to receive, a source that may not be."""
    nobody = (b.of_number(b.NVE, b.VNI, b.at_vm(VM_A)),)
    box = engine(stormy(Storm(broadcast=Rate(1, 1))), {}, nobody)
    assert [fate(box.forward(VM_A, sent(ALL, A))) for _ in range(3)] == ["no_receiver"] * 3
    box = engine(stormy(Storm(broadcast=Rate(1, 1))), {})
    fates = [fate(box.forward(VM_A, sent(ALL, source))) for source in (ALL, bytes(6), A, A)]
    assert fates == ["bad_source", "bad_source", PASSED, "storm_broadcast"]


def test_received_frames_are_no_storm_of_a_vm(engine):
    box = engine(stormy(Storm(broadcast=Rate(1, 1))), {})
    assert [fate(box.forward(b.CORE, heard(ALL, FAR))) for _ in range(3)] == [PASSED] * 3


def test_a_clock_that_goes_back_stands_still(engine):
    box = engine(stormy(Storm(broadcast=Rate(1, 1))), {})
    fates = [fate(box.forward(VM_A, sent(ALL, A, at))) for at in (10, 2, 5, 10.5, 10.9, 11)]
    assert fates == [PASSED, *["storm_broadcast"] * 4, PASSED]
