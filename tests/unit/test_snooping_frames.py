"""Tenants' IGMP and MLD, and groups nobody asked for, at our own NVE; in both engines."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from fastpath import Forwarder, Inner, Punted, Punts
from fastpath.model import (
    Encap,
    Frame,
    Layout,
    Rate,
    Scope,
    Storm,
    Verdict,
)
from fastpath.reference import Lesson, Outcome, Reference, Trail
from tests import frames as f
from tests.cases import box as b
from tests.strategies import seeded_scenes
from tests.unit.punted import source
from tests.unit.test_forwarder import memory_ports
from tests.unit.test_nve_frames import (
    ALL,
    FAR,
    FAR_NVE,
    GROUP_MAC,
    HOST,
    LISTS,
    SECOND,
    TABLE,
    UP,
    VM_A,
    VM_B,
    A,
    B,
    C,
    engine,
    fate,
    out_ports,
)

__all__ = ["engine"]

MLD_MAC = bytes.fromhex("333300000016")
SNOOPED = replace(HOST, networks=(replace(b.BLUE, snoop=True), b.GREEN))
PARTED = replace(HOST, networks=(replace(b.BLUE, snoop=True, drop_unregistered=True), b.GREEN))
"""HOST, its BLUE snooping; and not flooding what nobody asked for."""
SECOND_GROUP = "239.77.1.4"
JOINED = b.of_number(b.NVE, b.VNI, b.at_vm(VM_B), remote=(UP,), group=b.INNER_GROUP)


def igmp(dst_mac: bytes = GROUP_MAC, src_mac: bytes = A, **knobs: Any) -> bytes:
    """A VM's report."""
    packet = f.ipv4(bytes((0x22,)) + bytes(7), "172.16.5.9", "224.0.0.22", f.IGMP, tos=0xC0, ttl=1, **knobs)
    return f.ethernet(packet, f.IPV4, dst_mac, src_mac)


def mld(kind: int = 143, src_mac: bytes = A, **knobs: Any) -> bytes:
    alert = (f.HOP_BY_HOP, b"\x00\x00\x05\x02\x00\x00\x01\x00")
    knobs = {"extensions": (alert,), **knobs}
    packet = f.ipv6(bytes((kind,)) + bytes(7), "fe80::7", "ff02::16", f.ICMPV6, ttl=1, **knobs)
    return f.ethernet(packet, f.IPV6, MLD_MAC, src_mac)


def tunnelled(inner: bytes, to: str = b.GROUP, vni: int = b.VNI) -> bytes:
    return f.wire(f.vxlan_packet(inner, FAR_NVE, to, vni))


def tunnelled_nvgre(inner: bytes, to: str = b.GROUP) -> bytes:
    return f.wire(f.nvgre_packet(inner, FAR_NVE, to, b.VSID))


def sent_to(group: str, mac: bytes = GROUP_MAC, src: str = "172.16.5.9") -> bytes:
    """What a VM sends to a group."""
    return f.tenant(src, group, dst_mac=mac, src_mac=A)


def run(box: Any, in_port: int, data: bytes) -> Outcome:
    outcome: Outcome = box.forward(in_port, Frame(data, time_ns=SECOND))
    return outcome


# --- membership ---------------------------------------------------------------------------------------------

WORDS = {
    "igmp": igmp(),
    "igmp_to_one_mac": igmp(dst_mac=B),
    "igmp_to_an_unknown_mac": igmp(dst_mac=C),
    "igmp_behind_a_tag": igmp()[:12] + b"\x81\x00\x00\x07" + igmp()[12:],
    "igmp_with_options": igmp(options=b"\x94\x04\x00\x00"),
    "igmp_padded": igmp() + bytes(9),
    "mld_report": mld(),
    "mld_query": mld(130),
    "mld_v1_report": mld(131),
    "mld_v1_done": mld(132),
    "mld_without_options": mld(extensions=()),
}


@pytest.mark.parametrize("data", WORDS.values(), ids=WORDS)
def test_a_tenants_igmp_and_mld_is_for_control_alone(data, engine):
    """N13: of a VM's port as of a tunnel, to a group or to us, whether there is a list or not."""
    for macs in (TABLE, None):
        for lists in (LISTS, ()):
            box = engine(SNOOPED, macs, lists)
            assert run(box, VM_A, data).verdict is Verdict.PUNT
            for to in (b.GROUP, b.VTEP):
                assert run(box, b.CORE, tunnelled(data, to)).verdict is Verdict.PUNT
                if data[12:14] != b"\x81\x00":
                    assert run(box, b.CORE, tunnelled_nvgre(data, to)).verdict is Verdict.PUNT


