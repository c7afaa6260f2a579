"""The xdp port on live interfaces, sending: exactly once, in order, and every refusal counted by its name."""

from __future__ import annotations

import fcntl
import gc
import os
import select
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ctrl.lab.namespaces import Lab, Namespace, connect, missing
from fastpath.forwarder import Forwarder
from fastpath.model import Egress
from fastpath.ports import MemoryPort, PacketPort, XdpPort
from fastpath.statistics import Statistics
from tests import frames as f
from tests.cases import box as b
from tests.system.consuming import wait_for

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

SO_RCVBUFFORCE, PACKET_IGNORE_OUTGOING, SOL_PACKET, ETH_P_IP = 33, 23, 263, 0x0800
IFF_RUNNING = 0x40
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
PATIENCE_S = 5.0
SIZES = (100, 3000, 6000, 200, 8000, 50)
NUMBER = slice(-4, None)
"""Where a numbered frame has its number, and its copies have it too."""


def numbered(number: int, size: int = 37) -> bytes:
    """A frame of an NVE, all of them of one flow."""
    inner = bytearray(f.tenant(size=size))
    inner[NUMBER] = number.to_bytes(4, "big")
    return f.wire(f.vxlan_packet(bytes(inner), b.VTEP, b.GROUP, b.VNI))


def to_nves(n: int) -> list[Egress]:
    return [b.at_nve(b.P0, f"10.1.1.{i}") for i in range(100, 100 + n)]


class Wire:
    """A silent namespace with the veth near-far, which cuts trains itself; the port is on near."""

    def __init__(self, stack: ExitStack, lab: Lab, mtu: int = 1500) -> None:
        self.namespace = lab.namespace("wire")
        self.stack = stack
        self.namespace.sysctl("net/ipv6/conf/default/disable_ipv6", 1)
        connect(self.namespace, "near", self.namespace, "far", mtu=mtu)
        for name in ("tx-udp-segmentation", "tx-checksum-ip-generic"):
            self.namespace.feature("near", name, False)
        self.socket = self.namespace.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        stack.callback(self.socket.close)
        self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        self.socket.bind(("far", ETH_P_IP))
        self.socket.setblocking(False)
        self.packet = self.namespace.run(PacketPort, "near")
        stack.callback(self.packet.close)

    def open(self, **options: Any) -> XdpPort:
        port: XdpPort = self.namespace.run(lambda: XdpPort(self.packet, "near", **options))
        self.stack.callback(port.close)
        return port

    def arrived(self, n: int) -> list[bytes]:
        """What came to the far end: `n` frames, or what there is when patience ends, and any more."""
        out: list[bytes] = []
        while select.select([self.socket], [], [], PATIENCE_S if len(out) < n else 0)[0]:
            out.append(self.socket.recv(1 << 16))
        return out


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Lab("xdp") as lab, ExitStack() as stack:
        yield Wire(stack, lab)


class Sending:
    """A forwarder that sends all its copies by one port."""

    def __init__(self, port: XdpPort, egresses: list[Egress], trains: bool = False) -> None:
        self.source = MemoryPort(1 << 10)
        lists = b.of_only(*egresses)
        self.forwarder = Forwarder(b.BOX, [port] * len(b.PORTS), lists, sources=[self.source], trains=trains)
        self.source.index = b.P1

    def send(self, *frames: bytes) -> Statistics:
        self.source.receive(*frames)
        self.forwarder.run()
        return self.forwarder.statistics()


def drops(counted: Statistics) -> dict[str, int]:
    return {row.reason.name: row.count for row in counted.drops}


def books(counted: Statistics) -> int:
    """Copies that the egresses say they sent; the same as those of the port."""
    copies = sum(row.copies for row in counted.egresses)
    assert copies == counted.copies_out
    assert counted.received * len(counted.egresses) == copies + sum(row.dropped for row in counted.egresses)
    return copies


def numbers(frames: list[bytes]) -> dict[bytes, list[int]]:
    """The numbers that came to each IPv4 destination, in order."""
    out: dict[bytes, list[int]] = {}
    for frame in frames:
        out.setdefault(frame[30:34], []).append(int.from_bytes(frame[NUMBER], "big"))
    return out


def test_a_flow_that_leaves_in_trains_and_singly_by_turns_stays_in_order(wire):
    sending = Sending(wire.open(), to_nves(5), trains=True)
    sizes = [40, 40, 40, 50, 60, 70, 70, 70, 70, 30, 90, 20, 100, 110]
    n = 20 * len(sizes)
    for at in range(0, n, len(sizes)):
        sending.send(*(numbered(at + i, size) for i, size in enumerate(sizes)))
    counted = sending.send()
    assert 0 < counted.train_copies < counted.copies_out == 5 * n
    came = numbers(wire.arrived(5 * n))
    assert len(came) == 5
    assert all(row == list(range(n)) for row in came.values())


def test_many_more_copies_than_chunks_leave_exactly_once(wire):
    sending = Sending(wire.open(frames=64), to_nves(50))
    for at in range(0, 1000, 100):
        sending.send(*(numbered(at + i) for i in range(100)))
        came = numbers(wire.arrived(100 * 50))
        assert all(row == list(range(at, at + 100)) for row in came.values())
        assert len(came) == 50
    counted = sending.send()
    assert books(counted) == 50_000
    assert not counted.drops


