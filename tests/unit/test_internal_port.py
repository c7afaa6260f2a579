"""The internal pair: what one port sends the other receives, without a kernel between, in bounded memory."""

from __future__ import annotations

import errno
import select
from contextlib import suppress
from pathlib import Path

import pytest

from fastpath.forwarder import Forwarder
from fastpath.model import Encap, Endpoint, Faces, Layout, ReplicationList, Scope
from fastpath.ports import InternalPort, MemoryPort
from fastpath.punts import Punts
from tests import frames as f
from tests.cases import box as b
from tests.cases import made as m
from tests.unit.test_forwarder import GROUP_FRAME, drops
from tests.unit.test_workers import eventually, working

VM, UPLINK, DEVICE, NVES, CORE = range(5)
NVE_ADDRESS = "10.1.1.77"
LAYOUT = Layout(
    (
        b.make_port(VM, Faces.VM, network="blue"),
        b.make_port(UPLINK, Faces.CORE),
        b.make_port(DEVICE, Faces.NVE),
        b.make_port(NVES, Faces.NVE),
        b.make_port(CORE, Faces.CORE),
    ),
    endpoints=(Endpoint(b.addr(NVE_ADDRESS), Scope.NVE), Endpoint(b.addr(b.OWN), Scope.DEVICE)),
    networks=(b.BLUE,),
)
LISTS: tuple[ReplicationList, ...] = (
    b.of_number(
        b.NVE,
        b.VNI,
        b.at_vm(VM),
        remote=(b.at_nve(UPLINK, b.GROUP, source=b.addr(NVE_ADDRESS), encap=Encap.VXLAN),),
    ),
    b.of_group(b.at_port(DEVICE), b.at_port(NVES), remote=(b.at_peer(CORE, b.PEER),)),
)
"""One box: an NVE whose uplink is the device's port."""
REPORT = f.wire(f.igmp(NVE_ADDRESS, "224.0.0.22"))


class OneBox:
    def __init__(self, room_frames: int = 1024, punts: Punts | None = None) -> None:
        self.uplink, self.device = InternalPort.pair(room_frames)
        self.vm, self.nves, self.core = MemoryPort(), MemoryPort(), MemoryPort()
        ports = [self.vm, self.uplink, self.device, self.nves, self.core]
        self.forwarder = Forwarder(LAYOUT, ports, LISTS, punts=punts)


def test_a_frame_of_a_vm_crosses_the_box_and_leaves_once_by_each_way():
    """N11: the NVE's one copy is the device's frame, and the box's own NVE gets none back."""
    box = OneBox()
    box.vm.receive(m.TENANT)
    box.forwarder.run()
    (local,), (remote,) = box.nves.take(), box.core.take()
    assert m.TENANT in local
    assert m.TENANT in remote
    assert box.vm.take() == []
    counted = box.forwarder.statistics()
    assert (counted.received, counted.replicated, counted.copies_out) == (2, 2, 3)


def test_a_frame_from_the_device_reaches_the_vm_and_nobody_twice():
    box = OneBox()
    box.nves.receive(m.from_nve(m.TENANT))
    box.forwarder.run()
    assert box.vm.take() == [m.TENANT]
    assert len(box.core.take()) == 1
    assert box.nves.take() == []


def test_a_worker_carries_frames_across_without_being_woken_for_them():
    """They come in within the burst that followed, though nothing can be waited for."""
    n = 3000
    box = OneBox(8192)
    box.vm.receive(*[m.TENANT] * n)
    with working(box.forwarder):
        eventually(lambda: box.forwarder.statistics().copies_out == 3 * n)
    assert box.forwarder.statistics().received == 2 * n


def test_what_control_sends_wakes_a_sleeping_worker_every_time():
    box = OneBox(punts=Punts())
    got: list[bytes] = []

    def heard() -> bool:
        got.extend(data for _, _, data, _ in box.forwarder.read_punted())
        return len(got) > 0

    with working(box.forwarder):
        for _ in range(200):
            got.clear()
            box.uplink.send(REPORT)
            eventually(heard)
            assert got == [REPORT]


def test_what_has_come_in_rings_no_more():
    """Else the worker would never sleep again."""
    before = event_files()
    uplink, device = InternalPort.pair(64)
    bells = select.poll()
    for bell in event_files() - before:
        bells.register(bell, select.POLLIN)
    forwarder = Forwarder(Layout(LAYOUT.ports[:2]), [uplink, device])
    uplink.send(REPORT)
    assert len(bells.poll(0)) == 1
    device.send(REPORT)
    assert len(bells.poll(0)) == 2
    assert forwarder.run() == 2
    assert bells.poll(0) == []


def event_files() -> set[int]:
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the look itself
            if str(path.readlink()) == "anon_inode:[eventfd]":
                found.add(int(path.name))
    return found


def test_copies_without_room_are_counted_and_the_others_cross_in_order():
    box = OneBox(64)
    tenants = [f.tenant(size=1400, sport=1024 + i) for i in range(200)]
    box.vm.receive(*tenants)
    box.forwarder.run()
    counted = box.forwarder.statistics()
    lost = drops(counted)["port_refused"]
    assert 0 < lost < 200
    assert counted.received == 200 + 200 - lost
    copies = box.nves.take()
    assert [data[50:] for data in copies] == tenants[: len(copies)]
    assert len(copies) == 200 - lost


def test_whoever_floods_finds_the_pair_emptied_before_more_comes_in():
    """Were what has crossed left to wait, those who send little would lose with them."""
    box, n = OneBox(64), 3000
    floods = [MemoryPort() for _ in range(3)]
    ports = [box.vm, box.uplink, box.device, box.nves, box.core]
    forwarder = Forwarder(LAYOUT, ports, LISTS, sources=[*floods, box.device], batch=64)
    for flood in floods:
        flood.index = VM
        flood.receive(*[m.TENANT] * n)
    with working(forwarder):
        eventually(lambda: forwarder.statistics().received == 2 * 3 * n)
    assert drops(forwarder.statistics()) == {}
    assert len(box.core.take()) == 3 * n


def test_frames_of_all_sizes_cross_as_they_were_however_often_the_room_is_used_anew():
    box = OneBox(64, punts=Punts())
    sizes = [64, 9000, 1500, 40_000, 65_000, 100]
    for n in range(60):
        frames = [REPORT + bytes([n]) * (size - len(REPORT)) for size in (sizes[n % 6], sizes[n * 5 % 6])]
        for data in frames:
            box.uplink.send(data)
        box.forwarder.run()
        assert [data for _, _, data, _ in box.forwarder.read_punted()] == frames


def test_control_is_told_what_cannot_be_sent():
    box = OneBox()
    with pytest.raises(OSError, match="too long") as told:
        box.uplink.send(bytes(1 << 17))
    assert told.value.errno == errno.EMSGSIZE
    with pytest.raises(OSError, match="No buffer space") as told:
        fill(box.uplink)
    assert told.value.errno == errno.ENOBUFS
    box.device.close()
    with pytest.raises(OSError, match="closed"):
        box.uplink.send(REPORT)


def fill(port: InternalPort) -> None:
    for _ in range(1 << 12):
        port.send(GROUP_FRAME)


@pytest.mark.parametrize("room", [0, 63, 100, 1 << 21])
def test_room_is_a_power_of_two_within_bounds(room: int):
    with pytest.raises(ValueError, match=f"room_frames {room}: expected a power of two, 64 to"):
        InternalPort.pair(room)
