"""Which MAC is where: what teaches it, what refuses it, and what makes it forgotten."""

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address

import pytest

from ctrl.roles.nve.macs import SLICE, TICKS, WAIT_TICKS, WAITING_PART, Change, Limits, Static
from ctrl.roles.nve.places import Vtep
from fastpath.model import Encap
from tests.unit.learning import (
    BLUE,
    FAR,
    FARTHER,
    LIMITS,
    PORTS,
    RED,
    SAME_BY_NVGRE,
    VTEPS_FROM,
    Learning,
    mac,
)


def test_what_a_vm_sends_teaches_where_it_is():
    on = Learning()
    on.hear(BLUE, 1, 0)
    on.hear(RED, 1, 2)
    assert on.known == {(BLUE, 1): 0, (RED, 1): 2}
    assert on.macs.take_changes() == [
        Change("learned", BLUE, mac(1), None, 0),
        Change("learned", RED, mac(1), None, 2),
    ]
    assert not on.macs.take_changes()
    assert on.macs.learned == 2


def test_a_mac_behind_a_vtep_waits_for_the_next_hop_and_is_flooded_to_until_then():
    on = Learning()
    on.hear(BLUE, 1, FAR)
    on.hear(BLUE, 2, FAR)
    assert on.macs.waiting == [FAR]
    assert on.known == {}
    on.reach(FAR, FARTHER)
    assert on.known == {(BLUE, 1): FAR, (BLUE, 2): FAR}
    assert not on.macs.waiting
    on.hear(BLUE, 3, FAR)
    assert on.known[BLUE, 3] == FAR
    assert on.table.who == {VTEPS_FROM: FAR}


def test_what_waits_for_vteps_is_bounded_and_makes_room_when_it_waits_no_longer():
    on = Learning(Limits(max_macs=6, max_per_network=64, max_per_port=64, max_vteps=8, ageing_s=300))
    for i in range(4):
        on.hear(BLUE, i, FAR)
        on.hear(RED, i, FARTHER)
    assert on.refused == {"mac_table_full": 2}
    on.hear(BLUE, 0, FAR)
    assert on.refused == {"mac_table_full": 2}, "it waits already"
    on.macs.expire(WAIT_TICKS)
    for i in range(6):
        on.hear(BLUE, i, FAR)
    on.reach(FAR)
    assert len(on.table) == 6
    assert on.refused == {"mac_table_full": 2}
    on.hear(BLUE, 9, FARTHER)
    on.reach(FARTHER)
    assert on.refused == {"mac_table_full": 3}


@pytest.mark.parametrize("address", ["239.1.1.1", "ff05::1", "0.0.0.0", "::", "127.0.0.1", "255.255.255.255"])
def test_nothing_is_learned_from_an_address_that_no_vtep_can_have(address):
    on = Learning()
    on.hear(BLUE, 1, Vtep(ip_address(address), Encap.VXLAN))
    assert on.refused == {"not_a_vtep": 1}
    assert not on.macs.vteps


def test_a_vtep_that_is_never_reached_is_forgotten_and_makes_room():
    on = Learning()
    on.hear(BLUE, 1, FAR)
    on.hear(BLUE, 2, FARTHER)
    on.hear(BLUE, 3, SAME_BY_NVGRE)
    assert on.refused == {"vteps_waiting": 1}
    on.macs.expire(WAIT_TICKS - 1)
    assert len(on.macs.vteps) == 2
    on.macs.expire(WAIT_TICKS)
    assert not on.macs.vteps
    on.reach(FAR)
    assert on.known == {}


