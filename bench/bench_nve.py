"""A VM behind our TAP port against a VM behind Linux's: TAP, bridge and VXLAN device, on the same work.

    VM - [tap] NVE [up] ---- [down] the network of tunnels

Up, the VM sends, and copies arrive at the network's end; down, the network sends, and frames arrive at the
VM. They are for a group; or, known unicast, for a station at a VTEP or for the VM, which both sides have
learned, as they have the source of each frame. `feed`: frame by frame, or in the super-frames that a VM and
a network card make. All is on one core, both ends and the receiving softirqs included, sides in turn: so
what generates the frames is part of both sides' cost.

The two differ in whose the TAP is. Ours is opened by us, and the VM is the kernel's end; Linux's is the
kernel's, and the VM has the descriptor. What the VM does with its frames is in neither figure: ours are
dropped at the kernel's end by tc, Linux's wait in the TAP's queue until the clock has stopped.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass

import pytest

from bench.conftest import FULL, Race, now_ns
from bench.figures import Sample, Target
from ctrl.consume import Consumer, ConsumeUnsupportedError
from ctrl.lab.namespaces import Lab, Namespace, connect
from ctrl.race import traffic
from ctrl.race.sink import Sink
from ctrl.race.traffic import (
    GROUP,
    GROUP_MAC,
    INNER_GROUP_MAC,
    NVE,
    NVE_MAC,
    OUR_MAC,
    OURS,
    SINK_MAC,
    VM_MAC,
    VNI,
    Load,
)
from fastpath.claims import Claims
from fastpath.forwarder import Forwarder
from fastpath.model import (
    Egress,
    Encap,
    Endpoint,
    Faces,
    Form,
    Layout,
    Network,
    Owner,
    Port,
    ReplicationList,
    Scope,
    vni_key,
)
from fastpath.ports import PacketPort, TapPort
from tests.taps import why_not

TRAIN, TRAINS = 44, 10
FRAMES = TRAIN * TRAINS
"""Of a round: less than a TAP's queue holds."""
FEEDS = {"frames": False, "frames, gathered": True, "trains": True}
"""And whether we gather trains, as we do unless told otherwise."""
ROUNDS = 400 if FULL else 40
VM_PORT, UPLINK = 0, 1
SOL_PACKET, PACKET_VNET_HDR, SO_SNDBUFFORCE = 263, 15, 32
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 2, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO, TUN_F_USO = 1, 2 | 4, 0x20 | 0x40
MTU = 1600
FAR_MAC = bytes.fromhex("0250560a0b0d")
"""Of a VM at the VTEP, which is `NVE`."""
HEAD = 42
"""Ethernet, IPv4 and UDP."""

WHY = why_not()
needs_taps = pytest.mark.skipif(WHY is not None, reason=str(WHY))
Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Side:
    """One of those who race: do a round of work; count what has arrived so far; make room for the next."""

    step: Step
    arrived: Callable[[], int]
    settle: Step = lambda: None


def vm_frame(size: int, ident: int, macs: bytes) -> bytes:
    """A VM's datagram with all of its checksums, as UDP segmentation leaves it."""
    frame = bytearray(traffic.inner(Load(1, size), 0))
    frame[:12] = macs
    frame[18:20] = ident.to_bytes(2, "big")
    frame[24:26] = bytes(2)
    frame[24:26] = (~traffic.checksum(bytes(frame[14:34])) & 0xFFFF).to_bytes(2, "big")
    total = traffic.checksum(bytes(frame[26:]), 17 + size - 34)
    frame[40:42] = (~total & 0xFFFF or 0xFFFF).to_bytes(2, "big")
    return bytes(frame)


def super_frame(head: bytes, addresses: int, udp: int, payload: bytes, segment: int) -> bytes:
    """The virtio header and the frame that stands for a train, its UDP header being the last of `head`."""
    out = bytearray(head)
    size = 8 + len(payload)
    out[16:18] = (20 + size).to_bytes(2, "big")
    out[24:26] = bytes(2)
    out[24:26] = (~traffic.checksum(bytes(out[14:34])) & 0xFFFF).to_bytes(2, "big")
    pseudo = traffic.checksum(bytes(out[addresses : addresses + 8]), 17 + size)
    out[udp + 4 : udp + 8] = struct.pack(">HH", size, pseudo)
    offload = traffic.VNET.pack(traffic.NEEDS_CSUM, traffic.UDP_TRAIN, len(head), segment, udp, 6)
    return offload + bytes(out) + payload


