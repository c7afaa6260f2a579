"""The reports of other projects' captures (../shared/captures), replayed: who is a member at the end, against
what the tables of RFC 9776 section 6.4 make of tshark's fields.

All reports go into one capture, a millisecond apart, and ten seconds later nobody has objected to any leave.
Queries are left out: by them others would be the querier, and when leaves are believed is another matter.
"""

from __future__ import annotations

import csv
import subprocess
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from shutil import which

import pytest

from tests import frames as f
from tests.captures_io import pcap, read_frames
from tests.joining import BEGIN_NS, BOX
from tests.replaying import ROOT, checked, config_of

SHARED = ROOT.parent / "shared" / "captures"
pytestmark = [
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here"),
    pytest.mark.skipif(which("tshark") is None, reason="tshark is not here"),
]
LEAVE, V1, V2 = "0x17", "0x12", "0x16"
V3_REPORT, MLD2_REPORT = "0x22", "143"
MLD = {"131": V2, "132": LEAVE}
FIELDS = (
    *("frame.protocols", "eth.src", "ip.src", "ip.checksum.status", "igmp.type", "igmp.checksum.status"),
    *("igmp.record_type", "igmp.maddr", "igmp.num_src", "igmp.saddr", "ipv6.src", "ipv6.hlim"),
    *("ipv6.opt.router_alert", "icmpv6.type", "icmpv6.checksum.status", "icmpv6.mld.multicast_address"),
    *("icmpv6.mldr.mar.record_type", "icmpv6.mldr.mar.multicast_address", "icmpv6.mldr.mar.nb_sources"),
    *("icmpv6.mldr.mar.source_address", "_ws.malformed"),
)
PLAIN = ("eth:ethertype:ip:igmp", "eth:ethertype:ipv6:ipv6.hopopts:icmpv6")
IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = "123456"

Told = dict[str, list[str]]
Record = tuple[str, str, set[str]]


@dataclass
class State:
    """Of one host in one group: `included` and `blocked` are X and Y of the RFC's EXCLUDE (X, Y), or A and
    nothing of INCLUDE (A). `asked` are sources that nobody confirms, None the group."""

    is_exclude: bool = False
    included: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)
    asked: set[str | None] = field(default_factory=set)
    is_older: bool = False

    def hear(self, kind: str, sources: set[str]) -> None:
        """The tables of RFC 9776 sections 6.4.1 and 6.4.2."""
        if kind in (IS_IN, ALLOW, TO_IN):
            if kind == TO_IN:
                self.asked |= self.included - sources
                if self.is_exclude:
                    self.asked.add(None)
            self.included |= sources
            self.blocked -= sources
            self.asked -= sources
        elif kind in (IS_EX, TO_EX):
            was = self.included if not self.is_exclude else sources - self.blocked
            self.blocked = self.blocked & sources if self.is_exclude else sources - self.included
            self.included = sources & was
            self.is_exclude = True
            self.asked.discard(None)
            if kind == TO_EX:
                self.asked |= self.included
        else:
            if self.is_exclude:
                self.included |= sources - self.blocked
            self.asked |= self.included & sources

    def settle(self) -> None:
        """Nobody objects."""
        lost = self.included & self.asked
        self.included -= lost
        if None in self.asked:
            self.is_exclude, self.blocked = False, set()
        elif self.is_exclude:
            self.blocked |= lost


