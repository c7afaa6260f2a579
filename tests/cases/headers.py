"""Rules 1.1 to 1.5: marks, Ethernet, IP, what is ours, what is sound."""

from __future__ import annotations

from dataclasses import replace

from fastpath.model import Frame, Mark
from tests import frames as f
from tests.cases.box import (
    BOX,
    GROUP,
    GROUP6,
    GROUP_MAC,
    INNER_GROUP,
    INNER_SOURCE,
    OWN,
    P0,
    P7,
    PEER,
    PORTS,
    STRANGER,
    VNI,
    VSID,
    VTEP,
    VTEP6,
    at_nve,
    at_port,
    of_group,
)
from tests.cases.entry import PUNT, REPLICATE, case
from tests.cases.made import (
    ARP,
    FROM_NVE,
    FROM_NVE_SUMMED,
    NVE_IP,
    OURS,
    TENANT,
    arriving,
    from_nve,
    from_nve6,
    gre_from_nve,
    leaving,
    vxlan,
)


def unfinished(packet: bytes, start: int, covered: bytes) -> Frame:
    """A frame whose checksum at start + 6 still holds only the sum of the pseudo-header `covered`."""
    data = bytearray(f.wire(packet))
    data[start + 6 : start + 8] = (f.internet_checksum(covered) ^ 0xFFFF).to_bytes(2, "big")
    return Frame(bytes(data), Mark(start, 6))


def mark_cases() -> None:
    plain = f.vxlan_packet(
        TENANT, VTEP, GROUP, VNI, packet={"ttl": 1, "ident": 0x1D2E, "tos": 0x28, "flags": 0}
    )
    covered = f.pseudo(VTEP, GROUP, 17, len(plain) - 20)
    finished = [leaving(P0, FROM_NVE_SUMMED, GROUP_MAC), leaving(P7, FROM_NVE_SUMMED, GROUP_MAC)]
    only = (of_group(at_port(P7), at_port(P0)),)
    case("mark_outer_is_finished", unfinished(plain, 34, covered), REPLICATE, lists=only, copies=finished)

    inner = bytearray(TENANT)
    inner_udp = 14 + 20
    inner_sum = f.internet_checksum(f.pseudo(INNER_SOURCE, INNER_GROUP, 17, 45)) ^ 0xFFFF
    inner[inner_udp + 6 : inner_udp + 8] = inner_sum.to_bytes(2, "big")
    half = f.vxlan_packet(
        bytes(inner), VTEP, GROUP, VNI, packet={"ttl": 1, "ident": 0x1D2E, "tos": 0x28, "flags": 0}
    )
    case(
        "mark_inner_is_finished",
        Frame(f.wire(half), Mark(34 + 16 + inner_udp, 6)),
        REPLICATE,
        lists=only,
        copies=[leaving(P0, FROM_NVE, GROUP_MAC), leaving(P7, FROM_NVE, GROUP_MAC)],
    )

    even = f.tenant(size=38)
    missing = f.udp(f.vxlan_header(VNI) + even + b"\0\0\0", VTEP, GROUP, checksum=f.RIGHT)[6:8]
    zero = even + missing + b"\0"
    packet = vxlan(zero, VTEP, GROUP, ip=NVE_IP, chksum=None)
    start = f.vxlan_packet(
        zero, VTEP, GROUP, VNI, packet={"ttl": 1, "ident": 0x1D2E, "tos": 0x28, "flags": 0}
    )
    marked = unfinished(start, 34, f.pseudo(VTEP, GROUP, 17, len(start) - 20))
    assert bytes(packet)[26:28] == b"\xff\xff"
    case(
        "mark_sum_of_zero_is_written_ffff",
        marked,
        REPLICATE,
        lists=only,
        copies=[leaving(P0, packet, GROUP_MAC), leaving(P7, packet, GROUP_MAC)],
    )

    good = from_nve()
    case("mark_start_behind_the_frame", Frame(good, Mark(len(good) + 1, 0)), "bad_mark")
    case("mark_field_behind_the_frame", Frame(good, Mark(34, len(good) - 34)), "bad_mark")
    case("mark_field_half_outside", Frame(good, Mark(34, len(good) - 35)), "bad_mark")
    case("mark_field_is_the_last_word", Frame(good, Mark(len(good) - 20, 18)), REPLICATE)
    wrong = from_nve(datagram={"checksum": 0xBAD1})
    case("marked_outer_checksum_is_trusted", Frame(wrong, Mark(84, 6)), REPLICATE)
    case("unmarked_outer_checksum_is_not", wrong, "bad_udp_checksum")
    broken_ip = from_nve(packet={"checksum": 0x1234})
    case("marked_frames_still_need_a_right_ip_header", Frame(broken_ip, Mark(84, 6)), "bad_ip_checksum")
    case("mark_on_an_empty_frame", Frame(b"", Mark(0, 0)), "bad_mark")


