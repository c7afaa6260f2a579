"""Bounds: exact, on the offender, before anything is stored; and the room that all ports share."""

from __future__ import annotations

from ctrl.protocols.messages import Record, Report
from ctrl.protocols.state import Bounds, Room, Timers
from tests.unit.routed import ALLOW, IS_EX, IS_IN, TO_EX, TO_IN, A, B, C, G, H, Port, host
from tests.unit.test_router_leaving import ask_all, begun


def join(port: Port, *groups: int, whose: tuple[bytes, int] = A) -> None:
    port.hear(Report(3, tuple(Record(TO_EX, group) for group in groups)), whose)


def test_groups_of_one_port_end_at_its_bound_and_those_who_are_in_are_not_touched() -> None:
    port = Port(bounds=Bounds(max_groups_per_port=3))
    join(port, 1, 2, 3, 4, 5)
    assert {group for _, group in port.wants} == {1, 2, 3}
    assert port.refused == [("port_groups_full", A, 4), ("port_groups_full", A, 5)]
    join(port, 1, 2, 3, whose=B)
    assert port.router.n_members == 6
    assert port.room.n_groups == 3


def test_a_group_that_ends_makes_room_for_another() -> None:
    port = Port(bounds=Bounds(max_groups_per_port=1), timers=Timers(fast_leave=True))
    join(port, G, H)
    port.say(TO_IN)
    join(port, H)
    assert set(port.wants) == {(A, H)}
    assert len(port.refused) == 1


def test_ports_and_families_share_the_groups_of_the_box() -> None:
    """A group that another port is in already is no new one."""
    room = Room(max_groups=2)
    one, other, six = Port(room=room), Port(room=room), Port(room=room, bits=128)
    join(one, G)
    join(six, G)
    join(other, G, H)
    assert set(other.wants) == {(A, G)}
    assert other.refused == [("groups_full", A, H)]
    join(six, H)
    assert six.refused == [("groups_full", A, H)]
    one.router.close()
    assert room.n_groups == 2
    other.router.close()
    assert room.n_groups == 1
    join(six, H)
    assert set(six.wants) == {(A, G), (A, H)}


def test_whoever_forges_many_hosts_ends_at_the_memberships_of_the_port() -> None:
    port = Port(bounds=Bounds(max_members_per_port=3), timers=Timers(fast_leave=True))
    for whose in (A, B, C):
        join(port, G, H, whose=whose)
        join(port, G, H, whose=whose)
    assert set(port.wants) == {(A, G), (A, H), (B, G)}
    assert port.refused == [("port_members_full", whose, group) for whose, group in ((B, H), (B, H))] + [
        ("port_members_full", C, group) for group in (G, H, G, H)
    ]
    port.say(TO_IN)
    join(port, H, whose=C)
    assert (C, H) in port.wants


def test_members_of_one_group_end_at_their_bound() -> None:
    port = Port(bounds=Bounds(max_members_per_group=2))
    for whose in (A, B, C):
        join(port, G, whose=whose)
        join(port, G, whose=whose)
    assert set(port.wants) == {(A, G), (B, G)}
    assert port.refused == [("members_full", C, G)] * 2
    join(port, H, whose=C)
    assert port.is_in(C, H)


def test_a_report_of_version_2_that_found_no_room_speaks_for_the_silent_all_the_same() -> None:
    """W5: the others have heard it and keep silent."""
    port = begun(bounds=Bounds(max_members_per_group=1))
    port.say(IS_EX, version=2)
    for _ in range(10):
        ask_all(port)
        port.run(4.0)
        port.say(IS_EX, whose=B, version=2)
    assert set(port.wants) == {(A, G)}


def test_one_hosts_sources_take_no_room_from_another() -> None:
    port = Port(bounds=Bounds(max_sources_per_group=2))
    port.say(IS_IN, 1, 2, 3, whose=A)
    port.say(IS_IN, 4, 5, whose=B)
    assert port.state(A) == ("INCLUDE", {1, 2}, set())
    assert port.state(B) == ("INCLUDE", {4, 5}, set())
    assert port.refused == [("sources_full", A, G)]


def test_sources_that_ran_out_make_room_for_others() -> None:
    port = Port(bounds=Bounds(max_sources_per_group=2))
    port.say(IS_IN, 1, 2)
    for _ in range(2):
        ask_all(port)
    port.run(4.0)
    port.say(IS_IN, 2)
    port.run(20.0)
    port.say(ALLOW, 3)
    assert port.state() == ("INCLUDE", {2, 3}, set())
    assert not port.refused


def test_a_bound_lowered_while_running_throws_nobody_out() -> None:
    port = Port()
    join(port, 1, 2, 3)
    port.router.bounds = Bounds(max_groups_per_port=1)
    join(port, 1, 2, 3, 4)
    assert {group for _, group in port.wants} == {1, 2, 3}
    assert port.refused == [("port_groups_full", A, 4)]


def test_a_million_refused_groups_store_nothing() -> None:
    """A hundred thousand of them, here."""
    port = Port(bounds=Bounds(max_groups_per_port=10))
    for first in range(0, 100_000, 100):
        join(port, *range(first, first + 100), whose=host(7))
    assert (port.router.n_groups, port.router.n_members, port.room.n_groups) == (10, 10, 10)
    assert len(port.refused) == 100_000 - 10
    assert len(port.router._heap) == 10
