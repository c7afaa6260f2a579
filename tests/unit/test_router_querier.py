"""The querier: its schedule, its election, and how it goes by another's timers."""

from __future__ import annotations

import pytest

from ctrl.protocols.messages import Query
from ctrl.protocols.state import Timers
from tests.unit.routed import HIGH, IS_EX, IS_IN, LOW, LOWER, OURS, TO_IN, A, B, G, Port
from tests.unit.test_router_leaving import begun


def general(port: Port, since_s: float = 0.0) -> list[tuple[float, float]]:
    """(time, response time) of the general queries."""
    return [(at_s, q.response_s) for at_s, q in port.queries if not q.group and at_s >= since_s]


def test_startup_queries_come_at_once_and_close_together_and_then_one_an_interval() -> None:
    port = Port(timers=Timers(robustness=3, query_interval_s=100.0))
    port.run(300.0)
    assert general(port) == [(0.0, 1.0), (25.0, 1.0), (50.0, 1.0), (150.0, 10.0), (250.0, 10.0)]
    query = port.queries[-1][1]
    assert query == Query(3, 0, (), 10.0, False, 3, 100.0)
    assert port.router.is_querier
    assert port.router.querier == OURS


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_lowest_source_is_the_querier_and_the_others_are_silent(version: int) -> None:
    port = begun()
    port.hear(Query(version), HIGH)
    assert port.router.is_querier
    port.hear(Query(version), LOW)
    assert not port.router.is_querier
    assert port.router.querier == LOW[1]
    port.hear(Query(version), LOWER)
    assert port.router.querier == LOWER[1]
    port.hear(Query(version), LOW)
    assert port.router.querier == LOWER[1]
    port.run(254.9)
    assert len(port.queries) == 2


def test_a_querier_without_a_source_never_wins() -> None:
    port = begun()
    port.hear(Query(3), (LOW[0], 0))
    assert port.router.is_querier
    nameless = Port(address=0)
    nameless.hear(Query(3), (LOW[0], 0))
    assert nameless.router.is_querier
    nameless.hear(Query(3), HIGH)
    assert not nameless.router.is_querier


def test_our_own_query_that_comes_back_changes_nothing() -> None:
    port = begun()
    port.hear(port.queries[-1][1], (A[0], OURS))
    assert port.router.is_querier


def test_another_querier_that_falls_silent_is_replaced_by_startup_queries() -> None:
    """Robustness x its interval + half its response time (RFC 9776 section 8.5)."""
    port = begun()
    port.hear(Query(3, robustness=3, interval_s=60.0, response_s=20.0), LOW)
    port.run(189.0)
    assert general(port, 50.0) == []
    port.run(60.0)
    assert port.router.is_querier
    assert general(port, 50.0) == [(240.0, 1.0), (271.25, 1.0)]
    assert port.queries[-1][1].interval_s == 125.0


def test_a_specific_query_of_the_elected_querier_keeps_it_elected() -> None:
    port = begun()
    port.hear(Query(3, robustness=2, interval_s=60.0), LOW)
    for _ in range(5):
        port.run(100.0)
        port.hear(Query(3, G, response_s=1.0, robustness=7, interval_s=1.0), LOW)
    assert not port.router.is_querier
    port.say(IS_EX)
    assert port.member().expires_s == 130.0


def test_timers_are_those_of_the_elected_querier() -> None:
    """RFC 9776 sections 4.1.6 and 4.1.7."""
    port = begun()
    port.hear(Query(3, robustness=3, interval_s=30.0, response_s=12.0), LOW)
    port.say(IS_EX)
    assert port.member().expires_s == 102.0
    for _ in range(2):
        port.run(50.0)
        port.hear(Query(3, robustness=3, interval_s=30.0, response_s=12.0), LOW)
    port.run(1.9)
    assert port.is_in()
    port.run(0.1)
    assert not port.is_in()


def test_a_refresh_by_shorter_timers_than_before_holds() -> None:
    port = begun()
    port.hear(Query(3, robustness=7, interval_s=3000.0), LOW)
    port.say(IS_EX)
    for _ in range(2):
        port.hear(Query(3, robustness=1, interval_s=10.0), LOW)
        port.say(IS_EX)
        port.run(10.0)
    port.hear(Query(3, robustness=1, interval_s=10.0), LOW)
    port.run(10.0)
    assert not port.router.is_querier
    assert not port.is_in()


@pytest.mark.parametrize(
    ("query", "expires_s"),
    [
        (Query(3, robustness=0, interval_s=0.0, response_s=0.0), 260.0),
        (Query(2, response_s=0.1), 260.0),
        (Query(1), 260.0),
        (Query(3, robustness=1, interval_s=0.5, response_s=0.001), 20.0),
        (Query(3, robustness=7, interval_s=1e9, response_s=10.0), 7 * 31744 + 10.0),
        (Query(3, robustness=99, interval_s=100.0, response_s=10.0), 710.0),
    ],
)
def test_timers_out_of_a_packet_have_floors_and_caps(query: Query, expires_s: float) -> None:
    port = begun()
    port.hear(query, LOW)
    port.say(IS_EX)
    assert port.member().expires_s == expires_s


