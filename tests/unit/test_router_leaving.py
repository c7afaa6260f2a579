"""How a member goes: by a leave, by silence, at once; and who is asked before."""

from __future__ import annotations

import pytest

from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.protocols.state import ALL, Bounds, Filter, Timers
from tests.unit.routed import (
    ALLOW,
    BLOCK,
    IS_EX,
    IS_IN,
    LOW,
    TO_EX,
    TO_IN,
    A,
    B,
    C,
    G,
    H,
    Port,
    host,
)

FAST = Timers(fast_leave=True)


def begun(timers: Timers | None = None, **more: object) -> Port:
    """A port whose startup queries are over."""
    port = Port(timers=timers or Timers(), **more)  # type: ignore[arg-type]
    port.run(50.0)
    return port


def ask_all(port: Port) -> float:
    """Go on to the next general query."""
    port.run(port.router._querier.next_s - port.at_s)
    return port.at_s


def answer(port: Port, *whose: tuple[bytes, int], group: int = G, version: int = 3) -> None:
    for one in whose:
        port.say(IS_EX, whose=one, group=group, version=version)


# --- leaves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_a_host_that_leaves_is_asked_twice_and_gone_after_the_last_member_query_time(version: int) -> None:
    """D4, D5, and N6 seen from here: who is no member any more stays silent."""
    port = begun()
    answer(port, A, version=version)
    port.say(TO_IN, version=version)
    port.run(1.999)
    assert port.is_in()
    port.run(0.001)
    assert not port.is_in()
    assert port.asked(50.0) == [(0.0, (), False), (1.0, (), False)]
    query = port.queries[-1][1]
    assert (query.version, query.response_s, query.robustness, query.interval_s) == (3, 1.0, 2, 125.0)
    assert port.room.n_groups == port.router.n_members == 0


def test_an_answer_in_time_changes_nothing_and_nothing_is_told() -> None:
    """D5; the query that is left bears the S flag (RFC 9776 section 6.6.3.1)."""
    port = begun()
    answer(port, A)
    told = len(port.changes)
    port.say(TO_IN)
    port.run(0.5)
    answer(port, A)
    port.run(30.0)
    assert port.is_in()
    assert len(port.changes) == told
    assert port.asked(50.0) == [(0.0, (), False), (1.0, (), True)]


def test_one_of_two_leaves_and_the_other_stays() -> None:
    """D3, D4: the query says nothing about the other one, whose timer stands."""
    port = begun()
    answer(port, A, B)
    port.say(TO_IN, whose=A)
    port.run(3.0)
    assert set(port.wants) == {(B, G)}
    assert port.room.n_groups == 1


def test_a_query_under_way_is_shared_by_the_next_who_leaves() -> None:
    port = begun()
    answer(port, A, B, C)
    for whose in (A, B, C):
        port.say(TO_IN, whose=whose)
        port.run(0.3)
    port.run(3.0)
    assert port.asked(50.0) == [(0.0, (), False), (1.0, (), False)]
    assert [(round(at_s, 6), one) for at_s, one, _, wants in port.changes if wants is None] == [
        (52.0, A),
        (52.3, B),
        (52.6, C),
    ]


def test_who_shares_a_query_under_way_is_asked_as_often_as_is_left_to_ask() -> None:
    port = begun(Timers(robustness=3))
    answer(port, A, B)
    port.say(TO_IN, whose=A)
    port.run(1.5)
    port.say(TO_IN, whose=B)
    port.run(5.0)
    assert port.asked(50.0) == [(0.0, (), False), (1.0, (), False), (2.0, (), False), (3.0, (), False)]
    assert [(at_s, one) for at_s, one, _, wants in port.changes if wants is None] == [(53.0, A), (54.5, B)]


