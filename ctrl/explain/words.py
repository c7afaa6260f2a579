"""How addresses, headers and receivers read in a step of an explanation."""

from __future__ import annotations

from fastpath.model import Egress, Encap, Faces, Form, KeyKind, Layout, Owner, ReplicationList
from fastpath.reference.trail import Packet
from fastpath.reference.wire import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    PROTOCOL_GRE,
    PROTOCOL_ICMPV6,
    PROTOCOL_IGMP,
    PROTOCOL_SCTP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    u16,
)

_PROTOCOLS = {
    1: "ICMP",
    PROTOCOL_IGMP: "IGMP",
    PROTOCOL_TCP: "TCP",
    PROTOCOL_UDP: "UDP",
    PROTOCOL_GRE: "GRE",
    PROTOCOL_ICMPV6: "ICMPv6",
    PROTOCOL_SCTP: "SCTP",
}
_ETHERTYPES = {ETHERTYPE_IPV4: "IPv4", ETHERTYPE_IPV6: "IPv6", 0x0806: "ARP", 0x88CC: "LLDP"}
KEYS = {
    KeyKind.INNER_SOURCE_GROUP: "inner source and group",
    KeyKind.INNER_GROUP: "inner group",
    KeyKind.VNI: "number",
    KeyKind.SOURCE_GROUP: "outer source and group",
    KeyKind.GROUP: "outer group",
}


def faces(of: Faces) -> str:
    """What is behind a port, as a config says it."""
    return ", ".join((one.name or "").lower() for one in of) or "nobody"


def macs(data: bytes, at: int) -> str:
    """Source and destination of an Ethernet header."""
    return f"{data[at + 6 : at + 12].hex(':')} > {data[at : at + 6].hex(':')}"


def ethertype(number: int) -> str:
    """An EtherType by its name, if it has one."""
    return _ETHERTYPES.get(number, f"EtherType 0x{number:04x}")


def protocol(number: int) -> str:
    """An IP protocol by its name, if it has one."""
    return _PROTOCOLS.get(number, f"protocol {number}")


def packet(data: bytes, of: Packet) -> str:
    """An IP packet's version, what it carries, its TTL, and its size once that is sound."""
    ttl = f"TTL {data[of.start + 8]}" if of.version == 4 else f"hop limit {data[of.start + 7]}"
    parts = [f"IPv{of.version}", _carried(data, of), ttl]
    if of.end:
        parts.append(f"{of.end - of.start:,} bytes")
    if of.fragment:
        parts.append("a fragment")
    return ", ".join(parts)


def _carried(data: bytes, of: Packet) -> str:
    name = protocol(of.protocol)
    has_ports = of.protocol in {PROTOCOL_UDP, PROTOCOL_TCP, PROTOCOL_SCTP} and not of.later_fragment
    if not has_ports or len(data) < of.payload + 4:
        return name
    return f"{name} {ports(int.from_bytes(data[of.payload : of.payload + 4], 'big'))}"


def ports(word: int) -> str:
    """The two ports in four bytes."""
    return f"{word >> 16} > {word & 0xFFFF}"


def tags(data: bytes, end: int, vlan: tuple[int, int] | None) -> str:
    """The VLAN tags in front of `end`, outermost first, and the one that came out of band."""
    found = [] if vlan is None else [vlan]
    found += [(u16(data, at), u16(data, at + 2)) for at in range(12, end - 2, 4)]
    return "".join(f"VLAN {tci & 0xFFF}, " for _, tci in found)


def number(encap: Encap, of: int) -> str:
    """A virtual network by its number."""
    return f"{encap.name.lower()} {of}"


def owner(of: Owner, layout: Layout) -> str:
    """Whose copy it is: a port, PORT/NVE for one served by unicast, or a peer's address."""
    port = None if of.port is None else layout.ports[of.port].name
    return "/".join(str(part) for part in (port, of.address) if part is not None)


def station(of: Egress, layout: Layout) -> str:
    """Where a MAC is."""
    if of.form is Form.DECAPSULATED:
        return f"it is at port {layout.ports[of.out_port].name}"
    return f"it is behind {of.address}"


def segments(of: ReplicationList) -> str:
    """How many a list has."""
    return f"{len(of.local):,} local, {len(of.remote):,} remote"


def receiver(of: Egress) -> str:
    """To whom a copy goes."""
    if of.form is Form.DECAPSULATED:
        return "vm"
    return "group" if of.address is None else str(of.address)


def count(n: int, what: str) -> str:
    """A number of things; the plural of all that is counted here ends in s or ies."""
    many = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{n:,} {what if n == 1 else many}"
