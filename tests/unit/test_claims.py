"""The socket filter lets in what `fastpath.claims.is_ours` names, by our interpreter and by the kernel."""

from __future__ import annotations

import ctypes
import random
import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.claims import (
    ADDRESSES_MAX,
    PORTS_MAX,
    Claims,
    Instruction,
    is_consumed,
    is_ours,
    is_watched,
    socket_filter,
)
from tests import frames as f

OURS, OURS6, GROUP, GROUP6 = "10.0.0.1", "2001:db8::1", "239.1.1.7", "ff05::7"
FAR, FAR6 = "10.1.1.2", "2001:db8:1::2"
CLAIMS = Claims((4789, 8472), (ip_address(OURS), ip_address(OURS6)))
FULL = Claims(
    tuple(range(40000, 40000 + PORTS_MAX)),
    tuple(
        ip_address(f"10.9.{n}.1" if n % 2 else f"2001:db8:{n:x}:1234:5678:9abc:def0:{n:x}")
        for n in range(ADDRESSES_MAX)
    ),
)
INNER = bytes(range(60))


def vxlan(src: str = FAR, dst: str = GROUP, dport: int = 4789, **packet: object) -> bytes:
    return f.wire(f.vxlan_packet(INNER, src, dst, 5, datagram={"dport": dport}, packet=packet))


def icmp6(kind: int, *extensions: tuple[int, bytes]) -> bytes:
    return f.wire(f.ipv6(bytes((kind,)) + bytes(7), FAR6, GROUP6, f.ICMPV6, extensions=extensions))


CONSUMED: dict[str, bytes] = {
    "to_a_group": vxlan(),
    "to_us": vxlan(dst=OURS),
    "to_a_group_6": vxlan(FAR6, GROUP6),
    "to_us_6": vxlan(FAR6, OURS6),
    "other_port": vxlan(dport=8472),
    "nested": vxlan(dst=OURS, dport=4754),
    "options": vxlan(options=b"\x01" * 40),
    "first_fragment": vxlan(flags=1),
    "nvgre": f.wire(f.nvgre_packet(INNER, FAR, OURS, 5)),
    "nvgre_6": f.wire(f.nvgre_packet(INNER, FAR6, GROUP6, 5)),
}
WATCHED: dict[str, bytes] = {
    "igmp": f.wire(f.igmp(FAR, GROUP)),
    "mld": f.wire(f.mld(FAR6, GROUP6)),
    "mld_query": icmp6(130, f.extension(f.HOP_BY_HOP)),
    "mld_bare": icmp6(131),
}
FOREIGN: dict[str, bytes] = {
    "stranger": vxlan(dst="10.0.0.2"),
    "stranger_6": vxlan(FAR6, "2001:db8::2"),
    "half_of_our_address": vxlan(FAR6, "2001:db8::1:0:1"),
    "broadcast": vxlan(dst="255.255.255.255"),
    "another_port": vxlan(dport=4790),
    "ssh": f.wire(f.ip(b"\xc1\x23\x00\x16" + bytes(16), FAR, OURS, f.TCP)),
    "tcp_to_4789": f.wire(f.ip(b"\xc1\x23\x12\xb5" + bytes(16), FAR, OURS, f.TCP)),
    "gre_of_ip": f.wire(f.nvgre_packet(INNER, FAR, OURS, 5, header={"protocol": f.IPV4})),
    "udp_to_port_0x6558": vxlan(dport=0x6558),
    "later_fragment": vxlan(flags=0, offset=1),
    "behind_an_extension": vxlan(FAR6, OURS6, extensions=(f.extension(f.HOP_BY_HOP),)),
    "neighbour_solicitation": icmp6(135),
    "mld_behind_more": icmp6(143, f.extension(f.HOP_BY_HOP, 1)),
    "arp": f.arp(),
    "short_header_length": vxlan(ihl=4),
    "version_6_in_ipv4": vxlan(version=6),
}


def run(program: list[Instruction], frame: bytes, tci: int | None) -> bool:
    """Interpret classic BPF (Documentation/networking/filter.rst of Linux); is the frame let in?"""

    def load(at: int, size: int) -> int:
        if at == 0xFFFFF000 + 48:
            return int(tci is not None)
        if at == 0xFFFFF000 + 44:
            return tci or 0
        if at + size > len(frame):
            raise IndexError(at)
        return int.from_bytes(frame[at : at + size], "big")

    tests: dict[int, Callable[[int, int], bool]] = {
        0x15: lambda a, k: a == k,
        0x25: lambda a, k: a > k,
        0x35: lambda a, k: a >= k,
        0x45: lambda a, k: a & k != 0,
    }
    a = x = at = 0
    while True:
        code, yes, no, k = program[at]
        at += 1
        try:
            if code == 0x06:
                return k != 0
            if code == 0x05:
                at += k
            elif code in tests:
                at += yes if tests[code](a, k) else no
            elif code == 0x54:
                a &= k
            elif code == 0xB1:
                x = 4 * (load(k, 1) & 15)
            elif code == 0x48:
                a = load(x + k, 2)
            else:
                a = load(k, {0x20: 4, 0x28: 2, 0x30: 1}[code])
        except IndexError:
            return False


