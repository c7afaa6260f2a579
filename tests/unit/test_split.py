"""Super-frames cut by us: each frame is the one that its sender would have built by itself, byte for byte."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from tests import frames as f
from tests.native._split import cut

NEEDS_CSUM, TCP4, TCP6, UDP_TRAIN, ECN = 1, 1, 4, 5, 0x80
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
IDENT = 0xFFFE
SEQUENCE = 0xFFFFFF00
GROUP, GROUP6, VTEP, VTEP6 = "239.1.1.100", "ff15::1:7788", "10.1.1.2", "2001:db8:1::2"
VM, OTHER_VM, VM6, OTHER_VM6 = "172.16.5.9", "172.16.5.77", "fd00::5:9", "fd00::5:77"

Inside = Callable[[bytes, int, bool], bytes]
"""The packet or frame that carries a part of the payload: (part, its number, is it the last)."""


def packet(body: bytes, src: str, dst: str, protocol: int, number: int, options: bytes = b"") -> bytes:
    if ":" in dst:
        return f.ip(body, src, dst, protocol)
    return f.ip(body, src, dst, protocol, ident=(IDENT + number) & 0xFFFF, options=options)


def vm_udp(src: str, dst: str) -> Inside:
    def inside(part: bytes, number: int, last: bool) -> bytes:
        datagram = f.udp(part, src, dst, sport=40001, dport=5004, checksum=f.RIGHT)
        return packet(datagram, src, dst, f.UDP, number)

    return inside


def vm_tcp(src: str, dst: str, flags: int = ACK | PSH | FIN | CWR) -> Inside:
    def inside(part: bytes, number: int, last: bool) -> bytes:
        ours = flags & ~(0 if last else FIN | PSH) & ~(CWR if number else 0)
        sequence = (SEQUENCE + number * GSO_SIZE) & 0xFFFFFFFF
        head = struct.pack(">HHIIBBHHH", 40001, 443, sequence, 77, 8 << 4, ours, 4096, 0, 0)
        segment = head + b"\x01\x01\x08\x0a\0\0\0\x07\0\0\0\x09" + part
        total = f.internet_checksum(f.pseudo(src, dst, f.TCP, len(segment)) + segment)
        return packet(segment[:16] + total.to_bytes(2, "big") + segment[18:], src, dst, f.TCP, number)

    return inside


def vxlan(
    inside: Inside, src: str = VTEP, dst: str = GROUP, checksum: int = f.ZERO, options: bytes = b""
) -> Inside:
    def outside(part: bytes, number: int, last: bool) -> bytes:
        body = f.vxlan_header(0x0A1B2C) + f.wire(inside(part, number, last), TENANT_TAGS)
        return packet(f.udp(body, src, dst, checksum=checksum), src, dst, f.UDP, number, options)

    return outside


def nvgre(inside: Inside) -> Inside:
    def outside(part: bytes, number: int, last: bool) -> bytes:
        body = f.nvgre_header(0x51D2E3) + f.wire(inside(part, number, last))
        return packet(body, VTEP, GROUP, f.GRE, number)

    return outside


def nested(inside: Inside, src: str = "10.0.0.2", dst: str = "10.0.0.1", checksum: int = f.ZERO) -> Inside:
    def outside(part: bytes, number: int, last: bool) -> bytes:
        body = b"\x00\x00\x08\x00" + inside(part, number, last)
        return packet(f.udp(body, src, dst, dport=4754, checksum=checksum), src, dst, f.UDP, number)

    return outside


TENANT_TAGS = ((0x8100, 0x6064),)
GSO_SIZE = 100
TRAIN = vm_udp(VTEP, GROUP)
SHAPES: dict[str, tuple[Inside, int]] = {
    "train": (TRAIN, UDP_TRAIN),
    "train_6": (vm_udp(VTEP6, GROUP6), UDP_TRAIN),
    "vm_udp": (vxlan(vm_udp(VM, OTHER_VM)), UDP_TRAIN),
    "vm_udp_checked": (vxlan(vm_udp(VM, OTHER_VM), checksum=f.RIGHT), UDP_TRAIN),
    "vm_udp_6_checked_6": (vxlan(vm_udp(VM6, OTHER_VM6), VTEP6, GROUP6, f.RIGHT), UDP_TRAIN),
    "vm_tcp": (vxlan(vm_tcp(VM, OTHER_VM)), TCP4),
    "vm_tcp_ecn": (vxlan(vm_tcp(VM, OTHER_VM)), TCP4 | ECN),
    "vm_tcp_checked": (vxlan(vm_tcp(VM, OTHER_VM), checksum=f.RIGHT), TCP4),
    "vm_tcp_options": (vxlan(vm_tcp(VM, OTHER_VM), checksum=f.RIGHT, options=b"\x01" * 40), TCP4),
    "vm_tcp_6": (vxlan(vm_tcp(VM6, OTHER_VM6), checksum=f.RIGHT), TCP6),
    "vm_tcp_in_nvgre": (nvgre(vm_tcp(VM, OTHER_VM)), TCP4),
    "vm_tcp_nested_checked": (
        nested(vxlan(vm_tcp(VM, OTHER_VM), checksum=f.RIGHT), checksum=f.RIGHT),
        TCP4,
    ),
    "vm_tcp_nested_in_nvgre": (nested(nvgre(vm_tcp(VM, OTHER_VM))), TCP4),
    "tcp": (vm_tcp(VM, OTHER_VM), TCP4),
}


def super_frame(inside: Inside, kind: int, payload: bytes, gso_size: int = GSO_SIZE) -> tuple[bytes, bytes]:
    """The super-frame of a payload, its last checksum unfinished, and its virtio_net_hdr."""
    data = f.wire(inside(payload, 0, True))
    is_tcp = kind != UDP_TRAIN
    start = len(data) - len(payload) - (32 if is_tcp else 8)
    offset = 16 if is_tcp else 6
    data = data[: start + offset] + b"\xde\xad" + data[start + offset + 2 :]  # nobody looks at it
    return data, struct.pack("=BBHHHH", NEEDS_CSUM, kind, start + 32, gso_size, start, offset)


def finished(frame: bytes, start: int, offset: int) -> bytes:
    """Finish a marked frame's checksum."""
    total = f.internet_checksum(frame[start:]) or 0xFFFF
    return frame[: start + offset] + total.to_bytes(2, "big") + frame[start + offset + 2 :]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 100, 101, 200, 1234])
