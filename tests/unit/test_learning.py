"""What frames of our own NVE teach: who is told, of what, how often, and what becomes of the rest."""

from __future__ import annotations

import select
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from fastpath.model import AllowFrom, Encap, GroupMap, Peer
from fastpath.stations import LESSONS_BURST, Learned
from tests import frames as f
from tests.cases import box as b
from tests.unit.edges import (
    BLUE,
    BROADCAST,
    FAR,
    LAYOUT,
    MAC_A,
    MAC_B,
    MAC_C,
    NEAR,
    UP,
    VM1,
    VM2,
    Edge,
    far,
    known,
    to,
    tunnelled,
)

MS = 1_000_000


def lesson(
    mac: bytes, in_port: int, sender: str | None = None, encap: Encap = Encap.RAW, **more: int
) -> Learned:
    address = None if sender is None else ip_address(sender)
    return Learned(more.get("vni", b.VNI), mac, in_port, address, encap, more.get("time_ns", 0))


def test_a_source_that_is_not_known_is_told_once():
    edge = Edge()
    edge.send(VM1, *[to(BROADCAST, MAC_A)] * 3)
    edge.send(
        UP, *[tunnelled(to(BROADCAST, MAC_B))] * 3, tunnelled(to(MAC_A, MAC_C), "2001:db8::77", b.VTEP6)
    )
    assert edge.learned() == [
        lesson(MAC_A, VM1),
        lesson(MAC_B, UP, NEAR, Encap.VXLAN),
        lesson(MAC_C, UP, "2001:db8::77", Encap.VXLAN),
    ]
    assert edge.learned() == []


def test_a_source_that_is_where_its_entry_says_is_seen_and_not_told():
    edge = known(stepwise=True)
    edge.send(VM1, to(BROADCAST, MAC_A), time_ns=1000 * MS)
    edge.send(UP, tunnelled(to(MAC_A, MAC_C), FAR), time_ns=2000 * MS)
    assert edge.learned() == []
    assert sorted(row[1:4] for row in edge.forwarder.macs.rows()) == [
        (MAC_A, VM1, 16),
        (MAC_B, VM2, 0),
        (MAC_C, 256, 32),
    ]


def test_a_source_that_moved_is_told_and_the_entry_is_left_to_control():
    """From VM port to VM port, from there to a VTEP, to another encap, and back: each is another station."""
    edge = known()
    edge.send(VM2, to(BROADCAST, MAC_A))
    edge.send(UP, tunnelled(to(BROADCAST, MAC_A), FAR), tunnelled(to(BROADCAST, MAC_C), NEAR))
    edge.send(UP, f.wire(f.nvgre_packet(to(BROADCAST, MAC_C), FAR, b.VTEP, b.VSID)))
    edge.send(VM1, to(BROADCAST, MAC_C))
    assert edge.learned() == [
        lesson(MAC_A, VM2),
        lesson(MAC_A, UP, FAR, Encap.VXLAN),
        lesson(MAC_C, UP, NEAR, Encap.VXLAN),
        lesson(MAC_C, UP, FAR, Encap.NVGRE),
        lesson(MAC_C, VM1),
    ]
    assert edge.forwarder.macs.find(b.VNI, MAC_A)[0] == VM1  # type: ignore[index]


def test_a_static_entry_is_changed_by_no_frame_but_control_hears_of_it():
    edge = Edge()
    edge.forwarder.macs.put(b.VNI, MAC_A, VM1, static=True)
    edge.send(VM2, to(BROADCAST, MAC_A))
    assert edge.learned() == [lesson(MAC_A, VM2)]
    assert edge.send(VM2, to(MAC_A, MAC_B)) == [0, 1, 0, 0]


