"""A replication point, whole."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from fastpath.model import AllowFrom, Encap, Form
from tests import frames as f
from tests.cases.box import (
    BOX,
    CORE,
    FAR_PEER,
    GROUP,
    PEER,
    POINT,
    REPLICATOR,
    SMALL,
    STRANGER,
    VNI,
    VSID,
    VTEP,
    at_peer,
    of_group,
    of_number,
)
from tests.cases.entry import REPLICATE, case
from tests.cases.made import (
    FROM_NVE,
    NVE_IP,
    OURS,
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
    tree = (of_group(*three[:1], scope=REPLICATOR, remote=three[1:]),)
    case(
        "point_of_a_tree_sends_to_devices_and_points",
        ar,
        REPLICATE,
        lists=tree,
        copies=served[::-1],
        note="R11 W7",
        **fields,
    )
    case(
        "point_of_a_tree_sends_what_a_point_sent_to_devices_alone",
        ir,
        REPLICATE,
        lists=tree,
        copies=served[1:],
        note="R11 W7",
        **fields,
    )
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
