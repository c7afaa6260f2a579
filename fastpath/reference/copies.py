"""Sections 3 and 4 of `src_cython/fastpath/README.md`: what is set right once per frame, and its copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import dpkt

from fastpath.model import Egress, Encap, Form, IPAddress, Layout, Port, Scope
from fastpath.reference.lookup import Found, inner_ecn, networks_with, traffic_class, tunnel_ecn
from fastpath.reference.parse import reserved_vsid
from fastpath.reference.trail import Packet, Parsed
from fastpath.reference.wire import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    GRE_ETHERNET,
    NESTED_PORT,
    PROTOCOL_GRE,
    PROTOCOL_UDP,
    CopyDrop,
    checksum,
    pseudo_header,
    u16,
    updated_checksum,
)

NextHops = Mapping[tuple[int, IPAddress], bytes | None]
"""(out port, address) -> MAC of the next hop by which it is reached from there; None: not known."""
TTL = 64
MAX_PACKET = 65535


def settle(frame: Parsed, found: Found, layout: Layout) -> Parsed:
    """Section 3: what is set right once per frame, in place. RAW frames stay as they are."""
    tunnel = frame.tunnel
    if tunnel is None:
        return frame
    data = bytearray(frame.data)
    outside = tunnel_ecn(frame, tunnel) or 0
    if found.recovered is not None:
        set_destination(data, tunnel, found.recovered)
        tunnel = replace(tunnel, destination=found.recovered)
    if frame.nested:
        set_ecn(data, tunnel.start, outside)
    if found.scope is Scope.NVE and frame.inner_packet is not None:
        before = bytes(data)
        set_ecn(data, frame.inner_packet.start, inner_ecn(frame, outside) or 0)
        if data[frame.inner_packet.start] >> 4 == 6:
            words = slice(frame.inner_packet.start, frame.inner_packet.start + 2)
            fix_udp_checksum(data, tunnel, before[words], bytes(data[words]))
    raise_ttl(data, tunnel)
    if frame.encap is Encap.VXLAN and any(
        n.clear_reserved for n in networks_with(layout, Encap.VXLAN, frame.number)
    ):
        clear_reserved(data, tunnel, frame.overlay)
    return replace(frame, data=bytes(data), tunnel=tunnel)


def fix_ip_checksum(data: bytearray, start: int, before: bytes, after: bytes) -> None:
    """Update an IPv4 header's checksum for words that changed; IPv6 has none."""
    if data[start] >> 4 == 4 and before != after:
        old = u16(data, start + 10)
        data[start + 10 : start + 12] = updated_checksum(old, before, after).to_bytes(2, "big")


def fix_udp_checksum(data: bytearray, packet: Packet, before: bytes, after: bytes) -> None:
    """Update the checksum of a packet's UDP header for words that changed; zero means none and stays."""
    if packet.protocol != PROTOCOL_UDP or before == after:
        return
    at = packet.payload + 6
    old = u16(data, at)
    if old != 0:
        data[at : at + 2] = (updated_checksum(old, before, after) or 0xFFFF).to_bytes(2, "big")


def set_destination(data: bytearray, packet: Packet, group: IPAddress) -> None:
    """Section 3: a recovered group becomes the packet's destination."""
    before, after = packet.destination.packed, group.packed
    at = packet.start + (16 if packet.version == 4 else 24)
    data[at : at + len(after)] = after
    fix_ip_checksum(data, packet.start, before, after)
    fix_udp_checksum(data, packet, before, after)


def set_ecn(data: bytearray, start: int, ecn: int) -> None:
    """Section 3: write the ECN field of the IP header at `start`."""
    before = bytes(data[start : start + 2])
    if data[start] >> 4 == 4:
        data[start + 1] = data[start + 1] & 0xFC | ecn
    else:
        data[start + 1] = data[start + 1] & 0xCF | ecn << 4
    fix_ip_checksum(data, start, before, bytes(data[start : start + 2]))