def test_where_a_network_does_not_snoop_its_tenants_igmp_is_a_frame_as_any_other(engine):
    box = engine(HOST, TABLE)
    assert out_ports(run(box, VM_A, igmp())) == [VM_B, b.CORE]
    assert out_ports(run(box, b.CORE, tunnelled(mld()))) == [VM_A, VM_B]
    of_green = replace(HOST, networks=(b.BLUE, replace(b.GREEN, snoop=True)))
    assert out_ports(run(engine(of_green, TABLE), VM_A, igmp())) == [VM_B, b.CORE]


NOT_WORDS = {
    "another_protocol": sent_to("224.0.0.22"),
    "a_fragment": igmp(flags=1),
    "a_later_fragment": igmp(flags=0, offset=1),
    "a_wrong_header_checksum": igmp(checksum=0x1234),
    "cut": igmp()[:-1],
    "no_length": igmp(length=19),
    "mld_of_another_type": mld(135),
    "mld_cut_at_its_type": mld()[:-8],
    "an_mld_fragment": mld(extensions=(f.fragment_extension(0, more=True),)),
    "a_later_mld_fragment": mld(extensions=(f.fragment_extension(7, more=False),)),
    "nine_extensions": mld(extensions=[f.extension(f.DESTINATION_OPTIONS)] * 9),
    "no_ip": f.arp(),
}


@pytest.mark.parametrize("data", NOT_WORDS.values(), ids=NOT_WORDS)
def test_what_is_no_whole_and_sound_membership_message_goes_its_way(data, engine):
    box = engine(SNOOPED, None)
    assert out_ports(run(box, VM_A, data)) == [VM_B, b.CORE]
    assert out_ports(run(box, b.CORE, tunnelled(data))) == [VM_A, VM_B]
    assert out_ports(run(box, b.CORE, tunnelled(data) + bytes(20))) == [VM_A, VM_B]


def test_nobody_vouches_for_a_tenants_checksum_where_none_is_verified(engine):
    box = engine(replace(SNOOPED, verify_checksums=False), None)
    assert run(box, VM_A, NOT_WORDS["a_wrong_header_checksum"]).verdict is Verdict.PUNT


def test_membership_of_another_network_in_our_group_is_not_for_control(engine):
    """N9: the group is shared, the VNI is not ours."""
    box = engine(SNOOPED, TABLE)
    assert fate(run(box, b.CORE, tunnelled(igmp(), "239.2.9.4"))) == "wrong_group"
    assert fate(run(box, b.CORE, tunnelled(igmp(), vni=0x777777))) == "unknown_vni"


def test_who_sends_membership_is_learned_as_who_sends_anything(engine):
    assert run(engine(SNOOPED, TABLE), VM_A, igmp(src_mac=C)).lesson == Lesson(
        b.VNI, C, VM_A, None, Encap.RAW
    )
    far = Lesson(b.VNI, C, b.CORE, ip_address(FAR_NVE), Encap.VXLAN)
    assert run(engine(SNOOPED, TABLE), b.CORE, tunnelled(mld(src_mac=C))).lesson == far
    assert run(engine(SNOOPED, TABLE), VM_A, igmp(src_mac=A)).lesson is None


def at_a(layout: Layout, **rules: Any) -> Layout:
    """The rules of VM_A's port."""
    ports = (*layout.ports[:VM_A], replace(layout.ports[VM_A], **rules), *layout.ports[VM_A + 1 :])
    return replace(layout, ports=ports)


def test_guards_come_before_control_and_storm_control_does_not_count_what_it_gets(engine):
    assert fate(run(engine(at_a(SNOOPED, macs=(B,)), TABLE), VM_A, igmp())) == "wrong_source"
    seldom = Storm(multicast=Rate(1, 1), broadcast=Rate(1, 1))
    box = engine(at_a(SNOOPED, storm=seldom), TABLE)
    assert [fate(run(box, VM_A, one)) for one in (igmp(), mld(), igmp(ALL))] == ["PUNT"] * 3
    assert [fate(run(box, VM_A, sent_to(b.INNER_GROUP))) for _ in range(2)] == [
        "REPLICATE",
        "storm_multicast",
    ]


# --- what crosses -------------------------------------------------------------------------------------------


