"""Numbered frames at a steady rate, and a reader that knows each copy by its number.

    nve [up] ---- [p1] box [out] ---- [in] sink

The receivers are addresses behind one gateway at the sink. The reader takes copies from an AF_PACKET ring,
super-frames whole, and looks at a block of them at a time. Both run as programs in their namespaces:
`python -m tests.system.load send ...` and `... read ...`.
"""

from __future__ import annotations

import json
import mmap
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ctrl.lab.namespaces import Namespace, connect
from tests import frames as f
from tests.house.tree import ROOT
from tests.system.lab import DEADLINE_S, ETH_P_ALL, MTU, TEST_ETHERTYPE, Fastpath, Lab

FLOWS = 4
GROUP, VNI, NVE, DEVICE, GATEWAY = "239.1.1.100", 100, "10.1.1.2", "10.9.0.1", "10.6.0.254"
SIZE = 64
"""Bytes of a VM's frame."""
NUMBERS = 1 << 21
"""Larger than any number sent."""
_HEADS, _VXLAN = 42, 8
_SEGMENT = _VXLAN + SIZE
_SOL_PACKET, _STATISTICS, _RX_RING, _VERSION, _V3 = 263, 6, 5, 10, 2
_BLOCK, _N_BLOCKS, _RETIRE_MS = 1 << 20, 96, 10
_QUIET_S = 0.4


class Track:
    """The boxes of a load: one sender, `fan_out` receivers that are all one reader's."""

    def __init__(self, lab: Lab, fan_out: int = 16) -> None:
        self.fan_out = fan_out
        self.box, self.nve, self.sink = (lab.box(name) for name in ("box", "nve", "sink"))
        connect(self.nve, "up", self.box, "p1", mtu=MTU)
        connect(self.box, "out", self.sink, "in", mtu=MTU)
        self.box.address("p1", "10.1.1.1/24")
        self.box.address("out", "10.6.0.1/24")
        self.box.neighbour("out", GATEWAY, self.sink.mac("in"))
        self.box.route("10.8.0.0/16", "out", GATEWAY)
        self.sink.command("nft", "add table netdev sink; add chain netdev sink drops "
                          "{ type filter hook ingress device in priority 0; policy drop; }")  # fmt: skip

    @property
    def receivers(self) -> list[str]:
        return [f"10.8.0.{n}" for n in range(1, self.fan_out + 1)]

    def config(self, more: str = "", dataplane: str = "", ports: str = "") -> str:
        """A device whose members are the receivers, and what a test wants besides."""
        members = "".join(
            f'[[device.member]]\ngroup = "{GROUP}"\nport = "out"\nnve = "{one}"\n' for one in self.receivers
        )
        return (
            f"[dataplane]\n{dataplane}\n"
            + "".join(f'[[port]]\nname = "{name}"\nfaces = "nve"\n' for name in ("p1", "out"))
            + f'{ports}[device]\naddress = "{DEVICE}"\n{members}{more}'
        )

    def sender(self, rate: float, count: int, *, run: int = 16, first: int = 0) -> subprocess.Popen[str]:
        """Start to send numbers; `run` frames in a row belong to one flow, rate 0 is as fast as it can."""
        words = (self.nve.mac("up"), str(rate), str(count), str(run), str(first))
        return _program(self.nve, "send", *words)

    def reader(self, run: int = 16) -> Reader:
        return Reader(_program(self.sink, "read", str(self.fan_out), str(run)))


def sent(sender: subprocess.Popen[str], within_s: float = 100.0) -> dict[str, float]:
    """What a sender says at its end: frames offered, frames its own device refused, seconds."""
    found: dict[str, float] = json.loads(sender.communicate(timeout=within_s)[0])
    return found


