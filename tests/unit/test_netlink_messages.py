"""What we ask is held against bytes laid out by hand (linux/rtnetlink.h); what we read, pyroute2 wrote."""

import struct
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ctrl.netlink import messages
from ctrl.netlink.news import (
    OUR_PROTOCOL,
    AddressNews,
    Answer,
    LinkNews,
    Neighbour,
    Route,
    RouteNews,
    Target,
)

MAC = bytes.fromhex("02fad0000102")
V4, V6 = ip_address("10.7.0.2").packed, ip_address("fd07::2").packed


def theirs(made: Any, kind: int, sequence: int = 7, **fields: Any) -> bytes:
    made["header"] = {"type": kind, "flags": 0, "sequence_number": sequence, "pid": 0}
    for name, value in fields.items():
        made[name] = value
    made.encode()
    return bytes(made.data)


def news(data: bytes) -> object:
    (answer,) = messages.read(data)
    return answer.news


def link(**changed: Any) -> bytes:
    attributes = {"IFLA_IFNAME": "p1", "IFLA_ADDRESS": MAC.hex(":"), "IFLA_MTU": 9000, "IFLA_MASTER": 5}
    fields = {"kind": rtnl.RTM_NEWLINK, "family": 0, "index": 3, "ifi_type": 1, "flags": 0x11043}
    return theirs(ifinfmsg(), **{**fields, "attrs": list(attributes.items()), **changed})


def neighbour(family: int, address: str, kind: int = rtnl.RTM_NEWNEIGH, **changed: Any) -> bytes:
    attributes = [("NDA_DST", address), ("NDA_LLADDR", MAC.hex(":"))]
    fields = {"family": family, "ifindex": 3, "state": 4, "flags": 0, "attrs": attributes}
    return theirs(ndmsg(), kind, **{**fields, **changed})


V4_LAID_OUT = "08000100 0a070002"
V6_LAID_OUT = "14000100 fd070000000000000000000000000002"


def laid_out(kind: int, flags: int, *body: str) -> bytes:
    """Lay a request number 9 out by hand."""
    content = bytes.fromhex("".join(body))
    return struct.pack("<IHHII", 16 + len(content), kind, flags, 9, 0) + content


def test_a_question_for_a_route_names_the_address() -> None:
    assert messages.ask_route(9, V4) == laid_out(26, 0x1, "0220000000000000 00000000", V4_LAID_OUT)
    assert messages.ask_route(9, V6) == laid_out(26, 0x1, "0a80000000000000 00000000", V6_LAID_OUT)


@pytest.mark.parametrize(("packed", "family", "named"), [(V4, "02", V4_LAID_OUT), (V6, "0a", V6_LAID_OUT)])
def test_a_request_to_resolve_is_for_use_and_to_be_kept_and_marked_as_ours(packed, family, named) -> None:
    target = Target(3, packed)
    for_use = family + "000000 03000000 0000 01 00"
    kept, ours = "08000f00 01000000", "05000c00 fa000000"
    request_acknowledge_create = 0x405
    asked = messages.resolve_neighbour(9, Neighbour(target, managed=True, protocol=OUR_PROTOCOL))
    assert asked == laid_out(28, request_acknowledge_create, for_use, named, kept, ours)
    another_s = messages.resolve_neighbour(9, Neighbour(target))
    assert another_s == laid_out(28, request_acknowledge_create, for_use, named)


def test_questions_for_and_removals_of_neighbours_name_them() -> None:
    named = ("0a000000 03000000 00000000", V6_LAID_OUT)
    assert messages.ask_neighbour(9, Target(3, V6)) == laid_out(30, 0x1, *named)
    assert messages.forget_neighbour(9, Target(3, V6)) == laid_out(29, 0x5, *named)


def test_lists_are_asked_for_whole_but_without_statistics_and_neighbours_of_one_device() -> None:
    assert messages.list_links(9) == laid_out(18, 0x301, "00" * 16, "08001d00 08000000")
    assert messages.list_addresses(9) == laid_out(22, 0x301, "00" * 8)
    assert messages.list_neighbours(9, 3) == laid_out(30, 0x301, "00" * 12, "08000800 03000000")