def from_vm(size: int, feed: str, known: bool) -> list[bytes]:
    """What the VM sends in a round, each with its virtio header."""
    macs = (FAR_MAC if known else INNER_GROUP_MAC) + VM_MAC
    if feed != "trains":
        return [traffic.NO_OFFLOAD + vm_frame(size, n, macs) for n in range(FRAMES)]
    one = vm_frame(size, 0, macs)
    return [super_frame(one[:42], 26, 34, one[42:] * TRAIN, size - 42)] * TRAINS


def from_network(size: int, feed: str, known: bool) -> list[bytes]:
    """What the network sends in a round, each with its virtio header."""
    load, macs = Load(1, size), (VM_MAC if known else INNER_GROUP_MAC) + FAR_MAC
    to, to_mac = (OURS, OUR_MAC) if known else (GROUP, GROUP_MAC)
    head = traffic.tunnel_head(load, 0, NVE, to, to_mac + NVE_MAC)
    if feed != "trains":
        return [traffic.NO_OFFLOAD + head + vm_frame(size, n, macs) for n in range(FRAMES)]
    out = []
    for train in range(TRAINS):
        payload = b"".join(head[42:] + vm_frame(size, TRAIN * train + n, macs) for n in range(TRAIN))
        out.append(super_frame(head[:42], 26, 34, payload, size + 8))
    return out


class Wire:
    """A namespace for the NVE and one for the network, and between them a veth pair."""

    def __init__(self, opened: ExitStack) -> None:
        self.opened = opened
        lab = opened.enter_context(Lab("nve"))
        self.box, self.network, self.vm = (lab.namespace(name) for name in ("box", "network", "vm"))
        for namespace in (self.box, self.network, self.vm):
            for scope in ("all", "default"):
                namespace.sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", 1)
        connect(self.box, "up", self.network, "down", mtu=MTU)
        self.box.set_link("up", address=OUR_MAC.hex(":"))
        self.network.set_link("down", address=SINK_MAC.hex(":"))

    def sender(self, namespace: Namespace, device: str, messages: list[bytes]) -> Step:
        """Send the messages, as whoever is behind a device does."""
        made = namespace.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.opened.callback(made.close)
        made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        made.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 1 << 25)
        made.bind((device, 0))
        send = made.send

        def step() -> None:
            for message in messages:
                send(message)

        return step

    def sink(self, namespace: Namespace, device: str, size: int = 0) -> Callable[[], int]:
        """Drop what arrives at a device, and count it: tunnel packets, or a VM's frames of `size` bytes.

        A super-frame from a TAP does not say how many it stands for, but has the headers once.
        """
        sink = self.opened.enter_context(Sink(namespace, device))
        if sink.why_not_exact is not None:
            pytest.skip(f"nothing here drops before the stack does: {sink.why_not_exact}")

        def arrived() -> int:
            if not size:
                return sink.read().units
            packets = namespace.link(device).get_attr("IFLA_STATS64")["rx_packets"]
            return int(sink.read().bytes - HEAD * packets) // (size - HEAD)

        return arrived

    def ours(self, trains: bool, known: bool) -> Forwarder:
        """Forward between a TAP in the VM's namespace and the uplink."""
        tap = self.vm.run(lambda: TapPort("vm0"))
        up = self.box.run(lambda: PacketPort("up"))
        for port in (tap, up):
            self.opened.enter_context(closing(port))
        with suppress(ConsumeUnsupportedError):  # else the stack sees the frames, too
            consumer = self.box.run(Consumer, "up", Claims((traffic.VXLAN_PORT,), (OURS,)))
            self.opened.callback(consumer.close)
        network = Network("blue", VNI, None, Encap.VXLAN, GROUP)
        ports = (
            Port("vm0", Faces.VM, bytes.fromhex("02fa57000009"), None, network="blue"),
            Port("up", Faces.CORE, OUR_MAC, SINK_MAC, mtu=MTU),
        )
        layout = Layout(ports, (Endpoint(OURS, Scope.NVE),), (network,))
        to_group = Egress(UPLINK, Form.REWRITE, Owner(UPLINK), GROUP, OURS, Encap.VXLAN)
        to_vm = Egress(VM_PORT, Form.DECAPSULATED, Owner(VM_PORT))
        lists = (ReplicationList(vni_key(Scope.NVE, Encap.VXLAN, VNI), (to_vm,), (to_group,)),)
        if not known:
            return Forwarder(layout, (tap, up), lists, trains=trains)
        forwarder = Forwarder(layout, (tap, up), lists, trains=trains, max_macs=1024, max_vteps=16)
        vtep = forwarder.vtep(Egress(UPLINK, Form.REWRITE, Owner(address=NVE), NVE, OURS, Encap.VXLAN))
        for mac, station in ((FAR_MAC, vtep), (VM_MAC, VM_PORT)):
            assert forwarder.macs.put(VNI, mac, station)
        return forwarder

    def linux(self, known: bool) -> int:
        """Bridge a TAP and a VXLAN device of the group; the descriptor that the VM has."""
        vm = self.box.run(open_tap, "tap0")
        self.opened.callback(os.close, vm)
        self.box.address("up", f"{OURS}/8")
        self.box.route("224.0.0.0/4", "up")
        self.box.vxlan("vx", VNI, local=str(OURS), under="up", group=str(GROUP), vxlan_learning=1)
        self.box.add_link("br", "bridge", br_mcast_snooping=0)
        for device in ("tap0", "vx"):
            self.box.set_link(device, master=self.box.index("br"), mtu=MTU - 50, state="up")
        self.box.neighbour("up", str(NVE), SINK_MAC.hex(":"))
        if known:  # a frame each way teaches it what both stations are
            os.write(vm, from_vm(64, "frames", True)[0])
            self.sender(self.network, "down", from_network(64, "frames", True)[:1])()
            assert drain(vm) == 1, "it went to the VM"
        return vm