def raise_ttl(data: bytearray, packet: Packet) -> None:
    """Section 3: a TTL or hop limit of 0 becomes 1."""
    at = packet.start + (8 if packet.version == 4 else 7)
    if data[at] == 0:
        before = bytes(data[packet.start + 8 : packet.start + 10])
        data[at] = 1
        fix_ip_checksum(data, packet.start, before, bytes(data[packet.start + 8 : packet.start + 10]))


def clear_reserved(data: bytearray, packet: Packet, at: int) -> None:
    """Section 3: the VXLAN header as RFC 7348 section 5 draws it, reserved bits zero."""
    before = bytes(data[at : at + 8])
    data[at : at + 4] = b"\x08\x00\x00\x00"
    data[at + 7] = 0
    fix_udp_checksum(data, packet, before, bytes(data[at : at + 8]))


@dataclass(frozen=True, slots=True)
class NewHeader:
    """What a new IP header needs to know before its payload is there."""

    egress: Egress
    source: IPAddress
    destination: IPAddress
    traffic_class: int


class Copier:
    """Makes copies; it remembers how many IPv4 headers each egress has got."""

    def __init__(self, layout: Layout, next_hops: NextHops) -> None:
        self.layout = layout
        self.next_hops = next_hops
        self.identifications: Counter[Egress] = Counter()

    def copy(self, frame: Parsed, egress: Egress) -> bytes:
        """Section 4: the frame that leaves for this egress, or CopyDrop."""
        if egress.form is Form.GROUP:
            return self.to_group(frame, egress)
        if egress.form is Form.REWRITE:
            return self.to_address(frame, egress)
        if egress.form is Form.NESTED:
            return self.nested(frame, egress)
        return self.decapsulated(frame, egress)

    def to_group(self, frame: Parsed, egress: Egress) -> bytes:
        """Section 4, rows GROUP."""
        tunnel = frame.tunnel
        if tunnel is None or not tunnel.destination.is_multicast:
            raise CopyDrop("no_header")
        if same_overlay(frame, egress):
            packet = frame.data[tunnel.start : tunnel.end]
            port = self.fitting_port(egress, len(packet), tunnel.version)
            return ethernet_frame(port, tunnel.destination, packet)
        if tunnel.version != egress.version:
            raise CopyDrop("no_header")
        return self.made_anew(frame, egress, tunnel.destination)

    def to_address(self, frame: Parsed, egress: Egress) -> bytes:
        """Section 4, rows REWRITE."""
        if frame.tunnel is not None and same_overlay(frame, egress):
            return self.rewritten(frame, frame.tunnel, egress)
        if egress.encap is None or egress.address is None:
            raise CopyDrop("no_header")
        return self.made_anew(frame, egress, egress.address)

    def rewritten(self, frame: Parsed, tunnel: Packet, egress: Egress) -> bytes:
        """Section 4, first row REWRITE: the overlay packet as it came, under a new IP header."""
        header = new_header(frame, egress, egress.address)
        overlay = frame.data[frame.overlay : frame.inner_end]
        if tunnel.protocol == PROTOCOL_GRE:
            return self.packet(header, PROTOCOL_GRE, overlay)
        kept = dpkt.udp.UDP(frame.data[tunnel.payload : tunnel.payload + 8])
        if kept.sum == 0:
            return self.udp_packet(header, kept.sport, kept.dport, overlay)
        before = tunnel.source.packed + tunnel.destination.packed
        after = header.source.packed + header.destination.packed
        total = updated_checksum(kept.sum, before, after) or 0xFFFF
        return self.packet(header, PROTOCOL_UDP, udp_header(kept.sport, kept.dport, total, overlay) + overlay)

    def nested(self, frame: Parsed, egress: Egress) -> bytes:
        """Section 4, row NESTED (RFC 8086): the tunnel packet whole, inside GRE in UDP."""
        tunnel = frame.tunnel
        if tunnel is None or not tunnel.destination.is_multicast:
            raise CopyDrop("no_header")
        header = new_header(frame, egress, egress.address)
        ethertype = ETHERTYPE_IPV4 if tunnel.version == 4 else ETHERTYPE_IPV6
        gre = b"\x00\x00" + ethertype.to_bytes(2, "big")
        packet = frame.data[tunnel.start : tunnel.end]
        return self.udp_packet(header, flow_port(frame), NESTED_PORT, gre + packet)

    def decapsulated(self, frame: Parsed, egress: Egress) -> bytes:
        """Section 4, row DECAPSULATED: the tenant's frame alone."""
        inner = frame.inner_frame()
        self.fitting_port(egress, len(inner) - 14, 4)
        return inner

    def made_anew(self, frame: Parsed, egress: Egress, destination: IPAddress) -> bytes:
        """Section 4, *made anew*: the tenant's frame under headers of our own (RFC 7348, RFC 7637)."""
        encap = egress.encap
        if encap is None:
            raise CopyDrop("no_header")
        header = new_header(frame, egress, destination)
        number = self.new_number(frame, egress, encap)
        inner = frame.inner_frame()
        if encap is Encap.NVGRE:
            if frame.inner_tagged():
                raise CopyDrop("tag_in_nvgre")
            if number is None or reserved_vsid(number):
                raise CopyDrop("no_vsid")
            key = number.to_bytes(3, "big") + bytes((frame.flow >> 16 & 0xFF,))
            gre = b"\x20\x00" + GRE_ETHERNET.to_bytes(2, "big") + key
            return self.packet(header, PROTOCOL_GRE, gre + inner)
        vxlan = b"\x08\x00\x00\x00" + (number or 0).to_bytes(3, "big") + b"\x00"
        return self.udp_packet(header, flow_port(frame), self.layout.vxlan_ports[0], vxlan + inner)

    def new_number(self, frame: Parsed, egress: Egress, encap: Encap) -> int | None:
        """Section 4, *the number*: the egress's, the frame's own, or its network's other one."""
        if egress.vni is not None:
            return egress.vni
        if encap is frame.number_encap:
            return frame.number
        for network in networks_with(self.layout, frame.number_encap, frame.number):
            return network.number(encap)
        return frame.number

    def udp_packet(self, header: NewHeader, sport: int, dport: int, payload: bytes) -> bytes:
        """A UDP datagram without a checksum on IPv4, with a full one on IPv6 (CONFORMANCE W4)."""
        total = 0
        if header.source.version == 6:
            self.fitting_port(header.egress, 48 + len(payload), 6)
            length = 8 + len(payload)
            pseudo = pseudo_header(header.source, header.destination, PROTOCOL_UDP, length)
            total = checksum(pseudo + udp_header(sport, dport, 0, payload) + payload) or 0xFFFF
        return self.packet(header, PROTOCOL_UDP, udp_header(sport, dport, total, payload) + payload)

    def packet(self, header: NewHeader, protocol: int, payload: bytes) -> bytes:
        """Section 4, *New IP header*, in its Ethernet frame."""
        if header.source.version == 6:
            port = self.fitting_port(header.egress, 40 + len(payload), 6)
            packet = ipv6_header(header, protocol, len(payload)) + payload
        else:
            port = self.fitting_port(header.egress, 20 + len(payload), 4)
            identification = self.identifications[header.egress] % 65536
            self.identifications[header.egress] += 1
            packet = ipv4_header(header, protocol, len(payload), identification) + payload
        return ethernet_frame(port, header.destination, packet)

    def fitting_port(self, egress: Egress, size: int, version: int) -> Port:
        """Section 4, `over_mtu`, `link_down`, `no_neighbour`: the out port, if an IP packet of this size may
        leave there, and somebody is known to take it."""
        port = self.layout.ports[egress.out_port]
        if port.mtu and size > port.mtu:
            raise CopyDrop("over_mtu")
        if size > MAX_PACKET + (40 if version == 6 else 0):
            raise CopyDrop("over_mtu")
        if not port.is_up:
            raise CopyDrop("link_down")
        address = egress.address
        if address is None or address.is_multicast or egress.form not in {Form.REWRITE, Form.NESTED}:
            return port
        place = egress.out_port, address
        if place in self.next_hops:
            port = replace(port, next_hop_mac=self.next_hops[place])
        if port.next_hop_mac is None:
            raise CopyDrop("no_neighbour")
        return port


