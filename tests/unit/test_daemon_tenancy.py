"""Tenants behind agnostic NVEs at a running device (F 3.2): what becomes of their reports, what its managers
hear of it, and what they say."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, cast

import pytest

from ctrl import punt
from ctrl.daemon.fabric import Fabric
from ctrl.daemon.reach import work_out
from ctrl.daemon.tenancy import Tenancy
from ctrl.events import Bus
from ctrl.membership import ALL, Membership, Origin, Who
from ctrl.netlink import View
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.publisher import Publisher
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from ctrl.rpc.messages import Groups, Moved
from ctrl.topology.entry import ANY, AWARE, MESH, POINT, Entry, TenantKey, tenant_key
from fastpath.model import Scope
from tests import frames as f
from tests.unit.driven import rounds
from tests.unit.nves import read
from tests.unit.tors import (
    BLUE,
    CORE,
    HOPS,
    LINKS,
    NAMES,
    OTHER,
    OUTER,
    P1,
    P2,
    P3,
    PEER,
    PORTS,
    Tor,
    tunnelled,
)

pytestmark = pytest.mark.asyncio

G, H = "239.77.1.3", "239.77.1.4"
T, U = ip_address(G).packed, ip_address(H).packed
VMS = int(ip_address("172.16.5.0"))
QUERY = igmp.query_frame(Query(3, robustness=2, interval_s=125.0), bytes(5) + b"\x42", VMS + 99)


def says(place: int, kind: Kind = Kind.TO_EX, group: str = G) -> bytes:
    """The report of a VM behind a port."""
    record = Record(kind, int(ip_address(group)))
    return tunnelled(
        place, igmp.report_frame(Report(3, (record,)), bytes((2, 0, 0, 0, 0, place)), VMS + place)
    )


def stream(place: int, group: str = G) -> bytes:
    return tunnelled(place, f.tenant(dst=group))


def key(inner: bytes) -> bytes:
    return tenant_key(OUTER.packed, 100, inner)


def entry(about: bytes, *peers: object) -> Entry:
    return Entry(about, MESH, tuple(ip_address(str(one)).packed for one in peers), vnis=(100,))


async def test_a_vm_that_joins_is_served_and_an_nve_without_any_no_more() -> None:
    tor = Tor(P1, P2, P3)
    assert tor.hear(P1, stream(P1)) == {"p2", "p3"}
    assert tor.hear(P2, says(P2)) == set()
    assert tor.hear(P1, stream(P1)) == {"p2", "p3"}, "p3 did not have the time to answer"
    tor.later()
    assert tor.hear(P1, stream(P1)) == {"p2"}
    assert tor.hear(P1, stream(P1, H)) == {"p2", "p3"}
    assert tor.refused == {}


async def test_an_nve_that_joins_the_network_is_asked_at_once_and_gets_everything_until_it_answered() -> None:
    tor = Tor(P1, P2)
    tor.later()
    tor.hear(P2, says(P2))
    tor.sent.clear()
    tor.join(P3)
    tor.snooping.settle()
    assert {port for port, frame in tor.sent if frame[30:34] == OUTER.packed} == {P3}
    assert tor.hear(P1, stream(P1)) == {"p2", "p3"}
    tor.later()
    assert tor.hear(P1, stream(P1)) == {"p2"}
    tor.join(P2, leaves=True)
    tor.snooping.settle()
    assert tor.hear(P1, stream(P1)) == {"p3"}, "nobody is known to want it"


async def test_what_tenants_want_is_said_before_that_their_groups_are_known() -> None:
    tor = Tor(P1, P2)
    tor.begin()
    assert tor.said() == [(ANY, True), (AWARE, True)]
    tor.hear(P2, says(P2))
    tor.later()
    await rounds()
    assert sorted(tor.said()) == sorted([(T, True), (ANY, False)])
    assert tor.keys() == {TenantKey(OUTER.packed, 100, inner) for inner in (T, AWARE)}
    tor.hear(P1, says(P1))
    tor.join(P1, leaves=True)
    tor.snooping.settle()
    await rounds()
    assert tor.said() == [], "it is wanted here all the same"
    tor.hear(P2, tunnelled(P2, QUERY))
    await rounds()
    assert tor.said() == [(ANY, True)]
    tor.join(P2, leaves=True)
    tor.snooping.settle()
    await rounds()
    assert {one for one, wanted in tor.said() if not wanted} == {T, ANY, AWARE}
    assert tor.keys() == set()


async def test_in_a_group_that_a_device_comes_into_all_is_said_at_once() -> None:
    """One message: the outer group, that all of its tenants' groups are wanted, and then that it is known."""
    tor = Tor()
    tor.begin()
    tor.said()
    tor.join(P1)
    tor.snooping.settle()
    await rounds()
    (message,) = tor.client.said(Groups)
    assert tor.client.sent == [message]
    assert [group.key for group in message.added] == [OUTER.packed, key(ANY), key(AWARE)]
    assert {group.vnis for group in message.added} == {(100,)}


