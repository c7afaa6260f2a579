"""What is ours of the traffic on a live interface: the specification, and the socket filter after it.

A frame is *consumed* where it is a tunnel packet to a group or to one of our addresses: we forward it, and
the kernel's own stack must not see it. IGMP and MLD are *watched*: we and the kernel see them both. Both
together are ours; nothing else on the interface ever reaches us. The nftables rule and the XDP program claim
exactly what `is_consumed` says.

Classic BPF jumps forward only, and conditionally at most 255 instructions. So the filter is composed of
blocks that end in a verdict (`RETURN` may stand anywhere) and are stepped over by one unconditional jump.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from fastpath.model import IPAddress

__all__ = [
    "ADDRESSES_MAX",
    "PORTS_MAX",
    "Claims",
    "Instruction",
    "is_consumed",
    "is_ours",
    "is_watched",
    "socket_filter",
]

NESTED_PORT = 4754
"""GRE in UDP (RFC 8086 section 3.1)."""
ADDRESSES_MAX = 64
PORTS_MAX = 16

IPV4, IPV6, BRIDGED = 0x0800, 0x86DD, 0x6558
TAGS = (0x8100, 0x88A8)
HOP_BY_HOP, IGMP, UDP, GRE, ICMPV6 = 0, 2, 17, 47, 58
MLD = (130, 131, 132, 143)

Instruction = tuple[int, int, int, int]
"""Operation, steps to take if true, steps if false, operand (struct sock_filter)."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The UDP ports of VXLAN (4754 is always ours besides) and our own endpoint addresses.

    ValueError where there are more of either than the filter has room for.
    """

    vxlan_ports: tuple[int, ...]
    addresses: tuple[IPAddress, ...] = ()

    def __post_init__(self) -> None:
        for port in self.vxlan_ports:
            if not 1 <= port <= 0xFFFF:
                raise ValueError(f"VXLAN port {port}: expected 1 to 65535")
        if len(self.ports) > PORTS_MAX + 1:
            raise ValueError(f"{len(self.vxlan_ports)} VXLAN ports: expected at most {PORTS_MAX}")
        if len(self.addresses) > ADDRESSES_MAX:
            raise ValueError(f"{len(self.addresses)} addresses of our own: expected at most {ADDRESSES_MAX}")

    @property
    def ports(self) -> tuple[int, ...]:
        """All UDP destination ports that are ours, ascending."""
        return tuple(sorted({*self.vxlan_ports, NESTED_PORT}))

    def holds(self, frame: bytes, vlan_tci: int | None = None) -> bool:
        """Say whether a frame is ours; see `is_ours`."""
        return is_ours(self, frame, vlan_tci)


def is_ours(claims: Claims, frame: bytes, vlan_tci: int | None = None) -> bool:
    """Say whether a live port receives this frame. `vlan_tci`: of a tag that came out of band."""
    packet = _untagged(frame, vlan_tci)
    return packet is not None and (_is_consumed(claims, packet) or _is_watched(packet))


def is_consumed(claims: Claims, frame: bytes, vlan_tci: int | None = None) -> bool:
    """Say whether this frame is ours alone: a tunnel packet, to a group or to one of our addresses."""
    packet = _untagged(frame, vlan_tci)
    return packet is not None and _is_consumed(claims, packet)


def is_watched(frame: bytes, vlan_tci: int | None = None) -> bool:
    """Say whether this frame is a report or query of IGMP or MLD, which the kernel sees as well."""
    packet = _untagged(frame, vlan_tci)
    return packet is not None and _is_watched(packet)


def _untagged(frame: bytes, vlan_tci: int | None) -> bytes | None:
    """Take the frame's only tag off, wherever it is; None where its VLAN id is not 0."""
    if vlan_tci is None and len(frame) >= 18 and _word(frame, 12) in TAGS:
        vlan_tci = _word(frame, 14)
        frame = frame[:12] + frame[16:]
    if len(frame) < 14 or (vlan_tci is not None and vlan_tci & 0xFFF != 0):
        return None
    return frame


def _is_consumed(claims: Claims, packet: bytes) -> bool:
    if _is_ipv4(packet):
        transport = 14 + (packet[14] & 15) * 4
        protocol, destination = packet[23], packet[30:34]
        to_group = destination[0] >> 4 == 0xE
        if _word(packet, 20) & 0x1FFF:  # the ports of a later fragment are unknown
            return False
    elif _is_ipv6(packet):
        transport = 54
        protocol, destination = packet[20], packet[38:54]
        to_group = destination[0] == 0xFF
    else:
        return False
    if protocol not in (UDP, GRE) or len(packet) < transport + 4:
        return False
    kind = _word(packet, transport + 2)
    tunnel = kind in claims.ports if protocol == UDP else kind == BRIDGED
    return tunnel and (to_group or destination in {address.packed for address in claims.addresses})


def _is_watched(packet: bytes) -> bool:
    if _is_ipv4(packet):
        return packet[23] == IGMP
    if not _is_ipv6(packet):
        return False
    transport, protocol = 54, packet[20]
    if protocol == HOP_BY_HOP and len(packet) >= 56 and packet[55] == 0:
        transport, protocol = 62, packet[54]
    return protocol == ICMPV6 and len(packet) > transport and packet[transport] in MLD


def _is_ipv4(packet: bytes) -> bool:
    return _word(packet, 12) == IPV4 and len(packet) >= 34 and 0x45 <= packet[14] <= 0x4F


def _is_ipv6(packet: bytes) -> bool:
    return _word(packet, 12) == IPV6 and len(packet) >= 54 and packet[14] >> 4 == 6


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


