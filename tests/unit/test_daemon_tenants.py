"""The tenants of a running NVE (N13): who is heard where, what becomes of it, without a kernel."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ctrl import punt
from ctrl.daemon import snooping
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Query, Record, Report
from tests import frames as f
from tests.unit import nves
from tests.unit.nves import LINKS, NAMES, PORTS, RED, UP, VM1, VM2, down, tunnelled

pytestmark = pytest.mark.asyncio

G = "239.77.1.3"
TEXT = (
    """
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
"""
    + PORTS
)
VMS = int(ip_address("172.16.5.0"))


def report(vm: int, kind: Kind = Kind.TO_EX) -> bytes:
    record = Record(kind, int(ip_address(G)))
    return igmp.report_frame(Report(3, (record,)), bytes((2, 0, 0, 0, 0, vm)), VMS + vm)


QUERY = igmp.query_frame(Query(3, robustness=2, interval_s=125.0), bytes(5) + b"\x42", VMS + 99)


class Host(nves.Host):
    """And what it handed on."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def counted(self, place: int, *frames: bytes) -> dict[str, int]:
        """Frames in; how many copies leave for them, by port."""
        return {name: len(copies) for name, copies in self.hear(place, *frames).items() if copies}

    def handed_on(self) -> list[tuple[str, str]]:
        """(port, what it is) of each frame of a tenant that control sent on since it was last asked."""
        sent, self.sent[:] = list(self.sent), []
        alone = [(NAMES[port], frame[50:] if frame[23] == 17 else frame) for port, frame in sent]
        read = [(name, punt.read(frame, strict_headers=False)) for name, frame in alone]
        heard = [(name, one) for name, one in read if isinstance(one, punt.Heard)]
        return [(name, type(one.message).__name__) for name, one in heard if one.mac not in self.ours]


STREAM = tunnelled(f.tenant(dst=G))


async def test_a_vm_that_joins_is_served_from_then_on_and_its_neighbour_no_more() -> None:
    """N13."""
    host = Host()
    assert host.counted(UP, STREAM) == {"vm1": 1, "vm2": 1}
    assert host.counted(VM1, report(VM1)) == {}
    assert host.counted(UP, STREAM) == {"vm1": 1}
    assert host.counted(VM2, f.tenant(dst=G)) == {"vm1": 1, "up": 1}
    assert host.counted(UP, tunnelled(f.tenant(dst="239.77.1.4"))) == {"vm1": 1, "vm2": 1}
    host.see(down("vm1"))
    assert host.counted(UP, STREAM) == {"vm2": 1}
    host.see(LINKS)
    host.counted(VM2, report(VM2))
    assert host.counted(UP, STREAM) == {"vm2": 1}
    assert host.refused == {}


async def test_a_report_is_shown_to_nobody_but_routers() -> None:
    """D18: neither the VM beside nor the overlay gets it, until a router asks there."""
    host = Host()
    assert host.counted(VM1, report(VM1)) == {}
    assert host.handed_on() == []
    assert host.counted(VM2, QUERY) == {}
    assert host.handed_on() == [("vm1", "Query"), ("up", "Query")]
    host.counted(VM1, report(VM1, Kind.IS_EX))
    assert host.handed_on() == [("vm2", "Report")]
    assert host.counted(UP, STREAM) == {"vm1": 1, "vm2": 1}


async def test_what_comes_by_a_tunnel_is_the_overlays_and_our_own_uplink_keeps_its_queries() -> None:
    """Inner IGMP is for tenants, outer IGMP for the NVE's joins."""
    host = Host()
    assert host.counted(UP, tunnelled(QUERY)) == {}
    assert host.handed_on() == [("vm1", "Query"), ("vm2", "Query")]
    host.counted(UP, tunnelled(report(9)))
    assert host.tenants.groups("blue") == []
    assert host.refused == {}
    host.counted(UP, report(9))
    assert host.refused == {"report_of_a_host": 1}


async def test_a_network_that_does_not_snoop_carries_igmp_as_any_broadcast() -> None:
    host = Host()
    assert host.counted(RED, report(RED)) == {"up": 1}
    assert host.counted(UP, tunnelled(report(9), vni=200)) == {"vm3": 1}
    assert host.tenants.groups("red") == []


async def test_who_watches_is_told_of_vms_with_their_network() -> None:
    host = Host()
    with host.bus.subscribe(["members", "groups"]) as events:
        host.counted(VM1, report(VM1))
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
