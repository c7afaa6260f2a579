"""Reading and summing bytes: the few operations that the rules are made of, and the two ways to give up.

dpkt sums and builds headers; it does not read them here, because it is lenient exactly where the rules
are strict (lengths that disagree, headers cut short).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import dpkt

from fastpath.model import IPAddress

PROTOCOL_IGMP = 2
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
PROTOCOL_GRE = 47
PROTOCOL_ICMPV6 = 58
PROTOCOL_SCTP = 132

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_TAGS = (0x8100, 0x88A8)
GRE_ETHERNET = 0x6558
NESTED_PORT = 4754
CE = 3


class Drop(Exception):
    """The frame ends here; the argument is the reason's name."""


class CopyDrop(Exception):
    """One copy cannot be made; the argument is the reason's name."""


def u16(data: bytes | bytearray, at: int) -> int:
    """Read two bytes, big-endian."""
    return int.from_bytes(data[at : at + 2], "big")


def u24(data: bytes, at: int) -> int:
    """Read three bytes, big-endian."""
    return int.from_bytes(data[at : at + 3], "big")


def ipv4_address(data: bytes, at: int) -> IPv4Address:
    """Read an IPv4 address."""
    return IPv4Address(data[at : at + 4])


def ipv6_address(data: bytes, at: int) -> IPv6Address:
    """Read an IPv6 address."""
    return IPv6Address(data[at : at + 16])


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071): the sum's complement, 0 over data that holds a right one."""
    return int(dpkt.in_cksum(data))


def updated_checksum(old: int, before: bytes, after: bytes) -> int:
    """Return `old` after the words `before` became `after`: RFC 1624, equation 3, HC' = ~(~HC + ~m + m')."""
    total = ~old & 0xFFFF
    total += sum(~u16(before, i) & 0xFFFF for i in range(0, len(before), 2))
    total += sum(u16(after, i) for i in range(0, len(after), 2))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def pseudo_header(source: IPAddress, destination: IPAddress, protocol: int, length: int) -> bytes:
    """Return what UDP's checksum covers besides the datagram (RFC 768; RFC 8200 section 8.1)."""
    addresses = source.packed + destination.packed
    if source.version == 4:
        return addresses + bytes((0, protocol)) + length.to_bytes(2, "big")
    return addresses + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))
