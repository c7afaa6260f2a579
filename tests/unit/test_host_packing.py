"""Reports in as few messages as hold them (N7)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Record, Report
from tests.unit.hosted import ALLOW, BLOCK, IS_EX, IS_IN, TO_EX, TO_IN, G


@pytest.mark.parametrize(("codec", "n"), [(igmp, 183), (mld, 72)])
def test_a_general_answer_takes_as_few_reports_as_the_mtu_allows(codec, n):
    """N7."""
    report = Report(3, tuple(Record(IS_EX, group) for group in range(1, 1001)))
    parts = list(codec.split_report(report, 1500))
    assert [len(part.records) for part in parts] == [n] * (1000 // n) + [1000 % n]
    assert sum((part.records for part in parts), ()) == report.records
    frames = [codec.report_frame(part, bytes(6), 1) for part in parts]
    assert 1500 - 20 < max(map(len, frames)) - 14 <= 1500


def test_records_that_fill_a_report_to_the_last_byte_are_one() -> None:
    report = Report(3, tuple(Record(IS_EX, group) for group in range(1, 11)))
    assert list(igmp.split_report(report, 24 + 8 + 10 * 8)) == [report]
    assert len(list(igmp.split_report(report, 24 + 8 + 10 * 8 - 1))) == 2


records = st.lists(
    st.builds(
        Record,
        st.sampled_from([IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK]),
        st.integers(1, 9),
        st.lists(st.integers(1, 1000), max_size=60).map(tuple),
    ),
    max_size=20,
).map(tuple)


@given(said=records, mtu=st.integers(100, 300), codec=st.sampled_from([igmp, mld]))
@settings(max_examples=50, deadline=None)
def test_reports_fit_and_nothing_is_lost_but_what_only_one_record_may_say(said, mtu, codec):
    parts = list(codec.split_report(Report(3, said), mtu))
    assert all(part.records for part in parts)
    for part in parts:
        assert len(codec.report_frame(part, bytes(6), 1)) - 14 <= mtu
    flat = [one for part in parts for one in part.records]
    for record in said:
        first = flat.pop(0)
        assert (first.kind, first.group) == (record.kind, record.group)
        got = first.sources
        if record.kind in (IS_EX, TO_EX):
            assert got == record.sources[: len(got)]
            assert bool(got) == bool(record.sources)
            continue
        while got != record.sources:
            more = flat.pop(0)
            assert more.kind == (ALLOW if record.kind is TO_IN else record.kind)
            got += more.sources
    assert not flat


def test_a_report_with_no_room_for_a_record_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no room for a group record: 4 bytes"):
        list(igmp.split_report(Report(3, (Record(IS_EX, G),)), 36))
