"""Rule 8.2: in DEVICE and REPLICATOR scope, tenants' groups narrow the list that a frame has anyway."""

from __future__ import annotations

from dataclasses import replace

from fastpath.model import Egress, Encap, ReplicationList
from tests import frames as f
from tests.cases.box import (
    BOX,
    CORE,
    DEVICE,
    EDGE,
    FAR_PEER,
    GROUP,
    GROUP_MAC,
    INNER_GROUP,
    INNER_GROUP6,
    INNER_SOURCE,
    INNER_SOURCE6,
    NVE,
    OTHER_VNI,
    OWN,
    P0,
    P1,
    P7,
    PEER,
    POINT,
    REPLICATOR,
    UNICAST_NVE,
    VM_BLUE,
    VM_GREEN,
    VNI,
    VTEP,
    at_nve,
    at_peer,
    at_port,
    at_vm,
    of_group,
    of_number,
)
from tests.cases.entry import REPLICATE, case
from tests.cases.made import (
    FROM_NVE,
    OURS,
    TAGGED,
    TENANT,
    TENANT6,
    TENANT_PORT,
    arriving,
    leaving,
    nested,
    vxlan,
)

BASE = of_group(at_port(P0), at_port(P7), remote=(at_peer(CORE, PEER),))
NARROW = of_number(DEVICE, VNI, at_port(P7), group=INNER_GROUP)
BY_SOURCE = of_number(DEVICE, VNI, at_port(P0), group=INNER_GROUP, source=INNER_SOURCE)


def goes(port: int) -> list[tuple[int, bytes]]:
    """What the NVE sent, as it came."""
    return [leaving(port, FROM_NVE, GROUP_MAC)]


def key_cases() -> None:
    """Which list is the narrow one."""
    frame = arriving(FROM_NVE)
    case("refined_by_source_first", frame, REPLICATE, lists=(BASE, NARROW, BY_SOURCE), copies=goes(P0))
    case("refined_by_inner_group", frame, REPLICATE, lists=(BASE, NARROW), copies=goes(P7))
    not_its_own = {
        "by_another_number": of_number(DEVICE, VNI + 1, at_port(P7), group=INNER_GROUP),
        "by_another_encap": of_number(DEVICE, VNI, at_port(P7), group=INNER_GROUP, encap=Encap.NVGRE),
        "by_another_scope": of_number(NVE, VNI, at_port(P7), group=INNER_GROUP),
        "by_another_source": of_number(DEVICE, VNI, at_port(P7), group=INNER_GROUP, source="172.16.5.10"),
        "by_another_group": of_number(DEVICE, VNI, at_port(P7), group="239.77.1.4"),
        "by_the_any_group_list": of_number(DEVICE, VNI, at_port(P7), group="0.0.0.0"),
    }
    base = of_group(at_port(P0))
    for name, other in not_its_own.items():
        case(f"not_refined_{name}", frame, REPLICATE, lists=(base, other), copies=goes(P0))
    unicast = vxlan(f.tenant(dst="10.9.8.7"), VTEP, GROUP)
    no_group = of_number(DEVICE, VNI, at_port(P7), group="10.9.8.7")
    case(
        "not_refined_by_an_inner_unicast_address",
        arriving(unicast),
        REPLICATE,
        lists=(base, no_group),
        copies=[leaving(P0, unicast, GROUP_MAC)],
    )
    for name, inner, group, source in (
        ("inner_ipv6", TENANT6, INNER_GROUP6, INNER_SOURCE6),
        ("behind_inner_tags", TAGGED, INNER_GROUP, None),
    ):
        packet = vxlan(inner, VTEP, GROUP)
        case(
            f"refined_{name}",
            arriving(packet),
            REPLICATE,
            lists=(base, of_number(DEVICE, VNI, at_port(P7), group=group, source=source)),
            copies=[leaving(P7, packet, GROUP_MAC)],
        )
    of_nve = of_number(NVE, VNI, at_vm(VM_GREEN), group=INNER_GROUP)
    case(
        "an_inner_group_of_our_own_nve_needs_no_other_list",
        TENANT,
        REPLICATE,
        layout=EDGE,
        lists=(of_nve,),
        in_port=VM_BLUE,
        copies=[(VM_GREEN, TENANT)],
        note="N13",
    )


