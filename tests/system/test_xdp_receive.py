"""Receiving by AF_XDP: ours come in and the kernel never sees them, all else is as ever."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from ctrl.lab.namespaces import Lab, connect, missing
from fastpath import bpf
from fastpath.claims import Claims, socket_filter
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
from fastpath.ports import MemoryPort, PacketPort, XdpPort
from fastpath.redirect import Redirect, reason_against, receive_queues
from fastpath.statistics import Statistics
from tests import frames as f
from tests.cases import box as b
from tests.cases import made as m

WHY_NOT = missing() or bpf.available()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

OURS, FAR, GROUP = "10.67.0.1", "10.67.0.2", "239.67.1.7"
CLAIMS = Claims((4789,), (ip_address(OURS),))
PATIENCE_S = 5.0
LAYOUT = Layout(
    (Port("near", Faces.NVE, bytes(6), bytes(6)), Port("out", Faces.CORE, bytes(6), bytes(6))),
    (Endpoint(ip_address(OURS), Scope.DEVICE),),
)
LISTS = (
    ReplicationList(
        group_key(Scope.DEVICE, ip_address(GROUP)),
        (),
        (
            Egress(
                1,
                Form.REWRITE,
                Owner(address=ip_address("10.9.9.9")),
                ip_address("10.9.9.9"),
                ip_address(OURS),
            ),
        ),
    ),
)


class Boxes:
    """`ours`, which receives by AF_XDP on near, and `far`, which finishes its checksums."""

    def __init__(self, stack: ExitStack, n_queues: int = 1) -> None:
        lab = stack.enter_context(Lab("xdp"))
        self.stack = stack
        self.ours, self.far = lab.namespace("ours"), lab.namespace("far")
        queues = {"num_tx_queues": n_queues, "num_rx_queues": n_queues}
        connect(self.ours, "near", self.far, "near", **queues)
        for box, address in ((self.ours, OURS), (self.far, FAR)):
            box.sysctl("net/ipv6/conf/near/disable_ipv6", 1)
            box.address("near", f"{address}/24")
            box.feature("near", "tx-checksum-ip-generic", on=False)
        self.out = MemoryPort(1 << 24)
        self.socket = self.far.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        stack.callback(self.socket.close)
        self.socket.bind(("near", 0))

    def open(self, frames: int = 4096) -> XdpPort:
        packet = self.ours.run(lambda: PacketPort("near", program=socket_filter(CLAIMS)))
        self.stack.callback(packet.close)
        queues = self.ours.run(receive_queues, "near")
        self.port: XdpPort = self.ours.run(
            lambda: XdpPort(packet, "near", queues=queues, frames=frames, receive=True)
        )
        self.stack.callback(self.port.close)
        self.redirect = self.ours.run(Redirect, "near", CLAIMS, self.port.sockets)
        self.stack.callback(self.redirect.close)
        self.forwarder = Forwarder(LAYOUT, (self.port, self.out), LISTS, sources=(self.port,))
        return self.port

    def send(self, *packets: bytes) -> None:
        """Let `far` send IP packets to us, to the right MAC."""
        macs = bytes.fromhex(self.ours.mac("near").replace(":", "") + self.far.mac("near").replace(":", ""))
        for packet in packets:
            self.socket.send(macs + b"\x08\x00" + packet)

    def forward(self, n: int) -> Statistics:
        """Forward until `n` frames came in, and no more do."""
        patience = time.monotonic() + PATIENCE_S
        while self.forwarder.run() or (
            self.forwarder.statistics().received < n and time.monotonic() < patience
        ):
            pass
        counted = self.forwarder.statistics()
        assert counted.received == n
        return counted

    def snmp(self, line: str, field: str) -> int:
        """A counter of our kernel's stack."""
        text: str = self.ours.run(Path("/proc/thread-self/net/snmp").read_text)
        names, values = (row.split() for row in text.splitlines() if row.startswith(line + ":"))
        return int(values[names.index(field)])


@pytest.fixture
def boxes() -> Iterator[Boxes]:
    with ExitStack() as stack:
        yield Boxes(stack)


def tunnel_packet(number: int, destination: str = GROUP, sport: int = 50000) -> bytes:
    inner = bytearray(m.TENANT)
    inner[-4:] = number.to_bytes(4, "big")
    return f.vxlan_packet(bytes(inner), FAR, destination, b.VNI, datagram={"sport": sport})


def came(boxes: Boxes) -> list[int]:
    return [int.from_bytes(copy[-4:], "big") for copy in boxes.out.take()]


def test_ours_come_in_by_af_xdp_in_order_and_the_kernel_never_sees_them(boxes):
    port = boxes.open()
    assert (port.receives, port.transmits, port.why) == ("xdp", "xdp", "the driver has no zero copy")
    seen = boxes.snmp("Ip", "InReceives")
    boxes.send(*(tunnel_packet(i) for i in range(200)), *(tunnel_packet(i, OURS) for i in range(50)))
    counted = boxes.forward(250)
    assert came(boxes) == list(range(200))
    assert counted.copies_out == 200
    assert boxes.snmp("Ip", "InReceives") == seen
    assert boxes.snmp("Udp", "NoPorts") == 0
    assert port.ring_lost == 0


def test_chunks_go_round_many_times(boxes):
    port = boxes.open(frames=64)
    for at in range(0, 3200, 32):
        boxes.send(*(tunnel_packet(at + i) for i in range(32)))
        boxes.forward(at + 32)
    assert came(boxes) == list(range(3200))
    assert port.ring_lost == 0


