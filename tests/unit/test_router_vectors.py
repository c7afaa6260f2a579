"""The payload vectors of VECTORS.md, bytes in, state out: each sequence, for IGMPv3 and MLDv2."""

from __future__ import annotations

import pytest

from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Kind, Record, Report
from ctrl.protocols.state import ALL, Bounds, Filter, Timers
from tests.igmp_vectors import IGMP, MLD
from tests.unit.routed import BLOCK, IS_EX, IS_IN, TO_EX, TO_IN, A, B, C, G, Port

MLD_GROUP = 0xFF02 << 112 | 0xCC
FRR_GROUP = 0xE801010C
SPECIFIC = Timers(last_member_query_interval_s=5.0)
"""With which the kernel's script looks at what is being asked for."""

IGMP_SEQUENCES = [
    ("IS_INC", "INCLUDE", {1, 2, 3}, set(), set()),
    ("IS_INC ALLOW", "INCLUDE", {1, 2, 3, 10, 11, 12}, set(), set()),
    ("IS_INC IS_INC2", "INCLUDE", {1, 2, 3, 10, 11, 12}, set(), set()),
    ("IS_INC IS_EXC", "EXCLUDE", {1, 2}, {20, 21}, set()),
    ("IS_INC TO_EXC", "EXCLUDE", {1}, {20, 30}, {1}),
    ("IS_INC IS_EXC ALLOW2", "EXCLUDE", {1, 2, 20, 30}, {21}, set()),
    ("IS_INC IS_EXC IS_INC3", "EXCLUDE", {1, 2, 20, 30}, {21}, set()),
    ("IS_INC IS_EXC IS_EXC2", "EXCLUDE", {30}, {20}, set()),
    ("IS_INC IS_EXC TO_EXC", "EXCLUDE", {1, 30}, {20}, {1, 30}),
    ("IS_INC BLOCK", "INCLUDE", {1, 2, 3}, set(), {1}),
    ("IS_INC IS_EXC BLOCK", "EXCLUDE", {1, 2, 30}, {20, 21}, {1, 30}),
]
MLD_SEQUENCES = [
    ("IS_INC", "INCLUDE", {0x1, 0x2, 0x3}, set(), set()),
    ("IS_INC ALLOW", "INCLUDE", {0x1, 0x2, 0x3, 0x10, 0x11, 0x12}, set(), set()),
    ("IS_INC IS_INC2", "INCLUDE", {0x1, 0x2, 0x3, 0x10, 0x11, 0x12}, set(), set()),
    ("IS_INC IS_EXC", "EXCLUDE", {0x1, 0x2}, {0x20, 0x21}, set()),
    ("IS_INC TO_EXC", "EXCLUDE", {0x1}, {0x20, 0x30}, {0x1}),
    ("IS_INC IS_EXC ALLOW2", "EXCLUDE", {0x1, 0x2, 0x20, 0x30}, {0x21}, set()),
]


def hear(port: Port, *names: str) -> None:
    for name in names:
        message = igmp.read(IGMP[name]) if port.bits == 32 else mld.read(MLD[name])
        port.hear(message)
        port.at_s += 1.0


def last_bytes(sources: set[int] | tuple[int, ...]) -> set[int]:
    return {source & 0xFF for source in sources}


@pytest.mark.parametrize(
    ("bits", "reports", "mode", "running", "blocked", "asked"),
    [
        *(pytest.param(32, *row, id=f"igmp {row[0]}") for row in IGMP_SEQUENCES),
        *(pytest.param(128, *row, id=f"mld {row[0]}") for row in MLD_SEQUENCES),
    ],
)
def test_the_sequences_of_the_kernels_selftests_give_its_states(
    bits: int, reports: str, mode: str, running: set[int], blocked: set[int], asked: set[int]
) -> None:
    port = Port(bits=bits, timers=SPECIFIC)
    group = G if bits == 32 else MLD_GROUP
    hear(port, *reports.split())
    state = port.state(group=group)
    assert state is not None
    assert (state[0], last_bytes(state[1]), last_bytes(state[2])) == (mode, running, blocked)
    queries = port.asked(group=group)
    assert [last_bytes(sources) for _, sources, _ in queries] == ([asked] if asked else [])


def test_a_blocked_source_nobody_asks_for_dies_after_the_last_member_query_time() -> None:
    """Sequence 10, v3inc_block; the query is sent twice, a second apart."""
    port = Port()
    hear(port, "IS_INC", "BLOCK")
    begin_s = port.at_s - 1.0
    port.run(0.999)
    assert port.state() == ("INCLUDE", {0xC0000201, 0xC0000202, 0xC0000203}, set())
    port.run(2.0)
    assert port.state() == ("INCLUDE", {0xC0000202, 0xC0000203}, set())
    assert port.asked(begin_s) == [(0.0, (0xC0000201,), False), (1.0, (0xC0000201,), False)]


