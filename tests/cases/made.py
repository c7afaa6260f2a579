"""What scapy makes: arriving frames and expected copies; and wrong frames by hand."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests import frames as f
from tests.cases.box import (
    CORE,
    FAR_PEER,
    GROUP,
    GROUP6,
    GROUP_MAC,
    INNER_GROUP6,
    INNER_SOURCE6,
    MIX,
    OWN,
    P0,
    P1,
    P7,
    PEER,
    PORTS,
    UNICAST_NVE,
    VNI,
    VSID,
    VTEP,
    VTEP6,
)

Fields = dict[str, Any]


def mac_text(octets: bytes) -> str:
    return octets.hex(":")


def ip_layer(src: str, dst: str, **fields: Any) -> Packet:
    """An IP header by scapy; `tos` and `ttl` are named as in IPv4 for both versions."""
    if ":" in dst:
        fields = {{"tos": "tc", "ttl": "hlim", "proto": "nh"}.get(k, k): v for k, v in fields.items()}
        return IPv6(src=src, dst=dst, **fields)
    return IP(src=src, dst=dst, **fields)


def arriving(packet: Packet) -> bytes:
    """A frame as it comes in."""
    return bytes(Ether(dst=mac_text(f.HERE_MAC), src=mac_text(f.THERE_MAC)) / packet)


def leaving(port: int, packet: Packet, mac: str | None = None) -> tuple[int, bytes]:
    """An expected copy: to the port's next hop, or to a group's MAC."""
    dst = mac_text(PORTS[port].next_hop_mac or bytes(6)) if mac is None else mac
    return port, bytes(Ether(dst=dst, src=mac_text(PORTS[port].mac)) / packet)


def vxlan(inner: bytes, src: str, dst: str, vni: int = VNI, ip: Fields | None = None, **udp: Any) -> Packet:
    """A VXLAN packet by scapy, without a UDP checksum unless `chksum=None` asks for it."""
    header = {"sport": 0xC123, "dport": 4789, "chksum": 0, **udp}
    return ip_layer(src, dst, **(ip or {})) / UDP(**header) / VXLAN(vni=vni) / Raw(inner)


def nvgre(inner: bytes, src: str, dst: str, vsid: int = VSID, flow_id: int = 0x9C, **ip: Any) -> Packet:
    """An NVGRE packet by scapy."""
    gre = GRE(key_present=1, proto=0x6558, key=vsid << 8 | flow_id)
    return ip_layer(src, dst, **{"proto": 47, **ip}) / gre / Raw(inner)


def nested(
    inside: Packet, src: str, dst: str, sport: int = 0xC456, chksum: int | None = 0, **ip: Any
) -> Packet:
    """A packet in GRE in UDP by scapy."""
    protocol = 0x86DD if inside.haslayer(IPv6) and inside.firstlayer().name == "IPv6" else 0x0800
    gre = GRE(proto=protocol)
    return ip_layer(src, dst, **ip) / UDP(sport=sport, dport=4754, chksum=chksum) / gre / Raw(bytes(inside))


OURS: Fields = {"ttl": 64, "id": 0, "flags": "DF"}
"""What every new IPv4 header of ours carries; the first one of an egress."""


def flow(*words: int) -> int:
    """The flow hash of words spelled out by hand."""
    h = 0x9E3779B97F4A7C15
    for word in words:
        h = (h ^ word) * 0xFF51AFD7ED558CCD % 2**64
        h ^= h >> 32
    return h >> 32


TENANT = f.tenant()
TENANT_FLOW = 0xD432A662  # by a program in C
TENANT_PORT, TENANT_FLOW_ID = 0xC000 | 0x2662, 0x32
ARP = f.arp()
ARP_FLOW = 0x8B9D360A  # by the same
TENANT6 = f.tenant(INNER_SOURCE6, INNER_GROUP6, dst_mac=bytes.fromhex("333300000007"))
TAGGED = f.tenant(tags=[(f.TAG, 0x2123)])
NVE_IP: Fields = {"ttl": 1, "id": 0x1D2E, "tos": 0x28}
"""How the packets of a Linux NVE look: TTL 1 (CONFORMANCE W6)."""

FROM_NVE = vxlan(TENANT, VTEP, GROUP, ip=NVE_IP)
FROM_NVE_SUMMED = vxlan(TENANT, VTEP, GROUP, ip=NVE_IP, chksum=None)


def from_nve(inner: bytes = TENANT, **more: Any) -> bytes:
    """A frame to GROUP, by hand."""
    return f.wire(f.vxlan_packet(inner, VTEP, GROUP, VNI, **more))


def from_nve6(inner: bytes = TENANT, **more: Any) -> bytes:
    """A frame to GROUP6, by hand."""
    return f.wire(f.vxlan_packet(inner, VTEP6, GROUP6, 0x313233, **more))


def gre_from_nve(inner: bytes = TENANT, vsid: int = VSID, **more: Any) -> bytes:
    """An NVGRE frame to GROUP, by hand."""
    return f.wire(f.nvgre_packet(inner, VTEP, GROUP, vsid, **more))


def from_peer(inside: bytes, **more: Any) -> bytes:
    """A nested frame of PEER, by hand."""
    return f.wire(f.nested_packet(inside, PEER, OWN, **more))


def local_copies(packet: Packet = FROM_NVE) -> list[tuple[int, bytes]]:
    """What the local segment of LISTS gets of a frame that came from the core."""
    return [
        leaving(P0, packet, GROUP_MAC),
        leaving(P1, packet, GROUP_MAC),
        leaving(P1, vxlan(TENANT, VTEP, UNICAST_NVE, ip={**OURS, "tos": 0x28})),
        leaving(P7, packet, GROUP_MAC),
    ]


def remote_copies(
    packet: Packet = FROM_NVE, sport: int = TENANT_PORT, tos: int = 0x28
) -> list[tuple[int, bytes]]:
    """What the remote segment of LISTS gets."""
    ours = {**OURS, "tos": tos}
    return [
        leaving(CORE, nested(packet, OWN, PEER, sport, **ours)),
        leaving(MIX, nested(packet, OWN, FAR_PEER, sport, **ours)),
    ]


OURS_TOO: Fields = {**OURS, "tos": 0x28}
CAME_GRE = nvgre(TENANT, VTEP, GROUP, VSID, 0x11, **NVE_IP)
CAME_6 = vxlan(TENANT, VTEP6, GROUP6, 0x313233, ip={"ttl": 1, "tos": 0x28})
NESTED_IN = arriving(nested(FROM_NVE_SUMMED, PEER, OWN))
