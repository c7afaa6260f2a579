"""The host side: what it says of itself, and how it answers a querier of version 3."""

from __future__ import annotations

from typing import Any

import pytest

from ctrl.protocols import igmp, mld
from ctrl.protocols.host import SHORTEST_S
from ctrl.protocols.host_state import MOST_SOURCES
from ctrl.protocols.messages import Query, Record, Report
from ctrl.protocols.state import Filter, Timers
from tests.igmp_vectors import IGMP, MLD
from tests.unit.hosted import (
    ALLOW,
    BLOCK,
    IS_EX,
    IS_IN,
    TO_EX,
    TO_IN,
    G,
    H,
    Interface,
    excluding,
    including,
)


@pytest.fixture
def it() -> Interface:
    return Interface()


def quiet(*wanted: tuple[int, Filter], **options: object) -> Interface:
    """An interface that wants these groups, and has said so."""
    it = Interface(**options)  # type: ignore[arg-type]
    for group, wants in wanted:
        it.want(group, wants=wants)
    it.records(10.0)
    return it


# --- changes ------------------------------------------------------------------------------------------------


def test_a_join_is_said_at_once_and_once_more_within_a_second(it: Interface) -> None:
    """N3."""
    it.want(G)
    assert it.said(10.0) == [(10.0, 3, TO_EX, G, set()), (9.5, 3, TO_EX, G, set())]


def test_a_second_join_says_that_group_alone(it: Interface) -> None:
    """N4."""
    it.want(G)
    it.records(10.0)
    it.want(H)
    assert it.records(10.0) == [Record(TO_EX, H)] * 2


def test_a_leave_is_said_as_often_as_a_join(it: Interface) -> None:
    """N5."""
    it.want(G)
    it.records(10.0)
    it.want(G, wants=None)
    assert it.said(10.0) == [(10.0, 3, TO_IN, G, set()), (9.5, 3, TO_IN, G, set())]
    assert it.host.deadline_s is None


def test_changes_are_repeated_as_often_as_the_querier_asks_for() -> None:
    it = quiet((G, excluding()))
    it.hear(Query(3, robustness=5, interval_s=125.0))
    it.records(10.0)
    it.want(H)
    assert it.records(10.0) == [Record(TO_EX, H)] * 5


def test_what_is_left_before_its_join_was_said_never_was(it: Interface) -> None:
    it.host.want(G, excluding(), 0.0)
    it.host.want(G, None, 0.0)
    assert it.records(10.0) == []


def test_groups_that_are_joined_together_are_said_in_one_report(it: Interface) -> None:
    for group in range(G, G + 100):
        it.host.want(group, excluding(), 0.0)
    it.run(10.0)
    assert [len(report.records) for _, report in it.reports] == [100, 100]


def test_joins_in_a_row_do_not_put_off_the_repetition_of_the_first(it: Interface) -> None:
    it.want(G)
    it.run(0.3)
    it.want(H)
    assert [(one[0], one[3]) for one in it.said(9.7)] == [(10.0, G), (9.7, H), (9.5, G), (9.5, H)]


def test_a_leave_during_the_repetitions_of_its_join_takes_their_place(it: Interface) -> None:
    it.want(G)
    it.want(G, wants=None)
    assert [one.kind for one in it.records(10.0)] == [TO_EX, TO_IN, TO_IN]


CHANGES = [
    (including(1, 2), including(2, 3), [(ALLOW, {3}), (BLOCK, {1})]),
    (excluding(1, 2), excluding(2, 3), [(ALLOW, {1}), (BLOCK, {3})]),
    (including(1, 2), excluding(2, 3), [(TO_EX, {2, 3})]),
    (excluding(1, 2), including(2, 3), [(TO_IN, {2, 3})]),
    (None, including(1), [(ALLOW, {1})]),
    (including(1), None, [(BLOCK, {1})]),
    (including(1), including(1, 2), [(ALLOW, {2})]),
    (including(1), including(1), []),
    (None, including(), []),
]


@pytest.mark.parametrize(("before", "after", "said"), CHANGES)
def test_a_change_is_said_as_the_table_of_rfc_9776_section_5_1_has_it(before, after, said):
    it = quiet((G, before))
    it.want(G, wants=after)
    assert [(kind, {*sources}) for kind, _, sources in it.records(10.0)] == said * 2


def test_sources_that_change_while_a_change_is_repeated_are_each_said_often_enough(it: Interface) -> None:
    it.want(G, wants=including(1))
    it.want(G, wants=including(1, 2))
    assert [(one.kind, {*one.sources}) for one in it.records(10.0)] == [
        (ALLOW, {1}),
        (ALLOW, {1, 2}),
        (ALLOW, {2}),
    ]


