"""Ports with VMs behind them: all frames come in with their tags in place, the kernel sees none, and a TAP is
followed to where its VM lives.

The VM is whoever has the far end of a veth, or the interface of a TAP, in a namespace of its own.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from ctrl.config import parse
from ctrl.consume import Consumer
from ctrl.daemon.ports import open_port
from ctrl.daemon.portset import PortSet
from ctrl.lab.namespaces import missing
from ctrl.netlink import Link, View
from fastpath.claims import Claims
from fastpath.io._packet import PacketIo
from fastpath.io._tap import TapIo
from tests import frames as f
from tests import taps
from tests.native._handed import handed
from tests.system.consuming import wait_for
from tests.system.nves import move
from tests.system.wires import NEEDS_CSUM, TCP4, Wire, collect, wired

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
VM_MAC = bytes.fromhex("02d000000001")
ARP, EXPERIMENT = 0x0806, 0x88B5
TAGS = {
    "customer": bytes.fromhex("8100 e123"),
    "priority": bytes.fromhex("8100 a000"),
    "provider": bytes.fromhex("88a8 0042 8100 0001"),
}


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with wired() as made:
        yield made


@pytest.fixture
def port(wire: Wire) -> Iterator[PacketIo]:
    made = wire.box.run(lambda: PacketIo("nve", vms=True))
    yield made
    made.close()


def said(number: int, size: int = 60, tags: bytes = b"", to: bytes = b"\xff" * 6) -> bytes:
    """Make a frame of a VM of no protocol that the kernel knows."""
    return to + VM_MAC + tags + struct.pack(">HI", EXPERIMENT, number) + bytes(size - 18)


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_a_vm_s_frames_come_in_with_their_tags_in_place(wire: Wire, port: PacketIo, tags: bytes) -> None:
    """The kernel takes the outermost out of the frame (LIMITS trap 13)."""
    frames = [said(n, size, tags) for n, size in enumerate((60, 1400, 61))]
    wire.send(*frames)
    assert [one[:3] for one in collect(port, 3)] == [(data, (0, 0, 0), (0, 0)) for data in frames]


def test_frames_to_any_address_come_in(wire: Wire, port: PacketIo) -> None:
    frames = [
        said(n, to=to) for n, to in enumerate((b"\2\xd0\0\0\0\x99", b"\1\0\x5e\1\2\3", b"\x33\x33" * 3))
    ]
    wire.send(*frames)
    assert [one[0] for one in collect(port, 3)] == frames


def test_a_large_tagged_frame_comes_whole(wire: Wire) -> None:
    for namespace, device in ((wire.nve, "up"), (wire.box, "nve")):
        namespace.set_link(device, mtu=9000)
    port = wire.box.run(lambda: PacketIo("nve", vms=True))
    frames = [said(n, 8000, TAGS["customer"]) for n in range(150)]  # more than a batch has room for
    wire.send(*frames[:75])
    got = collect(port, 75)
    wire.send(*frames[75:])
    assert [one[0] for one in got + collect(port, 75)] == frames
    port.close()


@pytest.mark.parametrize("tags", [b"", TAGS["customer"]], ids=["untagged", "tagged"])
def test_a_super_frame_of_a_vm_is_cut_and_each_frame_has_its_tag(
    wire: Wire, port: PacketIo, tags: bytes
) -> None:
    """The sum that the VM left open is marked in each, behind the tag."""
    payload = bytes(range(250)) * 10
    tcp = struct.pack(">HHIIBBHHH", 4000, 80, 1, 1, 0x50, 0x10, 512, 0, 0) + payload
    packet = f.ip(tcp, "172.16.5.9", "172.16.5.10", 6)
    data = b"\2\xd0\0\0\0\x99" + VM_MAC + tags + b"\x08\0" + packet
    start = len(data) - len(tcp)
    header = struct.pack("=BBHHHH", NEEDS_CSUM, TCP4, start + 20, 1000, start, 16)
    sender = wire.raw(wire.nve, "up")
    sender.send(header + data)
    got = collect(port, 3)
    assert [one[1] for one in got] == [(1, start, 16)] * 3
    assert [one[2] for one in got] == [(0, 0)] * 3
    assert b"".join(one[0][start + 20 :] for one in got) == payload
    assert {one[0][: 14 + len(tags)] for one in got} == {data[: 14 + len(tags)]}


def test_the_kernel_s_stack_gets_nothing_of_a_vm(wire: Wire) -> None:
    """Neither what an NVE claims nor anything else: who asks for the box's own address gets no answer."""
    wire.box.address("nve", "10.1.0.1/24")
    asks = wire.raw(wire.nve, "up", ARP)
    question = b"\xff" * 6 + VM_MAC + f.arp("10.1.0.9", "10.1.0.1")[12:]

    def is_answered(within_s: float) -> bool:
        while select.select([asks], [], [], 0)[0]:
            asks.recv(2048)
        asks.send(bytes(10) + question)
        return bool(select.select([asks], [], [], within_s)[0])

    wait_for(lambda: is_answered(0.2), "the kernel answers")
    consumer = wire.box.run(Consumer, "nve", None)
    try:
        assert not is_answered(0.2)
        assert consumer.dropped > 0
        consumer.update(Claims((4789,), ()))
        assert is_answered(2)
    finally:
        consumer.close()


