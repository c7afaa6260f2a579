"""Section 4: rewritten, nested and decapsulated copies; the MTU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.packet import Packet, Raw

from fastpath.model import Egress, Encap, Layout
from tests import frames as f
from tests.cases.box import (
    BARE,
    BOX,
    CORE,
    DEVICE,
    FAR_PEER,
    GROUP,
    GROUP6,
    GROUP_MAC,
    OWN,
    OWN6,
    P0,
    PEER,
    PEER6,
    PORTS,
    SMALL,
    VM_BLUE,
    VM_GREEN,
    VNI,
    VSID,
    VTEP,
    VTEP6,
    addr,
    at_nve,
    at_peer,
    at_port,
    at_vm,
    of_group,
    of_number,
    of_only,
)
from tests.cases.entry import REPLICATE, case
from tests.cases.made import (
    CAME_6,
    CAME_GRE,
    FROM_NVE,
    FROM_NVE_SUMMED,
    NESTED_IN,
    OURS,
    OURS_TOO,
    TENANT,
    TENANT_FLOW_ID,
    TENANT_PORT,
    arriving,
    from_nve,
    leaving,
    nested,
    nvgre,
    vxlan,
)


def rewrite_cases() -> None:
    def rewritten(
        egress: Egress, *copies: tuple[int, bytes], packet: Packet = FROM_NVE, name: str, **more: Any
    ) -> None:
        case(
            f"rewrite_{name}",
            arriving(packet),
            REPLICATE,
            lists=of_only(egress, group=more.pop("group", GROUP)),
            copies=list(copies),
            **more,
        )

    to_nve = at_nve(P0, "10.1.1.30")
    rewritten(
        to_nve, leaving(P0, vxlan(TENANT, VTEP, "10.1.1.30", ip=OURS_TOO)), name="zero_stays_zero", note="W1"
    )
    rewritten(
        to_nve,
        leaving(P0, vxlan(TENANT, VTEP, "10.1.1.30", ip=OURS_TOO, chksum=None)),
        packet=FROM_NVE_SUMMED,
        name="a_sum_is_kept_right",
        note="W1",
    )
    own = replace(to_nve, source=addr(OWN))
    rewritten(
        own,
        leaving(P0, vxlan(TENANT, OWN, "10.1.1.30", ip=OURS_TOO, chksum=None)),
        packet=FROM_NVE_SUMMED,
        name="from_us",
        note="D20 W1",
    )
    case(
        "rewrite_keeps_reserved_bits",
        from_nve(header={"flags": 0x89, "reserved": 0x00AB00, "last": 3}),
        REPLICATE,
        lists=of_only(to_nve),
        copies=[
            leaving(
                P0,
                IP(src=VTEP, dst="10.1.1.30", **OURS)
                / UDP(sport=0xC123, dport=4789, chksum=0)
                / Raw(f.vxlan_header(VNI, 0x89, 0xAB00, 3) + TENANT),
            )
        ],
        note="W1",
    )
    gre_kept = leaving(P0, nvgre(TENANT, VTEP, "10.1.1.30", VSID, 0x11, **OURS_TOO))
    rewritten(to_nve, gre_kept, packet=CAME_GRE, name="nvgre", note="W2")
    to_six = at_nve(P0, "2001:db8:1::30", source=addr(OWN6))
    want = leaving(P0, vxlan(TENANT, OWN6, "2001:db8:1::30", ip={"ttl": 64, "tos": 0x28}, chksum=None))
    rewritten(to_six, want, name="zero_to_ipv6", note="W4")
    rewritten(to_six, want, packet=FROM_NVE_SUMMED, name="a_sum_to_ipv6", note="W4")
    gre6 = leaving(P0, nvgre(TENANT, OWN6, "2001:db8:1::30", VSID, 0x11, ttl=64, tos=0x28))
    rewritten(to_six, gre6, packet=CAME_GRE, name="nvgre_to_ipv6")
    to_four = replace(to_nve, source=addr(OWN))
    six: f.Knobs = {"group": GROUP6, "layout": BARE}
    four = {**OURS, "tos": 0x28}
    rewritten(
        to_four,
        leaving(P0, vxlan(TENANT, OWN, "10.1.1.30", 0x313233, ip=four)),
        packet=CAME_6,
        name="ipv6_zero_to_ipv4",
        **six,
    )
    came6_summed = vxlan(TENANT, VTEP6, GROUP6, 0x313233, ip={"ttl": 1, "tos": 0x28}, chksum=None)
    rewritten(
        to_four,
        leaving(P0, vxlan(TENANT, OWN, "10.1.1.30", 0x313233, ip=four, chksum=None)),
        packet=came6_summed,
        name="ipv6_sum_to_ipv4",
        **six,
    )
    six_to_six = at_nve(P0, "2001:db8:1::30")
    kept6 = leaving(
        P0, vxlan(TENANT, VTEP6, "2001:db8:1::30", 0x313233, ip={"ttl": 64, "tos": 0x28}, chksum=None)
    )
    rewritten(six_to_six, kept6, packet=CAME_6, name="ipv6_zero_is_computed", note="W4", **six)
    rewritten(six_to_six, kept6, packet=came6_summed, name="ipv6_sum_is_updated", note="W4", **six)
    rewritten(six_to_six, name="source_of_another_version", drops={"no_header": 1})
    rewritten(to_nve, packet=CAME_6, name="source_of_another_version_6", drops={"no_header": 1}, **six)
    to_group = replace(to_nve, address=addr("239.66.77.88"))
    rewritten(
        to_group,
        leaving(P0, vxlan(TENANT, VTEP, "239.66.77.88", ip=OURS_TOO), "01:00:5e:42:4d:58"),
        name="to_a_group",
    )
    anew = leaving(P0, nvgre(TENANT, VTEP, "10.1.1.30", VSID, TENANT_FLOW_ID, **OURS_TOO))
    rewritten(replace(to_nve, encap=Encap.NVGRE), anew, name="to_nvgre", note="W2")
    rewritten(
        replace(to_nve, encap=Encap.NVGRE, vni=0x212223),
        leaving(P0, nvgre(TENANT, VTEP, "10.1.1.30", 0x212223, TENANT_FLOW_ID, **OURS_TOO)),
        name="to_nvgre_with_a_number",
    )
    rewritten(
        replace(to_nve, encap=Encap.VXLAN),
        leaving(P0, vxlan(TENANT, VTEP, "10.1.1.30", VNI, ip=OURS_TOO, sport=TENANT_PORT)),
        packet=CAME_GRE,
        name="to_vxlan",
        note="W1",
    )
    rewritten(
        replace(to_nve, encap=Encap.VXLAN, vni=5),
        leaving(P0, vxlan(TENANT, VTEP, "10.1.1.30", 5, ip=OURS_TOO, sport=TENANT_PORT)),
        name="to_another_number",
    )
    rewritten(replace(to_nve, vni=5), name="number_without_encap", drops={"no_header": 1})
    rewritten(
        replace(to_nve, encap=Encap.VXLAN, vni=VNI),
        leaving(P0, vxlan(TENANT, VTEP, "10.1.1.30", ip=OURS_TOO)),
        name="to_its_own",
    )
    rewritten(
        replace(to_six, encap=Encap.VXLAN, vni=5),
        leaving(
            P0,
            vxlan(
                TENANT, OWN6, "2001:db8:1::30", 5, ip={"ttl": 64, "tos": 0x28}, sport=TENANT_PORT, chksum=None
            ),
        ),
        name="made_anew_ipv6",
        note="W4",
    )
    case(
        "rewrite_of_a_nested_packet",
        NESTED_IN,
        REPLICATE,
        in_port=CORE,
        lists=of_only(to_nve),
        copies=[leaving(P0, vxlan(TENANT, VTEP, "10.1.1.30", ip=OURS_TOO, chksum=None))],
        note="D12",
    )


def nested_form_cases() -> None:
    to_peer6 = at_peer(CORE, PEER6, source=OWN6)
    six_nested = leaving(CORE, nested(FROM_NVE, OWN6, PEER6, TENANT_PORT, None, ttl=64, tos=0x28))
    case(
        "nested_in_ipv6",
        arriving(FROM_NVE),
        REPLICATE,
        lists=of_only(to_peer6),
        copies=[six_nested],
        note="D20 W4",
    )
    case(
        "nested_ipv6_in_ipv4",
        arriving(CAME_6),
        REPLICATE,
        layout=BARE,
        lists=of_only(at_peer(CORE, PEER), group=GROUP6),
        copies=[leaving(CORE, nested(CAME_6, OWN, PEER, TENANT_PORT, **OURS_TOO))],
        note="D20",
    )
    case(
        "nested_nvgre_out",
        arriving(CAME_GRE),
        REPLICATE,
        lists=of_only(at_peer(CORE, PEER)),
        copies=[leaving(CORE, nested(CAME_GRE, OWN, PEER, TENANT_PORT, **OURS_TOO))],
        note="D20 W2",
    )
    unsourced = replace(at_peer(CORE, PEER), source=None)
    case(
        "nested_keeps_the_source",
        arriving(FROM_NVE),
        REPLICATE,
        lists=of_only(unsourced),
        copies=[leaving(CORE, nested(FROM_NVE, VTEP, PEER, TENANT_PORT, **OURS_TOO))],
    )
    unicast = (of_number(DEVICE, VNI, at_peer(CORE, FAR_PEER), at_vm(VM_BLUE)),)
    case(
        "nested_needs_a_group",
        arriving(vxlan(TENANT, PEER, OWN)),
        REPLICATE,
        in_port=CORE,
        lists=unicast,
        copies=[(VM_BLUE, TENANT)],
        drops={"no_header": 1},
    )
    case(
        "decapsulated_nvgre",
        arriving(CAME_GRE),
        REPLICATE,
        lists=of_only(at_vm(VM_GREEN)),
        copies=[(VM_GREEN, TENANT)],
        note="N8",
    )
    case(
        "decapsulated_from_a_nested_packet",
        NESTED_IN,
        REPLICATE,
        in_port=CORE,
        lists=of_only(at_vm(VM_GREEN)),
        copies=[(VM_GREEN, TENANT)],
    )


def tenant_that_sums_to_zero(src: str, dst: str, sport: int = 0xC123) -> bytes:
    """A tenant's frame whose VXLAN packet from src to dst sums to zero, which is written 0xffff."""
    even = f.tenant(size=38, protocol=50)[:-2]
    packet = f.udp(f.vxlan_header(VNI) + even + b"\0\0", src, dst, sport=sport, checksum=f.RIGHT)
    return even + packet[6:8]


