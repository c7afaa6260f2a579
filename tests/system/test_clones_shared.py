"""What ports that share a private device, or do not, send together."""

from __future__ import annotations

import struct

import pytest

from ctrl.lab.namespaces import missing
from fastpath import bpf
from fastpath.io import _clones as abi
from fastpath.model import Egress, Form, Owner, ReplicationList
from tests import frames as f
from tests.system.fan import GROUP_MAC, VNET, vm_frame
from tests.system.spread import Spread, list_of, peer
from tests.system.wires import GROUP, NVE, wired

WHY_NOT = missing() or bpf.available()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
VSID = 0x5000


def so_many(*receivers: int) -> ReplicationList:
    """That many behind the first port, the second, ..."""
    return list_of(
        *(peer(at, f"10.8.{at}.{n + 1}") for at, many in enumerate(receivers, 1) for n in range(many))
    )


@pytest.mark.parametrize("whole", [0, 1], ids=["first", "second"])
def test_one_message_makes_no_more_than_a_receivers_backlog_holds_whatever_its_ports_segment(
    whole: int,
) -> None:
    """Trains of a port that segments and the datagrams of one that does not wait in the same queue."""
    with wired() as wire:
        spread = Spread(wire, 2, so_many(131, 125) if whole == 0 else so_many(125, 131))
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
        spread = Spread(wire, 4, so_many(3, 3, 3, 3), n_devices=2)
        for first in (0, 10):
            spread.forward(*(vm_frame(number, NVE) for number in range(first, first + 5)))
            assert spread.each_got(range(first, first + 5))
        assert spread.forwarder.statistics().copies_out == 2 * 5 * 12
        assert [device.cloned > 0 for device in spread.devices] == [True, True]


def test_frames_of_one_flow_that_ride_in_no_train_are_cloned_for_all_ports_at_once() -> None:
    with wired() as wire:
        spread = Spread(wire, 6, so_many(*(1,) * 6))
        spread.nve.attach_filter(None)
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
        spread = Spread(wire, 1, list_of(peer(1, "10.8.1.1"), peer(1, "10.8.1.2"), *vms))
        packet = f.vxlan_packet(
            order + b"\x08\x00" + bytes(60), NVE, GROUP, 100, datagram={"checksum": f.ZERO}
        )
        listening = wire.raw(wire.far, "down1", 3)
        spread.forward(f.ethernet(packet, f.IPV4, dst=GROUP_MAC))
        assert spread.forwarder.statistics().copies_out == 4
        assert (spread.devices[0].sends, spread.devices[0].cloned) == (1, 2)
        heard = [listening.recv(1 << 16)[VNET:] for _ in range(4)]
        assert sum(frame.startswith(order) for frame in heard) == 2
