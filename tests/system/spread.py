"""A device of ours without a daemon, whose receivers are behind several ports that have the kernel clone.

nve [up] ---- [nve] box [core1] ---- [down1] far, [core2] ---- [down2] far, ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address

from ctrl.lab.namespaces import connect
from ctrl.netlink.clones import attach_clones
from fastpath._port import IoPort
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
from tests import frames as f
from tests.system.consuming import wait_for
from tests.system.fan import copies, super_frames, taken
from tests.system.wires import GROUP, MTU, OURS, Wire, mac


def peer(port: int, address: str) -> Egress:
    """A receiver behind a port, who gets rewritten copies."""
    at = ip_address(address)
    return Egress(port, Form.REWRITE, Owner(address=at), at, ip_address(OURS))


def list_of(*egresses: Egress) -> ReplicationList:
    """The list of the group, for frames from anywhere."""
    return ReplicationList(group_key(Scope.DEVICE, ip_address(GROUP)), egresses, ())


class Spread:
    """The device, its ports and their far ends; the ports stand on private devices in turn."""

    def __init__(
        self,
        wire: Wire,
        n_ports: int,
        one: ReplicationList,
        *,
        n_devices: int = 1,
        trains: bool = True,
        batch: int = 256,
    ) -> None:
        self.wire = wire
        self.devices = [wire.closing(wire.box.run(Clones, attach_clones)) for _ in range(n_devices)]
        self.nve = wire.port("nve")
        self.ports, self.far, places = [], [], []
        for n in range(1, 1 + n_ports):
            name, end = f"core{n}", f"down{n}"
            connect(wire.box, name, wire.far, end, mtu=MTU)
            places.append(Port(name, Faces.CORE, b"\2\xfa\x57\0\0\3", mac(wire.far, end), mtu=MTU))
            below = wire.port(name, trains=trains)
            self.ports.append(wire.closing(ClonePort(below, self.devices[n % n_devices], name)))
            self.far.append(super_frames(wire.raw(wire.far, end, f.IPV4)))
        nve = Port("nve", Faces.NVE, b"\2\xfa\x57\0\0\1", b"\2\xfa\x57\0\0\2")
        layout = Layout((nve, *places), (Endpoint(ip_address(OURS), Scope.DEVICE),))
        carriers: list[IoPort] = [self.nve, *self.ports]
        self.forwarder = Forwarder(layout, carriers, [one], sources=[self.nve], batch=batch)
        self.wanted = {str(egress.address) for egress in one.local}

    def forward(self, *frames: bytes) -> None:
        """Let the NVE send, and forward until all came in."""
        before = self.forwarder.statistics().received

        def come() -> bool:
            self.forwarder.run()
            return self.forwarder.statistics().received >= before + len(frames)

        self.wire.send(*frames)
        wait_for(come, f"{len(frames)} frames")

    def got(self, n_copies: int) -> Counter[tuple[str, int]]:
        """Take so many copies, and all that follow: for whom, and of which number."""
        return Counter(
            copy for frames in taken(self.far, n_copies) for frame in frames for copy in copies(frame)
        )

    def each_got(self, numbers: Sequence[int]) -> bool:
        """Whether each receiver got each number once, and nothing else came."""
        found = self.got(len(numbers) * len(self.wanted))
        return found == Counter((one, number) for one in self.wanted for number in numbers)
