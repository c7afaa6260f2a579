"""Frames made byte by byte, so that any field can be wrong: the seeds of the cases and of the random batches.

The defaults make right frames; `test_reference` holds them against scapy. A length or checksum that is given
is written as it is. Every builder of a whole frame ends in `wire`, which takes the VLAN tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from typing import Any

from fastpath.model import Frame, Mark

ZERO, RIGHT = -1, -2
"""Choices for a checksum besides a literal value."""

IPV4, IPV6, TAG, SERVICE_TAG, ETHERNET_IN_GRE = 0x0800, 0x86DD, 0x8100, 0x88A8, 0x6558
IGMP, TCP, UDP, GRE, ICMPV6, SCTP = 2, 6, 17, 47, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS = 0, 43, 44, 51, 60
VXLAN_PORT, NESTED_PORT = 4789, 4754

HERE_MAC = bytes.fromhex("02fa57000001")
THERE_MAC = bytes.fromhex("02de1f00ab42")

Knobs = dict[str, Any]


def address(text: str) -> bytes:
    """An IP address as it stands in a header."""
    return ip_address(text).packed


def internet_checksum(data: bytes) -> int:
    """RFC 1071, spelled once more so that the tests do not lean on dpkt.

    A word's carry comes in again below: 65536 counts as 1, so the sum is that of one long number mod 65535.
    """
    number = int.from_bytes(data + bytes(len(data) % 2), "big")
    total = (number % 0xFFFF or 0xFFFF) if number else 0
    return total ^ 0xFFFF


def pseudo(src: str, dst: str, protocol: int, length: int) -> bytes:
    """The pseudo-header of TCP and UDP."""
    if ":" in src:
        return address(src) + address(dst) + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))
    return address(src) + address(dst) + bytes((0, protocol)) + length.to_bytes(2, "big")


def ethernet(
    payload: bytes,
    ethertype: int,
    dst: bytes = HERE_MAC,
    src: bytes = THERE_MAC,
    tags: Sequence[tuple[int, int]] = (),
) -> bytes:
    """An Ethernet frame with any number of (TPID, TCI) tags."""
    middle = b"".join(tpid.to_bytes(2, "big") + tci.to_bytes(2, "big") for tpid, tci in tags)
    return dst + src + middle + ethertype.to_bytes(2, "big") + payload


def ipv4(
    payload: bytes,
    src: str,
    dst: str,
    protocol: int,
    *,
    tos: int = 0,
    ttl: int = 7,
    ident: int = 0x4321,
    flags: int = 2,
    offset: int = 0,
    options: bytes = b"",
    version: int = 4,
    ihl: int | None = None,
    length: int | None = None,
    checksum: int = RIGHT,
) -> bytes:
    """An IPv4 packet. `options` is a multiple of four bytes, `offset` counts units of eight."""
    size = 20 + len(options) + len(payload)
    header = bytearray(20)
    header[0] = version << 4 | (5 + len(options) // 4 if ihl is None else ihl)
    header[1] = tos
    header[2:4] = (size if length is None else length).to_bytes(2, "big")
    header[4:6] = ident.to_bytes(2, "big")
    header[6:8] = (flags << 13 | offset).to_bytes(2, "big")
    header[8], header[9] = ttl, protocol
    header[12:16], header[16:20] = address(src), address(dst)
    total = internet_checksum(bytes(header) + options) if checksum == RIGHT else max(checksum, 0)
    header[10:12] = total.to_bytes(2, "big")
    return bytes(header) + options + payload


def ipv6(
    payload: bytes,
    src: str,
    dst: str,
    protocol: int,
    *,
    tos: int = 0,
    ttl: int = 7,
    flow_label: int = 0x5A5A5,
    extensions: Sequence[tuple[int, bytes]] = (),
    version: int = 6,
    length: int | None = None,
) -> bytes:
    """An IPv6 packet. Each extension is (its own number, its bytes, whose first one is filled in here)."""
    numbers = [kind for kind, _ in extensions] + [protocol]
    middle = b"".join(
        bytes((follows,)) + body[1:] for follows, (_, body) in zip(numbers[1:], extensions, strict=True)
    )
    size = len(middle) + len(payload)
    first = version << 28 | tos << 20 | flow_label
    header = first.to_bytes(4, "big") + (size if length is None else length).to_bytes(2, "big")
    return header + bytes((numbers[0], ttl)) + address(src) + address(dst) + middle + payload


def extension(kind: int, units: int = 0) -> tuple[int, bytes]:
    """An extension header of 8 bytes and `units` more of its unit (8 bytes; 4 for authentication)."""
    if kind == AUTHENTICATION:
        return kind, bytes((0, units)) + bytes(6 + 4 * units)
    return kind, bytes((0, units)) + bytes(6 + 8 * units)


def fragment_extension(offset: int, more: bool, reserved: int = 0) -> tuple[int, bytes]:
    """An IPv6 fragment header; `offset` counts units of eight bytes."""
    return FRAGMENT, bytes((0, reserved)) + (offset << 3 | more).to_bytes(2, "big") + b"\x00\x00\xbe\xef"


def udp(
    payload: bytes,
    src: str,
    dst: str,
    *,
    sport: int = 0xC123,
    dport: int = VXLAN_PORT,
    length: int | None = None,
    checksum: int = ZERO,
) -> bytes:
    """A UDP datagram; src and dst are for its checksum only."""
    size = 8 + len(payload) if length is None else length
    start = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + (size & 0xFFFF).to_bytes(2, "big")
    total = max(checksum, 0)
    if checksum == RIGHT:
        total = internet_checksum(pseudo(src, dst, UDP, size) + start + b"\x00\x00" + payload) or 0xFFFF
    return start + total.to_bytes(2, "big") + payload


def ip(payload: bytes, src: str, dst: str, protocol: int, **knobs: Any) -> bytes:
    """An IP packet of the version of its addresses."""
    build = ipv6 if isinstance(ip_address(dst), IPv6Address) else ipv4
    packet: bytes = build(payload, src, dst, protocol, **knobs)
    return packet


def vxlan_header(vni: int, flags: int = 0x08, reserved: int = 0, last: int = 0) -> bytes:
    """The eight bytes of VXLAN: flags, 24 reserved bits, VNI, 8 reserved bits."""
    return bytes((flags,)) + reserved.to_bytes(3, "big") + vni.to_bytes(3, "big") + bytes((last,))


def nvgre_header(
    vsid: int, flow_id: int = 0x9C, flags: int = 0x2000, protocol: int = ETHERNET_IN_GRE
) -> bytes:
    """The eight bytes of NVGRE: GRE flags and version, protocol, VSID, FlowID."""
    return (
        flags.to_bytes(2, "big") + protocol.to_bytes(2, "big") + vsid.to_bytes(3, "big") + bytes((flow_id,))
    )


def vxlan_packet(
    inner: bytes,
    src: str,
    dst: str,
    vni: int,
    *,
    header: Knobs | None = None,
    datagram: Knobs | None = None,
    packet: Knobs | None = None,
    behind: bytes = b"",
) -> bytes:
    """VXLAN in UDP in IP. `behind` is what the IP packet holds behind the datagram."""
    overlay = vxlan_header(vni, **(header or {})) + inner
    return ip(udp(overlay, src, dst, **(datagram or {})) + behind, src, dst, UDP, **(packet or {}))


def nvgre_packet(
    inner: bytes, src: str, dst: str, vsid: int, *, header: Knobs | None = None, packet: Knobs | None = None
) -> bytes:
    """NVGRE in IP."""
    return ip(nvgre_header(vsid, **(header or {})) + inner, src, dst, GRE, **(packet or {}))


def nested_packet(
    inside: bytes,
    src: str,
    dst: str,
    *,
    gre: bytes | None = None,
    datagram: Knobs | None = None,
    packet: Knobs | None = None,
) -> bytes:
    """A whole IP packet in GRE in UDP in IP (RFC 8086). `gre` replaces the four bytes of the GRE header."""
    protocol = IPV6 if inside[:1] and inside[0] >> 4 == 6 else IPV4
    head = b"\x00\x00" + protocol.to_bytes(2, "big") if gre is None else gre
    body = udp(head + inside, src, dst, **{"dport": NESTED_PORT, **(datagram or {})})
    return ip(body, src, dst, UDP, **(packet or {}))


def wire(
    packet: bytes, tags: Sequence[tuple[int, int]] = (), padding: bytes = b"", ethertype: int | None = None
) -> bytes:
    """An IP packet on Ethernet; `padding` follows it."""
    if ethertype is None:
        ethertype = IPV6 if packet[:1] and packet[0] >> 4 == 6 else IPV4
    return ethernet(packet, ethertype, tags=tags) + padding


def igmp(src: str, dst: str, kind: int = 0x22, body: bytes = bytes(7)) -> bytes:
    """An IGMP packet with Router Alert, as hosts send it (CONFORMANCE W5)."""
    return ipv4(bytes((kind,)) + body, src, dst, IGMP, tos=0xC0, ttl=1, options=b"\x94\x04\x00\x00")


def mld(src: str, dst: str, kind: int = 143, body: bytes = bytes(7)) -> bytes:
    """An MLD packet behind its hop-by-hop header."""
    router_alert = (HOP_BY_HOP, b"\x00\x00\x05\x02\x00\x00\x01\x00")
    return ipv6(bytes((kind,)) + body, src, dst, ICMPV6, ttl=1, extensions=(router_alert,))


BODY = bytes(i * 7 + 3 & 0xFF for i in range(256))


def tenant(
    src: str = "172.16.5.9",
    dst: str = "239.77.1.3",
    *,
    sport: int = 40001,
    dport: int = 5004,
    size: int = 37,
    tags: Sequence[tuple[int, int]] = (),
    protocol: int = UDP,
    packet: Knobs | None = None,
    dst_mac: bytes = bytes.fromhex("01005e4d0103"),
    src_mac: bytes = bytes.fromhex("0eb1c3d5e7f9"),
) -> bytes:
    """A VM's own frame: UDP (or another protocol, unread) to a group."""
    body = (BODY * (size // len(BODY) + 1))[:size]
    if protocol == UDP:
        body = udp(body, src, dst, sport=sport, dport=dport, checksum=RIGHT)
    inside = ip(body, src, dst, protocol, **(packet or {}))
    return ethernet(inside, IPV6 if ":" in dst else IPV4, dst_mac, src_mac, tags)


def arp(sender: str = "172.16.5.9", target: str = "172.16.5.77") -> bytes:
    """A VM's ARP request: a broadcast frame without an IP header."""
    mac = bytes.fromhex("0eb1c3d5e7f9")
    body = bytes.fromhex("0001080006040001") + mac + address(sender) + bytes(6) + address(target)
    return ethernet(body, 0x0806, b"\xff" * 6, mac)


def unfinished(frame: Frame) -> Frame | None:
    """The frame of a sender that left the sum of its UDP, over IPv4 without options, to be finished (LIMITS
    trap 12); None for any other, and for those without a sum."""
    data = frame.data
    if data[12:15] != b"\x08\x00\x45" or data[23] != UDP or frame.mark or data[40:42] in (b"", b"\0\0"):
        return None
    over = data[26:34] + bytes((0, UDP)) + data[38:40]
    return replace(
        frame,
        data=data[:40] + (internet_checksum(over) ^ 0xFFFF).to_bytes(2, "big") + data[42:],
        mark=Mark(34, 6),
    )
