"""Rule 1.9 of `src_cython/fastpath/README.md`: the tenant's headers, for the flow, the inner group and ECN.

Nothing here drops a frame: a tenant may send what it likes.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastpath.model import IPAddress
from fastpath.reference.wire import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_TAGS,
    PROTOCOL_SCTP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    ipv4_address,
    ipv6_address,
    u16,
)

MASK64 = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class InnerPacket:
    """The tenant's network header, as far as the flow hash, the inner group and ECN need it (rule 1.9)."""

    start: int
    source: IPAddress
    destination: IPAddress
    protocol: int
    ports: int


def inner_headers(data: bytes, inner: int, end: int) -> tuple[InnerPacket | None, int]:
    """Rule 1.9: the tenant's network header and the flow; nothing here drops a frame."""
    at, ethertype = inner_tags(data, inner, end)
    packet: InnerPacket | None = None
    if ethertype == ETHERTYPE_IPV4:
        packet = inner_ipv4(data, at, end)
    elif ethertype == ETHERTYPE_IPV6:
        packet = inner_ipv6(data, at, end)
    return packet, flow_hash(data[inner : inner + 12], ethertype, packet)


def inner_tags(data: bytes, inner: int, end: int) -> tuple[int, int]:
    """Rule 1.9: step over at most two tags. An EtherType that is not there reads 0."""
    at, ethertype = inner + 14, u16(data, inner + 12)
    for _ in range(2):
        if ethertype in ETHERTYPE_TAGS:
            ethertype = u16(data, at + 2) if at + 4 <= end else 0
            at += 4
    return at, ethertype


def inner_ipv4(data: bytes, at: int, end: int) -> InnerPacket | None:
    """Rule 1.9, IPv4: a complete header, and ports unless it is a fragment."""
    if at + 20 > end or data[at] >> 4 != 4 or data[at] & 0x0F < 5:
        return None
    behind = at + (data[at] & 0x0F) * 4
    if behind > end:
        return None
    protocol = data[at + 9]
    whole = u16(data, at + 6) & 0x3FFF == 0
    ports = ports_word(data, protocol, behind, end) if whole else 0
    return InnerPacket(at, ipv4_address(data, at + 12), ipv4_address(data, at + 16), protocol, ports)


def inner_ipv6(data: bytes, at: int, end: int) -> InnerPacket | None:
    """Rule 1.9, IPv6: a complete header, and ports if they follow directly."""
    if at + 40 > end or data[at] >> 4 != 6:
        return None
    protocol = data[at + 6]
    ports = ports_word(data, protocol, at + 40, end)
    return InnerPacket(at, ipv6_address(data, at + 8), ipv6_address(data, at + 24), protocol, ports)


def ports_word(data: bytes, protocol: int, at: int, end: int) -> int:
    """Rule 1.9: the four bytes of ports, or 0."""
    if protocol not in (PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_SCTP) or at + 4 > end:
        return 0
    return int.from_bytes(data[at : at + 4], "big")


def flow_hash(macs: bytes, ethertype: int, packet: InnerPacket | None) -> int:
    """Hash the tenant's flow (README, "The flow hash"): `macs` are its destination and source MAC."""
    words = [int.from_bytes(macs[:8], "big"), int.from_bytes(macs[8:12], "big") << 16 | ethertype]
    if packet is not None:
        addresses = packet.source.packed + packet.destination.packed
        words += [int.from_bytes(addresses[i : i + 8], "big") for i in range(0, len(addresses), 8)]
        words.append(packet.protocol << 32 | packet.ports)
    h = 0x9E3779B97F4A7C15
    for word in words:
        h = (h ^ word) * 0xFF51AFD7ED558CCD & MASK64
        h ^= h >> 32
    return h >> 32
