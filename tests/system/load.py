"""Numbered frames at a steady rate, and a reader that knows each copy by its number.

    nve [up] ---- [p1] box [out] ---- [in] sink

The receivers are addresses behind one gateway at the sink. Sender and reader are programs in their namespaces
(`tests.system.counting`).
"""

from __future__ import annotations

import json
import select
import struct
import subprocess
import sys
from collections import Counter

from ctrl.lab.namespaces import Namespace, connect
from tests.house.tree import ROOT
from tests.system.counting import GROUP, HEADS, SEGMENT, VXLAN, Frames
from tests.system.lab import DEADLINE_S, ETH_P_ALL, MTU, START_S, Fastpath, Lab

DEVICE, GATEWAY = "10.9.0.1", "10.6.0.254"


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

    def config(self, more: str = "", dataplane: str = "", ports: str = "", kind: str = "packet") -> str:
        """A device whose members are the receivers, and what a test wants besides."""
        members = "".join(
            f'[[device.member]]\ngroup = "{GROUP}"\nport = "out"\nnve = "{one}"\n' for one in self.receivers
        )
        return (
            f"[dataplane]\n{dataplane}\n"
            + "".join(
                f'[[port]]\nname = "{name}"\nfaces = "nve"\nkind = "{kind}"\n' for name in ("p1", "out")
            )
            + f'{ports}[device]\naddress = "{DEVICE}"\n{members}{more}'
        )

    def sender(self, rate: float, count: int, *, run: int = 16) -> subprocess.Popen[str]:
        """Start to send numbers; `run` frames in a row belong to one flow, rate 0 is as fast as it can."""
        words = (self.nve.mac("up"), str(rate), str(count), str(run))
        return _program(self.nve, "send", *words)

    def reader(self, run: int = 16) -> Reader:
        return Reader(_program(self.sink, "read", str(self.fan_out), str(run)))

    def pass_through(self, lab: Lab, n_frames: int = 50) -> None:
        """Send some numbers, one at a time, and assert that each receiver gets each once."""
        wire, listener = lab.packet_socket(self.nve, "up"), lab.packet_socket(self.sink, "in", ETH_P_ALL)
        listener.settimeout(DEADLINE_S)
        frames = Frames(self.nve.mac("up"), 1)
        wanted = Counter(
            (place, number) for place in range(1, self.fan_out + 1) for number in range(n_frames)
        )
        for number in range(n_frames):
            wire.send(frames[number])
        found: Counter[tuple[int, int]] = Counter()
        while found.total() < wanted.total():
            frame = listener.recv(65536)
            for at in range(HEADS, len(frame), SEGMENT):
                found[frame[33], struct.unpack_from(">I", frame, at + VXLAN + 14)[0]] += 1
        assert found == wanted


def sent(sender: subprocess.Popen[str], within_s: float = 100.0) -> dict[str, int]:
    """What a sender says at its end: frames offered, frames its own device refused, seconds."""
    found: dict[str, int] = json.loads(sender.communicate(timeout=within_s)[0])
    return found


class Reader:
    """The reader's program, asked by numbers."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program
        assert self._line(START_S) == "reading"

    def report(self, count: int) -> dict[str, int]:
        """Wait until nothing comes any more; how many copies came, and what is wrong with `count` numbers."""
        assert self._program.stdin is not None
        self._program.stdin.write(f"{count}\n")
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


def start(lab: Lab, track: Track, *, under: tuple[str, ...] = (), **config: str) -> Fastpath:
    return Fastpath(lab, track.box, track.config(**config), under=under)


def _program(box: Namespace, *words: str) -> subprocess.Popen[str]:
    argv = (sys.executable, "-m", "tests.system.counting", *words)
    return box.popen(*argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
