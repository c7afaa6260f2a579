"""The public forwarder: what it refuses, what it counts, and that FIBs are exchanged between bursts alone."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from fastpath.compiler import Compiler
from fastpath.forwarder import Forwarder
from fastpath.model import Egress, Encap, Form, Frame, Layout, Mark, Owner, ReplicationList, Scope
from fastpath.ports import MemoryPort
from fastpath.reasons import Unit
from fastpath.statistics import EgressCount, PortCount, Statistics
from tests import frames as f
from tests.cases import box as b
from tests.cases import made as m
from tests.native._arrivals import Arrivals

GROUP_FRAME = f.wire(f.vxlan_packet(m.TENANT, b.VTEP, b.GROUP, b.VNI))
TO_PEERS = (b.at_peer(b.CORE, b.PEER), b.at_peer(b.CORE, b.FAR_PEER), b.at_peer(b.SMALL, "10.0.0.4"))


def memory_ports(layout: Layout = b.BOX, **knobs: Any) -> list[MemoryPort]:
    return [MemoryPort(**{"capacity": 1 << 20, **knobs}) for _ in layout.ports]


def identification(data: bytes) -> int:
    return int.from_bytes(data[18:20], "big")


def drops(statistics: Statistics) -> dict[str, int]:
    return {row.reason.name: row.count for row in statistics.drops}


def dropped_by(statistics: Statistics) -> dict[Egress, int]:
    return {row.egress: row.dropped for row in statistics.egresses if row.dropped}


# --- what it refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 257, 100_000])
def test_a_batch_holds_1_to_256_frames(batch):
    with pytest.raises(ValueError, match=f"batch {batch}: expected 1 to 256"):
        Forwarder(b.BOX, memory_ports(), batch=batch)


@pytest.mark.parametrize("change", [-1, 1])
def test_there_is_one_port_for_each_of_the_layout(change):
    ports = [MemoryPort(1 << 10) for _ in range(len(b.PORTS) + change)]
    with pytest.raises(ValueError, match="8 ports"):
        Forwarder(b.BOX, ports)


def test_a_layout_has_256_ports_at_most():
    one = MemoryPort(1 << 10)
    many = tuple(replace(b.PORTS[0], name=f"p{i}") for i in range(257))
    Forwarder(Layout(many[:256]), [one] * 256)
    with pytest.raises(ValueError, match="257 ports: the data path has room for 256"):
        Forwarder(Layout(many), [one] * 257)


def test_what_cannot_send_is_no_port_and_what_cannot_receive_no_source():
    with pytest.raises(ValueError, match=r"port 0 \(Arrivals\) cannot transmit"):
        Forwarder(b.BOX, [Arrivals(), *memory_ports()[1:]])


@pytest.mark.parametrize(
    ("egress", "match"),
    [
        (Egress(b.CORE, Form.NESTED, Owner(b.CORE)), "NESTED needs an address"),
        (Egress(b.CORE, Form.REWRITE, Owner(b.CORE)), "REWRITE needs an address"),
        (b.at_peer(b.CORE, b.PEER, source=b.OWN6), "different IP versions"),
    ],
)
def test_a_list_that_cannot_be_is_refused_and_the_old_ones_stay(egress, match):
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, b.LISTS)
    with pytest.raises(ValueError, match=match):
        forwarder.publish([b.of_group(egress)])
    ports[b.P1].receive(GROUP_FRAME)
    forwarder.run()
    assert (forwarder.n_groups, forwarder.statistics().replicated) == (len(b.LISTS), 1)


# --- what it does -------------------------------------------------------------------------------------------


def test_run_ends_when_all_sources_are_idle_and_says_how_many_frames_came():
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, b.LISTS, batch=32)
    assert forwarder.run() == 0
    ports[b.P1].receive(*[GROUP_FRAME] * 100)
    ports[b.P0].receive(*[GROUP_FRAME] * 5)
    assert forwarder.run() == 105
    assert forwarder.run() == 0
    assert forwarder.statistics().bursts == 5


def test_run_ends_about_where_it_is_told():
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, b.LISTS, batch=32)
    ports[b.P1].receive(*[GROUP_FRAME] * 100)
    assert forwarder.run(0) == 0
    assert [forwarder.run(max_frames=33), forwarder.run(1), forwarder.run()] == [64, 32, 4]


def test_a_list_is_changed_removed_and_set_between_runs():
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports)
    key = b.LISTS[0].key

    def copies(*changes: Any) -> list[int]:
        forwarder.publish(*changes)
        ports[b.P1].receive(GROUP_FRAME)
        forwarder.run()
        return [len(port.take()) for port in ports]

    assert sum(copies([])) == 0
    assert copies([ReplicationList(key, (b.at_port(b.P0),))]) == [1, 0, 0, 0, 0, 0, 0, 0]
    assert copies([ReplicationList(key, (b.at_port(b.P7),), TO_PEERS)]) == [0, 0, 2, 0, 1, 0, 0, 1]
    assert sum(copies([], [key])) == 0
    assert drops(forwarder.statistics()) == {"unknown_group": 2}
    assert forwarder.fibs_alive == 1


def test_counters_go_on_across_changes_of_the_lists():
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, b.of_only(*TO_PEERS))
    for _ in range(3):
        ports[b.P1].receive(GROUP_FRAME)
        forwarder.run()
        forwarder.publish(b.of_only(TO_PEERS[0]))
    counted = forwarder.statistics()
    assert [(row.egress, row.copies) for row in counted.egresses] == [
        (TO_PEERS[0], 3), (TO_PEERS[1], 1), (TO_PEERS[2], 1),
    ]  # fmt: skip
    assert [identification(data) for data in ports[b.CORE].take()] == [0, 0, 1, 2]


def test_statistics_tell_ports_egresses_bytes_and_stages():
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, b.of_only(*TO_PEERS))
    ports[b.P1].receive(GROUP_FRAME, GROUP_FRAME, b"\0" * 60)
    forwarder.run()
    now = forwarder.statistics()
    nested = len(GROUP_FRAME) + 20 + 8 + 4
    assert (now.received, now.replicated, now.punted, now.dropped) == (3, 2, 0, 1)
    assert (now.copies_out, now.copies_dropped) == (6, 0)
    assert now.egresses == tuple(EgressCount(one, 2, 2 * nested, 0) for one in TO_PEERS)
    assert now.ports[b.P1] == PortCount("p1", 3, 0)
    assert now.ports[b.CORE] == PortCount("p2", 0, 4)
    assert [row.stage for row in now.stages] == ["receive", "classify", "replicate"]
    assert all(row.ns > 0 for row in now.stages)


def test_identifications_count_from_0_for_each_egress():
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, b.of_only(*TO_PEERS))
    ports[b.P1].receive(*[GROUP_FRAME] * 3)
    forwarder.run()
    assert [identification(data) for data in ports[b.CORE].take()] == [0, 0, 1, 1, 2, 2]
    assert [identification(data) for data in ports[b.SMALL].take()] == [0, 1, 2]


def test_an_egress_over_its_mtu_does_not_stop_the_others():
    """R9: each destination is counted for itself."""
    large = f.wire(f.vxlan_packet(f.tenant(size=200), b.VTEP, b.GROUP, b.VNI))
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, b.of_only(TO_PEERS[2], *TO_PEERS[:2]))
    ports[b.P1].receive(GROUP_FRAME, large, large, GROUP_FRAME)
    forwarder.run()
    now = forwarder.statistics()
    assert drops(now) == {"over_mtu": 2}
    assert {row.egress: (row.copies, row.dropped) for row in now.egresses} == {
        TO_PEERS[0]: (4, 0), TO_PEERS[1]: (4, 0), TO_PEERS[2]: (2, 2),
    }  # fmt: skip
    assert [len(port.take()) for port in ports] == [0, 0, 8, 0, 2, 0, 0, 0]


@pytest.mark.parametrize("trains", [False, True])
def test_a_full_port_refuses_and_each_refusal_is_counted_where_it_happened(trains):
    ports = memory_ports()
    ports[b.CORE] = MemoryPort(2000, trains=trains)
    forwarder = Forwarder(b.BOX, ports, b.of_only(*TO_PEERS))
    ports[b.P1].receive(*[GROUP_FRAME] * 40)
    assert forwarder.run() == 40
    now = forwarder.statistics()
    left = {row.egress: row.copies for row in now.egresses}
    assert now.replicated == 40
    assert left[TO_PEERS[2]] == 40
    assert set(dropped_by(now)) == {*TO_PEERS[:2]}
    assert all(left[one] + dropped_by(now)[one] == 40 for one in TO_PEERS[:2])
    assert drops(now) == {"port_refused": sum(dropped_by(now).values())}
    core = ports[b.CORE].take()
    assert len(core) == left[TO_PEERS[0]] + left[TO_PEERS[1]] == now.ports[b.CORE].copies_out
    assert now.copies_out + now.copies_dropped == 120
    ports[b.P1].receive(GROUP_FRAME)
    forwarder.run()
    assert len(ports[b.CORE].take()) == 2


def test_an_unfinished_checksum_is_finished_in_every_copy():
    """LIMITS trap 12."""
    packet = f.vxlan_packet(m.TENANT, b.VTEP, b.GROUP, b.VNI, datagram={"checksum": f.RIGHT})
    whole = f.wire(packet)
    udp = 14 + 20
    pseudo = f.pseudo(b.VTEP, b.GROUP, f.UDP, len(whole) - udp)
    left = (0xFFFF - f.internet_checksum(pseudo)).to_bytes(2, "big")
    unfinished = whole[: udp + 6] + left + whole[udp + 8 :]
    lists = b.of_only(b.at_port(b.P0), *TO_PEERS[:1], b.at_nve(b.P7, "10.1.1.7"))
    marked, plain = memory_ports(), memory_ports()
    for ports, frame in ((marked, Frame(unfinished, Mark(udp, 6))), (plain, Frame(whole))):
        forwarder = Forwarder(b.BOX, ports, lists)
        ports[b.P1].receive(frame)
        forwarder.run()
        assert forwarder.statistics().copies_out == 3
    assert [port.take() for port in marked] == [port.take() for port in plain]


def test_a_tag_out_of_band_counts_as_one_of_two_and_is_in_no_copy():
    """LIMITS trap 13."""
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, b.of_only(b.at_port(b.P0)))
    one, two = (f.wire(GROUP_FRAME[14:], [(f.TAG, 5)] * n) for n in (1, 2))
    for data in (GROUP_FRAME, one, two):
        ports[b.P1].receive(Frame(data, vlan=(f.TAG, 7)))
    forwarder.run()
    assert drops(forwarder.statistics()) == {"not_ours": 1}
    assert {data[12:] for data in ports[b.P0].take()} == {GROUP_FRAME[12:]}


def test_every_reason_that_struck_is_told_once_in_its_unit():
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, b.of_only(b.at_peer(b.SMALL, b.PEER), b.at_port(b.P0)))
    ports[b.P1].receive(
        GROUP_FRAME, b"", b"", f.wire(f.vxlan_packet(f.tenant(size=300), b.VTEP, b.GROUP, b.VNI))
    )
    forwarder.run()
    assert [(row.reason.name, row.reason.unit, row.count) for row in forwarder.statistics().drops] == [
        ("truncated", Unit.FRAME, 2),
        ("over_mtu", Unit.COPY, 1),
    ]


# --- the FIB is exchanged between bursts --------------------------------------------------------------------

BATCH, FRAMES, SIDES = 16, 12_000, ("10.1.0", "10.2.0")


def side(name: str) -> list[ReplicationList]:
    """A list whose copies all tell which side it is of."""
    egresses = [b.at_peer((b.P0, b.CORE, b.SMALL)[i % 3], f"{name}.{i}") for i in range(6)]
    return [b.of_group(*egresses[:4], remote=tuple(egresses[4:]))]


def test_a_fib_published_during_a_run_is_taken_whole_by_the_next_burst():
    """Two FIBs by turns from another thread: all copies of a burst are of one side."""
    ports, source = memory_ports(capacity=1 << 24), Arrivals()
    forwarder = Forwarder(b.BOX, ports, side(SIDES[0]), sources=[source], batch=BATCH)
    publishes, done, failed = 0, threading.Event(), []

    def publish() -> None:
        nonlocal publishes
        try:
            while not done.is_set():
                publishes += 1
                forwarder.publish(side(SIDES[publishes % 2]))
                seen = forwarder.statistics()
                assert seen.received == seen.replicated + seen.punted + seen.dropped
        except BaseException as error:  # noqa: BLE001  told by the test's own thread
            failed.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    exchanged = 0
    try:
        for _ in range(200):
            for _ in range(FRAMES):
                source.push(b.P1, GROUP_FRAME)
            assert forwarder.run() == FRAMES
            exchanged += exchanges([port.take() for port in ports])
            if exchanged >= 5 or failed:
                break
    finally:
        done.set()
        thread.join()
    assert not failed
    assert exchanged >= 5
    forwarder.publish([])
    assert forwarder.fibs_alive == 1


def exchanges(copies: list[list[bytes]]) -> int:
    """How often a run went over to the other FIB: between bursts, and at all ports at once."""
    sides = [[data[30:33] for data in copies[port]] for port in (b.P0, b.CORE, b.SMALL)]
    per_burst = []
    for one in sides:
        assert len(one) == 2 * FRAMES
        bursts = [set(one[at : at + 2 * BATCH]) for at in range(0, len(one), 2 * BATCH)]
        assert all(len(burst) == 1 for burst in bursts)
        per_burst.append([next(iter(burst)) for burst in bursts])
    assert per_burst[0] == per_burst[1] == per_burst[2]
    return sum(a != b for a, b in zip(per_burst[0], per_burst[0][1:], strict=False))


def test_when_nothing_runs_one_fib_is_alive_however_it_was_exchanged():
    ports, source = memory_ports(overwrite=True), Arrivals()
    forwarder = Forwarder(b.BOX, ports, side(SIDES[0]), sources=[source], batch=1)
    for _ in range(200):
        for _ in range(300):
            source.push(b.P1, GROUP_FRAME)
        thread = threading.Thread(target=forwarder.run)
        thread.start()
        forwarder.publish(side(SIDES[1]))
        thread.join()
        assert forwarder.fibs_alive == 1


def test_a_forwarder_runs_once_at_a_time():
    ports, source = memory_ports(overwrite=True), Arrivals()
    forwarder = Forwarder(b.BOX, ports, side(SIDES[0]), sources=[source], batch=1)
    outcomes: Counter[str] = Counter()
    for _ in range(200_000):
        source.push(b.P1, GROUP_FRAME)
    ready = threading.Barrier(2)

    def run() -> None:
        ready.wait()
        try:
            outcomes["frames"] += forwarder.run()
        except RuntimeError as error:
            outcomes[str(error)] += 1

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes["frames"] == 200_000
    assert outcomes["run() is already running in another thread"] <= 1


def test_a_fib_of_another_layout_is_refused():
    forwarder = Forwarder(b.BOX, memory_ports())
    with pytest.raises(ValueError, match="the FIB is for 1 ports, the engine has 8"):
        forwarder._workers[0].engine.publish(Compiler(Layout(b.PORTS[:1])).fib)


def test_a_vm_port_without_a_network_has_no_lists():
    """Its frames have no number: they are counted and dropped, not looked up as someone else's."""
    ports = (replace(b.PORTS[b.VM_BLUE], network=""), b.PORTS[b.CORE])
    to_peer = b.at_peer(1, b.PEER, Form.REWRITE, encap=Encap.VXLAN)
    layout = replace(b.EDGE, ports=ports)
    memory = memory_ports(layout)
    forwarder = Forwarder(layout, memory, (b.of_number(Scope.NVE, b.VNI, to_peer),))
    memory[0].receive(m.TENANT)
    forwarder.run()
    assert drops(forwarder.statistics()) == {"unknown_vni": 1}