def told_by_tshark(path: Path) -> list[Told]:
    """The fields of every frame."""
    options = [word for name in FIELDS for word in ("-e", name)]
    command = ["tshark", "-n", "-r", str(path), "-o", "ip.check_checksum:TRUE", "-T", "fields", *options]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    rows = csv.reader(done.stdout.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [
        {name: [one for one in cell.split(",") if one] for name, cell in zip(FIELDS, row, strict=True)}
        for row in rows
    ]


def is_sound(told: Told) -> bool:
    """Whether a device may believe it (RFC 9776 section 4.2, RFC 9777 section 5.2)."""
    if told["_ws.malformed"] or told["eth.src"] == ["00:00:00:00:00:00"]:
        return False
    if told["frame.protocols"][0].startswith(PLAIN[0]):
        return told["ip.checksum.status"] == told["igmp.checksum.status"] == ["1"]
    return (
        told["frame.protocols"] == [PLAIN[1]]
        and told["icmpv6.checksum.status"] == told["ipv6.hlim"] == ["1"]
        and told["ipv6.opt.router_alert"] == ["0"]
        and (ip_address(told["ipv6.src"][0]).is_link_local or told["ipv6.src"] == ["::"])
    )


def kind_of(told: Told) -> str:
    """The type, in the words of IGMP where both have it; empty for what is no report."""
    if told["igmp.type"]:
        return told["igmp.type"][0] if told["igmp.type"][0] in (LEAVE, V1, V2, V3_REPORT) else ""
    if told["icmpv6.type"]:
        kind = told["icmpv6.type"][0]
        return MLD.get(kind, V3_REPORT if kind == MLD2_REPORT else "")
    return ""


def records_of(told: Told) -> list[Record]:
    """(record type, group, sources) of a report."""
    names = (
        ("igmp.record_type", "igmp.maddr", "igmp.num_src", "igmp.saddr")
        if told["igmp.type"]
        else tuple(
            f"icmpv6.mldr.mar.{name}"
            for name in ("record_type", "multicast_address", "nb_sources", "source_address")
        )
    )
    kind = kind_of(told)
    if kind != V3_REPORT:
        (group,) = told["igmp.maddr"] or told["icmpv6.mld.multicast_address"]
        return [(TO_IN if kind == LEAVE else IS_EX, group, set())]
    kinds, groups, counts, sources = (told[name] for name in names)
    left = iter(sources)
    return [
        (one, group, {source for source in islice(left, int(n)) if is_host(source)})
        for one, group, n in zip(kinds, groups, counts, strict=True)
    ]


def is_host(source: str) -> bool:
    address = ip_address(source)
    return not (address.is_multicast or address.is_unspecified or source == "255.255.255.255")


def is_group(text: str) -> bool:
    """Whether there may be members: multicast, and not of the link alone."""
    group = ip_address(text)
    if not group.is_multicast:
        return False
    return group.packed[:3] != b"\xe0\0\0" if group.version == 4 else group.packed[1] & 15 > 2


def members_by(told: list[Told]) -> dict[tuple[str, str, str], State]:
    """By group, report source and MAC."""
    states: dict[tuple[str, str, str], State] = {}
    spoken_v1: set[str] = set()
    for one in told:
        kind = kind_of(one)
        source = (one["ip.src"] or one["ipv6.src"])[0]
        for action, group, sources in records_of(one):
            if not is_group(group) or action not in (IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK):
                continue
            state = states.setdefault((group, source, one["eth.src"][0]), State())
            if kind == V1:
                spoken_v1.add(group)
            if action == TO_IN and group in spoken_v1 and (state.is_older or not sources):
                continue  # section 7.3.2: a host of version 1 cannot object
            state.is_older |= kind in (V1, V2)
            if state.is_older and action in (TO_EX, BLOCK):
                state.hear(IS_EX if action == TO_EX else ALLOW, set())  # sections 7.2.2 and 7.3.2
            else:
                state.hear(action, sources)
    for state in states.values():
        state.settle()
    return {key: state for key, state in states.items() if state.is_exclude or state.included}


def reports() -> list[bytes]:
    """The frames of all captures in which tshark has found a report."""
    found = []
    for path in sorted((SHARED / "expected_tshark").iterdir()):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        wanted = [
            row["frame.protocols"].startswith(PLAIN)
            and (row["igmp.type"] in (LEAVE, V1, V2, V3_REPORT) or row["icmpv6.type"] in (*MLD, MLD2_REPORT))
            for row in rows
        ]
        if any(wanted):
            frames = read_frames(SHARED / path.name.removesuffix(".tsv").replace("__", "/"))
            found += [data for (*_, data), is_wanted in zip(frames, wanted, strict=True) if is_wanted]
    return found


def test_after_all_reports_the_members_are_those_of_tshark_s_fields_and_the_rfc_s_table(tmp_path: Path):
    """D1, D4: members, modes and sources."""
    frames = reports()
    times = [BEGIN_NS + i * 10**6 for i in range(len(frames))]
    path = tmp_path / "in.pcap"
    path.write_bytes(pcap([*zip(times, frames, strict=True), (times[-1] + 10 * 10**9, f.arp())]))
    told = told_by_tshark(path)[:-1]
    sound = [one for one in told if is_sound(one) and kind_of(one)]
    assert (len(frames), len(sound)) > (100, 50)
    wanted = {
        (group, source, mac): (state.is_exclude, sorted(state.included), sorted(state.blocked))
        for (group, source, mac), state in members_by(sound).items()
    }
    result = checked(config_of(BOX), path, tmp_path / "out.pcapng", "p1")
    got = {
        (row["group"], row["nve"], row["mac"]): (
            row["mode"] == "exclude",
            sorted(row["sources"]),
            sorted(row["blocked"]),
        )
        for row in result.done.members
    }
    assert got == wanted
    assert len(wanted) > 20
    assert {is_exclude for is_exclude, *_ in wanted.values()} == {True, False}