def open_tap(name: str) -> int:
    """Make a TAP device as a hypervisor does, with all offloads, and take its descriptor."""
    made = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(made, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(made, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO | TUN_F_USO)
    return made


def drain(vm: int) -> int:
    """Read all that waits for the VM; how many frames that is."""
    n = 0
    with suppress(BlockingIOError):
        while True:
            data = os.read(vm, 1 << 17)
            segment = int.from_bytes(data[4:6], "little") if data[1] else 0
            n += -(-(len(data) - 10 - 42) // segment) if segment else 1
    return n


def up(known: bool, wire: Wire, size: int, feed: str, ours: bool) -> Side:
    """The VM sends, the network counts."""
    messages, arrived = from_vm(size, feed, known), wire.sink(wire.network, "down")
    if ours:
        forwarder = wire.ours(FEEDS[feed], known)
        send = wire.sender(wire.vm, "vm0", messages)

        def forward() -> None:
            send()
            forwarder.run()

        return Side(forward, arrived)
    vm = wire.linux(known)

    def write() -> None:
        for message in messages:
            os.write(vm, message)

    return Side(write, arrived)


def down(known: bool, wire: Wire, size: int, feed: str, ours: bool) -> Side:
    """The network sends, the VM counts."""
    send = wire.sender(wire.network, "down", from_network(size, feed, known))
    if ours:
        forwarder = wire.ours(FEEDS[feed], known)

        def forward() -> None:
            send()
            forwarder.run()

        return Side(forward, wire.sink(wire.vm, "vm0", size))
    vm, read = wire.linux(known), 0

    def settle() -> None:
        nonlocal read
        read += drain(vm)

    return Side(send, lambda: read, settle)


Way = Callable[[bool, Wire, int, str, bool], Side]
WAYS: dict[str, tuple[Way, bool]] = {
    "VM to group": (up, False),
    "group to VM": (down, False),
    "VM to VTEP": (up, True),
    "VTEP to VM": (down, True),
}
"""The way, and whether it is of known unicast."""


@contextmanager
def sides(way: Way, known: bool, *rows: tuple[int, str, bool]) -> Iterator[list[Side]]:
    """Those who race, each in namespaces of its own."""
    with ExitStack() as opened:
        yield [way(known, Wire(opened), *row) for row in rows]


def in_turn(racing: list[Side]) -> list[Sample]:
    """Let each do its rounds, in turn with the others; ns a frame."""
    took: list[list[float]] = [[] for _ in racing]
    for n in range(ROUNDS + 3):
        for side, taken in zip(racing, took, strict=True):
            side.settle()
            before = side.arrived()
            begin = now_ns()
            side.step()
            spent = now_ns() - begin
            side.settle()
            assert 0 <= side.arrived() - before - FRAMES < 5, "all, and perhaps what a stack says of itself"
            if n >= 3:
                taken.append(spent / FRAMES)
    return [Sample.of(taken) for taken in took]


@needs_taps
@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("size", [64, 1400])
@pytest.mark.parametrize("way", WAYS)
def test_a_vm_and_its_network(race: Race, way: str, size: int, feed: str) -> None:
    rows = (size, feed, True), (size, "frames", False), (size, "trains", False)
    run, known = WAYS[way]
    with sides(run, known, *rows) as racing:
        ours, frames, trains = in_turn(racing)
    race.benchmark.pedantic(lambda: None)
    target = Target(1.0 if known or feed != "trains" else 0.2, of_ratio=True)
    rivals = {"linux": frames, "linux_fed_trains": trains}
    race.book(way, {"size": size, "feed": feed}, ours, unit="ns/frame", target=target, **rivals)
