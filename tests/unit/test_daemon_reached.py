"""Whether an NVE and its VTEPs reach one another, in the log: what is told, once, and how much of it."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from ctrl.daemon.reached import LINES, Reached
from ctrl.netlink import NextHop
from tests.unit.nves import OWN, UP
from tests.unit.test_daemon_nve import FARTHER as FAR
from tests.unit.test_daemon_nve import NEXT, Host, far

NEAR = ip_address("10.0.0.2")
UNREACHED = ("WARNING", "vtep unreached vtep=10.7.0.3 why=no_route")
REACHED = ("INFO", "vtep reached vtep=10.7.0.3")
MANY = [ip_address(0x0A090000 + i) for i in range(LINES + 3)]


@pytest.fixture
def said(caplog):
    """Lines of the NVE and their levels since it was last asked."""
    caplog.set_level("INFO")

    def take():
        lines = [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "fastpath.nve"]
        caplog.clear()
        return lines

    return take


def look(on, *states, times=2):
    for _ in range(times):
        on.vteps(dict(states))


def test_what_netlink_still_asks_for_is_not_told(said):
    on = Reached(9)
    look(on, (FAR, "no_neighbour"), times=1)
    look(on, (FAR, "up"), (NEAR, "no_neighbour"), times=1)
    look(on, (FAR, "no_neighbour"), (NEAR, "up"), times=1)
    assert said() == []


@pytest.mark.parametrize("why", ["no_route", "no_neighbour"])
def test_a_vtep_is_told_when_it_is_unreached_and_when_that_is_over(said, why):
    on = Reached(9)
    look(on, (FAR, why), (NEAR, "up"), times=5)
    assert said() == [("WARNING", f"vtep unreached vtep=10.7.0.3 why={why}")]
    look(on, (NEAR, "up"))
    look(on, (FAR, ""), (NEAR, "up"))
    look(on, (FAR, why), (NEAR, "up"))
    assert said() == [], "forgotten, heard anew and not asked for yet, and as before"
    look(on, (FAR, "up"), (NEAR, "up"))
    assert said() == [("INFO", "vtep reached vtep=10.7.0.3")]
    look(on, (FAR, why))
    assert len(said()) == 1


def test_a_link_that_is_down_is_told_by_others(said):
    look(Reached(9), (FAR, "down"))
    assert said() == []


def test_who_makes_up_vteps_gets_few_lines_and_a_number(said):
    on = Reached(len(MANY))
    look(on, *((one, "no_route") for one in MANY))
    lines = said()
    assert len(lines) == LINES + 1
    assert lines[-1] == ("WARNING", "vteps unreached besides=3")
    look(on, *((one, "up") for one in MANY))
    lines = said()
    assert len(lines) == LINES + 1
    assert lines[-1] == ("INFO", "vteps reached besides=3")


def test_as_many_are_remembered_as_there_may_be_and_the_oldest_make_room(said):
    on = Reached(2)
    for one in MANY[:3]:
        look(on, (one, "no_route"))
    assert len(on._told) == 2
    said()
    look(on, (MANY[2], "no_route"))
    assert said() == []
    look(on, (MANY[0], "no_route"))
    assert len(said()) == 1


def test_our_address_is_told_when_no_interface_has_it_and_when_one_has_it_again(said):
    on = Reached(9)
    on.own(NEAR, {NEAR, FAR})
    assert said() == []
    for _ in range(3):
        on.own(NEAR, {FAR})
    ((level, line),) = said()
    assert level == "WARNING"
    assert line.startswith("nve address on no interface address=10.0.0.2")
    on.own(NEAR, {NEAR})
    assert said() == [("INFO", "nve address found address=10.0.0.2")]


@pytest.mark.asyncio
async def test_a_vtep_that_waits_is_shown_and_told_once(said):
    on = Host()
    on.hear(UP, far(5, sender=FAR))
    assert (on.nve.view().waiting, on.nve.view().vteps) == ((FAR,), ())
    on.nve.tick()
    on.nve.tick()
    assert said() == [], "netlink was not asked yet"
    on.see(hops={FAR: NextHop(None)})
    on.nve.tick()
    assert said() == []
    on.nve.tick()
    on.nve.tick()
    assert said() == [UNREACHED]
    on.nve._macs.expire(on.forwarder.mac_now() + 1000)
    assert on.nve.vteps == frozenset()
    on.hear(UP, far(6, sender=FAR))
    on.reach = replace(on.reach, states={})
    on.nve.apply(on.reach, {}, on.addresses)
    on.nve.tick()
    on.see()
    on.nve.tick()
    on.nve.tick()
    assert said() == [], "it is the same one"
    on.see(hops={FAR: NextHop("up", NEXT)})
    on.nve.tick()
    assert said() == [REACHED]
    assert (on.nve.view().waiting, on.nve.view().vteps) == ((), ((FAR, UP),))
    on.see(hops={FAR: NextHop(None)})
    on.nve.tick()
    on.nve.tick()
    assert said() == [UNREACHED]


@pytest.mark.asyncio
async def test_an_address_that_no_interface_has_is_warned_about_once(said):
    on = Host()
    assert said() == []
    on.addresses = {NEAR}
    on.see()
    on.see()
    ((_, line),) = said()
    assert line.startswith("nve address on no interface address=10.0.0.1: ")
    on.addresses = {NEAR, OWN}
    on.see()
    on.see()
    assert said() == [("INFO", "nve address found address=10.0.0.1")]
