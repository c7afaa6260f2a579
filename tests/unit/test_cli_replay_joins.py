"""`fastpath replay` of captures with joins: what it says of members, and of what control refused."""

from __future__ import annotations

import json
from pathlib import Path

from ctrl.refusals import REFUSALS
from tests.command import Box, pcap_of
from tests.joining import ALLOW, BOX, GROUP, GROUP6, TO_EX, TO_IN, capture, data, says

FAST = BOX + "[membership]\nfast_leave = true\n"

REPORT = """\
received 5 = replicated 1 + punted 4 (IGMP, MLD) + dropped 0
joined 3, left 0; 3 members in 2 groups at the end; 6 queries sent

PORT  NVE       GROUP        WANTS             EXPIRES_S
p1    fe80::1   ff05::100    all                   257.0
p2    10.1.2.2  239.1.1.100  10.1.1.2              256.0
p3    10.1.3.2  239.1.1.100  all but 10.1.1.9      258.0

"""


def report_box(tmp_path: Path) -> Box:
    box = Box(tmp_path)
    (box.folder / "box.toml").write_text(BOX)
    frames = [
        (0.0, "p2", says("p2", ALLOW, "10.1.1.2")),
        (1.0, "p1", says("p1", TO_EX, group=GROUP6)),
        (2.0, "p3", says("p3", TO_EX, "10.1.1.9")),
        (3.0, "p1", says("p1", TO_EX, group="224.0.0.251")),
        (4.0, "p1", data()),
    ]
    capture(box.folder / "in.pcapng", frames)
    return box


def test_it_prints_who_joined_what_and_what_control_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = report_box(tmp_path).replay("in.pcapng", "-c", "box.toml", "-o", "out.pcapng")
    assert (done.returncode, done.stderr) == (0, "")
    assert REPORT in done.stdout
    row = f"link_local_group  record      1  {REFUSALS['link_local_group'].sentence}"
    assert f"\nDROP              UNIT    COUNT  WHY\n{row}\n" in done.stdout


def test_json_holds_members_and_refusals_as_a_running_box_tells_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = report_box(tmp_path).replay("in.pcapng", "-c", "box.toml", "-o", "out.pcapng", "-j")
    told = json.loads(done.stdout)
    assert told["drops"] == [
        {
            "reason": "link_local_group",
            "unit": "record",
            "stage": "membership",
            "frames": 1,
            "rate_pps": 0.25,
            "last": None,
        }
    ]
    assert told["members"][1] == {
        "node": "tor1",
        "port": "p2",
        "nve": "10.1.2.2",
        "mac": "02:00:00:00:00:02",
        "network": None,
        "vni": [],
        "group": GROUP,
        "mode": "include",
        "sources": ["10.1.1.2"],
        "blocked": [],
        "origin": "igmp",
        "expires_s": 256.0,
    }


def test_frames_of_groups_that_are_left_by_the_end_are_told_too(tmp_path, monkeypatch):
    """What is replicated is in the table of groups, whoever has left since."""
    monkeypatch.chdir(tmp_path)
    box = Box(tmp_path)
    (box.folder / "box.toml").write_text(FAST)
    stays, goes = "239.1.1.1", "239.1.1.2"
    frames = [(0.0, "p2", says("p2", TO_EX, group=group)) for group in (stays, goes)]
    frames += [(1.0, "p1", data(group=group)) for group in (stays, goes, goes)]
    capture(box.folder / "in.pcapng", [*frames, (2.0, "p2", says("p2", TO_IN, group=goes))])
    done = box.replay("in.pcapng", "-c", "box.toml", "-o", "out.pcapng")
    assert "\njoined 2, left 1; 1 members in 1 groups at the end; 6 queries sent\n" in done.stdout
    rows = ["ROLE    GROUP       FRAMES", "device  239.1.1.1        1", "-       left since       2"]
    assert "\n".join(rows) in done.stdout


def test_of_many_members_the_first_are_printed_and_how_many_more_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    box = Box(tmp_path)
    (box.folder / "box.toml").write_text(BOX)
    pcap_of(box.folder / "in.pcap", *(says("p1", TO_EX, group=f"239.1.1.{i}") for i in range(1, 31)))
    done = box.replay("in.pcap", "-c", "box.toml", "-o", "out.pcapng")
    assert "\njoined 30, left 0; 30 members in 30 groups at the end; 6 queries sent\n" in done.stdout
    assert "239.1.1.20  all" in done.stdout
    assert "239.1.1.21" not in done.stdout
    assert "\nand 10 more: -j prints them all\n" in done.stdout
