"""The TAP port with unmodified Linux at its other end: VXLAN devices, UDP and TCP sockets in namespaces."""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from fastpath.forwarder import Forwarder
from fastpath.model import Egress, Encap, Form, Owner
from fastpath.ports import MemoryPort
from tests import frames as f
from tests import taps as t
from tests.cases import box as b
from tests.cases import made as m
from tests.native._receive import received


@pytest.fixture
def lab() -> Iterator[t.TapLab]:
    if reason := t.why_not():
        pytest.skip(reason)
    with t.TapLab() as made:
        yield made


# --- in -----------------------------------------------------------------------------------------------------


def test_a_linux_nve_is_heard_with_every_checksum_finished(lab: t.TapLab) -> None:
    """ARP leaves the outer sum open, a VM's datagram the inner one (LIMITS trap 12); both come with TTL 1."""
    namespace, port = lab.nve()
    forwarder, memory = t.device(port)
    sending = lab.udp(namespace)
    sending.sendto(b"who has", ("172.16.5.201", t.PORT))
    t.until(lambda: t.replicated(forwarder) > 0, forwarder)
    for size in range(0, 1400, 20):
        sending.sendto(bytes(size), (t.NOBODY, t.PORT))
    copies: list[bytes] = []

    def datagrams() -> list[bytes]:
        copies.extend(memory[b.P0].take())
        return [copy for copy in copies if copy[62:64] == b"\x08\x00"]

    t.until(lambda: len(datagrams()) == 70, forwarder)
    assert [len(copy) - 92 for copy in datagrams()] == list(range(0, 1400, 20))
    assert {copy[62:64] for copy in copies} == {b"\x08\x06", b"\x08\x00"}
    for copy in copies:
        t.assert_finished(copy)
        assert copy[22] == 1
    t.until(lambda: forwarder.statistics().punted > 0, forwarder)  # it reports its membership
    assert forwarder.statistics().dropped == 0


@pytest.mark.parametrize("batch", [1, 100, 256])
def test_super_frames_of_a_udp_socket_come_in_whole_and_are_cut(lab: t.TapLab, batch: int) -> None:
    """Where the batch is full, the rest waits for the next one."""
    namespace = lab.bare()
    port = lab.tap(namespace, address="10.1.1.2")
    forwarder, memory = t.device(port, batch=batch)
    sending = lab.udp(namespace, "10.1.1.2", 50000)
    sending.setsockopt(socket.IPPROTO_UDP, t.UDP_SEGMENT, 508)
    tenants = [f.tenant(size=508 - 8 - 42, sport=i) for i in range(359)]
    tenants[119::120] = [f.tenant(size=i, sport=600 + i) for i in range(2)]
    for part in (tenants[:120], tenants[120:240], tenants[240:]):
        sending.sendto(b"".join(f.vxlan_header(b.VNI) + one for one in part), (b.GROUP, 4789))
    t.until(lambda: t.replicated(forwarder) == 359, forwarder)
    copies = memory[b.P0].take()
    assert [copy[50:] for copy in copies] == tenants
    for copy in copies:
        t.assert_finished(copy)
    assert namespace.link("tap0").get_attr("IFLA_STATS64")["tx_packets"] == 3


def test_a_transfer_by_tcp_passes_between_a_vm_and_a_linux_nve(lab: t.TapLab) -> None:
    """The VM's super-frames are cut before they are encapsulated; the answer comes back the other way."""
    vm, nve = lab.bare("vm"), lab.bare("nve")
    below, above = lab.tap(vm, address=t.NEAR_VM), lab.tap(nve, address=t.FAR_VTEP)
    vm.set_link("tap0", mtu=1400)
    nve.set_link("tap0", address=t.next_hop(b.CORE))
    nve.neighbour("tap0", b.VTEP, b.PORTS[b.CORE].mac.hex(":"))
    nve.vxlan("vx0", b.VNI, local=t.FAR_VTEP, under="tap0", group=b.VTEP, mtu=1400)
    nve.address("vx0", f"{t.FAR_VM}/24")
    peer = b.addr(t.FAR_VTEP)
    uplink = Egress(b.CORE, Form.REWRITE, Owner(address=peer), peer, b.addr(b.VTEP), Encap.VXLAN)
    ports = {b.VM_BLUE: below, b.CORE: above}
    forwarder = Forwarder(
        replace(b.EDGE, ports=b.PORTS),
        [ports.get(i, MemoryPort(1 << 10)) for i in range(len(b.PORTS))],
        [b.of_number(b.NVE, b.VNI, b.at_vm(b.VM_BLUE), remote=(uplink,))],
    )
    content = os.urandom(1 << 21)
    listening = lab.stream(nve, t.FAR_VM, t.PORT)
    listening.listen()
    calling = lab.stream(vm)

    def call() -> bytes:
        calling.connect((t.FAR_VM, t.PORT))
        calling.sendall(content)
        calling.shutdown(socket.SHUT_WR)
        return read_all(calling)

    def answer() -> bytes:
        answering, _ = listening.accept()
        with answering:
            heard = read_all(answering)
            answering.sendall(hashlib.sha256(heard).digest() * 1000)
        return heard

    with ThreadPoolExecutor(2) as threads:
        called, answered = threads.submit(call), threads.submit(answer)
        t.until(lambda: called.done() and answered.done(), forwarder)
        assert answered.result() == content
        assert called.result() == hashlib.sha256(content).digest() * 1000
    counted = forwarder.statistics()
    assert vm.link("tap0").get_attr("IFLA_STATS64")["tx_packets"] < counted.ports[b.VM_BLUE].received / 2
    assert {row.reason.name for row in counted.drops} <= {"not_ours"}, "ARP and IGMP of the hosts"