async def test_a_device_that_nobody_wants_a_group_at_gets_no_copies_of_it() -> None:
    """Framework 3.2."""
    tor = Tor(P1)
    tor.begin()
    tor.tell(entry(OUTER.packed, PEER, OTHER), entry(key(AWARE), PEER, OTHER), entry(key(T), PEER))
    tor.later()

    def copies(group: str) -> int:
        tor.ports[P1].receive(stream(P1, group))
        tor.forwarder.run()
        return len(tor.ports[CORE].take())

    assert (copies(G), copies(H)) == (1, 2)
    tor.tell(entry(key(ANY), OTHER))
    assert copies(G) == 2
    tor.tell(removed=(key(ANY), key(T)))
    assert copies(G) == 2, "what is not known is not left out"


async def test_a_point_that_a_manager_names_is_never_left_out() -> None:
    tor = Tor(P1)
    tor.begin()
    tor.tell(entry(key(AWARE), PEER), entry(key(T)), Entry(OUTER.packed, POINT, (PEER.packed,)))
    tor.later()
    assert tor.hear(P1, stream(P1)) == {"core"}
    tor.tell(entry(OUTER.packed, PEER))
    assert tor.hear(P1, stream(P1)) == set()


async def test_a_report_goes_to_the_device_of_a_router_that_a_manager_names() -> None:
    tor = Tor(P1)
    tor.begin()
    tor.tell(entry(OUTER.packed, PEER, OTHER), entry(key(AWARE), PEER, OTHER))
    tor.later()
    tor.sent.clear()
    tor.hear(P1, says(P1))
    assert [port for port, _ in tor.sent] == []
    tor.tell(entry(key(ANY), PEER))
    tor.hear(P1, says(P1, Kind.IS_EX))
    ((port, frame),) = tor.sent
    assert (NAMES[port], ip_address(frame[30:34])) == ("core", PEER)


async def test_m9_over_a_start_a_device_wants_all_of_its_tenants_groups_until_they_answered(tmp_path) -> None:
    """What it said of them before is not enough: somebody may have joined meanwhile."""
    tor = Tor(P1, P2, state=str(tmp_path / "tor.db"))
    held = tor.fabric.sides[0]
    tor.hear(P2, says(P2))
    tor.later()
    await rounds()
    update = held.instructed.take_stored()
    assert held._store is not None
    assert update is not None
    held._store.write(update)
    held._store.close()
    again = Tor(state=str(tmp_path / "tor.db"))
    again.begin()
    assert {inner for inner, wanted in again.said() if wanted} == {T, ANY, AWARE}
    again.join(P2)
    again.hear(P2, says(P2, group=H))
    again.later()
    again.fabric._confirm()
    await rounds()
    assert again.keys() == {TenantKey(OUTER.packed, 100, inner) for inner in (U, AWARE)}


async def test_d19_vms_that_a_manager_says_moved_are_asked_and_settings_hold_at_once() -> None:
    tor = Tor(P1, P2)
    tor.begin()
    tor.hear(P2, says(P2))
    tor.sent.clear()
    tor.fabric.sides[0].heard(Moved((ip_address(VMS + P2).packed, ip_address(VMS + P1).packed)))
    tor.snooping.settle()
    assert [port for port, _ in tor.sent] == [P2]
    bounded = tor.config.membership.model_copy(update={"max_groups_per_port": 1})
    tor.tenancy.configure(tor.config.model_copy(update={"membership": bounded}))
    tor.hear(P2, says(P2, group=H))
    assert tor.refused == {"port_groups_full": 1}


