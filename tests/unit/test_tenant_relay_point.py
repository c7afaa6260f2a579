"""The same at a point: who is asked, and what is handed on to whom (F 3.2, N12)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import dpkt
import pytest

from ctrl.members import router_places
from ctrl.membership import ALL
from ctrl.point_lists import Receivers
from fastpath.model import Owner, Peer, Scope
from tests.unit.relays import (
    CORE,
    OF_NOBODY,
    OUTER,
    P1,
    P2,
    P3,
    POINT,
    QUERY,
    Box,
    G,
    destination,
    from_nve,
    from_peer,
    inside,
    report,
)


@pytest.fixture
def point() -> Box:
    return Box(POINT, joins=(), scope=Scope.REPLICATOR)


def test_n12_a_point_asks_each_receiver_of_its_list_in_its_own_encapsulation(point: Box) -> None:
    sent = [frame for _, frame in point.out() if inside(frame)[12:14] == b"\x08\x00"]
    packets = [dpkt.ip.IP(frame[14:]) for frame in sent]
    assert [str(ip_address(one.dst)) for one in packets] == ["10.1.1.2", "10.1.2.2", "10.1.3.2"]
    assert [one.p for one in packets] == [17, 47, 17]
    assert {ip_address(one.src) for one in packets} == {ip_address("10.0.0.1")}
    owners = {Owner(address=ip_address(f"10.1.{n}.2")) for n in (1, 2, 3)}
    assert point.relay.takers("blue") == point.relay.places("blue") == owners


def test_a_point_hears_its_receivers_and_hands_on_as_it_would_copy(point: Box) -> None:
    point.quiet()
    for n in (P1, P2):
        frame = from_nve(n, QUERY, to="10.0.0.1")
        point.hear(n, frame)
        assert point.handed_on() == point.copied(n, frame)
    frame = from_nve(P3, report(3), to="10.0.0.1")
    point.hear(P3, frame)
    routers = {"10.1.1.2", "10.1.2.2"}
    assert point.handed_on() == [one for one in point.copied(P3, frame) if destination(one[1]) in routers]
    assert set(router_places((), None, [point.relay], "blue")) == routers
    assert point.relay.listeners("blue", G) == {Owner(address=ip_address("10.1.3.2")): ALL}
    ((_, event),) = point.relay.take_events()
    assert event.who.port == P3, "the port by which it is reached"


def test_a_point_asks_through_the_devices_of_its_list_by_group() -> None:
    """As they would get a packet of the group: whole, in a tunnel (R3)."""
    text = POINT.replace("vni = 5001", f'group = "{OUTER}"').replace(', encap = "nvgre"', "")
    box = Box(text, joins=(), scope=Scope.REPLICATOR)
    sent = [dpkt.ip.IP(frame[14:]) for _, frame in box.out()]
    assert {str(ip_address(one.dst)) for one in sent} == {f"10.1.{n}.2" for n in (1, 2, 3)}
    asked = {dpkt.ip.IP(bytes(one.data.data)[4:]).dst for one in sent}
    assert asked == {OUTER.packed}
    box.quiet()
    box.hear(P1, from_peer(report(1), "10.1.1.2"))
    assert box.relay.listeners("blue", G) == {Owner(address=ip_address("10.1.1.2")): ALL}


def test_r6_who_is_in_another_list_of_a_point_has_nothing_to_say_in_this_one() -> None:
    box = Box(
        POINT + '[[replicator.list]]\nvni = 7\naddresses = ["10.1.1.66"]\n', joins=(), scope=Scope.REPLICATOR
    )
    box.quiet()
    for inner in (QUERY, report(1)):
        box.hear(P1, from_nve(P1, inner, to="10.0.0.1", host=66))
    assert box.out() == []
    assert box.relay.groups("blue") == []
    assert box.refused == {"tenant_not_heard": 2}


def test_what_came_to_a_point_as_for_its_own_alone_is_not_copied_on() -> None:
    """IR-IP of RFC 9574, from a remote sender: its data would have no receiver either."""
    text = POINT.replace('"10.0.0.1"', '"10.0.0.1"\nreplicate = "10.0.0.9"')
    box = Box(text, joins=(), scope=Scope.REPLICATOR).quiet()
    frame = from_nve(P1, QUERY, to="10.0.0.1")
    box.hear(CORE, frame)
    assert box.out() == []
    box.hear(CORE, from_nve(P1, QUERY, to="10.0.0.9"))
    assert len(box.out()) == 2


def test_a_point_whose_list_is_a_managers_listens_to_nobody_and_hands_everything_on() -> None:
    """Who wants what its devices say themselves: it is as if it did not snoop."""
    box = Box('[replicator]\naddress = "10.0.0.1"\n', joins=(), scope=Scope.REPLICATOR)
    receivers = tuple(ip_address(f"10.1.{n}.2") for n in (1, 2, 3))
    box.publisher.instruct_point(OUTER, Receivers(receivers, (), (5001,), (6001,)))
    box.publisher.update()
    box.layout = replace(box.layout, peers=tuple(Peer(Scope.REPLICATOR, one) for one in receivers))
    box.attach()
    assert box.relay.places("blue") == frozenset()
    assert box.out(200.0) == []
    for inner in (QUERY, OF_NOBODY, report(1)):
        frame = from_nve(P1, inner, to="10.0.0.1")
        box.hear(P1, frame)
        sent = box.handed_on()
        assert sent == box.copied(P1, frame)
        assert {destination(one) for _, one in sent} == {"10.1.2.2", "10.1.3.2"}
    assert box.relay.groups("blue") == []
    assert box.refused == {}
