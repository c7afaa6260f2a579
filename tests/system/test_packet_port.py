"""The AF_PACKET port on veth pairs, opened and receiving: what only a live kernel does.

`tests/contract` holds what all ports do alike.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from ctrl.lab.namespaces import missing
from fastpath import Forwarder, MemoryPort
from fastpath.claims import Claims, socket_filter
from fastpath.io._packet import PacketIo
from fastpath.model import Egress, Faces, Form, Layout, Owner, Port, ReplicationList, Scope, group_key
from tests import frames as f
from tests.native._handed import descriptor, handed
from tests.system.consuming import wait_for
from tests.system.wires import (
    CLAIMS,
    FAR,
    GROUP,
    NEEDS_CSUM,
    NVE,
    OURS,
    SOL_UDP,
    TCP4,
    UDP_SEGMENT,
    UNSPLIT,
    VNI,
    Box,
    Wire,
    collect,
    tunnelled,
    wired,
)

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as made:
        yield made


def test_a_lone_frame_is_there_at_once(wire: Wire) -> None:
    """A ring of blocks keeps it for a millisecond at least (LIMITS trap 8)."""
    port = wire.port("nve")
    at_once = 0
    for number in range(20):
        wire.send(tunnelled(number))
        at_once += len(handed(port))
        wait_for(lambda: handed(port) or True, "the next turn")
    assert at_once > 0


def test_frames_come_in_whole_in_order_and_with_their_time(wire: Wire) -> None:
    port = wire.port("nve", ring_frames=64)
    frames = [tunnelled(number, 30 + 61 * number % 1300) for number in range(50)]
    for _ in range(5):  # around the ring
        wire.send(*frames)
        got = collect(port, 50, 7)
        assert [one[0] for one in got] == frames
        assert all(abs(one[3] - time.time_ns()) < 60e9 for one in got)
    assert port.ring_lost == 0


def test_frames_larger_than_a_slot_come_whole_and_in_their_place(wire: Wire) -> None:
    for namespace, device in ((wire.nve, "up"), (wire.box, "nve")):
        namespace.set_link(device, mtu=9000)
    port = wire.port("nve")
    frames = [tunnelled(number, (8000, 60, 1972, 2000, 40)[number % 5]) for number in range(200)]
    for at in range(0, 200, 40):
        wire.send(*frames[at : at + 40])
        assert [one[0] for one in collect(port, 40)] == frames[at : at + 40]
    more = [tunnelled(number, 8000) for number in range(200)]  # than a batch has room for
    wire.send(*more)
    assert [one[0] for one in collect(port, 200)] == more


def test_a_large_frame_that_the_socket_has_no_room_for_is_counted(wire: Wire) -> None:
    for namespace, device in ((wire.nve, "up"), (wire.box, "nve")):
        namespace.set_link(device, mtu=9000)
    port = wire.port("nve")
    with socket.socket(fileno=os.dup(descriptor(port))) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 40_000)
    frames = [tunnelled(number, 8000) for number in range(30)]
    wire.send(*frames, tunnelled(99))
    got: list[bytes] = []

    def last_is_in() -> bool:
        got.extend(one[0] for one in handed(port))
        return tunnelled(99) in got

    wait_for(last_is_in, "the frame behind them")
    assert got[:-1] == frames[: len(got) - 1]
    assert port.ring_lost == 31 - len(got) > 0


def test_a_priority_tag_is_kept_out_of_band(wire: Wire) -> None:
    """LIMITS trap 13."""
    port = wire.port("nve")
    bare = tunnelled()
    wire.send(bare[:12] + bytes.fromhex("8100 e000") + bare[12:])
    assert collect(port, 1)[0][:3] == (bare, (0, 0, 0), (0x8100, 0xE000))


def test_a_checksum_that_a_linux_socket_left_is_marked(wire: Wire) -> None:
    """LIMITS trap 12."""
    port = wire.port("nve")
    wire.udp(wire.nve).sendto(f.vxlan_header(VNI) + f.tenant(), (GROUP, f.VXLAN_PORT))
    assert collect(port, 1)[0][1] == (1, 34, 6)


@pytest.mark.parametrize("capacity", [256, 7])
@pytest.mark.parametrize("size", [60, 1400])
def test_a_train_of_a_linux_socket_comes_in_as_its_datagrams(wire: Wire, size: int, capacity: int) -> None:
    port = wire.port("nve")
    parts = [f.vxlan_header(VNI) + f.tenant(size=size, src=f"172.16.5.{n + 1}") for n in range(40)]
    parts[-1] = parts[-1][:-9]
    sender = wire.udp(wire.nve)
    sender.setsockopt(SOL_UDP, UDP_SEGMENT, len(parts[0]))
    sender.sendto(b"".join(parts), (GROUP, f.VXLAN_PORT))
    wire.send(tunnelled())
    got = collect(port, 41, capacity)
    assert [one[0][42:] for one in got[:-1]] == parts
    assert {one[1] for one in got[:-1]} == {(1, 34, 6)}
    assert [struct.unpack_from(">H", one[0], 16)[0] for one in got[:-1]] == [28 + len(part) for part in parts]
    assert got[-1][0] == tunnelled(), "what comes behind it stays behind it"


def test_a_train_larger_than_all_queues_is_not_lost_in_part(wire: Wire) -> None:
    """Small super-frames stand in the ring itself, many frames to a slot."""
    port = wire.port("nve", ring_frames=16)
    part = f.vxlan_header(VNI) + bytes(14)
    sender = wire.udp(wire.nve)
    sender.setsockopt(SOL_UDP, UDP_SEGMENT, len(part))
    for _ in range(12):
        sender.sendto(part * 60, (GROUP, f.VXLAN_PORT))
    assert len(collect(port, 12 * 60, 256)) == 720


def test_a_super_frame_of_a_kind_that_nobody_cuts_is_handed_over_once_and_marked(wire: Wire) -> None:
    """Its packet is fragmented, so nothing says where its transport header is."""
    port = wire.port("nve", program=None)
    payload = bytes(3000)
    segment = struct.pack(">HHIIBBHHH", 9, 9, 0, 0, 5 << 4, 16, 99, 0, 0) + payload
    routed = f.ipv6(segment, "fd00::1", "fd00::2", f.TCP, extensions=(f.extension(f.DESTINATION_OPTIONS),))
    header = struct.pack("=BBHHHH", NEEDS_CSUM, 4, 82, 1000, 62, 16)
    wire.raw(wire.nve, "up").send(header + f.wire(routed))
    frame, mark, _, _ = collect(port, 1)[0]
    assert mark[0] == UNSPLIT
    assert frame == f.wire(routed)[: len(frame)]


def test_a_vms_tcp_super_frame_is_cut_and_every_checksum_is_right(wire: Wire) -> None:
    """LIMITS trap 15: out of a Linux VXLAN device, whose own checksum is to be made too."""
    wire.nve.vxlan("vx", VNI, local=NVE, under="up", group=GROUP, vxlan_udp_csum=1)
    for offload in ("tx-udp-segmentation", "tx-checksum-ip-generic"):
        wire.box.feature("core", offload, False)
    box = Box(wire, FAR[:1])
    receiver = wire.raw(wire.far, "down", f.IPV4)
    payload = os.urandom(20_000)
    size = 1300
    head = struct.pack(">HHIIBBHHH", 40001, 443, 0xFFFFFF00, 7, 5 << 4, 0x18, 4096, 0, 0)
    pseudo = f.pseudo("172.16.5.9", "172.16.5.77", f.TCP, 20 + len(payload))
    head = head[:16] + (f.internet_checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big") + head[18:]
    inner = f.wire(f.ipv4(head + payload, "172.16.5.9", "172.16.5.77", f.TCP))
    inner = b"\xff" * 6 + inner[6:]
    wire.raw(wire.nve, "vx").send(struct.pack("=BBHHHH", NEEDS_CSUM, TCP4, 54, size, 34, 16) + inner)
    n_segments = -(-len(payload) // size)
    counted = box.forward(n_segments)
    assert counted.copies_out == n_segments
    got = [receiver.recv(1 << 16)[10:] for _ in range(n_segments)]
    assert b"".join(frame[104:] for frame in got) == payload
    for number, frame in enumerate(got):
        udp, ip, tcp = frame[34:], frame[64:84], frame[84:]
        assert udp[6:8] != bytes(2)
        assert f.internet_checksum(f.pseudo(OURS, FAR[0], f.UDP, len(udp)) + udp) == 0
        assert struct.unpack_from(">HH", ip, 2) == (len(frame) - 64, 0x4321 + number)
        assert f.internet_checksum(ip) == 0
        assert f.internet_checksum(f.pseudo("172.16.5.9", "172.16.5.77", f.TCP, len(tcp)) + tcp) == 0
        assert struct.unpack_from(">I", tcp, 4)[0] == (0xFFFFFF00 + number * size) & 0xFFFFFFFF
        assert tcp[13] == (0x18 if number == n_segments - 1 else 0x10)


def test_what_a_full_ring_loses_is_counted(wire: Wire) -> None:
    port = wire.port("nve", ring_frames=16)
    wire.send(*(tunnelled(number) for number in range(40)))
    assert wait_for(lambda: port.ring_lost, "losses") == 24
    assert [one[0] for one in collect(port, 16)] == [tunnelled(number) for number in range(16)]
    wire.send(tunnelled(99))
    assert collect(port, 1)[0][0] == tunnelled(99)
    assert port.ring_lost == 24


def test_foreign_traffic_never_enters(wire: Wire) -> None:
    port = wire.port("nve")
    tagged = tunnelled()[:12] + bytes.fromhex("8100 0007") + tunnelled()[12:]
    wire.send(tagged, tunnelled(dst="10.0.0.99"), f.arp(), f.wire(f.ip(bytes(20), NVE, OURS, f.TCP)))
    wire.send(tunnelled(1))
    assert [one[0] for one in collect(port, 1)] == [tunnelled(1)]


def test_the_filter_changes_between_two_frames(wire: Wire) -> None:
    port = wire.port("nve")
    wire.send(tunnelled(1), tunnelled(2, dst="10.0.0.99"))
    port.attach_filter(socket_filter(Claims((f.VXLAN_PORT,), (ip_address("10.0.0.99"),))))
    wire.send(tunnelled(3, dst=OURS), tunnelled(4, dst="10.0.0.99"))
    assert [one[0] for one in collect(port, 2)] == [tunnelled(1), tunnelled(4, dst="10.0.0.99")]
    with pytest.raises(OSError, match="Invalid argument"):
        port.attach_filter([(0xFFFF, 0, 0, 0)])


def test_what_leaves_does_not_come_in(wire: Wire) -> None:
    """LIMITS trap 14."""
    watching = wire.port("core", program=None)
    box = Box(wire)
    wire.send(tunnelled())
    assert box.forward(1).copies_out == 3
    ours = bytes.fromhex("02fa57000003")
    assert [one for one in handed(watching) if one[0][6:12] == ours] == []


def test_workers_share_the_flows_of_a_device(wire: Wire) -> None:
    ports = [wire.port("nve", fanout=0x1234) for _ in range(2)]
    sender = wire.nve.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
    frames = [
        f.wire(f.vxlan_packet(f.tenant(), NVE, GROUP, VNI, datagram={"sport": 0xC000 + n})) for n in range(63)
    ]
    with sender:
        sender.bind(("up", 0))
        for frame in frames * 2:
            sender.send(frame)
    got: list[list[bytes]] = [[], []]

    def all_in() -> bool:
        for place, port in enumerate(ports):
            got[place] += [one[0] for one in handed(port)]
        return sum(map(len, got)) == 126

    wait_for(all_in, "all frames, each at one worker")
    assert sorted(got[0] + got[1]) == sorted(frames * 2)
    assert got[0]
    assert got[1]
    assert not set(got[0]) & set(got[1]), "a flow stays with its worker"


def test_what_the_system_refuses_is_told_with_the_name_of_the_device(wire: Wire) -> None:
    with pytest.raises(OSError, match="no such interface: 'fp-absent'") as told:
        PacketIo("fp-absent")
    assert told.value.errno == errno.ENODEV
    with pytest.raises(ValueError, match="ring_frames 100: expected a power of two"):
        PacketIo("lo", ring_frames=100)
    with pytest.raises(ValueError, match="fanout 65536"):
        PacketIo("lo", fanout=65536)
    port = wire.port("nve")
    port.close()
    port.close()
    with pytest.raises(ValueError, match="nve: the port is closed"):
        port.attach_filter(None)


def test_without_the_capability_it_is_named() -> None:
    code = (
        "import os; from fastpath.io._packet import PacketIo\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "try: PacketIo('lo')\n"
        "except PermissionError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert "CAP_NET_RAW: 'lo'" in done.stdout


@pytest.mark.slow
def test_a_port_that_was_closed_leaves_no_descriptor_and_no_memory(wire: Wire) -> None:
    def opened(count: int) -> None:
        for _ in range(count):
            PacketIo("nve", ring_frames=16, all_multicast=True, program=socket_filter(CLAIMS)).close()

    def held() -> tuple[int, int]:
        gc.collect()
        return sum(1 for _ in Path("/proc/self/fd").iterdir()), resident()

    wire.box.run(opened, 20)
    before = held()
    wire.box.run(opened, 200)
    after = held()
    assert after[0] <= before[0]  # what tests before this one left may go meanwhile
    assert after[1] - before[1] < 16 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_port_that_can_receive_no_more_is_told_and_the_others_go_on(wire: Wire) -> None:
    """Here one that was closed; a deleted TAP says so, too."""
    closed, source = wire.port("core"), MemoryPort()
    closed.close()
    group = ip_address(GROUP)
    wanted = ReplicationList(group_key(Scope.DEVICE, group), (Egress(1, Form.GROUP, Owner(port=1)),))
    ports = tuple(Port(name, Faces.NVE, bytes(6), bytes(6)) for name in ("core", "memory", "in"))
    forwarder = Forwarder(Layout(ports), [closed, MemoryPort(), source], [wanted], sources=[closed, source])
    source.receive(tunnelled())
    forwarder.start()
    try:
        deadline = time.monotonic() + 10
        while not (forwarder.failures() and forwarder.statistics().received):
            assert time.monotonic() < deadline
    finally:
        forwarder.stop()
    assert forwarder.failures() == [(0, 0, errno.EBADF)]
    assert forwarder.statistics().copies_out == 1
