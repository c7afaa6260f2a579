"""Events: who gets them, what becomes of those that nobody takes in time, and what their rows hold."""

import asyncio
import re
from ipaddress import ip_address

import pytest

from ctrl.events import (
    QUEUE_SIZE,
    Bus,
    applied_event,
    group_event,
    mac_event,
    member_event,
    session_event,
    told_events,
    tunnel_event,
)
from ctrl.membership import ALL, Membership, Origin, Wants, Who
from ctrl.roles.nve.macs import Change
from ctrl.roles.nve.places import Vtep
from ctrl.rpc.messages import Instructions
from ctrl.topics import EVENTS, MISSED, event_schema
from ctrl.topology.entry import ANY, AWARE, MESH, Entry, tenant_key
from ctrl.topology.words import key_line
from fastpath.model import Encap

GROUP = ip_address("239.1.1.100")
NVE = Who(2, Origin.IGMP, bytes.fromhex("0a0000000105"), ip_address("10.1.1.5"))
SIX = ip_address("ff05::9").packed
ENTRY = Entry(
    ip_address("239.1.1.9").packed,
    MESH,
    (ip_address("10.0.0.2").packed, ip_address("10.0.0.3").packed),
)
PORT = Who(2, Origin.STATIC)
VTEP, MAC = Vtep(ip_address("10.0.0.2"), Encap.VXLAN), b"\2\0\0\0\0\x1a"
SOURCES = frozenset(ip_address(f"10.9.0.{n}") for n in (30, 4))


def bus():
    return Bus(lambda: 1766379482.9375)


def up(n=2):
    return tunnel_event(ip_address(f"10.0.0.{n}"), "up")


# --- who gets them ------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_whoever_watches_a_topic_gets_its_events_in_order_with_their_time():
    events = bus()
    with events.subscribe(["tunnels"]) as reader:
        events.publish("tunnels", up(2))
        events.publish("tunnels", tunnel_event(ip_address("10.0.0.3"), "no_route"))
        assert await reader.read() == [
            {"time": "2025-12-22T04:58:02.937Z", "topic": "tunnels", "event": "up", "peer": "10.0.0.2"},
            {"time": "2025-12-22T04:58:02.937Z", "topic": "tunnels", "event": "no_route", "peer": "10.0.0.3"},
        ]


@pytest.mark.asyncio
async def test_a_topic_that_nobody_watches_is_not_wanted_and_costs_no_clock():
    def never():
        raise AssertionError

    events = Bus(never)
    with events.subscribe(["members", "groups"]) as reader:
        assert [events.wanted(topic) for topic in EVENTS] == [True, True, False, False, False, False]
        events.publish("tunnels", up())
        assert await reader.read(0) == []
    assert not any(map(events.wanted, EVENTS))
    events.publish("members", {})


@pytest.mark.asyncio
async def test_each_reader_gets_every_event_since_it_came():
    events = bus()
    with events.subscribe(EVENTS) as first:
        events.publish("tunnels", up(2))
        with events.subscribe(["tunnels"]) as second:
            events.publish("tunnels", up(3))
            assert [row["peer"] for row in await first.read()] == ["10.0.0.2", "10.0.0.3"]
            assert [row["peer"] for row in await second.read()] == ["10.0.0.3"]


@pytest.mark.asyncio
async def test_a_topic_named_twice_is_told_once():
    events = bus()
    with events.subscribe(["tunnels", "tunnels"]) as reader:
        events.publish("tunnels", up())
        assert len(await reader.read()) == 1


@pytest.mark.asyncio
async def test_a_reader_that_waits_is_woken():
    events = bus()
    with events.subscribe(["tunnels"]) as reader:
        reading = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        assert not reading.done()
        events.publish("tunnels", up())
        assert len(await reading) == 1
        assert await reader.read(0) == []