def same_overlay(frame: Parsed, egress: Egress) -> bool:
    """Section 4: whether the egress wants the encapsulation and the number that the frame came with."""
    return egress.encap in (None, frame.encap) and egress.vni in (None, frame.number)


def flow_port(frame: Parsed) -> int:
    """Source port of headers we make (RFC 7348 section 5: 49152 to 65535)."""
    return 0xC000 | frame.flow & 0x3FFF


def new_header(frame: Parsed, egress: Egress, destination: IPAddress | None) -> NewHeader:
    """Section 4, *New IP header*: traffic class and source, or `no_header` where there is no source."""
    source = egress.source
    if source is None and frame.tunnel is not None:
        source = frame.tunnel.source
    if source is None or destination is None or source.version != destination.version:
        raise CopyDrop("no_header")
    return NewHeader(egress, source, destination, new_traffic_class(frame))


def new_traffic_class(frame: Parsed) -> int:
    """Section 4: the tunnel packet's; for RAW the tenant packet's, or 0 (RFC 6040 section 4.1)."""
    if frame.tunnel is not None:
        return traffic_class(frame.data, frame.tunnel.start)
    if frame.inner_packet is not None:
        return traffic_class(frame.data, frame.inner_packet.start)
    return 0


def udp_header(sport: int, dport: int, total: int, payload: bytes) -> bytes:
    """A UDP header in front of `payload`; a datagram that is too long gets its drop before it is sent."""
    length = min(8 + len(payload), 0xFFFF)
    return bytes(dpkt.udp.UDP(sport=sport, dport=dport, ulen=length, sum=total).pack_hdr())


