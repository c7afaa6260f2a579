"""The kinds of ports, by the names that the configuration uses."""

from __future__ import annotations

import struct

from fastpath.captures import PcapSink, PcapSource
from fastpath.encap.program import words_sum
from fastpath.io._absent import AbsentIo as AbsentPort
from fastpath.io._memory import MemoryIo
from fastpath.io._packet import PacketIo as PacketPort
from fastpath.io._tap import TapIo as TapPort
from fastpath.io._xdp import XdpIo as XdpPort
from fastpath.model import Frame

__all__ = [
    "AbsentPort",
    "LivePort",
    "MemoryPort",
    "PacketPort",
    "PcapSink",
    "PcapSource",
    "TapPort",
    "XdpPort",
]

LivePort = AbsentPort | PacketPort | TapPort | XdpPort
"""What carries the frames of a running box."""


class MemoryPort(MemoryIo):
    """Frames in from Python, copies out into memory; see `MemoryIo` for its room and its trains."""

    def receive(self, *frames: Frame | bytes) -> None:
        """Queue frames, to come in with the next bursts."""
        for frame in frames:
            if isinstance(frame, bytes):
                self.push(frame)
            else:
                mark = None if frame.mark is None else (frame.mark.start, frame.mark.offset)
                self.push(frame.data, mark, frame.vlan, frame.time_ns)

    def take(self) -> list[bytes]:
        """All copies that went out, oldest first, trains cut into the datagrams that a kernel would make."""
        out: list[bytes] = []
        for data, train, segment_size in self.records():
            out.extend(cut_train(data, train, segment_size) if train else (data,))
        self.clear()
        return out


def cut_train(head: bytes, payload: bytes, segment_size: int) -> list[bytes]:
    """Do what UDP segmentation offload does: one finished datagram per segment."""
    version = head[14] >> 4
    udp = len(head) - 8
    out = []
    for place, at in enumerate(range(0, len(payload), segment_size)):
        segment = payload[at : at + segment_size]
        datagram = bytearray(head)
        size = 8 + len(segment)
        struct.pack_into(">H", datagram, udp + 4, size)
        struct.pack_into(">H", datagram, udp + 6, 0)
        if version == 4:
            identification = (struct.unpack_from(">H", head, 18)[0] + place) & 0xFFFF
            struct.pack_into(">HH", datagram, 16, udp - 14 + size, identification)
            struct.pack_into(">H", datagram, 24, 0)
            struct.pack_into(">H", datagram, 24, _checksum(words_sum(datagram[14:34])))
            addresses = datagram[26:34]
        else:
            struct.pack_into(">H", datagram, 18, udp - 54 + size)
            addresses = datagram[22:54]
        padded = bytes(datagram[udp:]) + segment + bytes(len(segment) % 2)
        checksum = _checksum(words_sum(addresses) + 17 + size + words_sum(padded))
        struct.pack_into(">H", datagram, udp + 6, checksum or 0xFFFF)
        out.append(bytes(datagram) + segment)
    return out


def _checksum(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