async def test_who_watches_is_told_of_tenants_with_port_and_network() -> None:
    tor = Tor(P1, P2)
    with tor.bus.subscribe(["members", "groups"]) as events:
        tor.hear(P2, says(P2))
        (row,) = await events.read(0)
    assert (row["event"], row["port"], row["network"], row["group"]) == ("joined", "p2", "blue", G)


async def test_an_nve_with_managers_says_what_its_vms_want_as_a_device_does() -> None:
    text = PORTS.replace('"p1"\nfaces = "nve"', '"p1"\nfaces = "vm"\nnetwork = "blue"')
    config = read(f'{text}{BLUE}[nve]\naddress = "10.0.0.9"\nmanager = ["127.0.0.1:9470"]\nstate = ""\n')
    refused, membership, bus = Refused(), Membership(), Bus(lambda: 0.0)
    tenancy = Tenancy(config, refused)
    publisher = Publisher(membership, tenants=tenancy.lists(), refined=tenancy.refined())
    device = Device(membership, refused, config.membership)
    nothing: list[object] = []
    fabric = Fabric(
        *(config, membership, publisher, device, tenancy, bus),
        tell=nothing.append,
        apply=nothing.clear,
        settle=nothing.clear,
        resolved=cast("Any", None),
    )
    reach = work_out(config, View(LINKS, HOPS), fabric.told)
    tenancy.attach(reach, publisher, 0.0)
    fabric.listening(reach.basis)
    fabric.say_tenants()
    side = fabric.sides[0]
    assert side.instructed.groups == {}
    fabric.tunnelled([OUTER])
    fabric.say_tenants()
    assert set(side.instructed.groups) == {OUTER.packed, key(ANY), key(AWARE)}
    assert tenancy.side is not None
    report = says(P1)[50:]
    tenancy.side.hear(P1, report, 0.1)
    for network, event in tenancy.side.take_events():
        fabric.tenant(Scope.NVE, network, event)
    tenancy.side.poll(60.0)
    fabric.say_tenants()
    assert set(side.instructed.groups) == {OUTER.packed, key(T), key(AWARE)}
    fabric.tunnelled([])
    fabric.say_tenants()
    assert side.instructed.groups == {}


async def test_n11_a_device_asks_the_nve_beside_it_without_a_packet() -> None:
    """The NVE takes none from an address of its own box (law 2.1), and answers for its VMs all the same."""
    inside = PORTS.replace('"p1"\nfaces', '"p1"\nkind = "internal"\npeer = "up"\nfaces')
    inside += '[[port]]\nname = "up"\nkind = "internal"\npeer = "p1"\nfaces = "core"\n'
    inside += '[[port]]\nname = "vm"\nfaces = "vm"\nnetwork = "blue"\n'
    roles = '[nve]\naddress = "10.0.0.9"\n[device]\naddress = "10.0.0.1"\n'
    config = read(inside + BLUE + roles)
    refused, membership = Refused(), Membership()
    tenancy = Tenancy(config, refused)
    publisher = Publisher(membership, tenants=tenancy.lists(), refined=tenancy.refined())
    for place in (P1, P2):
        membership.apply(OUTER, Who(place, Origin.STATIC), ALL)
    links = LINKS | {name: replace(LINKS["p1"], name=name) for name in ("up", "vm")}
    reach = work_out(config, View(links, HOPS))
    publisher.rebase(reach.basis)
    began_s = time.monotonic()
    tenancy.attach(reach, publisher, began_s)
    relay, side = tenancy.relays[0], tenancy.side
    assert side is not None
    side.hear(5, says(P1)[50:], began_s)
    side.poll(began_s + 20.0)
    side.take_frames()
    assert {port for port, _ in relay.take_frames()} == {P2}
    side.poll(began_s + 25.0)
    (frame,) = [frame for port, frame in side.take_frames() if port == 4]
    heard = punt.read(frame[50:], strict_headers=False)
    assert isinstance(heard, punt.Heard)
    assert isinstance(heard.message, Report)
    assert heard.message.records[0].kind == Kind.IS_EX
    assert refused == {}
