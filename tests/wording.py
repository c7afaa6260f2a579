"""A frame in words, after tshark: each header in turn, outermost first. For people and for golden files.

Reads what it is given and judges nothing; shares no code with the data path.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address

VXLAN, NESTED, MDNS, MARKET = 4789, 4754, 5353, 5004
IGMP = {0x11: "query", 0x12: "v1 report", 0x16: "v2 report", 0x17: "v2 leave", 0x22: "v3 report"}
MLD = {130: "MLD query", 131: "MLDv1 report", 132: "MLDv1 done", 143: "MLDv2 report"}
RECORD = {1: "IS_IN", 2: "IS_EX", 3: "TO_IN", 4: "TO_EX", 5: "ALLOW", 6: "BLOCK"}
OTHER = {1: "ICMP", 6: "TCP"}


def words(data: bytes) -> str:
    """Say what an Ethernet frame holds; what is cut short ends in `...`."""
    try:
        return _ethernet(data)
    except (struct.error, IndexError, ValueError):
        return f"... {data[:16].hex(' ', 2)}".rstrip()


def _ethernet(data: bytes) -> str:
    at, tags = 12, ""
    while (kind := _u16(data, at)) in {0x8100, 0x88A8}:
        tags += f"VLAN {_u16(data, at + 2) & 0xFFF} "
        at += 4
    body = data[at + 2 :]
    if kind in {0x0800, 0x86DD}:
        return tags + _ip(body, kind)
    name = "ARP" if kind == 0x0806 else f"EtherType {kind:#06x}"
    return f"{tags}{_mac(data[6:12])} > {_mac(data[:6])} {name}"


def _ip(packet: bytes, kind: int) -> str:
    if kind == 0x0800:
        protocol, body = packet[9], packet[(packet[0] & 15) * 4 : max(_u16(packet, 2), 20)]
        about = f"ttl {packet[8]} id {_u16(packet, 4)}"
        source, target, offset = packet[12:16], packet[16:20], _u16(packet, 6) & 0x1FFF
    else:
        protocol, body = packet[6], packet[40 : 40 + _u16(packet, 4)]
        about, offset = f"hlim {packet[7]}", 0
        source, target = packet[8:24], packet[24:40]
        if protocol == 0:
            protocol, body = body[0], body[(body[1] + 1) * 8 :]
    what = f"fragment at {offset * 8}" if offset else _transport(protocol, body)
    return f"{ip_address(source)} > {ip_address(target)} {about} {what}"


def _transport(protocol: int, body: bytes) -> str:
    if protocol == 17:
        return _udp(body)
    if protocol == 47:
        return _gre(body)
    if protocol == 2:
        return f"IGMP {IGMP.get(body[0], hex(body[0]))}{_membership(body, 4)}"
    if protocol == 58:
        return MLD.get(body[0], f"ICMPv6 {body[0]}") + _membership(body, 16)
    return OTHER.get(protocol, f"protocol {protocol}")


def _membership(body: bytes, size: int) -> str:
    """Say what an IGMP or MLD message is about; `size` is that of an address."""
    kind, at = body[0], size + (4 if size == 4 else 8)
    if kind in {0x22, 143}:
        return _records(body, size)
    if kind not in {0x11, 0x12, 0x16, 0x17, 130, 131, 132}:
        return ""
    group = ip_address(body[at - size : at])
    named = "" if group.is_unspecified else f" {group}"
    if kind not in {0x11, 130}:
        return named
    is_long = len(body) >= at + 4
    n = _u16(body, at + 2) if is_long else 0
    within_s = body[1] / 10 if size == 4 else _u16(body, 4) / 1000
    return f"{named}{_sources(body, at + 4, n, size)} within {within_s:g} s{'' if is_long else ', older'}"


def _records(body: bytes, size: int) -> str:
    told, at = [], 8
    for _ in range(_u16(body, 6)):
        kind, extra, n = struct.unpack_from("!BBH", body, at)
        group = ip_address(body[at + 4 : at + 4 + size])
        told.append(f" {RECORD.get(kind, kind)} {group}{_sources(body, at + 4 + size, n, size)}")
        at += 4 + size * (n + 1) + extra * 4
    return ",".join(told)


def _sources(body: bytes, at: int, n: int, size: int) -> str:
    named = [str(ip_address(body[at + i * size : at + (i + 1) * size])) for i in range(n)]
    return f" {{{', '.join(named)}}}" if named else ""


def _udp(body: bytes) -> str:
    source, target, _, total = struct.unpack_from("!4H", body)
    about = f"UDP {source} > {target}{' sum' if total else ''}"
    if target == VXLAN:
        flags = "" if body[8] == 8 else f" flags {body[8]:02x}"
        return f"{about} VXLAN {_u24(body, 12)}{flags} | {words(body[16:])}"
    if target == NESTED:
        return f"{about} GRE | {_ip(body[12:], _u16(body, 10))}"
    return about


def _gre(body: bytes) -> str:
    flags, kind = struct.unpack_from("!HH", body)
    if (flags, kind) == (0x2000, 0x6558):
        return f"NVGRE {_u24(body, 4)} flow {body[7]} | {words(body[8:])}"
    return f"GRE flags {flags:#06x} protocol {kind:#06x}"


def _mac(data: bytes) -> str:
    return data.hex(":")


def _u16(data: bytes, at: int) -> int:
    value: int = struct.unpack_from("!H", data, at)[0]
    return value


def _u24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "big")
