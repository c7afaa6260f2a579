"""A replication point and an NVE of our own, whole."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from fastpath.model import AllowFrom, Egress, Encap, Form, Frame, LocalNve, Mark, Owner
from tests import frames as f
from tests.cases.box import (
    BOX,
    CORE,
    EDGE,
    FAR_PEER,
    GROUP,
    GROUP6,
    GROUP6_MAC,
    GROUP_MAC,
    INNER_GROUP,
    INNER_SOURCE,
    MIX,
    NVE,
    OTHER_VSID,
    P0,
    P1,
    PEER,
    POINT,
    PORTS,
    REPLICATOR,
    SMALL,
    STRANGER,
    VM_BLUE,
    VM_GREEN,
    VNI,
    VSID,
    VTEP,
    VTEP6,
    addr,
    at_peer,
    at_port,
    at_vm,
    of_group,
    of_number,
)
from tests.cases.entry import REPLICATE, case
from tests.cases.made import (
    ARP,
    ARP_FLOW,
    FROM_NVE,
    NVE_IP,
    OURS,
    TAGGED,
    TENANT,
    TENANT_FLOW_ID,
    TENANT_PORT,
    arriving,
    leaving,
    nested,
    nvgre,
    vxlan,
)


def point_cases() -> None:
    """A replication point: addressed by unicast tunnels only."""
    three = (
        at_peer(SMALL, "10.0.0.4", source="10.0.0.110"),
        at_peer(CORE, FAR_PEER, source="10.0.0.110"),
        at_peer(CORE, PEER, source="10.0.0.110"),
    )
    ours = {**OURS, "tos": 0x28}
    served = [
        leaving(CORE, nested(FROM_NVE, "10.0.0.110", FAR_PEER, TENANT_PORT, **ours)),
        leaving(SMALL, nested(FROM_NVE, "10.0.0.110", "10.0.0.4", TENANT_PORT, **ours)),
    ]
    fields: f.Knobs = {"layout": POINT, "in_port": CORE}
    to_all = (of_group(scope=REPLICATOR, remote=three),)
    to_local = (of_group(*three, scope=REPLICATOR),)
    ar = arriving(nested(FROM_NVE, PEER, "10.0.0.111"))
    ir = arriving(nested(FROM_NVE, PEER, "10.0.0.110"))
    case(
        "point_serves_all_but_the_sender",
        ar,
        REPLICATE,
        lists=to_all,
        copies=served,
        note="R2 R3 R4 R5 W7",
        **fields,
    )
    case(
        "point_ir_ip_serves_the_local_segment",
        ir,
        REPLICATE,
        lists=to_local,
        copies=served,
        note="W7",
        **fields,
    )
    case("point_ir_ip_never_serves_the_remote_segment", ir, "no_receiver", lists=to_all, note="W7", **fields)
    other = arriving(nested(FROM_NVE, FAR_PEER, "10.0.0.111"))
    theirs = [
        leaving(CORE, nested(FROM_NVE, "10.0.0.110", PEER, TENANT_PORT, **ours)),
        leaving(SMALL, nested(FROM_NVE, "10.0.0.110", "10.0.0.4", TENANT_PORT, **ours)),
    ]
    case("point_excludes_by_outer_source", other, REPLICATE, lists=to_all, copies=theirs, note="R4", **fields)
    stranger = arriving(nested(FROM_NVE, STRANGER, "10.0.0.111"))
    case("point_a_stranger", stranger, "unknown_peer", lists=to_all, note="R6", **fields)
    unlisted = (of_group(scope=REPLICATOR, remote=three[:2]),)
    case("point_a_peer_that_is_not_in_the_list", ar, "unknown_peer", lists=unlisted, note="R6", **fields)
    accept = replace(POINT, allow_from=(AllowFrom(REPLICATOR, ip_network("0.0.0.0/0")),))
    case(
        "point_accepts_any_sender", stranger, REPLICATE, lists=to_all, layout=accept, in_port=CORE, note="R6"
    )
    unknown = arriving(nested(vxlan(TENANT, VTEP, "239.44.1.1", 5), PEER, "10.0.0.111"))
    case("point_unknown_group", unknown, "unknown_group", lists=to_all, note="R6", **fields)
    just_the_sender = (of_group(scope=REPLICATOR, remote=three[2:]),)
    case("point_list_of_only_the_sender", ar, "no_receiver", lists=just_the_sender, note="R10", **fields)
    mine = replace(POINT, point_vnis=((1, 2), (VNI, VNI)))
    case("point_of_this_number", ar, REPLICATE, lists=to_all, layout=mine, in_port=CORE, note="R7")
    for name, ranges in (("below", ((VNI + 1, 0xFFFFFF),)), ("above", ((0, VNI - 1),))):
        layout = replace(POINT, point_vnis=ranges)
        case(
            f"point_of_numbers_{name}",
            ar,
            "wrong_point",
            lists=to_all,
            layout=layout,
            in_port=CORE,
            note="R7",
        )
    case(
        "point_device_frames_have_any_number",
        arriving(FROM_NVE),
        REPLICATE,
        layout=replace(BOX, point_vnis=((1, 2),)),
        note="R7",
    )
    keep = (
        at_peer(CORE, FAR_PEER, Form.REWRITE, None, vni=VNI),
        at_peer(CORE, PEER, Form.REWRITE, None),
        at_peer(SMALL, "10.0.0.4", Form.REWRITE, None, encap=Encap.NVGRE, vni=VSID),
    )
    by_number = (of_number(REPLICATOR, VNI, remote=keep),)
    rewritten = arriving(vxlan(TENANT, PEER, "10.0.0.111", ip=NVE_IP, chksum=None))
    case(
        "point_by_number_to_plain_vteps",
        rewritten,
        REPLICATE,
        lists=by_number,
        copies=[
            leaving(CORE, vxlan(TENANT, PEER, FAR_PEER, ip=ours, chksum=None)),
            leaving(SMALL, nvgre(TENANT, PEER, "10.0.0.4", VSID, TENANT_FLOW_ID, **ours)),
        ],
        note="R2 R3 R4 W7: source kept, or they learn the wrong VTEP",
        **fields,
    )
    case("point_group_frames_are_the_devices", arriving(FROM_NVE), "unknown_group", lists=to_all, **fields)
    gre = arriving(nested(nvgre(TENANT, VTEP, GROUP), PEER, "10.0.0.111"))
    gre_copies = [
        leaving(CORE, nested(nvgre(TENANT, VTEP, GROUP), "10.0.0.110", FAR_PEER, TENANT_PORT, **OURS)),
        leaving(SMALL, nested(nvgre(TENANT, VTEP, GROUP), "10.0.0.110", "10.0.0.4", TENANT_PORT, **OURS)),
    ]
    case("point_nvgre", gre, REPLICATE, lists=to_all, copies=gre_copies, note="R3 R5", **fields)


def edge_cases() -> None:
    """Our own NVE: BLUE on VM_BLUE, GREEN on VM_GREEN, the uplink on CORE."""
    up = Egress(CORE, Form.REWRITE, Owner(CORE), addr(GROUP), addr(VTEP), Encap.VXLAN)
    blue = of_number(NVE, VNI, at_vm(VM_BLUE), remote=(up,))
    up_green = Egress(CORE, Form.REWRITE, Owner(CORE), addr("239.2.9.4"), addr(VTEP), Encap.NVGRE)
    green = of_number(NVE, OTHER_VSID, at_vm(VM_GREEN), remote=(up_green,), encap=Encap.NVGRE)
    lists = (blue, green)
    fields: f.Knobs = {"layout": EDGE, "lists": lists}
    ours = {**OURS, "tos": 0}
    sent = vxlan(TENANT, VTEP, GROUP, VNI, ip=ours, sport=TENANT_PORT)
    case(
        "edge_sends_one_copy",
        TENANT,
        REPLICATE,
        in_port=VM_BLUE,
        copies=[leaving(CORE, sent, GROUP_MAC)],
        note="N1 N2",
        **fields,
    )
    gre = nvgre(TENANT, VTEP, "239.2.9.4", OTHER_VSID, TENANT_FLOW_ID, **ours)
    gre_sent = [leaving(CORE, gre, "01:00:5e:02:09:04")]
    case(
        "edge_sends_one_copy_nvgre",
        TENANT,
        REPLICATE,
        in_port=VM_GREEN,
        copies=gre_sent,
        note="N1 N2 W2",
        **fields,
    )
    case(
        "edge_tagged_nvgre",
        TAGGED,
        REPLICATE,
        in_port=VM_GREEN,
        copies=[],
        drops={"tag_in_nvgre": 1},
        note="W2",
        **fields,
    )
    tagged = vxlan(TAGGED, VTEP, GROUP, VNI, ip=ours, sport=TENANT_PORT)
    case(
        "edge_tagged_vxlan",
        TAGGED,
        REPLICATE,
        in_port=VM_BLUE,
        copies=[leaving(CORE, tagged, GROUP_MAC)],
        **fields,
    )
    arp = vxlan(ARP, VTEP, GROUP, VNI, ip=ours, sport=0xC000 | ARP_FLOW & 0x3FFF)
    case(
        "edge_broadcast",
        ARP,
        REPLICATE,
        in_port=VM_BLUE,
        copies=[leaving(CORE, arp, GROUP_MAC)],
        note="N1",
        **fields,
    )
    marked = f.tenant(packet={"tos": 0xBB})
    dscp = vxlan(marked, VTEP, GROUP, VNI, ip={**OURS, "tos": 0xBB}, sport=TENANT_PORT)
    case(
        "edge_copies_the_traffic_class",
        marked,
        REPLICATE,
        in_port=VM_BLUE,
        copies=[leaving(CORE, dscp, GROUP_MAC)],
        **fields,
    )
    bare = vxlan(ARP[:14], VTEP, GROUP, VNI, ip=ours, sport=0xC000 | ARP_FLOW & 0x3FFF)
    want = [leaving(CORE, bare, GROUP_MAC)]
    case("edge_shortest_frame_of_a_vm", ARP[:14], REPLICATE, in_port=VM_BLUE, copies=want, **fields)
    case("edge_runt_of_a_vm", TENANT[:13], "truncated", in_port=VM_BLUE, **fields)
    case(
        "edge_a_vm_sends_igmp",
        f.wire(f.igmp("172.16.5.9", "224.0.0.22")),
        REPLICATE,
        in_port=VM_BLUE,
        **fields,
    )
    case("edge_vm_without_a_list", TENANT, "unknown_vni", in_port=VM_BLUE, layout=EDGE, lists=(green,))
    snooped = (*lists, of_number(NVE, VNI, at_vm(VM_GREEN), group=INNER_GROUP))
    case(
        "edge_snooped_group",
        TENANT,
        REPLICATE,
        in_port=VM_BLUE,
        layout=EDGE,
        lists=snooped,
        copies=[(VM_GREEN, TENANT)],
        note="N8",
    )
    case(
        "edge_vm_alone",
        TENANT,
        "no_receiver",
        in_port=VM_BLUE,
        layout=EDGE,
        lists=(of_number(NVE, VNI, at_vm(VM_BLUE)),),
    )
    unfinished_tenant = bytearray(TENANT)
    unfinished_tenant[40:42] = (
        f.internet_checksum(f.pseudo(INNER_SOURCE, INNER_GROUP, 17, 45)) ^ 0xFFFF
    ).to_bytes(2, "big")
    case(
        "edge_finishes_a_vms_checksum",
        Frame(bytes(unfinished_tenant), Mark(34, 6)),
        REPLICATE,
        in_port=VM_BLUE,
        copies=[leaving(CORE, sent, GROUP_MAC)],
        **fields,
    )
    keep_source = (of_number(NVE, VNI, remote=(replace(up, source=None),)),)
    case(
        "edge_raw_has_no_source",
        TENANT,
        REPLICATE,
        in_port=VM_BLUE,
        layout=EDGE,
        lists=keep_source,
        copies=[],
        drops={"no_header": 1},
    )
    no_form = (of_number(NVE, VNI, at_port(P0), at_peer(P1, PEER), remote=(replace(up, encap=None),)),)
    case(
        "edge_raw_has_no_group_form",
        TENANT,
        REPLICATE,
        in_port=VM_BLUE,
        layout=EDGE,
        lists=no_form,
        copies=[],
        drops={"no_header": 3},
    )
    to_nvgre = (of_number(NVE, VNI, remote=(replace(up, encap=Encap.NVGRE),)),)
    translated = nvgre(TENANT, VTEP, GROUP, VSID, TENANT_FLOW_ID, **ours)
    case(
        "edge_raw_to_the_other_encap",
        TENANT,
        REPLICATE,
        in_port=VM_BLUE,
        layout=EDGE,
        lists=to_nvgre,
        copies=[leaving(CORE, translated, GROUP_MAC)],
        note="N1",
    )
    up6 = Egress(CORE, Form.REWRITE, Owner(CORE), addr(GROUP6), addr(VTEP6), Encap.VXLAN, VNI ^ 0xFFFFFF)
    six = vxlan(TENANT, VTEP6, GROUP6, VNI ^ 0xFFFFFF, ip={"ttl": 64}, sport=TENANT_PORT, chksum=None)
    case(
        "edge_raw_to_ipv6",
        TENANT,
        REPLICATE,
        in_port=VM_BLUE,
        layout=EDGE,
        lists=(of_number(NVE, VNI, remote=(up6,)),),
        copies=[leaving(CORE, six, GROUP6_MAC)],
        note="N1 W4",
    )

    case(
        "edge_receives",
        arriving(vxlan(TENANT, "10.1.1.77", GROUP)),
        REPLICATE,
        in_port=CORE,
        copies=[(VM_BLUE, TENANT)],
        note="N8 N10: to VMs only",
        **fields,
    )
    case(
        "edge_receives_nvgre",
        arriving(nvgre(TENANT, "10.1.1.77", "239.2.9.4", OTHER_VSID)),
        REPLICATE,
        in_port=CORE,
        copies=[(VM_GREEN, TENANT)],
        note="N8",
        **fields,
    )
    case(
        "edge_receives_unicast",
        arriving(vxlan(TAGGED, STRANGER, VTEP)),
        REPLICATE,
        in_port=CORE,
        copies=[(VM_BLUE, TAGGED)],
        note="N8",
        **fields,
    )
    case(
        "edge_receives_nested",
        arriving(nested(vxlan(TENANT, "10.1.1.77", GROUP), PEER, VTEP)),
        REPLICATE,
        in_port=CORE,
        copies=[(VM_BLUE, TENANT)],
        note="N8",
        **fields,
    )
    case(
        "edge_unknown_number",
        arriving(vxlan(TENANT, "10.1.1.77", GROUP, 0x42)),
        "unknown_vni",
        in_port=CORE,
        note="N8",
        **fields,
    )
    shared = arriving(vxlan(TENANT, "10.1.1.77", "239.2.9.4", VNI))
    case("edge_number_in_another_group", shared, "wrong_group", in_port=CORE, note="N9", **fields)
    case(
        "edge_hears_itself",
        arriving(vxlan(TENANT, VTEP, GROUP)),
        "own_source",
        in_port=CORE,
        note="N10",
        **fields,
    )
    case(
        "edge_on_a_port_of_both_faces_is_a_device",
        arriving(vxlan(TENANT, "10.1.1.77", GROUP)),
        "unknown_group",
        in_port=MIX,
        **fields,
    )
    limited = replace(EDGE, allow_from=(AllowFrom(NVE, ip_network("10.1.0.0/16")),))
    case(
        "edge_allow_from_refuses",
        arriving(vxlan(TENANT, STRANGER, VTEP)),
        "unknown_peer",
        in_port=CORE,
        layout=limited,
        lists=lists,
    )
    case(
        "edge_allow_from_accepts",
        arriving(vxlan(TENANT, "10.1.9.9", VTEP)),
        REPLICATE,
        in_port=CORE,
        layout=limited,
        lists=lists,
    )
    case(
        "edge_allow_from_says_nothing_of_groups",
        arriving(vxlan(TENANT, STRANGER, GROUP)),
        REPLICATE,
        in_port=CORE,
        layout=limited,
        lists=lists,
    )
    served = replace(limited, nves=(LocalNve(CORE, addr(STRANGER)),))
    known = arriving(vxlan(TENANT, STRANGER, VTEP))
    case("edge_serves_no_unicast_nves", known, "unknown_peer", in_port=CORE, layout=served, lists=lists)
    nowhere = arriving(vxlan(TENANT, "10.1.1.77", "239.5.5.5", 0x42))
    anything = (of_number(NVE, 0x42, at_vm(VM_BLUE)),)
    case(
        "edge_needs_a_network_for_a_group",
        nowhere,
        "wrong_group",
        in_port=CORE,
        layout=EDGE,
        lists=anything,
        note="N9: a device would take it",
    )
    strict = replace(EDGE, strict_members=True)
    local = arriving(vxlan(TENANT, STRANGER, VTEP))
    case("edge_strict_members_is_for_devices", local, REPLICATE, in_port=P0, layout=strict, lists=lists)
    both = (of_number(NVE, VNI, at_vm(VM_GREEN), at_vm(VM_BLUE), remote=(up,)),)
    case(
        "edge_both_vm_ports",
        arriving(vxlan(TENANT, "10.1.1.77", GROUP)),
        REPLICATE,
        in_port=CORE,
        layout=EDGE,
        lists=both,
        copies=[(VM_BLUE, TENANT), (VM_GREEN, TENANT)],
        note="N8 N10",
    )
    wide = replace(
        EDGE, ports=(*PORTS[:VM_BLUE], replace(PORTS[VM_BLUE], mtu=len(TENANT) - 14), *PORTS[VM_GREEN:])
    )
    case(
        "edge_vm_mtu_fits",
        arriving(vxlan(TENANT, "10.1.1.77", GROUP)),
        REPLICATE,
        in_port=CORE,
        layout=wide,
        lists=lists,
        copies=[(VM_BLUE, TENANT)],
    )
    case(
        "edge_vm_mtu_over",
        arriving(vxlan(TENANT + b"!", "10.1.1.77", GROUP)),
        REPLICATE,
        in_port=CORE,
        layout=wide,
        lists=lists,
        copies=[],
        drops={"over_mtu": 1},
    )
