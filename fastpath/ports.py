"""The kinds of ports, by the names that the configuration uses."""

from __future__ import annotations

import struct

from fastpath.captures import PcapSink, PcapSource
from fastpath.clones import ClonePort
from fastpath.encap.program import UDP, words_sum
from fastpath.io._absent import AbsentIo as AbsentPort
from fastpath.io._internal import InternalIo as InternalPort
from fastpath.io._memory import MemoryIo
from fastpath.io._packet import PacketIo as PacketPort
from fastpath.io._tap import TapIo as TapPort
from fastpath.io._xdp import XdpIo as XdpPort
from fastpath.model import Frame

__all__ = [
    "AbsentPort",
    "ClonePort",
    "InternalPort",
    "LivePort",
    "MemoryPort",
    "PacketPort",
    "PcapSink",
    "PcapSource",
    "TapPort",
    "XdpPort",
]

LivePort = AbsentPort | ClonePort | InternalPort | PacketPort | TapPort | XdpPort
"""What carries the frames of a running box."""

_FIN_PSH = 0x09


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
    """Do what segmentation offload does, for UDP and TCP: one finished packet per segment."""
    version = head[14] >> 4
    start, protocol = (34, head[23]) if version == 4 else (54, head[20])
    field = start + (6 if protocol == UDP else 16)
    out = []
    for place, at in enumerate(range(0, len(payload), segment_size)):
        segment = payload[at : at + segment_size]
        packet = bytearray(head)
        size = len(head) - start + len(segment)
        struct.pack_into(">H", packet, field, 0)
        if protocol == UDP:
            struct.pack_into(">H", packet, start + 4, size)
        else:
            sequence = (struct.unpack_from(">I", head, start + 4)[0] + at) & 0xFFFFFFFF
            struct.pack_into(">I", packet, start + 4, sequence)
            if at + segment_size < len(payload):
                packet[start + 13] &= ~_FIN_PSH
        if version == 4:
            identification = (struct.unpack_from(">H", head, 18)[0] + place) & 0xFFFF
            struct.pack_into(">HH", packet, 16, 20 + size, identification)
            struct.pack_into(">H", packet, 24, 0)
            struct.pack_into(">H", packet, 24, _checksum(words_sum(packet[14:34])))
            addresses = packet[26:34]
        else:
            struct.pack_into(">H", packet, 18, size)
            addresses = packet[22:54]
        padded = bytes(packet[start:]) + segment + bytes(len(segment) % 2)
        checksum = _checksum(words_sum(addresses) + protocol + size + words_sum(padded))
        struct.pack_into(">H", packet, field, checksum or (0xFFFF if protocol == UDP else 0))
        out.append(bytes(packet) + segment)
    return out


def _checksum(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
