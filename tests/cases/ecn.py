"""RFC 6040 section 4.2 through every decapsulation (rule 2.8, section 3)."""

from __future__ import annotations

from typing import Any

from scapy.packet import Packet

from fastpath.model import Egress, Form, Owner, Verdict
from tests import frames as f
from tests.cases.box import (
    BARE,
    CORE,
    EDGE,
    GROUP,
    GROUP6,
    GROUP6_MAC,
    GROUP_MAC,
    INNER_GROUP6,
    INNER_SOURCE6,
    NVE,
    OWN,
    OWN6,
    P0,
    P1,
    PEER,
    PEER6,
    VM_BLUE,
    VNI,
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
from tests.cases.made import ARP, OURS, TENANT, TENANT_PORT, arriving, leaving, nested, vxlan

ECN_NAMES = ("not_ect", "ect1", "ect0", "ce")
DECAPSULATED_ECN: dict[tuple[str, str], str | None] = {
    # RFC 6040 figure 4: (arriving inner, arriving outer): departing
    ("not_ect", "not_ect"): "not_ect",
    ("not_ect", "ect0"): "not_ect",
    ("not_ect", "ect1"): "not_ect",
    ("not_ect", "ce"): None,
    ("ect0", "not_ect"): "ect0",
    ("ect0", "ect0"): "ect0",
    ("ect0", "ect1"): "ect1",
    ("ect0", "ce"): "ce",
    ("ect1", "not_ect"): "ect1",
    ("ect1", "ect0"): "ect1",
    ("ect1", "ect1"): "ect1",
    ("ect1", "ce"): "ce",
    ("ce", "not_ect"): "ce",
    ("ce", "ect0"): "ce",
    ("ce", "ect1"): "ce",
    ("ce", "ce"): "ce",
}


def ecn_cases() -> None:
    one = (of_group(at_port(P0)),)
    six = (of_group(at_port(P0, GROUP6), group=GROUP6),)
    edge = (of_number(NVE, VNI, at_vm(VM_BLUE)),)
    for (inside, outside), after in DECAPSULATED_ECN.items():
        i, o = ECN_NAMES.index(inside), ECN_NAMES.index(outside)
        a = None if after is None else ECN_NAMES.index(after)
        name = f"{inside}_in_{outside}"
        fate: Verdict | str = "ecn_not_capable" if a is None else REPLICATE
        note = "RFC 6040 section 4.2; R5's one exception"

        def tunnel(ecn: int, **udp: Any) -> Packet:
            return vxlan(TENANT, VTEP, GROUP, ip={"ttl": 3, "tos": 0x50 | ecn}, **udp)

        def tunnel6(ecn: int, inner: bytes = TENANT) -> Packet:
            return vxlan(inner, VTEP6, GROUP6, ip={"ttl": 3, "tos": 0xA4 | ecn}, chksum=None)

        case(
            f"ecn_nested_{name}",
            arriving(nested(tunnel(i, chksum=None), PEER, OWN, tos=0x80 | o)),
            fate,
            in_port=CORE,
            lists=one,
            copies=None if a is None else [leaving(P0, tunnel(a, chksum=None), GROUP_MAC)],
            note=note,
        )
        case(
            f"ecn_nested_ipv6_{name}",
            arriving(nested(tunnel6(i), PEER6, OWN6, chksum=None, tos=0x80 | o)),
            fate,
            in_port=CORE,
            lists=six,
            layout=BARE,
            copies=None if a is None else [leaving(P0, tunnel6(a), GROUP6_MAC)],
            note=note,
        )
        case(
            f"ecn_edge_{name}",
            arriving(vxlan(f.tenant(packet={"tos": 0x30 | i}), "10.1.1.77", GROUP, ip={"tos": o})),
            fate,
            in_port=CORE,
            layout=EDGE,
            lists=edge,
            copies=None if a is None else [(VM_BLUE, f.tenant(packet={"tos": 0x30 | a}))],
            note=note,
        )

        def tenant6(ecn: int) -> bytes:
            return f.tenant(INNER_SOURCE6, INNER_GROUP6, packet={"tos": 0x78 | ecn})

        relay = Egress(P1, Form.REWRITE, Owner(P1), addr("10.1.1.50"), addr(VTEP))
        came = {"tos": 0x28 | o, "ttl": 5}
        case(
            f"ecn_edge_ipv6_{name}",
            arriving(vxlan(tenant6(i), "10.1.1.77", GROUP, ip=came, chksum=None)),
            fate,
            in_port=CORE,
            layout=EDGE,
            lists=(of_number(NVE, VNI, at_vm(VM_BLUE), relay),),
            copies=None
            if a is None
            else [
                leaving(P1, vxlan(tenant6(a), VTEP, "10.1.1.50", ip={**OURS, "tos": 0x28 | o}, chksum=None)),
                (VM_BLUE, tenant6(a)),
            ],
            note=f"{note}; W1: the UDP checksum covers the tenant's packet",
        )
    through = nested(vxlan(f.tenant(packet={"tos": 2}), "10.1.1.77", GROUP, ip={"tos": 1}), PEER, VTEP, tos=3)
    case(
        "ecn_through_both_tunnels",
        arriving(through),
        REPLICATE,
        in_port=CORE,
        layout=EDGE,
        lists=edge,
        copies=[(VM_BLUE, f.tenant(packet={"tos": 3}))],
    )
    blocked = nested(vxlan(TENANT, "10.1.1.77", GROUP, ip={"tos": 1}), PEER, VTEP, tos=3)
    case(
        "ecn_through_both_tunnels_to_a_packet_that_cannot",
        arriving(blocked),
        "ecn_not_capable",
        in_port=CORE,
        layout=EDGE,
        lists=edge,
    )
    case(
        "ecn_of_arp",
        arriving(vxlan(ARP, "10.1.1.77", GROUP, ip={"tos": 3})),
        REPLICATE,
        in_port=CORE,
        layout=EDGE,
        lists=edge,
        copies=[(VM_BLUE, ARP)],
    )
    case(
        "ecn_of_a_cut_tenant_packet",
        arriving(vxlan(TENANT[:33], "10.1.1.77", GROUP, ip={"tos": 3})),
        REPLICATE,
        in_port=CORE,
        layout=EDGE,
        lists=edge,
        copies=[(VM_BLUE, TENANT[:33])],
    )
    capable = vxlan(f.tenant(packet={"tos": 2}), VTEP, GROUP, ip={"tos": 3})
    case(
        "ecn_of_a_tenant_is_no_business_of_a_device",
        arriving(capable),
        REPLICATE,
        lists=one,
        copies=[leaving(P0, capable, GROUP_MAC)],
    )
    lucky = bytearray(f.tenant(packet={"checksum": 0, "ident": 0}))
    lucky[18:20] = f.internet_checksum(bytes(lucky[14:34])).to_bytes(2, "big")
    assert f.internet_checksum(bytes(lucky[14:34])) == 0
    lucky[24:26] = b"\xff\xff"
    case(
        "ecn_that_does_not_change_touches_no_checksum",
        arriving(vxlan(bytes(lucky), "10.1.1.77", GROUP)),
        REPLICATE,
        in_port=CORE,
        layout=EDGE,
        lists=edge,
        copies=[(VM_BLUE, bytes(lucky))],
        note="0xffff is a right checksum of this header, too",
    )
    ce = vxlan(TENANT, VTEP, GROUP, ip={"tos": 3})
    case(
        "ecn_of_a_frame_that_is_not_decapsulated",
        arriving(ce),
        REPLICATE,
        lists=one,
        copies=[leaving(P0, ce, GROUP_MAC)],
    )
    relayed = nested(ce, OWN, PEER, TENANT_PORT, **OURS, tos=3)
    case(
        "ecn_is_copied_outside",
        arriving(ce),
        REPLICATE,
        lists=(of_group(remote=(at_peer(CORE, PEER),)),),
        copies=[leaving(CORE, relayed)],
        note="RFC 6040 section 4.1",
    )
