"""Rules 1.1 to 1.8 of `src_cython/fastpath/README.md`: what a frame is, or why it is not ours or not sound.

Offsets are counted from the first byte of the frame; `end` is where bytes stop being available.
"""

from __future__ import annotations

from fastpath.model import Encap, Faces, Frame, Layout, Network, Port
from fastpath.reference.inner import inner_headers
from fastpath.reference.trail import Packet, Parsed, Trail
from fastpath.reference.wire import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_TAGS,
    GRE_ETHERNET,
    NESTED_PORT,
    PROTOCOL_GRE,
    PROTOCOL_ICMPV6,
    PROTOCOL_IGMP,
    PROTOCOL_UDP,
    Drop,
    checksum,
    ipv4_address,
    ipv6_address,
    pseudo_header,
    u16,
    u24,
)

HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS = 0, 43, 44, 51, 60
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS)
MAX_EXTENSIONS = 8
MLD_TYPES = (130, 131, 132, 143)


def parse(frame: Frame, port: Port, layout: Layout, trail: Trail | None = None) -> Parsed | None:
    """Apply rule 1. None is PUNT."""
    trail = Trail() if trail is None else trail
    data = trail.data = finish_checksum(frame)
    if len(data) < 14:
        raise Drop("truncated")
    if Faces.VM in port.faces:
        trail.parsed = raw_frame(data, port, layout)
        return trail.parsed

    at, ethertype = ethernet(data, 0 if frame.vlan is None else 1, trail)
    verify_udp = layout.verify_checksums and frame.mark is None
    outer = trail.outer = ip_header(data, at, len(data), ethertype)
    if outer.later_fragment:
        raise Drop("not_ours")
    if not is_ours(data, outer, layout):
        raise Drop("not_ours")
    outer = trail.outer = sound_ip(data, outer, len(data), layout)
    if outer.protocol in (PROTOCOL_IGMP, PROTOCOL_ICMPV6):
        return None
    tunnel, end = outer, sound_udp(data, outer, verify_udp)

    nested = is_nested(data, outer, layout)
    if nested:
        tunnel = trail.inside = packet_inside(data, outer, end, layout, trail)
        end = sound_udp(data, tunnel, verify_udp)

    if tunnel.protocol == PROTOCOL_UDP:
        encap, overlay = trail.overlay = Encap.VXLAN, tunnel.payload + 8
        number = trail.number = vxlan(data, overlay, end, layout)
    else:
        encap, overlay = trail.overlay = Encap.NVGRE, tunnel.payload
        number = trail.number = nvgre(data, overlay, end, layout)
    inner = overlay + 8
    inner_ethernet(data, inner, end, encap)
    packet, flow = inner_headers(data, inner, end)
    trail.parsed = Parsed(
        data=data,
        encap=encap,
        number_encap=encap,
        outer=outer,
        tunnel=tunnel,
        nested=nested,
        number=number,
        overlay=overlay,
        inner=inner,
        inner_end=end,
        inner_packet=packet,
        flow=flow,
    )
    return trail.parsed


def raw_frame(data: bytes, port: Port, layout: Layout) -> Parsed:
    """Rule 1.2, a VM's own frame: its network is that of the port (rule 2.5)."""
    network = network_behind(port, layout)
    number = network.number(network.encap)
    if number is None:
        raise ValueError(f"network {network.name} has no number in its own encapsulation")
    packet, flow = inner_headers(data, 0, len(data))
    return Parsed(
        data=data,
        encap=Encap.RAW,
        number_encap=network.encap,
        outer=None,
        tunnel=None,
        nested=False,
        number=number,
        overlay=0,
        inner=0,
        inner_end=len(data),
        inner_packet=packet,
        flow=flow,
    )


def available(stop: int, end: int) -> None:
    """Everything before `stop` must be there."""
    if stop > end:
        raise Drop("truncated")


def finish_checksum(frame: Frame) -> bytes:
    """Rule 1.1: finish the checksum that the sender's kernel left unfinished."""
    if frame.mark is None:
        return frame.data
    field = frame.mark.start + frame.mark.offset
    if frame.mark.start > len(frame.data) or field + 2 > len(frame.data):
        raise Drop("bad_mark")
    finished = checksum(frame.data[frame.mark.start :]) or 0xFFFF
    return frame.data[:field] + finished.to_bytes(2, "big") + frame.data[field + 2 :]


