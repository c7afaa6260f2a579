"""Tenants' groups at a device or a point, which are no hosts upwards: what is handed on to whom (F 3.2)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ctrl.membership import ALL
from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Kind
from ctrl.roles.tenants import ASTRAY, NOBODY, OVERLAY, Sent
from tests.unit.test_nve_tenants import G, Nve

IS_EX, TO_EX = Kind.IS_EX, Kind.TO_EX


@pytest.fixture
def device() -> Nve:
    return Nve(has_host=False)


def test_a_place_that_is_new_takes_everything_until_it_had_the_time_to_answer() -> None:
    """Robustness times the response time of the first query, and a second; at an NVE alike."""
    for has_host in (True, False):
        nve = Nve(has_host=has_host, startup_response_interval_s=2.0, robustness=3)
        assert nve.tenants.takers("red") == frozenset()
        nve.tenants.take_retaken()
        nve.attach("red", 1, 2, 3, 5)
        assert nve.tenants.takers("red") == {5}
        assert nve.tenants.take_retaken() == ["red"]
        assert nve.tenants.take_changed() == [("red", None)]
        assert {one.port for one in nve.sent()} == {5}, "it is asked at once"
        nve.run(6.9)
        assert nve.tenants.takers("red") == {5}
        nve.run(0.2)
        assert nve.tenants.takers("red") == frozenset()
        assert nve.tenants.take_retaken() == ["red"]
        assert nve.tenants.take_changed() == [("red", None)]
        nve.attach("red", 1, 2, 3, 5, 6)
        nve.attach("red", 1, 2, 3, 5)
        assert nve.tenants.takers("red") == frozenset()
        assert nve.tenants.take_retaken() == ["red"]
        nve.tenants.forget("red")
        assert nve.tenants.take_retaken() == ["red"]
        assert nve.tenants.takers("red") == frozenset()


def test_a_router_takes_everything_and_one_in_the_overlay_is_at_no_place(device: Nve) -> None:
    device.ask(2)
    device.ask(OVERLAY)
    assert device.tenants.takers("red") == {2}


def test_a_device_says_nothing_for_its_tenants_and_hands_their_reports_on(device: Nve) -> None:
    """D18: to routers, here and in the overlay."""
    mine = device.say(1, TO_EX)
    assert device.sent(5.0) == [Sent("red", OVERLAY, mine, is_report=True)]
    device.ask(3)
    device.sent()
    mine = device.say(1, IS_EX)
    assert device.sent() == [Sent("red", 3, mine), Sent("red", OVERLAY, mine, is_report=True)]
    device.ask(OVERLAY)
    device.sent()
    assert device.up(5.0) == []


def test_what_came_by_a_tunnel_never_goes_back_into_one(device: Nve) -> None:
    """Split horizon (TI)."""
    query = device.ask(OVERLAY)
    assert set(device.sent()) == {Sent("red", port, query) for port in (1, 2, 3)}
    device.ask(2)
    device.sent()
    remote = device.say(OVERLAY, TO_EX)
    assert device.sent() == [Sent("red", 2, remote)]
    assert device.tenants.groups("red") == []


@pytest.mark.parametrize(("source", "codec"), [(0, igmp), (NOBODY[128], mld)])
def test_a_point_that_asks_a_device_as_nobody_is_handed_on_and_gets_the_answers(device, source, codec):
    """Otherwise it would take the device for one without tenants. It has no say in who asks here."""
    query = device.ask(OVERLAY, source, codec)
    assert set(device.sent()) == {Sent("red", port, query) for port in (1, 2, 3)}
    assert device.tenants.routers("red") == {OVERLAY}
    assert device.tenants.takers("red") == frozenset()
    assert {one.port for one in device.sent(126.0) if one.network == "red"} == {1, 2, 3}, "we ask on"


def test_who_is_at_no_place_is_heard_as_a_router_and_a_guest_but_wants_nothing(device: Nve) -> None:
    """It gets no copies of the network: whatever it joins is nobody's."""
    query = device.ask(ASTRAY)
    assert set(device.sent()) == {Sent("red", port, query) for port in (1, 2, 3, OVERLAY)}
    assert device.tenants.routers("red") == frozenset()
    report = device.say(ASTRAY, TO_EX)
    assert device.sent() == [Sent("red", OVERLAY, report, is_report=True)]
    assert device.tenants.groups("red") == []
    assert device.refused == {}


def test_d19_a_vm_that_moved_is_asked_and_nobody_else(device: Nve) -> None:
    device.say(1, TO_EX)
    device.say(2, TO_EX)
    device.sent()
    assert device.tenants.moved([ip_address("192.0.2.1"), ip_address("192.0.2.99")], device.at_s) == 1
    (asked,) = device.sent()
    assert (asked.network, asked.port) == ("red", 1)
    device.run(5.0)
    assert device.tenants.listeners("red", G) == {2: ALL}