def ethernet_cases() -> None:
    packet = bytes(FROM_NVE)
    got = [leaving(P0, FROM_NVE, GROUP_MAC)]
    one = (of_group(at_port(P0)),)
    tag, service = (f.TAG, 0x6064), (f.SERVICE_TAG, 0x0FFE)
    case("untagged", f.wire(packet), REPLICATE, lists=one, copies=got, note="D9")
    case("one_tag_vanishes", f.wire(packet, [tag]), REPLICATE, lists=one, copies=got)
    case("one_service_tag_vanishes", f.wire(packet, [service]), REPLICATE, lists=one, copies=got)
    case("two_tags_vanish", f.wire(packet, [service, tag]), REPLICATE, lists=one, copies=got)
    case("three_tags", f.wire(packet, [service, tag, tag]), "not_ours", lists=one)
    aside = Frame(f.wire(packet), None, tag)
    case("a_tag_out_of_band", aside, REPLICATE, lists=one, copies=got)
    case(
        "one_out_of_band_one_inside",
        replace(aside, data=f.wire(packet, [tag])),
        REPLICATE,
        lists=one,
        copies=got,
    )
    case("one_out_of_band_two_inside", replace(aside, data=f.wire(packet, [tag, tag])), "not_ours", lists=one)
    case("tag_cut", f.wire(packet, [tag])[:17], "truncated")
    case("second_tag_cut", f.wire(packet, [tag, tag])[:21], "truncated")
    case("thirteen_bytes", f.wire(packet)[:13], "truncated")
    case("fourteen_bytes", f.ethernet(b"", 0x88B5), "not_ours")
    case("empty_frame", b"", "truncated")
    case("a_tag_and_nothing_behind_it", f.ethernet(b"", 0x0806, tags=[tag]), "not_ours")
    case("arp_on_the_wire", f.arp(), "not_ours")
    case("a_tag_and_arp", f.ethernet(bytes(28), 0x0806, tags=[tag]), "not_ours")
    case("ethernet_padding_vanishes", f.wire(packet, padding=b"\xa5" * 11), REPLICATE, lists=one, copies=got)
    case("padding_behind_a_tag_vanishes", f.wire(packet, [tag], b"\x5a"), REPLICATE, lists=one, copies=got)


