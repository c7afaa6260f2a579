"""`ctrl.replay` where NVEs join and leave in the capture: by its clock, as the oracle has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctrl.replay import LONGEST_SILENCE_S, Interrupted, replay
from tests import captures_io as c
from tests.command import cut, pcap_of
from tests.joining import (
    ALLOW,
    BEGIN_NS,
    BLOCK,
    BOX,
    GROUP,
    GROUP6,
    IS_EX,
    TO_EX,
    TO_IN,
    At,
    capture,
    data,
    says,
)
from tests.replaying import Checked, checked, config_of, copies_in
from tests.wording import words

FAST = BOX + "[membership]\nfast_leave = true\n"
QUIET = "[membership]\nquery_interval_s = 31744\n"
"""After the startup queries nobody is asked for hours."""


@pytest.fixture
def run(tmp_path: Path):
    """Replay frames by a config, held against the oracle."""

    def run(frames: list[At], text: str = BOX, name: str = "in.pcapng", in_port: str = "p1") -> Checked:
        return checked(config_of(text), capture(tmp_path / name, frames), tmp_path / "out.pcapng", in_port)

    return run


def ports(result: Checked) -> list[str]:
    """By which port each copy left."""
    return [name for name, _ in result.copies]


def asked(result: Checked) -> list[tuple[str, float, str]]:
    """Each query: the port, the second, its destination and what it is about."""
    return [
        (one.port, round((one.time_ns - BEGIN_NS) / 1e9, 3), words(one.data).split(" > ")[1])
        for one in result.said
    ]


# --- joins and leaves ---------------------------------------------------------------------------------------


def test_a_join_serves_the_next_frame_and_no_frame_before(run):
    """D1, D9, D15: from the frame behind it on, in the same burst of the data path."""
    result = run(
        [(0, "p1", data()), (0, "p2", says("p2", TO_EX)), (0, "p1", data()), (0, "p3", data("10.1.3.2"))]
    )
    assert [one.reason for one in result.outcomes] == ["unknown_group", None, None, None]
    assert ports(result) == ["p2", "p2"]


def test_two_joins_in_one_burst_each_serve_what_stands_between_and_behind_them(run):
    result = run(
        [
            (0.0, "p2", says("p2", TO_EX)),
            (0.0001, "p1", data()),
            (0.0002, "p3", says("p3", IS_EX)),
            (0.0003, "p1", data()),
        ]
    )
    assert ports(result) == ["p2", "p2", "p3"]
    assert (result.done.joined, result.done.left) == (2, 0)


def test_a_join_in_the_very_first_frame_counts(run):
    result = run([(0, "p2", says("p2", TO_EX)), (0, "p1", data())])
    assert ports(result) == ["p2"]
    (row,) = result.done.members
    assert (row["port"], row["nve"], row["group"], row["origin"]) == ("p2", "10.1.2.2", GROUP, "igmp")
    assert row["expires_s"] == 260.0


def test_d4_d5_who_leaves_is_served_until_nobody_objects(run):
    """The specific query stands in OUT behind the leave and again a second later; after two, copies stop."""
    frames = [(0.0, "p2", says("p2", TO_EX)), (10.0, "p2", says("p2", TO_IN))]
    frames += [(at_s, "p1", data()) for at_s in (10.0, 11.999999, 12.0)]
    result = run(frames)
    assert ports(result) == ["p2", "p2"]
    specific = [one for one in asked(result) if one[2].startswith(GROUP)]
    assert [one[:2] for one in specific] == [("p2", 10.0), ("p2", 11.0)]
    assert (result.done.joined, result.done.left, result.done.members) == (1, 1, [])
    assert result.outcomes[-1].reason == "unknown_group"


def test_d5_who_answers_the_specific_query_goes_on_being_served(run):
    frames = [
        (0.0, "p2", says("p2", TO_EX)),
        (10.0, "p2", says("p2", TO_IN)),
        (11.5, "p2", says("p2", IS_EX)),
    ]
    result = run([*frames, (13.0, "p1", data())])
    assert ports(result) == ["p2"]
    assert result.done.left == 0


def test_with_fast_leave_a_leave_is_believed_at_once(run):
    result = run([(0, "p2", says("p2", TO_EX)), (40, "p2", says("p2", TO_IN)), (40, "p1", data())], FAST)
    assert ports(result) == []
    assert result.done.left == 1


def test_of_two_nves_behind_a_port_the_last_that_leaves_ends_its_copies(run):
    """W8: they are told apart by MAC and address."""

    def second(kind):
        return says("p2", kind, nve="10.1.2.3", mac=1)

    frames = [(0, "p2", says("p2", TO_EX)), (1, "p2", second(TO_EX)), (2, "p1", data())]
    frames += [(3, "p2", says("p2", TO_IN)), (4, "p1", data())]
    frames += [(5, "p2", second(TO_IN)), (6, "p1", data())]
    result = run(frames, FAST)
    assert ports(result) == ["p2", "p2"]
    assert (result.done.joined, result.done.left) == (2, 2)


def test_a_source_that_nobody_wants_is_not_copied(run):
    """(S,G): an NVE that names its sources gets those alone; one that blocks some gets all others."""
    frames = [(0, "p2", says("p2", ALLOW, "10.1.1.2")), (0, "p3", says("p3", TO_EX, "10.1.1.2"))]
    frames += [(1, "p1", data("10.1.1.2")), (1, "p1", data("10.1.1.9"))]
    frames += [(2, "p2", says("p2", BLOCK, "10.1.1.2")), (5, "p1", data("10.1.1.2"))]
    result = run(frames)
    assert ports(result) == ["p2", "p3"]
    assert [(row["port"], row["mode"], row["blocked"]) for row in result.done.members] == [
        ("p3", "exclude", ["10.1.1.2"])
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_a_host_of_an_older_version_joins_as_well(run, version):
    result = run([(0, "p2", says("p2", IS_EX, version=version)), (1, "p1", data())])
    assert ports(result) == ["p2"]


@pytest.mark.parametrize("version", [1, 3])
def test_mld_makes_members_of_ipv6_groups(run, version):
    result = run(
        [
            (0, "p2", says("p2", IS_EX, group=GROUP6, version=version)),
            (1, "p1", data("fd00:1:1::2", GROUP6)),
            (1, "p1", data()),
        ]
    )
    assert ports(result) == ["p2"]
    assert [row["origin"] for row in result.done.members] == ["mld"]


# --- time ---------------------------------------------------------------------------------------------------


def test_what_is_due_at_the_time_of_a_frame_comes_before_it(run):
    """A member of 260 s that is silent is none at 260 s, and is one a nanosecond before."""
    base = [(0.0, "p2", says("p2", TO_EX))]
    assert ports(run([*base, (259.999999999, "p1", data())], BOX + QUIET)) != []
    late = run([*base, (31744 * 2 + 10, "p1", data())], BOX + QUIET)
    assert ports(late) == []
    just = [*base, (31.25, "p1", data())]
    result = run(just)
    order = [one.after for one in result.said if one.time_ns == BEGIN_NS + 31_250_000_000]
    assert order == [1] * 6, "the second startup queries of three ports stand before the second frame"


def test_three_hours_with_one_join_are_queries_in_order_of_time_and_an_end(run):
    """D6, D7: it does not answer, is asked by name, and is out. All queries stand in OUT at their times."""
    frames = [
        (0.0, "p2", says("p2", TO_EX)),
        (30.0, "p1", data()),
        (200.0, "p1", data()),
        (10800.0, "p1", data()),
    ]
    result = run(frames)
    assert ports(result) == ["p2"]
    assert (result.done.joined, result.done.left, result.done.members) == (1, 1, [])
    times = [one.time_ns for one in result.said]
    assert times == sorted(times)
    general = [when for port, when, about in asked(result) if port == "p1" and "224.0.0.1 " in about]
    assert general[:4] == [0.0, 31.25, 156.25, 281.25]
    assert general[-1] > 10800 - 125
    assert len(general) == 2 + (10800 - 31) // 125
    specific = [when for port, when, about in asked(result) if about.startswith(GROUP)]
    assert specific == [32.75, 33.75]


def test_a_clock_that_goes_back_takes_no_time_back(run):
    """The clock is the latest time that was seen: what was due stays done, and what comes is heard now."""
    frames = [
        (100.0, "p2", says("p2", TO_EX)),
        (0.0, "p1", data()),
        (50.0, "p3", says("p3", TO_EX)),
        (50.0, "p1", data()),
        (101.0, "p1", data()),
    ]
    result = run(frames)
    assert ports(result) == ["p2", "p2", "p3", "p2", "p3"]
    assert [row["expires_s"] for row in result.done.members] == [259.0, 259.0]


def test_a_clock_that_was_set_is_no_million_of_queries(run):
    """The first frame is of 1970, as of an interface without time; the next is of today."""
    day_s = float(LONGEST_SILENCE_S)
    today = [(-1e9, "p2", says("p2", TO_EX)), (0.0, "p1", data()), (day_s, "p1", data())]
    result = run(today)
    assert ports(result) == []
    assert result.done.left == 1
    assert 6 * day_s / 125 < result.done.queries < 6 * (day_s / 125 + 5) + 3


def test_the_latest_time_that_a_capture_can_hold_is_one(tmp_path):
    frames = [says("p1", TO_EX), data("10.1.2.2")]
    blocks = [c.section(), c.interface("p1", resolution=9), c.interface("p2", resolution=9)]
    blocks += [c.packet(frame, place, (1 << 63) - 2 + place) for place, frame in enumerate(frames)]
    (tmp_path / "in.pcapng").write_bytes(b"".join(blocks))
    done = replay(config_of(BOX), tmp_path / "in.pcapng", tmp_path / "out.pcapng")
    assert (done.joined, done.statistics.replicated) == (1, 1)


@pytest.mark.parametrize("leaves_ns", [5_515_056_690_710, 5_622_468_157_272, 5_501_467_752_335])
def test_a_deadline_between_two_nanoseconds_is_no_endless_one(run, leaves_ns):
    """Of these, a tenth of a second later in floats is a moment before the nanosecond it rounds up to."""
    tenth = "[membership]\nquery_interval_s = 31744\nlast_member_query_interval_s = 0.1\n"
    frames = [
        (0.0, "p1", data()),
        (5500.0, "p2", says("p2", TO_EX)),
        (leaves_ns / 1e9, "p2", says("p2", TO_IN)),
    ]
    result = run([*frames, (5900.0, "p1", data())], BOX + tenth)
    assert (result.done.joined, result.done.left) == (1, 1)


def test_a_capture_without_frames_asks_nobody(run):
    result = run([])
    assert (result.done.queries, result.said) == (0, [])


# --- boxes, ports, files ------------------------------------------------------------------------------------


def test_a_box_without_the_device_role_takes_no_member_and_says_so(run):
    text = BOX.split("[device]", maxsplit=1)[0] + '[replicator]\naddress = "10.0.0.110"\n'
    result = run([(0, "p2", says("p2", TO_EX)), (1, "p1", data())], text)
    assert result.done.refused == {"not_an_nve_port": 1}
    assert (result.done.queries, result.done.members) == (0, [])


def test_a_join_on_a_core_port_makes_no_member(run):
    result = run([(0, "core", says("p2", TO_EX)), (1, "p1", data())])
    assert result.done.refused == {"not_an_nve_port": 1}
    assert result.done.members == []


@pytest.mark.parametrize("in_port", ["p1", "p3"])
def test_in_a_pcap_all_joins_come_in_on_one_port(run, in_port):
    frames = [(0, "", says("p2", TO_EX)), (1, "", data())]
    result = run(frames, name="in.pcap", in_port=in_port)
    assert [row["port"] for row in result.done.members] == [in_port]
    assert result.outcomes[-1].reason == "no_receiver"


def test_the_size_of_a_burst_changes_no_copy(run, tmp_path):
    frames = [(0.0, "p2", says("p2", TO_EX)), (0.1, "p1", data()), (0.2, "p3", says("p3", TO_EX))]
    frames += [(0.3 + i / 100, "p1", data()) for i in range(9)] + [(0.5, "p3", says("p3", TO_IN))]
    frames += [(3.0, "p1", data())]
    wanted = run(frames, FAST).copies
    for batch in (1, 2, 5):
        assert run(frames, f"{FAST}[dataplane]\nbatch = {batch}\n").copies == wanted


def test_damage_in_mid_file_keeps_all_that_was_joined_before_it(tmp_path):
    frames = [
        (0, "p2", says("p2", TO_EX)),
        (1, "p1", data()),
        (2, "p3", says("p3", TO_EX)),
        (3, "p1", data()),
    ]
    whole = capture(tmp_path / "whole.pcapng", frames)
    short = cut(tmp_path / "cut.pcapng", whole, whole.stat().st_size - 9)
    done = replay(config_of(BOX), short, tmp_path / "out.pcapng")
    assert done.damage is not None
    assert (done.joined, len(done.members)) == (2, 2)
    assert [name for name, *_ in copies_in(tmp_path / "out.pcapng")] == ["p2"]


def test_ctrl_c_between_joins_keeps_what_was_made(tmp_path, monkeypatch):
    """It may come while control hears a join, too."""
    heard = []

    def hear(self, port, frame, now_s):
        heard.append(port)
        if len(heard) == 2:
            raise KeyboardInterrupt
        return real(self, port, frame, now_s)

    real = replay.__globals__["Device"].hear
    monkeypatch.setattr("ctrl.roles.device.Device.hear", hear)
    frames = [
        (0, "p2", says("p2", TO_EX)),
        (1, "p1", data()),
        (2, "p3", says("p3", TO_EX)),
        (3, "p1", data()),
    ]
    with pytest.raises(Interrupted, match=r"holds the first 1 copies \(reached frame 3 of 4\)"):
        replay(config_of(BOX), capture(tmp_path / "in.pcapng", frames), tmp_path / "out.pcapng")
    assert [name for name, *_ in copies_in(tmp_path / "out.pcapng")] == ["p2"]


def test_the_rate_of_a_port_is_counted_by_the_capture_s_clock(tmp_path):
    """`punt_rate_pps` and `punt_burst`; what is beyond them is dropped by name, and makes no member."""
    limits = "[membership]\npunt_rate_pps = 1\npunt_burst = 2\n"
    joins = [says("p1", TO_EX, group=f"239.1.1.{i}") for i in range(1, 6)]
    path = pcap_of(tmp_path / "in.pcap", *joins)  # a millisecond apart
    done = replay(config_of(BOX + limits), path, tmp_path / "out.pcapng")
    assert (done.joined, done.statistics.punted) == (2, 2)
    assert {row.reason.name: row.count for row in done.statistics.drops} == {"punt_limit": 3}
    slow = capture(tmp_path / "slow.pcap", [(i * 1.0, "", join) for i, join in enumerate(joins)])
    assert replay(config_of(BOX + limits), slow, tmp_path / "out.pcapng").joined == 5