def read_all(connected: socket.socket) -> bytes:
    connected.settimeout(t.PATIENCE_S)
    out = bytearray()
    while part := connected.recv(1 << 16):
        out += part
    return bytes(out)


def test_a_tag_of_a_vm_stays_in_its_frame(lab: t.TapLab) -> None:
    namespace = lab.bare()
    port = lab.tap(namespace)
    with namespace.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as sending:
        sending.bind(("tap0", 0))
        sending.send(m.TAGGED)
    assert [data for _, _, data in received(port)] == [m.TAGGED]


# --- out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trains", [False, True])
def test_a_linux_nve_decapsulates_every_copy_once_and_in_order(lab: t.TapLab, trains: bool) -> None:
    namespace, port = lab.nve()
    forwarder, memory = t.device(port, trains=trains)
    listening = lab.udp(namespace, t.FAR_VM, t.PORT)
    memory[b.P0].receive(*(t.numbered(i, 1300 if i % 7 else 200) for i in range(1000)))
    forwarder.run()
    assert t.numbers(listening, 1000) == list(range(1000))
    t.assert_silent(listening)
    counted = forwarder.statistics()
    assert (counted.copies_out, counted.copies_dropped) == (1000, 0)
    assert (counted.train_copies > 900) is trains


@pytest.mark.parametrize("trains", [False, True])
def test_a_linux_nve_takes_what_is_rewritten_to_its_own_address(lab: t.TapLab, trains: bool) -> None:
    namespace, port = lab.nve()
    namespace.set_link("tap0", address=t.next_hop(b.P1))
    forwarder, memory = t.device(port, b.at_nve(b.P1, t.FAR_VTEP), trains=trains)
    listening = lab.udp(namespace, t.FAR_VM, t.PORT)
    memory[b.P0].receive(*map(t.numbered, range(300)))
    forwarder.run()
    assert t.numbers(listening, 300) == list(range(300))
    t.assert_silent(listening)


def test_where_the_kernel_refuses_a_train_its_copies_go_one_by_one_from_then_on(lab: t.TapLab) -> None:
    """As a kernel before 6.2 does; here a filter on writev answers for it, on a thread of its own."""
    namespace, port = lab.nve()
    forwarder, memory = t.device(port)
    listening = lab.udp(namespace, t.FAR_VM, t.PORT)
    memory[b.P0].receive(*map(t.numbered, range(300)))
    refusing("writev", 22, forwarder.run)
    assert t.numbers(listening, 300) == list(range(300))
    t.assert_silent(listening)
    counted = forwarder.statistics()
    assert (counted.copies_out, counted.copies_dropped, counted.trains) == (300, 0, 0)
    assert sum(row.bytes for row in counted.egresses) == 300 * len(t.numbered(0))
    assert (port.trains, port.transmits) == (False, "packet")
    assert port.why == "the kernel refused a super-frame: Invalid argument"


@pytest.mark.parametrize(("error", "reason"), [(11, "port_refused"), (5, "link_down")])
@pytest.mark.parametrize("call", ["write", "writev"], ids=["singles", "trains"])
def test_a_copy_that_the_kernel_does_not_take_is_counted_as_dropped_alone(
    lab: t.TapLab, call: str, error: int, reason: str
) -> None:
    namespace, port = lab.nve()
    forwarder, memory = t.device(port, b.at_port(b.P1), b.at_port(b.P0), trains=call == "writev")
    listening = lab.udp(namespace, t.FAR_VM, t.PORT)
    memory[b.CORE].receive(*map(t.numbered, range(10)))
    refusing(call, error, forwarder.run)
    memory[b.CORE].receive(*map(t.numbered, range(10, 20)))
    forwarder.run()
    assert t.numbers(listening, 10) == list(range(10, 20))
    t.assert_silent(listening)
    counted = forwarder.statistics()
    assert t.drops(forwarder) == {reason: 10}
    assert (counted.copies_out, counted.copies_dropped) == (30, 10)
    mine = [row for row in counted.egresses if row.egress.out_port == b.P1]
    assert [(row.copies, row.bytes, row.dropped) for row in mine] == [(10, 10 * len(t.numbered(0)), 10)]


def refusing(call: str, error: int, function: Callable[[], object]) -> None:
    """Call a function on a thread for which one system call fails (by seccomp, until the thread ends)."""
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers of system calls here are not those of x86-64")
    number = {"write": 1, "writev": 20}[call]
    load, jump_unless, done = 0x20, 0x15, 6
    failed, allowed = 0x50000 | error, 0x7FFF0000
    steps = [(load, 0, 0, 0), (jump_unless, 0, 1, number), (done, 0, 0, failed), (done, 0, 0, allowed)]

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
        program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(text)))
        no_new_privs, set_filter = 38, 22
        assert libc.prctl(no_new_privs, 1, 0, 0, 0) == 0
        assert libc.prctl(set_filter, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
        function()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(run).result()
