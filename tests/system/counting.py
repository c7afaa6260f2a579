"""The two programs of a load: one sends numbered frames, the other knows each copy by its number.

    python -m tests.system.counting send MAC RATE COUNT RUN
    python -m tests.system.counting read FAN_OUT RUN

They import little, to be there at once. The reader takes copies from an AF_PACKET ring, super-frames whole,
and looks at a block of them at a time.
"""

from __future__ import annotations

import json
import mmap
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests import frames as f

FLOWS = 4
GROUP, GROUP_MAC = "239.1.1.100", bytes.fromhex("01005e010164")
VNI, NVE = 100, "10.1.1.2"
SIZE = 64
"""Bytes of a VM's frame."""
HEADS, VXLAN = 42, 8
SEGMENT = VXLAN + SIZE
"""Of a super-frame: what each copy has of its own."""
NUMBERS = 1 << 21
"""Larger than any number sent."""
_ETH_P_ALL, _TEST_ETHERTYPE = 3, 0x88B5
_SOL_PACKET, _STATISTICS, _RX_RING, _VERSION, _V3 = 263, 6, 5, 10, 2
_BLOCK, _N_BLOCKS, _RETIRE_MS = 1 << 20, 96, 10
_QUIET_S = 0.3


def flow_of(number: Any, run: int) -> Any:
    return number // run % FLOWS


class Frames:
    """What the sender sends, by number."""

    def __init__(self, mac: str, run: int) -> None:
        self._run, self._pack = run, struct.Struct(">I").pack
        source = bytes.fromhex(mac.replace(":", ""))
        inner = b"\xff" * 6 + source + struct.pack(">HI", _TEST_ETHERTYPE, 0) + bytes(SIZE - 18)
        self._tail = inner[18:]
        self._heads: list[bytes] = []
        for flow in range(FLOWS):
            datagram = {"sport": 0xC000 + flow, "checksum": f.ZERO}
            packet = f.vxlan_packet(inner, NVE, GROUP, VNI, datagram=datagram)
            whole_frame = f.ethernet(packet, f.IPV4, dst=GROUP_MAC, src=source)
            self._heads.append(whole_frame[: -len(self._tail) - 4])

    def __getitem__(self, number: int) -> bytes:
        flow: int = flow_of(number, self._run)
        return self._heads[flow] + self._pack(number) + self._tail


def send(mac: str, rate: float, count: int, run: int) -> None:
    """Send, a millisecond's worth at a time, until SIGTERM at the latest.

    What the device refuses is sent again, and was not offered.
    """
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.bind(("up", 0))
    frames, refused, number, started = Frames(mac, run), 0, 0, time.monotonic()
    while number < count and not stopped:
        due = min(count, int((time.monotonic() - started) * rate) + 1) if rate else count
        while number < due:
            try:
                packet.send(frames[number])
            except OSError:
                refused += 1
                continue
            number += 1
        if rate:
            time.sleep(0.001)
    print(json.dumps({"offered": number, "refused": refused}))


class _Books:
    """Which number came to which receiver how often, and whether in order."""

    def __init__(self, fan_out: int, run: int) -> None:
        self._fan_out, self._run = fan_out, run
        self._seen = np.zeros((fan_out, NUMBERS), np.uint8)
        self._last = np.full(fan_out * FLOWS, -1, np.int64)
        self._reordered = 0

    def take(self, block: mmap.mmap, at: int) -> None:
        """Look at a block of the ring that starts at `at`."""
        n_frames, place = struct.unpack_from("<II", block, at + 12)
        place += at
        starts, sizes = [], []
        for _ in range(n_frames):
            following, _, _, size = struct.unpack_from("<IIII", block, place)
            starts.append(place + struct.unpack_from("<H", block, place + 24)[0])
            sizes.append(size)
            place += following
        data = np.frombuffer(block, np.uint8)
        frames, n_segments = np.array(starts), (np.array(sizes) - HEADS) // SEGMENT
        receiver = np.repeat(data[frames + 33].astype(np.int64) - 1, n_segments)
        within = np.arange(n_segments.sum()) - np.repeat(np.cumsum(n_segments) - n_segments, n_segments)
        number_at = np.repeat(frames, n_segments) + HEADS + within * SEGMENT + VXLAN + 14
        octets = data[number_at[:, None] + np.arange(4)].astype(np.int64)
        numbers = octets @ np.array([1 << 24, 1 << 16, 1 << 8, 1])
        np.add.at(self._seen.reshape(-1), receiver * NUMBERS + numbers, 1)
        if len(numbers):  # a block may hold nothing but what a stack said
            self._order(receiver * FLOWS + flow_of(numbers, self._run), numbers)

    def _order(self, lanes: Any, numbers: Any) -> None:
        order = np.argsort(lanes, kind="stable")
        lanes, numbers = lanes[order], numbers[order]
        is_first = np.append(True, lanes[1:] != lanes[:-1])
        before = np.where(is_first, self._last[lanes], np.roll(numbers, 1))
        self._reordered += int((numbers < before).sum())
        ends = np.append(np.flatnonzero(is_first)[1:] - 1, len(lanes) - 1)
        self._last[lanes[ends]] = numbers[ends]

    def report(self, count: int, reader_lost: int) -> str:
        seen = self._seen[:, :count]
        return json.dumps({
            "copies": int(self._seen.sum(dtype=np.int64)),
            "lost": int((seen == 0).sum()),
            "doubled": int((self._seen > 1).sum()),
            "reordered": self._reordered,
            "reader_lost": reader_lost,
        })  # fmt: skip


def read(fan_out: int, run: int) -> None:
    """Keep the books of what comes in, and answer lines with a count; each answer begins new books."""
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.setsockopt(_SOL_PACKET, _VERSION, _V3)
    ring_shape = struct.pack("<7I", _BLOCK, _N_BLOCKS, 2048, _BLOCK // 2048 * _N_BLOCKS, _RETIRE_MS, 0, 0)
    packet.setsockopt(_SOL_PACKET, _RX_RING, ring_shape)
    ring = mmap.mmap(packet.fileno(), _BLOCK * _N_BLOCKS)
    packet.bind(("in", _ETH_P_ALL))  # the filter of the sink drops what others would see
    print("reading", flush=True)
    books, place, lost = _Books(fan_out, run), _blocks(), 0
    at = next(place)
    asked = 0
    while True:
        ready = select.select(
            [packet] if asked else [packet, sys.stdin], [], [], _QUIET_S if asked else None
        )[0]
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            asked = int(line)
        while struct.unpack_from("<I", ring, at + 8)[0] & 1:
            books.take(ring, at)
            struct.pack_into("<I", ring, at + 8, 0)
            at = next(place)
        if asked and not ready:
            lost += struct.unpack("<III", packet.getsockopt(_SOL_PACKET, _STATISTICS, 12))[1]
            print(books.report(asked, lost), flush=True)
            books, lost, asked = _Books(fan_out, run), 0, 0


def _blocks() -> Iterator[int]:
    while True:
        yield from range(0, _BLOCK * _N_BLOCKS, _BLOCK)


if __name__ == "__main__":
    role, *words = sys.argv[1:]
    if role == "send":
        send(words[0], float(words[1]), *(int(word) for word in words[2:]))
    else:
        read(*(int(word) for word in words))