def test_who_joins_and_leaves_without_pause_has_no_more_asked_than_who_leaves_once_an_interval() -> None:
    port = begun()
    for _ in range(1000):
        port.say(TO_EX)
        port.say(TO_IN)
        port.run(0.01)
    assert len(port.asked(50.0)) <= 2 * 10
    assert len(port.router._heap) < 200
    port.run(3.0)
    assert not port.wants


def test_who_leaves_again_while_it_is_asked_is_gone_by_its_last_word() -> None:
    port = begun()
    answer(port, A)
    port.say(TO_IN)
    port.run(0.5)
    answer(port, A)
    port.say(TO_IN)
    port.run(1.999)
    assert port.is_in()
    port.run(0.001)
    assert not port.is_in()


def test_sources_are_asked_for_together_and_only_while_their_timers_run() -> None:
    """RFC 9776 section 6.6.3.2: what somebody answered for goes by itself, with the S flag."""
    port = begun(Timers(robustness=3))
    port.say(IS_IN, 1, 2, 3, 4)
    port.say(BLOCK, 1, 2, 3)
    port.run(0.5)
    port.say(IS_IN, 2)
    port.say(BLOCK, 4)
    port.run(9.0)
    assert port.asked(50.0) == [
        (0.0, (1, 2, 3), False),
        (0.5, (4,), False),
        (1.0, (1, 3), False),
        (1.0, (2,), True),
        (1.5, (4,), False),
        (2.0, (1, 3), False),
        (2.0, (2,), True),
        (2.5, (4,), False),
    ]
    assert port.state() == ("INCLUDE", {2}, set())


def test_what_is_wanted_no_more_is_asked_for_no_more() -> None:
    """Law 2 of `inquiry`: the host wants all now, and names neither source."""
    port = begun()
    port.say(IS_IN, 1, 2)
    port.say(BLOCK, 1)
    port.say(TO_EX)
    port.run(5.0)
    assert port.asked(50.0) == [(0.0, (1,), False)]


def test_a_host_that_turns_from_all_to_some_is_asked_for_the_group_and_what_it_left_out() -> None:
    port = begun()
    answer(port, A)
    port.say(ALLOW, 1, 2)
    port.say(TO_IN, 2, 3)
    assert sorted(port.asked(50.0)) == [(0.0, (), False), (0.0, (1,), False)]
    assert port.state() == ("EXCLUDE", {1, 2, 3}, set())
    port.run(2.0)
    assert port.state() == ("INCLUDE", {2, 3}, set())
    assert port.changes[-1][3] == Filter(is_exclude=False, sources=frozenset({2, 3}))


# --- fast leave ---------------------------------------------------------------------------------------


def test_with_fast_leave_a_host_is_gone_unasked_and_the_others_stay() -> None:
    port = begun(FAST)
    answer(port, A, B)
    port.say(TO_IN, whose=A)
    assert set(port.wants) == {(B, G)}
    port.say(IS_IN, 1, 2, 3, whose=A, group=H)
    port.say(BLOCK, 1, whose=A, group=H)
    assert port.state(A, H) == ("INCLUDE", {2, 3}, set())
    port.say(TO_EX, 2, 4, whose=A, group=H)
    assert port.state(A, H) == ("EXCLUDE", set(), {2, 4})
    assert not port.asked(group=G)
    assert not port.asked(group=H)


def test_with_fast_leave_a_lone_older_host_is_asked_all_the_same() -> None:
    """D18: it only looks alone; another may have kept silent for its sake from the start."""
    port = begun(FAST)
    answer(port, A, version=2)
    port.say(TO_IN, version=2)
    assert len(port.asked(group=G)) == 1
    answer(port, B, version=2)
    port.run(20.0)
    assert set(port.wants) == {(B, G)}