def zero_sum_cases() -> None:
    """A computed or updated UDP checksum of zero would mean that there is none (RFC 768)."""
    tenant = tenant_that_sums_to_zero(VTEP, "10.1.1.30")
    came = arriving(vxlan(tenant, VTEP, GROUP, chksum=None))
    copy = vxlan(tenant, VTEP, "10.1.1.30", ip=OURS, chksum=None)
    assert bytes(copy)[26:28] == b"\xff\xff"
    lists = of_only(at_nve(P0, "10.1.1.30"))
    case("rewrite_sum_of_zero", came, REPLICATE, lists=lists, copies=[leaving(P0, copy)], note="W1")

    six = at_nve(P0, "2001:db8:1::30", source=addr(OWN6))
    tenant = tenant_that_sums_to_zero(OWN6, "2001:db8:1::30")
    came = arriving(vxlan(tenant, VTEP, GROUP))
    copy = vxlan(tenant, OWN6, "2001:db8:1::30", ip={"ttl": 64}, chksum=None)
    assert bytes(copy)[46:48] == b"\xff\xff"
    case("full_sum_of_zero", came, REPLICATE, lists=of_only(six), copies=[leaving(P0, copy)], note="W4")

    tenant = tenant_that_sums_to_zero(PEER, GROUP)
    came = arriving(vxlan(tenant, PEER, OWN, ip={"ttl": 9}, chksum=None))
    copy = vxlan(tenant, PEER, GROUP, ip={"ttl": 9}, chksum=None)
    assert bytes(copy)[26:28] == b"\xff\xff"
    lists = of_only(at_port(P0))
    want = [leaving(P0, copy, GROUP_MAC)]
    case("recovered_sum_of_zero", came, REPLICATE, in_port=CORE, lists=lists, copies=want, note="D14 W1")


