"""IGMPv1, IGMPv2 and MLDv1 among those of version 3 (RFC 9776 section 7, RFC 9777 section 8; W5)."""

from __future__ import annotations

import pytest

from ctrl.protocols.messages import Kind, Query
from ctrl.protocols.state import ALL, Filter, Timers
from tests.unit.routed import ALLOW, BLOCK, IS_EX, IS_IN, LOW, TO_EX, TO_IN, A, B, C, G, Port
from tests.unit.test_router_leaving import ask_all, begun

OLDER_HOST_S = 260.0


@pytest.mark.parametrize("bits", [32, 128])
def test_a_host_of_version_2_gets_all_whatever_sources_it_names_as_of_version_3(bits: int) -> None:
    port = Port(bits=bits)
    port.say(IS_IN, 1, 2)
    port.say(IS_EX, version=2)
    assert port.wants[A, G] == ALL
    for kind in (BLOCK, IS_EX, TO_EX):
        port.say(kind, 1, 5)
        assert port.state() == ("EXCLUDE", set(), set())
        assert port.member().version == 2
    port.say(ALLOW, 7)
    assert port.wants[A, G] == ALL
    assert not port.asked()


def test_a_source_of_an_older_host_that_runs_out_is_not_blocked() -> None:
    """Here the elected querier asks for it."""
    port = Port()
    port.say(IS_EX, version=2)
    port.say(ALLOW, 7)
    assert port.state() == ("EXCLUDE", {7}, set())
    port.hear(Query(3, G, (7,), response_s=1.0), LOW)
    port.run(2.0)
    assert port.state() == ("EXCLUDE", set(), set())
    assert len(port.changes) == 1


def test_a_host_is_of_version_3_again_when_it_has_long_reported_nothing_older() -> None:
    port = Port()
    port.say(IS_EX, version=1)
    assert port.member().version == 1
    port.say(IS_EX, version=2)
    assert port.member().version == 1
    for _ in range(5):
        port.run(OLDER_HOST_S / 5)
        port.say(IS_EX, 9)
    assert port.state() == ("EXCLUDE", {9}, set())
    assert port.member().version == 3
    port.say(BLOCK, 10)
    port.run(3.0)
    assert port.wants[A, G] == Filter(is_exclude=True, sources=frozenset({10}))


def test_versions_are_those_of_a_host_in_a_group() -> None:
    port = Port()
    port.say(IS_EX, version=2)
    port.say(IS_EX, 4, whose=B)
    assert {one: member.version for (one, _), member in port.members().items()} == {A: 2, B: 3}
    assert port.wants[B, G].sources == {4}


@pytest.mark.parametrize("version", [1, 2])
def test_who_keeps_silent_because_another_reports_does_not_vanish(version: int) -> None:
    """W5: one of two older hosts answers, the other has heard it and does not; for hours."""
    port = begun()
    port.say(IS_EX, whose=A, version=version)
    port.say(IS_EX, whose=B, version=version)
    for _ in range(60):
        ask_all(port)
        port.run(4.0)
        port.say(IS_EX, whose=A, version=version)
    assert set(port.wants) == {(A, G), (B, G)}
    assert len(port.changes) == 2
    assert not port.asked()
    assert {member.version for member in port.members().values()} == {version}
    port.run(300.0)
    assert not port.wants


def test_a_report_of_version_3_keeps_nobody_silent() -> None:
    port = begun()
    port.say(IS_EX, whose=A)
    port.say(IS_EX, whose=B, version=2)
    ask_all(port)
    port.run(4.0)
    port.say(IS_EX, whose=A)
    port.run(9.0)
    assert set(port.wants) == {(A, G)}


def test_a_host_that_turned_to_version_3_is_not_kept_by_reports_of_version_2() -> None:
    port = begun()
    port.say(IS_EX, whose=A, version=2)
    port.say(IS_EX, whose=B, version=2)
    port.say(IS_EX, whose=B)
    ask_all(port)
    port.run(4.0)
    port.say(IS_EX, whose=A, version=2)
    port.run(9.0)
    assert set(port.wants) == {(A, G)}


