"""Write a capture that repeats the frames of a pcapng N times: the same traffic, long enough to measure.

python scripts/lengthen_capture.py IN.pcapng OUT.pcapng N
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

PACKET_BLOCK = 6


def first_packet(data: bytes) -> int:
    """Where the first packet block begins; before it stand the section and its interfaces, once."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("=II", data, at)
        if kind == PACKET_BLOCK:
            return at
        at += size
    return at


def main() -> None:
    source, out, times = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    data = source.read_bytes()
    at = first_packet(data)
    with out.open("wb") as stream:
        stream.write(data[:at])
        for _ in range(times):
            stream.write(data[at:])


if __name__ == "__main__":
    main()
