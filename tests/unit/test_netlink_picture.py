"""What the kernel says becomes views: messages in, views out, no socket and no clock."""

import logging
from ipaddress import ip_address, ip_interface

import pytest

from ctrl.netlink.model import Link, NextHop, View, log_changes
from ctrl.netlink.news import (
    OUR_PROTOCOL,
    AddressNews,
    LinkNews,
    Neighbour,
    Route,
    RouteKind,
    RouteNews,
    Target,
)
from ctrl.netlink.picture import Picture
from fastpath.model import IPAddress

NEAR, NEAR6, FAR = ip_address("10.7.0.2"), ip_address("fd07::2"), ip_address("10.99.0.1")
GATEWAY, GROUP = ip_address("10.7.0.9"), ip_address("239.129.1.2")
MAC, OTHER_MAC = bytes.fromhex("02fad0000002"), bytes.fromhex("02fad0000012")
P1 = LinkNews(3, "p1", bytes.fromhex("02fad0000001"), 1500, is_up=True, resolves=True)
P2 = LinkNews(4, "p2", bytes.fromhex("02fad0000003"), 9000, is_up=True, resolves=True)
T1 = LinkNews(5, "t1", bytes(6), 1480, is_up=True, resolves=False)
AT_NEAR = Target(3, NEAR.packed)
DIRECT = Route(3, None, RouteKind.UNICAST)
VIA_GATEWAY = Route(3, GATEWAY.packed, RouteKind.UNICAST)
ALL = [NEAR, NEAR6, FAR, GROUP]


@pytest.fixture
def picture() -> Picture:
    """A box with three links; all addresses are asked for and answered, no neighbour is known."""
    made = Picture()
    made.want(["p1", "t1"], ALL)
    assert made.links_to_ask
    made.links_are([P1, P2, T1], [AddressNews(3, ip_interface("10.7.0.1/24"))])
    for address in (NEAR, NEAR6):
        made.route_is(address, DIRECT)
    made.route_is(FAR, VIA_GATEWAY)
    made.route_is(GROUP, Route(3, None, RouteKind.MULTICAST))
    asked(made)
    made.view()
    return made


def asked(picture: Picture) -> tuple[set[IPAddress], set[Target]]:
    """Take what is to be asked, as if it were being asked."""
    taken = set(picture.routes_to_ask), set(picture.neighbours_to_ask)
    picture.routes_to_ask.clear()
    picture.neighbours_to_ask.clear()
    return taken


def is_at(mac: bytes = MAC, state: int = 2, target: Target = AT_NEAR, **more: object) -> Neighbour:
    return Neighbour(target, state, mac, **more)  # type: ignore[arg-type]


def test_a_view_has_the_links_and_addresses_that_were_asked_for(picture) -> None:
    picture.driver_is(3, "veth")
    view = picture.view()
    addresses = (ip_interface("10.7.0.1/24"),)
    assert view.links == {
        "p1": Link("p1", 3, P1.mac, 1500, True, "veth", addresses),
        "t1": Link("t1", 5, bytes(6), 1480, True),
    }
    assert view.hops == {
        NEAR: NextHop("p1"),
        NEAR6: NextHop("p1"),
        FAR: NextHop("p1", None, GATEWAY),
        GROUP: NextHop("p1", bytes.fromhex("01005e010102")),
    }


def test_a_view_has_the_addresses_of_all_links_whether_asked_for_or_not(picture) -> None:
    own, more = ip_address("10.7.0.1"), ip_interface("10.1.1.2/32")
    assert picture.view().addresses == {own}
    picture.hear(AddressNews(4, more))
    assert picture.view().addresses == {own, more.ip}
    picture.hear(AddressNews(4, more, gone=True))
    view = picture.view()
    assert view.addresses == {own}
    picture.hear(AddressNews(4, more))
    picture.hear(AddressNews(4, more, gone=True))
    assert picture.view() is view
    picture.hear(P1._replace(gone=True))
    assert picture.view().addresses == frozenset()
    picture.links_are([P1], [AddressNews(3, more)])
    assert picture.view().addresses == {more.ip}