@pytest.mark.asyncio
async def test_a_reader_that_is_closed_gets_what_there_is_and_waits_no_more():
    events = bus()
    with events.subscribe(["tunnels"]) as reader:
        reading = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        reader.close()
        assert (await reading, reader.is_open) == ([], False)
        events.publish("tunnels", up())
        assert len(await reader.read()) == 1
        assert await reader.read() == []


# --- what nobody takes in time ------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_slow_reader_loses_the_oldest_and_is_told_first_how_many_of_each_topic():
    events = bus()
    with events.subscribe(EVENTS) as reader:
        for revision in range(3):
            events.publish("groups", group_event(GROUP, revision, joined=True))
        for n in range(QUEUE_SIZE + 4):
            events.publish("tunnels", {"event": "up", "peer": str(n)})
        rows = await reader.read()
        assert rows[:2] == [
            {"time": "2025-12-22T04:58:02.937Z", "topic": "groups", "event": "missed", "missed": 3},
            {"time": "2025-12-22T04:58:02.937Z", "topic": "tunnels", "event": "missed", "missed": 4},
        ]
        assert [row["peer"] for row in rows[2:]] == [str(n) for n in range(4, QUEUE_SIZE + 4)]
        events.publish("tunnels", up())
        assert [row["event"] for row in await reader.read()] == ["up"]


# --- what their rows hold -----------------------------------------------------------------------------------


def of_table(*changes):
    """The rows of what some changes of one group make of an empty table."""
    table = Membership()
    events = [table.apply(GROUP, who, wants) for who, wants in changes]
    return [member_event(event, "p1") for event in events if event]


def test_a_member_joins_changes_its_mind_and_leaves():
    picky, choosy = Wants(is_exclude=False, sources=SOURCES), Wants(is_exclude=True, sources=SOURCES)
    rows = of_table((NVE, ALL), (NVE, ALL), (NVE, picky), (NVE, choosy), (NVE, None))
    both = ["10.9.0.4", "10.9.0.30"]
    assert [(row["event"], row["mode"], row["sources"], row["blocked"]) for row in rows] == [
        ("joined", "exclude", [], []),
        ("changed", "include", both, []),
        ("changed", "exclude", [], both),
        ("left", "exclude", [], both),
    ]
    assert {key: rows[0][key] for key in ("port", "nve", "mac", "group", "origin")} == {
        "port": "p1",
        "nve": "10.1.1.5",
        "mac": "0a:00:00:00:01:05",
        "group": "239.1.1.100",
        "origin": "igmp",
    }


def test_a_static_member_has_no_mac_and_that_is_a_port_no_nve():
    (row,) = of_table((PORT, ALL))
    assert (row["event"], row["nve"], row["mac"], row["origin"]) == ("joined", None, None, "static")


def test_what_a_manager_tells_a_node_is_an_event_a_group():
    told = Instructions(4, 70, (ENTRY, ENTRY._replace(key=SIX, peers=())), (GROUP.packed,))
    rows = list(told_events("tor3", told))
    assert rows[0] == {
        "event": "told",
        "node": "tor3",
        "group": "239.1.1.9",
        "vni": None,
        "tenants": None,
        "via": "mesh",
        "peers": ["10.0.0.2", "10.0.0.3"],
        "revision": 70,
        "why": None,
    }
    assert [(row["event"], row["group"], row["via"], row["peers"]) for row in rows[1:]] == [
        ("told", "ff05::9", "mesh", []),
        ("withdrawn", "239.1.1.100", None, []),
    ]


