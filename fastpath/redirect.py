"""The XDP program that sends what we consume to our AF_XDP sockets, and leaves all else alone.

It decides exactly as `fastpath.claims.is_consumed` does. IGMP and MLD, which the kernel must see as well as
we do, pass: a packet port on the same interface receives them, by its ordinary filter. Tunnel packets do not
reach that one, for XDP comes before AF_PACKET.

What AF_XDP cannot tell is why this is not for every interface: see `reason_against`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fastpath import bpf
from fastpath.bpf import BYTE, HALF, R0, R1, R2, R3, R4, R5, R6, WORD, Instruction, Label, Register
from fastpath.claims import BRIDGED, GRE, IPV4, IPV6, TAGS, UDP, Claims

__all__ = ["Redirect", "reason_against", "receive_queues", "redirect_program"]

Program = list[Instruction | Label]

# struct xdp_md
_DATA, _DATA_END, _RX_QUEUE = 0, 4, 16

# linux/sockios.h, linux/ethtool.h
_SIOCETHTOOL = 0x8946
_GET_DRIVER, _GET_FLAGS, _GET_CHANNELS = 0x3, 0x25, 0x3C
_FLAG_RX_VLAN = 1 << 8
_UNFINISHED = ("veth", "tun", "virtio_net")
"""Drivers that hand frames over whose checksum the sender left to be finished."""


def redirect_program(claims: Claims, sockets: int) -> Program:
    """Write the program for the map `sockets`, of AF_XDP sockets by receive queue."""
    return [
        bpf.mov(R6, R1),
        bpf.load(WORD, R2, R1, _DATA),
        bpf.load(WORD, R3, R1, _DATA_END),
        *_step_over_tag(),
        *_need(R2, 34),
        bpf.load(HALF, R0, R2, 12),
        bpf.jump("ipv4", "==", R0, _swap16(IPV4)),
        bpf.jump("pass", "!=", R0, _swap16(IPV6)),
        *_ipv6(claims),
        Label("ipv4"),
        *_ipv4(claims),
        Label("ours"),
        bpf.load(WORD, R2, R6, _RX_QUEUE),
        bpf.load_map(R1, sockets),
        bpf.mov(R3, bpf.XDP_PASS),  # where the queue has no socket
        bpf.call(bpf.HELPER_REDIRECT_MAP),
        bpf.leave(),
        Label("pass"),
        bpf.mov(R0, bpf.XDP_PASS),
        bpf.leave(),
    ]


def _step_over_tag() -> Program:
    """Let R2 point 4 bytes further where a tag of VLAN id 0 stands before the packet."""
    return [
        *_need(R2, 18, "untagged"),
        bpf.load(HALF, R0, R2, 12),
        *(bpf.jump("tagged", "==", R0, _swap16(tag)) for tag in TAGS),
        bpf.jump("untagged"),
        Label("tagged"),
        bpf.load(HALF, R0, R2, 14),
        bpf.jump("pass", "&", R0, _swap16(0xFFF)),
        bpf.alu("add", R2, 4),
        Label("untagged"),
    ]


def _ipv4(claims: Claims) -> Program:
    addresses = [address.packed for address in claims.addresses if address.version == 4]
    return [
        bpf.load(BYTE, R5, R2, 14),
        bpf.jump("pass", "<", R5, 0x45),
        bpf.jump("pass", ">", R5, 0x4F),
        bpf.load(HALF, R0, R2, 20),
        bpf.jump("pass", "&", R0, _swap16(0x1FFF)),
        bpf.load(BYTE, R4, R2, 23),
        bpf.alu("and", R5, 15),
        bpf.alu("<<", R5, 2),
        bpf.alu("add", R5, R2),
        *_tunnel(claims, "ipv4", R4, R5, 14),
        bpf.load(WORD, R0, R2, 30),
        *(bpf.jump("ours", "==", R0, _word(address), bits=32) for address in addresses),
        bpf.alu("and", R0, _word(bytes((0xF0, 0, 0, 0)))),
        bpf.jump("ours", "==", R0, _word(bytes((0xE0, 0, 0, 0)))),
        bpf.jump("pass"),
    ]


def _ipv6(claims: Claims) -> Program:
    program: Program = [
        *_need(R2, 54),
        bpf.load(BYTE, R0, R2, 14),
        bpf.alu(">>", R0, 4),
        bpf.jump("pass", "!=", R0, 6),
        bpf.load(BYTE, R4, R2, 20),
        *_tunnel(claims, "ipv6", R4, R2, 54),
        bpf.load(BYTE, R0, R2, 38),
        bpf.jump("ours", "==", R0, 0xFF),
        *(bpf.load(WORD, register, R2, 38 + 4 * place) for place, register in enumerate((R0, R1, R4, R5))),
    ]
    for number, address in enumerate(claims.addresses):
        if address.version == 6:
            words = [address.packed[at : at + 4] for at in range(0, 16, 4)]
            other = f"not address {number}"
            program += [
                bpf.jump(other, "!=", register, _word(word), bits=32)
                for register, word in zip((R0, R1, R4, R5), words, strict=True)
            ]
            program += [bpf.jump("ours"), Label(other)]
    return [*program, bpf.jump("pass")]


def _tunnel(claims: Claims, version: str, protocol: Register, base: Register, transport: int) -> Program:
    """Go on where it is UDP to one of our ports, or GRE that carries Ethernet frames, else pass; uses R1.

    A destination port and the protocol of GRE both stand at the third byte of their headers.
    """
    return [
        *_need(base, transport + 4),
        bpf.load(HALF, R1, base, transport + 2),
        bpf.jump(f"{version} udp", "==", protocol, UDP),
        bpf.jump("pass", "!=", protocol, GRE),
        bpf.jump(f"{version} tunnel", "==", R1, _swap16(BRIDGED)),
        bpf.jump("pass"),
        Label(f"{version} udp"),
        *(bpf.jump(f"{version} tunnel", "==", R1, _swap16(port)) for port in claims.ports),
        bpf.jump("pass"),
        Label(f"{version} tunnel"),
    ]


def _need(base: Register, size: int, otherwise: str = "pass") -> Program:
    """Make sure of `size` bytes behind `base`, which the verifier asks for; uses R1."""
    return [bpf.mov(R1, base), bpf.alu("add", R1, size), bpf.jump(otherwise, ">", R1, R3)]


def _swap16(value: int) -> int:
    """Give a number of the wire as a load of two bytes finds it."""
    return int.from_bytes(value.to_bytes(2, "big"), sys.byteorder)


def _word(data: bytes | bytearray) -> int:
    return int.from_bytes(data, sys.byteorder)


class Redirect:
    """The program on `device`, for `sockets`: pairs of a receive queue and an AF_XDP socket's descriptor.

    It is gone with `close`, and with the process however that ends. Raises OSError: EPERM without CAP_BPF and
    CAP_NET_ADMIN, EBUSY where the interface has an XDP program already.
    """

    def __init__(self, device: str, claims: Claims, sockets: Iterable[tuple[int, int]]) -> None:
        by_queue = dict(sockets)
        self._link = -1
        self._map = bpf.create_map(bpf.MapKind.XSKMAP, 4, 4, max(by_queue) + 1, "fp_sockets")
        try:
            for queue, descriptor in by_queue.items():
                bpf.map_update(self._map, struct.pack("=I", queue), struct.pack("=I", descriptor))
            with self._program(claims) as program:
                self._link = bpf.attach_xdp(program, socket.if_nametoindex(device))
        except BaseException:
            self.close()
            raise

    def update(self, claims: Claims) -> None:
        """Claim something else from now on; no frame comes between the two."""
        with self._program(claims) as program:
            bpf.replace_program(self._link, program)

    @contextmanager
    def _program(self, claims: Claims) -> Iterator[int]:
        program = bpf.load_program(bpf.ProgramKind.XDP, redirect_program(claims, self._map), "fp_redirect")
        try:
            yield program
        finally:
            os.close(program)  # the link keeps it

    def close(self) -> None:
        """Take the program off. Closing twice does nothing more."""
        for descriptor in (self._link, self._map):
            if descriptor >= 0:
                os.close(descriptor)
        self._link = self._map = -1


def reason_against(device: str) -> str | None:
    """Say why frames should come in by AF_PACKET on this interface; None where nothing does.

    AF_XDP says nothing about an unfinished checksum (LIMITS trap 12) or about a tag that the card took out,
    so that frames of other VLANs would be taken for ours.
    """
    information = bytearray(struct.pack("=I", _GET_DRIVER) + bytes(192))
    _ethtool(device, information)
    driver = information[4:36].split(b"\0")[0].decode(errors="replace")
    if driver in _UNFINISHED:
        return f"driver {driver} hands over unfinished checksums, which AF_XDP does not tell"
    flags = bytearray(struct.pack("=II", _GET_FLAGS, 0))
    if _ethtool(device, flags) and _word(flags[4:]) & _FLAG_RX_VLAN:
        return "the card takes VLAN tags out (ethtool -k: rx-vlan-offload), which AF_XDP does not tell"
    return None


def receive_queues(device: str) -> list[int]:
    """List the receive queues that frames may come in by; only the first where the driver does not tell."""
    channels = bytearray(struct.pack("=9I", _GET_CHANNELS, *bytes(8)))
    if not _ethtool(device, channels):
        return [0]
    received, combined = struct.unpack_from("=I8xI", channels, 20)
    return list(range(max(1, received + combined)))


def _ethtool(device: str, request: bytearray) -> bool:
    """Ask the driver (SIOCETHTOOL), which answers in place; False where it does not know this question."""
    answer = (ctypes.c_char * len(request)).from_buffer(request)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        try:
            argument = struct.pack("16sP", os.fsencode(device), ctypes.addressof(answer))
            fcntl.ioctl(any_socket, _SIOCETHTOOL, argument)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return False
            raise OSError(error.errno, f"ethtool on {device}: {error.strerror}") from None
    return True
