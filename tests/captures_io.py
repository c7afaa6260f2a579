"""Captures made byte by byte, so that any field can be wrong, and read by others than us.

The builders know both byte orders (`<` and `>`) and nothing of the code under test.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dpkt
from scapy.utils import RawPcapNgReader

Frame = tuple[str | None, int, bytes]
"""Interface (None: it has no name), time in ns, bytes."""

US, NS = 0xA1B2C3D4, 0xA1B23C4D
SECTION, INTERFACE, OLD_PACKET, SIMPLE_PACKET, STATISTICS, PACKET = 0x0A0D0D0A, 1, 2, 3, 5, 6
NAME, RESOLUTION, OFFSET = 2, 9, 14
ETHERNET = 1


def read_frames(path: Path) -> list[Frame]:
    """All frames of a capture, by dpkt (pcap) or scapy (pcapng, one section, no time offsets)."""
    with path.open("rb") as file:
        if file.read(4) != struct.pack(">I", SECTION):
            file.seek(0)
            reader = dpkt.pcap.Reader(file)
            unit = 1 if str(reader._divisor) == "1E+9" else 1000
            return [(None, round(stamp * 10**9 / unit) * unit, data) for stamp, data in reader]
    frames: list[Frame] = []
    with RawPcapNgReader(str(path)) as blocks:
        about: Any  # scapy names the fields of pcapng in a subclass that its types do not know
        for data, about in blocks:
            units = about.tshigh << 32 | about.tslow
            name = about.ifname.decode() if about.ifname else None
            frames.append((name, units * 10**9 // about.tsresol, bytes(data)))
    return frames


def pcap_head(
    order: str = "<", magic: int = US, *, link: int = ETHERNET, version: tuple[int, int] = (2, 4)
) -> bytes:
    """The header of a classic pcap."""
    return struct.pack(order + "IHHiIII", magic, *version, 0, 0, 1 << 18, link)


def pcap_packet(
    data: bytes,
    time_ns: int = 0,
    order: str = "<",
    magic: int = US,
    *,
    size: int | None = None,
    wire_size: int = -1,
) -> bytes:
    """One packet of a classic pcap; `size` is what its header says of `data`."""
    seconds, rest = divmod(time_ns, 10**9)
    size = len(data) if size is None else size
    wire_size = len(data) if wire_size < 0 else wire_size
    return struct.pack(order + "IIII", seconds, rest // (1000 if magic == US else 1), size, wire_size) + data


def pcap(frames: Iterable[tuple[int, bytes]], order: str = "<", magic: int = US) -> bytes:
    """A classic pcap of (time, bytes)."""
    return pcap_head(order, magic) + b"".join(pcap_packet(data, time, order, magic) for time, data in frames)


def padded(data: bytes) -> bytes:
    """Fill up to a multiple of four."""
    return data + bytes(-len(data) % 4)


def option(code: int, value: bytes, order: str = "<", length: int | None = None) -> bytes:
    """One option of a block."""
    return struct.pack(order + "HH", code, len(value) if length is None else length) + padded(value)


def block(kind: int, body: bytes, order: str = "<", size: int | None = None, end: int | None = None) -> bytes:
    """One block; `size` and `end` are what it says of its size, in front and behind."""
    size = len(body) + 12 if size is None else size
    return (
        struct.pack(order + "II", kind, size) + body + struct.pack(order + "I", size if end is None else end)
    )


def section(
    order: str = "<", *, mark: int = 0x1A2B3C4D, version: tuple[int, int] = (1, 0), **knobs: Any
) -> bytes:
    """The header of a section, of unspecified length."""
    return block(SECTION, struct.pack(order + "IHHq", mark, *version, -1), order, **knobs)


def interface(
    name: str | None = None,
    order: str = "<",
    *,
    resolution: int | None = None,
    offset_s: int | None = None,
    link: int = ETHERNET,
    snap_size: int = 0,
    options: bytes = b"",
) -> bytes:
    """An interface block."""
    if name is not None:
        options += option(NAME, name.encode(), order)
    if resolution is not None:
        options += option(RESOLUTION, bytes((resolution,)), order)
    if offset_s is not None:
        options += option(OFFSET, struct.pack(order + "q", offset_s), order)
    return block(INTERFACE, struct.pack(order + "HHI", link, 0, snap_size) + options, order)


def packet(
    data: bytes,
    number: int = 0,
    units: int = 0,
    order: str = "<",
    *,
    size: int | None = None,
    options: bytes = b"",
) -> bytes:
    """An enhanced packet block of interface `number`."""
    size = len(data) if size is None else size
    head = struct.pack(order + "5I", number, units >> 32, units & 0xFFFFFFFF, size, len(data))
    return block(PACKET, head + padded(data) + options, order)


def old_packet(data: bytes, number: int = 0, units: int = 0, order: str = "<") -> bytes:
    """The packet block of pcapng's youth, with 7 drops noted beside the interface."""
    head = struct.pack(order + "HH4I", number, 7, units >> 32, units & 0xFFFFFFFF, len(data), len(data))
    return block(OLD_PACKET, head + padded(data), order)


def simple_packet(data: bytes, order: str = "<", wire_size: int | None = None) -> bytes:
    """A packet without time, of the first interface."""
    return block(
        SIMPLE_PACKET,
        struct.pack(order + "I", len(data) if wire_size is None else wire_size) + padded(data),
        order,
    )


_T = 1_700_000_000_123_456_789
SMALL = {
    "pcap": pcap(
        [(_T, b"\x01" * 60), (_T + 5_000, bytes(range(61))), (_T + 1, b""), (_T, b"\x02" * 15)], ">", NS
    ),
    "pcapng": section(">")
    + interface("p1", ">", resolution=9, offset_s=1)
    + packet(b"a" * 13, 0, _T, ">")
    + old_packet(b"b" * 7, 0, 5, ">")
    + section()
    + interface("p2", resolution=0x94)
    + simple_packet(b"c" * 5)
    + packet(b"d" * 4, 0, 1, options=option(1, b"why")),
}
"""Four frames each, in as many ways as fit."""