@pytest.mark.parametrize("name", CONSUMED)
def test_tunnel_packets_to_groups_and_to_us_are_consumed(name: str) -> None:
    frame = CONSUMED[name]
    assert is_consumed(CLAIMS, frame)
    assert is_ours(CLAIMS, frame)
    assert not is_watched(frame)


@pytest.mark.parametrize("name", WATCHED)
def test_igmp_and_mld_are_watched_and_left_to_the_kernel(name: str) -> None:
    frame = WATCHED[name]
    assert is_watched(frame)
    assert is_ours(CLAIMS, frame)
    assert not is_consumed(CLAIMS, frame)


@pytest.mark.parametrize("name", FOREIGN)
def test_everything_else_is_foreign(name: str) -> None:
    assert not is_ours(CLAIMS, FOREIGN[name])


def test_frames_of_other_vlans_are_foreign_and_a_priority_tag_hides_nothing() -> None:
    frame = CONSUMED["to_a_group"]
    assert CLAIMS.holds(frame, 0xE000)
    assert not CLAIMS.holds(frame, 0x6005)
    assert CLAIMS.holds(frame[:12] + bytes.fromhex("8100 e000") + frame[12:])
    assert not CLAIMS.holds(frame[:12] + bytes.fromhex("8100 e005") + frame[12:])
    assert not CLAIMS.holds(frame[:12] + bytes.fromhex("8100 e000") + frame[12:], 0), "one tag, not two"


@pytest.mark.parametrize("claims", [CLAIMS, FULL, Claims((4789,))], ids=["some", "full", "groups"])
def test_the_filter_is_legal(claims: Claims) -> None:
    program = socket_filter(claims)
    assert len(program) <= 4096
    for at, (code, yes, no, k) in enumerate(program):
        assert 0 <= yes <= 255
        assert 0 <= no <= 255
        farthest = k if code == 0x05 else max(yes, no)
        assert at + 1 + farthest < len(program) or (code == 0x06 and farthest == 0)


def test_too_many_ports_or_addresses_are_refused() -> None:
    with pytest.raises(ValueError, match="17 VXLAN ports: expected at most 16"):
        Claims(tuple(range(1, PORTS_MAX + 2)))
    with pytest.raises(ValueError, match="65 addresses"):
        Claims((4789,), tuple(ip_address(n) for n in range(1, ADDRESSES_MAX + 2)))
    with pytest.raises(ValueError, match="VXLAN port 65536"):
        Claims((65536,))


SEEDS = [*CONSUMED.values(), *WATCHED.values(), *FOREIGN.values()]


def mutated(rng: random.Random, claims: Claims) -> tuple[bytes, int | None]:
    """A frame that is ours, or not, or nearly."""
    frame = bytearray(rng.choice(SEEDS))
    if frame[12:14] == b"\x08\x00" and rng.random() < 0.4:
        own = [a.packed for a in claims.addresses if a.version == 4]
        frame[30:34] = rng.choice([*own, ip_address(GROUP).packed])
    if frame[12:14] == b"\x86\xdd" and rng.random() < 0.4:
        own = [a.packed for a in claims.addresses if a.version == 6]
        frame[38:54] = rng.choice([*own, ip_address(GROUP6).packed])
    if rng.random() < 0.4:
        transport = 14 + (frame[14] & 15) * 4 if frame[12] == 8 else 54
        frame[transport + 2 : transport + 4] = rng.choice((*claims.ports, 0x6558)).to_bytes(2, "big")
    for _ in range(rng.choice((0, 0, 1, 2))):
        frame[rng.randrange(12, min(64, len(frame)))] = rng.choice(
            (0, 2, 6, 17, 47, 58, 130, 143, 255, rng.randrange(256))
        )
    cut = rng.randrange(14, len(frame)) if rng.random() < 0.2 else len(frame)
    return bytes(frame[:cut]), rng.choice((None, None, None, 0, 0xE000, 7))


@settings(max_examples=1500, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([CLAIMS, FULL, Claims((4789,))]))
def test_the_filter_says_what_the_predicate_says(rng: random.Random, claims: Claims) -> None:
    frame, tci = mutated(rng, claims)
    if tci is None and int.from_bytes(frame[12:14], "big") in (0x8100, 0x88A8):
        return  # the kernel takes such a tag out first
    assert run(socket_filter(claims), frame, tci) == is_ours(claims, frame, tci)


def test_the_kernel_reads_the_filter_as_we_do() -> None:
    """On a pair of sockets, which needs no rights; so tags are left to the system tests."""
    rng = random.Random(11)
    for claims in (CLAIMS, FULL):
        program = socket_filter(claims)
        sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with sender, receiver:
            receiver.setblocking(False)
            attach(receiver, program)
            n_in = 0
            for _ in range(2000):
                frame, _ = mutated(rng, claims)
                want = run(program, frame, None)
                sender.send(frame)
                try:
                    got = receiver.recv(4096) == frame
                except BlockingIOError:
                    got = False
                assert got == want, frame.hex()
                n_in += got
            assert 200 < n_in < 1800


def attach(receiver: socket.socket, program: list[Instruction]) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    held = ctypes.create_string_buffer(code)
    fprog = struct.pack("@HP", len(program), ctypes.addressof(held))
    receiver.setsockopt(socket.SOL_SOCKET, 26, fprog)
