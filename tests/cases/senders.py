"""Rules 2.1 to 2.3, 2.7 and 2.9: source class, senders, members, exclusion, order."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from fastpath.model import AllowFrom, Endpoint, Form, LocalNve, Owner, Peer
from tests import frames as f
from tests.cases.box import (
    BOX,
    CORE,
    DEVICE,
    FAR_PEER,
    GROUP,
    GROUP6,
    GROUP_MAC,
    LISTS,
    MIX,
    OWN,
    OWN6,
    P0,
    P1,
    PEER,
    REPLICATOR,
    STRANGER,
    UNICAST_NVE,
    VM_BLUE,
    VNI,
    VTEP,
    addr,
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
    NVE_IP,
    OURS,
    TENANT,
    TENANT_PORT,
    arriving,
    leaving,
    local_copies,
    nested,
    remote_copies,
    vxlan,
)


def class_cases() -> None:
    case(
        "a_local_frame_goes_to_all_but_its_port",
        arriving(FROM_NVE),
        REPLICATE,
        in_port=P0,
        copies=[*local_copies()[1:], *remote_copies()],
        note="D9 D11 D20: the in-port P0 gets none, the MT source stays inside",
    )
    case(
        "a_unicast_nve_is_excluded_with_its_port",
        f.wire(f.vxlan_packet(TENANT, UNICAST_NVE, GROUP, VNI)),
        REPLICATE,
        lists=(
            of_group(at_port(P1), at_nve(P1, UNICAST_NVE), at_nve(P1, "10.1.1.8"), at_nve(P0, UNICAST_NVE)),
        ),
        copies=[
            leaving(P0, vxlan(TENANT, UNICAST_NVE, UNICAST_NVE, ip=OURS)),
            leaving(P1, vxlan(TENANT, UNICAST_NVE, "10.1.1.8", ip=OURS)),
        ],
        note="D9: minus x",
    )
    case(
        "a_unicast_nve_gets_what_another_one_sent",
        arriving(FROM_NVE),
        REPLICATE,
        copies=[local_copies()[0], local_copies()[2], local_copies()[3], *remote_copies()],
        note="D9: the in-port's group copy is left out, the unicast NVE behind it is not",
    )
    case(
        "a_frame_to_the_group_from_the_core_stays_local",
        arriving(FROM_NVE),
        REPLICATE,
        in_port=CORE,
        copies=local_copies(),
        note="D12",
    )
    claims = nested(vxlan(TENANT, UNICAST_NVE, GROUP, ip=NVE_IP), PEER, OWN)
    case(
        "a_remote_frame_may_claim_a_local_source",
        arriving(claims),
        REPLICATE,
        in_port=CORE,
        lists=(of_group(at_port(P1), remote=(at_peer(CORE, FAR_PEER),)),),
        copies=[leaving(P1, vxlan(TENANT, UNICAST_NVE, GROUP, ip=NVE_IP), GROUP_MAC)],
        note="D12: never to a tunnel, even if the packet claims a local NVE's source",
    )
    case(
        "both_faces_a_peer_is_remote",
        arriving(nested(FROM_NVE, PEER, OWN)),
        REPLICATE,
        in_port=MIX,
        copies=local_copies(),
        note="D12",
    )
    case(
        "both_faces_anyone_else_is_local",
        arriving(FROM_NVE),
        REPLICATE,
        in_port=MIX,
        copies=[*local_copies(), *remote_copies()],
        note="D9",
    )
    from_peer_to_group = vxlan(TENANT, PEER, GROUP, ip=NVE_IP)
    case(
        "a_peer_on_an_nve_port_is_local_and_gets_nothing_back",
        arriving(from_peer_to_group),
        REPLICATE,
        in_port=P0,
        lists=(of_group(remote=(at_peer(CORE, PEER), at_peer(MIX, FAR_PEER))),),
        copies=[leaving(MIX, nested(from_peer_to_group, OWN, FAR_PEER, TENANT_PORT, **OURS, tos=0x28))],
    )
    case(
        "other_members_only_through_tunnels",
        arriving(FROM_NVE),
        REPLICATE,
        lists=(of_group(at_port(P1), remote=LISTS[0].remote),),
        copies=remote_copies(),
        note="D10",
    )
    case(
        "no_tunnels",
        arriving(FROM_NVE),
        REPLICATE,
        lists=(of_group(at_port(P1), at_port(P0)),),
        copies=[leaving(P0, FROM_NVE, GROUP_MAC)],
        note="D10",
    )
    case(
        "one_copy_to_the_point",
        arriving(FROM_NVE),
        REPLICATE,
        lists=(of_group(at_port(P1), remote=(at_peer(CORE, "10.0.0.110"),)),),
        copies=[leaving(CORE, nested(FROM_NVE, OWN, "10.0.0.110", TENANT_PORT, **OURS, tos=0x28))],
        note="D11",
    )
    case("nobody_left", arriving(FROM_NVE), "no_receiver", lists=(of_group(at_port(P1)),), note="D10")
    case("an_empty_list", arriving(FROM_NVE), "no_receiver", lists=(of_group(),))
    case(
        "nobody_local",
        arriving(FROM_NVE),
        "no_receiver",
        in_port=CORE,
        lists=(of_group(remote=LISTS[0].remote),),
        note="D12",
    )
    case("own_frame_came_back", arriving(vxlan(TENANT, OWN, GROUP)), "own_source", in_port=CORE)
    case("own_frame_came_back_ipv6", arriving(vxlan(TENANT, OWN6, GROUP6)), "own_source")
    same_port_order = of_group(
        at_nve(P0, "10.1.1.200"),
        at_nve(P0, "2001:db8:1::3", source=addr(OWN6)),
        at_port(P0),
        at_nve(P0, "10.1.1.30"),
        at_peer(P0, FAR_PEER, Form.REWRITE),
        at_peer(P0, PEER),
    )
    case(
        "the_order_of_copies",
        arriving(FROM_NVE),
        REPLICATE,
        in_port=CORE,
        lists=(same_port_order,),
        copies=[
            leaving(P0, FROM_NVE, GROUP_MAC),
            leaving(P0, vxlan(TENANT, OWN, FAR_PEER, ip={**OURS, "tos": 0x28})),
            leaving(P0, vxlan(TENANT, VTEP, "10.1.1.30", ip={**OURS, "tos": 0x28})),
            leaving(P0, vxlan(TENANT, VTEP, "10.1.1.200", ip={**OURS, "tos": 0x28})),
            leaving(P0, vxlan(TENANT, OWN6, "2001:db8:1::3", ip={"hlim": 64, "tos": 0x28}, chksum=None)),
            leaving(P0, nested(FROM_NVE, OWN, PEER, TENANT_PORT, **OURS, tos=0x28)),
        ],
        note="form before owner; an owner without a port first; IPv4 before IPv6, addresses as numbers",
    )


def sender_cases() -> None:
    to_us = nested(FROM_NVE, STRANGER, OWN)
    case("a_stranger_to_the_device", arriving(to_us), "unknown_peer", in_port=CORE)
    allowed = replace(BOX, allow_from=(AllowFrom(DEVICE, ip_network("203.0.113.64/30")),))
    case("allow_from", arriving(to_us), REPLICATE, in_port=CORE, layout=allowed)
    wrong_scope = replace(BOX, allow_from=(AllowFrom(REPLICATOR, ip_network("203.0.113.0/24")),))
    case("allow_from_of_another_scope", arriving(to_us), "unknown_peer", in_port=CORE, layout=wrong_scope)
    outside = replace(BOX, allow_from=(AllowFrom(DEVICE, ip_network("203.0.113.68/30")),))
    case("allow_from_of_another_prefix", arriving(to_us), "unknown_peer", in_port=CORE, layout=outside)
    other_peer = replace(BOX, peers=(Peer(REPLICATOR, addr(STRANGER)),))
    case("a_peer_of_another_scope", arriving(to_us), "unknown_peer", in_port=CORE, layout=other_peer)
    unicast = arriving(vxlan(TENANT, UNICAST_NVE, OWN))
    case("a_unicast_nve_to_the_device", unicast, REPLICATE, note="D9")
    case("a_unicast_nve_on_another_port", unicast, "unknown_peer", in_port=P0)
    case(
        "a_stranger_to_the_group_is_no_peer_but_welcome",
        arriving(vxlan(TENANT, STRANGER, GROUP)),
        REPLICATE,
        note="D15",
    )
    replicating = replace(BOX, endpoints=(Endpoint(addr(OWN), DEVICE, replicate=True),))
    back = (of_number(DEVICE, VNI, at_nve(P1, UNICAST_NVE), remote=(at_vm(VM_BLUE),)),)
    case(
        "a_unicast_nve_gets_nothing_back_of_an_endpoint_that_replicates",
        unicast,
        REPLICATE,
        layout=replicating,
        lists=back,
        copies=[(VM_BLUE, TENANT)],
        note="R4",
    )
    also_local = replace(BOX, nves=(LocalNve(MIX, addr(PEER)),))
    both = (of_number(DEVICE, VNI, at_nve(MIX, PEER), at_peer(CORE, PEER, Form.REWRITE)),)
    case(
        "a_remote_peer_is_excluded_as_a_peer_not_as_a_unicast_nve",
        arriving(vxlan(TENANT, PEER, OWN)),
        REPLICATE,
        in_port=MIX,
        layout=also_local,
        lists=both,
        copies=[leaving(MIX, vxlan(TENANT, PEER, PEER, ip=OURS))],
    )
    strict = replace(BOX, strict_members=True)
    members = (of_group(at_port(P0), at_nve(P1, UNICAST_NVE)),)
    case(
        "strict_a_member_by_port",
        arriving(FROM_NVE),
        REPLICATE,
        layout=strict,
        lists=members,
        in_port=P0,
        note="D15",
    )
    case("strict_no_member", arriving(FROM_NVE), "not_a_member", layout=strict, lists=members, note="D15")
    by_unicast = arriving(vxlan(TENANT, UNICAST_NVE, GROUP))
    case("strict_a_member_by_unicast", by_unicast, REPLICATE, layout=strict, lists=members, note="D15")
    remote_only = (of_group(at_port(P0), remote=(replace(at_peer(CORE, PEER), owner=Owner(P1)),)),)
    case(
        "strict_the_remote_segment_counts_not",
        arriving(FROM_NVE),
        "not_a_member",
        layout=strict,
        lists=remote_only,
    )
    case(
        "strict_remote_frames_need_not",
        arriving(FROM_NVE),
        REPLICATE,
        layout=strict,
        lists=members,
        in_port=CORE,
    )