def punted(*arrivals: tuple[int, Frame], punts: Punts | None = None, **knobs: Any) -> list[Punted]:
    """What control gets of frames in SNOOPED."""
    arrived = source(*arrivals)
    forwarder = Forwarder(SNOOPED, memory_ports(), LISTS, sources=[arrived], punts=punts or Punts(), **knobs)
    forwarder.run()
    return forwarder.read_punted()


def test_a_tenants_word_crosses_with_the_sum_of_its_tunnel_that_the_sender_left():
    right = f.wire(f.vxlan_packet(igmp(), FAR_NVE, b.GROUP, b.VNI, datagram={"checksum": f.RIGHT}))
    left = f.unfinished(Frame(right))
    assert left is not None
    (one,) = punted((b.CORE, left))
    assert one.frame == right != left.data


def test_control_is_told_whose_membership_it_is_and_where_it_begins():
    data = igmp()
    vxlan, nvgre = tunnelled(data) + b"pad", tunnelled_nvgre(data, b.VTEP)
    got = punted((VM_A, Frame(data, time_ns=7)), (b.CORE, Frame(vxlan)), (b.CORE, Frame(nvgre)))
    assert got == [
        Punted(VM_A, 7, data, Inner(Encap.RAW, b.VNI, 0, len(data))),
        Punted(b.CORE, 0, vxlan, Inner(Encap.VXLAN, b.VNI, 50, 50 + len(data))),
        Punted(b.CORE, 0, nvgre, Inner(Encap.NVGRE, b.VSID, 42, 42 + len(data))),
    ]
    assert [one.inner_frame for one in got] == [data] * 3


def test_a_tag_out_of_band_moves_what_is_behind_it_and_is_no_part_of_a_vms_frame():
    data, tag = igmp(), (f.TAG, 0x6064)
    got = punted((b.CORE, Frame(tunnelled(data), vlan=tag)), (VM_A, Frame(data, vlan=tag)))
    assert [(one.inner_frame, one.inner and one.inner.start) for one in got] == [(data, 54), (data, 0)]
    assert got[0].frame[12:16] == bytes.fromhex("81006064")
    assert got[1].frame == data


def test_membership_outside_has_no_tenant():
    (got,) = punted((b.P0, Frame(f.wire(f.igmp(b.VTEP, "224.0.0.22")))))
    assert (got.inner, got.inner_frame) == (None, b"")


def test_control_gets_of_random_frames_what_the_reference_found_inside():
    n = Counter[Scope | None]()
    for scene in seeded_scenes(31, 50, 150):
        reference = Reference(scene.layout, scene.lists, macs=scene.macs)
        wanted = []
        for in_port, frame in scene.batch:
            trail = Trail()
            if reference.forward(in_port, frame, trail).verdict is Verdict.PUNT:
                parsed = trail.parsed
                inner = None
                if parsed is not None:
                    inner = trail.scope, parsed.encap, parsed.number, parsed.inner_frame()
                wanted.append(inner)
        ports = memory_ports(scene.layout)
        arrived = source(*scene.batch)
        forwarder = Forwarder(scene.layout, ports, scene.lists, sources=[arrived], punts=Punts())
        forwarder.run()
        got = forwarder.read_punted()
        assert [
            one.inner and (one.inner.scope, one.inner.encap, one.inner.number, one.inner_frame) for one in got
        ] == wanted
        n.update(one[0] for one in wanted if one is not None)
    assert all(n[scope] > 10 for scope in Scope)


def test_a_step_ends_with_a_tenants_word_as_with_any_other():
    """D5, for replay."""
    arrived = source(*[(VM_A, Frame(one)) for one in (sent_to("239.9.9.9"), igmp(), igmp())])
    forwarder = Forwarder(SNOOPED, memory_ports(), LISTS, sources=[arrived], punts=Punts(stepwise=True))
    assert [forwarder.run() for _ in range(3)] == [2, 1, 0]


def test_what_control_has_no_room_for_teaches_and_is_counted_as_any_punt():
    frames = [(VM_A, Frame(igmp(src_mac=bytes((2, 0, 0, 0, 1, i))))) for i in range(9)]
    forwarder = Forwarder(
        SNOOPED, memory_ports(), LISTS, sources=[source(*frames)], punts=Punts(1, 4), max_macs=16
    )
    forwarder.run()
    counted = forwarder.statistics()
    assert (counted.punted, {row.reason.name: row.count for row in counted.drops}) == (4, {"punt_limit": 5})
    assert len(forwarder.read_learned()) == 9


