"""An NVE of our own, whole."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from fastpath.model import AllowFrom, Egress, Encap, Form, Frame, LocalNve, Mark, Owner
from tests import frames as f
from tests.cases.box import (
    CORE,
    EDGE,
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
    PORTS,
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
    of_number,
)
from tests.cases.entry import REPLICATE, case
from tests.cases.made import (
    ARP,
    ARP_FLOW,
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