def test_neighbours_are_asked_about_once_and_only_those_that_are_needed(picture) -> None:
    assert set(picture.targets()) == {AT_NEAR, Target(3, NEAR6.packed), Target(3, GATEWAY.packed)}
    picture.want(["p1"], [*ALL, ip_address("10.7.0.3")])
    assert asked(picture) == ({ip_address("10.7.0.3")}, set())


def test_a_neighbour_gives_its_mac_to_all_addresses_behind_it(picture) -> None:
    other = ip_address("10.99.0.2")
    picture.want(["p1"], [*ALL, other])
    picture.route_is(other, VIA_GATEWAY)
    before = picture.view()
    assert picture.hear(is_at(target=Target(3, GATEWAY.packed)))
    view = picture.view()
    assert view.hops[FAR] == view.hops[other] == NextHop("p1", MAC, GATEWAY)
    assert view.hops[NEAR].mac is None
    assert before.hops[FAR].mac is None  # who holds an old view keeps it


def test_a_neighbour_that_fails_or_goes_is_unresolved_again(picture) -> None:
    for end in (is_at(b"", 0x20), Neighbour(AT_NEAR)):
        picture.hear(is_at())
        assert picture.view().hops[NEAR].mac == MAC
        assert picture.hear(end)
        assert picture.view().hops[NEAR].mac is None


def test_a_change_of_state_alone_makes_no_new_view(picture) -> None:
    picture.hear(is_at(state=2))
    view = picture.view()
    for state in (4, 8, 0x10, 2):
        picture.hear(is_at(state=state))
        assert picture.view() is view
    picture.hear(is_at(OTHER_MAC))
    assert picture.view() is not view


def test_news_that_concerns_nobody_is_passed_over(picture) -> None:
    view = picture.view()
    assert not picture.hear(is_at(target=Target(3, ip_address("10.7.0.77").packed)))
    assert not picture.hear(is_at(target=Target(4, NEAR.packed)))
    assert not picture.hear(RouteNews(ip_address("10.50.0.0").packed, 16))
    assert not picture.hear(RouteNews(ip_address("fd08::").packed, 64))
    assert not picture.hear(P1)
    assert not picture.hear(P2._replace(ifindex=9, gone=True))
    assert not picture.hear(AddressNews(3, ip_interface("10.7.0.1/24")))
    assert asked(picture) == (set(), set())
    assert picture.view() is view


@pytest.mark.parametrize(
    ("prefix", "bits", "concerned"),
    [
        ("10.99.0.0", 24, {FAR}),
        ("10.99.0.1", 32, {FAR}),
        ("10.0.0.0", 8, {NEAR, FAR}),
        ("0.0.0.0", 0, {NEAR, FAR, GROUP}),
        ("::", 0, {NEAR6}),
        ("fd07::2", 128, {NEAR6}),
        ("10.99.0.2", 31, set()),
        ("10.99.0.0", 32, set()),
    ],
)
def test_a_route_concerns_the_addresses_below_its_prefix(picture, prefix, bits, concerned) -> None:
    assert picture.hear(RouteNews(ip_address(prefix).packed, bits)) == bool(concerned)
    assert asked(picture) == (concerned, set())


@pytest.mark.parametrize(
    "news",
    [
        RouteNews(None, 0),
        AddressNews(4, ip_interface("10.8.0.1/24")),
        AddressNews(3, ip_interface("10.7.0.1/24"), gone=True),
        P2._replace(is_up=False),
        P2._replace(gone=True),
        P2._replace(name="renamed"),
    ],
)
def test_rules_addresses_and_links_concern_all_addresses(picture, news) -> None:
    assert picture.hear(news)
    assert asked(picture)[0] == set(ALL)


def test_a_route_to_another_device_leaves_the_old_neighbour(picture) -> None:
    picture.hear(is_at())
    picture.route_is(NEAR, Route(4, None, RouteKind.UNICAST))
    assert picture.abandoned == {AT_NEAR}
    assert picture.neighbours_to_ask == {Target(4, NEAR.packed)}
    assert picture.view().hops[NEAR] == NextHop("p2")
    picture.route_is(NEAR, None)
    assert picture.view().hops[NEAR] == NextHop(None)
    picture.route_is(NEAR, DIRECT)
    assert AT_NEAR not in picture.abandoned