def test_a_change_of_mode_is_said_before_changes_of_sources_are(it: Interface) -> None:
    it.want(G, wants=excluding(1))
    it.want(G, wants=excluding(1, 2))
    assert [(one.kind, {*one.sources}) for one in it.records(10.0)] == [
        (TO_EX, {1}),
        (TO_EX, {1, 2}),
        (BLOCK, {2}),
        (BLOCK, {2}),
    ]


def test_more_sources_than_are_kept_one_by_one_are_said_as_the_whole(it: Interface) -> None:
    it.want(G, wants=including(0))
    it.records(10.0)
    many = range(1, MOST_SOURCES + 1)
    it.want(G, wants=including(*many))
    assert it.records(10.0) == [Record(TO_IN, G, tuple(many))] * 2


# --- queries of version 3 -----------------------------------------------------------------------------------


def test_a_general_query_is_answered_with_all_groups_in_one_report() -> None:
    """N7."""
    it = quiet((G, excluding()), (H, including(7)))
    it.ask()
    assert it.said(4.9) == []
    assert it.said(5.1) == [(5.0, 3, IS_EX, G, set()), (5.0, 3, IS_IN, H, {7})]


@pytest.mark.parametrize("number", [0.0, 0.3, 0.999999])
def test_an_answer_comes_within_the_response_time_of_its_query(number: float) -> None:
    it = quiet((G, excluding()), random=lambda: number)
    for group in (0, G):
        it.ask(group, response_s=2.0)
        [(age_s, *_)] = it.said(2.0)
        assert age_s == pytest.approx(2.0 - number * 2.0, abs=1e-5)


def test_a_member_answers_a_query_of_its_group_and_nobody_else_does() -> None:
    """N6."""
    it = quiet((G, excluding()))
    it.ask(H, response_s=1.0)
    assert it.said(10.0) == []
    it.ask(G, response_s=1.0)
    assert it.said(1.0) == [(0.5, 3, IS_EX, G, set())]


@pytest.mark.parametrize(
    ("wants", "asked", "said"),
    [
        (including(1, 2), (2, 3), {2}),
        (including(1, 2), (3, 4), None),
        (excluding(1, 2), (2, 3), {3}),
        (excluding(1, 2), (1, 2), None),
        (excluding(), (1, 2), {1, 2}),
    ],
)
def test_a_query_of_sources_is_answered_with_those_that_are_wanted(wants, asked, said):
    """N6."""
    it = quiet((G, wants))
    it.ask(G, *asked, response_s=1.0)
    assert it.said(1.0) == ([] if said is None else [(0.5, 3, IS_IN, G, said)])


def test_a_group_that_was_left_is_not_answered_for() -> None:
    """N6."""
    for asked in (0, G):
        it = quiet((G, excluding()))
        it.ask(asked)
        it.want(G, wants=None)
        assert it.records(20.0) == [Record(TO_IN, G)] * 2


def test_queries_of_sources_share_an_answer() -> None:
    it = quiet((G, excluding()))
    it.ask(G, 1, response_s=1.0)
    it.ask(G, 2, response_s=1.0)
    assert it.said(10.0) == [(9.5, 3, IS_IN, G, {1, 2})]
    it.ask(G, 1, response_s=1.0)
    it.ask(G, response_s=1.0)
    it.ask(G, 2, response_s=1.0)
    assert it.said(10.0) == [(9.5, 3, IS_EX, G, set())]


def test_too_many_sources_are_answered_with_the_whole_group() -> None:
    it = quiet((G, excluding(3)))
    it.ask(G, *range(MOST_SOURCES + 1), response_s=1.0)
    assert it.said(10.0) == [(9.5, 3, IS_EX, G, {3})]


def test_an_answer_that_is_to_come_soon_enough_serves_the_next_query_too() -> None:
    it = quiet((G, excluding()))
    it.ask(response_s=10.0)
    it.run(1.0)
    it.ask(response_s=10.0)
    it.ask(G, response_s=6.0)
    assert it.said(20.0) == [(16.0, 3, IS_EX, G, set())]
    it.ask(G, response_s=1.0)
    it.run(0.25)
    it.ask(G, response_s=1.0)
    it.ask(G, response_s=2.0)
    assert it.said(9.75) == [(9.5, 3, IS_EX, G, set())]


def test_a_query_that_cannot_wait_for_it_brings_the_answer_forward() -> None:
    it = quiet((G, excluding()))
    it.ask(response_s=10.0)
    it.ask(G, response_s=1.0)
    assert it.said(20.0) == [(19.5, 3, IS_EX, G, set()), (15.0, 3, IS_EX, G, set())]
    it.ask(response_s=10.0)
    it.ask(response_s=1.0)
    assert it.said(20.0) == [(19.5, 3, IS_EX, G, set())]
    for first, second in ((G, G), (G, 0)):
        it.ask(first, response_s=10.0)
        it.ask(second, response_s=1.0)
        assert it.said(20.0) == [(19.5, 3, IS_EX, G, set())]


