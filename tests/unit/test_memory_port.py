"""The memory port: frames in from Python, copies out into fixed room, trains as they were handed over."""

from __future__ import annotations

import pytest

from fastpath.forwarder import Forwarder
from fastpath.model import Egress, Frame, Mark
from fastpath.ports import AbsentPort, MemoryPort, cut_train
from tests import frames as f
from tests.cases import box as b
from tests.cases import made as m

FRAME = f.wire(f.vxlan_packet(m.TENANT, b.VTEP, b.GROUP, b.VNI))
RECORD = 24
"""Bytes of an arena that go to the head of a record."""


def forward(frames: list[Frame | bytes], out: MemoryPort, *egresses: Egress) -> Forwarder:
    """Forward frames from P1 to P0, or to the egresses of a list, all by `out`."""
    source = MemoryPort(1 << 10)
    ports = [out] * len(b.PORTS)
    forwarder = Forwarder(b.BOX, ports, b.of_only(*(egresses or (b.at_port(b.P0),))), sources=[source])
    source.index = b.P1
    source.receive(*frames)
    forwarder.run()
    return forwarder


def test_frames_come_in_as_they_were_pushed_and_leave_in_order():
    tenants = [f.tenant(size=n) for n in (0, 1, 500, 3, 1400)]
    frames = [f.wire(f.vxlan_packet(one, b.VTEP, b.GROUP, b.VNI)) for one in tenants]
    out = MemoryPort()
    forward([*frames], out)
    assert [data[14:] for data in out.take()] == [data[14:] for data in frames]


def test_what_was_taken_is_gone():
    out = MemoryPort()
    forward([FRAME] * 3, out)
    used = out.bytes_used
    assert used >= 3 * len(FRAME)
    assert len(out.take()) == 3
    assert (out.bytes_used, out.take(), out.records()) == (0, [], [])


def test_a_port_takes_copies_until_its_room_is_used_up():
    sizes = set()
    for room in range(0, 6 * (len(FRAME) + RECORD), 40):
        out = MemoryPort(room)
        counted = forward([FRAME] * 10, out).statistics()
        assert out.bytes_used <= room
        copies = out.take()
        assert counted.copies_out == len(copies) == 10 - counted.copies_dropped
        assert {data[14:] for data in copies} <= {FRAME[14:]}
        sizes.add(len(copies))
    assert {0, 1, 2, 3, 4} <= sizes


def test_a_port_that_overwrites_refuses_nothing_that_fits_at_all():
    out = MemoryPort(1000, overwrite=True)
    counted = forward([FRAME] * 50, out).statistics()
    assert (counted.copies_out, counted.copies_dropped) == (50, 0)
    kept = out.take()
    assert 0 < len(kept) < 7
    assert {data[14:] for data in kept} == {FRAME[14:]}
    small = MemoryPort(len(FRAME), overwrite=True)
    assert forward([FRAME], small).statistics().copies_dropped == 1


@pytest.mark.parametrize("room", range(0, 4000, 250))
def test_a_train_is_taken_whole_or_not_at_all(room):
    out = MemoryPort(room, trains=True)
    counted = forward([FRAME] * 10, out, b.at_port(b.P0), b.at_nve(b.P0, "10.1.1.3")).statistics()
    copies = out.take()
    assert len(copies) == counted.copies_out in (0, 20)
    assert counted.copies_out + counted.copies_dropped == 20


def test_frames_come_in_again_after_a_rewind():
    port, out = MemoryPort(), MemoryPort()
    forwarder = Forwarder(b.BOX, [out] * len(b.PORTS), b.of_only(b.at_port(b.P0)), sources=[port])
    port.index = b.P1
    port.receive(FRAME, FRAME)
    assert [forwarder.run(), forwarder.run()] == [2, 0]
    port.rewind()
    assert forwarder.run() == 2
    assert len(out.take()) == 4


def test_frames_that_wait_survive_a_clear():
    port = MemoryPort()
    forwarder = Forwarder(b.BOX, [port] * len(b.PORTS), b.of_only(b.at_port(b.P0)), sources=[port], batch=1)
    port.index = b.P1
    port.receive(FRAME, FRAME)
    port.clear()
    forwarder.run(1)
    port.clear()
    assert forwarder.run() == 1


def test_a_frame_has_at_most_262144_bytes():
    port = MemoryPort(1 << 10)
    port.receive(bytes(1 << 18))
    with pytest.raises(ValueError, match="a frame of 262145 bytes; expected at most 262144"):
        port.receive(bytes((1 << 18) + 1))


@pytest.mark.parametrize("mark", [(-1, 6), (65536, 6), (34, -1), (34, 65536)])
def test_a_mark_that_no_port_could_give_is_refused(mark):
    with pytest.raises(OverflowError):
        MemoryPort(1 << 10).receive(Frame(FRAME, Mark(*mark)))


def test_many_frames_wait_in_order():
    out, sizes = MemoryPort(), [i * 37 % 1200 for i in range(3000)]
    forward([f.wire(f.vxlan_packet(f.tenant(size=n), b.VTEP, b.GROUP, b.VNI)) for n in sizes], out)
    head = len(FRAME) - len(m.TENANT) + len(f.tenant(size=0))
    assert [len(data) - head for data in out.take()] == sizes


def test_a_train_is_cut_into_datagrams_with_everything_finished():
    """UDP segmentation offload: lengths, identifications, both checksums; the last segment may be shorter."""
    packet = f.ipv4(f.udp(b"", b.VTEP, b.GROUP, checksum=0xBEEF), b.VTEP, b.GROUP, f.UDP, ident=0xFFFF)
    first, second, third = cut_train(f.wire(packet), b"abcdefgh", 3)
    for data, body, number in ((first, b"abc", 0xFFFF), (second, b"def", 0), (third, b"gh", 1)):
        datagram = f.udp(body, b.VTEP, b.GROUP, checksum=f.RIGHT)
        assert data == f.wire(f.ipv4(datagram, b.VTEP, b.GROUP, f.UDP, ident=number))


def test_a_train_over_ipv6_is_cut_as_well():
    packet = f.ipv6(f.udp(b"", b.VTEP6, b.GROUP6), b.VTEP6, b.GROUP6, f.UDP)
    whole, rest = cut_train(f.wire(packet), bytes(100), 60)
    for data, size in ((whole, 60), (rest, 40)):
        datagram = f.udp(bytes(size), b.VTEP6, b.GROUP6, checksum=f.RIGHT)
        assert data == f.wire(f.ipv6(datagram, b.VTEP6, b.GROUP6, f.UDP))


def test_a_frame_of_our_own_stands_among_the_copies():
    port = MemoryPort(capacity=400)
    port.send(FRAME)
    with pytest.raises(OSError, match="No buffer space"):
        port.send(bytes(400))
    port.send(b"")
    assert port.take() == [FRAME, b""]


def test_an_absent_port_sends_nothing():
    with pytest.raises(OSError, match="Network is down"):
        AbsentPort().send(FRAME)