def test_what_tenants_want_is_an_event_of_their_network_but_not_that_somebody_listens():
    outer, one, six = GROUP.packed, ip_address("239.5.5.5").packed, ip_address("ff35::1").packed
    keys = [tenant_key(outer, 5001, inner) for inner in (one, six, ANY, AWARE)]
    told = Instructions(4, 70, tuple(ENTRY._replace(key=key) for key in keys), (keys[0], keys[3]))
    rows = [(row["event"], row["group"], row["vni"], row["tenants"]) for row in told_events("tor3", told)]
    assert rows == [
        ("told", "239.1.1.100", 5001, "239.5.5.5"),
        ("told", "239.1.1.100", 5001, "ff35::1"),
        ("told", "239.1.1.100", 5001, "any"),
        ("withdrawn", "239.1.1.100", 5001, "239.5.5.5"),
    ]
    refused = applied_event("tor3", keys[3], None, 70, "peers_full")
    assert (refused["event"], refused["tenants"]) == ("refused", "aware")
    assert key_line(keys[2]) == "group=239.1.1.100 vni=5001 tenants=any"
    assert key_line(outer) == "group=239.1.1.100"


def test_what_became_of_it_is_one_at_the_node():
    applied = applied_event("tor3", ENTRY.key, ENTRY, 70)
    assert (applied["event"], applied["peers"], applied["why"]) == ("applied", ["10.0.0.2", "10.0.0.3"], None)
    ended = applied_event("tor3", ENTRY.key, None, 71)
    assert (ended["event"], ended["via"], ended["revision"]) == ("ended", None, 71)
    refused = applied_event("tor3", ENTRY.key, ENTRY, 72, "peers_full")
    assert (refused["event"], refused["why"]) == ("refused", "peers_full")


def test_a_session_that_was_refused_says_why():
    assert session_event("refused", None, None, "m1", "no certificate") == {
        "event": "refused",
        "node": None,
        "role": None,
        "manager": "m1",
        "why": "no certificate",
    }


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (Change("learned", 100, MAC, None, 3), {"port": "p3", "vtep": None, "was": None}),
        (Change("moved", 100, MAC, 3, VTEP), {"port": None, "vtep": "10.0.0.2", "was": "p3"}),
        (Change("moved", 100, MAC, VTEP, 3), {"port": "p3", "vtep": None, "was": "10.0.0.2"}),
        (Change("aged", 100, MAC, VTEP, None), {"port": None, "vtep": "10.0.0.2", "was": None}),
        (Change("cleared", 100, MAC, 3, None), {"port": "p3", "vtep": None, "was": None}),
    ],
)
def test_a_station_shows_where_it_is_and_where_it_was_until_it_moved(change, shown):
    assert mac_event(change, "blue", "p{}".format) == {
        "event": change.event,
        "vni": 100,
        "network": "blue",
        "mac": "02:00:00:00:00:1a",
        **shown,
    }


@pytest.mark.asyncio
async def test_rows_have_the_keys_of_the_published_schema_in_its_order():
    (joined,) = of_table((PORT, ALL))
    published = {
        "members": joined,
        "groups": group_event(GROUP, 7, joined=False),
        "macs": mac_event(Change("moved", 100, MAC, 3, VTEP), "blue", str),
        "tunnels": up(),
        "instructions": applied_event("tor1", ENTRY.key, ENTRY, 9),
        "sessions": session_event("came", "tor1", "device", "m1"),
    }
    assert list(published) == list(EVENTS)
    events, defined = bus(), event_schema()["$defs"]
    with events.subscribe(EVENTS) as reader:
        for topic, row in published.items():
            events.publish(topic, row)
        for row in await reader.read():
            assert list(row) == defined[row["topic"]]["required"] == list(EVENTS[row["topic"]].keys)
        for _ in range(QUEUE_SIZE + 1):
            events.publish("tunnels", up())
        (missed, *_) = await reader.read()
        assert list(missed) == defined["missed"]["required"] == list(MISSED.keys)


def test_every_event_has_a_time_a_topic_and_a_name_and_keys_in_snake_case():
    for shown in (*EVENTS.values(), MISSED):
        assert shown.keys[:3] == ("time", "topic", "event")
        assert all(re.fullmatch("[a-z][a-z_]*", key) for key in shown.keys)