def test_a_link_is_read() -> None:
    wanted = LinkNews(3, "p1", MAC, 9000, is_up=True, resolves=True, master=5)
    assert news(link()) == wanted
    assert news(link(kind=rtnl.RTM_DELLINK)) == wanted._replace(gone=True)


@pytest.mark.parametrize(
    ("changed", "is_up", "resolves"),
    [
        ({"flags": 0x10042}, False, True),  # administratively down
        ({"flags": 0x1003}, False, True),  # no carrier
        ({"flags": 0x110C3}, True, False),  # ARP off
        ({"flags": 0x1004B}, True, False),  # loopback
        ({"ifi_type": 65534}, True, False),  # tun
    ],
)
def test_up_means_carrier_too_and_neighbours_want_ethernet_and_arp(changed, is_up, resolves) -> None:
    read = news(link(**changed))
    assert isinstance(read, LinkNews)
    assert (read.is_up, read.resolves) == (is_up, resolves)


def test_a_port_that_leaves_a_bridge_is_no_device_that_is_gone() -> None:
    assert news(link(kind=rtnl.RTM_DELLINK, family=7)) is None


def test_a_device_without_a_mac_has_zeros() -> None:
    read = news(link(attrs=[("IFLA_IFNAME", "t1"), ("IFLA_MTU", 1480)]))
    assert isinstance(read, LinkNews)
    assert read.mac == bytes(6)


def test_a_link_address_that_is_no_mac_is_none(caplog) -> None:
    infiniband = struct.pack("=HH20s", 24, 1, bytes(range(20)))
    data = link(ifi_type=32, attrs=[("IFLA_IFNAME", "ib0")])
    read = news(struct.pack("=I", len(data) + len(infiniband)) + data[4:] + infiniband)
    assert isinstance(read, LinkNews)
    assert (read.name, read.mac, read.resolves) == ("ib0", bytes(6), False)
    assert not caplog.records


def test_an_address_is_the_near_end_of_a_point_to_point_link() -> None:
    fields = {"family": 2, "prefixlen": 32, "index": 3}
    attributes = [("IFA_ADDRESS", "10.7.0.2"), ("IFA_LOCAL", "10.7.0.1")]
    data = theirs(ifaddrmsg(), rtnl.RTM_NEWADDR, attrs=attributes, **fields)
    assert news(data) == AddressNews(3, ip_interface("10.7.0.1/32"))
    fields = {"family": 10, "prefixlen": 64, "index": 3}
    data = theirs(ifaddrmsg(), rtnl.RTM_DELADDR, attrs=[("IFA_ADDRESS", "fd07::1")], **fields)
    assert news(data) == AddressNews(3, ip_interface("fd07::1/64"), gone=True)


@pytest.mark.parametrize(("family", "packed"), [(2, V4), (10, V6)])
def test_a_neighbour_is_read(family, packed) -> None:
    address = str(ip_address(packed))
    assert news(neighbour(family, address)) == Neighbour(Target(3, packed), 4, MAC)
    assert news(neighbour(family, address, flags=0x10)) == Neighbour(Target(3, packed), 4, MAC, learned=True)
    assert news(neighbour(family, address, kind=rtnl.RTM_DELNEIGH)) == Neighbour(Target(3, packed))


def test_a_neighbour_says_whether_it_is_kept_and_by_whom() -> None:
    attributes = [("NDA_DST", "10.7.0.2"), ("NDA_PROTOCOL", 250)]
    data = neighbour(2, "", attrs=attributes)
    kept = struct.pack("=HHI", 8, 15, 1)
    data = (len(data) + len(kept)).to_bytes(4, "little") + data[4:] + kept
    read = news(data)
    assert read == Neighbour(Target(3, V4), 4, managed=True, protocol=250)
    assert isinstance(read, Neighbour)
    assert read.ours
    assert not read._replace(state=0x80).ours
    assert not read._replace(protocol=0).ours


@pytest.mark.parametrize("changed", [{"flags": 8}, {"family": 7}])
def test_proxies_and_forwarding_entries_are_no_neighbours(changed) -> None:
    attributes = [("NDA_LLADDR", MAC.hex(":"))]
    fields = {"family": 2, "ifindex": 3, "state": 4, "flags": 0, "attrs": attributes, **changed}
    assert news(theirs(ndmsg(), rtnl.RTM_NEWNEIGH, **fields)) is None