@pytest.mark.parametrize("kind", [RouteKind.LOCAL, RouteKind.ANYCAST])
def test_an_address_of_the_box_itself_is_at_lo(picture, kind) -> None:
    picture.route_is(NEAR, Route(3, None, kind))
    assert picture.view().hops[NEAR] == NextHop("lo")


def test_a_broadcast_address_is_nobody_s_neighbour(picture) -> None:
    picture.route_is(NEAR, Route(3, None, RouteKind.BROADCAST))
    assert AT_NEAR not in picture.restless
    assert picture.view().hops[NEAR] == NextHop("p1")


def test_a_device_without_link_addresses_needs_none(picture) -> None:
    picture.route_is(NEAR, Route(5, None, RouteKind.UNICAST))
    picture.route_is(GROUP, Route(5, None, RouteKind.MULTICAST))
    view = picture.view()
    assert view.hops[NEAR] == view.hops[GROUP] == NextHop("t1", bytes(6))
    assert Target(5, NEAR.packed) not in picture.restless
    picture.hear(is_at(OTHER_MAC, 0x80, Target(5, NEAR.packed)))  # unless somebody wrote one down: ARP off
    assert picture.view().hops[NEAR] == NextHop("t1", OTHER_MAC)


def test_a_gateway_may_be_of_the_other_family(picture) -> None:
    picture.route_is(FAR, Route(3, NEAR6.packed, RouteKind.UNICAST))
    picture.hear(is_at(target=Target(3, NEAR6.packed)))
    assert picture.view().hops[FAR] == NextHop("p1", MAC, NEAR6)


def test_a_device_made_again_under_its_name_is_the_new_one(picture) -> None:
    picture.driver_is(3, "veth")
    picture.hear(P1._replace(gone=True))
    assert asked(picture)[0] == set(ALL)
    assert "p1" not in picture.view().links
    picture.hear(P1._replace(ifindex=8))
    assert (8, "p1") in picture.devices_without_driver()
    assert asked(picture)[0] == set(ALL)
    picture.route_is(NEAR, Route(8, None, RouteKind.UNICAST))
    picture.hear(is_at(OTHER_MAC, target=Target(8, NEAR.packed)))
    view = picture.view()
    assert view.links["p1"].index == 8
    assert view.links["p1"].addresses == ()
    assert view.hops[NEAR] == NextHop("p1", OTHER_MAC)


def test_a_device_made_again_under_its_name_and_number_has_nothing_of_the_old_one(picture) -> None:
    def go_and_come_back() -> None:
        picture.hear(P1._replace(gone=True))
        picture.hear(P1)

    def go_and_come_back_unseen() -> None:
        picture.links_are([P2], [])
        picture.links_are([P1, P2], [])

    for change in (go_and_come_back, go_and_come_back_unseen):
        picture.driver_is(3, "veth")
        picture.hear(AddressNews(3, ip_interface("10.7.0.5/24")))
        change()
        assert (3, "p1") in picture.devices_without_driver()
        assert picture.view().links["p1"] == Link("p1", 3, P1.mac, 1500, True)


def test_after_a_loss_everything_is_asked_again_and_what_went_unseen_is_gone(picture) -> None:
    picture.lost()
    assert picture.links_to_ask
    picture.links_are([P1._replace(mtu=1300)], [])
    assert asked(picture) == (set(ALL), set(picture.targets()))
    view = picture.view()
    assert view.links == {"p1": Link("p1", 3, P1.mac, 1300, True)}


def test_who_is_not_resolved_or_not_kept_so_is_restless(picture) -> None:
    assert picture.restless == set(picture.targets())
    picture.hear(is_at())
    assert AT_NEAR in picture.restless  # the kernel would not notice when it goes
    assert picture.is_resolved(AT_NEAR)
    for kept in (is_at(managed=True), is_at(learned=True), is_at(state=0x80), is_at(b"", 0x20, learned=True)):
        picture.hear(kept)
        assert AT_NEAR not in picture.restless
        picture.hear(is_at(b"", 0x20, managed=True))
        assert AT_NEAR in picture.restless


