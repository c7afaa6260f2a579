"""The tenants of a running NVE (N13): who is heard where, what becomes of it, without a kernel."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ctrl import punt
from ctrl.config import parse
from ctrl.daemon import reach as r
from ctrl.daemon import snooping
from ctrl.daemon.nve import Nve
from ctrl.daemon.snooping import Snooping
from ctrl.daemon.telling import Teller
from ctrl.events import Bus
from ctrl.membership import Membership
from ctrl.netlink import Link, View
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.publisher import Publisher
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from ctrl.roles.nve.tenants import Tenants
from ctrl.static import tenant_mac
from ctrl.tenant_lists import TenantLists
from ctrl.tenant_side import TenantSide
from fastpath import Forwarder, MemoryPort, Punts
from tests import frames as f

pytestmark = pytest.mark.asyncio

UP, VM1, VM2, RED = range(4)
G, OUTER, FAR = "239.77.1.3", "239.1.1.100", "10.0.0.2"
VMS = int(ip_address("172.16.5.0"))
TEXT = """
[nve]
address = "10.0.0.1"
[membership]
startup_response_interval_s = 0.1
last_member_query_interval_s = 0.1
[[network]]
name = "blue"
vni = 100
vsid = 6000
group = "239.1.1.100"
snoop = true
[[network]]
name = "red"
vni = 200
group = "239.1.1.100"
[[port]]
name = "up"
faces = "core"
[[port]]
name = "vm1"
faces = "vm"
network = "blue"
[[port]]
name = "vm2"
faces = "vm"
network = "blue"
[[port]]
name = "vm3"
faces = "vm"
network = "red"
"""
NAMES = ("up", "vm1", "vm2", "vm3")


def link(place: int, *, is_up: bool = True) -> Link:
    return Link(NAMES[place], place + 2, bytes((2, 0, 0, 0, 1, place)), 1500, is_up=is_up)


def report(vm: int, kind: Kind = Kind.TO_EX) -> bytes:
    record = Record(kind, int(ip_address(G)))
    return igmp.report_frame(
        Report(3, (record,)), bytes((2, 0, 0, 0, 0, vm)), int(ip_address("172.16.5.0")) + vm
    )


QUERY = igmp.query_frame(
    Query(3, robustness=2, interval_s=125.0), bytes(5) + b"\x42", int(ip_address("172.16.5.99"))
)


class Host:
    """What the daemon makes of a config: `see` is news of the kernel, `hear` a frame."""

    def __init__(self) -> None:
        reading = parse(TEXT)
        assert reading.config is not None, reading.findings
        self.config = config = reading.config
        assert config.nve is not None
        self.refused, self.bus, membership = Refused(), Bus(lambda: 0.0), Membership()
        self.reach = r.work_out(config, View({name: link(place) for place, name in enumerate(NAMES)}, {}))
        self.ours = {tenant_mac(config.nve), link(UP).mac}
        self.tenants = Tenants(self.refused, config.membership, tenant_mac(config.nve), lambda: 0.5)
        self.side = TenantSide(self.tenants, self.refused)
        self.publisher = Publisher(membership, self.reach.basis, TenantLists(self.tenants))
        self.ports = [MemoryPort() for _ in config.ports]
        self.forwarder = Forwarder(
            self.reach.layout,
            self.ports,
            self.publisher.lists.values(),
            punts=Punts(),
            max_macs=64,
            max_vteps=8,
        )
        self.nve = Nve(config, self.reach, self.forwarder, self.refused, self.bus)
        teller = Teller(self.bus, membership, lambda place: NAMES[place])
        self.sent: list[tuple[int, bytes]] = []
        self.snooping = Snooping(
            self.forwarder,
            Device(membership, self.refused, config.membership),
            self.publisher,
            self.refused,
            lambda port, frame: self.sent.append((port, frame)),
            teller.member,
            self.nve,
            self.side,
            teller.tenant,
        )
        self.see()

    def see(self, *down: int) -> None:
        """News of the kernel: these interfaces are down."""
        links = {name: link(place, is_up=place not in down) for place, name in enumerate(NAMES)}
        self.reach = r.work_out(self.config, View(links, {}))
        step = self.publisher.reroute(self.reach.basis)
        self.forwarder.relayout(self.reach.layout, step.lists, step.removed, self.reach.hops)
        uplinks = r.uplinks(self.config, self.reach.layout, View(links, {}))
        self.nve.apply(self.reach, uplinks, {ip_address("10.0.0.1")})
        self.side.attach(self.reach.basis.snooped, self.reach.layout, self.reach.hops, 0.0)
        self.snooping.settle()
        self.sent.clear()

    def hear(self, place: int, *frames: bytes) -> dict[str, int]:
        """Frames in; how many copies leave for them, by port. What they say is in force afterwards."""
        self.ports[place].receive(*frames)
        self.forwarder.run()
        self.snooping._turn()
        copies = {name: len(port.take()) for name, port in zip(NAMES, self.ports, strict=True)}
        return {name: n for name, n in copies.items() if n}

    def handed_on(self) -> list[tuple[str, str]]:
        """(port, what it is) of each frame of a tenant that control sent on since it was last asked."""
        sent, self.sent[:] = list(self.sent), []
        alone = [(NAMES[port], frame[50:] if frame[23] == 17 else frame) for port, frame in sent]
        read = [(name, punt.read(frame, strict_headers=False)) for name, frame in alone]
        heard = [(name, one) for name, one in read if isinstance(one, punt.Heard)]
        return [(name, type(one.message).__name__) for name, one in heard if one.mac not in self.ours]


def tunnelled(inner: bytes, vni: int = 100) -> bytes:
    return f.wire(f.vxlan_packet(inner, FAR, OUTER, vni))


STREAM = tunnelled(f.tenant(dst=G))


async def test_a_vm_that_joins_is_served_from_then_on_and_its_neighbour_no_more() -> None:
    """N13."""
    host = Host()
    assert host.hear(UP, STREAM) == {"vm1": 1, "vm2": 1}
    assert host.hear(VM1, report(VM1)) == {}
    assert host.hear(UP, STREAM) == {"vm1": 1}
    assert host.hear(VM2, f.tenant(dst=G)) == {"vm1": 1, "up": 1}
    assert host.hear(UP, tunnelled(f.tenant(dst="239.77.1.4"))) == {"vm1": 1, "vm2": 1}
    host.see(VM1)
    assert host.hear(UP, STREAM) == {"vm2": 1}
    host.see()
    host.hear(VM2, report(VM2))
    assert host.hear(UP, STREAM) == {"vm2": 1}
    assert host.refused == {}


async def test_a_report_is_shown_to_nobody_but_routers() -> None:
    """D18: neither the VM beside nor the overlay gets it, until a router asks there."""
    host = Host()
    assert host.hear(VM1, report(VM1)) == {}
    assert host.handed_on() == []
    assert host.hear(VM2, QUERY) == {}
    assert host.handed_on() == [("vm1", "Query"), ("up", "Query")]
    host.hear(VM1, report(VM1, Kind.IS_EX))
    assert host.handed_on() == [("vm2", "Report")]
    assert host.hear(UP, STREAM) == {"vm1": 1, "vm2": 1}


async def test_what_comes_by_a_tunnel_is_the_overlays_and_our_own_uplink_keeps_its_queries() -> None:
    """Inner IGMP is for tenants, outer IGMP for the NVE's joins."""
    host = Host()
    assert host.hear(UP, tunnelled(QUERY)) == {}
    assert host.handed_on() == [("vm1", "Query"), ("vm2", "Query")]
    host.hear(UP, tunnelled(report(9)))
    assert host.tenants.groups("blue") == []
    assert host.refused == {}
    host.hear(UP, report(9))
    assert host.refused == {"report_of_a_host": 1}


