"""Three boxes in a row, and our port on the veth pairs between them; for the tests of the AF_PACKET port.

nve [up] ---- [nve] box [core] ---- [down] far
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from ipaddress import ip_address
from itertools import cycle
from typing import Protocol, TypeVar

from ctrl.lab.namespaces import Lab, Namespace, connect
from fastpath.claims import Claims, socket_filter
from fastpath.clones import ClonePort, Clones
from fastpath.forwarder import Forwarder
from fastpath.io._packet import PacketIo
from fastpath.io._xdp import XdpIo
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
from fastpath.statistics import Statistics
from tests import frames as f
from tests.native._handed import handed
from tests.system.consuming import wait_for

GROUP, OURS, NVE = "239.1.1.100", "10.0.0.1", "10.1.0.2"
FAR = ("10.0.0.2", "10.0.0.3", "10.0.0.4")
CLAIMS = Claims((f.VXLAN_PORT,), (ip_address(OURS),))
VNI = 0x0A1B2C
MTU = 1600
PATIENCE_S = 5.0
SOL_UDP, UDP_SEGMENT, SOL_PACKET, PACKET_VNET_HDR = 17, 103, 263, 15
NEEDS_CSUM, TCP4, UDP_TRAIN, UNSPLIT = 1, 1, 5, 2

Handed = list[tuple[bytes, tuple[int, int, int], tuple[int, int], int]]


class Closed(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closed)


class Wire:
    """The namespaces, quiet: nothing is on the wires that a test did not send."""

    def __init__(self, lab: Lab) -> None:
        self.nve, self.box, self.far = (lab.namespace(name) for name in ("nve", "box", "far"))
        for namespace in (self.nve, self.box, self.far):
            for scope in ("all", "default"):
                namespace.sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", 1)
        connect(self.nve, "up", self.box, "nve", mtu=MTU)
        connect(self.box, "core", self.far, "down", mtu=MTU)
        self.nve.address("up", f"{NVE}/24")
        self.nve.route("224.0.0.0/4", "up")
        for address in FAR:
            self.far.address("down", f"{address}/24")
        self._sockets = ExitStack()

    def port(self, device: str, **options: object) -> PacketIo:
        def made() -> PacketIo:
            return PacketIo(device, **{"program": socket_filter(CLAIMS), **options})  # type: ignore[arg-type]

        return self.closing(self.box.run(made))

    def closing(self, opened: T) -> T:
        self._sockets.enter_context(closing(opened))
        return opened

    def udp(self, namespace: Namespace, address: str = "", port: int = 0) -> socket.socket:
        made = self.closing(namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
        made.bind((address, port))
        made.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        made.settimeout(PATIENCE_S)
        return made

    def raw(self, namespace: Namespace, device: str, protocol: int = 0) -> socket.socket:
        made = self.closing(namespace.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0))
        made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        made.bind((device, protocol))
        made.settimeout(PATIENCE_S)
        return made

    def send(self, *frames: bytes) -> None:
        """Let the NVE send frames as they are."""
        with self.nve.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            sender.bind(("up", 0))
            for frame in frames:
                sender.send(frame)

    def close(self) -> None:
        self._sockets.close()


@contextmanager
def wired() -> Iterator[Wire]:
    """Lend the boxes, free of everything that a test has opened."""
    with Lab("packet") as lab:
        made = Wire(lab)
        try:
            yield made
        finally:
            made.close()


def collect(port: PacketIo, n_frames: int, capacity: int = 256) -> Handed:
    """Receive until so many frames came in, and no more do."""
    out: Handed = []

    def more() -> bool:
        out.extend(handed(port, capacity))
        return len(out) >= n_frames

    wait_for(more, f"{n_frames} frames, not {len(out)}")
    while rest := handed(port, capacity):
        out += rest
    assert len(out) == n_frames
    return out


def tunnelled(number: int = 0, size: int = 60, dst: str = GROUP) -> bytes:
    inner = f.tenant(size=size, src=f"172.16.5.{number % 200 + 1}")
    return f.wire(f.vxlan_packet(inner, NVE, dst, VNI))


class Box:
    """A device between the NVE and its peers, all behind one next hop."""

    def __init__(
        self,
        wire: Wire,
        peers: Sequence[str] = FAR,
        clones: Clones | None = None,
        forms: Sequence[Form] = (Form.REWRITE,),
        alone: str = "",
        **options: object,
    ) -> None:
        """With `alone`, another group, for the first peer only; and copies not cloned leave by AF_XDP."""
        self.peers = peers
        self.nve, packet = wire.port("nve"), wire.port("core", **options)
        below = wire.closing(wire.box.run(XdpIo, packet, "core")) if alone else packet
        self.core = below if clones is None else wire.closing(ClonePort(below, clones, "core"))
        layout = Layout(
            (
                Port("nve", Faces.NVE, b"\2\xfa\x57\0\0\1", b"\2\xfa\x57\0\0\2"),
                Port("core", Faces.CORE, b"\2\xfa\x57\0\0\3", mac(wire.far, "down"), mtu=MTU),
            ),
            (Endpoint(ip_address(OURS), Scope.DEVICE),),
        )
        remote = tuple(
            Egress(1, form, Owner(address=ip_address(a)), ip_address(a), ip_address(OURS))
            for a, form in zip(peers, cycle(forms), strict=False)
        )
        lists = [ReplicationList(group_key(Scope.DEVICE, ip_address(GROUP)), (), remote)]
        if alone:
            lists.append(ReplicationList(group_key(Scope.DEVICE, ip_address(alone)), (), remote[:1]))
        self.forwarder = Forwarder(layout, (self.nve, self.core), lists, sources=(self.nve,))

    def forward(self, n_frames: int) -> Statistics:
        """Forward until so many frames came in altogether, IGMP not counted; the books balance."""

        def come() -> bool:
            self.forwarder.run()
            counted = self.forwarder.statistics()
            return counted.received - counted.punted >= n_frames

        wait_for(come, f"{n_frames} frames")
        counted = self.forwarder.statistics()
        assert counted.received == counted.replicated + counted.punted + counted.dropped
        assert counted.received - counted.punted == n_frames
        sent, dropped = counted.copies_out, counted.copies_dropped
        assert counted.replicated * len(self.peers) == sent + dropped
        assert sent == sum(row.copies for row in counted.egresses)
        assert dropped == sum(row.dropped for row in counted.egresses)
        return counted

    def drops(self) -> dict[str, int]:
        return {row.reason.name: row.count for row in self.forwarder.statistics().drops}


def mac(namespace: Namespace, device: str) -> bytes:
    return bytes.fromhex(namespace.mac(device).replace(":", ""))


def took(receiver: socket.socket, n_datagrams: int) -> list[bytes]:
    out = [receiver.recv(1 << 16) for _ in range(n_datagrams)]
    assert not select.select([receiver], [], [], 0)[0], "one too many"
    return out