def ip_cases() -> None:
    case("nineteen_bytes_of_ipv4", from_nve()[:33], "truncated")
    alien = f.ipv4(bytes(8), VTEP, STRANGER, 6, ihl=15)
    case("ipv4_header_of_an_alien_packet_beyond_the_frame", f.wire(alien), "truncated")
    case("ipv4_bad_and_cut", from_nve(packet={"version": 5})[:33], "truncated")
    case("ipv4_version_5", from_nve(packet={"version": 5}), "bad_ip_header")
    case("ipv4_header_of_16_bytes", from_nve(packet={"ihl": 4}), "bad_ip_header")
    case("ipv4_header_beyond_the_frame", from_nve(packet={"ihl": 15})[:70], "truncated")
    case(
        "ipv6_under_an_ipv4_ethertype",
        f.wire(bytes(vxlan(ARP, VTEP6, GROUP6)), ethertype=f.IPV4),
        "bad_ip_header",
    )
    optional = from_nve(packet={"options": b"\x94\x04\x00\x00\x01\x01\x01\x00"})
    as_it_came = f.ethernet(optional[14:], f.IPV4, bytes.fromhex("01005e010164"), PORTS[P0].mac)
    case(
        "ipv4_options_stay_in_a_copy_to_the_group",
        optional,
        REPLICATE,
        lists=(of_group(at_port(P0)),),
        copies=[(P0, as_it_came)],
    )
    case(
        "ipv4_options_vanish_in_a_rewritten_copy",
        optional,
        REPLICATE,
        lists=(of_group(at_nve(P0, "10.1.1.7")),),
        copies=[leaving(P0, vxlan(TENANT, VTEP, "10.1.1.7", ip=OURS))],
    )
    case("ipv4_first_fragment", from_nve(packet={"flags": 1}), "fragment")
    case("ipv4_later_fragment", from_nve(packet={"flags": 0, "offset": 3}), "not_ours")
    case("ipv4_last_fragment_of_anything", f.wire(f.ipv4(b"xyz", VTEP, STRANGER, 6, offset=185)), "not_ours")
    case("ipv4_reserved_flag", from_nve(packet={"flags": 4}), REPLICATE)
    case("gre_first_fragment", gre_from_nve(packet={"flags": 1}), "fragment")
    case("unsound_fragment", from_nve(packet={"flags": 1, "checksum": 7}), "bad_ip_checksum")
    case("igmp_fragment", f.wire(f.ipv4(b"\x22" + bytes(7), VTEP, "224.0.0.22", 2, flags=1)), "fragment")

    case("ipv6", arriving(vxlan(TENANT, VTEP6, GROUP6, 0x313233)), REPLICATE)
    case("thirty_nine_bytes_of_ipv6", from_nve6()[:53], "truncated")
    case(
        "ipv6_version_4", f.wire(f.ipv6(b"", VTEP6, GROUP6, 17, version=4), ethertype=f.IPV6), "bad_ip_header"
    )

    def walked(*extensions: tuple[int, bytes]) -> bytes:
        return from_nve6(packet={"extensions": extensions})

    hop, route, options = (
        f.extension(f.HOP_BY_HOP),
        f.extension(f.ROUTING, 2),
        f.extension(f.DESTINATION_OPTIONS, 1),
    )
    signed = f.extension(f.AUTHENTICATION, 4)
    case("ipv6_each_extension", walked(hop, options, route, signed, options), REPLICATE)
    case("ipv6_authentication_counts_words_of_four", walked(f.extension(f.AUTHENTICATION, 1)), REPLICATE)
    case("ipv6_eight_extensions", walked(*[options] * 8), REPLICATE)
    case("ipv6_nine_extensions", walked(*[options] * 9), "too_many_extensions")
    nine = walked(*[f.extension(f.ROUTING)] * 9)
    case("ipv6_the_ninth_need_not_be_there", nine[: 54 + 64], "too_many_extensions")
    case("ipv6_extension_start_cut", walked(options)[: 54 + 7], "truncated")
    case("ipv6_extension_end_cut", walked(options)[: 54 + 15], "truncated")
    case("ipv6_authentication_end_cut", walked(signed)[: 54 + 23], "truncated")
    alien = f.wire(f.ipv6(b"", VTEP6, GROUP6, 59, extensions=[options]))
    case("ipv6_extension_of_an_alien_packet_whole", alien, "not_ours")
    case("ipv6_extension_of_an_alien_packet_cut", alien[:-1], "truncated")
    cut = f.wire(f.ipv6(b"", VTEP6, GROUP6, 17, version=4)[:39], ethertype=f.IPV6)
    case("ipv6_version_4_and_cut", cut, "truncated")
    case("ipv6_atomic_fragment", walked(f.fragment_extension(0, more=False)), "fragment")
    case(
        "ipv6_fragment_length_is_always_8", walked(f.fragment_extension(0, more=True, reserved=9)), "fragment"
    )
    case("ipv6_later_fragment", walked(f.fragment_extension(2, more=True)), "not_ours")
    stop = walked(*[options] * 3, f.fragment_extension(1, more=False), *[options] * 6)
    case("ipv6_the_walk_ends_at_a_later_fragment", stop, "not_ours")
    case(
        "ipv6_fragment_behind_options", walked(options, f.fragment_extension(0, more=True), route), "fragment"
    )
    case("ipv6_no_next_header", f.wire(f.ipv6(b"", VTEP6, GROUP6, 59)), "not_ours")
    kept = walked(hop, options)
    as_it_came = f.ethernet(kept[14:], f.IPV6, bytes.fromhex("333377 8899aa"), PORTS[P0].mac)
    case(
        "ipv6_extensions_stay_in_a_copy_to_the_group",
        kept,
        REPLICATE,
        lists=(of_group(at_port(P0, GROUP6), group=GROUP6),),
        copies=[(P0, as_it_came)],
    )