async def test_a_network_that_does_not_snoop_carries_igmp_as_any_broadcast() -> None:
    host = Host()
    assert host.hear(RED, report(RED)) == {"up": 1}
    assert host.hear(UP, tunnelled(report(9), 200)) == {"vm3": 1}
    assert host.tenants.groups("red") == []


async def test_who_watches_is_told_of_vms_with_their_network() -> None:
    host = Host()
    with host.bus.subscribe(["members", "groups"]) as events:
        host.hear(VM1, report(VM1))
        (row,) = await events.read(0)
    assert (row["topic"], row["event"], row["port"], row["network"]) == ("members", "joined", "vm1", "blue")
    assert (row["nve"], row["group"]) == ("172.16.5.1", G)


async def test_queries_that_a_vm_floods_are_no_more_frames_than_can_be_sent(monkeypatch) -> None:
    """Each is one for every other VM and the overlay. What waits is bounded, and others are heard."""
    monkeypatch.setattr(snooping, "WAITING_FRAMES", 512)
    host = Host()
    host.ports[VM1].receive(*[QUERY] * 2_000)
    host.ports[VM2].receive(report(VM2))
    host.forwarder.run()
    most = 0
    for turn in range(10_000):
        host.snooping._turn()
        host.sent.clear()
        most = max(most, host.side.n_frames)
        if turn == 12:
            assert host.tenants.groups("blue")
            assert host.snooping._waiting
        if not host.snooping._waiting and not host.side.n_frames:
            break
    assert 256 < most <= 512 + 2
    assert host.refused == {}


async def test_a_vm_that_floods_reports_keeps_nobody_else_waiting() -> None:
    """One turn hears VMs, the overlay and the uplink one after the other."""
    host = Host()
    for port in (VM1, UP):
        host.ports[port].receive(*([report(VM1)] * 500 if port == VM1 else [tunnelled(QUERY)]))
    host.forwarder.run()
    heard: list[int] = []
    host.side.hear = lambda place, frame, now_s: heard.append(place)  # type: ignore[method-assign]
    host.snooping._turn()
    assert min(heard) < 0
    assert heard.index(min(heard)) <= 1
