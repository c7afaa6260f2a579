"""A thousand starts and stops, in one process, of all that a running box has: nothing is left behind."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from ctrl import nftables
from ctrl.config import Config, parse
from ctrl.daemon import reach as r
from ctrl.daemon.ports import open_port
from ctrl.lab import namespaces
from ctrl.lab.namespaces import Namespace, connect
from ctrl.membership import Membership
from ctrl.netlink import Link, NextHop, View
from ctrl.publisher import Publisher
from ctrl.static import enroll
from fastpath import Forwarder, Punts
from tests.house.tree import ROOT

pytestmark = pytest.mark.skipif(namespaces.missing() is not None, reason=str(namespaces.missing()))

SMALL = """
[dataplane]
ring_frames = 256
[[port]]
name = "p1"
faces = ["nve", "core"]
[device]
address = "10.0.0.1"
[[device.member]]
group = "239.1.1.100"
port = "p1"
[[device.peer]]
group = "239.1.1.100"
addresses = ["10.0.0.2"]
"""
"""One port: each that is closed waits some 40 ms for the kernel."""
ROUNDS = 3
CYCLES = int(os.environ.get("SOAK_CYCLES", "1000"))
MAC = bytes.fromhex("020000000001")


@pytest.fixture
def box() -> Iterator[Namespace]:
    with namespaces.Lab("leaks") as lab:
        here, far = lab.namespace("box"), lab.namespace("far")
        connect(here, "p1", far, "p1")
        connect(here, "core", far, "core")
        yield here


def two_ports(kind: str) -> str:
    """The second of a kind."""
    return f'{SMALL}[[port]]\nname = "core"\nkind = "{kind}"\nfaces = "core"\n'


def read(text: str) -> Config:
    reading = parse(text)
    assert reading.config
    return reading.config


def start_and_stop(config: Config) -> None:
    """Everything that `fastpath run` opens for its data path, and its worker."""
    links = {name: Link(name, 1, MAC, 1500, is_up=True) for name in ("p1", "core")}
    hops = {address: NextHop("p1", MAC) for address in r.peers(config)}
    reach = r.work_out(config, View(links, hops))
    ports = [open_port(table, config, r.claims(config)) for table in config.ports]
    assert not any(port.is_absent for port in ports)
    membership = Membership()
    enroll(membership, config)
    lists = Publisher(membership, reach.basis).lists.values()
    forwarder = Forwarder(reach.layout, [port.carriers[0] for port in ports], lists, punts=Punts())
    forwarder.resolve(reach.hops)
    forwarder.start()
    try:
        forwarder.statistics()
    finally:
        forwarder.stop()
        for port in ports:
            port.close()


def held() -> tuple[int, int, int]:
    """Descriptors, threads, and pages of memory in use."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  read in one go, every time
        pages = int(statm.read().split()[1])
    return len(os.listdir("/proc/self/fd")), threading.active_count(), pages  # noqa: PTH208


def tables() -> list[bytes]:
    sock = nftables.NftSocket()
    try:
        return [name for name in (b"fastpath-p1", b"fastpath-core") if _has(sock, name.decode())]
    finally:
        sock.close()


def _has(sock: nftables.NftSocket, table: str) -> bool:
    try:
        sock.ask(nftables.get_table(table))
    except FileNotFoundError:
        return False
    return True


def cycles(config: Config, n: int) -> None:
    """What leaks does so in every round; that the allocator takes a heap more happens once."""
    for _ in range(5):  # caches fill
        start_and_stop(config)
    grown = []
    for _ in range(ROUNDS):
        descriptors, threads, pages = held()
        for _ in range(n):
            start_and_stop(config)
        after = held()
        assert after[:2] == (descriptors, threads)
        assert tables() == []
        grown.append((after[2] - pages) * resource.getpagesize())
        if grown[-1] < 2 << 20:
            return
    raise AssertionError(f"memory grows in every round of {n}: {grown} bytes")


def expect_nothing_left(box: Namespace, text: str, n: int) -> None:
    """Have a process of its own do it: what other tests had this one allocate, and gRPC's threads in it, is
    not ours."""
    program = f"from tests.system.test_leaks import cycles, read; cycles(read({text!r}), {n})"
    child = box.popen(
        sys.executable, "-c", program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = child.communicate()
    assert child.returncode == 0, said


@pytest.mark.slow
def test_a_thousand_starts_and_stops_leave_no_descriptor_thread_memory_or_filter(box):
    expect_nothing_left(box, SMALL, CYCLES)


def test_a_few_starts_and_stops_leave_nothing_either(box):
    expect_nothing_left(box, two_ports("packet"), 20)


def test_starts_and_stops_with_af_xdp_leave_nothing(box):
    expect_nothing_left(box, two_ports("xdp"), 5)
