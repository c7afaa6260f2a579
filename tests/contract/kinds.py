"""The kinds of ports behind one face: a port, and the neighbour at the other end of its wire.

A kind joins the contract by one row of KINDS. The neighbour of an internal port is a forwarder that hands
all frames on as they are, by its VM ports. The neighbour of a port on Linux is a packet socket on a veth:
what it sends carries whatever mark or super-frame header it is told to, and on the way to it the
kernel finishes checksums and cuts trains, for the veth is told that it can do neither.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import pytest

from ctrl.lab.namespaces import Lab, Namespace, connect, missing
from ctrl.netlink.clones import attach_clones
from fastpath import bpf
from fastpath.claims import Claims, socket_filter
from fastpath.clones import ClonePort, Clones
from fastpath.forwarder import Forwarder
from fastpath.model import Faces, Frame, Layout
from fastpath.ports import InternalPort, MemoryPort, PacketPort, TapPort, XdpPort
from tests import frames as f
from tests.cases import box as b
from tests.system.lab import has_carrier, wait_for

MTU = 1600
PATIENCE_S = 60.0
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE = 263, 15, 23, 33
ETH_P_ALL = 0x0003
NEEDS_CSUM = 1
UDP_L4, TCP4 = 5, 1
"""Kinds of super-frames (virtio_net_hdr)."""


Carrier = ClonePort | InternalPort | MemoryPort | PacketPort | TapPort | XdpPort


class Bench(ABC):
    """A port under test, and its neighbour."""

    port: Carrier

    @abstractmethod
    def send(self, *frames: Frame) -> None:
        """Let the neighbour send frames to the port."""

    @abstractmethod
    def receive(self, n_frames: int) -> list[bytes]:
        """What the neighbour got, in order: `n_frames` if patience lasts, and any more that came."""


class MemoryBench(Bench):
    """The memory port has no neighbour: Python stands on both sides."""

    def __init__(self) -> None:
        self.port: MemoryPort = MemoryPort(1 << 22, trains=True)

    def send(self, *frames: Frame) -> None:
        self.port.receive(*frames)

    def receive(self, n_frames: int) -> list[bytes]:
        return self.port.take()


class InternalBench(Bench):
    """The neighbour has the other end, and a memory port where Python stands."""

    def __init__(self) -> None:
        self.port, end = InternalPort.pair(1024)
        self.python = MemoryPort(1 << 22)
        ports = (b.make_port(0, Faces.VM, network="blue"), b.make_port(1, Faces.VM, network="blue"))
        flood = b.of_number(b.NVE, b.VNI, b.at_vm(0), b.at_vm(1))
        self.neighbour = Forwarder(Layout(ports, networks=(b.BLUE,)), [end, self.python], [flood])

    def send(self, *frames: Frame) -> None:
        self.python.receive(*(replace(frame, data=on_the_wire(frame), vlan=None) for frame in frames))
        self.neighbour.run()

    def receive(self, n_frames: int) -> list[bytes]:
        self.neighbour.run()
        return self.python.take()


class LinuxBench(Bench):
    """A neighbour on `device` of a namespace."""

    def __init__(
        self, port: ClonePort | PacketPort | TapPort | XdpPort, namespace: Namespace, device: str
    ) -> None:
        self.port = port
        self.socket = namespace.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        self.socket.setblocking(False)
        self.socket.bind((device, ETH_P_ALL))

    def send(self, *frames: Frame) -> None:
        for frame in frames:
            mark = (NEEDS_CSUM, frame.mark.start, frame.mark.offset) if frame.mark else (0, 0, 0)
            self.send_with(struct.pack("=BBHHHH", mark[0], 0, 0, 0, *mark[1:]), on_the_wire(frame))

    def send_super(self, data: bytes, kind: int, gso_size: int, start: int, offset: int) -> None:
        """Let the neighbour send a super-frame, which holds the sum of a pseudo-header at start + offset."""
        self.send_with(struct.pack("=BBHHHH", NEEDS_CSUM, kind, start + 8, gso_size, start, offset), data)

    def send_with(self, header: bytes, data: bytes) -> None:
        """Send a frame behind its virtio_net_hdr, as soon as the device's queue has room."""
        patience = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.socket.send(header + data)
            except OSError as error:
                if error.errno not in {errno.ENOBUFS, errno.EAGAIN} or time.monotonic() > patience:
                    raise
            else:
                return

    def receive(self, n_frames: int) -> list[bytes]:
        out: list[bytes] = []
        patience = time.monotonic() + PATIENCE_S
        while True:
            left = max(0.0, patience - time.monotonic()) if len(out) < n_frames else 0.0
            if not select.select([self.socket], [], [], left)[0]:
                return out
            data = self.socket.recv(1 << 17)
            flags, gso_type = data[:2]
            assert (flags & NEEDS_CSUM, gso_type) == (0, 0), "the lab's veth left something unfinished"
            out.append(data[10:])


