"""Name what a frame holds, so that captures are described and compared by structure rather than by bytes.

Source ports, IP ids, sequence numbers and times differ from one recording to the next; the chain of headers
does not. A kind reads from the outside in: "vxlan 100 > 239.1.1.100: arp", "nvgre 5000/3 > 10.0.0.1: udp
multicast". Wrong IPv4 and UDP sums are named at any depth, so that an offload left on at a sender shows.
This is a description for people and for the recording test, with no claim to validate: the product's parser
and `fastpath/reference.py` do that, and must not be compared with this.
"""

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable
from ipaddress import ip_address

from capture_file import Frame

TCP_SERVICES = {22: "ssh", 179: "bgp"}
UDP_SERVICES = {53: "dns", 5353: "mdns", 8472: "vxlan on port 8472"}
RECORDS = {1: "is in", 2: "is out", 3: "leaves", 4: "joins", 5: "allows", 6: "blocks"}
IGMP_TYPES = {0x11: "igmp query", 0x16: "igmpv2 report", 0x17: "igmpv2 leave", 0x22: "igmpv3 report"}
ND_TYPES = {133: "rs", 134: "ra", 135: "ns", 136: "na"}


def count_kinds(frames: Iterable[Frame]) -> dict[str, dict[str, int]]:
    """Return interface -> kind -> number of frames, both sorted."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for frame in frames:
        counts[frame.interface][kind_of(frame.data)] += 1
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}


def list_records(frames: Iterable[Frame]) -> dict[str, list[str]]:
    """Return interface -> what its membership reports say, each once: "joins 239.1.1.100".

    The kernel merges records of neighbouring moments into one report at random, so only their set is stable.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for frame in frames:
        found[frame.interface].update(_records(frame.data))
    return {name: sorted(found[name]) for name in sorted(found) if found[name]}


def kind_of(data: bytes) -> str:
    """Return the chain of headers of one Ethernet frame in words."""
    if len(data) < 14:
        return "cut short"
    ethertype = struct.unpack_from("!H", data, 12)[0]
    payload = data[14:]
    if ethertype in (0x8100, 0x88A8):
        inner = kind_of(data[:12] + data[16:])
        tag = "vlan" if ethertype == 0x8100 else "s-vlan"
        return f"{tag} {struct.unpack_from('!H', data, 14)[0] & 0xFFF}, {inner}"
    if ethertype == 0x0800:
        return _ipv4(payload)
    if ethertype == 0x86DD:
        return _ipv6(payload)
    return {0x0806: "arp", 0x88CC: "lldp"}.get(ethertype, f"ethertype {ethertype:#06x}")


def _ipv4(packet: bytes) -> str:
    fragment = struct.unpack_from("!H", packet, 6)[0]
    target = str(ip_address(packet[16:20]))
    if fragment & 0x1FFF:
        return "ipv4 later fragment"
    body = packet[(packet[0] & 15) * 4 : struct.unpack_from("!H", packet, 2)[0]]
    kind = _transport(packet[9], body, target)
    if fragment & 0x2000:
        return f"ipv4 first fragment, {kind}"
    if len(packet) < struct.unpack_from("!H", packet, 2)[0]:
        return f"{kind} cut short"
    if _folded(packet[: (packet[0] & 15) * 4]) != 0xFFFF:
        return f"wrong IPv4 sum, {kind}"
    pseudo = packet[12:20] + bytes((0, packet[9])) + struct.pack("!H", len(body))
    if packet[9] == 17 and body[6:8] != b"\0\0" and _folded(pseudo + body) != 0xFFFF:
        return f"wrong UDP sum, {kind}"
    return kind


def _ipv6(packet: bytes) -> str:
    header, body = packet[6], packet[40:]
    if header == 0:
        header, body = body[0], body[(body[1] + 1) * 8 :]
    return _transport(header, body, str(ip_address(packet[24:40])))


def _transport(protocol: int, body: bytes, target: str) -> str:
    if protocol == 17:
        return _udp(body, target)
    if protocol == 6:
        source_port, target_port = struct.unpack_from("!HH", body)
        name = TCP_SERVICES.get(target_port) or TCP_SERVICES.get(source_port)
        return f"tcp {name or target_port}"
    if protocol == 47:
        return _gre(body, target)
    if protocol == 2:
        return IGMP_TYPES.get(body[0], f"igmp type {body[0]:#04x}")
    if protocol == 58:
        if body[0] == 143:
            return "mldv2 report"
        return f"nd {ND_TYPES[body[0]]}" if body[0] in ND_TYPES else f"icmpv6 type {body[0]}"
    return "icmp" if protocol == 1 else f"ip protocol {protocol}"


def _udp(body: bytes, target: str) -> str:
    target_port = struct.unpack_from("!H", body, 2)[0]
    payload = body[8:]
    if target_port == 4789 and len(payload) < 8:
        return f"vxlan > {target}: cut short"
    if target_port == 4789:
        flags, vni = payload[0], int.from_bytes(payload[4:7], "big")
        reserved = bytes((flags & ~0x08,)) + payload[1:4] + payload[7:8]
        remarks = ("" if flags & 0x08 else " without I") + (" reserved bits" if any(reserved) else "")
        return f"vxlan {vni}{remarks} > {target}: {kind_of(payload[8:])}"
    if target_port == 4754:
        inner = _ipv4(payload[4:]) if payload[2:4] == b"\x08\x00" else _ipv6(payload[4:])
        return f"nested > {target}: {inner}"
    group = " multicast" if ip_address(target).is_multicast else ""
    return UDP_SERVICES.get(target_port, f"udp{group}")


def _gre(body: bytes, target: str) -> str:
    flags, protocol = struct.unpack_from("!HH", body)
    if protocol != 0x6558 or flags != 0x2000:
        return f"gre flags {flags:#06x} protocol {protocol:#06x}"
    vsid, flow = divmod(struct.unpack_from("!I", body, 4)[0], 256)
    return f"nvgre {vsid}/{flow} > {target}: {kind_of(body[8:])}"


def _folded(data: bytes) -> int:
    """Return the ones' complement sum, 0xffff where a checksum within the data is right."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _records(data: bytes) -> list[str]:
    """Return the group records of an IGMPv3 or MLDv2 report of the underlay; empty for any other frame."""
    kind = kind_of(data)
    if kind.startswith("igmp"):
        size, body = 4, data[14 + (data[14] & 15) * 4 :]
        if kind != "igmpv3 report":
            return [f"{kind} {ip_address(body[4:8])}"]
    elif kind == "mldv2 report":
        size, body = 16, data[54 + (data[55] + 1) * 8 :] if data[20] == 0 else data[54:]
    else:
        return []
    found, offset = [], 8
    for _ in range(struct.unpack_from("!H", body, 6)[0]):
        action, extra, n_sources = struct.unpack_from("!BBH", body, offset)
        group = ip_address(body[offset + 4 : offset + 4 + size])
        found.append(f"{RECORDS.get(action, action)} {group}")
        offset += 4 + size + n_sources * size + extra * 4
    return found
