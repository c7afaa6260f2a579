"""Which groups an NVE is in, in frames: N3 to N7, over uplinks that come, go and are renumbered."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from shutil import which

import dpkt
import pytest
from scapy.layers import igmp as theirs
from scapy.layers.inet6 import ICMPv6MLReport2, IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether

from ctrl import punt
from ctrl.config.schema import MembershipTable
from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.refusals import Refused
from ctrl.roles.attachment import Attachment
from ctrl.roles.nve.joins import Joined, Joins, Place
from tests.captures_io import pcap

IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = Kind
UP, UP2 = 3, 5
G, G6 = ip_address("239.1.1.100"), ip_address("ff05::100")
OTHER = ip_address("239.1.1.101")
SOURCE = int(ip_address("10.1.1.2"))
UPLINK = Attachment(bytes.fromhex("02000000000a"), SOURCE)
LINK_LOCAL = int(ip_address("fe80::ff:fe00:a"))
DEVICE = bytes.fromhex("02fa57000001"), int(ip_address("10.1.1.1"))
DEVICE6 = DEVICE[0], int(ip_address("fe80::1"))


def needs(*groups: object, uplink: int = UP) -> list[Place]:
    return [(uplink, ip_address(str(group))) for group in groups]


class Nve:
    """Joins on a fake clock. Random numbers are one half."""

    def __init__(self, settings: MembershipTable | None = None, **uplink: object) -> None:
        self.at_s = 100.0
        self.refused = Refused()
        self.joins = Joins(self.refused, settings or MembershipTable(), lambda: 0.5)
        self.frames: list[tuple[int, bytes]] = []
        self.uplink = replace(UPLINK, **uplink)  # type: ignore[arg-type]
        self.attach({UP: self.uplink})

    def attach(self, uplinks: dict[int, Attachment]) -> None:
        self.joins.attach(uplinks, self.at_s)
        self.run()

    def change(self, **uplink: object) -> None:
        self.uplink = replace(self.uplink, **uplink)  # type: ignore[arg-type]
        self.attach({UP: self.uplink})

    def need(self, network: str, *groups: object, uplink: int = UP) -> None:
        self.joins.need(network, needs(*groups, uplink=uplink), self.at_s)
        self.run()

    def ask(self, query: Query, port: int = UP, codec: object = igmp) -> None:
        whose = DEVICE if codec is igmp else DEVICE6
        self.hear(codec.query_frame(query, *whose), port)  # type: ignore[attr-defined]

    def hear(self, frame: bytes, port: int = UP) -> None:
        self.joins.hear(port, frame, self.at_s)
        self.run()

    def run(self, for_s: float = 0.0) -> None:
        until_s = self.at_s + for_s
        while (deadline_s := self.joins.deadline_s) is not None and deadline_s <= until_s:
            self.at_s = max(self.at_s, deadline_s)
            self.joins.poll(self.at_s)
        self.at_s = until_s

    def sent(self, for_s: float = 5.0) -> list[tuple[int, bytes]]:
        """Let the time go on; the frames sent since the last call."""
        self.run(for_s)
        return self.joins.take_frames()

    def said(self, for_s: float = 5.0) -> list[tuple[int, Kind, str]]:
        """The records of these frames, each read as a device does that is strict: port, kind, group."""
        found = []
        for port, frame in self.sent(for_s):
            heard = punt.read(frame, strict_headers=True)
            assert isinstance(heard, punt.Heard)
            assert isinstance(heard.message, Report)
            family = ip_address(bytes(heard.bits // 8)).__class__
            found += [(port, one.kind, str(family(one.group))) for one in heard.message.records]
        return found


@pytest.fixture
def nve() -> Nve:
    return Nve()


JOIN, LEAVE = [(UP, TO_EX, str(G))] * 2, [(UP, TO_IN, str(G))] * 2

# --- which groups -------------------------------------------------------------------------------------------


def test_n3_the_first_vm_of_a_group_is_one_join_and_the_second_is_none(nve: Nve) -> None:
    nve.need("red", G)
    assert nve.said() == JOIN
    nve.need("red", G)
    nve.need("blue", G)
    assert nve.said() == []


def test_n4_a_vm_of_another_group_is_a_join_of_that_group_only(nve: Nve) -> None:
    nve.need("red", G)
    nve.said()
    nve.need("blue", OTHER)
    assert nve.said() == [(UP, TO_EX, str(OTHER))] * 2


def test_n5_the_last_vm_of_a_group_is_its_leave_and_no_other_is(nve: Nve) -> None:
    nve.need("red", G)
    nve.need("blue", G)
    nve.said()
    nve.need("red")
    assert nve.said() == []
    nve.need("blue")
    assert nve.said() == LEAVE
    nve.need("blue")
    assert nve.said() == []


def test_a_group_that_passes_from_one_network_to_another_is_not_left(nve: Nve) -> None:
    nve.need("red", G)
    nve.said()
    nve.joins.need("red", needs(), nve.at_s)
    nve.joins.need("blue", needs(G), nve.at_s)
    assert nve.said() == []


def test_a_network_may_have_several_groups_and_change_one_of_them(nve: Nve) -> None:
    """N9: several groups for different packets of one VNI."""
    nve.need("red", G, OTHER)
    nve.said()
    nve.need("red", G, "239.1.1.102")
    assert set(nve.said()) == {(UP, TO_EX, "239.1.1.102"), (UP, TO_IN, str(OTHER))}


def test_groups_of_both_families_are_joined_each_in_its_own(nve: Nve) -> None:
    nve.need("red", G, G6)
    assert set(nve.said()) == {(UP, TO_EX, str(G)), (UP, TO_EX, str(G6))}
    nve.need("red")
    assert set(nve.said()) == {(UP, TO_IN, str(G)), (UP, TO_IN, str(G6))}


def test_each_uplink_is_asked_for_the_groups_that_are_needed_there() -> None:
    nve = Nve()
    nve.attach({UP: UPLINK, UP2: UPLINK})
    nve.need("red", G)
    nve.need("blue", G, uplink=UP2)
    assert nve.said() == [(UP, TO_EX, str(G)), (UP2, TO_EX, str(G))] * 2
    nve.need("blue")
    assert nve.said() == [(UP2, TO_IN, str(G))] * 2


# --- queries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "mine", "not_mine"), [(igmp, G, OTHER), (mld, G6, "ff05::101")])
def test_n6_a_member_answers_a_specific_query_and_a_non_member_keeps_silent(codec, mine, not_mine):
    nve = Nve()
    nve.need("red", mine)
    nve.said()
    nve.ask(Query(3, int(ip_address(str(not_mine))), response_s=1.0), codec=codec)
    assert nve.said() == []
    nve.ask(Query(3, int(mine), response_s=1.0), codec=codec)
    assert nve.said(1.0) == [(UP, IS_EX, str(mine))]


@pytest.mark.parametrize(("codec", "base", "n"), [(igmp, G, 183), (mld, G6, 72)])
def test_n7_a_general_query_is_answered_with_every_group_in_few_reports(codec, base, n):
    nve = Nve()
    groups = [base + i for i in range(500)]
    nve.need("red", *groups)
    nve.sent()
    nve.ask(Query(3), codec=codec)
    frames = nve.sent(10.0)
    assert len(frames) == -(-500 // n)
    assert all(len(frame) <= 14 + 1500 for _, frame in frames)
    said = [one.group for _, frame in frames for one in heard(frame).records]
    assert sorted(said) == [int(group) for group in groups]


def test_n7_a_general_query_of_version_2_is_answered_with_one_report_per_group(nve: Nve) -> None:
    nve.need("red", *(G + i for i in range(50)))
    nve.sent()
    nve.ask(Query(2))
    frames = [frame for _, frame in nve.sent(10.0)]
    assert [heard(frame) for frame in frames] == [Report(2, (Record(IS_EX, int(G) + i),)) for i in range(50)]


def test_n7_reports_fit_the_uplink() -> None:
    nve = Nve(mtu=576)
    nve.need("red", *(G + i for i in range(200)))
    frames = nve.sent()
    assert len(frames) > 2
    assert all(len(frame) <= 14 + 576 for _, frame in frames)


def heard(frame: bytes) -> Report:
    found = punt.read(frame, strict_headers=True)
    assert isinstance(found, punt.Heard)
    assert isinstance(found.message, Report)
    return found.message


def test_reports_of_other_hosts_are_nothing_to_an_nve_and_suppress_none_of_its_own(nve: Nve) -> None:
    """D18."""
    nve.need("red", G)
    nve.sent()
    nve.ask(Query(2))
    other = igmp.report_frame(Report(2, (Record(IS_EX, int(G)),)), DEVICE[0], SOURCE + 1)
    nve.hear(other)
    assert nve.said(10.0) == [(UP, IS_EX, str(G))]
    assert nve.refused == {"report_of_a_host": 1}


def test_what_is_no_query_for_us_is_refused_by_name(nve: Nve) -> None:
    nve.need("red", G)
    nve.sent()
    nve.hear(bytes(60))
    nve.ask(Query(3), port=UP2)
    good = igmp.query_frame(Query(3), *DEVICE)
    nve.hear(good[:-1] + b"\x01")
    nve.hear(good[:-12])
    nve.hear(redirected(good, G))
    assert nve.said(20.0) == []
    assert nve.refused == {
        "zero_mac": 1,
        "not_an_nve_port": 1,
        "bad_control_checksum": 1,
        "malformed_control": 1,
        "query_astray": 1,
    }


def redirected(frame: bytes, to: object) -> bytes:
    """An IPv4 frame to somebody else; its header's checksum is the compiled path's business."""
    return frame[:30] + ip_address(str(to)).packed + frame[34:]


def test_a_query_to_our_own_address_is_answered(nve: Nve) -> None:
    """RFC 9776 section 4.1.12: whatever address of ours it is sent to."""
    nve.need("red", G)
    nve.sent()
    nve.hear(redirected(igmp.query_frame(Query(3), *DEVICE), ip_address(SOURCE)))
    assert nve.said(10.0) == [(UP, IS_EX, str(G))]


def test_queries_without_router_alert_are_answered_unless_headers_are_to_be_strict() -> None:
    frame = igmp.query_frame(Query(3), *DEVICE)
    plain = frame[:14] + b"\x45" + frame[15:16] + b"\x00\x20" + frame[18:34] + frame[38:]
    for strict, n in ((False, 1), (True, 0)):
        nve = Nve(MembershipTable(strict_headers=strict))
        nve.need("red", G)
        nve.sent()
        nve.hear(plain)
        assert len(nve.sent(10.0)) == n
        assert nve.refused == ({"not_from_the_link": 1} if strict else {})


# --- uplinks ------------------------------------------------------------------------------------------------


def test_what_was_needed_before_there_was_an_uplink_is_joined_with_it(nve: Nve) -> None:
    nve.need("red", G, uplink=UP2)
    assert nve.said() == []
    nve.need("blue", OTHER)
    nve.sent()
    nve.attach({UP: UPLINK, UP2: UPLINK})
    assert nve.said() == [(UP2, TO_EX, str(G))] * 2


def test_an_uplink_whose_link_is_back_is_joined_anew_at_once(nve: Nve) -> None:
    nve.need("red", G)
    nve.need("old", OTHER)
    nve.sent()
    nve.ask(Query(3))
    nve.change(is_up=False)
    nve.need("old")
    nve.need("new", "239.1.1.102")
    assert nve.sent(100.0) == []
    nve.change(is_up=True)
    assert nve.said(0.0) == [(UP, TO_EX, str(G)), (UP, TO_EX, "239.1.1.102")]


def test_an_uplink_that_begins_without_a_link_says_nothing_until_it_has_one() -> None:
    nve = Nve(is_up=False)
    nve.need("red", G)
    assert nve.sent() == []
    assert nve.joins.deadline_s is None
    nve.change(is_up=True)
    assert nve.said() == JOIN


@pytest.mark.parametrize(
    ("changed", "families"), [({"mac": bytes.fromhex("02000000000b")}, 2), ({"address": SOURCE + 1}, 1)]
)
def test_an_uplink_with_another_address_is_joined_under_it_at_once(nve: Nve, changed, families) -> None:
    """W8: the device knows a host by (MAC, source)."""
    nve.need("red", G, G6)
    nve.sent()
    nve.change(**changed)
    frames = [frame for _, frame in nve.sent(0.0)]
    assert len(frames) == families
    assert {frame[6:12] for frame in frames} == {nve.uplink.mac}
    assert frames[0][26:30] == nve.uplink.address.to_bytes(4, "big")


def test_another_mtu_is_no_reason_to_join_anew(nve: Nve) -> None:
    nve.need("red", G)
    nve.sent()
    nve.change(mtu=9000)
    assert nve.sent() == []


def test_nothing_is_sent_by_an_uplink_that_went_while_it_had_something_to_say(nve: Nve) -> None:
    nve.need("red", G)
    assert nve.joins.n_frames == 1
    nve.attach({})
    assert nve.sent() == []
    nve.attach({UP: UPLINK})
    assert nve.joins.n_frames == 1
    nve.change(is_up=False)
    assert nve.sent() == []


def test_frames_are_taken_in_order_and_as_many_as_are_wanted(nve: Nve) -> None:
    nve.ask(Query(2))
    nve.need("red", *(G + i for i in range(10)))
    frames = [*nve.joins.take_frames(4), *nve.joins.take_frames(4), *nve.joins.take_frames(4)]
    assert len({frame for _, frame in frames}) == len(frames) == nve.joins.reports_sent == 10


def test_other_settings_hold_from_the_next_query_on(nve: Nve) -> None:
    nve.joins.configure(MembershipTable(robustness=4))
    nve.ask(Query(3))
    nve.need("red", G)
    assert len(nve.said()) == 4


def test_what_an_nve_is_in_can_be_shown(nve: Nve) -> None:
    nve.need("red", G)
    nve.need("blue", G)
    nve.need("green", G6, uplink=UP2)
    nve.ask(Query(2))
    assert list(nve.joins.rows(nve.at_s)) == [
        Joined(UP, G, ("red", "blue"), 2, is_said=True),
        Joined(UP2, G6, ("green",), 3, is_said=False),
    ]
    nve.change(is_up=False)
    assert [one.is_said for one in nve.joins.rows(nve.at_s)] == [False, False]


# --- on the wire --------------------------------------------------------------------------------------------


def frames_of(nve: Nve, codec: object, group: object, version: int) -> list[bytes]:
    """A join and a leave in a version."""
    if version < 3:
        nve.ask(Query(version), codec=codec)
    nve.need("red", group)
    nve.need("red")
    return [frame for _, frame in nve.sent(0.0)]


def test_w5_a_report_of_igmp_is_from_the_uplinks_address_as_dpkt_and_scapy_read_it(nve: Nve) -> None:
    """W8."""
    join, leave = frames_of(nve, igmp, G, 3)
    for frame, kind in ((join, 4), (leave, 3)):
        ether = dpkt.ethernet.Ethernet(frame)
        ip = ether.data
        assert (ether.dst.hex(":"), ether.src) == ("01:00:5e:00:00:16", UPLINK.mac)
        assert (ip.src, ip.dst) == (SOURCE.to_bytes(4, "big"), ip_address("224.0.0.22").packed)
        assert (ip.ttl, ip.tos, ip.opts) == (1, 0xC0, bytes.fromhex("94040000"))
        [record] = theirs.IGMPv3_MR(bytes(ip.data)).records
        assert (record.rtype, record.maddr, record.numsrc) == (kind, str(G), 0)


def test_w5_a_report_of_mld_is_from_the_link_local_address_as_scapy_reads_it(nve: Nve) -> None:
    """W8."""
    join, leave = frames_of(nve, mld, G6, 3)
    for frame, kind in ((join, 4), (leave, 3)):
        ether = Ether(frame)
        assert (ether.dst, ether.src) == ("33:33:00:00:00:16", UPLINK.mac.hex(":"))
        assert (int(ip_address(ether[IPv6].src)), ether[IPv6].dst) == (LINK_LOCAL, "ff02::16")
        assert ether[IPv6].hlim == 1
        assert ether[IPv6ExtHdrHopByHop].options[0].value == 0
        [record] = ether[ICMPv6MLReport2].records
        assert (record.rtype, record.dst) == (kind, str(G6))


@pytest.mark.skipif(which("tshark") is None, reason="tshark is not here")
def test_all_that_an_nve_says_is_sound_in_the_eyes_of_tshark(tmp_path: Path) -> None:
    """W5."""
    frames = [
        frame
        for codec, group, versions in ((igmp, G, (1, 2, 3)), (mld, G6, (2, 3)))
        for version in versions
        for frame in frames_of(Nve(), codec, group, version)
    ]
    path = tmp_path / "said.pcap"
    path.write_bytes(pcap(enumerate(frames)))
    fields = [
        "igmp.type",
        "igmp.checksum.status",
        "icmpv6.type",
        "icmpv6.checksum.status",
        "ip.checksum.status",
    ]
    options = [word for field in fields for word in ("-e", field)]
    verify = ["-o", "ip.check_checksum:TRUE", "-T", "fields", "-E", "separator=,"]
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), *verify, *options], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == [
        "0x12,1,,,1",
        *("0x16,1,,,1", "0x17,1,,,1"),
        *("0x22,1,,,1", "0x22,1,,,1"),
        *(",,131,1,", ",,132,1,"),
        *(",,143,1,", ",,143,1,"),
    ]
