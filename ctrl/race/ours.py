"""fastpath itself in the race: one engine on one core, fed from memory or from a live port.

From memory, the frames of some batches come in again and again: what is measured is parsing, lookup, making
the copies and sending them. `forward` receives them first, from a generator on the other core.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from ctrl.consume import Consumer, ConsumeUnsupportedError
from ctrl.race import traffic
from ctrl.race.rivals import Step, patiently
from ctrl.race.track import Track
from ctrl.race.traffic import BATCH, GROUP, NVE_MAC, OUR_MAC, OURS, SINK_MAC, Load
from fastpath.claims import Claims
from fastpath.clones import ClonePort, Clones
from fastpath.forwarder import Forwarder
from fastpath.limit import XdpSender
from fastpath.model import (
    Egress,
    Endpoint,
    Faces,
    Form,
    Layout,
    Owner,
    Port,
    ReplicationList,
    Scope,
    group_key,
)
from fastpath.ports import MemoryPort, PacketPort, XdpPort

COPIES_A_ROUND = 20_000
"""As many frames come in between two returns to Python, which cost some microseconds."""
GENERATOR_SLICE_S = 0.05


def layout(load: Load) -> Layout:
    """Describe the box: an NVE's port and the core, all receivers behind one next hop."""
    return Layout(
        (
            Port("nve", Faces.NVE, OUR_MAC, NVE_MAC, load.encap),
            Port("core", Faces.CORE, OUR_MAC, SINK_MAC, load.encap, mtu=load.tunnel_size),
        ),
        (Endpoint(OURS, Scope.DEVICE),),
    )


def receivers(load: Load) -> ReplicationList:
    """List the receivers: a packet to each under its own outer header, as a VXLAN device sends it."""
    remote = (Egress(1, Form.REWRITE, Owner(address=one), one, OURS) for one in load.receivers)
    return ReplicationList(group_key(Scope.DEVICE, GROUP), (), tuple(remote))


@contextmanager
def clones(track: Track, load: Load) -> Iterator[Step]:
    """One message a frame or train, which the kernel clones."""
    with _cloning(track) as port:
        yield _from_memory(load, port, trains=True)


@contextmanager
def trains(track: Track, load: Load) -> Iterator[Step]:
    """Trains by AF_PACKET."""
    port = track.box.run(lambda: PacketPort("out"))
    with closing(port):
        yield _from_memory(load, port, trains=True)


@contextmanager
def packet(track: Track, load: Load) -> Iterator[Step]:
    """One message a copy, by AF_PACKET."""
    port = track.box.run(lambda: PacketPort("out", trains=False))
    with closing(port):
        yield _from_memory(load, port, trains=False)


@contextmanager
def xdp(track: Track, load: Load) -> Iterator[Step]:
    """One descriptor a copy, by AF_XDP."""
    with closing(track.box.run(lambda: PacketPort("out", trains=False))) as packet:
        port = patiently(lambda: track.box.run(lambda: XdpPort(packet, "out", receive=False)))
        with closing(port):
            yield _from_memory(load, port, trains=False)


@contextmanager
def forward(track: Track, load: Load) -> Iterator[Step]:
    """Frames received by AF_PACKET and kept from the kernel's stack, trains out."""
    with receiving(track, load), generator(track, load):
        yield time.sleep


@contextmanager
def forward_clones(track: Track, load: Load) -> Iterator[Step]:
    """The same, cloned out."""
    with receiving(track, load, clones=True), generator(track, load):
        yield time.sleep


@contextmanager
def receiving(track: Track, load: Load, *, clones: bool = False) -> Iterator[Forwarder]:
    """Forward from the NVE's port to the core, on the CPU of the race."""
    claims = Claims((traffic.VXLAN_PORT,), (OURS,))
    with ExitStack() as opened:
        nve = opened.enter_context(closing(track.box.run(lambda: PacketPort("nve"))))
        core = opened.enter_context(_cloning(track) if clones else closing(track.box.run(PacketPort, "out")))
        try:
            consumer = track.box.run(Consumer, "nve", claims)
            opened.callback(consumer.close)
        except ConsumeUnsupportedError:
            pass  # the stack sees the frames too, on the generator's core
        forwarder = Forwarder(layout(load), (nve, core), (receivers(load),), sources=(nve,))
        forwarder.start([track.cpu])
        opened.callback(forwarder.stop)
        yield forwarder


@contextmanager
def generator(track: Track, load: Load) -> Iterator[None]:
    """Send what an NVE sends, frame by frame and as fast as the other core can: by AF_XDP."""
    stop = threading.Event()

    def generate(sending: Callable[[float], object]) -> None:
        os.sched_setaffinity(0, {track.other_cpu})
        while not stop.is_set():
            sending(GENERATOR_SLICE_S)

    frames, index = traffic.arriving(load), track.nve.index("up")
    xdp = patiently(lambda: track.nve.run(XdpSender, index, frames))
    thread = threading.Thread(target=generate, args=(xdp.send,), name="fp-generator")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        xdp.close()


@contextmanager
def _cloning(track: Track) -> Iterator[ClonePort]:
    with ExitStack() as opened:
        made = opened.enter_context(closing(track.box.run(Clones)))
        below = opened.enter_context(closing(track.box.run(PacketPort, "out")))
        yield opened.enter_context(closing(ClonePort(below, made, "out")))


def _from_memory(load: Load, port: ClonePort | PacketPort | XdpPort, *, trains: bool) -> Step:
    source = MemoryPort(1 << 12)
    batch: Sequence[bytes] = traffic.arriving(load)
    for _ in range(max(1, COPIES_A_ROUND // (BATCH * load.egresses))):
        source.receive(*batch)
    forwarder = Forwarder(
        layout(load), (source, port), (receivers(load),), sources=(source,), batch=BATCH, trains=trains
    )

    def step(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            source.rewind()
            forwarder.run()

    return step
