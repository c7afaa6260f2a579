"""Worker threads: they forward by themselves, stand still when asked, take changes between bursts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address

import pytest

from fastpath.forwarder import Forwarder
from fastpath.model import Faces, Layout, Network, Port
from fastpath.ports import MemoryPort
from fastpath.punts import Punts
from tests import frames as f
from tests.cases import box as b
from tests.cases import made as m
from tests.native._arrivals import Arrivals
from tests.unit.test_forwarder import GROUP_FRAME, drops, memory_ports

MAC = bytes.fromhex("02aabbccdd01")
PEERS = b.of_group(remote=(b.at_peer(b.CORE, b.PEER), b.at_peer(b.CORE, b.FAR_PEER)))


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextmanager
def working(forwarder: Forwarder) -> Iterator[None]:
    forwarder.start()
    try:
        yield
    finally:
        forwarder.stop()


def test_between_no_ports_a_worker_waits_and_ends_when_it_is_told():
    """A box that is a manager alone."""
    forwarder = Forwarder(Layout(()), [], punts=Punts(rate_pps=10, burst=10))
    with working(forwarder):
        assert forwarder.read_punted() == []
        forwarder.publish([])
    counted = forwarder.statistics()
    assert (counted.received, counted.ports, counted.drops) == (0, (), ())


def pushed(n: int) -> Arrivals:
    source = Arrivals()
    for _ in range(n):
        source.push(b.P1, GROUP_FRAME)
    return source


def test_a_worker_forwards_until_it_is_stopped_and_can_be_started_again():
    forwarder = Forwarder(b.BOX, memory_ports(overwrite=True), [PEERS], sources=[pushed(1000)])
    for _ in range(3):
        with working(forwarder):
            eventually(lambda: forwarder.statistics().received == 1000)
        assert not [t for t in threading.enumerate() if t.name.startswith("fastpath-")]
    counted = forwarder.statistics()
    assert (counted.replicated, counted.copies_out) == (1000, 2000)
    assert [(w.worker, w.cpu, w.received, w.copies_out) for w in counted.workers] == [(0, None, 1000, 2000)]


def test_a_worker_is_pinned_to_its_cpu():
    import os

    cpu = min(os.sched_getaffinity(0))
    forwarder = Forwarder(b.BOX, memory_ports(), [PEERS], sources=[pushed(1)])
    forwarder.start([cpu])
    try:
        eventually(lambda: forwarder.statistics().received == 1)
        task = next(t for t in threading.enumerate() if t.name == "fastpath-0")
        assert os.sched_getaffinity(task.native_id or 0) == {cpu}
        assert forwarder.statistics().workers[0].cpu == cpu
    finally:
        forwarder.stop()
    with pytest.raises(ValueError, match="2 CPUs for 1 workers"):
        forwarder.start([0, 1])


def test_a_drained_stop_forwards_what_waits_first():
    forwarder = Forwarder(b.BOX, memory_ports(overwrite=True), [PEERS], sources=[pushed(200_000)], batch=16)
    forwarder.start()
    forwarder.stop(drain_s=30)
    assert forwarder.statistics().received == 200_000


def test_a_snapshot_of_a_running_worker_is_of_whole_bursts():
    forwarder = Forwarder(b.BOX, memory_ports(overwrite=True), [PEERS], sources=[pushed(400_000)], batch=16)
    seen = 0
    with working(forwarder):
        while True:
            now = forwarder.statistics()
            assert now.received == now.replicated + now.punted + now.dropped
            assert now.copies_out == 2 * now.replicated == sum(row.copies for row in now.egresses)
            assert [row.frames for row in now.lists] == [now.replicated]
            assert now.received == 16 * now.bursts
            seen += 0 < now.received < 400_000
            if now.received == 400_000:
                break
    assert seen > 3


def test_a_worker_that_sleeps_wakes_for_new_ports():
    forwarder = Forwarder(b.BOX, memory_ports(), [PEERS], sources=[Arrivals()])
    with working(forwarder):
        time.sleep(0.05)
        fresh = memory_ports()
        for _ in range(10):
            fresh[b.P1].receive(GROUP_FRAME)
        forwarder.set_ports(b.BOX, [fresh])
        eventually(lambda: forwarder.statistics().received == 10)
    assert len(fresh[b.CORE].take()) == 20


def test_workers_share_the_load_and_their_counters_add_up():
    own = [memory_ports() for _ in range(3)]
    forwarder = Forwarder(b.BOX, own[0], [PEERS], more_workers=own[1:])
    for place, ports in enumerate(own):
        for _ in range(10 * (place + 1)):
            ports[b.P1].receive(GROUP_FRAME)
    with working(forwarder):
        eventually(lambda: forwarder.statistics().received == 60)
    counted = forwarder.statistics()
    assert [w.received for w in counted.workers] == [10, 20, 30]
    assert counted.copies_out == 120
    assert {row.egress.address: row.copies for row in counted.egresses} == {
        ip_address(b.PEER): 60,
        ip_address(b.FAR_PEER): 60,
    }
    with pytest.raises(ValueError, match="ports for 1 workers given; there are 3"):
        forwarder.set_ports(b.BOX, [own[0]])


# --- what changes while it runs -----------------------------------------------------------------------------


def sent(forwarder: Forwarder, ports: list[MemoryPort]) -> list[bytes]:
    ports[b.P1].receive(GROUP_FRAME)
    forwarder.run()
    return ports[b.CORE].take()


def unresolved() -> Layout:
    ports = [replace(port, next_hop_mac=None) if i == b.CORE else port for i, port in enumerate(b.PORTS)]
    return replace(b.BOX, ports=tuple(ports))


def test_copies_to_a_neighbour_wait_for_its_mac_and_follow_it():
    ports = memory_ports()
    forwarder = Forwarder(unresolved(), ports, [PEERS])
    assert sent(forwarder, ports) == []
    assert drops(forwarder.statistics()) == {"no_neighbour": 2}

    forwarder.resolve({(b.CORE, ip_address(b.PEER)): MAC})
    assert [copy[:6] for copy in sent(forwarder, ports)] == [MAC]

    forwarder.resolve({(b.CORE, ip_address(b.PEER)): MAC[::-1], (b.CORE, ip_address(b.FAR_PEER)): MAC})
    assert sorted(copy[:6] for copy in sent(forwarder, ports)) == [MAC[::-1], MAC]

    forwarder.resolve({(b.CORE, ip_address(b.PEER)): None, (b.CORE, ip_address(b.FAR_PEER)): MAC})
    assert [copy[:6] for copy in sent(forwarder, ports)] == [MAC]
    assert {row.egress.address: (row.copies, row.dropped) for row in forwarder.statistics().egresses} == {
        ip_address(b.PEER): (2, 2),
        ip_address(b.FAR_PEER): (2, 2),
    }
    assert forwarder.fibs_alive == 1


def test_who_is_no_longer_among_the_next_hops_gets_its_copies_by_the_port_s_own_again():
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, [PEERS])
    forwarder.resolve({(b.CORE, ip_address(b.PEER)): MAC, (b.CORE, ip_address(b.FAR_PEER)): MAC})
    assert {copy[:6] for copy in sent(forwarder, ports)} == {MAC}
    forwarder.resolve({(b.CORE, ip_address(b.PEER)): MAC})
    own = b.PORTS[b.CORE].next_hop_mac
    assert sorted(copy[:6] for copy in sent(forwarder, ports)) == sorted([MAC, own or b""])


def test_a_peer_that_moves_to_another_port_does_so_in_one_step_with_its_next_hop():
    ports = memory_ports()
    layout = replace(b.BOX, ports=tuple(replace(port, next_hop_mac=None) for port in b.PORTS))
    forwarder = Forwarder(layout, ports, [PEERS])
    old = {(b.CORE, ip_address(b.PEER)): MAC, (b.CORE, ip_address(b.FAR_PEER)): MAC}
    forwarder.resolve(old)
    assert len(sent(forwarder, ports)) == 2
    before = forwarder.revision
    moved = b.of_group(remote=(b.at_peer(b.CORE, b.PEER), b.at_peer(b.P0, b.FAR_PEER)))
    new = {(b.CORE, ip_address(b.PEER)): MAC, (b.P0, ip_address(b.FAR_PEER)): MAC[::-1]}
    forwarder.relayout(layout, [moved], next_hops=new)
    assert forwarder.revision == before + 1
    assert [copy[:6] for copy in sent(forwarder, ports)] == [MAC]
    assert [copy[:6] for copy in ports[b.P0].take()] == [MAC[::-1]]
    assert drops(forwarder.statistics()) == {}


def test_a_neighbour_that_is_known_before_its_list_is_used_by_it():
    ports = memory_ports()
    forwarder = Forwarder(unresolved(), ports)
    forwarder.resolve({(b.CORE, ip_address(b.PEER)): MAC})
    forwarder.publish([PEERS])
    assert [copy[:6] for copy in sent(forwarder, ports)] == [MAC]


def test_a_new_mtu_and_mac_of_a_port_are_in_the_next_copies():
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, [PEERS])
    assert len(sent(forwarder, ports)) == 2
    changed = [replace(p, mac=MAC) if i == b.CORE else p for i, p in enumerate(b.PORTS)]
    forwarder.relayout(replace(b.BOX, ports=tuple(changed)), [])
    assert [copy[6:12] for copy in sent(forwarder, ports)] == [MAC, MAC]
    changed[b.CORE] = replace(changed[b.CORE], mtu=100)
    forwarder.relayout(replace(b.BOX, ports=tuple(changed)), [])
    assert sent(forwarder, ports) == []
    assert drops(forwarder.statistics()) == {"over_mtu": 2}


def test_the_networks_of_a_group_change_with_its_list():
    ports = memory_ports()
    other = replace(b.BARE, networks=(Network("blue", b.OTHER_VNI, None, group=ip_address(b.GROUP)),))
    forwarder = Forwarder(b.BARE, ports, [PEERS])
    assert len(sent(forwarder, ports)) == 2
    forwarder.relayout(other, [PEERS])
    assert sent(forwarder, ports) == []
    assert drops(forwarder.statistics()) == {"wrong_group": 1}


def test_a_port_may_be_added_and_its_frames_excluded_from_itself():
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, [PEERS])
    place = len(b.PORTS)
    layout = replace(b.BOX, ports=(*b.PORTS, Port("new", Faces.NVE, MAC, MAC)))
    ports.append(MemoryPort())
    forwarder.set_ports(layout, [ports])
    forwarder.publish([b.of_group(b.at_port(place), b.at_port(b.P0))])
    ports[place].receive(GROUP_FRAME)
    forwarder.run()
    assert [len(port.take()) for port in ports] == [1, *[0] * place]
    with pytest.raises(ValueError, match="8 ports: there were 9"):
        forwarder.relayout(b.BOX, [])


def test_what_an_old_port_lost_stays_counted():
    class Lossy(MemoryPort):
        ring_lost = 7

    ports = [Lossy() for _ in b.PORTS]
    forwarder = Forwarder(b.BOX, ports)
    assert drops(forwarder.statistics()) == {"ring_full": 56}
    forwarder.set_ports(b.BOX, [[MemoryPort(), *ports[1:]]])
    assert drops(forwarder.statistics()) == {"ring_full": 56}
    assert forwarder.statistics().dropped == 0


def test_a_copy_to_the_group_needs_no_next_hop():
    """A copy to the group needs no next hop: it leaves though the port knows none."""
    ports = memory_ports()
    forwarder = Forwarder(unresolved(), ports, [b.of_group(b.at_port(b.CORE))])
    ports[b.P1].receive(f.wire(f.vxlan_packet(m.TENANT, b.VTEP, b.GROUP, b.VNI)))
    forwarder.run()
    assert len(ports[b.CORE].take()) == 1
