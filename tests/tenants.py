"""Flows of VMs' frames as segmentation offload leaves them: what counts counts on, checksums are right."""

from __future__ import annotations

from typing import Any

from tests import frames as f

SOURCES = {4: "172.16.5.9", 6: "fd00:0:0:5::9"}
GROUPS = {4: "239.77.1.3", 6: "ff15::7"}
VM_MAC = bytes.fromhex("0eb1c3d5e7f9")
GROUP_MAC = bytes.fromhex("01005e4d0103")
PSH, ACK, FIN = 0x08, 0x10, 0x01


def payload(place: int, size: int) -> bytes:
    return bytes((place * 31 + at * 7) & 255 for at in range(size))


def frame(transport: bytes, protocol: int, version: int = 4, ident: int = 0, **packet: Any) -> bytes:
    """A VM's frame around a datagram or segment; `packet` are knobs of its IP header."""
    if version == 4:
        packet = {"ident": ident & 0xFFFF, **packet}
    tags = packet.pop("tags", ())
    inside = f.ip(transport, SOURCES[version], GROUPS[version], protocol, **packet)
    return f.ethernet(inside, f.IPV4 if version == 4 else f.IPV6, GROUP_MAC, VM_MAC, tags)


def datagram(place: int, size: int, version: int = 4, **knobs: Any) -> bytes:
    """Datagram `place` of a flow, of `size` bytes; knobs are those of its UDP and IP headers."""
    ports = {"sport": 40001, "dport": 5004, "checksum": f.RIGHT}
    ports |= {name: knobs.pop(name) for name in ("sport", "dport", "length", "checksum") if name in knobs}
    body = f.udp(payload(place, size), SOURCES[version], GROUPS[version], **ports)
    return frame(body, f.UDP, version, **{"ident": 0xFFF0 + place, **knobs})


def segment(
    place: int,
    size: int,
    version: int = 4,
    *,
    at: int | None = None,
    ack: int = 77,
    flags: int = ACK,
    window: int = 501,
    urgent: int = 0,
    options: bytes = b"\x01\x01\x08\x0a12345678",
    checksum: int = f.RIGHT,
    **packet: Any,
) -> bytes:
    """Segment `place` of a TCP flow whose segments are of `size` bytes, unless `at` says where it begins."""
    sequence = (0xFFFFF000 + (place * size if at is None else at)) & 0xFFFFFFFF
    head = (40001).to_bytes(2, "big") + (5004).to_bytes(2, "big") + sequence.to_bytes(4, "big")
    head += ack.to_bytes(4, "big") + bytes(((5 + len(options) // 4) << 4, flags)) + window.to_bytes(2, "big")
    rest = urgent.to_bytes(2, "big") + options + payload(place, size)
    if checksum == f.RIGHT:
        pseudo = f.pseudo(SOURCES[version], GROUPS[version], f.TCP, len(head) + 2 + len(rest))
        checksum = f.internet_checksum(pseudo + head + b"\0\0" + rest)
    body = head + checksum.to_bytes(2, "big") + rest
    return frame(body, f.TCP, version, **{"ident": 0xFFF0 + place, **packet})