@pytest.mark.parametrize("state", [0x02, 0x04, 0x08, 0x10, 0x40, 0x80])
def test_a_neighbour_in_a_state_with_an_address_is_usable(state) -> None:
    assert Neighbour(Target(3, V4), state, MAC).usable


@pytest.mark.parametrize(("state", "mac"), [(0x01, MAC), (0x20, MAC), (0, MAC), (0x02, b"")])
def test_a_neighbour_that_is_incomplete_or_failed_or_without_a_mac_is_not(state, mac) -> None:
    assert not Neighbour(Target(3, V4), state, mac).usable


def route(kind: int = 1, attributes: tuple[tuple[str, Any], ...] = (), family: int = 2, **more: Any) -> bytes:
    return theirs(rtmsg(), rtnl.RTM_NEWROUTE, family=family, type=kind, attrs=list(attributes), **more)


def test_the_answer_for_a_route_is_its_device_and_gateway() -> None:
    data = route(1, (("RTA_OIF", 3), ("RTA_GATEWAY", "10.7.0.2")))
    assert list(messages.read(data, routes_asked=True)) == [Answer(7, news=Route(3, V4, 1))]
    data = route(1, (("RTA_OIF", 3), ("RTA_VIA", {"family": 10, "addr": "fd07::2"})))
    assert list(messages.read(data, routes_asked=True)) == [Answer(7, news=Route(3, V6, 1))]
    data = route(1, (("RTA_OIF", 3),))
    assert list(messages.read(data, routes_asked=True)) == [Answer(7, news=Route(3, None, 1))]


def test_an_unreachable_route_is_an_answer_without_a_way() -> None:
    assert list(messages.read(route(7, (("RTA_OIF", 1),)), routes_asked=True)) == [Answer(7)]


def test_news_of_a_route_names_its_prefix() -> None:
    data = route(6, (("RTA_DST", "10.99.0.0"),), dst_len=16)
    assert news(data) == RouteNews(ip_address("10.99.0.0").packed, 16)
    assert news(route(1, family=10)) == RouteNews(bytes(16), 0)
    assert news(route(1, (("RTA_DST", "10.99.0.1"),), dst_len=32, flags=0x200)) is None
    assert news(route(1, (("RTA_DST", "10.99.0.1"),), dst_len=33)) is None


def test_several_messages_come_in_one_datagram_and_damage_ends_it() -> None:
    whole = route() + link() + neighbour(2, "10.7.0.2")
    assert len(list(messages.read(whole))) == 3
    for size in range(len(whole)):
        assert len(list(messages.read(whole[:size]))) < 3
    assert not list(messages.read(bytes(64)))


@pytest.mark.parametrize("data", [link(), neighbour(10, "fd07::2"), route(1, (("RTA_OIF", 3),))])
def test_no_byte_of_a_message_can_make_reading_fail(data) -> None:
    for at in range(len(data)):
        for value in (0, 1, 3, 5, 0x7F, 0xFF):
            for asked in (False, True):
                list(messages.read(data[:at] + bytes([value]) + data[at + 1 :], routes_asked=asked))


def test_an_answer_that_cannot_be_read_is_an_answer_all_the_same_and_logged(caplog) -> None:
    short = struct.pack("=IHHIIB", 17, rtnl.RTM_NEWROUTE, 0, 7, 0, 2)
    assert list(messages.read(short, routes_asked=True)) == [Answer(7)]
    assert "netlink message unreadable type=24 size=17" in caplog.text


def test_errors_and_the_end_of_a_list_are_told() -> None:
    error = (36).to_bytes(4, "little") + bytes([2, 0, 0, 0, 7, 0, 0, 0]) + bytes(4)
    no_entry = (-2 & 0xFFFFFFFF).to_bytes(4, "little")
    assert list(messages.read(error + no_entry + bytes(16))) == [Answer(7, error=2)]
    done = (20).to_bytes(4, "little") + bytes([3, 0, 0x12, 0, 7, 0, 0, 0]) + bytes(8)
    assert list(messages.read(done)) == [Answer(7, done=True, interrupted=True)]