@pytest.mark.parametrize("kind", ["packet", "xdp"])
def test_a_vm_s_port_takes_everything_whatever_is_claimed_elsewhere(wire: Wire, kind: str) -> None:
    """An XDP program takes what is claimed alone, so a VM's port has none."""
    reading = parse(CONFIG.replace('kind = "tap"', f'kind = "{kind}"').replace("tap1", "nve"))
    assert reading.config, reading.findings
    claims = Claims((4789,), (ip_address("10.0.0.1"),))
    opened = wire.box.run(open_port, reading.config.ports[0], reading.config, claims)
    try:
        for _ in range(2):
            wire.send(said(1, tags=TAGS["customer"]), said(2))
            assert [one[0] for one in collect(opened.packets[0], 2)] == [
                said(1, tags=TAGS["customer"]),
                said(2),
            ]
            wire.box.run(opened.claim, Claims((4790,), ()))
        assert opened.consumer
        assert opened.consumer.dropped == 4
        assert ("XDP" in opened.why) == (kind == "xdp")
    finally:
        wire.box.run(opened.close)


@pytest.fixture
def tap_lab() -> Iterator[taps.TapLab]:
    if reason := taps.why_not():
        pytest.skip(reason)
    with taps.TapLab() as lab:
        yield lab


def test_a_tap_goes_on_where_its_vm_has_it_and_tells_what_becomes_of_it(
    tap_lab: taps.TapLab, wire: Wire
) -> None:
    host, vm = tap_lab.bare("host"), tap_lab.bare("guest")
    port = host.run(TapIo, "tap0")
    assert port.state == "up"
    move("tap0", host, vm)
    assert port.state == "down"
    vm.set_link("tap0", state="up")
    assert port.state == "up"
    guest = wire.raw(vm, "tap0", EXPERIMENT)
    guest.send(bytes(10) + said(7, tags=TAGS["customer"]))
    assert handed(port)[0][0] == said(7, tags=TAGS["customer"])
    port.send(said(8))
    assert guest.recv(2048)[10:] == said(8)
    guest.close()
    vm.set_link("tap0", state="down")
    assert port.state == "down"
    vm.delete_link("tap0")
    assert port.state == "gone"
    port.close()
    assert port.state == "gone"


CONFIG = """
[[port]]
name = "vm1"
device = "tap1"
kind = "tap"
faces = "vm"
network = "blue"
[[port]]
name = "up"
kind = "internal"
peer = "down"
faces = "core"
[[port]]
name = "down"
kind = "internal"
peer = "up"
faces = "nve"
[[network]]
name = "blue"
vni = 100
group = "239.1.1.100"
[nve]
address = "10.1.1.2"
[device]
address = "10.0.0.1"
"""


def test_a_port_s_link_is_that_of_its_vm_and_it_is_made_anew_when_that_ends(tap_lab: taps.TapLab) -> None:
    """Nobody tells: the interface is in another namespace, then nowhere."""
    reading = parse(CONFIG)
    assert reading.config, reading.findings
    config = reading.config
    host, vm = tap_lab.bare("host"), tap_lab.bare("guest")
    ports = PortSet(Claims((4789,), ()))

    def turned() -> Link | None:
        """Return what became of it, which nobody told."""
        assert ports.turned(View()) is True
        ports.applied(ports.seen(View()))
        assert ports.turned(View()) is False
        return ports.seen(View()).links.get("tap1")

    try:
        host.run(ports.open_all, config)
        assert ports.seen(View()).links["up"].is_up
        move("tap1", host, vm)
        assert turned() == Link("tap1", ports["vm1"].index, bytes(6), 0, is_up=False)
        vm.set_link("tap1", state="up")
        assert turned() == Link("tap1", ports["vm1"].index, bytes(6), 0, is_up=True)
        assert host.run(ports.open_appeared, config) == {}
        vm.delete_link("tap1")
        assert turned() is None
        fresh = host.run(ports.open_appeared, config)
        assert list(fresh) == ["vm1"]
        for old in ports.take(config, fresh):
            old.close()
        assert host.index("tap1") == ports["vm1"].index
        assert not ports["vm1"].is_absent
    finally:
        ports.close()


def test_the_ends_of_a_pair_are_opened_exchanged_and_closed_together() -> None:
    reading = parse(CONFIG.replace('kind = "tap"', 'kind = "memory"'))
    assert reading.config, reading.findings
    config = reading.config.model_copy(update={"ports": reading.config.ports[1:]})
    ports = PortSet(Claims((4789,), ()))
    ports.open_all(config)
    up, down = ports["up"].carriers[0], ports["down"].carriers[0]
    up.send(said(1))
    assert handed(down)[0][0] == said(1)
    assert ports.open_changed(config, ports.claims) == {}
    other = tuple(
        table.model_copy(update={"faces": ("nve", "core")}) if table.name == "down" else table
        for table in config.ports
    )
    changed = config.model_copy(update={"ports": other})
    fresh = ports.open_changed(changed, ports.claims)
    assert set(fresh) == {"up", "down"}
    assert {port.table.name for port in ports.take(changed, fresh)} == {"up", "down"}
    ports["down"].carriers[0].send(said(2))
    assert handed(ports["up"].carriers[0])[0][0] == said(2)
    ports.close()
