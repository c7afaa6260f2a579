"""Live ports: what carries the frames of a configured port for every worker, and keeps the kernel off them.

1. Of a kind that this kernel or device cannot do, the next best is taken, and `why` says so: xdp -> packet;
   clones -> trains -> single copies (the port itself finds out).
2. A port whose interface does not exist is absent: it is opened when the interface appears.
3. A port that faces VMs takes everything that comes in there, and the kernel's stack gets nothing.
4. The interface of a TAP may move into another network namespace, where its VM lives. Nobody tells us what
   becomes of it there: our descriptor has to be asked.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ctrl.config import Config
from ctrl.config.schema import PortTable
from ctrl.consume import Consumer, ConsumeUnsupportedError
from ctrl.daemon.cloning import Cloning
from ctrl.daemon.reach import device_of
from ctrl.netlink import Link
from fastpath import bpf
from fastpath.claims import Claims, socket_filter
from fastpath.ports import AbsentPort, ClonePort, InternalPort, LivePort, PacketPort, TapPort, XdpPort
from fastpath.redirect import Redirect, reason_against, receive_queues

LOG = logging.getLogger("fastpath.ports")
_ABSENT = frozenset({errno.ENODEV, errno.ENXIO})
_NO_MAC = bytes(6)


@dataclass(slots=True)
class Opened:
    """The opened port of one table, one carrier a worker. `index` is its interface's, 0 without one."""

    table: PortTable
    carriers: list[LivePort] = field(default_factory=list)
    packets: list[PacketPort] = field(default_factory=list)
    below: list[PacketPort | XdpPort] = field(default_factory=list)
    """What carriers that clone stand on."""
    consumer: Consumer | None = None
    redirect: Redirect | None = None
    index: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_absent(self) -> bool:
        """Whether there is no such interface."""
        return self.index == 0 and self.table.kind != "internal"

    @property
    def has_left(self) -> bool:
        """Whether it is a TAP, alive, wherever its interface is."""
        carrier = self.carriers[0]
        return isinstance(carrier, TapPort) and carrier.state != "gone"

    def link(self, known: Link | None) -> Link | None:
        """What is behind it: `known` of the kernel's picture, or what only we can see."""
        device, carrier = device_of(self.table), self.carriers[0]
        if self.table.kind == "internal":
            return Link(device, 0, _NO_MAC, 0, is_up=True)
        if isinstance(carrier, TapPort) and (known is None or known.index != self.index):
            state = carrier.state
            return None if state == "gone" else Link(device, self.index, _NO_MAC, 0, is_up=state == "up")
        return known

    @property
    def transmit(self) -> str:
        """How copies leave: trains, xdp, packet, or both."""
        ways = dict.fromkeys(way for carrier in [*self.carriers, *self.below] for way in _ways(carrier))
        return "+".join(ways) if not self.is_absent else "none"

    @property
    def why(self) -> str:
        """Why they leave so."""
        said = [carrier.why for carrier in [*self.packets, *self.below, *self.carriers] if carrier.why]
        return "; ".join(dict.fromkeys([*self.notes, *said]))

    def claim(self, claims: Claims) -> None:
        """Receive this, and keep it from the kernel, from now on."""
        if self._takes_all:
            return
        for packet in self.packets:
            packet.attach_filter(socket_filter(claims))
        if self.redirect is not None:
            self.redirect.update(claims)
        if self.consumer is not None:
            self.consumer.update(claims)

    def clone(self, cloning: Cloning) -> None:
        """Let the kernel make the copies to several receivers, where it can."""
        if self._takes_all or not self.packets:
            return
        if cloning.why:
            self.notes.append(cloning.why)
        for worker, carrier in enumerate(self.carriers):
            if not isinstance(carrier, PacketPort | XdpPort):
                continue
            over = cloning.over(carrier, worker, device_of(self.table))
            if over is not None:
                self.below.append(carrier)
                self.carriers[worker] = over

    def refresh(self) -> None:
        """Look again at what the interface can do."""
        for carrier in self.carriers:
            if isinstance(carrier, ClonePort):
                carrier.refresh()

    @property
    def _takes_all(self) -> bool:
        return "vm" in self.table.faces

    def close(self) -> None:
        """Give everything back: the kernel sees the interface's traffic again."""
        if self.consumer is not None:
            self.consumer.close()
            self.consumer = None
        if self.redirect is not None:
            self.redirect.close()
            self.redirect = None
        for carrier in dict.fromkeys([*self.carriers, *self.below, *self.packets]):
            carrier.close()