def test_what_was_due_when_a_query_comes_is_said_before_it_is_heard() -> None:
    it = quiet((G, excluding()))
    it.ask()
    it.at_s += 6.0
    it.ask(version=2)
    assert it.said() == [(0.0, 3, IS_EX, G, set())]


@pytest.mark.parametrize("response_s", [0.0, SHORTEST_S, 1.0])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_flood_of_queries_costs_few_answers_and_no_memory(version: int, response_s: float) -> None:
    numbers = iter([0.9, 0.1] * 100_000)
    it = quiet(*((group, excluding()) for group in range(1, 51)), random=lambda: next(numbers))
    for n in range(2000):
        it.ask((0, n % 60)[n % 2], *range(n, n + n % 3), version=version, response_s=response_s)
        it.run(0.001)
    n_times = 2.0 / max(response_s, SHORTEST_S)
    answered = it.records()
    assert 0 < len(answered) <= 50 * (2 * n_times + 2) * 2
    assert len(it.host._asked) <= 50
    assert len(it.host._heap) <= 2 * 50 + 64 + 1


def test_queries_that_leave_less_time_each_cost_no_memory() -> None:
    it = quiet(*((group, excluding()) for group in range(1, 21)), random=lambda: 0.99)
    for n in range(500):
        for group in range(1, 21):
            it.ask(group, response_s=8000.0 * 0.98**n)
        assert len(it.host._heap) <= 2 * 20 + 64 + 1


def test_a_querier_of_garbage_does_not_keep_an_honest_one_waiting() -> None:
    it = quiet((G, excluding()))
    it.hear(Query(3, response_s=8387.584, robustness=7, interval_s=31744.0))
    it.hear(Query(3, G, (1,), response_s=8387.584, robustness=7, interval_s=31744.0))
    it.run(1.0)
    it.ask(response_s=10.0)
    it.ask(G, response_s=1.0)
    assert it.said(10.0) == [(9.5, 3, IS_EX, G, set()), (5.0, 3, IS_EX, G, set())]
    assert it.host.deadline_s is None


# --- the link -----------------------------------------------------------------------------------------------


def test_a_link_that_is_back_is_joined_anew_at_once() -> None:
    it = quiet((G, excluding()))
    it.ask()
    it.host.close()
    it.want(H)
    it.ask(G)
    assert it.records(100.0) == []
    assert it.host.deadline_s is None
    assert not it.host._fresh
    it.host.restart(it.at_s)
    assert it.said(10.0) == [(age_s, 3, TO_EX, group, set()) for age_s in (10.0, 9.5) for group in (G, H)]


def test_a_link_that_goes_down_takes_what_was_not_sent_with_it(it: Interface) -> None:
    it.host.want(G, excluding(), 0.0)
    it.host.poll(0.0)
    it.host.close()
    assert it.host.take_reports() == []


# --- on the wire --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["OVS_V3", "OVS_V2"])
def test_a_join_is_the_join_of_the_vectors_to_the_last_bit(name: str, it: Interface) -> None:
    """OVS_V3 (IGMP) and OVS_V2 (MLD): a join by a host of the newest version."""
    codec: Any = igmp if name == "OVS_V3" else mld
    data = IGMP[name] if name == "OVS_V3" else MLD[name]
    it.want(codec.read(data).records[0].group)
    (_, report), *_ = it.reports
    written = codec.report(report)
    assert (written if codec is igmp else written[:2] + data[2:4] + written[4:]) == data


@pytest.mark.parametrize("name", ["IS_INC", "IS_EXC", "ALLOW", "TO_EXC", "BLOCK"])
def test_each_record_of_the_vectors_is_what_a_host_comes_to_say(name: str, it: Interface) -> None:
    heard = igmp.read(IGMP[name])
    assert isinstance(heard, Report)
    [expected] = heard.records
    named = Filter(name in ("IS_EXC", "TO_EXC"), frozenset(expected.sources))
    if name == "BLOCK":
        it.want(G, wants=excluding())
        it.records(10.0)
        named = excluding(*expected.sources)
    it.want(G, wants=named)
    if name.startswith("IS"):
        it.records(10.0)
        it.ask()
        it.run(10.0)
    assert igmp.report(it.reports[0][1]) == IGMP[name]


def test_a_query_with_a_response_time_of_zero_is_answered(it: Interface) -> None:
    """CVE-2012-0207."""
    it = quiet((G, excluding()))
    it.ask(response_s=0.0)
    assert it.said(SHORTEST_S) == [(0.05, 3, IS_EX, G, set())]


def test_robustness_that_the_querier_leaves_unsaid_is_ours() -> None:
    it = quiet((G, excluding()), timers=Timers(robustness=3))
    it.hear(Query(3, robustness=0))
    it.records(10.0)
    it.want(H)
    assert it.records(10.0) == [Record(TO_EX, H)] * 3