def test_whoever_makes_up_vteps_takes_a_part_of_the_places_and_nobodys_who_is_known():
    many = [Vtep(ip_address(f"10.0.1.{i}"), Encap.VXLAN) for i in range(100)]
    on = Learning(near={FARTHER})
    on.hear(BLUE, 1, FAR)
    on.reach(FAR)
    for vtep in many:
        on.hear(BLUE, 2, vtep)
    assert on.macs.waiting == many[: LIMITS.max_vteps // WAITING_PART]
    assert on.refused == {"vteps_waiting": 98}
    on.hear(BLUE, 3, FAR)
    on.hear(BLUE, 4, FARTHER)
    assert on.known == {(BLUE, 1): FAR, (BLUE, 3): FAR, (BLUE, 4): FARTHER}, (
        "nobody waits for what is reached"
    )
    on.macs.expire(WAIT_TICKS)
    on.hear(BLUE, 2, SAME_BY_NVGRE)
    assert on.macs.waiting == [SAME_BY_NVGRE]


def test_of_vteps_that_are_reached_there_are_as_many_as_there_may_be():
    many = [Vtep(ip_address(f"10.0.1.{i}"), Encap.VXLAN) for i in range(9)]
    on = Learning(near=set(many))
    for i, vtep in enumerate(many):
        on.hear(BLUE, i, vtep)
    assert set(on.known.values()) == set(many[:8])
    assert on.refused == {"vteps_full": 1}


def test_a_vtep_that_is_reached_but_whose_mac_is_refused_holds_no_place():
    on = Learning(Limits(64, 1, 64, 1, 300), near={FAR, FARTHER})
    on.hear(BLUE, 1, 0)
    on.hear(BLUE, 2, FAR)
    assert on.refused == {"mac_network_full": 1}
    assert not on.macs.vteps


def test_a_vm_that_moved_is_where_it_was_heard_last():
    """The gratuitous ARP of a VM that moved moves its entry."""
    on = Learning()
    on.hear(BLUE, 1, 0)
    on.hear(BLUE, 2, FAR)
    on.reach(FAR)
    on.macs.take_changes()
    on.hear(BLUE, 1, FAR)
    on.hear(BLUE, 2, 1)
    assert on.known == {(BLUE, 1): FAR, (BLUE, 2): 1}
    assert on.macs.take_changes() == [
        Change("moved", BLUE, mac(1), 0, FAR),
        Change("moved", BLUE, mac(2), FAR, 1),
    ]
    assert (on.macs.learned, on.macs.moved) == (2, 2)


def test_a_frame_that_a_device_translated_does_not_tell_what_its_vtep_speaks():
    on = Learning()
    native, translated = SAME_BY_NVGRE, FAR
    on.hear(BLUE, 1, translated)
    on.reach(translated)
    on.hear(BLUE, 1, native)
    on.reach(native)
    assert on.known == {(BLUE, 1): native}
    on.hear(BLUE, 1, translated)
    assert on.macs.vteps == {native}, "there is nobody to ask for"
    on.hear(BLUE, 2, translated)
    on.reach(translated)
    on.hear(BLUE, 1, translated)
    assert on.known == {(BLUE, 1): native, (BLUE, 2): translated}
    on.hear(BLUE, 1, FARTHER)
    on.reach(FARTHER)
    assert on.known[BLUE, 1] == FARTHER, "it moved to another address"


def test_a_mac_that_moved_counts_where_it_is_and_no_longer_where_it_was():
    on = Learning()
    for i in range(4):
        on.hear(BLUE, i, 0)
    on.hear(BLUE, 0, 1)
    on.hear(BLUE, 9, 0)
    assert on.known[BLUE, 9] == 0
    assert not on.refused


def test_a_mac_that_would_move_to_a_full_port_stays_where_it_was():
    on = Learning()
    for i in range(4):
        on.hear(BLUE, i, 0)
    on.hear(BLUE, 9, 1)
    on.hear(BLUE, 9, 0)
    assert on.known[BLUE, 9] == 1
    assert on.refused == {"mac_port_full": 1}


@pytest.mark.parametrize(
    ("limits", "room", "why"),
    [
        (Limits(64, 64, 4, 2, 300), 64, "mac_port_full"),
        (Limits(64, 4, 64, 2, 300), 64, "mac_network_full"),
        (Limits(4, 64, 64, 2, 300), 64, "mac_table_full"),
        (Limits(64, 64, 64, 2, 300), 4, "mac_table_full"),
    ],
)
def test_each_limit_is_exact_and_has_a_name(limits, room, why):
    on = Learning(limits, room=room)
    for i in range(10):
        on.hear(BLUE, i, 0)
    assert len(on.table) == 4
    assert on.refused == {why: 6}
    on.hear(BLUE, 0, 0)
    assert on.refused == {why: 6}
    on.macs.attach({1: BLUE, 2: RED})
    on.hear(BLUE, 99, 1)
    assert on.known == {(BLUE, 99): 1}


def test_who_floods_from_one_port_takes_nothing_from_another():
    on = Learning()
    for i in range(10_000):
        on.hear(BLUE, i, 0)
    for i in range(20_000, 20_004):
        on.hear(BLUE, i, 1)
        on.hear(RED, i, 2)
    assert Counter(on.known.values()) == {0: 4, 1: 4, 2: 4}
    assert on.refused == {"mac_port_full": 9996}


def test_a_static_entry_never_moves():
    on = Learning()
    on.fix(Static(BLUE, mac(1), 0), Static(BLUE, mac(2), FAR))
    for place in (1, FARTHER, FAR):
        on.hear(BLUE, 1, place)
    on.hear(BLUE, 2, 0)
    assert on.known == {(BLUE, 1): 0, (BLUE, 2): FAR}
    assert on.refused == {"static_mac_moved": 4}
    on.hear(BLUE, 1, 0)
    on.hear(BLUE, 2, FAR)
    assert on.refused == {"static_mac_moved": 4}
    assert FARTHER not in on.macs.vteps


def test_a_static_entry_takes_a_learned_mac_away_and_outlives_its_port_and_its_age():
    on = Learning()
    on.hear(BLUE, 1, 0)
    on.fix(Static(BLUE, mac(1), 1))
    on.macs.attach({})
    on.macs.expire(301 * TICKS)
    assert on.known == {(BLUE, 1): 1}
    on.fix()
    assert on.known == {}
    on.macs.attach(PORTS)
    for i in range(4):
        on.hear(BLUE, i, 0)
        on.hear(BLUE, 10 + i, 1)
    assert not on.refused


def test_static_entries_that_find_no_room_are_counted():
    on = Learning(room=1)
    on.fix(Static(BLUE, mac(1), 0), Static(BLUE, mac(2), FAR))
    assert on.refused == {"mac_table_full": 1}
    assert not on.macs.vteps
    on = Learning(replace(LIMITS, max_vteps=2))
    on.fix(*(Static(BLUE, mac(i), vtep) for i, vtep in enumerate((FAR, FARTHER, SAME_BY_NVGRE))))
    assert on.refused == {"vteps_full": 1}


def test_a_port_that_goes_has_no_macs_at_once_and_what_was_told_of_it_before_counts_no_more():
    on = Learning()
    on.hear(BLUE, 1, 0)
    on.hear(BLUE, 2, 1)
    on.macs.take_changes()
    on.macs.attach({1: BLUE})
    assert on.known == {(BLUE, 2): 1}
    assert on.macs.take_changes() == [Change("cleared", BLUE, mac(1), 0, None)]
    on.hear(BLUE, 1, 0)
    assert on.known == {(BLUE, 2): 1}


def test_a_port_of_another_network_has_none_of_the_macs_of_the_one_before():
    on = Learning()
    on.hear(BLUE, 1, 0)
    on.macs.attach(PORTS | {0: RED})
    on.hear(BLUE, 2, 0)
    on.hear(RED, 3, 0)
    assert on.known == {(RED, 3): 0}


def test_the_macs_of_a_network_that_is_gone_go_with_it():
    on = Learning()
    on.hear(BLUE, 1, 0)
    on.hear(RED, 2, FAR)
    on.reach(FAR)
    on.macs.configure(LIMITS, (), {BLUE: Encap.VXLAN}, 0)
    assert on.known == {(BLUE, 1): 0}
    assert not on.macs.vteps


def test_macs_that_nobody_hears_of_age_and_static_ones_do_not():
    on = Learning()
    on.fix(Static(BLUE, mac(7), 1))
    on.hear(BLUE, 1, 0)
    on.hear(BLUE, 2, 0)
    on.table.entries[BLUE, mac(2)][1] = 5
    on.macs.take_changes()
    on.macs.expire(300 * TICKS)
    assert len(on.table) == 3
    on.macs.expire(300 * TICKS + 1)
    assert on.known == {(BLUE, 2): 0, (BLUE, 7): 1}
    assert on.macs.take_changes() == [Change("aged", BLUE, mac(1), 0, None)]
    assert on.macs.aged == 1


def test_a_vtep_without_a_mac_leaves_its_station_to_the_next_one():
    on = Learning()
    on.hear(BLUE, 1, FAR)
    on.reach(FAR)
    many = [Vtep(ip_address(f"10.0.1.{i}"), Encap.VXLAN) for i in range(100)]
    for vtep in many:
        on.hear(BLUE, 2, vtep)
        on.reach(vtep)
        assert on.known == {(BLUE, 1): FAR, (BLUE, 2): vtep}
        on.table.entries[BLUE, mac(1)][1] = 1
        on.macs.expire(300 * TICKS + 1)
    assert not on.refused
    assert on.table.who == {VTEPS_FROM: FAR, VTEPS_FROM + 1: many[-1]}


def test_vteps_that_come_back_get_the_stations_that_they_had():
    """The data path knows a VTEP by one station, and refuses a second one."""
    on = Learning()
    for vteps in ((FAR, FARTHER), (FARTHER, FAR)):
        for i, vtep in enumerate(vteps):
            on.hear(BLUE, i, vtep)
            on.reach(vtep)
        on.macs.expire(301 * TICKS)
        assert not on.macs.vteps
    assert on.table.who == {VTEPS_FROM: FAR, VTEPS_FROM + 1: FARTHER}


def test_a_vtep_whose_macs_were_all_refused_holds_no_station():
    on = Learning(Limits(64, 1, 64, 1, 300))
    on.hear(BLUE, 1, 0)
    on.hear(BLUE, 2, FAR)
    on.reach(FAR)
    assert on.refused == {"mac_network_full": 1}
    assert not on.macs.vteps
    on.hear(RED, 3, FARTHER)
    on.reach(FARTHER)
    assert on.known == {(BLUE, 1): 0, (RED, 3): FARTHER}


def test_a_vtep_with_a_station_keeps_nothing_that_waits():
    on = Learning()
    on.hear(BLUE, 1, FAR)
    on.hear(BLUE, 2, FARTHER)
    on.reach(FAR)
    on.fix(Static(BLUE, mac(9), FARTHER))
    assert on.known == {(BLUE, 1): FAR, (BLUE, 9): FARTHER}
    assert not any(remote.waiting for remote in on.macs._vteps.values())


def test_what_is_known_is_looked_up_a_slice_at_a_time_and_may_change_in_between():
    on = Learning()
    on.hear(BLUE, 1, 0)
    on.hear(BLUE, SLICE + 1, 1)
    on.hear(BLUE, 2 * SLICE + 1, 1)
    walk = on.macs.known()
    assert next(walk).place == 0
    on.macs.attach({0: BLUE})
    on.hear(BLUE, 3 * SLICE + 1, 0)
    on.hear(BLUE, 2, 0)
    assert [one.mac for one in walk] == [mac(3 * SLICE + 1)]


def test_nothing_is_kept_for_those_who_do_not_watch():
    on = Learning()
    on.macs._is_watched = lambda: False
    on.hear(BLUE, 1, 0)
    assert not on.macs.take_changes()