def test_a_super_frame_is_cut_into_the_frames_that_its_sender_meant(shape: str, size: int) -> None:
    inside, kind = SHAPES[shape]
    payload = bytes(i * 7 & 0xFF for i in range(size))
    parts = [payload[at : at + GSO_SIZE] for at in range(0, size, GSO_SIZE)]
    got = cut(*super_frame(inside, kind, payload))
    assert got is not None
    assert [finished(*one) for one in got] == [
        f.wire(inside(part, number, number == len(parts) - 1)) for number, part in enumerate(parts)
    ]


def test_a_full_super_frame_is_cut() -> None:
    payload = random.Random(1).randbytes(65000 - 100)
    got = cut(*super_frame(vxlan(vm_tcp(VM, OTHER_VM)), TCP4, payload, 1338))
    assert got is not None
    assert b"".join(frame[start + 32 :] for frame, start, _ in got) == payload


HEADER = struct.Struct("=BBHHHH")


@pytest.mark.parametrize(
    "change",
    [
        {"flags": 0},
        {"kind": 0},
        {"kind": 3},
        {"kind": UDP_TRAIN},
        {"kind": TCP6},
        {"kind": 9},
        {"size": 0},
        {"size": 0xFFFF},
        {"start": 0},
        {"start": 13},
        {"start": 34},
        {"start": 0xFFFF},
        {"offset": 6},
        {"offset": 0xFFFF},
    ],
    ids=str,
)
def test_what_does_not_add_up_is_not_cut(change: dict[str, int]) -> None:
    data, header = super_frame(vxlan(vm_tcp(VM, OTHER_VM)), TCP4, bytes(1000))
    flags, kind, hdr_len, size, start, offset = HEADER.unpack(header)
    fields = {
        "flags": flags,
        "kind": kind,
        "hdr_len": hdr_len,
        "size": size,
        "start": start,
        "offset": offset,
    }
    assert cut(data, HEADER.pack(*fields.values())) is not None
    assert cut(data, HEADER.pack(*(fields | change).values())) is None


def test_fragments_and_unknown_tunnels_and_extension_headers_are_not_cut() -> None:
    whole = f.wire(f.vxlan_packet(f.wire(vm_tcp(VM, OTHER_VM)(bytes(1000), 0, True)), VTEP, GROUP, 7))
    header = struct.pack("=BBHHHH", NEEDS_CSUM, TCP4, 136, GSO_SIZE, 84, 16)
    assert cut(whole, header) is not None
    assert cut(whole[:20] + b"\x20\x00" + whole[22:], header) is None, "a first fragment"
    assert cut(whole[:23] + bytes((f.SCTP,)) + whole[24:], header) is None, "neither UDP nor GRE"
    assert cut(whole[:12] + b"\x08\x06" + whole[14:], header) is None, "not IP"
    routed = f.ip(bytes(1100), VTEP6, GROUP6, f.UDP, extensions=(f.extension(f.ROUTING),))
    header = struct.pack("=BBHHHH", NEEDS_CSUM, UDP_TRAIN, 70, GSO_SIZE, 62, 6)
    assert cut(f.wire(routed), header) is None


def test_whatever_a_header_says_nothing_is_touched_that_is_not_there() -> None:
    """Seen by `make sanitize`; here, that no frame is larger than its parts."""
    rng = random.Random(5)
    n_cut = 0
    for _ in range(4000):
        inside, kind = rng.choice(list(SHAPES.values()))
        data, header = super_frame(inside, kind, bytes(rng.randrange(1, 400)))
        changed, mark = bytearray(data), bytearray(header)
        for _ in range(rng.randrange(3)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        if rng.random() < 0.5:
            mark[rng.randrange(1, 10)] = rng.randrange(256)
        got = cut(bytes(changed[: rng.randrange(1, len(changed) + 1)]), bytes(mark))
        gso_size, start, offset = struct.unpack_from("=HHH", mark, 4)
        n_cut += got is not None
        for frame, at, field in got or ():
            assert (at, field) == (start, offset)
            assert len(frame) <= start + 60 + gso_size
    assert n_cut > 100