def test_copies_too_large_for_a_chunk_leave_in_order_by_the_packet_port():
    with Lab("xdp") as lab, ExitStack() as stack:
        wire = Wire(stack, lab, mtu=9000)
        sending = Sending(wire.open(), to_nves(40))
        counted = sending.send(*(numbered(i, size) for i, size in enumerate(SIZES)))
        came = wire.arrived(6 * 40)
    assert books(counted) == 6 * 40
    assert all(row == list(range(6)) for row in numbers(came).values())
    assert Counter(len(frame) for frame in came).keys() == {14 + 20 + 8 + 8 + 42 + size for size in SIZES}


def test_what_a_full_receiver_refuses_is_counted_exactly():
    with Lab("xdp") as lab, ExitStack() as stack:
        wire = Wire(stack, lab)
        tap = wire.namespace.run(os.open, "/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        stack.callback(os.close, tap)
        fcntl.ioctl(
            tap, 0x400454CA, b"tap0".ljust(16, b"\0") + (0x1002).to_bytes(2, sys.byteorder) + bytes(22)
        )
        wire.namespace.set_link("tap0", state="up")
        packet = wire.namespace.run(PacketPort, "tap0")
        stack.callback(packet.close)
        port = wire.namespace.run(lambda: XdpPort(packet, "tap0"))
        stack.callback(port.close)
        sending = Sending(port, to_nves(50))
        counted = sending.send(*(numbered(i) for i in range(100)))
        taken = books(counted)
        assert drops(counted) == {"port_refused": 5000 - taken}
        assert taken == 1000, "the length of a TAP's queue"
        came = [os.read(tap, 2048) for _ in range(taken)]
        with pytest.raises(BlockingIOError):
            os.read(tap, 2048)
        assert all(row == sorted(set(row)) for row in numbers(came).values())
        assert books(sending.send(numbered(100))) == taken + 50
        assert {row[-1] for row in numbers([os.read(tap, 2048) for _ in range(50)]).values()} == {100}


@pytest.mark.parametrize("end", ["near", "far"])
def test_while_the_link_is_down_copies_are_counted_and_afterwards_they_leave_again(wire, end):
    sending = Sending(wire.open(frames=64), to_nves(50))
    sending.send(numbered(0))
    assert len(wire.arrived(50)) == 50
    wire.namespace.set_link(end, state="down")
    is_running = lambda: wire.namespace.link("near")["flags"] & IFF_RUNNING  # noqa: E731
    wait_for(lambda: not is_running(), "near knows that its link is down")
    counted = sending.send(*(numbered(1) for _ in range(30)))
    assert drops(counted) == {"link_down": 1500}
    assert books(counted) == 50
    wire.namespace.set_link(end, state="up")
    wire.namespace.set_link("near", state="up")
    wait_for(is_running, "near has its link again")
    counted = sending.send(*(numbered(2) for _ in range(10)))
    assert drops(counted) == {"link_down": 1500}
    assert books(counted) == 550
    wire.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # that its own interface was down
    came = numbers(wire.arrived(500))
    assert len(came) == 50
    assert all(row == [2] * 10 for row in came.values())


def test_when_the_interface_is_gone_copies_are_counted(wire):
    sending = Sending(wire.open(), to_nves(50))
    wire.namespace.delete_link("near")
    counted = sending.send(*(numbered(i) for i in range(10)))
    assert drops(counted) == {"link_down": 500}
    assert books(counted) == 0


def test_a_closed_port_refuses(wire):
    port = wire.open()
    sending = Sending(port, to_nves(5))
    port.close()
    port.close()
    assert drops(sending.send(numbered(0))) == {"port_refused": 5}


def test_a_second_port_on_the_same_queue_is_refused_with_a_clear_error(wire):
    wire.open()
    with pytest.raises(OSError, match="AF_XDP on near queue 0: another socket has this queue"):
        wire.open()


def test_a_queue_that_is_not_there_and_bad_numbers_are_clear_errors(wire):
    with pytest.raises(OSError, match="queue 7: the interface has no such queue"):
        wire.namespace.run(lambda: XdpPort(wire.packet, "near", queues=[7]))
    with pytest.raises(OSError, match="there is no interface 'nosuch0'"):
        wire.namespace.run(lambda: XdpPort(wire.packet, "nosuch0"))
    with pytest.raises(ValueError, match="frames=100: expected a power of two"):
        wire.namespace.run(lambda: XdpPort(wire.packet, "near", frames=100))


UNLOCKED = """
import resource, subprocess
subprocess.run(["ip", "link", "add", "near", "type", "veth", "peer", "far"], check=True)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))
from fastpath.ports import MemoryPort, XdpPort
XdpPort(MemoryPort(1 << 10), "near")
"""


def test_memory_that_may_not_be_locked_is_named_in_a_user_namespace():
    argv = ["unshare", "-Urn", sys.executable, "-c", UNLOCKED]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if "unshare failed" in done.stderr:
        pytest.skip("no user namespaces here")
    assert "8192 KB of memory may not be locked: RLIMIT_MEMLOCK" in done.stderr


def open_and_close(namespace: Namespace, packet: PacketPort, times: int) -> None:
    for _ in range(times):
        port = namespace.run(lambda: XdpPort(packet, "near"))
        assert port.transmits == "xdp"
        port.close()


def resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def leaks(wire: Wire, times: int) -> None:
    open_and_close(wire.namespace, wire.packet, 3)
    before, memory = descriptors(), resident_kb()
    open_and_close(wire.namespace, wire.packet, times)
    assert descriptors() <= before  # what tests before this one left may go meanwhile
    assert resident_kb() < memory + 4096, "a port has 8 MB for copies alone"


def test_opening_and_closing_leaks_nothing(wire):
    leaks(wire, 10)


@pytest.mark.slow
def test_opening_and_closing_often_leaks_nothing(wire):
    leaks(wire, 200)