def test_what_control_refused_is_told_again_after_a_while():
    edge = Edge(stepwise=True)
    for time_ns in (1000, 1099, 1100, 1150, 1200, 1199):
        edge.send(VM1, to(BROADCAST, MAC_A), time_ns=time_ns * MS)
    assert [one.time_ns // MS for one in edge.learned()] == [1000, 1100, 1200]


def test_a_mac_that_is_told_from_two_ports_in_turn_is_told_each_time():
    """A move within the time that a lesson is remembered is no repetition."""
    edge = Edge(stepwise=True)
    for i, port in enumerate((VM1, VM2, VM1, VM2)):
        edge.send(port, to(BROADCAST, MAC_A), time_ns=(1000 + i) * MS)
    assert [one.in_port for one in edge.learned()] == [VM1, VM2, VM1, VM2]


def test_frames_that_nobody_gets_teach_and_those_that_are_refused_do_not():
    """N9: a frame of a shared group whose number is not ours is dropped first, and teaches nothing."""
    edge = Edge(lists=(replace(BLUE, local=(b.at_vm(VM1),), remote=()),))
    edge.send(VM1, to(BROADCAST, MAC_A))
    assert (edge.drops(), edge.learned()) == ({"no_receiver": 1}, [lesson(MAC_A, VM1)])
    edge.send(UP, tunnelled(to(MAC_A, MAC_B), FAR, b.GROUP, vni=b.OTHER_VNI))
    edge.send(UP, tunnelled(to(MAC_A, MAC_B), FAR, b.GROUP, vni=0x777777))
    edge.send(UP, tunnelled(to(MAC_A, MAC_B), FAR, "239.9.9.9"))
    edge.send(UP, tunnelled(to(MAC_A, MAC_B), b.VTEP6, b.VTEP6))
    assert edge.drops() == {"no_receiver": 1, "unknown_vni": 2, "wrong_group": 1, "own_source": 1}
    assert edge.learned() == []


def test_who_may_not_send_to_us_teaches_nothing():
    layout = replace(
        LAYOUT,
        peers=(Peer(b.NVE, ip_address(NEAR)),),
        allow_from=(AllowFrom(b.NVE, ip_network("10.5.0.0/16")),),
    )
    edge = Edge(layout=layout)
    edge.send(UP, *[tunnelled(to(BROADCAST, MAC_A), vtep) for vtep in (FAR, NEAR, "10.5.6.7")])
    assert edge.drops() == {"unknown_peer": 1}
    assert [str(one.sender) for one in edge.learned()] == [NEAR, "10.5.6.7"]


@pytest.mark.parametrize("source", [BROADCAST, bytes(6), bytes.fromhex("01005e000001")])
def test_an_address_that_nobody_has_is_not_learned(source):
    edge = Edge()
    edge.send(UP, tunnelled(to(BROADCAST, source)))
    assert edge.learned() == []


def test_a_frame_without_a_network_goes_by_its_number_alone():
    edge = Edge(layout=replace(LAYOUT, networks=()), lists=(BLUE,))
    assert edge.send(UP, tunnelled(to(MAC_A, MAC_B))) == [0, 1, 1, 0]
    assert (edge.learned(), edge.forwarder.statistics().unknown_unicast) == ([], 0)


def test_a_group_given_by_a_map_is_learned_from_as_any_other():
    maps = (GroupMap(ip_network("239.77.0.0/16"), b.addr(b.MAPPED)),)
    mapped = replace(b.BLUE, maps=maps)
    edge = Edge(layout=replace(LAYOUT, networks=(mapped, b.GREEN)))
    edge.send(UP, tunnelled(to(BROADCAST, MAC_B), NEAR, b.MAPPED))
    assert edge.learned() == [lesson(MAC_B, UP, NEAR, Encap.VXLAN)]


def test_the_vtep_of_a_nested_packet_is_the_one_inside():
    """The point that nested it carries the packet, and is nobody's station."""
    inside = f.vxlan_packet(to(BROADCAST, MAC_B), NEAR, b.GROUP, b.VNI)
    edge = Edge()
    edge.send(UP, f.wire(f.nested_packet(inside, FAR, b.VTEP)))
    assert edge.learned() == [lesson(MAC_B, UP, NEAR, Encap.VXLAN)]


def storm(n: int, first: int = 0) -> list[bytes]:
    return [to(BROADCAST, (0x02BB00000000 + first + i).to_bytes(6, "big"), size=2) for i in range(n)]


def test_a_port_that_shows_too_many_macs_at_once_is_heard_less_and_forwarded_as_ever():
    edge = Edge(stepwise=True)
    n = LESSONS_BURST + 500
    assert edge.send(VM1, *storm(n), time_ns=1000 * MS) == [n, 0, n, 0]
    assert edge.send(VM2, to(BROADCAST, MAC_B), time_ns=1000 * MS) == [1, 1, 0, 0]
    assert edge.drops() == {"learn_lost": 500}
    assert len(edge.learned()) == LESSONS_BURST + 1
    edge.send(VM1, *storm(300, n), time_ns=1010 * MS)
    assert len(edge.learned()) == 200
    assert edge.drops() == {"learn_lost": 600}


def test_a_port_whose_lessons_wait_leaves_room_for_those_of_others():
    """Half of the ring is divided among the four ports: VM1 holds its part, and what is nobody's own."""
    edge = Edge(stepwise=True)
    for second in range(1, 5):
        edge.send(VM1, *storm(8000, second * 8000), time_ns=second * 1000 * MS)
    held = edge.drops()["learn_lost"]
    assert 32_000 - held == ((1 << 20) // 2 + (1 << 20) // 8) // 56
    edge.send(VM2, *storm(2000, 900_000), time_ns=5000 * MS)
    assert edge.drops() == {"learn_lost": held}
    assert sum(one.in_port == VM2 for one in edge.learned()) == 2000


def test_what_was_lost_is_told_with_the_next_frame():
    edge = Edge(stepwise=True)
    edge.send(VM1, *storm(LESSONS_BURST + 1), time_ns=1000 * MS)
    assert len(edge.learned()) == LESSONS_BURST
    edge.send(VM1, *storm(1, LESSONS_BURST), time_ns=1010 * MS)
    assert len(edge.learned()) == 1


def test_control_learns_between_a_frame_and_the_one_behind_it():
    """Stepwise: what the first frame taught holds for the second, whatever the batch."""
    edge = Edge(stepwise=True, batch=256)
    for dst, src, port in (MAC_B, MAC_A, VM1), (MAC_A, MAC_B, VM2), (MAC_B, MAC_A, VM1), (MAC_A, MAC_B, VM2):
        edge.push(port, to(dst, src))
    steps = []
    while n := edge.forwarder.run():
        steps.append(n)
        for one in edge.learned():
            edge.forwarder.macs.put(one.vni, one.mac, one.in_port)
    assert steps == [1, 1, 2]
    assert [len(copies) for copies in edge.taken()] == [1, 2, 2, 0]
    assert edge.forwarder.statistics().unknown_unicast == 1


def test_each_worker_tells_and_all_know():
    edge = Edge(sources=None, more_workers=1)
    forwarder = edge.forwarder
    edge.push(VM1, to(BROADCAST, MAC_A))
    edge.others[0][VM2].receive(to(BROADCAST, MAC_B))
    poll = select.poll()
    for fd in forwarder.learn_fds:
        poll.register(fd, select.POLLIN)
    forwarder.run()
    assert len(poll.poll(0)) == len(forwarder.learn_fds) == 2
    assert {one.mac: one.in_port for one in edge.learned()} == {MAC_A: VM1, MAC_B: VM2}
    assert poll.poll(0) == []
    far_station = forwarder.vtep(far(FAR))
    for mac, station in (MAC_A, VM1), (MAC_B, VM2), (MAC_C, far_station):
        forwarder.macs.put(b.VNI, mac, station)
    edge.push(VM1, to(MAC_C, MAC_A))
    edge.others[0][VM2].receive(to(MAC_A, MAC_B), to(MAC_C, MAC_B))
    for ports in (edge.ports, edge.others[0]):
        for port in (ports[UP], ports[VM1]):
            port.clear()
    forwarder.run()
    assert [len(p.take()) for p in edge.ports] == [1, 0, 1, 0]
    assert [len(edge.others[0][place].take()) for place in (UP, VM1)] == [1, 1]
    assert forwarder.statistics().unknown_unicast == 0


def test_what_is_read_is_as_much_as_was_asked_for_and_the_rest_still_rings():
    edge = Edge()
    edge.send(VM1, *storm(10))
    poll = select.poll()
    poll.register(edge.forwarder.learn_fds[0], select.POLLIN)
    assert [len(edge.forwarder.read_learned(4)) for _ in range(2)] == [4, 4]
    assert len(poll.poll(0)) == 1
    assert len(edge.forwarder.read_learned(4)) == 2
    assert poll.poll(0) == []