def claim_cases() -> None:
    case("vxlan_to_a_stranger", f.wire(f.vxlan_packet(TENANT, VTEP, STRANGER, VNI)), "not_ours")
    case("gre_to_a_stranger", f.wire(f.nvgre_packet(TENANT, VTEP, STRANGER, VSID)), "not_ours")
    case("vxlan_to_broadcast", f.wire(f.vxlan_packet(TENANT, VTEP, "255.255.255.255", VNI)), "not_ours")
    case("vxlan_just_above_the_groups", f.wire(f.vxlan_packet(TENANT, VTEP, "240.0.0.1", VNI)), "not_ours")
    case("another_udp_port", from_nve(datagram={"dport": 4790}), "not_ours")
    case("vxlan_port_as_the_source", from_nve(datagram={"sport": 4789, "dport": 53}), "not_ours")
    both = replace(BOX, vxlan_ports=(8472, 4789))
    case("a_second_vxlan_port", from_nve(datagram={"dport": 8472}), REPLICATE, layout=both)
    case("8472_unless_configured", from_nve(datagram={"dport": 8472}), "not_ours")
    ip_in_gre = f.ipv4(f.nvgre_header(VSID, protocol=f.IPV4), VTEP, GROUP, 47)
    case("gre_of_another_kind", f.wire(ip_in_gre), "not_ours")
    case(
        "gre_of_another_kind_and_four_bytes", f.wire(f.ipv4(b"\x00\x00\x08\x00", VTEP, GROUP, 47)), "not_ours"
    )
    case("udp_of_another_port_and_eight_bytes", f.wire(f.ipv4(bytes(8), VTEP, GROUP, 17)), "not_ours")
    case("tcp_to_a_group", f.wire(f.ipv4(bytes(20), VTEP, GROUP, 6)), "not_ours")
    case("udp_header_cut_even_if_alien", f.wire(f.ipv4(bytes(7), VTEP, STRANGER, 17)), "truncated")
    case("gre_header_cut_even_if_alien", f.wire(f.ipv4(bytes(3), VTEP, STRANGER, 47)), "truncated")
    case("igmp_v3_report", f.wire(f.igmp(VTEP, "224.0.0.22")), PUNT, note="D17 W5")
    case("igmp_query_to_us", f.wire(f.igmp(PEER, OWN, 0x11)), PUNT)
    case("igmp_to_a_stranger", f.wire(f.igmp(VTEP, STRANGER, 0x16)), PUNT)
    case("igmp_with_a_bad_header", f.wire(f.ipv4(bytes(8), VTEP, GROUP, 2, checksum=1)), "bad_ip_checksum")
    case("igmp_shorter_than_its_header", f.wire(f.ipv4(bytes(8), VTEP, GROUP, 2, length=19)), "bad_length")
    case("igmp_without_a_byte", f.wire(f.ipv4(b"", VTEP, GROUP, 2)), PUNT)
    case("igmp_on_ipv6", f.wire(f.ipv6(bytes(8), VTEP6, GROUP6, 2)), "not_ours")
    for kind in (130, 131, 132, 143):
        case(f"mld_type_{kind}", f.wire(f.mld("fe80::7", "ff02::16", kind)), PUNT)
    case("mld_of_one_byte", f.wire(f.mld("fe80::7", "ff02::16", body=b"")), PUNT)
    short = f.ipv6(b"\x8f", VTEP6, GROUP6, 58, extensions=[f.extension(f.HOP_BY_HOP)], length=7)
    only_extensions = f.ipv6(b"\x8f", VTEP6, GROUP6, 58, extensions=[f.extension(f.HOP_BY_HOP)], length=8)
    case("mld_behind_its_packet_but_in_the_frame", f.wire(only_extensions), PUNT)
    case("mld_shorter_than_its_extensions", f.wire(short), "bad_length")
    case("icmpv6_neighbour", f.wire(f.ipv6(b"\x87" + bytes(23), VTEP6, "ff02::1:ff00:1", 58)), "not_ours")
    case("icmpv6_without_a_type", f.wire(f.ipv6(b"", VTEP6, GROUP6, 58)), "truncated")
    case("icmpv6_on_ipv4", f.wire(f.ipv4(b"\x8f" + bytes(7), VTEP, GROUP, 58)), "not_ours")
    case("mld_of_no_length", f.wire(f.ipv6(b"\x8f" + bytes(7), VTEP6, GROUP6, 58, length=0)), "bad_length")
    case("claimed_though_no_list_uses_nvgre", gre_from_nve(), "unknown_group", lists=())