@pytest.mark.parametrize(("whose", "group", "version"), [(B, G, 2), (B, G, 3), (B, H, 2), (B, H, 1)], ids=str)
def test_an_older_host_is_asked_all_the_same_where_others_could_have_kept_silent(
    whose: tuple[bytes, int], group: int, version: int
) -> None:
    """D18: no fast leave on a port where two hosts of version 2 hear each other."""
    port = begun(FAST)
    answer(port, A, version=2)
    answer(port, whose, group=group, version=version)
    for _ in range(3):
        answer(port, A, version=2)
    port.say(TO_IN, version=2)
    assert port.is_in()
    assert port.asked(50.0) == [(0.0, (), False)]
    port.run(2.0)
    assert not port.is_in()


# --- silence ------------------------------------------------------------------------------------------


def test_who_does_not_answer_a_general_query_is_asked_by_group_and_then_gone() -> None:
    """D6: additions and removals are applied; equal: nothing is told."""
    port = begun()
    answer(port, A, B, C)
    answer(port, A, B, group=H)
    told = len(port.changes)
    begin_s = ask_all(port)
    port.run(3.0)
    answer(port, A)
    answer(port, C, group=H)
    port.run(begin_s + 10.4 - port.at_s)
    assert not port.asked(begin_s)
    port.run(0.2)
    assert port.asked(begin_s) == [(10.5, (), False)]
    assert port.asked(begin_s, H) == [(10.5, (), False)]
    port.run(1.0)
    answer(port, B)
    port.run(1.0)
    assert port.changes[told] == (begin_s + 3.0, C, H, ALL)
    assert sorted(port.changes[told + 1 :]) == [
        (begin_s + 12.5, A, H, None),
        (begin_s + 12.5, B, H, None),
        (begin_s + 12.5, C, G, None),
    ]
    assert set(port.wants) == {(A, G), (B, G), (C, H)}


def test_an_include_host_that_is_silent_is_asked_for_its_sources() -> None:
    """D6, a query of group and sources."""
    port = begun()
    port.say(IS_IN, 1, 2, whose=A)
    port.say(IS_IN, 2, 3, whose=B)
    begin_s = ask_all(port)
    port.run(13.0)
    assert port.asked(begin_s) == [(10.5, (1, 2, 3), False), (11.5, (1, 2, 3), False)]
    assert not port.wants


def test_a_host_that_answers_every_general_query_is_never_asked_otherwise() -> None:
    """N7 seen from here: several reports, one group each, are one answer; and nothing changes (D1)."""
    port = begun()
    for n in range(30):
        port.say(TO_EX, group=G + n)
    for _ in range(20):
        before = len(port.queries)
        ask_all(port)
        assert [query.group for _, query in port.queries[before:]] == [0]
        for n in range(30):
            port.run(0.3)
            port.say(IS_EX, group=G + n)
    assert len(port.changes) == 30


@pytest.mark.parametrize("kind", [IS_EX, IS_IN])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_host_that_dies_is_gone_within_robustness_times_the_query_interval(
    kind: Kind, version: int
) -> None:
    """D7: a silent death, whenever it is."""
    for at_s in (0.5, 20.0, 60.0, 124.0, 160.0):
        port = Port()
        port.run(at_s)
        port.say(*((kind, 1) if kind is IS_IN else (kind,)), version=3 if kind is IS_IN else version)
        died_s = port.at_s
        port.run(400.0)
        assert not port.wants
        assert port.changes[-1][0] - died_s <= 2 * 125 + 10
        if version > 1:
            assert port.changes[-1][0] - died_s <= 125 + 10 + 3


def test_a_router_that_is_not_the_querier_asks_for_nobody_and_waits_for_the_timers() -> None:
    """D6 is for the querier."""
    port = begun()
    answer(port, A)
    for _ in range(8):
        port.hear(Query(3, robustness=2, interval_s=125.0), LOW)
        port.run(30.0)
    assert port.is_in()
    assert not port.asked(50.0)
    port.run(21.0)
    assert not port.is_in()


