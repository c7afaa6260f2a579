"""Rules 1.6 to 1.9: nested tunnels, VXLAN, NVGRE, the tenant's headers and the flow."""

from __future__ import annotations

from dataclasses import replace

from fastpath.model import Frame, Mark
from tests import frames as f
from tests.cases.box import (
    BARE,
    BLUE,
    BOX,
    CORE,
    GREEN,
    GROUP,
    GROUP6,
    GROUP6_MAC,
    GROUP_MAC,
    INNER_GROUP6,
    INNER_SOURCE6,
    OWN,
    OWN6,
    P0,
    P1,
    PEER,
    PEER6,
    PORTS,
    VNI,
    VSID,
    VTEP,
    VTEP6,
    at_peer,
    at_port,
    of_group,
)
from tests.cases.entry import REPLICATE, case
from tests.cases.made import (
    ARP,
    FROM_NVE,
    FROM_NVE_SUMMED,
    NVE_IP,
    OURS,
    TENANT,
    TENANT6,
    arriving,
    flow,
    from_nve,
    from_peer,
    gre_from_nve,
    leaving,
    local_copies,
    nested,
    nvgre,
    vxlan,
)


def nested_cases() -> None:
    inside = bytes(FROM_NVE)
    fields: f.Knobs = {"in_port": CORE}
    case(
        "a_nested_packet_goes_to_local_members_only",
        arriving(nested(FROM_NVE, PEER, OWN)),
        REPLICATE,
        **fields,
        copies=local_copies(),
        note="D12 D13 D14: un-nested, the group is that of the packet inside",
    )
    summed = arriving(nested(FROM_NVE_SUMMED, PEER, OWN, chksum=None))
    case("nested_checksums_inside_and_outside", summed, REPLICATE, **fields)
    over6 = arriving(nested(FROM_NVE, PEER6, OWN6, chksum=None))
    case("ipv4_nested_in_ipv6", over6, REPLICATE, **fields, copies=local_copies())
    six = vxlan(TENANT6, VTEP6, GROUP6, 0x313233, ip={"ttl": 3, "tos": 4}, chksum=None)
    case(
        "ipv6_nested_in_ipv4",
        arriving(nested(six, PEER, OWN)),
        REPLICATE,
        **fields,
        copies=[leaving(P0, six, GROUP6_MAC), leaving(P1, six, GROUP6_MAC)],
    )
    gre = nvgre(TENANT, VTEP, GROUP)
    only = (of_group(at_port(P0)),)
    case(
        "nvgre_nested",
        arriving(nested(gre, PEER, OWN)),
        REPLICATE,
        **fields,
        lists=only,
        copies=[leaving(P0, gre, GROUP_MAC)],
    )
    case(
        "bytes_behind_the_nested_packet_vanish",
        from_peer(inside + b"tail"),
        REPLICATE,
        **fields,
        copies=local_copies(),
    )
    case("nested_to_a_group", f.wire(f.nested_packet(inside, VTEP, GROUP)), "bad_nesting")
    case("nested_gre_with_a_key", from_peer(inside, gre=b"\x20\x00\x08\x00"), "bad_gre", **fields)
    case("nested_gre_version_1", from_peer(inside, gre=b"\x00\x01\x08\x00"), "bad_gre", **fields)
    case("nested_ethernet", from_peer(TENANT, gre=b"\x00\x00\x65\x58"), "bad_gre", **fields)
    case("nested_four_wrong_bytes", from_peer(b"", gre=b"\x20\x00\x08\x00"), "bad_gre", **fields)
    case("nested_three_bytes", from_peer(b"", gre=b"\x00\x00\x08"), "truncated", **fields)
    case("nested_nothing", from_peer(b"", gre=b""), "truncated", **fields)
    case("nested_version_disagrees", from_peer(inside, gre=b"\x00\x00\x86\xdd"), "bad_ip_header", **fields)
    case("nested_packet_cut", from_peer(inside[:-1]), "truncated", **fields)
    padded = f.wire(f.nested_packet(inside[:-3], PEER, OWN), padding=inside[-3:])
    case("nested_packet_reaches_into_the_padding", padded, "truncated", **fields)
    case("nested_19_bytes", from_peer(inside[:19]), "truncated", **fields)
    case(
        "nested_ip_checksum", from_peer(inside[:10] + b"\x00\x01" + inside[12:]), "bad_ip_checksum", **fields
    )
    wrong = f.vxlan_packet(TENANT, VTEP, GROUP, VNI, datagram={"checksum": 0x1010})
    case("nested_udp_checksum", from_peer(wrong), "bad_udp_checksum", **fields)
    case("nested_udp_checksum_of_a_marked_frame", Frame(from_peer(wrong), Mark(120, 6)), REPLICATE, **fields)
    outer_wrong = from_peer(inside, datagram={"checksum": 0x1010})
    case("nested_outer_udp_checksum", outer_wrong, "bad_udp_checksum", **fields)
    twice = f.nested_packet(inside, VTEP, GROUP)
    case("nested_twice", from_peer(twice), "bad_nesting", **fields)
    case("nested_unicast", from_peer(bytes(vxlan(TENANT, VTEP, OWN))), "bad_nesting", **fields)
    case("nested_igmp", from_peer(f.igmp(VTEP, "224.0.0.22")), "bad_nesting", **fields)
    case(
        "nested_dns",
        from_peer(f.ipv4(f.udp(b"q", VTEP, GROUP, dport=53), VTEP, GROUP, 17)),
        "bad_nesting",
        **fields,
    )
    case("nested_udp_header_cut", from_peer(f.ipv4(bytes(7), VTEP, GROUP, 17)), "truncated", **fields)
    case("nested_gre_header_cut", from_peer(f.ipv4(bytes(3), VTEP, GROUP, 47)), "truncated", **fields)
    ppp = f.ipv4(b"\x20\x00\x88\x0b" + bytes(8), VTEP, GROUP, 47)
    case("nested_gre_of_another_kind", from_peer(ppp), "bad_nesting", **fields)
    later = f.vxlan_packet(TENANT, VTEP, GROUP, VNI, packet={"offset": 1})
    case("nested_later_fragment", from_peer(later), "bad_nesting", **fields)
    first = f.vxlan_packet(TENANT, VTEP, GROUP, VNI, packet={"flags": 1})
    case("nested_first_fragment", from_peer(first), "fragment", **fields)
    claimed = replace(BOX, vxlan_ports=(4789, 4754))
    odd = from_nve(datagram={"dport": 4754})
    case("4754_as_a_vxlan_port", odd, REPLICATE, layout=claimed)
    case(
        "nested_vxlan_on_another_port",
        from_peer(inside),
        REPLICATE,
        layout=replace(BOX, vxlan_ports=(1, 4789)),
        **fields,
    )