def ethernet(data: bytes, tags: int, trail: Trail) -> tuple[int, int]:
    """Rule 1.2: step over the Ethernet header and at most two tags, of which `tags` came out of band."""
    at, ethertype = 14, u16(data, 12)
    while ethertype in ETHERTYPE_TAGS and tags < 2:
        available(at + 4, len(data))
        at, ethertype, tags = at + 4, u16(data, at + 2), tags + 1
    trail.ethertype = ethertype, at
    if ethertype not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        raise Drop("not_ours")
    return at, ethertype


def ip_header(data: bytes, at: int, end: int, ethertype: int) -> Packet:
    """Rule 1.3: the IP header that the EtherType announces."""
    return ipv4_header(data, at, end) if ethertype == ETHERTYPE_IPV4 else ipv6_header(data, at, end)


def ipv4_header(data: bytes, at: int, end: int) -> Packet:
    """Rule 1.3, IPv4."""
    available(at + 20, end)
    if data[at] >> 4 != 4 or data[at] & 0x0F < 5:
        raise Drop("bad_ip_header")
    payload = at + (data[at] & 0x0F) * 4
    available(payload, end)
    more_fragments = bool(u16(data, at + 6) & 0x2000)
    offset = u16(data, at + 6) & 0x1FFF
    return Packet(
        start=at,
        payload=payload,
        protocol=data[at + 9],
        source=ipv4_address(data, at + 12),
        destination=ipv4_address(data, at + 16),
        fragment=more_fragments or offset > 0,
        later_fragment=offset > 0,
    )


def ipv6_header(data: bytes, at: int, end: int) -> Packet:
    """Rule 1.3, IPv6: the header and at most eight extension headers."""
    available(at + 40, end)
    if data[at] >> 4 != 6:
        raise Drop("bad_ip_header")
    here, protocol = at + 40, data[at + 6]
    walked = 0
    fragment = later_fragment = False
    while protocol in EXTENSIONS and not later_fragment:
        if walked == MAX_EXTENSIONS:
            raise Drop("too_many_extensions")
        available(here + 8, end)
        length = extension_length(protocol, data[here + 1])
        available(here + length, end)
        if protocol == FRAGMENT:
            fragment = True
            later_fragment = u16(data, here + 2) >> 3 > 0
        protocol, here, walked = data[here], here + length, walked + 1
    return Packet(
        start=at,
        payload=here,
        protocol=protocol,
        source=ipv6_address(data, at + 8),
        destination=ipv6_address(data, at + 24),
        fragment=fragment,
        later_fragment=later_fragment,
    )


def extension_length(kind: int, field: int) -> int:
    """Size of an extension header (RFC 8200 section 4; RFC 4302 section 2.2 counts differently)."""
    if kind == FRAGMENT:
        return 8
    if kind == AUTHENTICATION:
        return (field + 2) * 4
    return (field + 1) * 8


def network_behind(port: Port, layout: Layout) -> Network:
    """The network of a VM port."""
    return next(n for n in layout.networks if n.name == port.network)


def network_of(in_port: int, frame: Parsed, layout: Layout) -> Network | None:
    """Sections 6 and 8: the network of a frame of scope NVE; None: it has none."""
    if frame.encap is Encap.RAW:
        return network_behind(layout.ports[in_port], layout)
    return next((n for n in layout.networks if n.number(frame.encap) == frame.number), None)


def is_ours(data: bytes, outer: Packet, layout: Layout) -> bool:
    """Rule 1.4: whether a tunnel or a membership packet is meant for us."""
    if outer.protocol in (PROTOCOL_IGMP, PROTOCOL_ICMPV6):
        return is_membership(data, outer, len(data))
    if not is_tunnel(data, outer, len(data), (*layout.vxlan_ports, NESTED_PORT)):
        return False
    return outer.destination.is_multicast or any(e.address == outer.destination for e in layout.endpoints)


def is_membership(data: bytes, packet: Packet, end: int) -> bool:
    """Rule 1.4: IGMP over IPv4, MLD over IPv6."""
    if packet.version == 4:
        return packet.protocol == PROTOCOL_IGMP
    if packet.protocol != PROTOCOL_ICMPV6:
        return False
    available(packet.payload + 1, end)
    return data[packet.payload] in MLD_TYPES


def is_tunnel(data: bytes, packet: Packet, end: int, udp_ports: tuple[int, ...]) -> bool:
    """Rule 1.4: UDP to one of these ports, or GRE that carries Ethernet."""
    if packet.protocol == PROTOCOL_UDP:
        available(packet.payload + 8, end)
        return u16(data, packet.payload + 2) in udp_ports
    if packet.protocol == PROTOCOL_GRE:
        available(packet.payload + 4, end)
        return u16(data, packet.payload + 2) == GRE_ETHERNET
    return False


