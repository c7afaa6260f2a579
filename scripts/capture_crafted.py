"""The frames that no real sender at hand makes, built with scapy from frames that a real sender did make.

scapy is a tool of the tests, GPL, and never imported by the package. Each function returns bytes with a
remark that ends up beside the frame where the file format has room for one.
"""

import zlib

from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import GRE, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

LLDP_TARGET = "01:80:c2:00:00:0e"
LLDP_TYPE = 0x88CC
VXLAN_OFFSET = 14 + 20 + 8

Remarked = tuple[bytes, str]


def nest(frame: bytes, link: tuple[str, str], ends: tuple[str, str]) -> Remarked:
    """Put a whole multicast IPv4 packet into GRE-in-UDP (RFC 8086), as a peer of ours does it.

    `link` and `ends` are (source, destination): MACs and tunnel addresses. The source port tells flows apart.
    """
    packet = frame[14:]
    flow = 0xC000 | zlib.crc32(packet[12:24]) & 0x3FFF
    outer = IP(src=ends[0], dst=ends[1], ttl=64, flags="DF", id=0)
    udp = UDP(sport=flow, dport=4754, chksum=0)
    built = Ether(src=link[0], dst=link[1]) / outer / udp / GRE(proto=0x0800) / Raw(packet)
    return bytes(built), "built: GRE-in-UDP around a recorded packet"


def send_to_group(frame: bytes, source_mac: str, source: str, group: str) -> Remarked:
    """Address Open vSwitch's NVGRE frame to a group, as from an NVE that floods: it cannot itself."""
    packet = Ether(frame)
    outer = packet[IP]
    octets = [int(part) for part in group.split(".")]
    packet.src = source_mac
    packet.dst = f"01:00:5e:{octets[1] & 0x7F:02x}:{octets[2]:02x}:{octets[3]:02x}"
    outer.src, outer.dst, outer.ttl = source, group, 1
    del outer.chksum
    return bytes(packet), "built: Open vSwitch's NVGRE frame, readdressed to a group"


def damaged_vxlan(frame: bytes) -> list[Remarked]:
    """Return what must be dropped, or taken only if the configuration says so, from one good VXLAN frame."""
    octets = bytearray(frame)
    octets[-1] ^= 0x55
    wrong_sum = bytes(octets)
    octets = bytearray(frame)
    octets[24] ^= 0x55
    cases = [
        (_with_header(frame, 0, 0x00), "I flag not set"),
        (_with_header(frame, 0, 0x0C), "reserved flag set"),
        (_with_header(frame, 3, 0x01), "reserved byte before the VNI set"),
        (_with_header(frame, 7, 0x80), "last reserved byte set"),
        (wrong_sum, "wrong UDP checksum"),
        (bytes(octets), "wrong IPv4 header checksum"),
        (_shortened(frame, 6), "UDP ends inside the VXLAN header"),
        (_shortened(frame, 8 + 13), "UDP ends inside the inner Ethernet header"),
        (_readdressed(frame, "239.99.99.99", "01:00:5e:63:63:63"), "a group nobody configured"),
        (_readdressed(frame, "10.9.9.9", frame[:6].hex(":")), "somebody else's tunnel"),
        (_tagged(frame, Dot1Q(vlan=100)), "VLAN tagged"),
        (_tagged(frame, Dot1AD(vlan=200) / Dot1Q(vlan=100)), "QinQ tagged"),
    ]
    return [(data, f"built: {remark}") for data, remark in cases]