def test_an_older_host_that_left_is_not_kept_by_the_answer_of_another() -> None:
    """D4: its answer speaks for those who kept silent, and a leave is no silence."""
    port = begun()
    for whose in (A, B, C):
        port.say(IS_EX, whose=whose, version=2)
    port.say(TO_IN, whose=A, version=2)
    port.run(0.5)
    port.say(IS_EX, whose=B, version=2)
    port.run(3.0)
    assert set(port.wants) == {(B, G), (C, G)}


def test_an_older_host_that_left_and_answers_itself_stays() -> None:
    """D5: two hosts behind one address, as behind a proxy."""
    port = begun()
    port.say(IS_EX, version=2)
    port.say(TO_IN, version=2)
    port.run(1.5)
    port.say(IS_EX, version=2)
    port.run(30.0)
    assert port.is_in()
    assert len(port.changes) == 1


def test_silent_older_hosts_that_are_asked_are_all_kept_by_one_answer() -> None:
    """D6: whoever is asked for the group hears the other answer and keeps silent again."""
    port = begun()
    port.say(IS_EX, whose=A, version=2)
    port.say(IS_EX, whose=B, version=2)
    ask_all(port)
    port.run(11.0)
    assert len(port.asked()) == 1
    port.say(IS_EX, whose=B, version=2)
    port.run(20.0)
    assert set(port.wants) == {(A, G), (B, G)}


def test_an_answer_from_before_does_not_keep_who_is_asked_now() -> None:
    """D19 among older hosts: what others said for a host ends when it is asked itself."""
    port = begun()
    port.say(IS_EX, whose=A, version=2)
    port.say(IS_EX, whose=B, version=2)
    port.router.ask([A], port.at_s)
    port.run(2.0)
    assert set(port.wants) == {(B, G)}
    port.run(90.0)
    assert set(port.wants) == {(B, G)}


@pytest.mark.parametrize(("kind", "version"), [(TO_IN, 2), (TO_IN, 3)])
def test_while_a_host_of_version_1_is_in_a_group_nobody_leaves_it(kind: Kind, version: int) -> None:
    """RFC 9776 section 7.3.2; a host of version 1 cannot be asked to hurry."""
    port = begun(Timers(fast_leave=True))
    port.say(IS_EX, whose=A, version=version)
    port.say(IS_EX, whose=B, version=1)
    port.say(kind, whose=A, version=version)
    port.run(3.0)
    assert port.is_in(A)
    assert not port.asked()
    port.run(OLDER_HOST_S)
    port.say(IS_EX, whose=A)
    port.say(kind, whose=A)
    assert not port.is_in(A)


def test_a_host_of_version_1_is_never_asked_and_lives_by_its_timer() -> None:
    port = begun()
    port.say(IS_EX, version=1)
    port.router.ask([A], port.at_s)
    port.run(OLDER_HOST_S - 0.1)
    assert port.is_in()
    assert not port.asked()
    port.run(0.1)
    assert not port.is_in()


def test_leaves_and_joins_of_unknown_older_hosts() -> None:
    port = Port()
    port.say(TO_IN, version=2)
    assert not port.changes
    port.say(IS_EX, version=2)
    port.say(TO_IN, whose=B, version=2)
    assert not port.asked()
    assert set(port.wants) == {(A, G)}


def test_an_elected_querier_that_asks_for_a_group_lowers_all_but_version_1() -> None:
    port = begun()
    for version, whose in enumerate((A, B, C), 1):
        port.say(IS_EX, whose=whose, version=version)
    port.hear(Query(2, G, response_s=1.0), LOW)
    port.run(1.0)
    port.say(IS_EX, whose=C)
    port.run(1.0)
    assert set(port.wants) == {(A, G), (C, G)}
