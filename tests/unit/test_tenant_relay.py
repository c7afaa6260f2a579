"""Between the role that hears tenants of a device and the data path (F 3.2): whose a frame is, and how what
control sends leaves: in the bytes that the data path would have made of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import dpkt
import pytest

from ctrl import punt
from ctrl.members import router_places
from ctrl.membership import ALL, Origin, Who
from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Kind, Query
from ctrl.tenant_side import NOWHERE
from ctrl.tenants_told import Told
from fastpath import Inner, Punted
from fastpath.model import Encap, Owner, Scope
from tests.unit.relays import (
    BLUE,
    CORE,
    OF_NOBODY,
    OTHER,
    OUTER,
    P1,
    P2,
    P3,
    PEER,
    QUERY,
    VMS,
    Box,
    G,
    H,
    destination,
    from_nve,
    from_peer,
    inside,
    report,
)


def test_each_place_is_asked_at_once_by_a_packet_of_ours_in_its_own_encapsulation() -> None:
    box = Box()
    sent = box.out()
    first = [(port, frame) for port, frame in sent if inside(frame)[12:14] == b"\x08\x00"]
    assert [(port, destination(frame)) for port, frame in first] == [
        (P1, "239.1.1.1"),
        (P2, "239.1.1.1"),
        (P3, "239.1.1.1"),
        (P3, "10.1.3.7"),
    ]
    for port, frame in first:
        packet = dpkt.ip.IP(frame[14:])
        assert (ip_address(packet.src), packet.ttl) == (ip_address("10.0.0.1"), 64)
        assert packet.p == (dpkt.ip.IP_PROTO_GRE if port == P2 else dpkt.ip.IP_PROTO_UDP)
        heard = punt.read(inside(frame), strict_headers=True)
        assert isinstance(heard, punt.Heard)
        assert (heard.source, heard.mac) == (0, bytes.fromhex("02fb0a000001"))
    assert len(sent) == 2 * len(first), "and MLD"


@pytest.mark.parametrize("codec", [igmp, mld])
def test_a_query_leaves_as_the_data_path_would_have_copied_it_and_goes_to_everybody_but_back(codec):
    box = Box().quiet()
    source = VMS + 99 if codec is igmp else int(ip_address("fe80::99"))
    query = codec.query_frame(Query(3, robustness=2, interval_s=125.0), bytes(5) + b"\x42", source)
    for n in (P1, P2):
        frame = from_nve(n, query)
        box.hear(n, frame)
        sent = box.handed_on()
        assert sent == box.copied(n, frame)
        assert {port for port, _ in sent} == {CORE, P1, P2, P3} - {n}
    assert box.refused == {}


def test_a_query_from_another_device_goes_to_nves_here_and_to_no_device() -> None:
    """Split horizon (TI)."""
    box = Box().quiet()
    frame = from_peer(QUERY)
    box.hear(CORE, frame)
    sent = box.handed_on()
    assert {port for port, _ in sent} == {P1, P2, P3}
    assert sent == box.copied(CORE, frame)


def test_a_report_goes_to_routers_alone_and_leaves_as_a_copy() -> None:
    """D18: it is nobody else's."""
    box = Box().quiet()
    box.hear(P1, from_nve(P1, report(1)))
    assert box.handed_on() == []
    box.hear(P3, from_nve(P3, QUERY))
    box.out()
    frame = from_nve(P1, report(1, Kind.IS_EX))
    box.hear(P1, frame)
    assert box.handed_on() == [
        one for one in box.copied(P1, frame) if one[0] == P3 and destination(one[1])[:3] == "239"
    ]
    frame = from_peer(report(9))
    box.hear(CORE, frame)
    assert box.handed_on() == [
        one for one in box.copied(CORE, frame) if one[0] == P3 and destination(one[1])[:3] == "239"
    ]
    assert box.relay.listeners("blue", G) == {Owner(port=P1): ALL}