class Reader:
    """The reader's program, asked by numbers."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program
        assert self._line(DEADLINE_S) == "reading"

    def report(self, count: int, first: int = 0) -> dict[str, int]:
        """Wait until nothing comes any more; how many copies of numbers first.. came, and what is wrong."""
        assert self._program.stdin is not None
        self._program.stdin.write(f"{first} {count}\n")
        self._program.stdin.flush()
        found: dict[str, int] = json.loads(self._line(60.0))
        return found

    def _line(self, within_s: float) -> str:
        assert self._program.stdout is not None
        assert select.select([self._program.stdout], [], [], within_s)[0], "the reader says nothing"
        return str(self._program.stdout.readline()).strip()


def whole(report: dict[str, int], copies: int) -> bool:
    """Say whether all copies came exactly once and in order; fails by itself if the reader lost some."""
    assert report["reader_lost"] == 0, f"the reader itself was too slow: {report}"
    return report == {"copies": copies, "lost": 0, "doubled": 0, "reordered": 0, "reader_lost": 0}


def start(lab: Lab, track: Track, **config: str) -> Fastpath:
    return Fastpath(lab, track.box, track.config(**config))


def _program(box: Namespace, *words: str) -> subprocess.Popen[str]:
    argv = (sys.executable, "-m", "tests.system.load", *words)
    return box.popen(*argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


# --- the programs ----------------------------------------------------------------------------------------


def flow_of(number: Any, run: int) -> Any:
    return number // run % FLOWS


def send(mac: str, rate: float, count: int, run: int, first: int) -> None:
    """Send, a millisecond's worth at a time; what the device refuses is sent again, and was not offered."""
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.bind(("up", 0))
    source = bytes.fromhex(mac.replace(":", ""))
    inner = b"\xff" * 6 + source + struct.pack(">HI", TEST_ETHERTYPE, 0) + bytes(SIZE - 18)
    heads, tail = [], inner[18:]
    for flow in range(FLOWS):
        made = f.ethernet(
            f.vxlan_packet(inner, NVE, GROUP, VNI, datagram={"sport": 0xC000 + flow, "checksum": f.ZERO}),
            f.IPV4, dst=bytes.fromhex("01005e010164"), src=source,
        )  # fmt: skip
        heads.append(made[: -len(tail) - 4])
    pack, refused, started = struct.Struct(">I").pack, 0, time.monotonic()
    number, last = first, first + count
    while number < last:
        due = last if not rate else min(last, first + int((time.monotonic() - started) * rate) + 1)
        while number < due:
            try:
                packet.send(heads[flow_of(number, run)] + pack(number) + tail)
            except OSError:
                refused += 1
                continue
            number += 1
        if rate:
            time.sleep(0.001)
    print(json.dumps({"offered": count, "refused": refused, "seconds": time.monotonic() - started}))


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
        frames, n_segments = np.array(starts), (np.array(sizes) - _HEADS) // _SEGMENT
        receiver = np.repeat(data[frames + 33].astype(np.int64) - 1, n_segments)
        within = np.arange(n_segments.sum()) - np.repeat(np.cumsum(n_segments) - n_segments, n_segments)
        number_at = np.repeat(frames, n_segments) + _HEADS + within * _SEGMENT + _VXLAN + 14
        octets = data[number_at[:, None] + np.arange(4)].astype(np.int64)
        numbers = octets @ np.array([1 << 24, 1 << 16, 1 << 8, 1])
        np.add.at(self._seen.reshape(-1), receiver * NUMBERS + numbers, 1)
        self._order(receiver * FLOWS + flow_of(numbers, self._run), numbers)

    def _order(self, lanes: Any, numbers: Any) -> None:
        order = np.argsort(lanes, kind="stable")
        lanes, numbers = lanes[order], numbers[order]
        is_first = np.append(True, lanes[1:] != lanes[:-1])
        before = np.where(is_first, self._last[lanes], np.roll(numbers, 1))
        self._reordered += int((numbers < before).sum())
        ends = np.append(np.flatnonzero(is_first)[1:] - 1, len(lanes) - 1)
        self._last[lanes[ends]] = numbers[ends]

    def report(self, first: int, count: int, reader_lost: int) -> str:
        seen = self._seen[:, first : first + count]
        return json.dumps({
            "copies": int(self._seen.sum(dtype=np.int64)),
            "lost": int((seen == 0).sum()),
            "doubled": int((self._seen > 1).sum()),
            "reordered": self._reordered,
            "reader_lost": reader_lost,
        })  # fmt: skip


def read(fan_out: int, run: int) -> None:
    """Keep the books of what comes in, and answer `FIRST COUNT` lines; each answer begins new books."""
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.setsockopt(_SOL_PACKET, _VERSION, _V3)
    ring_shape = struct.pack("<7I", _BLOCK, _N_BLOCKS, 2048, _BLOCK // 2048 * _N_BLOCKS, _RETIRE_MS, 0, 0)
    packet.setsockopt(_SOL_PACKET, _RX_RING, ring_shape)
    ring = mmap.mmap(packet.fileno(), _BLOCK * _N_BLOCKS)
    packet.bind(("in", ETH_P_ALL))  # the filter of the sink drops what others would see
    print("reading", flush=True)
    books, place, lost = _Books(fan_out, run), _blocks(), 0
    at = next(place)
    asked: list[int] = []
    while True:
        ready = select.select(
            [packet] if asked else [packet, sys.stdin], [], [], _QUIET_S if asked else None
        )[0]
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            asked = [int(word) for word in line.split()]
        while struct.unpack_from("<I", ring, at + 8)[0] & 1:
            books.take(ring, at)
            struct.pack_into("<I", ring, at + 8, 0)
            at = next(place)
        if asked and not ready:
            lost += struct.unpack("<III", packet.getsockopt(_SOL_PACKET, _STATISTICS, 12))[1]
            print(books.report(asked[0], asked[1], lost), flush=True)
            books, lost, asked = _Books(fan_out, run), 0, []


def _blocks() -> Iterator[int]:
    while True:
        yield from range(0, _BLOCK * _N_BLOCKS, _BLOCK)


if __name__ == "__main__":
    role, *words = sys.argv[1:]
    if role == "send":
        send(words[0], float(words[1]), *(int(word) for word in words[2:]))
    else:
        read(*(int(word) for word in words))
