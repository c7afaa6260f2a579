"""The host side beneath queriers of older versions (RFC 9776 section 7.2, RFC 9777 section 8.2)."""

from __future__ import annotations

import pytest

from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Query, Record, Report
from ctrl.protocols.state import Timers
from tests.igmp_vectors import IGMP
from tests.unit.hosted import IS_EX, IS_IN, TO_EX, TO_IN, G, H, Interface, excluding, including

TIMEOUT_S = 2 * 125.0 + 10.0
"""Older Version Querier Present Timeout, by default."""


@pytest.fixture
def it() -> Interface:
    """In two groups, of which one is wanted from one source."""
    it = Interface()
    it.want(G)
    it.want(H, wants=including(7))
    it.records(10.0)
    return it


def test_a_general_query_of_version_2_is_answered_with_a_report_for_each_group(it: Interface) -> None:
    """N7, W5."""
    it.ask(version=2)
    assert it.said(10.0) == [(7.5, 2, IS_EX, G, set()), (2.5, 2, IS_EX, H, set())]


def test_reports_of_many_groups_are_spread_over_the_response_time() -> None:
    """N7."""
    it = Interface()
    it.want(*range(1, 101))
    it.records(10.0)
    it.ask(version=2)
    said = it.said(10.0)
    assert [group for _, _, _, group, _ in said] == list(range(1, 101))
    assert [age_s for age_s, *_ in said] == pytest.approx([9.95 - 0.1 * n for n in range(100)])


def test_a_query_while_groups_are_reported_has_each_reported_within_its_own_time() -> None:
    it = Interface()
    it.want(*range(1, 101))
    it.records(10.0)
    it.ask(version=2, response_s=10.0)
    assert len(it.records(3.0)) == 30
    it.ask(version=2, response_s=10.0)
    said = [group for *_, group, _ in it.said(7.0)]
    assert said == list(range(31, 101))  # those of the first query, on time
    assert [group for *_, group, _ in it.said(3.0)] == list(range(1, 31))
    assert it.host.deadline_s is None
    it.ask(version=2, response_s=10.0)
    it.ask(version=2, response_s=1.0)
    assert {group for *_, group, _ in it.said(1.001)} == set(range(1, 101))
    it.ask(version=2, response_s=1.0)
    it.ask(version=2, response_s=10.0)
    assert {group for *_, group, _ in it.said(1.001)} == set(range(1, 101))


def test_a_report_that_answers_a_general_query_answers_one_of_its_group_too(it: Interface) -> None:
    it.ask(version=2)
    it.records(10.0)
    it.ask(G, version=2, response_s=10.0)
    it.ask(version=2, response_s=1.0)
    assert [one.group for one in it.records(10.0)] == [G, H]


def test_groups_that_are_left_while_they_are_reported_are_not(it: Interface) -> None:
    it.ask(version=2)
    it.want(G, wants=None)
    it.records()
    assert [one.group for one in it.records(10.0) if one.kind is IS_EX] == [H]
    it.ask(version=2)
    it.want(H, wants=None)
    assert [one.kind for one in it.records(10.0)] == [TO_IN, TO_IN]


def test_a_join_and_a_leave_are_said_in_version_2_as_often_as_in_3(it: Interface) -> None:
    """N3, N5, W5."""
    it.ask(version=2)
    it.records(10.0)
    it.want(G, wants=None)
    it.want(9)
    said = it.said(10.0)
    assert [one[:4] for one in said] == [
        (10.0, 2, TO_IN, G),
        (10.0, 2, IS_EX, 9),
        (9.5, 2, TO_IN, G),
        (9.5, 2, IS_EX, 9),
    ]


def test_other_sources_of_a_group_are_nothing_to_an_older_querier(it: Interface) -> None:
    it.ask(version=2)
    it.records(10.0)
    it.want(H, wants=including(8))
    it.want(H, wants=excluding())
    assert it.records(10.0) == []


def test_version_1_has_no_leave(it: Interface) -> None:
    it.ask(version=1)
    assert it.said(10.0) == [(7.5, 1, IS_EX, G, set()), (2.5, 1, IS_EX, H, set())]
    it.want(G, wants=None)
    assert it.records(10.0) == []
    it.want(G)
    assert it.said(10.0) == [(10.0, 1, IS_EX, G, set()), (9.5, 1, IS_EX, G, set())]


def test_a_specific_query_is_answered_in_the_version_that_is_spoken(it: Interface) -> None:
    """N6."""
    it.ask(version=2)
    it.records(10.0)
    it.ask(G, version=2, response_s=1.0)
    it.ask(H, 8, response_s=1.0)  # version 3, but spoken to one who speaks version 2
    it.ask(9, version=2, response_s=1.0)
    assert it.said(10.0) == [(9.5, 2, IS_EX, G, set()), (9.5, 2, IS_EX, H, set())]


