"""The AF_PACKET port on veth pairs, transmitting: trains and copies, and what the kernel refuses."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from ctrl.lab.namespaces import missing
from tests import frames as f
from tests.native._handed import descriptor, handed
from tests.system.wires import (
    FAR,
    GROUP,
    NVE,
    SOL_UDP,
    UDP_SEGMENT,
    VNI,
    Box,
    Wire,
    collect,
    took,
    tunnelled,
    wired,
)

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as made:
        yield made


def test_a_vxlan_device_hears_what_a_vxlan_device_says(wire: Wire) -> None:
    """Frame by frame, and in trains of the VM's own."""
    wire.nve.vxlan("vx", VNI, local=NVE, under="up", group=GROUP)
    wire.far.vxlan("vx", VNI, local=FAR[0])
    wire.nve.address("vx", "172.16.5.9/24")
    wire.far.address("vx", "172.16.5.77/24")
    box = Box(wire, FAR[:1])
    receiver = wire.udp(wire.far, "", 5004)
    sender = wire.udp(wire.nve, "172.16.5.9")
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    parts = [bytes((number,)) * 700 for number in range(30)]
    for part in parts[:3]:
        sender.sendto(part, ("172.16.5.255", 5004))
    sender.setsockopt(SOL_UDP, UDP_SEGMENT, 700)
    sender.sendto(b"".join(parts[3:]), ("172.16.5.255", 5004))
    counted = box.forward(30)
    assert counted.train_copies > 0
    assert took(receiver, 30) == parts
    assert box.drops() == {}


@pytest.mark.parametrize("segmentation", [True, False], ids=["device", "kernel"])
def test_trains_arrive_as_datagrams(wire: Wire, segmentation: bool) -> None:
    wire.box.feature("core", "tx-udp-segmentation", segmentation)
    box = Box(wire)
    receivers = [wire.udp(wire.far, address, f.VXLAN_PORT) for address in FAR]
    frames = [tunnelled(size=900) for _ in range(39)] + [tunnelled(size=17)]
    wire.send(*frames)
    counted = box.forward(40)
    assert counted.copies_out == 120
    assert counted.train_copies > 0
    for receiver in receivers:
        assert took(receiver, 40) == [frame[42:] for frame in frames]
    assert [(row.copies, row.dropped) for row in counted.egresses] == [(40, 0)] * 3
    assert {row.bytes for row in counted.egresses} == {sum(map(len, frames))}


def test_without_trains_copies_arrive_one_by_one(wire: Wire) -> None:
    box = Box(wire, trains=False)
    assert (box.core.transmits, box.core.why) == ("packet", "trains are turned off")
    receivers = [wire.udp(wire.far, address, f.VXLAN_PORT) for address in FAR]
    frames = [tunnelled(size=900 - number) for number in range(40)]
    wire.send(*frames)
    assert box.forward(40).train_copies == 0
    for receiver in receivers:
        assert took(receiver, 40) == [frame[42:] for frame in frames]


def test_a_kernel_that_refuses_trains_gets_copies_and_none_is_lost(wire: Wire) -> None:
    """A UDP socket stands in for it: told to cut in four bytes each, it refuses what is long with EINVAL."""
    box = Box(wire)
    receiver = wire.udp(wire.far, FAR[0], 4242)
    with wire.udp(wire.far) as refusing:
        refusing.connect((FAR[0], 4242))
        refusing.setsockopt(SOL_UDP, UDP_SEGMENT, 4)
        assert box.core.transmits == "trains"
        os.dup2(refusing.fileno(), descriptor(box.core))
        wire.send(*(tunnelled() for _ in range(20)))
        counted = box.forward(20)
    assert (counted.copies_out, counted.train_copies, counted.copies_dropped) == (60, 0, 0)
    assert {(row.copies, row.bytes) for row in counted.egresses} == {(20, 20 * len(tunnelled()))}
    assert (box.core.transmits, box.core.trains) == ("packet", False)
    assert box.core.why == f"the kernel refused a train: {os.strerror(errno.EINVAL)}"
    assert receiver.recv(100)


def test_an_interface_that_goes_down_costs_only_what_is_sent_meanwhile(wire: Wire) -> None:
    box = Box(wire)
    receiver = wire.udp(wire.far, FAR[0], f.VXLAN_PORT)
    wire.box.set_link("core", state="down")
    wire.send(*(tunnelled() for _ in range(9)), tunnelled(1))
    assert box.forward(10).copies_out == 0
    assert box.drops() == {"link_down": 30}
    wire.box.set_link("core", state="up")
    wire.send(*(tunnelled() for _ in range(9)), tunnelled(1))
    assert box.forward(20).copies_out == 30
    assert len(took(receiver, 10)) == 10
    assert box.drops() == {"link_down": 30}


def test_reception_goes_on_after_an_interface_was_down(wire: Wire) -> None:
    port = wire.port("nve")
    wire.send(tunnelled(1))
    wire.box.set_link("nve", state="down")
    assert [one[0] for one in collect(port, 1)] == [tunnelled(1)]
    wire.box.set_link("nve", state="up")
    wire.send(tunnelled(2))
    assert [one[0] for one in collect(port, 1)] == [tunnelled(2)]


def test_an_interface_that_is_gone_is_silent_and_its_copies_are_counted(wire: Wire) -> None:
    box = Box(wire)
    wire.box.delete_link("core")
    wire.send(*(tunnelled() for _ in range(4)))
    assert box.forward(4).copies_out == 0
    assert box.drops() == {"link_down": 12}
    assert handed(box.core) == []


@pytest.mark.parametrize("trains", [True, False])
def test_what_a_full_queue_refuses_is_counted(wire: Wire, trains: bool) -> None:
    """LIMITS trap 10."""
    wire.box.command(
        "tc",
        "qdisc",
        "add",
        "dev",
        "core",
        "root",
        *["tbf", "rate", "100bit", "burst", "2000", "limit", "3000"],
    )
    box = Box(wire, trains=trains)
    wire.send(*(tunnelled() for _ in range(50)))
    counted = box.forward(50)
    assert counted.copies_dropped > 0
    assert box.drops() == {"port_refused": counted.copies_dropped}


def test_a_copy_that_the_kernel_finds_too_long_is_counted_by_name(wire: Wire) -> None:
    box = Box(wire)
    wire.box.set_link("core", mtu=1000)
    wire.send(tunnelled(size=1200), tunnelled(1, size=400))
    assert box.forward(2).copies_out == 3
    assert box.drops() == {"over_mtu": 3}