def base_cases() -> None:
    """Without a list of the frame's own nothing is refined; that list is what rules 2.6 and 2.7 ask."""
    frame = arriving(FROM_NVE)
    case("refined_without_a_list", frame, "unknown_group", lists=(NARROW, BY_SOURCE), note="D15")
    other = of_number(DEVICE, OTHER_VNI, at_port(P7), group=INNER_GROUP)
    wrong = arriving(vxlan(TENANT, VTEP, GROUP, OTHER_VNI))
    case("refined_in_the_wrong_group", wrong, "wrong_group", lists=(BASE, other), note="N9")
    case(
        "refined_from_afar", frame, REPLICATE, lists=(BASE, NARROW), in_port=CORE, copies=goes(P7), note="D12"
    )
    up = replace(NARROW, local=(), remote=(at_peer(CORE, PEER),))
    case("refined_to_nobody_here", frame, "no_receiver", lists=(BASE, up), in_port=CORE)
    case("refined_to_its_sender_alone", frame, "no_receiver", lists=(BASE, NARROW), in_port=P7, note="D11")
    empty = replace(NARROW, local=())
    case("refined_to_nobody", frame, "no_receiver", lists=(BASE, empty), in_port=P0)
    strict = replace(BOX, strict_members=True)
    case(
        "refined_of_a_member_of_the_network",
        frame,
        REPLICATE,
        layout=strict,
        lists=(BASE, NARROW),
        in_port=P0,
        copies=goes(P7),
        note="D15",
    )
    wide = replace(NARROW, local=(at_port(P1), at_port(P7)))
    case("refined_of_no_member", frame, "not_a_member", layout=strict, lists=(BASE, wide), note="D15")


def recovered_cases() -> None:
    """Of a rewritten tunnel by number, and by a recovered group, which refining does not spare (D14)."""
    came = vxlan(TENANT, PEER, OWN, chksum=None)
    fields: f.Knobs = {"in_port": CORE, "note": "D14"}
    by_number = of_number(DEVICE, VNI, at_port(P0))
    to_nve = of_number(DEVICE, VNI, at_nve(P1, UNICAST_NVE), group=INNER_GROUP)
    rewritten = [leaving(P1, vxlan(TENANT, PEER, UNICAST_NVE, ip=OURS, chksum=None))]
    case(
        "refined_by_number",
        arriving(came),
        REPLICATE,
        lists=(by_number, to_nve),
        copies=rewritten,
        **fields,
    )
    as_group = [leaving(P7, vxlan(TENANT, PEER, GROUP, chksum=None), GROUP_MAC)]
    case("refined_and_recovered", arriving(came), REPLICATE, lists=(BASE, NARROW), copies=as_group, **fields)
    case("refined_recovered_without_a_list", arriving(came), "unknown_group", lists=(NARROW,), **fields)
    strange = of_number(DEVICE, 0x010203, at_port(P7), group=INNER_GROUP)
    unknown = arriving(vxlan(TENANT, PEER, OWN, 0x010203))
    case("refined_of_no_network", unknown, "unknown_vni", lists=(BASE, strange), **fields)


def point_cases() -> None:
    """Who may send is asked of the group's list; who gets it, of the narrow one."""
    far, fourth, near = (
        at_peer(port, peer, source="10.0.0.110")
        for port, peer in ((CORE, FAR_PEER), (CORE, "10.0.0.4"), (CORE, PEER))
    )

    def narrow(*remote: Egress) -> ReplicationList:
        return of_number(REPLICATOR, VNI, remote=remote, group=INNER_GROUP)

    fields: f.Knobs = {"layout": POINT, "in_port": CORE}
    frame = arriving(nested(FROM_NVE, PEER, "10.0.0.111"))
    copy = nested(FROM_NVE, "10.0.0.110", FAR_PEER, TENANT_PORT, **{**OURS, "tos": 0x28})
    case(
        "refined_of_a_sender_that_does_not_want_it",
        frame,
        REPLICATE,
        lists=(of_group(scope=REPLICATOR, remote=(far, fourth, near)), narrow(far)),
        copies=[leaving(CORE, copy)],
        note="R6",
        **fields,
    )
    case(
        "refined_of_a_sender_that_is_in_no_group",
        frame,
        "unknown_peer",
        lists=(of_group(scope=REPLICATOR, remote=(far, fourth)), narrow(far, near)),
        note="R6",
        **fields,
    )
