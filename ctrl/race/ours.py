"""fastpath itself in the race: one engine on one core, fed from memory or from a live port.

From memory, the frames of some batches come in again and again: what is measured is parsing, lookup, making
the copies and sending them. `forward` receives them first, from a generator on the other core.

Receivers are spread over all ports of the track, in one list.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial

from ctrl.consume import Consumer, ConsumeUnsupportedError
from ctrl.netlink.clones import attach_clones
from ctrl.race import traffic
from ctrl.race.rivals import Step, by_xdp, patiently, sender
from ctrl.race.track import Track
from ctrl.race.traffic import BATCH, GROUP, NVE_MAC, OUR_MAC, OURS, SINK_MAC, Load
from fastpath.claims import Claims
from fastpath.clones import ClonePort, Clones
from fastpath.forwarder import Forwarder
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
NOTHING = 16
"""Slots of a ring in which nothing arrives: the fewest that there are."""


def layout(load: Load) -> Layout:
    """Describe the box: an NVE's port and those to the core, each with one next hop for all behind it."""
    cores = (
        Port(f"core{n}", Faces.CORE, OUR_MAC, SINK_MAC, load.encap, mtu=load.tunnel_size)
        for n in range(load.ports)
    )
    nve = Port("nve", Faces.NVE, OUR_MAC, NVE_MAC, load.encap)
    return Layout((nve, *cores), (Endpoint(OURS, Scope.DEVICE),))


def receivers(load: Load) -> ReplicationList:
    """List the receivers: a packet to each under its own outer header, as a VXLAN device sends it."""
    remote = (
        Egress(1 + n % load.ports, Form.REWRITE, Owner(address=one), one, OURS)
        for n, one in enumerate(load.receivers)
    )
    return ReplicationList(group_key(Scope.DEVICE, GROUP), (), tuple(remote))


@contextmanager
def clones(track: Track, load: Load) -> Iterator[Step]:
    """One message a frame or train, which the kernel clones."""
    with _cloning(track) as ports:
        yield _from_memory(load, ports, trains=True)


@contextmanager
def trains(track: Track, load: Load) -> Iterator[Step]:
    """Trains by AF_PACKET."""
    with _packets(track) as ports:
        yield _from_memory(load, ports, trains=True)


@contextmanager
def packet(track: Track, load: Load) -> Iterator[Step]:
    """One message a copy, by AF_PACKET."""
    with _packets(track, trains=False) as ports:
        yield _from_memory(load, ports, trains=False)


@contextmanager
def xdp(track: Track, load: Load) -> Iterator[Step]:
    """One descriptor a copy, by AF_XDP."""
    with _packets(track, trains=False) as below, ExitStack() as opened:
        ports = []
        for packet in below:
            open_it = partial(XdpPort, packet, packet.device, receive=False)
            port = patiently(partial(track.box.run, open_it))
            ports.append(opened.enter_context(closing(port)))
        yield _from_memory(load, ports, trains=False)


@contextmanager
def forward(track: Track, load: Load) -> Iterator[Step]:
    """What comes in by AF_PACKET and is kept from the kernel's stack; trains out."""
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
        cores = opened.enter_context(_cloning(track) if clones else _packets(track))
        try:
            consumer = track.box.run(Consumer, "nve", claims)
            opened.callback(consumer.close)
        except ConsumeUnsupportedError:
            pass  # the stack sees the frames too, on the generator's core
        forwarder = Forwarder(layout(load), (nve, *cores), (receivers(load),), sources=(nve,))
        forwarder.start([track.cpu])
        opened.callback(forwarder.stop)
        yield forwarder


@contextmanager
def generator(track: Track, load: Load) -> Iterator[None]:
    """Send what an NVE sends, as fast as the other core can: in trains, where frames ride together, or else
    one by one, for which AF_XDP is fastest."""
    stop = threading.Event()

    def generate(step: Step) -> None:
        os.sched_setaffinity(0, {track.other_cpu})
        while not stop.is_set():
            step(GENERATOR_SLICE_S)

    with _arriving_trains(track, load) if load.train > 1 else _arriving(track, load) as step:
        thread = threading.Thread(target=generate, args=(step,), name="fp-generator")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _arriving(track: Track, load: Load) -> AbstractContextManager[Step]:
    return by_xdp(track.nve, "up", traffic.arriving(load))


@contextmanager
def _arriving_trains(track: Track, load: Load) -> Iterator[Step]:
    with track.packet_socket("up", vnet_hdr=True, box=False) as fd:
        yield sender(fd, traffic.arriving_trains(load)).send


@contextmanager
def _packets(track: Track, *, trains: bool = True) -> Iterator[Sequence[PacketPort]]:
    with ExitStack() as opened:
        made = (track.box.run(PacketPort, out, trains=trains, ring_frames=NOTHING) for out in track.outs)
        yield [opened.enter_context(closing(one)) for one in made]


@contextmanager
def _cloning(track: Track) -> Iterator[Sequence[ClonePort]]:
    """One device and table for the ports of all interfaces."""
    with _packets(track) as below, ExitStack() as opened:
        made = opened.enter_context(closing(track.box.run(Clones, attach_clones)))
        yield [opened.enter_context(closing(ClonePort(one, made, one.device))) for one in below]


def _from_memory(load: Load, ports: Sequence[ClonePort | PacketPort | XdpPort], *, trains: bool) -> Step:
    source = MemoryPort(1 << 12)
    batch: Sequence[bytes] = traffic.arriving(load)
    for _ in range(max(1, COPIES_A_ROUND // (BATCH * load.egresses))):
        source.receive(*batch)
    forwarder = Forwarder(
        layout(load), (source, *ports), (receivers(load),), sources=(source,), batch=BATCH, trains=trains
    )

    def step(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            source.rewind()
            forwarder.run()

    return step