def sound_cases() -> None:
    size = len(from_nve()) - 14
    case("ipv4_shorter_than_its_header", from_nve(packet={"length": 19}), "bad_length")
    case("ipv4_options_beyond_its_length", from_nve(packet={"options": bytes(4), "length": 23}), "bad_length")
    case("ipv4_one_byte_missing", from_nve()[:-1], "truncated")
    case("ipv4_longer_than_the_frame", from_nve(packet={"length": size + 1}), "truncated")
    case("ipv4_checksum_wrong", from_nve(packet={"checksum": 0x5C5C}), "bad_ip_checksum")
    trusting = replace(BOX, verify_checksums=False)
    case("ipv4_checksum_not_verified", from_nve(packet={"checksum": 0x5C5C}), REPLICATE, layout=trusting)
    case("udp_checksum_not_verified", from_nve(datagram={"checksum": 0x77}), REPLICATE, layout=trusting)
    case("ipv6_payload_of_no_length", from_nve6(packet={"length": 0}), "bad_length")
    hop = f.extension(f.HOP_BY_HOP, 1)
    case(
        "ipv6_shorter_than_its_extensions",
        from_nve6(packet={"extensions": [hop], "length": 15}),
        "bad_length",
    )
    case("ipv6_ends_at_its_extensions", from_nve6(packet={"extensions": [hop], "length": 16}), "bad_length")
    case("ipv6_one_byte_missing", from_nve6()[:-1], "truncated")
    case("udp_header_outside_the_packet", from_nve(packet={"length": 27}), "bad_length")
    case("udp_length_7", from_nve(datagram={"length": 7}), "bad_length")
    case("udp_longer_than_the_packet", from_nve(datagram={"length": size - 20 + 1}), "bad_length")
    case("udp_length_8_holds_nothing", from_nve(datagram={"length": 8}), "truncated")
    case("udp_checksum_right", arriving(FROM_NVE_SUMMED), REPLICATE, note="W1")
    case("udp_checksum_wrong", from_nve(datagram={"checksum": 0xFFFF}), "bad_udp_checksum", note="W1")
    case("udp_checksum_right_ipv6", from_nve6(datagram={"checksum": f.RIGHT}), REPLICATE, note="W4")
    case("udp_checksum_wrong_ipv6", from_nve6(datagram={"checksum": 1}), "bad_udp_checksum", note="W4")
    case("udp_checksum_zero_is_taken_on_ipv6", from_nve6(), REPLICATE, note="W4")
    behind = from_nve(behind=b"tail!", datagram={"checksum": f.RIGHT})
    whole = f.ethernet(behind[14:], f.IPV4, bytes.fromhex("01005e010164"), PORTS[P0].mac)
    case(
        "bytes_behind_the_datagram_stay_to_the_group",
        behind,
        REPLICATE,
        lists=(of_group(at_port(P0)),),
        copies=[(P0, whole)],
    )
    case(
        "bytes_behind_the_datagram_vanish_in_a_rewritten_copy",
        behind,
        REPLICATE,
        lists=(of_group(at_nve(P0, "10.1.1.7")),),
        copies=[leaving(P0, vxlan(TENANT, VTEP, "10.1.1.7", ip=OURS, chksum=None))],
    )
    case("gre_shorter_than_its_ip_header", gre_from_nve(packet={"length": 19}), "bad_length")
    flags = {"flags": 0}
    case("gre_of_two_bytes", gre_from_nve(header=flags, packet={"length": 22}), "truncated")
    case("gre_of_four_bytes", gre_from_nve(header=flags, packet={"length": 24}), "bad_gre")
    case("gre_longer_than_its_packet", gre_from_nve(packet={"length": 23}), "truncated")
