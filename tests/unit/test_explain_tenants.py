"""Tenants' groups explained: whose they are, which list they take, and what their hosts say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ctrl.explain.answer import explain
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Record, Report
from ctrl.static import plan
from fastpath.model import Faces, Layout
from tests import frames as f
from tests.cases import CASES
from tests.cases import box as b
from tests.unit.test_explain import HOST, MAC, VXLAN, keyed, told, whats


def snooping(**more: Any) -> Layout:
    """The NVE's box; its networks snoop."""
    layout = plan(HOST).layout
    return replace(layout, networks=tuple(replace(one, snoop=True, **more) for one in layout.networks))


def test_a_tenants_report_is_told_from_inside_its_tunnel():
    report = igmp.report_frame(Report(3, (Record(Kind.TO_EX, 0xEF010164),)), MAC, 0)
    network = snooping().networks[0]
    wrapped = f.wire(f.vxlan_packet(report, "10.1.1.4", str(network.group), network.vni))
    uplink = next(i for i, port in enumerate(plan(HOST).layout.ports) if port.faces is Faces.CORE)
    for in_port, frame in ((0, report), (uplink, wrapped)):
        rows = told(frame, in_port, snooping(), lists={}, macs={})
        assert whats(rows, "record") == [("239.1.1.100", "TO_EX: joins")]
        assert [what for what, _ in whats(rows, "network")] == [network.name]
        assert [what for what, _ in whats(rows, "lesson")] == [MAC.hex(":")]
        assert rows[-1]["what"] == "punt"


def test_it_is_told_where_no_vm_asked_for_a_tenants_group():
    layout = snooping(drop_unregistered=True)
    rows = told(f.tenant(dst="239.200.1.1"), 0, layout, lists=keyed(plan(HOST).lists), macs={})
    ((_, takes),) = whats(rows, "class")
    assert takes.startswith("nobody here asked for the tenants' group")
    assert [row["receiver"] for row in rows if row["step"] == "copy"] == ["239.1.1.1"]


def test_the_list_of_a_frame_and_what_takes_its_place_are_both_told():
    case = next(case for case in CASES if case.name == "refined_and_recovered")
    rows = explain(case.layout, keyed(case.lists), {}, case.frame, case.in_port)
    assert [(r["step"], r["rule"], r["what"], r["detail"]) for r in rows if r["rule"] in {"2.5", "8.2"}][
        -3:
    ] == [
        ("key", "2.5", "239.1.1.100", "outer group: the list: 2 local, 1 remote"),
        ("refined", "8.2", "vxlan 662316 (172.16.5.9, 239.77.1.3)", "inner source and group: no list"),
        (
            "refined",
            "8.2",
            "vxlan 662316 239.77.1.3",
            "inner group: takes the place of the list: 1 local, 0 remote",
        ),
    ]
    assert whats(rows, "exclusion") == [("-", "nobody of the list sent it")]


def test_it_is_told_who_wants_any_group():
    """With a list of them the class is as ever; without, what an NVE sends goes up alone."""
    networks = tuple(replace(one, snoop=True, drop_unregistered=True) for one in b.BOX.networks)
    layout = replace(b.BOX, networks=networks)
    base = b.of_group(b.at_port(b.P1), remote=(b.at_peer(b.CORE, b.PEER),))
    some = b.of_number(b.DEVICE, b.VNI, b.at_port(b.P1), group="0.0.0.0")
    rows = told(VXLAN, layout=layout, lists=keyed((base, some)))
    assert whats(rows, "refined")[-1] == (
        "vxlan 662316 any",
        "any group, for nobody asked for it: takes the place of the list: 1 local, 0 remote",
    )
    assert [row["rule"] for row in rows if row["step"] == "refined"] == ["8.2", "8.2", "8.3"]
    assert whats(rows, "class") == [("local", "gets the local and the remote segment of a list")]
    assert [row["port"] for row in rows if row["step"] == "copy"] == ["p1"]
    rows = told(VXLAN, layout=layout, lists=keyed((base,)))
    ((_, takes),) = whats(rows, "class")
    assert takes.startswith("nobody here asked for the tenants' group (8.3)")
    assert [row["receiver"] for row in rows if row["step"] == "copy"] == [b.PEER]
    far = told(VXLAN, b.CORE, layout=layout, lists=keyed((base,)))
    assert whats(far, "class") == [("remote", "gets the local segment of a list alone")]
    assert far[-1]["reason"] == "unregistered_group"


def test_a_tenants_report_at_a_device_is_told_from_inside():
    report = igmp.report_frame(Report(3, (Record(Kind.TO_EX, 0xEF010164),)), MAC, 0)
    layout = replace(b.BOX, networks=(replace(b.BLUE, snoop=True), b.GREEN))
    rows = told(f.wire(f.vxlan_packet(report, b.VTEP, b.GROUP, b.VNI)), layout=layout, lists={})
    assert whats(rows, "role") == [("device", "to a group")]
    assert whats(rows, "record") == [("239.1.1.100", "TO_EX: joins")]
    assert rows[-1]["what"] == "punt"
