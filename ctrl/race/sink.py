"""The finish: the far ends of the veth pairs that all send by, where datagrams are counted and dropped.

A program at tc's ingress counts what arrives, super-frames by their segments, and drops it before any
protocol sees it. Where programs may not be loaded (a user namespace) the interfaces' own counters serve: each
packet has its headers once, the rest are copies of one size. The drop then is the IP stack's, which costs
every row the same some hundred nanoseconds a packet more.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from ctrl.lab.namespaces import Namespace
from ctrl.race.traffic import INNER_HEAD, OUTER_HEAD, Load
from fastpath import bpf
from fastpath.bpf import DOUBLE, R0, R1, R2, R3, R6, R10, WORD

_LEN, _GSO_SEGS, _GSO_SIZE = 0, 164, 176  # in struct __sk_buff of linux/bpf.h
_TC_DROP = 2
_COUNTERS = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Count:
    """What arrived: units are datagrams if a program counts, packets as they came if the interface does."""

    units: int
    bytes: int


class Sink:
    """Counts what arrives at some devices of a namespace together, until it is closed."""

    def __init__(self, namespace: Namespace, devices: Sequence[str]) -> None:
        self._namespace, self._devices = namespace, devices
        self._counters = -1
        self._opened = ExitStack()
        self.why_not_exact = bpf.available()
        """Why the interfaces' counters serve; None where a program counts."""
        if self.why_not_exact is None:
            with ExitStack() as opened:
                self._counters = bpf.create_map(bpf.MapKind.PERCPU_ARRAY, 4, _COUNTERS.size, 1, "fp_race")
                opened.callback(os.close, self._counters)
                program = bpf.load_program(bpf.ProgramKind.SCHED_CLS, counting(self._counters), "fp_race")
                opened.callback(os.close, program)
                for device in devices:
                    link = namespace.run(bpf.attach_tc, program, namespace.index(device))
                    opened.callback(os.close, link)
                self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read(self) -> Count:
        """All that arrived since the sink was made."""
        if self.why_not_exact is None:
            n_cpus = bpf.possible_cpus()
            values = bpf.map_lookup(self._counters, bytes(4), n_cpus * _COUNTERS.size)
            units, size = (sum(column) for column in zip(*_COUNTERS.iter_unpack(values), strict=True))
            return Count(units, size)
        counted = [self._namespace.link(one).get_attr("IFLA_STATS64") for one in self._devices]
        return Count(sum(one["rx_packets"] for one in counted), sum(one["rx_bytes"] for one in counted))

    def copies(self, load: Load, before: Count, after: Count, *, inner_trains: bool = False) -> int:
        """How many copies of a load arrived between two readings. `inner_trains`: the headers of the VM's own
        frame stand once in a super-frame too."""
        units, size = after.units - before.units, after.bytes - before.bytes
        if self.why_not_exact is None:
            return units
        once = OUTER_HEAD + (8 + INNER_HEAD if inner_trains else 0)
        each = load.tunnel_size - once
        return max(0, size - once * units) // each


def counting(counters: int) -> list[bpf.Instruction | bpf.Label]:
    """Write the program: one datagram, or as many as the super-frame has segments, and its bytes; dropped."""
    return [
        bpf.mov(R6, R1),
        bpf.store(WORD, R10, -4, 0),
        bpf.load_map(R1, counters),
        bpf.mov(R2, R10),
        bpf.alu("add", R2, -4),
        bpf.call(bpf.HELPER_MAP_LOOKUP),
        bpf.jump("drop", "==", R0, 0),
        bpf.mov(R2, 1),
        bpf.load(WORD, R1, R6, _GSO_SIZE),
        bpf.jump("count", "==", R1, 0),
        bpf.load(WORD, R2, R6, _GSO_SEGS),
        bpf.Label("count"),
        bpf.load(DOUBLE, R3, R0, 0),
        bpf.alu("add", R3, R2),
        bpf.store(DOUBLE, R0, 0, R3),
        bpf.load(WORD, R2, R6, _LEN),
        bpf.load(DOUBLE, R3, R0, 8),
        bpf.alu("add", R3, R2),
        bpf.store(DOUBLE, R0, 8, R3),
        bpf.Label("drop"),
        bpf.mov(R0, _TC_DROP),
        bpf.leave(),
    ]
