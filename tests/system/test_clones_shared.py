"""What ports that share a private device, or do not, send together."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from ctrl.lab.namespaces import connect, missing
from ctrl.netlink.clones import attach_clones
from fastpath import bpf
from fastpath._port import IoPort
from fastpath.clones import ClonePort, Clones
from fastpath.forwarder import Forwarder
from fastpath.io import _clones as abi
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
from tests.system.fan import GROUP_MAC, VNET, copies, super_frames, taken, vm_frame
from tests.system.wires import GROUP, MTU, NVE, OURS, Wire, mac, wired

WHY_NOT = missing() or bpf.available()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
VSID = 0x5000


def peer(port: int, n: int) -> Egress:
    address = ip_address(f"10.8.{port}.{n + 1}")
    return Egress(port, Form.REWRITE, Owner(address=address), address, ip_address(OURS))


class Spread:
    """A device whose receivers are behind several ports, which stand on devices in turn."""

    def __init__(
        self, wire: Wire, receivers: Sequence[int], local: Sequence[Egress] = (), n_devices: int = 1
    ) -> None:
        self.wire = wire
        self.devices = [wire.closing(wire.box.run(Clones, attach_clones)) for _ in range(n_devices)]
        ports = [Port("nve", Faces.NVE, b"\2\xfa\x57\0\0\1", b"\2\xfa\x57\0\0\2")]
        nve = wire.port("nve")
        nve.attach_filter(None)
        self.carriers: list[IoPort] = [nve]
        self.ports, far = [], []
        for n in range(1, 1 + len(receivers)):
            name, end = f"core{n}", f"down{n}"
            connect(wire.box, name, wire.far, end, mtu=MTU)
            ports.append(Port(name, Faces.CORE, b"\2\xfa\x57\0\0\3", mac(wire.far, end), mtu=MTU))
            self.ports.append(wire.closing(ClonePort(wire.port(name), self.devices[n % n_devices], name)))
            far.append(super_frames(wire.raw(wire.far, end, f.IPV4)))
        self.far = far
        self.carriers += self.ports
        remote = [peer(1 + at, n) for at, many in enumerate(receivers) for n in range(many)]
        self.forwarder = Forwarder(
            Layout(tuple(ports), (Endpoint(ip_address(OURS), Scope.DEVICE),)),
            self.carriers,
            [ReplicationList(group_key(Scope.DEVICE, ip_address(GROUP)), tuple(local), tuple(remote))],
            sources=self.carriers[:1],
        )
        self.wanted = {str(egress.address) for egress in remote}

    def forward(self, *frames: bytes) -> None:
        before = self.forwarder.statistics().received

        def come() -> bool:
            self.forwarder.run()
            return self.forwarder.statistics().received >= before + len(frames)

        self.wire.send(*frames)
        wait_for(come, f"{len(frames)} frames")

    def got(self, n_copies: int) -> Counter[tuple[str, int]]:
        return Counter(
            copy for frames in taken(self.far, n_copies) for frame in frames for copy in copies(frame)
        )

    def each_got(self, numbers: Sequence[int]) -> bool:
        found = self.got(len(numbers) * len(self.wanted))
        return found == Counter((one, number) for one in self.wanted for number in numbers)


@pytest.mark.parametrize("whole", [0, 1], ids=["first", "second"])
def test_one_message_makes_no_more_than_a_receivers_backlog_holds_whatever_its_ports_segment(
    whole: int,
) -> None:
    """Trains of a port that segments and the datagrams of one that does not wait in the same queue."""
    with wired() as wire:
        spread = Spread(wire, (131, 125) if whole == 0 else (125, 131))
        wire.box.feature(f"core{2 - whole}", "tx-udp-segmentation", False)
        for port in spread.ports:
            port.refresh()
        assert [port.segments for port in spread.ports] == [whole == 0, whole == 1]
        spread.forward(*(vm_frame(number, NVE) for number in range(8)))
        assert spread.each_got(range(8))
        counted = spread.forwarder.statistics()
        assert (counted.copies_out, counted.copies_dropped, spread.devices[0].sends) == (8 * 256, 0, 2)


def test_ports_of_two_devices_in_one_list_send_by_their_own() -> None:
    with wired() as wire:
        spread = Spread(wire, (3, 3, 3, 3), n_devices=2)
        for first in (0, 10):
            spread.forward(*(vm_frame(number, NVE) for number in range(first, first + 5)))
            assert spread.each_got(range(first, first + 5))
        assert spread.forwarder.statistics().copies_out == 2 * 5 * 12
        assert [device.cloned > 0 for device in spread.devices] == [True, True]


def test_frames_of_one_flow_that_ride_in_no_train_are_cloned_for_all_ports_at_once() -> None:
    with wired() as wire:
        spread = Spread(wire, (1,) * 6)
        inner = f.tenant(size=60)
        frame = f.ethernet(f.nvgre_packet(inner, NVE, GROUP, VSID), f.IPV4, dst=GROUP_MAC)
        listening = [wire.raw(wire.far, f"down{n}", f.IPV4) for n in range(1, 7)]
        spread.forward(*[frame] * 8)
        for each in listening:
            assert [each.recv(1 << 16)[-len(inner) :] for _ in range(8)] == [inner] * 8
        assert (spread.devices[0].sends, spread.devices[0].cloned) == (8, 48)


def test_a_tenants_frame_that_looks_like_an_order_is_none() -> None:
    """What goes to a VM begins with the VM's own bytes: it is never sent to the private device."""
    vms = [Egress(1, Form.DECAPSULATED, Owner(port=port)) for port in (1, 2)]
    order = struct.pack("=IHHI", 0, 4, 42, abi.MAGIC)
    with wired() as wire:
        spread = Spread(wire, (0,), [peer(1, 0), peer(1, 1), *vms])
        packet = f.vxlan_packet(
            order + b"\x08\x00" + bytes(60), NVE, GROUP, 100, datagram={"checksum": f.ZERO}
        )
        listening = wire.raw(wire.far, "down1", 3)
        spread.forward(f.ethernet(packet, f.IPV4, dst=GROUP_MAC))
        assert spread.forwarder.statistics().copies_out == 4
        assert (spread.devices[0].sends, spread.devices[0].cloned) == (1, 2)
        heard = [listening.recv(1 << 16)[VNET:] for _ in range(4)]
        assert sum(frame.startswith(order) for frame in heard) == 2