def test_where_multicast_routers_are_is_shown_by_port_by_nve_served_by_unicast_and_as_the_overlay() -> None:
    box = Box().quiet()
    names = [port.name for port in box.config.ports]
    shown = lambda network: router_places(names, None, [box.relay], network)  # noqa: E731
    assert shown("blue") == ()
    for port, frame in (
        (P2, from_nve(P2, QUERY)),
        (P3, from_nve(P3, QUERY, host=7)),
        (CORE, from_peer(QUERY)),
    ):
        box.hear(port, frame)
    assert shown("blue") == ("overlay", "p2", "p3/10.1.3.7")
    assert shown("red") == ()


def test_a_report_goes_into_the_overlay_where_a_router_was_heard_or_a_manager_says_that_one_is() -> None:
    box = Box().quiet()
    to_peers = lambda: sorted(destination(frame) for port, frame in box.out() if port == CORE)  # noqa: E731
    box.hear(P1, from_nve(P1, report(1)))
    assert to_peers() == []
    box.told.instruct_any(BLUE, Told(frozenset({PEER})))
    box.told.instruct_aware(BLUE, Told(frozenset({PEER, OTHER})))
    box.hear(P1, from_nve(P1, report(1)))
    assert to_peers() == [str(PEER)], "the other one is known to have no router"
    box.told.instruct_any(BLUE, None)
    box.told.instruct_aware(BLUE, None)
    box.hear(CORE, from_peer(QUERY))
    box.out()
    frame = from_nve(P1, report(1))
    box.hear(P1, frame)
    assert box.handed_on() == [one for one in box.copied(P1, frame) if one[0] == CORE]
    box.hear(CORE, from_peer(report(9)))
    assert box.handed_on() == []


def test_a_point_that_asks_as_nobody_is_answered_through_a_device() -> None:
    box = Box().quiet()
    frame = from_peer(OF_NOBODY)
    box.hear(CORE, frame)
    assert box.handed_on() == box.copied(CORE, frame)
    box.hear(P1, from_nve(P1, report(1)))
    assert {port for port, _ in box.out()} == {CORE}


def test_an_nve_served_by_unicast_is_a_place_of_its_own() -> None:
    box = Box().quiet()
    alone, port = Owner(P3, ip_address("10.1.3.7")), Owner(P3)
    assert box.relay.places("blue") == {Owner(P1), Owner(P2), port, alone}
    frame = from_nve(P3, report(7), to="10.0.0.1", host=7)
    box.hear(P3, frame)
    box.hear(P3, from_nve(P3, report(3, group=H)))
    assert box.relay.listeners("blue", G) == {alone: ALL}
    assert box.relay.listeners("blue", H) == {port: ALL}
    query = from_nve(P3, QUERY, to="10.0.0.1", host=7)
    box.hear(P3, query)
    assert box.handed_on() == box.copied(P3, query), "its group is recovered (D14)"
    assert box.relay.takers("blue") == {alone}


def test_a_place_comes_and_goes_with_the_list_of_its_network_and_is_new_at_first() -> None:
    box = Box(joins=(P1,)).quiet()
    assert box.relay.takers("blue") == frozenset()
    box.join(P2)
    box.update()
    assert box.relay.takers("blue") == {Owner(P2)}
    assert {port for port, _ in box.out()} == {P2}
    box.hear(P2, from_nve(P2, report(2)))
    box.hear(P1, from_nve(P1, report(1)))
    assert set(box.relay.listeners("blue", G)) == {Owner(P1), Owner(P2)}
    box.out(5.0)
    assert box.relay.takers("blue") == frozenset()
    box.join(P2, leaves=True)
    box.update()
    assert set(box.relay.listeners("blue", G)) == {Owner(P1)}
    assert box.relay.places("blue") == {Owner(P1), Owner(P3, ip_address("10.1.3.7"))}