def is_nested(data: bytes, outer: Packet, layout: Layout) -> bool:
    """Rule 1.4: GRE-in-UDP, unless its port is configured as one of VXLAN's."""
    if outer.protocol != PROTOCOL_UDP or NESTED_PORT in layout.vxlan_ports:
        return False
    return u16(data, outer.payload + 2) == NESTED_PORT


def sound_ip(data: bytes, packet: Packet, end: int, layout: Layout) -> Packet:
    """Rule 1.5 as far as IP: lengths, header checksum, fragments. The answer knows its end."""
    if packet.version == 4:
        length = u16(data, packet.start + 2)
        if length < packet.payload - packet.start:
            raise Drop("bad_length")
        available(packet.start + length, end)
        if layout.verify_checksums and checksum(data[packet.start : packet.payload]) != 0:
            raise Drop("bad_ip_checksum")
    else:
        length = 40 + u16(data, packet.start + 4)
        if length == 40 or length < packet.payload - packet.start:
            raise Drop("bad_length")
        available(packet.start + length, end)
    if packet.fragment:
        raise Drop("fragment")
    return Packet(
        start=packet.start,
        payload=packet.payload,
        protocol=packet.protocol,
        source=packet.source,
        destination=packet.destination,
        fragment=False,
        later_fragment=False,
        end=packet.start + length,
    )


def sound_udp(data: bytes, packet: Packet, verify: bool) -> int:
    """Rule 1.5 behind IP: UDP's length and checksum. Returns the inner end."""
    if packet.protocol != PROTOCOL_UDP:
        return packet.end
    if packet.payload + 8 > packet.end:
        raise Drop("bad_length")
    length = u16(data, packet.payload + 4)
    if not 8 <= length <= packet.end - packet.payload:
        raise Drop("bad_length")
    datagram = data[packet.payload : packet.payload + length]
    if verify and u16(datagram, 6) != 0:
        covered = pseudo_header(packet.source, packet.destination, PROTOCOL_UDP, length) + datagram
        if checksum(covered) != 0:
            raise Drop("bad_udp_checksum")
    return packet.payload + length


def packet_inside(data: bytes, outer: Packet, end: int, layout: Layout, trail: Trail) -> Packet:
    """Rule 1.6: the packet inside a nested tunnel (RFC 8086), a tunnel packet to a group itself."""
    if outer.destination.is_multicast:
        raise Drop("bad_nesting")
    gre = outer.payload + 8
    available(gre + 4, end)
    protocol = u16(data, gre + 2)
    if u16(data, gre) != 0 or protocol not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        raise Drop("bad_gre")
    inside = trail.inside = ip_header(data, gre + 4, end, protocol)
    if inside.later_fragment:
        raise Drop("bad_nesting")
    if not is_tunnel(data, inside, end, layout.vxlan_ports):
        raise Drop("bad_nesting")
    if not inside.destination.is_multicast:
        raise Drop("bad_nesting")
    return sound_ip(data, inside, end, layout)


def vxlan(data: bytes, at: int, end: int, layout: Layout) -> int:
    """Rule 1.7, VXLAN (RFC 7348 section 5). Returns the VNI."""
    available(at + 8, end)
    if not data[at] & 0x08:
        raise Drop("no_vni_flag")
    if layout.strict_reserved and (data[at] != 0x08 or u24(data, at + 1) != 0 or data[at + 7] != 0):
        raise Drop("reserved_bits")
    return u24(data, at + 4)


def nvgre(data: bytes, at: int, end: int, layout: Layout) -> int:
    """Rule 1.7, NVGRE (RFC 7637 section 3.2). Returns the VSID."""
    available(at + 4, end)
    if u16(data, at) & 0xF807 != 0x2000:
        raise Drop("bad_gre")
    if layout.strict_reserved and u16(data, at) & ~0xF807 & 0xFFFF != 0:
        raise Drop("reserved_bits")
    available(at + 8, end)
    number = u24(data, at + 4)
    if reserved_vsid(number):
        raise Drop("reserved_vsid")
    return number


def reserved_vsid(number: int) -> bool:
    """Whether no NVGRE frame may carry this VSID (RFC 7637 section 3.2)."""
    return number <= 0xFFF or number == 0xFFFFFF


def inner_ethernet(data: bytes, at: int, end: int, encap: Encap) -> None:
    """Rule 1.8: the tenant's Ethernet header is whole, and in NVGRE without a tag (RFC 7637 section 3.2)."""
    available(at + 14, end)
    if encap is Encap.NVGRE and u16(data, at + 12) in ETHERTYPE_TAGS:
        raise Drop("inner_tag")
