"""The device role: what NVEs say at its ports, as frames, becomes membership; and what it asks them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ctrl.config.schema import MembershipTable
from ctrl.membership import ALL, Membership, Origin, Wants, Who
from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.punt import read
from ctrl.refusals import Refused
from ctrl.roles.attachment import Attachment
from ctrl.roles.device import Device

P1, P2, CORE = 1, 3, 5
OURS = {
    P1: Attachment(bytes.fromhex("02fa57000001"), int(ip_address("10.1.1.1"))),
    P2: Attachment(bytes.fromhex("02fa57000003"), int(ip_address("10.1.2.1"))),
}
G4, G6 = ip_address("239.1.1.100"), ip_address("ff05::7:7")
X_MAC, Y_MAC = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
X4, Y4 = ip_address("10.1.1.2"), ip_address("10.1.1.3")
X6 = ip_address("fe80::a")
SOURCE = ip_address("192.0.2.1")


class Box:
    """A device role with its table, on a clock of our own."""

    def __init__(self, **settings):
        self.membership, self.refused = Membership(), Refused()
        self.now_s = 1000.0
        self.device = Device(self.membership, self.refused, MembershipTable(**settings))
        self.device.attach(OURS, self.now_s)

    def hear4(self, *records, port=P1, mac=X_MAC, source=X4, version=3):
        self.device.hear(port, igmp.report_frame(Report(version, records), mac, int(source)), self.now_s)

    def hear6(self, *records, port=P1, mac=X_MAC, source=X6, version=3):
        self.device.hear(port, mld.report_frame(Report(version, records), mac, int(source)), self.now_s)

    def wait(self, seconds):
        """Let time pass, with everything that is due meanwhile in its order."""
        end_s = self.now_s + seconds
        while (due_s := self.device.deadline_s) is not None and due_s <= end_s:
            self.now_s = max(self.now_s, due_s)
            self.device.poll(self.now_s)
        self.now_s = end_s

    def asked(self):
        """(port, query) of what was sent since, as hosts read it."""
        return [(port, heard(frame).message) for port, frame in self.device.take_frames()]


def heard(frame):
    found = read(frame, strict_headers=True)
    assert not isinstance(found, str), found
    return found


def join(group):
    return Record(Kind.TO_EX, int(group))


def leave(group):
    return Record(Kind.TO_IN, int(group))


@pytest.fixture
def box():
    made = Box()
    made.device.take_frames()
    return made


def test_d1_a_report_makes_its_sender_a_member_and_again_changes_nothing(box):
    box.hear4(join(G4))
    box.hear4(join(G4))
    (event,) = box.device.take_events()
    assert (event.group, event.who, event.wants) == (G4, Who(P1, Origin.IGMP, X_MAC, X4), ALL)
    assert event.is_first
    box.hear6(join(G6), port=P2)
    assert dict(box.membership.of(G6)) == {Who(P2, Origin.MLD, X_MAC, X6): ALL}


def test_d4_d5_a_leave_counts_when_nobody_answers_the_specific_query(box):
    box.hear4(join(G4))
    box.hear4(leave(G4))
    assert [(port, q.group) for port, q in box.asked()] == [(P1, int(G4))]
    assert list(box.membership.groups()) == [G4]
    box.wait(1.9)
    assert list(box.membership.groups()) == [G4]
    box.wait(0.2)
    assert list(box.membership.groups()) == []
    assert box.device.take_events()[-1].is_last


def test_d5_an_answer_in_time_changes_nothing(box):
    box.hear4(join(G4))
    box.device.take_events()
    box.hear4(leave(G4))
    box.wait(1.5)
    box.hear4(Record(Kind.IS_EX, int(G4)))
    box.wait(20)
    assert list(box.membership.groups()) == [G4]
    assert box.device.take_events() == []


def test_d17_reports_of_link_local_groups_make_no_state(box):
    box.hear4(*map(join, map(ip_address, ("224.0.0.5", "224.0.0.251", "239.1.1.100"))))
    box.hear6(*map(join, map(ip_address, ("ff01::7", "ff02::16", "ff02::1:ff00:1", "ff05::7:7"))))
    assert list(box.membership.groups()) == [G4, G6]
    assert box.refused == {"link_local_group": 5}


def test_reports_of_what_is_no_group_make_no_state(box):
    box.hear4(*map(join, map(ip_address, ("10.0.0.1", "255.255.255.255", "1.1.1.1", "240.0.0.1"))))
    box.hear6(join(ip_address("2001:db8::1")))
    assert list(box.membership.groups()) == []
    assert box.refused == {"not_a_group": 5}


def test_a_source_that_is_no_host_is_left_out_of_the_record(box):
    sources = [*map(int, map(ip_address, ("239.1.1.1", "192.0.2.1", "0.0.0.0", "255.255.255.255")))]
    box.hear4(Record(Kind.IS_IN, int(G4), tuple(sources)))
    assert list(box.membership.of(G4).values()) == [Wants(is_exclude=False, sources=frozenset({SOURCE}))]
    assert box.refused == {"not_a_source": 3}


def test_d18_what_one_nve_reports_is_not_sent_to_another(box):
    box.hear4(join(G4))
    box.hear4(join(G4), version=2)
    assert box.device.take_frames() == []


def test_w8_two_nves_with_one_mac_or_one_address_are_two_members(box):
    for mac, source in ((X_MAC, X4), (X_MAC, Y4), (Y_MAC, X4)):
        box.hear4(join(G4), mac=mac, source=source)
    box.hear4(join(G4), port=P2)
    assert len(box.membership.of(G4)) == 4


def test_w5_queries_have_router_alert_ttl_1_and_come_from_the_port_s_own_address():
    frames = Box().device.take_frames()
    for port, frame in frames:
        found = heard(frame)  # strict: Router Alert and TTL 1
        assert found.mac == OURS[port].mac
        assert isinstance(found.message, Query)
        assert (found.message.group, found.message.response_s) == (0, 1.0)
        if found.bits == 32:
            assert frame[15] == 0xC0
            assert found.source == OURS[port].address
        else:
            assert found.source == int(ip_address(f"fe80::fa:57ff:fe00:{port:x}"))
    assert sorted((port, heard(frame).bits) for port, frame in frames) == [
        (P1, 32), (P1, 128), (P2, 32), (P2, 128),
    ]  # fmt: skip


def test_igmp_on_a_port_without_nves_is_refused_and_counted(box):
    box.hear4(join(G4), port=CORE)
    assert list(box.membership.groups()) == []
    assert box.refused == {"not_an_nve_port": 1}


def test_a_port_that_is_gone_has_no_members_and_is_asked_when_it_is_back(box):
    box.hear4(join(G4))
    box.hear4(join(G4), port=P2, source=Y4)
    box.device.attach({P2: OURS[P2]}, box.now_s)
    assert [who.port for who in box.membership.of(G4)] == [P2]
    box.device.take_frames()
    box.device.attach(OURS, box.now_s)
    assert {port for port, _ in box.asked()} == {P1}


def test_a_link_that_flaps_loses_no_member_and_is_asked_at_once(box):
    box.hear4(join(G4))
    box.wait(20)
    box.asked()
    for is_up in (False, True):
        down = Attachment(OURS[P1].mac, OURS[P1].address, is_up=is_up)
        box.device.attach(OURS | {P1: down}, box.now_s)
    assert list(box.membership.groups()) == [G4]
    assert {(port, q.group) for port, q in box.asked()} == {(P1, 0)}


def test_the_bound_of_groups_is_one_for_all_ports_and_both_families():
    box = Box(max_groups=3)
    box.hear4(*(join(ip_address(f"239.1.1.{n}")) for n in range(2)))
    box.hear6(*(join(ip_address(f"ff05::{n}")) for n in range(1, 4)), port=P2)
    assert box.membership.n_groups == 3
    assert box.refused == {"groups_full": 2}


def test_other_settings_take_effect_at_once_and_keep_what_is_there():
    box = Box(max_groups_per_port=2)
    box.hear4(*(join(ip_address(f"239.1.1.{n}")) for n in range(4)))
    box.device.configure(MembershipTable(max_groups_per_port=3, fast_leave=True))
    box.hear4(*(join(ip_address(f"239.1.1.{n}")) for n in range(4)))
    assert box.membership.n_groups == 3
    assert box.refused == {"port_groups_full": 3}
    box.hear4(leave(ip_address("239.1.1.0")))
    assert box.membership.n_groups == 2


def test_d19_only_the_nves_named_are_asked_and_who_is_gone_is_gone_soon(box):
    box.hear4(join(G4))
    box.hear4(join(ip_address("239.1.1.101")), mac=Y_MAC, source=Y4)
    box.wait(20)
    box.asked()
    assert box.device.moved([X4, ip_address("10.9.9.9")], box.now_s) == 1
    assert [(port, q.group) for port, q in box.asked()] == [(P1, int(G4))]
    box.wait(10)
    assert list(box.membership.groups()) == [ip_address("239.1.1.101")]


def test_what_cannot_be_read_is_refused_and_counted(box):
    frame = bytearray(igmp.report_frame(Report(3, (join(G4),)), X_MAC, int(X4)))
    frame[-1] ^= 1
    box.device.hear(P1, bytes(frame), box.now_s)
    box.device.hear(P1, b"", box.now_s)
    assert box.refused["bad_control_checksum"] == 1
    assert sum(box.refused.values()) == 2
    assert list(box.membership.groups()) == []


def test_queries_may_be_taken_a_few_at_a_time_and_stay_in_order(box):
    groups = [ip_address(f"239.1.1.{n}") for n in range(5)]
    box.hear4(*map(join, groups))
    box.hear4(*map(leave, groups))
    assert box.device.n_frames == 5
    taken = box.device.take_frames(2) + box.device.take_frames(2) + box.device.take_frames()
    assert [heard(frame).message.group for _, frame in taken] == [int(group) for group in groups]
    assert box.device.n_frames == 0


def test_members_are_shown_with_what_is_left_of_their_time(box):
    box.hear4(Record(Kind.IS_IN, int(G4), (int(SOURCE),)))
    box.wait(10)
    ((port, origin, group, nve, member),) = box.device.members(box.now_s)
    assert (port, origin, group, nve, member.host[0]) == (P1, Origin.IGMP, G4, X4, X_MAC)
    assert member.expires_s == pytest.approx(250)