def test_nobody_is_asked_for_where_it_would_be_in_vain_or_none_of_our_business(picture) -> None:
    picture.hear(P1._replace(is_up=False))
    assert not picture.restless
    picture.hear(P1)
    assert picture.restless == set(picture.targets())
    picture.want(["p2"], ALL)
    assert not picture.restless
    assert picture.abandoned == set(picture.targets())
    picture.want(["p1"], ALL)
    assert picture.restless == set(picture.targets())
    assert not picture.abandoned


@pytest.mark.parametrize(
    ("known", "managed", "protocol"),
    [
        (Neighbour(AT_NEAR), True, OUR_PROTOCOL),
        (is_at(), True, OUR_PROTOCOL),
        (is_at(managed=True, protocol=OUR_PROTOCOL), True, OUR_PROTOCOL),
        (is_at(managed=True), True, 0),
        (is_at(managed=True, protocol=186), True, 0),
        (is_at(protocol=186), False, 0),
    ],
)
def test_what_others_made_is_asked_for_as_theirs(picture, known, managed, protocol) -> None:
    picture.hear(known)
    assert picture.wish(AT_NEAR) == Neighbour(AT_NEAR, managed=managed, protocol=protocol)


def test_what_is_no_longer_wanted_leaves_the_view_and_late_answers_are_ignored(picture) -> None:
    picture.routes_to_ask.add(NEAR)
    picture.want(["t1"], [FAR])
    assert asked(picture) == (set(), set())
    picture.route_is(NEAR, DIRECT)
    picture.neighbour_is(is_at())
    view = picture.view()
    assert set(view.hops) == {FAR}
    assert set(view.links) == {"t1"}
    assert picture.abandoned == {AT_NEAR, Target(3, NEAR6.packed), Target(3, GATEWAY.packed)}


def lines(caplog, old: View, new: View, devices: list[str]) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "fastpath.netlink"):
        log_changes(old, new, devices, list(new.hops))
    return [record.getMessage() for record in caplog.records]


def test_a_state_change_is_one_line_with_what_was_before(caplog) -> None:
    link = Link("p1", 3, MAC, 1500, True, "veth")
    far = [ip_address("10.99.0.0") + i for i in range(1000)]
    old = View({"p1": link}, dict.fromkeys(far, NextHop("p1", MAC, GATEWAY)) | {NEAR: NextHop("p1")})
    assert not lines(caplog, old, old, ["p1"])
    changed = Link("p1", 3, OTHER_MAC, 1400, False, "veth")
    new = View(
        {"p1": changed}, dict.fromkeys(far, NextHop("p1", OTHER_MAC, GATEWAY)) | {NEAR: NextHop("p1", MAC)}
    )
    assert lines(caplog, old, new, ["p1"]) == [
        "link down device=p1",
        "link mtu changed device=p1 mtu=1400 was=1500",
        "link mac changed device=p1 mac=02:fa:d0:00:00:12 was=02:fa:d0:00:00:02",
        "neighbour moved device=p1 address=10.7.0.9 mac=02:fa:d0:00:00:12 was=02:fa:d0:00:00:02",
        "neighbour resolved device=p1 address=10.7.0.2 mac=02:fa:d0:00:00:02 was=none",
    ]
    gone = View({}, dict.fromkeys(far, NextHop(None)))
    moved = "device=None gateway=None was_device=p1 was_gateway=10.7.0.9"
    assert lines(caplog, old, gone, ["p1"]) == [
        "link gone device=p1 index=3",
        f"route moved addresses=1000 first=10.99.0.0 {moved}",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_many_neighbours_at_once_are_one_line(caplog) -> None:
    near = [ip_address("10.7.1.0") + i for i in range(9)]
    old = View({}, dict.fromkeys(near, NextHop("p1", MAC)))
    new = View({}, dict.fromkeys(near, NextHop("p1")))
    assert lines(caplog, old, new, []) == ["neighbours lost device=p1 count=9 first=10.7.1.0"]
