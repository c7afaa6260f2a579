"""Read and write the capture files that the recorder handles.

A short reader and writer of our own, rather than mergecap or dumpcap: the interface names (p1, core, ...)
are the contract that replay matches ports by, the host's name and kernel do not belong in a file that is
shipped, and frames that no real sender makes need a comment that says so. Little-endian output,
nanoseconds, nothing cut off. Only files made by tcpdump or by this module are read back: one section, one
byte order, no exotic blocks.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NANO_PCAP_MAGIC = 0xA1B23C4D
MICRO_PCAP_MAGIC = 0xA1B2C3D4
SECTION_BLOCK = 0x0A0D0D0A
INTERFACE_BLOCK = 1
PACKET_BLOCK = 6
BYTE_ORDER_MAGIC = 0x1A2B3C4D
ETHERNET = 1
SNAP_SIZE = 262144
OPTION_COMMENT = 1
OPTION_INTERFACE_NAME = 2
OPTION_TIMESTAMP_RESOLUTION = 9


@dataclass(frozen=True, slots=True)
class Frame:
    """One recorded frame: when, on which port, its bytes, and a remark where it was not simply received."""

    time_ns: int
    interface: str
    data: bytes
    comment: str = ""


def write_pcapng(path: Path, frames: Iterable[Frame], interfaces: Iterable[str]) -> None:
    """Write frames in the given order, with one interface block per name, in the given order.

    Interfaces are listed even when they have no frame, so that the ports of a capture do not depend on luck.
    """
    names = list(interfaces)
    blocks = [_block(SECTION_BLOCK, struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1))]
    for name in names:
        options = _option(OPTION_INTERFACE_NAME, name.encode())
        options += _option(OPTION_TIMESTAMP_RESOLUTION, b"\x09") + _option(0, b"")
        blocks.append(_block(INTERFACE_BLOCK, struct.pack("<HHI", ETHERNET, 0, SNAP_SIZE) + options))
    for frame in frames:
        size = len(frame.data)
        head = struct.pack(
            "<IIIII",
            names.index(frame.interface),
            frame.time_ns >> 32,
            frame.time_ns & 0xFFFFFFFF,
            size,
            size,
        )
        options = _option(OPTION_COMMENT, frame.comment.encode()) + _option(0, b"") if frame.comment else b""
        blocks.append(_block(PACKET_BLOCK, head + _padded(frame.data) + options))
    path.write_bytes(b"".join(blocks))


def write_pcap(path: Path, frames: Iterable[Frame]) -> None:
    """Write a classic pcap in nanoseconds; it has no room for interfaces and comments."""
    parts = [struct.pack("<IHHiIII", NANO_PCAP_MAGIC, 2, 4, 0, 0, SNAP_SIZE, ETHERNET)]
    for frame in frames:
        seconds, nanos = divmod(frame.time_ns, 1_000_000_000)
        parts.append(struct.pack("<IIII", seconds, nanos, len(frame.data), len(frame.data)) + frame.data)
    path.write_bytes(b"".join(parts))


def read_capture(path: Path, interface: str = "") -> list[Frame]:
    """Return all frames of a pcap or pcapng; `interface` names the port of a classic pcap."""
    raw = path.read_bytes()
    if len(raw) < 24:
        raise ValueError(f"{path}: {len(raw)} bytes are too few for a capture file")
    if struct.unpack_from("<I", raw)[0] == SECTION_BLOCK:
        return _read_pcapng(path, raw)
    return _read_pcap(path, raw, interface)


def interface_names(path: Path) -> list[str]:
    """Return the names of a pcapng's interfaces in file order; a classic pcap has none."""
    raw = path.read_bytes()
    if struct.unpack_from("<I", raw)[0] != SECTION_BLOCK:
        return []
    bodies = (body for kind, body in _blocks(path, raw) if kind == INTERFACE_BLOCK)
    return [_options(body[8:]).get(OPTION_INTERFACE_NAME, b"").decode() for body in bodies]


def _read_pcap(path: Path, raw: bytes, interface: str) -> list[Frame]:
    """Read little-endian pcap, as tcpdump writes it here and `write_pcap` everywhere."""
    magic = struct.unpack_from("<I", raw)[0]
    if magic not in (NANO_PCAP_MAGIC, MICRO_PCAP_MAGIC):
        raise ValueError(f"{path}: {magic:#010x} is no little-endian pcap")
    unit_ns = 1 if magic == NANO_PCAP_MAGIC else 1000
    frames, offset = [], 24
    while offset + 16 <= len(raw):
        seconds, fraction, size, _ = struct.unpack_from("<IIII", raw, offset)
        data = raw[offset + 16 : offset + 16 + size]
        frames.append(Frame(seconds * 1_000_000_000 + fraction * unit_ns, interface, data))
        offset += 16 + size
    return frames


def _read_pcapng(path: Path, raw: bytes) -> list[Frame]:
    names = interface_names(path)
    frames = []
    for kind, body in _blocks(path, raw):
        if kind != PACKET_BLOCK:
            continue
        index, high, low, size, _ = struct.unpack_from("<IIIII", body)
        comment = _options(body[20 + len(_padded(body[20 : 20 + size])) :]).get(OPTION_COMMENT, b"")
        frames.append(Frame(high << 32 | low, names[index], body[20 : 20 + size], comment.decode()))
    return frames


def _blocks(path: Path, raw: bytes) -> list[tuple[int, bytes]]:
    found, offset = [], 0
    while offset < len(raw):
        kind, size = struct.unpack_from("<II", raw, offset)
        if size < 12 or offset + size > len(raw):
            raise ValueError(f"{path}: the block at byte {offset} claims {size} bytes")
        found.append((kind, raw[offset + 8 : offset + size - 4]))
        offset += size
    return found


def _options(raw: bytes) -> dict[int, bytes]:
    found, offset = {}, 0
    while offset + 4 <= len(raw):
        code, size = struct.unpack_from("<HH", raw, offset)
        if code == 0:
            break
        found[code] = raw[offset + 4 : offset + 4 + size]
        offset += 4 + len(_padded(found[code]))
    return found


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