def test_a_specific_query_of_version_2_does_not_make_its_querier_count_as_present(it: Interface) -> None:
    it.ask(G, version=2, response_s=1.0)
    assert it.said(10.0) == [(9.5, 3, IS_EX, G, set())]


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_querier_counts_as_present_until_it_was_silent_for_its_timeout(version, it):
    """W5."""
    it.ask(version=version)
    it.records(TIMEOUT_S - 10.0)
    it.ask(G, response_s=1.0)
    assert {one[1] for one in it.said(9.0)} == {version}
    it.records(1.0)
    it.ask(G, response_s=1.0)
    assert {one[1] for one in it.said(1.0)} == {3}


def test_an_older_querier_counts_as_present_by_the_interval_of_the_last_query_of_version_3(it) -> None:
    it.hear(Query(3, G, robustness=3, interval_s=20.0))
    it.hear(Query(2, response_s=5.0))
    assert it.host.version(it.at_s + 3 * 20.0 + 4.0) == 2
    assert it.host.version(it.at_s + 3 * 20.0 + 6.0) == 3


def test_version_1_goes_before_version_2_and_each_ends_by_itself(it: Interface) -> None:
    it.ask(version=1)
    it.run(100.0)
    it.ask(version=2)
    assert it.host.version(it.at_s) == 1
    it.run(TIMEOUT_S - 100.0)
    assert it.host.version(it.at_s) == 2
    it.run(100.0)
    assert it.host.version(it.at_s) == 3


def test_what_was_pending_in_one_version_is_not_said_in_another(it: Interface) -> None:
    """RFC 9776 section 7.2.1."""
    it.want(G, wants=None)
    it.records()
    it.ask(H, 7)
    it.ask(version=2)
    assert [one[1:] for one in it.said(20.0)] == [(2, IS_EX, H, set())]


def test_a_time_that_a_querier_of_garbage_set_is_cut_by_an_honest_one(it: Interface) -> None:
    it.hear(Query(3, robustness=7, interval_s=31744.0))
    it.ask(version=2)
    it.records(20.0)
    it.ask()
    it.run(TIMEOUT_S)
    assert it.host.version(it.at_s) == 3


def test_a_link_that_is_back_is_joined_in_version_3(it: Interface) -> None:
    it.ask(version=2)
    it.host.close()
    it.host.restart(it.at_s)
    assert {one[1:3] for one in it.said(10.0)} == {(3, TO_EX), (3, 5)}
    it.ask()
    assert {one[1:3] for one in it.said(10.0)} == {(3, IS_EX), (3, IS_IN)}


def test_another_address_is_joined_in_the_version_that_is_spoken(it: Interface) -> None:
    """RFC 9776 section 7.2.1: versions are those of the interface."""
    it.ask(version=2)
    it.host.restart(it.at_s)
    said: list[object] = [(2, IS_EX, G, set()), (2, IS_EX, H, set())] * 2
    assert [one[1:] for one in it.said(10.0)] == said


def test_the_timeout_without_a_word_of_the_querier_is_by_our_own_settings() -> None:
    it = Interface(Timers(robustness=3, query_interval_s=20.0))
    it.want(G)
    it.hear(Query(2, response_s=5.0))
    assert it.host.version(3 * 20.0 + 4.0) == 2
    assert it.host.version(3 * 20.0 + 6.0) == 3


def test_reports_and_leaves_are_those_of_the_vectors_to_the_last_bit() -> None:
    it = Interface()
    report, leave = 0xE1000025, 0xE0000696
    it.want(leave)
    it.ask(version=2)
    it.records(10.0)
    it.want(report)
    it.want(leave, wants=None)
    (_, first), (_, second), *_ = it.reports
    assert (igmp.report(first), igmp.report(second)) == (IGMP["V2_REPORT"], IGMP["V2_LEAVE"])
    it.records(10.0)
    it.ask(version=1)
    it.run(10.0)
    it.want(0xE0010102)
    assert igmp.report(it.reports[-1][1]) == IGMP["OVS_V1_AGAIN"]


def test_reports_go_to_their_group_and_leaves_to_all_routers() -> None:
    """W5; RFC 2236 section 9, RFC 2710 section 5."""
    v6 = 0xFF05 << 112 | 0x100
    for codec, group, routers, at, size in (
        (igmp, G, igmp.ALL_ROUTERS, 30, 4),
        (mld, v6, mld.ALL_ROUTERS, 38, 16),
    ):
        for kind, destination in ((IS_EX, group), (TO_IN, routers)):
            frame = codec.report_frame(Report(2, (Record(kind, group),)), bytes(6), 1)
            assert int.from_bytes(frame[at : at + size], "big") == destination