def test_an_elected_querier_that_asks_has_timers_lowered_unless_it_says_otherwise() -> None:
    port = begun()
    port.hear(Query(3, robustness=2, interval_s=125.0), LOW)
    for whose in (A, B):
        port.say(IS_EX, whose=whose)
        port.say(IS_IN, 1, 2, whose=whose, group=G + 1)
    port.hear(Query(3, G, response_s=1.0, suppress=True), LOW)
    port.hear(Query(3, G, response_s=1.0), HIGH)
    port.hear(Query(3, G + 2, response_s=1.0), LOW)
    port.run(10.0)
    assert len(port.wants) == 4
    port.hear(Query(3, G + 1, (1, 7), response_s=3.0), LOW)
    port.hear(Query(3, G, response_s=3.0), LOW)
    port.run(1.0)
    port.say(IS_EX, whose=B)
    port.run(4.9)
    assert len(port.wants) == 4
    port.run(0.1)
    assert set(port.wants) == {(B, G), (A, G + 1), (B, G + 1)}
    assert port.state(A, G + 1) == ("INCLUDE", {2}, set())
    assert not port.asked(50.0)


@pytest.mark.parametrize("response_s", [0.0, 0.001])
def test_a_foreign_query_never_lowers_timers_below_our_last_member_query_time(response_s: float) -> None:
    """A response time of 0 is CVE-2012-0207's."""
    port = begun()
    port.say(IS_EX)
    for _ in range(100):
        port.hear(Query(3, G, response_s=response_s), LOW)
    port.run(1.999)
    assert port.is_in()


def test_a_querier_that_asks_for_a_group_without_pause_is_heeded_now_and_then() -> None:
    """Each time costs as much as the group has members."""
    port = begun()
    port.say(IS_EX)
    port.hear(Query(3, G, response_s=10.0), LOW)
    port.run(0.4)
    port.hear(Query(3, G, response_s=1.0), LOW)
    assert port.member().expires_s == pytest.approx(19.6)
    port.run(0.2)
    port.hear(Query(3, G, response_s=1.0), LOW)
    assert port.member().expires_s == pytest.approx(2.0)


def test_a_leave_that_another_querier_does_not_ask_about_changes_nothing() -> None:
    port = begun()
    port.hear(Query(3, robustness=2, interval_s=125.0), LOW)
    port.say(IS_EX)
    port.say(TO_IN)
    port.run(20.0)
    assert port.is_in()
    assert not port.asked(50.0)


def test_queries_under_way_are_given_up_with_the_election() -> None:
    port = begun()
    port.say(IS_EX)
    port.say(TO_IN)
    port.hear(Query(3, robustness=2, interval_s=125.0), LOW)
    port.run(3.0)
    assert len(port.asked(50.0)) == 1
    assert not port.is_in()


def test_who_takes_over_forgets_the_other_ones_long_timers() -> None:
    """D7: members that a querier with an interval of hours left behind are asked about in time."""
    port = begun()
    port.hear(Query(3, robustness=1, interval_s=3000.0), LOW)
    port.say(IS_EX, whose=A)
    port.say(IS_EX, whose=B, version=2)
    port.say(IS_IN, 1, whose=B, group=G + 1)
    port.run(3005.0 - 20.0)
    for whose, version in ((A, 3), (B, 2)):
        port.say(IS_EX, whose=whose, version=version)
    port.say(IS_IN, 1, whose=B, group=G + 1)
    port.run(20.0)
    assert port.router.is_querier
    assert max(member.expires_s for member in port.members().values()) < 260.0
    port.run(31.25 + 1.5 + 2.0)
    assert not port.wants


def test_another_address_holds_a_lost_election_anew() -> None:
    port = begun()
    port.router.readdress(OURS + 1, port.at_s)
    port.run(1.0)
    assert len(port.queries) == 2
    port.hear(Query(3), LOW)
    port.router.readdress(OURS + 1, port.at_s)
    assert not port.router.is_querier
    port.router.readdress(LOWER[1], port.at_s)
    port.run()
    assert port.router.is_querier
    assert port.router.querier == LOWER[1]
    assert len(port.queries) == 3
    port.hear(Query(3), LOW)
    assert port.router.is_querier


def test_new_settings_hold_at_once_and_shorten_what_runs() -> None:
    port = begun()
    port.say(IS_EX)
    port.run(100.0)
    port.configure(query_interval_s=20.0, query_response_interval_s=5.0)
    port.say(IS_EX, whose=B)
    assert port.member(B).expires_s == 45.0
    port.run(6.25)
    assert general(port)[-1] == (156.25, 5.0)
    assert port.member(A).expires_s == 44.5
    port.run(20.0)
    assert general(port)[-1] == (176.25, 5.0)


def test_settings_that_held_for_a_moment_leave_no_long_timers() -> None:
    port = begun()
    port.configure(query_interval_s=3000.0)
    port.say(IS_EX)
    assert port.member().expires_s == 6010.0
    port.configure(query_interval_s=125.0)
    port.run(106.25 + 10.5 + 2.0)
    assert not port.is_in()


def test_settings_of_our_own_wait_until_we_are_the_querier_again() -> None:
    port = begun()
    port.hear(Query(3, robustness=2, interval_s=50.0, response_s=10.0), LOW)
    port.configure(query_interval_s=20.0, query_response_interval_s=5.0)
    port.say(IS_EX)
    assert port.member().expires_s == 110.0