def _ways(carrier: LivePort) -> Iterator[str]:
    if isinstance(carrier, XdpPort) and carrier.trains:
        yield "trains"
    yield carrier.transmits


def absent(table: PortTable, n_workers: int, why: str) -> Opened:
    """A port without an interface: its copies are counted as `link_down`."""
    return Opened(table, [AbsentPort() for _ in range(n_workers)], notes=[why])


def open_port(table: PortTable, config: Config, claims: Claims, cloning: Cloning | None = None) -> Opened:
    """Open a port, not an internal one, for every worker; absent if its interface does not exist.

    OSError where the system refuses: no permission, another instance on the interface.
    """
    n_workers = config.dataplane.workers
    device = device_of(table)
    opened = Opened(table)
    try:
        with _closed_on_error(opened):
            _OPENERS[table.kind](opened, config, claims)
            if cloning is not None:
                opened.clone(cloning)
    except OSError as error:
        if error.errno in _ABSENT:
            return absent(table, n_workers, f"there is no interface {device}")
        raise
    return opened


def open_pair(one: PortTable, other: PortTable, config: Config) -> tuple[Opened, Opened]:
    """Open two internal ports, each other's peer, for every worker."""
    pairs = [InternalPort.pair(_room(config)) for _ in range(config.dataplane.workers)]
    return Opened(one, [pair[0] for pair in pairs]), Opened(other, [pair[1] for pair in pairs])


def _room(config: Config) -> int:
    """Frames for which a port has room; rings are powers of two."""
    return 1 << (config.dataplane.ring_frames - 1).bit_length()


@contextmanager
def _closed_on_error(opened: Opened) -> Iterator[None]:
    try:
        yield
    except BaseException:
        opened.close()
        raise


def _open_packet(opened: Opened, config: Config, claims: Claims) -> None:
    table, dataplane = opened.table, config.dataplane
    device, vms = device_of(table), "vm" in table.faces
    for _ in range(dataplane.workers):
        packet = PacketPort(
            device,
            ring_frames=_room(config),
            trains=dataplane.trains,
            all_multicast="nve" in table.faces,
            vms=vms,
            fanout=None if dataplane.workers == 1 else _fanout(device),
            program=None if vms else socket_filter(claims),
        )
        opened.packets.append(packet)
        opened.carriers.append(packet)
        opened.index = packet.ifindex
    try:
        opened.consumer = Consumer(device, None if vms else claims)
    except ConsumeUnsupportedError as error:
        opened.notes.append(f"the kernel sees the frames, too: {error}")
        LOG.warning("frames also reach the kernel's stack device=%s why=%s", device, error)


def _open_xdp(opened: Opened, config: Config, claims: Claims) -> None:
    _open_packet(opened, config, claims)
    if "vm" in opened.table.faces:
        opened.notes.append("takes everything, by AF_PACKET: an XDP program takes what is claimed")
        return
    device = device_of(opened.table)
    n_workers = len(opened.packets)
    against = reason_against(device) or bpf.available()
    queues = range(n_workers) if against else receive_queues(device)
    opened.notes.append(f"receives by AF_PACKET: {against}" if against else "receives by AF_XDP")
    sockets: list[tuple[int, int]] = []
    for place, packet in enumerate(opened.packets):
        own = queues[place::n_workers]
        if not own:
            opened.notes.append(f"no queue for worker {place}")
            continue
        try:
            port = XdpPort(packet, device, queues=own, receive=not against)
            opened.carriers[place] = port
            sockets += port.sockets
        except OSError as error:
            opened.notes.append(f"no AF_XDP for worker {place}: {error.strerror}")
            LOG.warning("no AF_XDP device=%s worker=%d why=%s", device, place, error.strerror)
    if sockets and not against:
        opened.redirect = Redirect(device, claims, sockets)


def _open_tap(opened: Opened, config: Config, claims: Claims) -> None:
    dataplane = config.dataplane
    for place in range(dataplane.workers):
        tap = TapPort(
            device_of(opened.table),
            multi_queue=dataplane.workers > 1,
            trains=dataplane.trains,
            counts_losses=place == 0,
        )
        opened.carriers.append(tap)
        opened.index = tap.ifindex


_OPENERS: dict[str, Callable[[Opened, Config, Claims], None]] = {
    "packet": _open_packet,
    "xdp": _open_xdp,
    "tap": _open_tap,
}
LIVE_KINDS = frozenset({*_OPENERS, "internal"})


def _fanout(device: str) -> int:
    """An id for the packet sockets of one device, ours among those of other processes (PACKET_FANOUT)."""
    return (os.getpid() * 31 + sum(device.encode())) & 0xFFFF