def test_tenants_who_say_too_much_do_not_silence_who_speaks_to_us_by_the_same_port():
    """N5: without the queries that come by the uplink we would leave our groups."""
    query = f.wire(f.igmp(b.VTEP, "224.0.0.1", 0x11))
    frames = [*[(b.CORE, Frame(tunnelled(igmp())))] * 9, (b.CORE, Frame(query))]
    got = punted(*frames, punts=Punts(1, 4))
    assert [one.frame == query for one in got] == [False] * 4 + [True]


# --- groups that nobody asked for ---------------------------------------------------------------------------


def test_what_comes_for_a_group_without_a_list_goes_to_no_vm_and_teaches(engine):
    """N13."""
    box = engine(PARTED, {(b.VNI, FAR): b.at_vm(VM_B)}, (*LISTS, JOINED))
    outcome = run(box, b.CORE, tunnelled(sent_to(SECOND_GROUP)))
    assert (fate(outcome), outcome.lesson) == (
        "unregistered_group",
        Lesson(b.VNI, A, b.CORE, ip_address(FAR_NVE), Encap.VXLAN),
    )
    assert fate(run(box, b.CORE, tunnelled_nvgre(sent_to(SECOND_GROUP), b.VTEP))) == "unregistered_group"
    assert out_ports(run(box, b.CORE, tunnelled(sent_to(b.INNER_GROUP)))) == [VM_B]


def test_what_a_vm_sends_to_such_a_group_still_goes_up_and_to_no_neighbour(engine):
    """N2: somebody elsewhere may want it."""
    box = engine(PARTED, TABLE, (*LISTS, JOINED))
    assert out_ports(run(box, VM_A, sent_to(SECOND_GROUP))) == [b.CORE]
    assert out_ports(run(box, VM_A, sent_to(b.INNER_GROUP))) == [VM_B, b.CORE]
    alone = b.of_number(b.NVE, b.VNI, b.at_vm(VM_A), b.at_vm(VM_B))
    outcome = run(engine(PARTED, {}, (alone,)), VM_A, sent_to(SECOND_GROUP))
    assert (fate(outcome), outcome.lesson) == ("no_receiver", Lesson(b.VNI, A, VM_A, None, Encap.RAW))


@pytest.mark.parametrize(
    ("group", "source_ip", "floods"),
    [
        ("224.0.0.251", "172.16.5.9", True),
        ("224.0.1.1", "172.16.5.9", False),
        ("225.0.0.1", "172.16.5.9", False),
        ("172.16.5.77", "172.16.5.9", True),
        ("255.255.255.255", "172.16.5.9", True),
        ("ff02::1:3", "fd00::9", True),
        ("ff12::7", "fd00::9", True),
        ("ff01::7", "fd00::9", True),
        ("ff03::7", "fd00::9", False),
        ("ff15::7", "fd00::9", False),
        ("fd00::7", "fd00::9", True),
    ],
)
def test_what_ends_at_the_link_is_for_all_of_the_network(group, source_ip, floods, engine):
    box = engine(PARTED, TABLE)
    data = sent_to(group, src=source_ip)
    assert out_ports(run(box, VM_A, data)) == ([VM_B, b.CORE] if floods else [b.CORE])
    assert fate(run(box, b.CORE, tunnelled(data))) == ("REPLICATE" if floods else "unregistered_group")


def test_only_a_network_that_snoops_and_says_so_spares_its_vms(engine):
    for layout in (
        SNOOPED,
        replace(HOST, networks=(replace(b.BLUE, drop_unregistered=True), b.GREEN)),
        replace(HOST, networks=(b.BLUE, replace(b.GREEN, snoop=True, drop_unregistered=True))),
    ):
        box = engine(layout, TABLE)
        assert out_ports(run(box, VM_A, sent_to(SECOND_GROUP))) == [VM_B, b.CORE]
        assert out_ports(run(box, b.CORE, tunnelled(sent_to(SECOND_GROUP)))) == [VM_A, VM_B]


def test_a_frame_to_one_mac_is_no_tenants_group(engine):
    """Its packet is to a group: known or not, it goes by its MAC where MACs are known, else by its packet."""
    box = engine(PARTED, TABLE)
    assert out_ports(run(box, VM_A, sent_to(SECOND_GROUP, mac=B))) == [VM_B]
    assert out_ports(run(box, VM_A, sent_to(SECOND_GROUP, mac=C))) == [VM_B, b.CORE]
    assert (
        fate(run(engine(PARTED, None), b.CORE, tunnelled(sent_to(SECOND_GROUP, mac=C))))
        == "unregistered_group"
    )