def test_frames_that_found_no_room_are_counted_exactly(boxes):
    port = boxes.open(frames=64)
    boxes.send(*(tunnel_packet(i) for i in range(100)))
    boxes.forward(64)
    assert came(boxes) == list(range(64))
    assert port.ring_lost == 36


def test_igmp_is_seen_by_us_and_by_the_kernel(boxes):
    boxes.open()
    seen = boxes.snmp("Ip", "InReceives")
    for _ in range(3):
        boxes.send(f.igmp(FAR, GROUP), tunnel_packet(0))
    counted = boxes.forward(6)
    assert (counted.punted, counted.copies_out) == (3, 3)
    assert boxes.snmp("Ip", "InReceives") == seen + 3


def test_what_is_not_ours_is_not_touched(boxes):
    boxes.open()
    ping = boxes.far.run(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    boxes.stack.callback(ping.close)
    ping.settimeout(PATIENCE_S)
    echo = struct.pack(">BBHHH", 8, 0, 0, 0x6667, 1)
    ping.sendto(echo[:2] + f.internet_checksum(echo).to_bytes(2, "big") + echo[4:], (OURS, 0))
    answer = ping.recv(100)[20:]
    assert (answer[:2], answer[4:]) == (bytes(2), echo[4:])
    server = boxes.ours.run(socket.create_server, (OURS, 7777))
    boxes.stack.callback(server.close)
    client = boxes.far.run(socket.create_connection, (OURS, 7777), PATIENCE_S)
    boxes.stack.callback(client.close)
    accepted = server.accept()[0]
    boxes.stack.callback(accepted.close)
    sent = os.urandom(1 << 20)
    received = bytearray()
    client.setblocking(False)
    at = 0
    while len(received) < len(sent):
        readable, writable, _ = select.select([accepted], [client] if at < len(sent) else [], [], PATIENCE_S)
        assert readable or writable
        if writable:
            at += client.send(sent[at : at + 65536])
        if readable:
            received += accepted.recv(1 << 20)
    assert bytes(received) == sent
    assert boxes.forward(0).received == 0


def test_all_queues_are_received_from():
    with ExitStack() as stack:
        boxes = Boxes(stack, n_queues=2)
        port = boxes.open()
        assert [queue for queue, _ in port.sockets] == [0, 1]
        boxes.send(*(tunnel_packet(i, sport=50000 + i) for i in range(200)))
        boxes.forward(200)
        assert sorted(came(boxes)) == list(range(200))


def test_a_waiting_worker_is_woken_by_every_queue_and_by_the_packet_port():
    with ExitStack() as stack:
        boxes = Boxes(stack, n_queues=2)
        boxes.open()
        boxes.forwarder.start()
        stack.callback(boxes.forwarder.stop)
        packets = [*(tunnel_packet(i, sport=50000 + i) for i in range(20)), f.igmp(FAR, GROUP)]
        for n, packet in enumerate(packets, 1):
            boxes.send(packet)
            patience = time.monotonic() + PATIENCE_S
            while boxes.forwarder.statistics().received < n:
                assert time.monotonic() < patience, "nobody woke the worker"


def test_other_claims_hold_from_the_next_frame_on(boxes):
    boxes.open()
    boxes.send(tunnel_packet(0))
    boxes.redirect.update(Claims((8472,)))
    boxes.send(tunnel_packet(1), tunnel_packet(2, OURS))
    boxes.redirect.update(CLAIMS)
    boxes.send(tunnel_packet(3))
    counted = boxes.forward(4)  # the packet port's own filter still lets pass what XDP does
    assert sorted(came(boxes)) == [0, 1, 3]
    assert counted.received == 4
    assert boxes.snmp("Udp", "NoPorts") == 1


def test_a_second_one_on_the_interface_is_refused_with_a_clear_error(boxes):
    boxes.open()
    with pytest.raises(OSError, match="interface near has an XDP program already: another fastpath"):
        boxes.ours.run(Redirect, "near", CLAIMS, boxes.port.sockets)


def test_an_interface_whose_frames_have_no_room_is_a_clear_error(boxes):
    boxes.ours.set_link("near", mtu=9000)
    with pytest.raises(OSError, match="the MTU is 9000, and there is room to receive frames of 3840 bytes"):
        boxes.open()


HOLDING = """
import sys
from ipaddress import ip_address
from fastpath.claims import Claims, socket_filter
from fastpath.ports import PacketPort, XdpPort
from fastpath.redirect import Redirect
port = XdpPort(PacketPort("near"), "near", receive=True)
redirect = Redirect("near", Claims((4789,)), port.sockets)
print("up", flush=True)
sys.stdin.read()
"""


def test_the_program_goes_with_the_process_by_kill_9_too(boxes):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holder = boxes.ours.popen(sys.executable, "-c", HOLDING, **pipes)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "up\n"
    idle = bpf.load_program(bpf.ProgramKind.XDP, [bpf.mov(bpf.R0, bpf.XDP_PASS), bpf.leave()], "fp_test")
    boxes.stack.callback(os.close, idle)
    with pytest.raises(OSError, match="XDP program already"):
        boxes.ours.run(bpf.attach_xdp, idle, boxes.ours.index("near"))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    boxes.open()
    boxes.send(tunnel_packet(7))
    boxes.forward(1)
    assert came(boxes) == [7]


def test_a_veth_is_advised_against(boxes):
    assert "veth hands over unfinished checksums" in (boxes.ours.run(reason_against, "near") or "")