def test_only_the_hosts_named_are_asked_whether_they_moved() -> None:
    """D19: gone within the response time; nobody else is touched."""
    port = begun()
    answer(port, A, B)
    answer(port, B, group=H)
    answer(port, A, group=H + 1)
    port.say(IS_IN, 1, 2, whose=A, group=H + 2)
    port.at_s += 1.0
    port.router.ask([A, host(99)], port.at_s)
    port.settle()
    assert {q.group: q.sources for _, q in port.queries[2:]} == {G: (), H + 1: (), H + 2: (1, 2)}
    port.run(0.5)
    answer(port, B)
    answer(port, A, group=H + 1)
    port.run(1.5)
    assert set(port.wants) == {(B, G), (B, H), (A, H + 1)}
    assert len(port.asked(50.0)) == 2


def test_a_moved_host_that_blocks_some_sources_is_gone_with_all_it_said() -> None:
    """D19: sources whose timers run would otherwise keep it, as INCLUDE."""
    port = begun()
    port.say(IS_IN, 1, 2)
    port.say(IS_EX, 1, 3)
    assert port.state() == ("EXCLUDE", {1}, {3})
    port.router.ask([A], port.at_s)
    port.run(2.0)
    assert not port.wants


# --- all at once --------------------------------------------------------------------------------------


def test_a_port_that_goes_down_has_no_members_and_one_that_comes_up_asks_at_once() -> None:
    port = begun()
    answer(port, A, B)
    port.say(IS_IN, 1, whose=C, group=H)
    port.router.hear(Report(3, (Record(TO_IN, G),)), A, port.at_s)
    port.router.close()
    port.settle()
    assert not port.asked(50.0)
    assert not port.wants
    assert (port.room.n_groups, port.router.n_groups, port.router.n_members) == (0, 0, 0)
    assert port.router.deadline_s is None
    answer(port, A)
    port.router.ask([A], port.at_s)
    assert not port.wants
    port.run(100.0)
    asked = len(port.queries)
    port.router.restart(port.at_s)
    assert port.router.deadline_s == port.at_s
    port.run()
    assert port.queries[asked:] == [(port.at_s, Query(3, 0, (), 1.0, False, 2, 125.0))]
    answer(port, A)
    port.run(20.0)
    assert set(port.wants) == {(A, G)}
    assert len(port.queries) == asked + 1


def test_a_link_that_comes_back_and_loses_the_first_query_loses_no_member() -> None:
    port = begun()
    answer(port, A, B)
    port.router.restart(port.at_s)
    port.run(20.0)
    assert len(port.wants) == 2
    port.run(12.0)
    answer(port, A)
    port.run(4.0)
    assert set(port.wants) == {(A, G)}


def test_a_device_that_restarts_relearns_within_a_second() -> None:
    """Startup queries ask for an answer in startup_response_interval_s."""
    port = Port()
    assert port.queries == [(0.0, Query(3, 0, (), 1.0, False, 2, 125.0))]
    port.run(0.9)
    answer(port, A)
    port.run(30.0)
    assert port.is_in()


def test_a_router_that_is_polled_late_sends_no_burst() -> None:
    port = begun()
    answer(port, A)
    port.router.poll(10_000.0)
    queries = port.router.take_queries()
    assert [query.group for query in queries] == [0]
    assert port.router.take_changes()[-1].wants is None
    assert port.router.deadline_s is not None
    assert port.router.deadline_s > 10_000.0


def test_what_is_due_happens_before_what_is_heard() -> None:
    port = begun()
    answer(port, A)
    port.say(TO_IN)
    port.at_s += 5.0
    port.hear(Report(3, (Record(TO_EX, G),)), A)
    assert [wants for _, _, _, wants in port.changes] == [ALL, None, ALL]


def test_half_of_the_heap_at_most_is_stale() -> None:
    """A host that comes and goes, with fast leave, leaves an entry each time."""
    port = begun(FAST, bounds=Bounds(max_groups_per_port=10))
    answer(port, B, group=H)
    for _ in range(5000):
        port.say(TO_EX)
        port.say(TO_IN)
    assert len(port.router._heap) < 200
    port.run(200.0)
    assert not port.wants