def on_the_wire(frame: Frame) -> bytes:
    """The bytes of a frame with the tag that came out of band, or would have, where the wire has it."""
    if frame.vlan is None:
        return frame.data
    return frame.data[:12] + struct.pack(">HH", *frame.vlan) + frame.data[12:]


@contextmanager
def wire(lab: Lab) -> Iterator[Namespace]:
    """A namespace without traffic of its own; its veth near-far cuts and finishes all that it is given."""
    with lab.namespace("wire") as namespace:
        for knob, value in (("ipv6/conf/default/disable_ipv6", 1), ("ipv4/conf/default/arp_ignore", 8)):
            namespace.sysctl(f"net/{knob}", value)
        connect(namespace, "near", namespace, "far", mtu=MTU)
        for name in ("tx-udp-segmentation", "tx-checksum-ip-generic"):
            namespace.feature("near", name, False)
        for name in ("near", "far"):
            wait_for(partial(has_carrier, namespace, name), f"{name}: frames before its carrier are lost")
        yield namespace


@contextmanager
def memory_bench() -> Iterator[Bench]:
    yield MemoryBench()


@contextmanager
def internal_bench() -> Iterator[Bench]:
    yield InternalBench()


@contextmanager
def tap_bench() -> Iterator[Bench]:
    """A TAP; a bridge takes its frames to the neighbour."""
    tap = pytest.importorskip("fastpath.io._tap")
    with Lab("contract-tap") as lab, wire(lab) as namespace:
        port = namespace.run(tap.TapIo, "tap0")
        namespace.add_link("br0", "bridge", br_ageing_time=0, br_mcast_snooping=0)
        for device in ("tap0", "near"):
            namespace.set_link(device, master=namespace.index("br0"), mtu=MTU)
        bench = LinuxBench(port, namespace, "far")
        try:
            yield bench
        finally:
            bench.socket.close()
            port.close()


@contextmanager
def packet_bench(xdp: bool = False, clones: bool = False) -> Iterator[Bench]:
    """A port on the veth's near end: AF_PACKET, clones on top of it, or AF_XDP with it beside."""
    packet, kind = pytest.importorskip("fastpath.io._packet"), "_xdp" if xdp else "_packet"
    above = pytest.importorskip(f"fastpath.io.{kind}")
    with Lab(f"contract-{kind}") as lab, wire(lab) as namespace, ExitStack() as stack:
        ours = socket_filter(Claims((f.VXLAN_PORT,), (b.addr(b.OWN), b.addr(b.OWN6))))
        port = namespace.run(packet.PacketIo, "near", program=ours)
        stack.callback(port.close)
        if xdp:
            port = namespace.run(above.XdpIo, port, "near")
            stack.callback(port.close)
        if clones:
            made = namespace.run(Clones, attach_clones)
            stack.callback(made.close)
            port = ClonePort(port, made, "near")
            stack.callback(port.close)
        bench = LinuxBench(port, namespace, "far")
        stack.callback(bench.socket.close)
        yield bench


KINDS: Mapping[str, Callable[[], AbstractContextManager[Bench]]] = {
    "clones": partial(packet_bench, clones=True),
    "internal": internal_bench,
    "memory": memory_bench,
    "packet": packet_bench,
    "tap": tap_bench,
    "xdp": partial(packet_bench, xdp=True),
}
LINUX = ("clones", "packet", "tap", "xdp")
"""Those whose neighbour is a kernel that hands over super-frames."""
TRAINS = ("memory", *LINUX)
"""Those that take trains."""
LIVE = (*LINUX, "internal")
"""Those that a running box has."""


def why_not(kind: str) -> str | None:
    """What is missing here for a kind of ports; None if nothing is."""
    if kind == "clones" and missing() is None:
        return bpf.available()
    return missing() if kind in LINUX else None
