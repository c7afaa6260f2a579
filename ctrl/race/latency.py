"""How long a frame takes from the NVE to the last of its copies, when few come: 1,000 a second.

The clock is one: it is read just before a frame is sent, and the kernel stamps each copy with it when it
arrives at the sink. Both who are compared get their frames from the other core: fastpath on its live port,
the kernel's VXLAN device through a bridge, its frames steered to the core of the race.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from ctrl.race import ours, traffic
from ctrl.race.track import Track
from ctrl.race.traffic import Load
from fastpath import bpf

INTERVAL_S = 0.001
SETTLE_S = 0.05
N_FRAMES, N_FRAMES_MIN = 1000, 50
ETH_P_ALL = 0x0003
SO_TIMESTAMPNS, SO_RCVBUFFORCE = 35, 33
PACKET_OUTGOING = 4
STAMPED = (socket.SOL_SOCKET, SO_TIMESTAMPNS)
STAMP = struct.Struct("@qq")
SUPER_FRAME_MAX = 1 << 17
NUMBER = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Latency:
    """`n_whole` of `n_sent` frames had all their copies made; the quantiles are of those, in microseconds."""

    path: str
    load: Load
    n_sent: int
    n_whole: int
    p50_us: float | None
    p99_us: float | None
    note: str = ""


def compare(track: Track, loads: list[Load], seconds: float) -> list[Latency]:
    """Measure fastpath and the kernel, at 8 receivers and 64 bytes if that is raced for."""
    load = next((one for one in loads if (one.egresses, one.size) == (8, 64)), loads[0])
    n_frames = max(N_FRAMES_MIN, min(N_FRAMES, round(4 * seconds / INTERVAL_S)))
    paths = ("forward", "kernel") if bpf.available() else ("forward_clones", "forward", "kernel")
    return [measure(track, path, load, n_frames) for path in paths]


def measure(track: Track, path: str, load: Load, n_frames: int) -> Latency:
    """Send `n_frames` by a path, one of `compare`'s, and see when their last copies arrive."""
    note = ""
    with ExitStack() as opened:
        if path != "kernel":
            opened.enter_context(ours.receiving(track, load, clones=path == "forward_clones"))
            frame = traffic.arriving(load)[0]
        else:
            note = opened.enter_context(_bridged(track, load))
            frame = traffic.inner(load, 0)
        up = opened.enter_context(track.packet_socket("up", box=False))
        arrivals = opened.enter_context(_arrivals(track))
        opened.callback(os.sched_setaffinity, 0, {track.cpu})
        os.sched_setaffinity(0, {track.other_cpu})
        time.sleep(SETTLE_S)
        started, copies = _send(up, arrivals, frame, n_frames, load)
    waits = sorted(
        (max(copies[n]) - start) / 1e3
        for n, start in enumerate(started)
        if len(copies.get(n, ())) == load.egresses
    )
    p50, p99 = (round(waits[int(len(waits) * q)], 1) if waits else None for q in (0.5, 0.99))
    return Latency(path, load, n_frames, len(waits), p50, p99, note)


def _send(
    up: int, arrivals: socket.socket, frame: bytes, n_frames: int, load: Load
) -> tuple[list[int], dict[int, list[int]]]:
    """Send a numbered frame a millisecond; returns when each was sent, and when its copies arrived."""
    started: list[int] = []
    copies: dict[int, list[int]] = {}
    due = time.monotonic()
    for number in range(n_frames):
        numbered = frame[: -NUMBER.size] + NUMBER.pack(number)
        started.append(time.clock_gettime_ns(time.CLOCK_REALTIME))
        try:
            os.write(up, numbered)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # no room in the CPU's backlog: one that is not whole
                raise
        due += INTERVAL_S
        time.sleep(max(0.0, due - time.monotonic()))
        _collect(arrivals, copies, load)
    time.sleep(SETTLE_S)
    _collect(arrivals, copies, load)
    return started, copies


def _collect(arrivals: socket.socket, copies: dict[int, list[int]], load: Load) -> None:
    with suppress(BlockingIOError):
        while True:
            data, extra, _, address = arrivals.recvmsg(SUPER_FRAME_MAX, 64)
            if address[2] == PACKET_OUTGOING:
                continue
            stamps = [value for level, kind, value in extra if (level, kind) == STAMPED]
            seconds, ns = STAMP.unpack(stamps[0][: STAMP.size])
            for number in numbers(data, load):
                copies.setdefault(number, []).append(seconds * 1_000_000_000 + ns)


def numbers(packet: bytes, load: Load) -> list[int]:
    """The numbers of the copies in a packet: of a train there are several, where frames had to wait."""
    each = load.tunnel_size - traffic.OUTER_HEAD
    ends = range(traffic.OUTER_HEAD + each, len(packet) + 1, each)
    return [NUMBER.unpack_from(packet, end - NUMBER.size)[0] for end in ends]


@contextmanager
def _arrivals(track: Track) -> Iterator[socket.socket]:
    """All that comes to the sink, by any port, before its program drops it, with the kernel's time stamps."""
    every = (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with track.far.run(socket.socket, *every) as arrivals:
        arrivals.setblocking(False)
        track.enlarge(arrivals, SO_RCVBUFFORCE, socket.SO_RCVBUF)
        arrivals.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        yield arrivals


@contextmanager
def _bridged(track: Track, load: Load) -> Iterator[str]:
    """Let the kernel replicate what comes in at the NVE's port; yields what is not as it should be."""
    note = ""
    with track.vxlan(load) as device:
        track.box.add_link("br", "bridge", br_mcast_snooping=0)
        try:
            bridge = track.box.index("br")
            for port in ("nve", device):
                track.box.set_link(port, master=bridge)
            try:
                track.steer("nve", track.cpu)
            except OSError as error:
                note = f"on the sender's core: {error.strerror}"
            yield note
        finally:
            track.box.delete_link("br")
            with suppress(OSError):
                track.steer("nve", None)
