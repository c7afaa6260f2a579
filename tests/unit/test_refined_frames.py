"""Tenants' IGMP and MLD, and groups nobody asked for, at devices and replication points; in both engines.

`test_snooping_frames` has the same for our own NVE, `tests.cases.refined` the lists that refine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fastpath import Forwarder, Punts
from fastpath.model import Encap, Endpoint, Frame, Layout, ReplicationList, Scope, Verdict
from fastpath.reference import Outcome
from tests import frames as f
from tests.cases import box as b
from tests.compiled import assert_same
from tests.unit.punted import source
from tests.unit.test_forwarder import memory_ports
from tests.unit.test_nve_frames import engine, fate, out_ports
from tests.unit.test_snooping_frames import NOT_WORDS, igmp, mld

__all__ = ["engine"]

IR, AR = "10.0.0.110", "10.0.0.111"
POINT = (Endpoint(b.addr(IR), b.REPLICATOR), Endpoint(b.addr(AR), b.REPLICATOR, replicate=True))
BOTH = replace(b.BOX, endpoints=(*b.BOX.endpoints, *POINT), peers=(*b.BOX.peers, *b.POINT.peers))
"""A device and a replication point in one box, whose networks do not snoop."""
SNOOPED = replace(BOTH, networks=(replace(b.BLUE, snoop=True), b.GREEN))
PARTED = replace(BOTH, networks=(replace(b.BLUE, snoop=True, drop_unregistered=True), b.GREEN))
NEAR, FAR = b.at_peer(b.CORE, b.PEER), b.at_peer(b.SMALL, b.FAR_PEER)
LISTS = (
    b.of_group(b.at_port(b.P0), b.at_port(b.P7), remote=(NEAR, FAR)),
    b.of_group(b.at_port(b.P0), scope=b.REPLICATOR, remote=(NEAR, FAR)),
)
WANTED, OTHER = "239.77.1.3", "239.77.1.4"


def from_nve(inner: bytes, vni: int = b.VNI, to: str = b.GROUP) -> bytes:
    return f.wire(f.vxlan_packet(inner, b.VTEP, to, vni))


def rewritten(inner: bytes, to: str = b.OWN, sender: str = b.PEER, vni: int = b.VNI) -> bytes:
    return f.wire(f.vxlan_packet(inner, sender, to, vni))


def nested(inner: bytes, to: str = b.OWN, sender: str = b.PEER, vni: int = b.VNI) -> bytes:
    return f.wire(f.nested_packet(f.vxlan_packet(inner, b.VTEP, b.GROUP, vni), sender, to))


def nvgre(inner: bytes) -> bytes:
    return f.wire(f.nvgre_packet(inner, b.VTEP, b.GROUP, b.VSID))


WAYS = {
    "of an NVE": (b.P1, from_nve, Scope.DEVICE),
    "of an NVE by NVGRE": (b.P1, nvgre, Scope.DEVICE),
    "of a device, rewritten": (b.CORE, rewritten, Scope.DEVICE),
    "of a device, nested": (b.CORE, nested, Scope.DEVICE),
    "to a point": (b.CORE, lambda inner: nested(inner, IR), Scope.REPLICATOR),
    "to a point, rewritten": (b.CORE, lambda inner: rewritten(inner, AR), Scope.REPLICATOR),
}


def run(box: Any, in_port: int, data: bytes) -> Outcome:
    outcome: Outcome = box.forward(in_port, Frame(data))
    return outcome


def sent_to(group: str) -> bytes:
    return f.tenant("fd00::9" if ":" in group else "172.16.5.9", group)


# --- membership ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_tenants_igmp_and_mld_is_for_control_alone_whether_there_is_a_list_or_not(way, engine):
    """N12, D15: nobody is asked whether he is a member."""
    in_port, wrap, _ = WAYS[way]
    strict = replace(SNOOPED, strict_members=True)
    for layout, lists in ((SNOOPED, LISTS), (SNOOPED, ()), (strict, LISTS)):
        box = engine(layout, None, lists)
        for data in (igmp(), mld()):
            assert run(box, in_port, wrap(data)).verdict is Verdict.PUNT


@pytest.mark.parametrize("way", WAYS)
def test_where_a_network_does_not_snoop_or_it_is_no_sound_message_it_goes_its_way(way, engine):
    in_port, wrap, _ = WAYS[way]
    of_green = replace(BOTH, networks=(b.BLUE, replace(b.GREEN, snoop=True)))
    for layout in (BOTH, of_green):
        assert run(engine(layout, None, LISTS), in_port, wrap(igmp())).verdict is Verdict.REPLICATE
    for data in (NOT_WORDS["a_fragment"], NOT_WORDS["mld_of_another_type"], sent_to(WANTED)):
        assert run(engine(SNOOPED, None, LISTS), in_port, wrap(data)).verdict is Verdict.REPLICATE


def test_who_may_not_send_and_what_is_in_the_wrong_group_does_not_reach_control(engine):
    """N9, R7."""
    box = engine(replace(SNOOPED, point_vnis=((1, 2),)), None, LISTS)
    assert fate(run(box, b.CORE, rewritten(igmp(), sender=b.STRANGER))) == "unknown_peer"
    assert fate(run(box, b.CORE, nested(igmp(), IR))) == "wrong_point"
    assert fate(run(box, b.P1, from_nve(igmp(), to="239.2.9.4"))) == "wrong_group"
    assert fate(run(box, b.CORE, nested(igmp(), vni=b.OTHER_VNI))) == "wrong_group"
    own = f.wire(f.vxlan_packet(igmp(), b.OWN, b.GROUP, b.VNI))
    assert fate(run(box, b.P1, own)) == "own_source"


def test_control_is_told_by_whose_scope_a_tenant_spoke():
    arrivals = [(port, Frame(wrap(igmp()))) for port, wrap, _ in WAYS.values()]
    lists = (*LISTS, b.of_number(b.NVE, b.VNI, b.at_vm(b.VM_BLUE)))
    arrived = source(*arrivals, (b.VM_BLUE, Frame(igmp())))
    forwarder = Forwarder(SNOOPED, memory_ports(), lists, sources=[arrived], punts=Punts())
    forwarder.run()
    got = forwarder.read_punted()
    assert [one.inner_frame for one in got] == [igmp()] * 7
    assert [one.inner and one.inner.scope for one in got] == [*(s for *_, s in WAYS.values()), Scope.NVE]
    assert [one.in_port for one in got] == [*(port for port, *_ in WAYS.values()), b.VM_BLUE]


# --- groups that nobody asked for ---------------------------------------------------------------------------


def refined(scope: Scope, *local: Any, group: str = WANTED, **more: Any) -> ReplicationList:
    return b.of_number(scope, b.VNI, *local, group=group, **more)


def test_what_comes_from_afar_for_a_group_nobody_asked_for_goes_to_nobody(engine):
    """N13: without a list of who wants any group."""
    box = engine(PARTED, None, (*LISTS, refined(b.DEVICE, b.at_port(b.P0))))
    assert out_ports(run(box, b.CORE, nested(sent_to(WANTED)))) == [b.P0]
    for data in (nested(sent_to(OTHER)), rewritten(sent_to(OTHER)), nested(sent_to("ff15::7"))):
        assert fate(run(box, b.CORE, data)) == "unregistered_group"
    for to in (IR, AR):
        assert fate(run(box, b.CORE, nested(sent_to(OTHER), to))) == "unregistered_group"


def test_what_a_local_nve_sends_to_it_still_goes_to_who_is_elsewhere_alone(engine):
    """N2: somebody there may want it."""
    box = engine(PARTED, None, (*LISTS, refined(b.DEVICE, b.at_port(b.P0))))
    assert out_ports(run(box, b.P1, from_nve(sent_to(OTHER)))) == [b.CORE, b.SMALL]
    here = (b.of_group(b.at_port(b.P0)),)
    assert fate(run(engine(PARTED, None, here), b.P1, from_nve(sent_to(OTHER)))) == "no_receiver"


def test_who_wants_any_group_gets_it_by_the_segments_of_its_class(engine):
    any_group = refined(b.DEVICE, b.at_port(b.P0), group="0.0.0.0", remote=(FAR,))
    at_point = refined(b.REPLICATOR, b.at_port(b.P7), group="0.0.0.0", remote=(FAR,))
    box = engine(PARTED, None, (*LISTS, any_group, at_point))
    for group in (OTHER, "ff15::7"):
        outcome = run(box, b.P1, from_nve(sent_to(group)))
        assert (out_ports(outcome), outcome.key) == ([b.P0, b.SMALL], any_group.key)
        assert out_ports(run(box, b.CORE, nested(sent_to(group)))) == [b.P0]
        assert out_ports(run(box, b.CORE, rewritten(sent_to(group)))) == [b.P0]
        assert out_ports(run(box, b.CORE, nested(sent_to(group), IR))) == [b.P7]
        assert out_ports(run(box, b.CORE, nested(sent_to(group), AR))) == [b.P7, b.SMALL]


def test_a_list_of_any_group_that_leaves_nobody_is_an_unregistered_group_from_anywhere(engine):
    alone = refined(b.DEVICE, b.at_port(b.P1), group="0.0.0.0", remote=(NEAR,))
    box = engine(PARTED, None, (*LISTS, alone))
    assert out_ports(run(box, b.P1, from_nve(sent_to(OTHER)))) == [b.CORE]
    here = refined(b.DEVICE, b.at_port(b.P1), group="0.0.0.0")
    for in_port, data in ((b.P1, from_nve(sent_to(OTHER))), (b.CORE, nested(sent_to(OTHER)))):
        lists = (*LISTS, replace(here, local=() if in_port == b.CORE else here.local))
        assert fate(run(engine(PARTED, None, lists), in_port, data)) == "unregistered_group"


def test_at_our_own_nve_who_wants_any_group_gets_what_no_vm_asked_for(engine):
    layout = replace(b.EDGE, networks=PARTED.networks)
    whole = b.of_number(b.NVE, b.VNI, b.at_vm(b.VM_BLUE), b.at_vm(b.VM_GREEN), remote=(b.at_port(b.P0),))
    some = refined(b.NVE, b.at_vm(b.VM_GREEN), group="0.0.0.0")
    box = engine(layout, None, (whole, some))
    assert out_ports(run(box, b.VM_BLUE, sent_to(OTHER))) == [b.VM_GREEN]
    data = f.wire(f.vxlan_packet(sent_to("ff15::7"), "10.1.1.3", b.GROUP, b.VNI))
    assert out_ports(run(box, b.CORE, data)) == [b.VM_GREEN]
    assert fate(run(box, b.VM_GREEN, sent_to(OTHER))) == "unknown_vni"  # of another network
    alone = refined(b.NVE, b.at_vm(b.VM_BLUE), group="0.0.0.0")
    assert fate(run(engine(layout, None, (whole, alone)), b.VM_BLUE, sent_to(OTHER))) == "unregistered_group"
    assert fate(run(engine(layout, None, (some,)), b.VM_BLUE, sent_to(OTHER))) == "unknown_vni"


@pytest.mark.parametrize("group", ["224.0.0.251", "ff02::1:3", "172.16.5.77", "255.255.255.255"])
def test_what_ends_at_the_link_or_is_no_group_is_for_all_of_the_network(group, engine):
    """RFC 4541 section 2.1.2."""
    any_group = refined(b.DEVICE, b.at_port(b.P0), group="0.0.0.0")
    box = engine(PARTED, None, (*LISTS, any_group))
    assert out_ports(run(box, b.P1, from_nve(sent_to(group)))) == [b.P0, b.P7, b.CORE, b.SMALL]
    assert out_ports(run(box, b.CORE, nested(sent_to(group)))) == [b.P0, b.P7]


@pytest.mark.parametrize(
    "layout",
    [BOTH, SNOOPED, replace(BOTH, networks=(replace(b.BLUE, drop_unregistered=True), b.GREEN))],
    ids=["no snooping", "no drop", "drop alone"],
)
def test_only_a_network_that_snoops_and_says_so_spares_anybody(layout: Layout, engine):
    any_group = refined(b.DEVICE, b.at_port(b.P0), group="0.0.0.0")
    box = engine(layout, None, (*LISTS, any_group))
    assert out_ports(run(box, b.P1, from_nve(sent_to(OTHER)))) == [b.P0, b.P7, b.CORE, b.SMALL]
    assert out_ports(run(box, b.CORE, nested(sent_to(OTHER)))) == [b.P0, b.P7]


def test_frames_of_refined_and_other_groups_travel_together_and_are_counted_by_their_lists():
    """Of one batch, one frame's refinement is no other's; each list counts what took it."""
    narrow, any_group = (
        refined(b.DEVICE, b.at_port(port), group=group) for port, group in ((b.P0, WANTED), (b.P7, "0.0.0.0"))
    )
    by_vsid = b.of_number(b.DEVICE, b.VSID, b.at_port(b.P7), encap=Encap.NVGRE, group=WANTED)
    lists = (*LISTS, narrow, any_group, by_vsid)
    groups = (WANTED, "224.0.0.5", OTHER, WANTED, "172.16.5.77", "ff15::7")
    arrivals = [(b.P1, Frame(wrap(sent_to(group)))) for group in groups for wrap in (from_nve, nvgre)]
    assert_same(PARTED, lists, arrivals)
    forwarder = Forwarder(PARTED, memory_ports(), lists, sources=[source(*arrivals)])
    forwarder.run()
    counted = {row.key: row.frames for row in forwarder.statistics().lists if row.frames}
    assert counted == {narrow.key: 2, any_group.key: 2, by_vsid.key: 2, LISTS[0].key: 6}