def test_when_the_group_timer_runs_out_sources_that_still_run_are_included() -> None:
    """Sequence 12, v3exc_timeout."""
    port = Port(timers=Timers(robustness=1, query_interval_s=2.0, query_response_interval_s=1.0))
    hear(port, "IS_INC")
    port.at_s -= 1.0
    hear(port, "IS_EXC")
    port.configure(query_interval_s=200.0, robustness=2)
    hear(port, "ALLOW2")
    assert port.state() == ("EXCLUDE", {0xC0000201, 0xC0000202, 0xC0000214, 0xC000021E}, {0xC0000215})
    port.run(3.0)
    assert port.state() == ("INCLUDE", {0xC0000214, 0xC000021E}, set())


def test_a_v2_host_that_leaves_is_gone_within_five_seconds() -> None:
    """Sequence 13, v2reportleave (D4, D5)."""
    port = Port()
    group = 0xE0000696
    port.say(IS_EX, group=group, version=2)
    assert port.state(group=group) == ("EXCLUDE", set(), set())
    port.at_s = 5.0
    hear(port, "V2_LEAVE")
    assert port.is_in(group=group)
    port.run(1.0)
    assert port.changes[-1] == (7.0, A, group, None)
    assert port.asked(group=group) == [(5.0, (), False), (6.0, (), False)]


def test_the_aux_data_of_a_record_is_no_group() -> None:
    port = Port()
    hear(port, "AUX_DATA")
    assert port.wants == {(A, 0xEF010101): ALL}


def test_hosts_of_all_three_versions_and_one_group_that_turns_back_to_version_1() -> None:
    """Open vSwitch, frames 38 to 41 (W5)."""
    port = Port()
    hear(port, "OVS_V1", "OVS_V2", "OVS_V3")
    versions = {group: member.version for (_, group), member in port.members().items()}
    assert versions == {0xE0010101: 1, 0xE0010102: 2, 0xE9360CE6: 3}
    hear(port, "OVS_V1_AGAIN")
    assert port.member(group=0xE0010102).version == 1
    assert set(port.wants.values()) == {ALL}


def test_5000_sources_in_20_reports_are_held_and_each_is_asked_for_robustness_times() -> None:
    """FRR's pim_igmp_specific_query_frag: a router of 2025 overran its stack here."""
    port = Port(bounds=Bounds(max_sources_per_group=5000), timers=Timers(robustness=3))
    reports = [
        Report(3, (Record(IS_IN, FRR_GROUP, tuple(range(first, first + 250))),))
        for first in range(0x0A000001, 0x0A000001 + 5000, 250)
    ]
    for report in reports:
        port.hear(report)
    assert len(port.member(group=FRR_GROUP).included) == 5000
    begin_s = port.at_s = 10.0
    for report in reports:
        port.hear(Report(3, (Record(BLOCK, FRR_GROUP, report.records[0].sources),)))
        port.run(0.01)
    port.run(4.0)
    asked = port.asked(begin_s, FRR_GROUP)
    times_s: dict[int, list[float]] = {}
    for at_s, sources, suppress in asked:
        assert not suppress
        for source in sources:
            times_s.setdefault(source, []).append(at_s)
    assert len(times_s) == 5000
    for first_s, second_s, third_s in times_s.values():
        assert (second_s - first_s, third_s - second_s) == pytest.approx((1.0, 1.0))
    assert not port.wants
    assert not port.refused


def test_150_groups_of_three_hosts_meet_the_limit_exactly() -> None:
    """As zeek's igmp-many-groups."""
    port = Port(bounds=Bounds(max_groups_per_port=100))
    for n in range(150):
        port.say(TO_EX, whose=(A, B, C)[n % 3], group=0xEF000000 + n)
    assert port.router.n_groups == 100
    assert [one[0] for one in port.refused] == ["port_groups_full"] * 50
    assert {group for _, _, group in port.refused} == set(range(0xEF000000 + 100, 0xEF000000 + 150))


@pytest.mark.parametrize("kind", [IS_IN, IS_EX, TO_EX])
def test_150_sources_meet_the_limit_exactly(kind: Kind) -> None:
    """As zeek's igmp-many-sources: the first ones are taken; a blocked source beyond the bound is not."""
    port = Port()
    port.say(kind, *range(1, 151))
    assert port.wants[A, G] == Filter(kind is not IS_IN, frozenset(range(1, 65)))
    assert port.refused == [("sources_full", A, G)] * 86


def test_a_report_from_no_address_is_a_host_like_another() -> None:
    """RFC 4541 section 2.1.1: proxies report from 0.0.0.0. Two of them differ by their MACs (W8)."""
    port = Port()
    port.say(TO_EX, whose=(A[0], 0))
    port.say(TO_EX, whose=(B[0], 0))
    port.say(TO_IN, whose=(A[0], 0))
    port.run(3.0)
    assert set(port.wants) == {((B[0], 0), G)}


def test_one_nve_with_two_addresses_is_two_hosts() -> None:
    """W8: first information is by MAC and report source."""
    port = Port()
    port.say(TO_EX, whose=(A[0], 1))
    port.say(TO_EX, whose=(A[0], 2))
    port.say(TO_IN, whose=(A[0], 1))
    port.run(3.0)
    assert set(port.wants) == {((A[0], 2), G)}