def test_who_is_in_no_list_is_heard_as_a_router_and_joins_nothing() -> None:
    box = Box(joins=(P1,)).quiet()
    frame = from_nve(P2, QUERY)
    box.hear(P2, frame)
    assert box.handed_on() == box.copied(P2, frame)
    box.hear(P2, from_nve(P2, report(2)))
    assert box.relay.groups("blue") == []


def test_what_a_list_changes_of_another_network_is_nothing_to_the_places_of_this_one() -> None:
    box = Box()
    red = ip_address("239.1.1.2")
    box.membership.apply(red, Who(P1, Origin.STATIC), ALL)
    step = box.publisher.update()
    assert not box.relay.touched([one.key for one in step.lists], box.at_s)


def test_events_and_members_are_at_their_ports() -> None:
    box = Box().quiet()
    box.hear(P3, from_nve(P3, report(7), to="10.0.0.1", host=7))
    ((network, event),) = box.relay.take_events()
    assert (network, event.who.port, event.group) == ("blue", P3, G)
    ((_, device),) = box.relay.devices()
    ((place, *_),) = device.members(box.at_s)
    assert box.relay.port_of(place) == P3


def test_a_network_that_snoops_no_more_is_forgotten() -> None:
    box = Box().quiet()
    box.hear(P1, from_nve(P1, report(1)))
    frame = from_nve(P1, report(1))
    punted = Punted(P1, 0, frame, Inner(Encap.VXLAN, 5001, 50, len(frame), Scope.DEVICE))
    turn = box.relay.whose(punted)[0]
    box.layout = replace(box.layout, networks=tuple(replace(n, snoop=False) for n in box.layout.networks))
    box.attach()
    assert box.relay.groups("blue") == []
    assert box.relay.places("blue") == frozenset()
    assert box.relay.whose(punted)[0] == NOWHERE
    for place in (turn, NOWHERE):
        box.relay.hear(place, frame, box.at_s)
    assert box.refused == {"not_an_nve_port": 2}
    assert box.out(200.0) == []


def test_a_box_whose_config_has_no_device_any_more_listens_to_nobody() -> None:
    box = Box().quiet()
    box.relay.configure(box.config.model_copy(update={"device": None}))
    box.attach()
    assert box.relay.places("blue") == frozenset()
    assert box.out(200.0) == []


def test_what_cannot_leave_is_counted() -> None:
    box = Box().quiet()
    ports = [replace(port, mtu=60, next_hop_mac=None) for port in box.layout.ports]
    box.layout = replace(box.layout, ports=tuple(ports))
    box.attach()
    box.hear(P1, from_nve(P1, QUERY))
    assert box.handed_on() == []
    assert box.refused == {"tenant_not_sent": 5}


def test_frames_are_taken_in_turns_and_counted_until_then() -> None:
    box = Box().quiet()
    for _ in range(3):
        box.hear(P1, from_nve(P1, QUERY))
    assert box.relay.n_frames == 12
    assert len(box.relay.take_frames(4)) == 5, "the overlay is two devices"
    assert box.relay.n_frames == 8


def test_n9_a_group_that_another_one_carries_is_asked_for_in_that_one() -> None:
    """And in general in the network's own, or in what an NVE is in."""
    mapped = ip_address("239.1.1.9")
    maps = f'[[network.map]]\ninner = "{H}/32"\ngroup = "{mapped}"\n'
    box = Box(joins=(P1,), maps=maps)
    for port in (P1, P3):
        box.join(port, mapped)
    box.update()
    first = {(port, destination(frame)) for port, frame in box.out()}
    assert first == {(P1, str(OUTER)), (P3, str(mapped)), (P3, "10.1.3.7")}
    box.quiet()
    for group in (G, H):
        box.hear(P1, from_nve(P1, report(1, group=group)))
        box.hear(P1, from_nve(P1, report(1, Kind.TO_IN, group)))
    assert [destination(frame) for _, frame in box.out()] == [str(OUTER), str(mapped)]
