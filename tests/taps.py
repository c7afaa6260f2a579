"""Hosts behind TAP ports: in namespaces, and silent but for what a test asks for."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

from ctrl.lab.namespaces import Lab, Namespace, missing
from fastpath.forwarder import Forwarder
from fastpath.io._tap import TapIo
from fastpath.model import Egress
from fastpath.ports import MemoryPort
from tests import frames as f
from tests.cases import box as b
from tests.cases import made as m

PATIENCE_S = 60.0
FAR_VTEP, FAR_VM, NEAR_VM, NOBODY = "10.1.1.7", "172.16.5.77", "172.16.5.78", "172.16.5.200"
PORT = 5004
SO_RCVBUFFORCE = 33
UDP_SEGMENT = 103
"""Socket option: cut what is sent into datagrams of this size, as late as can be (linux/udp.h)."""


def why_not() -> str | None:
    """What is missing here for TAP ports; None if nothing is."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun: {error.strerror}"
    return missing()


class TapLab(Lab):
    """A lab that closes the sockets and ports opened in it."""

    def __init__(self) -> None:
        super().__init__("tap")
        self._opened = ExitStack()

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        super().__exit__()

    def bare(self, name: str = "bare") -> Namespace:
        """A namespace whose devices say nothing of their own accord."""
        namespace = self.namespace(name)
        namespace.sysctl("net/ipv6/conf/default/disable_ipv6", 1)
        return namespace

    def tap(
        self, namespace: Namespace, device: str = "tap0", address: str | None = None, **how: bool
    ) -> TapIo:
        """A TAP port of a namespace, `address` being that of the kernel's end; its multicast goes there."""
        port = namespace.run(TapIo, device, **how)
        self._opened.callback(port.close)
        if address is not None:
            namespace.address(device, f"{address}/24")
            namespace.route("224.0.0.0/4", device)
        return port

    def nve(self) -> tuple[Namespace, TapIo]:
        """A host that is an NVE of GROUP behind a TAP port."""
        namespace = self.bare("nve")
        port = self.tap(namespace, address=FAR_VTEP)
        namespace.vxlan("vx0", b.VNI, local=FAR_VTEP, under="tap0", group=b.GROUP, vxlan_ttl=1)
        namespace.address("vx0", f"{FAR_VM}/24")
        namespace.neighbour("vx0", NOBODY, "02:00:00:00:02:00")
        return namespace, port

    def stream(self, namespace: Namespace, *address: str | int) -> socket.socket:
        """A TCP socket."""
        return self._socket(namespace, socket.SOCK_STREAM, address)

    def _socket(self, namespace: Namespace, kind: int, address: tuple[str | int, ...]) -> socket.socket:
        made: socket.socket = namespace.run(socket.socket, socket.AF_INET, kind)
        self._opened.callback(made.close)
        made.settimeout(PATIENCE_S)
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
        if address:
            made.bind(address)
        return made

    def udp(self, namespace: Namespace, *address: str | int) -> socket.socket:
        """A UDP socket of a namespace, bound to an address if one is given."""
        return self._socket(namespace, socket.SOCK_DGRAM, address)


def device(
    port: TapIo, *egresses: Egress, trains: bool = True, batch: int = 256
) -> tuple[Forwarder, list[MemoryPort]]:
    """A device with the TAP port as P1, all other ports in memory; by default GROUP goes to P0 and P1."""
    memory = [MemoryPort(1 << 24) for _ in b.PORTS]
    ports = [port if i == b.P1 else one for i, one in enumerate(memory)]
    lists = b.of_only(*(egresses or (b.at_port(b.P0), b.at_port(b.P1))))
    return Forwarder(b.BOX, ports, lists, trains=trains, batch=batch), memory


def next_hop(place: int) -> str:
    """The MAC that copies by unicast have on a port of the box."""
    mac = b.PORTS[place].next_hop_mac
    assert mac is not None
    return mac.hex(":")


def until(done: Callable[[], bool], *forwarders: Forwarder) -> None:
    """Forward until something is so."""
    patience = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < patience
        if not sum(one.run() for one in forwarders):
            time.sleep(0.001)


def replicated(*forwarders: Forwarder) -> int:
    """Frames that were replicated so far."""
    return sum(one.statistics().replicated for one in forwarders)


def drops(forwarder: Forwarder) -> dict[str, int]:
    """What was dropped so far, by reason."""
    return {row.reason.name: row.count for row in forwarder.statistics().drops}


def numbered(number: int, size: int = 60) -> bytes:
    """A packet to GROUP with a VM's datagram to FAR_VM, which begins with its number."""
    body = number.to_bytes(4, "big") + bytes(size)
    datagram = f.udp(body, "172.16.5.9", FAR_VM, dport=PORT, checksum=f.RIGHT)
    inner = f.ethernet(f.ip(datagram, "172.16.5.9", FAR_VM, f.UDP), f.IPV4, dst=b"\xff" * 6)
    return m.from_nve(inner, datagram={"checksum": f.RIGHT})


def numbers(listening: socket.socket, n: int) -> list[int]:
    """The numbers of the next datagrams that a VM gets."""
    return [int.from_bytes(listening.recv(2048)[:4], "big") for _ in range(n)]


def assert_silent(listening: socket.socket) -> None:
    """Nothing more came; whatever was sent before is there, for a TAP's write ends in the socket."""
    listening.setblocking(False)
    try:
        raise AssertionError(f"one more datagram of {len(listening.recv(2048))} bytes")
    except BlockingIOError:
        listening.settimeout(PATIENCE_S)


def assert_finished(copy: bytes) -> None:
    """Every checksum of a VXLAN copy is right, and none is missing."""
    packets = [copy[14:]]
    if copy[62:64] == b"\x08\x00" and copy[73] == f.UDP:
        packets.append(copy[64:])
    for packet in packets:
        assert f.internet_checksum(packet[:20]) == 0
        pseudo = packet[12:20] + (len(packet) - 20).to_bytes(4, "big") + bytes((0, 0, 0, f.UDP))
        assert packet[26:28] != bytes(2)
        assert f.internet_checksum(pseudo + packet[20:]) == 0