def foreign_gre(link: tuple[str, str], ends: tuple[str, str]) -> list[Remarked]:
    """Return GRE that is not NVGRE, and NVGRE whose VSID is reserved (RFC 7637 section 3.2)."""
    tenant = Ether(src="02:d0:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / Raw(b"\0" * 46)
    inner = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1024, dport=9) / Raw(b"tenant")
    cases: list[tuple[Packet, str]] = [
        (GRE(proto=0x0800) / inner, "GRE with IPv4"),
        (GRE(proto=0x8847) / Raw(b"\x00\x01\x01\x40" + bytes(inner)), "GRE with MPLS"),
        (GRE(proto=0x6558) / tenant, "GRE with Ethernet and no key"),
        (GRE(proto=0x88BE, seqnum_present=1, sequence_number=7) / Raw(bytes(8) + bytes(tenant)), "ERSPAN"),
    ]
    for vsid in (0, 4095):
        keyed = GRE(proto=0x6558, key_present=1, key=vsid << 8 | 3)
        cases.append((keyed / tenant, f"NVGRE with the reserved VSID {vsid}"))
    outer = Ether(src=link[0], dst=link[1]) / IP(src=ends[0], dst=ends[1], ttl=64, id=0)
    return [(bytes(outer / case), f"built: {remark}") for case, remark in cases]


def neighbourly_noise(link: tuple[str, str], ends: tuple[str, str]) -> list[Remarked]:
    """Return what else a port of a router sees: LLDP, BGP, ssh, DNS, ICMP, plain datagrams."""
    source, target = ends
    head = Ether(src=link[0], dst=link[1])
    network = IP(src=source, dst=target, id=0)
    keepalive = b"\xff" * 16 + b"\x00\x13\x04"
    lldp = b"\x02\x07\x04" + bytes.fromhex(link[0].replace(":", ""))
    lldp += b"\x04\x03\x05p1" + b"\x06\x02\x00\x78" + b"\x00\x00"
    ssh = TCP(sport=40022, dport=22, flags="PA", seq=1, ack=1)
    bgp = TCP(sport=40179, dport=179, flags="PA", seq=1, ack=1)
    question = DNS(id=1, rd=1, qd=DNSQR(qname="vtep.example."))
    cases: list[tuple[Packet, str]] = [
        (Ether(src=link[0], dst=LLDP_TARGET, type=LLDP_TYPE) / Raw(lldp), "LLDP"),
        (head / network / ssh / Raw(b"SSH-2.0-example\r\n"), "ssh"),
        (head / IP(src=source, dst=target, id=0, ttl=1) / bgp / Raw(keepalive), "BGP keepalive"),
        (head / network / UDP(sport=40053, dport=53) / question, "DNS question"),
        (head / network / ICMP(id=1, seq=1) / Raw(b"ping"), "ICMP echo"),
        (head / network / UDP(sport=40000, dport=9999) / Raw(b"plain"), "plain UDP"),
    ]
    return [(bytes(case), f"built: {remark}") for case, remark in cases]


def _with_header(frame: bytes, offset: int, value: int) -> bytes:
    """Set one byte of the VXLAN header, the UDP checksum made right again."""
    octets = bytearray(frame)
    octets[VXLAN_OFFSET + offset] = value
    return _summed(bytes(octets))


def _shortened(frame: bytes, size: int) -> bytes:
    """Keep `size` bytes of UDP payload, every length and sum in agreement with that."""
    packet = Ether(frame)
    payload = bytes(packet[UDP].payload)[:size]
    packet[UDP].remove_payload()
    packet = packet / Raw(payload)
    del packet[IP].len, packet[IP].chksum, packet[UDP].len, packet[UDP].chksum
    return bytes(packet)


def _readdressed(frame: bytes, target: str, target_mac: str) -> bytes:
    packet = Ether(frame)
    packet.dst, packet[IP].dst = target_mac, target
    del packet[IP].chksum, packet[UDP].chksum
    return bytes(packet)


def _tagged(frame: bytes, tags: Packet) -> bytes:
    packet = Ether(frame)
    return bytes(Ether(src=packet.src, dst=packet.dst) / tags / packet[IP])


def _summed(frame: bytes) -> bytes:
    packet = Ether(frame)
    del packet[UDP].chksum
    return bytes(packet)