def mtu_cases() -> None:
    def sized(port_mtu: int) -> Layout:
        return replace(BOX, ports=(*PORTS[:SMALL], replace(PORTS[SMALL], mtu=port_mtu), *PORTS[SMALL + 1 :]))

    size = len(bytes(FROM_NVE))
    sends = (
        ("group", of_group(at_port(SMALL)), size),
        ("rewrite", of_group(at_nve(SMALL, "10.1.1.30")), size),
        ("rewrite_ipv6", of_group(at_nve(SMALL, "2001:db8::30", source=addr(OWN6))), size + 20),
        ("nested", of_group(at_peer(SMALL, "10.0.0.9")), size + 32),
        ("nested_ipv6", of_group(at_peer(SMALL, "2001:db8::9", source=OWN6)), size + 52),
        ("nvgre", of_group(at_port(SMALL, encap=Encap.NVGRE)), size - 8),
        (
            "nvgre_ipv6",
            of_group(at_nve(SMALL, "2001:db8::30", source=addr(OWN6), encap=Encap.NVGRE)),
            size + 12,
        ),
        ("decapsulated", of_group(at_vm(SMALL)), len(TENANT) - 14),
    )
    for name, one, need in sends:
        case(f"mtu_{name}_fits", arriving(FROM_NVE), REPLICATE, layout=sized(need), lists=(one,), drops={})
        over = {"over_mtu": 1}
        case(
            f"mtu_{name}_over",
            arriving(FROM_NVE),
            REPLICATE,
            layout=sized(need - 1),
            lists=(one,),
            copies=[],
            drops=over,
        )
    unresolved = replace(BOX, ports=(*PORTS[:SMALL], replace(PORTS[SMALL], next_hop_mac=None, mtu=size + 32)))
    case(
        "no_neighbour",
        arriving(FROM_NVE),
        REPLICATE,
        layout=unresolved,
        lists=(of_group(at_port(SMALL), remote=(at_peer(SMALL, "10.0.0.9"), at_peer(CORE, PEER))),),
        drops={"no_neighbour": 1},
        note="a group needs no next hop; a peer whose next hop is not known gets nothing",
    )
    case(
        "over_mtu_before_no_neighbour",
        arriving(FROM_NVE),
        REPLICATE,
        layout=replace(BOX, ports=(*PORTS[:SMALL], replace(PORTS[SMALL], next_hop_mac=None, mtu=size + 31))),
        lists=(of_group(remote=(at_peer(SMALL, "10.0.0.9"),)),),
        copies=[],
        drops={"over_mtu": 1},
    )
    down = replace(PORTS[SMALL], is_up=False, next_hop_mac=None, mtu=size + 32)
    case(
        "link_down",
        arriving(FROM_NVE),
        REPLICATE,
        layout=replace(BOX, ports=(*PORTS[:SMALL], down)),
        lists=(of_group(at_port(SMALL), remote=(at_peer(SMALL, "10.0.0.9"), at_peer(CORE, PEER))),),
        drops={"link_down": 2},
        note="nothing leaves by a port that is down, whoever is behind it",
    )
    big = f.tenant(size=65535 - 20 - 8 - 8 - 14 - 20 - 8)
    whole = vxlan(big, VTEP, GROUP)
    assert len(bytes(whole)) == 65535
    both = (of_group(at_port(P0), remote=(at_peer(CORE, PEER), at_peer(CORE, PEER6, source=OWN6))),)
    kept = [leaving(P0, whole, GROUP_MAC)]
    case(
        "the_largest_packet_cannot_be_nested",
        arriving(whole),
        REPLICATE,
        lists=both,
        copies=kept,
        drops={"over_mtu": 2},
    )
    four = (of_group(remote=(at_peer(CORE, PEER),)),)
    fits = arriving(vxlan(big[:-32], VTEP, GROUP))
    case("nested_in_the_largest_ipv4_packet", fits, REPLICATE, lists=four, drops={})
    over4 = arriving(vxlan(big[:-31], VTEP, GROUP))
    case("nested_in_a_larger_ipv4_packet", over4, REPLICATE, lists=four, copies=[], drops={"over_mtu": 1})
    fits6 = vxlan(big[:-12], VTEP, GROUP)
    six = (of_group(remote=(at_peer(CORE, PEER6, source=OWN6),)),)
    case("nested_in_the_largest_ipv6_packet", arriving(fits6), REPLICATE, lists=six, drops={})
    over6 = arriving(vxlan(big[:-11], VTEP, GROUP))
    case("nested_in_a_larger_ipv6_packet", over6, REPLICATE, lists=six, copies=[], drops={"over_mtu": 1})
    case(
        "no_header_before_over_mtu",
        arriving(FROM_NVE),
        REPLICATE,
        layout=sized(30),
        lists=(of_group(at_nve(SMALL, "2001:db8::30")),),
        copies=[],
        drops={"no_header": 1},
    )
    case(
        "no_vsid_before_over_mtu",
        arriving(FROM_NVE),
        REPLICATE,
        layout=sized(30),
        lists=(of_group(at_port(SMALL, encap=Encap.NVGRE, vni=1)),),
        copies=[],
        drops={"no_vsid": 1},
    )
