"""A program: how one copy is made, as data. Strip the frame to `keep`, prepend `head`, fill `patches`.

The numbers are those of the keeps and `PATCH_*` in `src_cython/fastpath/_frame.pxd`, and `pack` lays a
program out as the `program_t` there: `tests/house` and the struct size assertions hold the two together.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address

IPAddress = IPv4Address | IPv6Address

HEAD_MAX = 80
CANNOT_RIDE = 255
TYPE_IPV4 = 0x0800
TYPE_IPV6 = 0x86DD
ETHERNET_SIZE = 14
UDP = 17
GRE = 47
TTL = 64
_PROGRAM = struct.Struct("<80sIIHBBBBBBBB14x")


class Keep(IntEnum):
    """What a copy keeps of its frame: all behind this point."""

    MT = 0
    OVERLAY = 1
    INNER = 2


class Patch(IntFlag):
    """The fields of a head that are filled per frame or per copy."""

    GROUP_MAC = 1
    IPV4 = 2
    IPV6 = 4
    SOURCE = 8
    GROUP = 16
    PORTS = 32
    FLOW_PORT = 64
    NUMBER = 128
    FLOW_ID = 256
    UDP_FULL = 512
    GRE_TYPE = 1024


@dataclass(frozen=True, slots=True)
class Program:
    """One way to make a copy. `ip`, `udp`, `number` are offsets in `head`, 0 where it has none; `rides` is
    how many bytes at the end of the head precede each segment of a train."""

    head: bytes
    keep: Keep
    patches: Patch
    version: int = 0
    ip: int = 0
    udp: int = 0
    number: int = 0
    rides: int = CANNOT_RIDE

    def shape(self) -> tuple[object, ...]:
        """What is left of a program without addresses: equal where copies are alike but for these."""
        addresses, end = self._addresses()
        rest = self.head[6:addresses] + self.head[end:]
        return (rest, self.keep, self.patches, self.version, self.ip, self.udp, self.number, self.rides)

    def _addresses(self) -> tuple[int, int]:
        """Where the IP addresses stand in the head."""
        if not self.ip:
            return len(self.head), len(self.head)
        first = self.ip + (12 if self.version == 4 else 8)
        return first, first + (8 if self.version == 4 else 32)

    def pack(self) -> bytes:
        """Lay out as `program_t`, with the sums of what never changes taken in advance."""
        addresses, end = self._addresses()
        ip_sum = words_sum(self.head[self.ip : addresses]) if self.version == 4 else 0
        address_sum = words_sum(self.head[addresses:end])
        return _PROGRAM.pack(
            self.head,
            address_sum,
            ip_sum,
            self.patches,
            1,
            self.keep,
            len(self.head),
            self.ip,
            self.udp,
            self.number,
            self.version,
            self.rides,
        )


NO_PROGRAM = bytes(_PROGRAM.size)


def words_sum(data: bytes | bytearray) -> int:
    """Sum of the big-endian 16-bit words of `data`, not folded."""
    return sum(struct.unpack(f">{len(data) // 2}H", data))


@dataclass(frozen=True, slots=True)
class Outer:
    """The Ethernet and IP headers of copies of one kind. `source` or `destination` None: the frame's own."""

    version: int
    source_mac: bytes
    destination_mac: bytes
    source: IPAddress | None
    destination: IPAddress | None

    def patches(self) -> Patch:
        """What of these headers depends on the frame."""
        out = Patch.IPV4 if self.version == 4 else Patch.IPV6
        if self.source is None:
            out |= Patch.SOURCE
        if self.destination is None:
            out |= Patch.GROUP | Patch.GROUP_MAC
        return out

    def head(self, protocol: int) -> bytes:
        """Ethernet and IP headers with lengths, TOS, identification and checksum left zero."""
        size = 4 if self.version == 4 else 16
        source, destination = (
            bytes(size) if a is None else a.packed for a in (self.source, self.destination)
        )
        if self.version == 4:
            dont_fragment = 0x4000
            ip = struct.pack(">BBHHHBBH", 0x45, 0, 0, 0, dont_fragment, TTL, protocol, 0)
        else:
            ip = struct.pack(">IHBB", 6 << 28, 0, protocol, TTL)
        return ethernet(self.source_mac, self.destination_mac, self.version) + ip + source + destination

    def size(self) -> int:
        """Bytes of `head`: where the transport header begins."""
        return ETHERNET_SIZE + (20 if self.version == 4 else 40)


def ethernet(source_mac: bytes, destination_mac: bytes, version: int) -> bytes:
    """An untagged Ethernet header for an IP packet."""
    return destination_mac + source_mac + struct.pack(">H", TYPE_IPV4 if version == 4 else TYPE_IPV6)


def udp_header(destination_port: int) -> bytes:
    """A UDP header whose source port, length and checksum are to be patched."""
    return struct.pack(">HHHH", 0, destination_port, 0, 0)


def full_sum(version: int) -> Patch:
    """Over IPv6 a UDP checksum of zero is dropped by Linux NVEs (CONFORMANCE W4): compute it."""
    return Patch.UDP_FULL if version == 6 else Patch(0)


def group_mac(group: IPAddress) -> bytes:
    """The Ethernet address of a multicast group (RFC 1112 section 6.4, RFC 2464 section 7)."""
    if group.version == 4:
        return b"\x01\x00\x5e" + (int(group) & 0x7FFFFF).to_bytes(3, "big")
    return b"\x33\x33" + group.packed[12:]