def ipv4_header(header: NewHeader, protocol: int, size: int, identification: int) -> bytes:
    """Section 4, *New IP header*, IPv4."""
    made = dpkt.ip.IP(
        tos=header.traffic_class,
        len=20 + size,
        id=identification,
        df=1,
        ttl=TTL,
        p=protocol,
        src=header.source.packed,
        dst=header.destination.packed,
    )
    made.sum = checksum(made.pack_hdr())
    return bytes(made.pack_hdr())


def ipv6_header(header: NewHeader, protocol: int, size: int) -> bytes:
    """Section 4, *New IP header*, IPv6: flow label 0."""
    made = dpkt.ip6.IP6(
        fc=header.traffic_class,
        plen=size,
        nxt=protocol,
        hlim=TTL,
        src=header.source.packed,
        dst=header.destination.packed,
    )
    return bytes(made.pack_hdr())


def group_mac(group: IPAddress) -> bytes:
    """Ethernet address of a group (RFC 1112 section 6.4, RFC 2464 section 7)."""
    if group.version == 4:
        return b"\x01\x00\x5e" + (int(group) & 0x7FFFFF).to_bytes(3, "big")
    return b"\x33\x33" + group.packed[-4:]


def ethernet_frame(port: Port, destination: IPAddress, packet: bytes) -> bytes:
    """Section 4: the Ethernet header in front of an IP packet to `destination`."""
    mac = group_mac(destination) if destination.is_multicast else port.next_hop_mac or bytes(6)
    ethertype = ETHERTYPE_IPV4 if destination.version == 4 else ETHERTYPE_IPV6
    return bytes(dpkt.ethernet.Ethernet(dst=mac, src=port.mac, type=ethertype).pack_hdr()) + packet