def overlay_cases() -> None:
    strict = replace(BOX, strict_reserved=True)
    case("no_vni_flag", from_nve(header={"flags": 0xF7}), "no_vni_flag", note="W1")
    case(
        "vxlan_eight_wrong_bytes",
        f.wire(f.ipv4(f.udp(bytes(8), VTEP, GROUP), VTEP, GROUP, 17)),
        "no_vni_flag",
    )
    case("vxlan_seven_bytes", f.wire(f.ipv4(f.udp(bytes(7), VTEP, GROUP), VTEP, GROUP, 17)), "truncated")
    reserved = {"flags": 0x88, "reserved": 0x010203, "last": 0x7F}
    case("reserved_bits_are_ignored", from_nve(header=reserved), REPLICATE, note="W1")
    for name, knobs in (("flags", {"flags": 0x48}), ("middle", {"reserved": 1}), ("last", {"last": 0x80})):
        case(f"strict_reserved_{name}", from_nve(header=knobs), "reserved_bits", layout=strict)
    case("strict_reserved_clean", from_nve(), REPLICATE, layout=strict)
    kept = from_nve(header=reserved, datagram={"checksum": f.RIGHT})
    whole = f.ethernet(kept[14:], f.IPV4, bytes.fromhex("01005e010164"), PORTS[P0].mac)
    only = (of_group(at_port(P0)),)
    case("reserved_bits_are_kept", kept, REPLICATE, lists=only, copies=[(P0, whole)], note="W1")
    cleared = replace(BOX, networks=(GREEN, replace(BLUE, clear_reserved=True)))
    plain = vxlan(TENANT, VTEP, GROUP, ip={"ttl": 7, "id": 0x4321, "flags": "DF"}, chksum=None)
    want = [leaving(P0, plain, GROUP_MAC)]
    case("clear_reserved", kept, REPLICATE, layout=cleared, lists=only, copies=want, note="W1")
    unsummed = vxlan(TENANT, VTEP, GROUP, ip={"ttl": 7, "id": 0x4321, "flags": "DF"})
    case(
        "clear_reserved_leaves_a_zero_checksum",
        from_nve(header=reserved),
        REPLICATE,
        layout=cleared,
        lists=only,
        copies=[leaving(P0, unsummed, GROUP_MAC)],
    )

    case("nvgre", arriving(nvgre(TENANT, VTEP, GROUP)), REPLICATE, note="W2")
    for name, flags in (("no_key", 0), ("checksum", 0xA000), ("routing", 0x6000), ("sequence", 0x3000)):
        case(f"nvgre_{name}", gre_from_nve(header={"flags": flags}), "bad_gre", note="W2")
    case("nvgre_strict_source_route", gre_from_nve(header={"flags": 0x2800}), "bad_gre", note="W2")
    case("nvgre_version_1", gre_from_nve(header={"flags": 0x2001}), "bad_gre", note="W2")
    case("nvgre_reserved_bits_are_ignored", gre_from_nve(header={"flags": 0x27F8}), REPLICATE)
    case("nvgre_strict_clean", gre_from_nve(), REPLICATE, layout=strict)
    seven = f.ipv4(bytes.fromhex("20006558000000"), VTEP, GROUP, 47)
    case("nvgre_reserved_vsid_in_seven_bytes", f.wire(seven), "truncated")
    eight = f.ipv4(bytes.fromhex("2000655800000000"), VTEP, GROUP, 47)
    case("nvgre_reserved_vsid_in_eight_bytes", f.wire(eight), "reserved_vsid")
    twin = replace(GREEN, vni=VSID, clear_reserved=True)
    odd = gre_from_nve(header={"flags": 0x27F8})
    case(
        "clear_reserved_is_not_for_nvgre",
        odd,
        REPLICATE,
        layout=replace(BOX, networks=(BLUE, twin)),
        lists=only,
        copies=[(P0, f.ethernet(odd[14:], f.IPV4, bytes.fromhex("01005e010164"), PORTS[P0].mac))],
    )
    case("nvgre_strict_reserved", gre_from_nve(header={"flags": 0x2008}), "reserved_bits", layout=strict)
    case(
        "nvgre_without_a_key_behind_it",
        f.wire(f.ipv4(bytes.fromhex("20006558aabbcc"), VTEP, GROUP, 47)),
        "truncated",
    )
    case(
        "nvgre_without_anything_behind_it",
        f.wire(f.ipv4(bytes.fromhex("00006558"), VTEP, GROUP, 47)),
        "bad_gre",
    )
    for vsid in (0, 0xFFF, 0xFFFFFF):
        case(f"nvgre_vsid_{vsid:x}", gre_from_nve(vsid=vsid), "reserved_vsid", note="W2", layout=BARE)
    for vsid in (0x1000, 0xFFFFFE):
        case(f"nvgre_vsid_{vsid:x}", gre_from_nve(vsid=vsid), REPLICATE, note="W2", layout=BARE)
    for tpid in (f.TAG, f.SERVICE_TAG):
        inner = f.tenant(tags=[(tpid, 5)])
        case(f"nvgre_inner_tag_{tpid:x}", gre_from_nve(inner), "inner_tag", note="W2")
    case("nvgre_inner_cut", gre_from_nve(TENANT[:13]), "truncated")
    case("vxlan_inner_cut", from_nve(TENANT[:13]), "truncated")
    case("vxlan_inner_of_14_bytes", from_nve(TENANT[:14]), REPLICATE)
    short = f.wire(f.vxlan_packet(TENANT[:13], VTEP, GROUP, VNI), padding=TENANT[13:])
    case("padding_is_no_inner_frame", short, "truncated")


