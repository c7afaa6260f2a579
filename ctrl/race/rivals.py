"""Who else could make the copies, and what no program in user space can beat.

Each takes the track and the load, gets ready, and lends a step: a function that sends for some seconds.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import cycle
from typing import TypeVar

from ctrl.lab.namespaces import Namespace
from ctrl.netlink.clones import attach_clones
from ctrl.race import traffic
from ctrl.race.track import Track
from ctrl.race.traffic import Load, Messages
from fastpath.clones import TURNS, Clones
from fastpath.limit import Sender, XdpSender

Step = Callable[[float], object]
XDP_FRAMES = 2048
PATIENCE_S = 2.0

T = TypeVar("T")


def sender(fd: int, messages: Messages) -> Sender:
    return Sender(fd, messages.heads, messages.payloads)


def patiently(open_it: Callable[[], T]) -> T:
    """Open what uses a queue by AF_XDP: the kernel takes its time to give one back (LIMITS trap 9)."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return open_it()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def by_xdp(namespace: Namespace, device: str, frames: list[bytes]) -> Iterator[Step]:
    """Lend a step that sends frames by AF_XDP, out of a device of a namespace."""
    index = namespace.index(device)
    xdp = patiently(lambda: namespace.run(XdpSender, index, frames))
    try:
        yield xdp.send
    finally:
        xdp.close()


@contextmanager
def kernel(track: Track, load: Load) -> Iterator[Step]:
    """The Linux VXLAN device's head-end replication, fed frame by frame."""
    frames = traffic.plain(traffic.inner(load, flow) for flow in load.flows)
    with track.vxlan(load) as device, track.packet_socket(device) as fd:
        yield sender(fd, frames).send


@contextmanager
def kernel_trains(track: Track, load: Load) -> Iterator[Step]:
    """The same, fed ready trains: clones share the payload, which is its best case."""
    trains = traffic.inner_trains(load)
    with track.vxlan(load) as device, track.packet_socket(device, vnet_hdr=True) as fd:
        yield sender(fd, trains).send


@contextmanager
def sendmmsg(track: Track, load: Load) -> Iterator[Step]:
    """One message a copy, all of them prebuilt."""
    with track.packet_socket(track.outs[0]) as fd:
        yield sender(fd, traffic.copies(load)).send


@contextmanager
def limit(track: Track, load: Load) -> Iterator[Step]:
    """Prebuilt trains, sent without parsing; where nothing rides together, the same as `sendmmsg`."""
    together = load.train > 1
    messages = traffic.trains(load) if together else traffic.copies(load)
    with track.packet_socket(track.outs[0], vnet_hdr=together) as fd:
        yield sender(fd, messages).send


@contextmanager
def limit_clones(track: Track, load: Load) -> Iterator[Step]:
    """Prebuilt frames and trains, each sent once and cloned under prebuilt heads, no parsing."""
    records = -(-load.egresses // TURNS) * TURNS
    with closing(track.box.run(Clones, attach_clones, records)) as clones:
        indexes = cycle(map(track.box.index, track.outs))
        for place, (index, head) in enumerate(zip(indexes, traffic.clone_heads(load), strict=False)):
            clones.put(place, index, head)
        yield sender(clones.fileno(), traffic.clone_orders(load)).send


@contextmanager
def limit_xdp(track: Track, load: Load) -> Iterator[Step]:
    """Prebuilt frames by AF_XDP in copy mode, one descriptor a copy."""
    with by_xdp(track.box, track.outs[0], traffic.prebuilt(load, XDP_FRAMES)) as step:
        yield step