# The socket filter. A load past the frame's end ends the program, and refuses the frame.

Block = list[Instruction]

_LOAD_32, _LOAD_16, _LOAD_8 = 0x20, 0x28, 0x30
_LOAD_16_BEHIND_X = 0x48
_X_HEADER_SIZE = 0xB1  # X = 4 * (low half of the byte): the size of an IPv4 header
_AND = 0x54
_JUMP, _IF_EQUAL, _IF_ABOVE, _IF_NOT_BELOW, _IF_ANY_BIT = 0x05, 0x15, 0x25, 0x35, 0x45
_RETURN = 0x06
_VLAN_TCI, _VLAN_PRESENT = 0xFFFFF000 + 44, 0xFFFFF000 + 48  # SKF_AD_OFF and what linux/filter.h adds to it

_ACCEPT: Instruction = (_RETURN, 0, 0, 0xFFFFFFFF)
_REFUSE: Instruction = (_RETURN, 0, 0, 0)


def socket_filter(claims: Claims) -> list[Instruction]:
    """Compile `is_ours` to classic BPF, for frames whose VLAN tag the kernel took out."""
    on_ipv4, other = _ipv4(claims), [*_unless(_IF_EQUAL, IPV6, [_REFUSE]), *_ipv6(claims)]
    return [
        *_load(_LOAD_32, _VLAN_PRESENT),
        *_when(_IF_ANY_BIT, 1, [*_load(_LOAD_32, _VLAN_TCI), *_when(_IF_ANY_BIT, 0xFFF, [_REFUSE])]),
        *_load(_LOAD_16, 12),
        *_when(_IF_EQUAL, IPV4, _over(other)),
        *other,
        *on_ipv4,
    ]


def _ipv4(claims: Claims) -> Block:
    addresses = [address for address in claims.addresses if address.version == 4]
    return [
        *_load(_LOAD_8, 33),  # all of the header is there
        *_load(_LOAD_8, 14),
        *_unless(_IF_NOT_BELOW, 0x45, [_REFUSE]),
        *_when(_IF_ABOVE, 0x4F, [_REFUSE]),
        *_load(_LOAD_8, 23),
        *_when(_IF_EQUAL, IGMP, [_ACCEPT]),
        *_load(_LOAD_16, 20),
        *_when(_IF_ANY_BIT, 0x1FFF, [_REFUSE]),
        (_X_HEADER_SIZE, 0, 0, 14),
        *_tunnel(claims, 23, (_LOAD_16_BEHIND_X, 0, 0, 14 + 2)),
        *_load(_LOAD_32, 30),
        (_AND, 0, 0, 0xF0000000),
        *_when(_IF_EQUAL, 0xE0000000, [_ACCEPT]),
        *_load(_LOAD_32, 30),
        *(step for address in addresses for step in _when(_IF_EQUAL, int(address), [_ACCEPT])),
        _REFUSE,
    ]


def _ipv6(claims: Claims) -> Block:
    is_mld = [*_one_of(MLD), _ACCEPT]
    return [
        *_load(_LOAD_8, 53),
        *_load(_LOAD_8, 14),
        (_AND, 0, 0, 0xF0),
        *_unless(_IF_EQUAL, 0x60, [_REFUSE]),
        *_load(_LOAD_8, 20),
        *_when(_IF_EQUAL, ICMPV6, [*_load(_LOAD_8, 54), *is_mld]),
        *_when(
            _IF_EQUAL,
            HOP_BY_HOP,
            [
                *_load(
                    _LOAD_16, 54
                ),  # the protocol behind it, and the size of this header in units of 8, less one
                *_unless(_IF_EQUAL, ICMPV6 << 8, [_REFUSE]),
                *_load(_LOAD_8, 62),
                *is_mld,
            ],
        ),
        *_tunnel(claims, 20, (_LOAD_16, 0, 0, 54 + 2)),
        *_load(_LOAD_8, 38),
        *_when(_IF_EQUAL, 0xFF, [_ACCEPT]),
        *(step for address in claims.addresses if address.version == 6 for step in _is_address(address)),
        _REFUSE,
    ]


def _tunnel(claims: Claims, protocol_at: int, load_kind: Instruction) -> Block:
    """Refuse all that is not UDP to one of our ports, or GRE that carries Ethernet frames.

    A destination port and the protocol of GRE both stand at the third byte of their headers.
    """
    gre = [*_unless(_IF_EQUAL, GRE, [_REFUSE]), load_kind, *_unless(_IF_EQUAL, BRIDGED, [_REFUSE])]
    udp = [load_kind, *_one_of(claims.ports), *_over(gre)]
    return [*_load(_LOAD_8, protocol_at), *_when(_IF_EQUAL, UDP, udp), *gre]


def _is_address(address: IPAddress) -> Block:
    """Accept where the IPv6 destination is this address."""
    inside: Block = [_ACCEPT]
    for place, word in reversed(list(enumerate(struct.unpack(">4I", address.packed)))):
        inside = [*_load(_LOAD_32, 38 + 4 * place), *_when(_IF_EQUAL, word, inside)]
    return inside


def _one_of(values: Iterable[int]) -> Block:
    """Refuse where the accumulator is none of these."""
    values = tuple(values)
    steps = [(_IF_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [*steps, _REFUSE]


def _load(operation: int, at: int) -> Block:
    return [(operation, 0, 0, at)]


def _when(test: int, operand: int, block: Block) -> Block:
    return [(test, 0, len(block), operand), *block]


def _unless(test: int, operand: int, block: Block) -> Block:
    return [(test, len(block), 0, operand), *block]


def _over(block: Block) -> Block:
    return [(_JUMP, 0, 0, len(block))]