def flow_cases() -> None:
    """The flow of each inner frame, by the source port of a nested copy."""
    one = (of_group(remote=(at_peer(CORE, PEER),)),)
    macs = (0x01005E4D01030EB1, 0xC3D5E7F9 << 16)
    addresses = 0xAC100509EF4D0103
    ports = 40001 << 16 | 5004
    tag, service = (f.TAG, 7), (f.SERVICE_TAG, 0x3001)
    whole = (macs[0], macs[1] | 0x0800, addresses, 17 << 32 | ports)
    portless = (macs[0], macs[1] | 0x0800, addresses, 17 << 32)
    six = (0x3333000000070EB1, 0xC3D5E7F986DD, 0xFD00000000000005, 9, 0xFF15 << 48, 7)
    six_frame: f.Knobs = {"src": INNER_SOURCE6, "dst": INNER_GROUP6, "dst_mac": bytes.fromhex("333300000007")}
    options = f.tenant(packet={"options": b"\x01\x01\x01\x00"})
    behind_an_extension = f.tenant(**six_frame, packet={"extensions": [f.extension(f.DESTINATION_OPTIONS)]})
    rows: tuple[tuple[str, bytes, tuple[int, ...]], ...] = (
        ("ipv4_udp", TENANT, whole),
        ("ipv4_tcp", f.tenant(protocol=6), (*whole[:3], 6 << 32 | 0x030A1118)),
        ("ipv4_sctp", f.tenant(protocol=132), (*whole[:3], 132 << 32 | 0x030A1118)),
        ("ipv4_other_protocol_has_no_ports", f.tenant(protocol=50), (*whole[:3], 50 << 32)),
        ("ipv4_options", options, whole),
        ("ipv4_first_fragment", f.tenant(packet={"flags": 1}), portless),
        ("ipv4_later_fragment", f.tenant(packet={"flags": 0, "offset": 9}), portless),
        ("ipv4_ports_cut", TENANT[:37], portless),
        ("ipv4_ports_just_there", TENANT[:38], whole),
        ("ipv4_header_just_there", TENANT[:34], portless),
        ("ipv4_options_just_there", options[:38], portless),
        ("ipv6_header_just_there", TENANT6[:54], (*six, 17 << 32)),
        ("tag_just_there", f.tenant(tags=[tag])[:18], whole[:2]),
        ("ipv4_header_cut", TENANT[:33], whole[:2]),
        ("ipv4_options_cut", options[:37], whole[:2]),
        ("ipv4_version_7", f.tenant(packet={"version": 7}), whole[:2]),
        ("ipv4_header_of_12_bytes", f.tenant(packet={"ihl": 3}), whole[:2]),
        ("ipv6_udp", TENANT6, (*six, 17 << 32 | ports)),
        ("ipv6_extension", behind_an_extension, (*six, 60 << 32)),
        ("ipv6_header_cut", TENANT6[:53], six[:2]),
        ("ipv6_version_4", f.tenant(**six_frame, packet={"version": 4}), six[:2]),
        ("one_tag", f.tenant(tags=[tag]), whole),
        ("two_tags", f.tenant(tags=[service, tag]), whole),
        ("three_tags", f.tenant(tags=[service, tag, tag]), (macs[0], macs[1] | 0x8100)),
        ("tag_cut", f.tenant(tags=[tag])[:17], (macs[0], macs[1])),
        ("second_tag_cut", f.tenant(tags=[tag, service])[:21], (macs[0], macs[1])),
        ("arp", ARP, (0xFFFFFFFFFFFF0EB1, 0xC3D5E7F90806)),
    )
    for name, inner, words in rows:
        packet = vxlan(inner, VTEP, GROUP, ip=NVE_IP)
        copy = nested(packet, OWN, PEER, 0xC000 | flow(*words) & 0x3FFF, **OURS, tos=0x28)
        case(f"flow_{name}", arriving(packet), REPLICATE, lists=one, copies=[leaving(CORE, copy)], note="W1")
    short = f.wire(f.vxlan_packet(TENANT[:36], VTEP, GROUP, VNI), padding=TENANT[36:])
    copy = nested(
        vxlan(TENANT[:36], VTEP, GROUP, ip={"ttl": 7, "id": 0x4321, "flags": "DF"}),
        OWN,
        PEER,
        0xC000 | flow(*portless) & 0x3FFF,
        **OURS,
    )
    case("flow_padding_holds_no_ports", short, REPLICATE, lists=one, copies=[leaving(CORE, copy)])
