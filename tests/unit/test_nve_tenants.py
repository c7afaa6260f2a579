"""Tenant groups at one NVE (N13): who behind its VM ports wants what, who is asked, who gets to see what."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from ctrl import punt
from ctrl.config.schema import MembershipTable
from ctrl.members import router_places
from ctrl.membership import ALL, Wants
from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.refusals import Refused
from ctrl.roles.tenants import NOBODY, OVERLAY, Sent, Tenants, union
from tests.igmp_vectors import IGMP
from tests.unit.test_router_vectors import IGMP_SEQUENCES

IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = Kind
MAC = bytes.fromhex("02fa57000001")
G, G6 = ip_address("239.10.10.10"), ip_address("ff05::100")
ROUTER, ROUTER6 = int(ip_address("192.0.2.254")), int(ip_address("fe80::fe"))


UNSURE = igmp.query_frame(Query(3), bytes(5) + b"\x42", ROUTER)
"""Of a querier that says nothing of how it asks."""


class Nve:
    """Two networks that snoop, red with VM ports 1 to 3 and blue with 4. Random numbers are one half. Without
    `has_host` it is no NVE but a device, and these are places of NVEs."""

    def __init__(self, *, has_host: bool = True, **settings: Any) -> None:
        self.at_s = 50.0
        self.refused = Refused()
        made = self.refused, MembershipTable(**settings), MAC, lambda: 0.5
        self.tenants = Tenants(*made, has_host=has_host)
        self.attach("red", 1, 2, 3)
        self.attach("blue", 4)
        self.run(60.0)
        self.tenants.take_frames()
        self.tenants.take_changed()

    def attach(self, network: str, *ports: int) -> None:
        self.tenants.attach(network, dict.fromkeys(ports, 1500), self.at_s)

    def hear(self, port: int, frame: bytes, network: str = "red") -> None:
        self.tenants.hear(network, port, frame, self.at_s)

    def say(self, port: int, kind: Kind, *sources: str, group: object = G, network: str = "red") -> bytes:
        """Have the VM of a port report a group."""
        to = ip_address(str(group))
        record = Record(kind, int(to), tuple(int(ip_address(one)) for one in sources))
        vm = int(ip_address("192.0.2.0" if to.version == 4 else "fe80::")) + abs(port)
        codec: Any = igmp if to.version == 4 else mld
        frame: bytes = codec.report_frame(Report(3, (record,)), bytes((2, 0, 0, 0, 0, abs(port))), vm)
        self.hear(port, frame, network)
        return frame

    def ask(self, port: int, source: int = ROUTER, codec: Any = igmp) -> bytes:
        """Have a querier at a place ask for all."""
        frame: bytes = codec.query_frame(Query(3, robustness=2, interval_s=125.0), bytes(5) + b"\x42", source)
        self.hear(port, frame)
        return frame

    def run(self, for_s: float) -> None:
        until_s = self.at_s + for_s
        while (deadline_s := self.tenants.deadline_s) is not None and deadline_s <= until_s:
            self.at_s = max(self.at_s, deadline_s)
            self.tenants.poll(self.at_s)
        self.at_s = until_s

    def sent(self, for_s: float = 0.0) -> list[Sent]:
        self.run(for_s)
        return self.tenants.take_frames()

    def up(self, for_s: float = 0.0) -> list[tuple[Kind, int, set[int]]]:
        """What it says of itself in the overlay, meanwhile."""
        found = []
        for _, port, frame, *_ in self.sent(for_s):
            heard = punt.read(frame, strict_headers=False)
            assert isinstance(heard, punt.Heard)
            if port == OVERLAY and isinstance(heard.message, Report) and heard.mac == MAC:
                assert heard.source == NOBODY[heard.bits]
                found += [(one.kind, one.group, {*one.sources}) for one in heard.message.records]
        return found


@pytest.fixture
def nve() -> Nve:
    return Nve()


def test_n13_a_tenant_group_is_wanted_at_the_ports_of_its_members_alone(nve: Nve) -> None:
    nve.say(1, TO_EX)
    nve.say(2, ALLOW, "192.0.2.77")
    assert nve.tenants.listeners("red", G) == {1: ALL, 2: Wants(False, frozenset({ip_address("192.0.2.77")}))}
    assert nve.tenants.listeners("blue", G) == {}
    assert nve.tenants.groups("red") == [G]
    assert nve.tenants.take_changed() == [("red", G)]


def test_equal_groups_of_two_networks_are_two(nve: Nve) -> None:
    nve.say(1, TO_EX)
    nve.say(4, TO_EX, network="blue")
    nve.say(1, TO_IN)
    nve.run(3.0)
    assert nve.tenants.listeners("red", G) == {}
    assert nve.tenants.listeners("blue", G) == {4: ALL}


def test_vms_are_asked_where_no_tenant_asks_as_nobody_and_each_on_its_own_port() -> None:
    nve = Nve()
    asked = nve.sent(126.0)
    assert {(one.network, one.port) for one in asked} == {
        ("red", 1),
        ("red", 2),
        ("red", 3),
        ("blue", 4),
    }
    sources = set()
    for one in asked:
        heard = punt.read(one.frame, strict_headers=True)
        assert isinstance(heard, punt.Heard)
        assert isinstance(heard.message, Query)
        sources.add(heard.source)
    assert sources == {*NOBODY.values()}


@pytest.mark.parametrize(("source", "codec"), [(ROUTER, igmp), (ROUTER6, mld)])
@pytest.mark.parametrize("place", [2, OVERLAY])
def test_a_tenants_querier_wins_wherever_it_is_and_is_heard_in_the_whole_network(place, source, codec):
    nve = Nve()
    ethertype = b"\x08\x00" if codec is igmp else b"\x86\xdd"
    frame = nve.ask(place, source, codec)
    assert set(nve.sent()) == {Sent("red", port, frame) for port in (1, 2, 3, OVERLAY) if port != place}
    for for_s, places in ((250.0, set()), (10.0 + 125.0, {1, 2, 3})):  # silent, until it has gone
        ours = [one for one in nve.sent(for_s) if one.network == "red" and one.port != OVERLAY]
        assert {one.port for one in ours if one.frame[12:14] == ethertype} == places
        assert {one.port for one in ours if one.frame[12:14] != ethertype} == {1, 2, 3}


def test_reports_are_shown_to_routers_and_to_nobody_else(nve: Nve) -> None:
    """D18, RFC 4541 section 2.1.1."""
    nve.ask(3)
    nve.ask(OVERLAY)
    nve.sent()
    mine = nve.say(1, TO_EX)
    remote = igmp.report_frame(Report(3, (Record(TO_EX, int(G)),)), bytes(5) + b"\x99", ROUTER + 1)
    nve.hear(OVERLAY, remote)
    assert [one for one in nve.sent() if one.frame[6:12] != MAC] == [
        Sent("red", 3, mine),
        Sent("red", 3, remote),
    ]
    assert nve.tenants.listeners("red", G) == {1: ALL}
    assert nve.refused == {}


def test_a_router_gets_every_group_for_as_long_as_it_is_heard(nve: Nve) -> None:
    for place in (2, OVERLAY):
        nve.ask(place)
    assert nve.tenants.routers("red") == {2, OVERLAY}
    assert router_places(("core", "p1", "p2"), nve.tenants, (), "red") == ("overlay", "p2")
    assert nve.tenants.take_changed() == [("red", None)]
    nve.run(250.0)
    nve.ask(2)
    nve.run(20.0)
    assert nve.tenants.routers("red") == {2}
    assert nve.tenants.take_changed() == [("red", None)]
    nve.ask(OVERLAY)
    nve.tenants.take_changed()
    nve.attach("red", 1, 3)
    assert nve.tenants.routers("red") == {OVERLAY}
    assert nve.tenants.take_changed() == [("red", None)]
    nve.ask(2)
    assert nve.tenants.routers("red") == {OVERLAY}
    assert nve.tenants.routers("blue") == nve.tenants.routers("none") == frozenset()


def test_a_snooper_that_asks_as_nobody_is_no_router(nve: Nve) -> None:
    nve.ask(1, source=0)
    nve.ask(OVERLAY, source=0)
    assert nve.tenants.routers("red") == frozenset()
    assert nve.sent() == []
    assert nve.refused == {"query_of_nobody": 1}


@pytest.mark.parametrize("place", [2, OVERLAY])
def test_igmp_that_is_neither_a_query_nor_a_report_goes_to_the_whole_network(nve: Nve, place: int) -> None:
    """RFC 4541 section 2.1.1."""
    query = igmp.query_frame(Query(2), bytes(5) + b"\x42", ROUTER)
    frame = query[: 14 + igmp.HEADERS] + bytes(igmp.V2(type=0x30))
    nve.hear(place, frame)
    assert set(nve.sent()) == {Sent("red", port, frame) for port in (1, 2, 3, OVERLAY) if port != place}
    nve.hear(place, frame[:-1] + b"\x01")
    assert nve.sent() == []
    assert nve.tenants.routers("red") == frozenset()
    assert nve.refused == {"bad_control_checksum": 1}


def test_what_the_vms_want_together_is_said_once_in_the_overlay(nve: Nve) -> None:
    """Framework 3.2."""
    nve.say(1, TO_EX)
    assert nve.up(5.0) == [(TO_EX, int(G), set())] * 2
    nve.say(2, TO_EX)
    nve.say(3, ALLOW, "192.0.2.77")
    nve.say(1, TO_IN)
    assert nve.up(5.0) == []
    nve.say(2, TO_IN)
    assert nve.up(5.0) == [(TO_IN, int(G), {int(ip_address("192.0.2.77"))})] * 2
    nve.attach("red", 1, 2)
    assert nve.up(5.0) == [(BLOCK, int(G), {int(ip_address("192.0.2.77"))})] * 2


@pytest.mark.parametrize(("codec", "group", "source"), [(igmp, G, 0), (mld, G6, ROUTER6)])
def test_a_query_in_the_overlay_is_answered_for_all_vms_in_one_report(codec, group, source):
    nve = Nve()
    nve.say(1, TO_EX, group=group)
    nve.say(2, TO_EX, group=group)
    nve.up(5.0)
    nve.ask(3, ROUTER if codec is igmp else ROUTER6, codec)
    assert nve.up(10.0) == []  # the VMs answer for themselves
    nve.ask(OVERLAY, source, codec)
    assert nve.up(5.0) == [(IS_EX, int(group), set())]


def test_a_port_that_goes_takes_its_members_with_it_and_one_that_comes_is_asked(nve: Nve) -> None:
    nve.say(1, TO_EX)
    nve.say(2, TO_EX)
    nve.tenants.take_changed()
    nve.attach("red", 2, 3)
    assert nve.tenants.listeners("red", G) == {2: ALL}
    assert nve.tenants.take_changed() == [("red", G)]
    nve.sent()
    nve.attach("red", 1, 2, 3)
    assert {one.port for one in nve.sent()} == {1}


def test_a_network_that_is_forgotten_has_no_members_and_hears_nobody(nve: Nve) -> None:
    nve.say(1, TO_EX)
    nve.tenants.take_changed()
    nve.tenants.take_events()
    nve.tenants.forget("red")
    nve.tenants.forget("red")
    assert [(network, one.wants) for network, one in nve.tenants.take_events()] == [("red", None)]
    assert nve.tenants.take_changed() == [("red", G), ("red", None)]
    assert nve.tenants.listeners("red", G) == {}
    assert nve.tenants.groups("red") == []
    nve.say(1, TO_EX)
    nve.say(1, TO_EX, network="blue")
    assert nve.refused == {"not_an_nve_port": 2}


def test_bounds_and_link_local_groups_are_those_of_a_device() -> None:
    nve = Nve(max_groups_per_port=2)
    for n in range(4):
        nve.say(1, TO_EX, group=G + n)
    nve.say(1, TO_EX, group="224.0.0.251")
    nve.say(2, TO_EX)
    nve.hear(3, bytes(60))
    assert nve.tenants.groups("red") == [G, G + 1]
    assert nve.tenants.listeners("red", G) == {1: ALL, 2: ALL}
    assert nve.refused == {"port_groups_full": 2, "link_local_group": 1, "zero_mac": 1}


def test_all_networks_together_have_room_for_so_many_groups() -> None:
    nve = Nve(max_groups=2)
    for group in (G, G + 1):
        nve.say(1, TO_EX, group=group)
    for _ in range(2):
        nve.say(4, TO_EX, group=G + 2, network="blue")
    assert nve.tenants.groups("blue") == []
    assert nve.refused == {"groups_full": 2}
    nve.tenants.forget("red")
    nve.say(4, TO_EX, group=G + 2, network="blue")
    assert nve.tenants.groups("blue") == [G + 2]


def test_settings_hold_from_then_on_and_members_stay(nve: Nve) -> None:
    nve.say(1, TO_EX)
    nve.tenants.configure(MembershipTable(last_member_query_interval_s=0.2, max_groups_per_port=1))
    nve.say(1, TO_EX, group=G + 1)
    assert nve.tenants.groups("red") == [G]
    nve.say(1, TO_IN)
    nve.run(0.45)
    assert nve.tenants.groups("red") == []
    nve.tenants.configure(MembershipTable(robustness=3, max_groups_per_port=1))
    nve.up(5.0)
    nve.tenants.hear("blue", OVERLAY, UNSURE, nve.at_s)
    nve.say(4, TO_EX, network="blue")
    assert nve.up(5.0) == [(TO_EX, int(G), set())] * 3
    nve.attach("green", 5)
    nve.say(5, TO_EX, network="green")
    nve.say(5, TO_EX, group=G + 1, network="green")
    assert nve.tenants.groups("green") == [G]
    assert nve.refused == {"port_groups_full": 2}


def test_what_became_of_members_is_told_with_their_network(nve: Nve) -> None:
    nve.say(1, TO_EX)
    nve.say(4, TO_EX, network="blue")
    nve.attach("red", 2, 3)
    told = [(network, one.who.port, one.wants) for network, one in nve.tenants.take_events()]
    assert told == [("red", 1, ALL), ("blue", 4, ALL), ("red", 1, None)]
    assert nve.tenants.take_events() == []


@pytest.mark.parametrize("has_host", [True, False], ids=["nve", "device"])
@pytest.mark.parametrize(
    ("reports", "mode", "running", "blocked"), [row[:4] for row in IGMP_SEQUENCES], ids=str
)
def test_the_vectors_pass_inside_the_overlay_as_well(reports, mode, running, blocked, has_host) -> None:
    """What is forwarded of those who run a timer, and not of those without (VECTORS.md)."""
    nve = Nve(has_host=has_host)
    for name in reports.split():
        message = igmp.read(IGMP[name])
        assert isinstance(message, Report)
        nve.hear(1, igmp.report_frame(message, bytes((2, 0, 0, 0, 0, 1)), ROUTER + 1))
    is_exclude = mode == "EXCLUDE"
    named = frozenset(ip_address("192.0.2.0") + n for n in (blocked if is_exclude else running))
    assert nve.tenants.listeners("red", G) == {1: Wants(is_exclude, named)}


def test_a_union_is_that_of_rfc_4605_section_4_1() -> None:
    a, b, c = (ip_address(n) for n in (1, 2, 3))
    ex, inc = (lambda *s: Wants(True, frozenset(s))), (lambda *s: Wants(False, frozenset(s)))
    assert union([inc(a), inc(b)]) == inc(a, b)
    assert union([ex(a, b), ex(b, c)]) == ex(b)
    assert union([ex(a, b), inc(b, c)]) == ex(a)
    assert union([ex(a), ALL]) == ALL
