"""ICMP echo, as `ping` sends it: a few lines, since many a machine has no such program."""

from __future__ import annotations

import os
import select
import socket
import struct
import time

_REQUEST, _REPLY = 8, 0
_BODY = bytes(range(48))


class Echo:
    """An ICMP socket of the namespace in which this is made. Takes CAP_NET_RAW there."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._identity = os.getpid() & 0xFFFF
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def ask(self, address: str, within_s: float) -> float | None:
        """Ask an IPv4 address once; milliseconds until the answer, None if there is none in time."""
        self._sequence += 1
        asked = struct.pack(">HH", self._identity, self._sequence) + _BODY
        begin = time.monotonic()
        self._socket.sendto(request(asked), (address, 0))
        while (left_s := begin + within_s - time.monotonic()) > 0:
            if select.select([self._socket], [], [], left_s)[0] and is_reply(self._socket.recv(2048), asked):
                return 1e3 * (time.monotonic() - begin)
        return None


def request(asked: bytes) -> bytes:
    """An echo request with an identity, a sequence number and a body (RFC 792)."""
    return struct.pack(">BBH", _REQUEST, 0, _checksum(struct.pack(">BBH", _REQUEST, 0, 0) + asked)) + asked


def is_reply(packet: bytes, asked: bytes) -> bool:
    """Say whether an IPv4 packet is the echo reply to what was asked."""
    head_size = (packet[0] & 0xF) * 4 if packet else 0
    return packet[head_size : head_size + 2] == bytes((_REPLY, 0)) and packet[head_size + 4 :] == asked


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
