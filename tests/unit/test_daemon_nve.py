"""The NVE of a running box: frames teach it, netlink says how VTEPs are reached, VM ports come and go."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from ipaddress import ip_address
from types import SimpleNamespace
from typing import cast

import pytest

from ctrl import punt
from ctrl.daemon import reach as r
from ctrl.daemon.refusing import StartError, refuse_what_is_not_live, refuse_what_takes_a_restart
from ctrl.explain.answer import answer
from ctrl.netlink import Link, NextHop
from ctrl.planner import Receivers
from ctrl.protocols.messages import Kind, Report
from ctrl.roles.nve.macs import TICKS
from fastpath import Forwarder
from tests import frames as f
from tests.unit import nves
from tests.unit.nves import FAR, LINKS, OWN, PORTS, RED, UP, UPLINK, VM1, VM2, down, read, tunnelled

pytestmark = pytest.mark.asyncio

FARTHER = ip_address("10.7.0.3")
GROUP = int(ip_address("239.1.1.100"))
TEXT = (
    """
[nve]
address = "10.0.0.1"
max_vteps = 2
max_macs_per_port = 3
[[network]]
name = "blue"
vni = 100
group = "239.1.1.100"
[[network]]
name = "red"
vni = 200
group = "239.1.1.200"
"""
    + PORTS
)
STATIC = """
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:63"
vtep = "10.0.0.2"
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:64"
port = "vm2"
"""
NEXT, OTHER = bytes.fromhex("02000000fe01"), bytes.fromhex("02000000fe02")


def vm(i, to=b"\xff" * 6):
    return f.ethernet(bytes([i]) * 60, 0x88B5, to, mac(i))


def mac(i):
    return b"\x02\0\0\0\0" + bytes([i])


def far(i, sender=FAR):
    return tunnelled(vm(i), sender)


class Host(nves.Host):
    """And what it came to."""

    def __init__(self, text=TEXT, hops=None):
        super().__init__(text, hops)

    def to(self, place, *frames):
        """The ports by which copies left."""
        return {name for name, copies in self.hear(place, *frames).items() if copies}

    @property
    def macs(self):
        return {(one.network, one.mac[5]): one.port or str(one.vtep) for one in self.nve.macs()}

    def reports(self):
        """(port, kind, group) of what was said since it was last asked."""
        self.nve.joins.poll(1e9)
        self.snooping.settle()
        told = []
        for port, frame in self.sent:
            heard = punt.read(frame, strict_headers=True)
            assert isinstance(heard, punt.Heard), heard
            assert isinstance(heard.message, Report), heard
            told += [(port, rec.kind, rec.group, heard.source) for rec in heard.message.records]
        self.sent.clear()
        return told


async def test_what_a_vm_sends_to_a_vm_beside_it_goes_there_alone_once_that_was_heard():
    on = Host()
    assert on.to(VM1, vm(1)) == {"vm2", "up"}
    assert on.to(VM2, vm(2, to=mac(1))) == {"vm1"}
    assert on.to(VM1, vm(1, to=mac(2))) == {"vm2"}
    assert on.to(VM1, vm(1, to=mac(9))) == {"vm2", "up"}, "unknown unicast"
    assert on.macs == {("blue", 1): "vm1", ("blue", 2): "vm2"}


async def test_a_mac_behind_a_vtep_is_flooded_to_until_netlink_knows_its_next_hop():
    on = Host()
    on.hear(UP, far(5))
    assert on.nve.wanted.is_set()
    assert on.nve.vteps == {FAR}
    on.see()
    assert on.to(VM1, vm(1, to=mac(5))) == {"vm2", "up"}
    on.see(hops={FAR: NextHop("up", None)})
    assert on.macs == {("blue", 1): "vm1"}
    on.see(hops={FAR: NextHop("up", NEXT)})
    assert on.macs == {("blue", 1): "vm1", ("blue", 5): "10.0.0.2"}
    (copy,) = on.hear(VM1, vm(1, to=mac(5)))["up"]
    assert copy[:6] == NEXT
    assert (copy[26:30], copy[30:34]) == (OWN.packed, FAR.packed)
    assert copy.endswith(vm(1, to=mac(5)))
    assert on.nve.view().vteps == ((FAR, UP),)


async def test_a_vtep_that_speaks_another_encap_too_is_not_asked_for_again():
    on = Host(TEXT.replace("vni = 100", "vni = 100\nvsid = 5100"))
    on.hear(UP, far(5))
    on.see(hops={FAR: NextHop("up", NEXT)})
    on.hear(UP, f.wire(f.nvgre_packet(vm(6), str(FAR), "239.1.1.100", 5100)))
    assert on.macs == {("blue", 5): "10.0.0.2", ("blue", 6): "10.0.0.2"}
    (copy,) = on.hear(VM1, vm(1, to=mac(6)))["up"]
    assert copy[23] == 47, "GRE"


async def test_a_vtep_that_is_reached_otherwise_gets_its_frames_there():
    core = TEXT + '[[port]]\nname = "core2"\nfaces = "core"\n'
    links = LINKS | {"core2": Link("core2", 9, OTHER, 1500, is_up=True)}
    on = Host(core)
    on.hear(UP, far(5))
    on.see(links, hops={FAR: NextHop("up", NEXT)})
    on.see(hops={FAR: NextHop("core2", OTHER)})
    (copy,) = on.hear(VM1, vm(1, to=mac(5)))["core2"]
    assert copy[:6] == OTHER
    on.see(hops={FAR: NextHop("core2", None)})
    assert on.to(VM1, vm(1, to=mac(5))) == set()
    assert [row.reason.name for row in on.forwarder.statistics().drops] == ["no_neighbour"]


async def test_what_is_explained_goes_where_frames_go():
    on = Host()
    on.hear(VM2, vm(2))
    on.hear(UP, far(5))
    on.see(hops={FAR: NextHop("up", NEXT)})
    for i, copies in (
        (2, [("vm2", "vm")]),
        (5, [("up", "10.0.0.2")]),
        (9, [("vm2", "vm"), ("up", "239.1.1.100")]),
    ):
        question = json.dumps({"frame": vm(1, to=mac(i)).hex(), "port": "vm1"}).encode()
        rows = answer(question, on.reach.layout, on.publisher.lists, on.reach.hops, macs=on.nve.stations)
        assert [(row["port"], row["receiver"]) for row in rows if row["step"] == "copy"] == copies
        assert on.to(VM1, vm(1, to=mac(i))) == {port for port, _ in copies}
    assert set(on.nve.stations) == {(100, mac(i)) for i in (1, 2, 5)}
    assert on.nve.stations.get((100, bytes(6))) is None


async def test_vteps_are_bounded_and_those_without_macs_make_room():
    on = Host()
    for i in range(4):
        on.hear(UP, far(i + 1, sender=f"10.0.0.{10 + i}"))
    assert len(on.nve.vteps) == 1
    assert on.refused == {"vteps_waiting": 3}
    for i in range(4):
        on.see(hops={one: NextHop("up", NEXT) for one in on.nve.vteps})
        on.hear(UP, far(i + 11, sender=f"10.0.0.{10 + i}"))
    assert set(on.macs.values()) == {"10.0.0.10", "10.0.0.11"}
    assert on.refused == {"vteps_waiting": 3, "vteps_full": 2}
    on.nve.wanted.clear()
    on.nve._macs.limits = replace(on.nve._macs.limits, ageing_s=-1)
    on.nve.tick()
    assert on.macs == {}
    assert on.nve.vteps == frozenset()
    assert on.nve.wanted.is_set()
    on.hear(UP, far(5))
    on.see(hops={FAR: NextHop("up", NEXT)})
    assert on.macs == {("blue", 5): "10.0.0.2"}


async def test_the_macs_of_a_port_that_goes_down_are_gone_at_once_and_its_group_is_left_with_the_last():
    """N3 to N5."""
    on = Host()
    on.hear(VM1, vm(1))
    on.hear(VM2, vm(2))
    joined = {(UP, Kind.TO_EX, GROUP, int(ip_address("10.0.0.5"))), (UP, Kind.TO_EX, GROUP + 100, 0x0A000005)}
    assert set(on.reports()) == joined, "from the address of the interface (W8)"
    on.see(down("vm1"))
    assert on.macs == {("blue", 2): "vm2"}
    assert not set(on.reports()) - joined
    on.see(down("vm1", "vm2"))
    assert on.macs == {}
    assert {(port, group) for port, kind, group, _ in on.reports() if kind is Kind.TO_IN} == {(UP, GROUP)}
    assert [one.networks for one in on.nve.view().joined] == [("red",)]
    assert on.to(UP, far(5)) == set()
    on.see(LINKS)
    assert on.to(UP, far(5)) == {"vm1", "vm2"}


async def test_queries_that_come_in_at_the_uplink_are_answered_and_are_not_the_device_s():
    """N7."""
    on = Host()
    on.reports()
    query = bytes([100]) + bytes(2) + bytes(4) + bytes([2, 125, 0, 0])
    total = f.internet_checksum(bytes([0x11]) + query)
    query = query[:1] + total.to_bytes(2, "big") + query[3:]
    on.hear(UP, f.wire(f.igmp("10.0.0.9", "224.0.0.1", 0x11, query)))
    assert not on.refused
    assert {group for _, _, group, _ in on.reports()} == {GROUP, GROUP + 100}
    on.snooping.stop()


async def test_nothing_crosses_from_one_network_to_another():
    on = Host()
    on.hear(VM1, vm(1))
    assert on.to(RED, vm(7, to=mac(1))) == {"up"}
    assert on.macs == {("blue", 1): "vm1", ("red", 7): "vm3"}


async def test_who_watches_hears_of_every_mac_with_names():
    on = Host()
    with on.bus.subscribe(["macs"]) as reader:
        on.hear(VM1, vm(1))
        on.hear(VM2, vm(1))
        rows = await reader.read()
    assert [(row["event"], row["network"], row["port"], row["was"]) for row in rows] == [
        ("learned", "blue", "vm1", None),
        ("moved", "blue", "vm2", "vm1"),
    ]


async def test_the_age_of_a_mac_is_that_of_the_moment_at_which_it_was_looked_up():
    """While many are shown the box goes on, and what was heard meanwhile is not four years old."""
    on = Host()
    on.hear(VM1, vm(1), vm(2))
    clock = itertools.count(on.forwarder.mac_now(), TICKS)
    on.nve._forwarder = cast("Forwarder", SimpleNamespace(mac_now=lambda: next(clock)))
    first, second = (one.age_s for one in on.nve.macs())
    assert first + 0.5 < second < first + 1.5


async def test_what_a_port_floods_is_bounded_and_named():
    on = Host()
    for i in range(10):
        on.hear(VM1, vm(i + 1))
    on.hear(VM2, vm(99))
    assert len(on.macs) == 4
    assert on.refused == {"mac_port_full": 7}
    shown = on.nve.view()
    assert (shown.macs, shown.learned) == ({"blue": 4, "red": 0}, 4)


async def test_static_stations_are_there_from_the_start_and_stay():
    on = Host(TEXT + STATIC, hops={FAR: NextHop("up", NEXT)})
    assert on.macs == {("blue", 0x63): "10.0.0.2", ("blue", 0x64): "vm2"}
    assert FAR in r.peers(on.config)
    assert on.to(VM1, vm(1, to=mac(0x64))) == {"vm2"}
    assert on.to(VM1, vm(1, to=mac(0x63))) == {"up"}
    on.hear(VM1, vm(0x64))
    assert on.macs["blue", 0x64] == "vm2"
    assert on.refused == {"static_mac_moved": 1}


@pytest.mark.parametrize("network", ["vxlan", "nvgre"])
@pytest.mark.parametrize("host", [None, "vxlan", "nvgre"])
async def test_a_static_vtep_is_spoken_to_as_the_config_says_else_as_its_network_speaks(network, host):
    text = TEXT.replace("vni = 100", f'vni = 5000\nencap = "{network}"')
    says = "" if host is None else f'encap = "{host}"\n'
    on = Host(text + STATIC.replace('vtep = "10.0.0.2"\n', f'vtep = "10.0.0.2"\n{says}'))
    on.see(hops={FAR: NextHop("up", NEXT)})
    (copy,) = on.hear(VM1, vm(1, to=mac(0x63)))["up"]
    assert copy[:6] == NEXT
    assert copy[14 + 9] == {"vxlan": 17, "nvgre": 47}[host or network]


async def test_a_reload_keeps_what_was_learned_and_takes_other_static_stations():
    on = Host(TEXT + STATIC)
    on.hear(VM1, vm(1))
    on.config = read(TEXT.replace("max_macs_per_port = 3", "max_macs_per_port = 1"))
    on.nve.configure(on.config)
    on.see()
    assert on.macs == {("blue", 1): "vm1"}
    on.hear(VM1, vm(2))
    assert on.refused == {"mac_port_full": 1}


async def test_a_reload_that_moves_the_uplink_moves_what_goes_to_static_vteps():
    ends = [("up", "in"), ("up2", "in2")]
    pairs = "".join(
        f'[[port]]\nname = "{one}"\nkind = "internal"\nfaces = "{faces}"\npeer = "{other}"\n'
        for core, nve in ends
        for one, faces, other in ((core, "core", nve), (nve, "nve", core))
    )
    text = TEXT.replace(UPLINK, pairs) + STATIC
    links = LINKS | {name: replace(LINKS["up"], name=name, addresses=()) for pair in ends for name in pair}
    on = Host(text)
    on.see(links)
    assert on.to(4, vm(1, to=mac(0x63))) == {"up"}
    on.config = read(text.replace('name = "up2"\n', 'name = "up2"\naddress = "10.0.0.5/24"\n'))
    on.nve.configure(on.config)
    on.see()
    assert on.to(4, vm(1, to=mac(0x63))) == {"up2"}


async def test_a_box_claims_what_is_sent_to_its_nve():
    assert r.claims(read(TEXT)).addresses == (OWN,)


MANAGED = TEXT.replace('"10.0.0.1"', '"10.0.0.1"\nmanager = ["127.0.0.1:9470"]')


async def test_whom_a_manager_names_gets_a_copy_at_once_and_no_group_is_joined():
    """N1, N2 (framework 3.2): by groups, so not what another network's VMs say; nobody left, no copy."""
    on = Host(MANAGED)
    assert on.to(VM1, vm(1)) == {"vm2"}
    group, hops = ip_address("239.1.1.100"), {FAR: NextHop("up", NEXT), FARTHER: NextHop("up", OTHER)}
    on.told = r.Told(nve=frozenset([FAR, FARTHER]), receivers={group: Receivers((FAR, FARTHER))})
    on.see(hops=hops)
    assert [(copy[:6], copy[30:34]) for copy in on.hear(VM1, vm(1))["up"]] == [
        (NEXT, FAR.packed),
        (OTHER, FARTHER.packed),
    ]
    assert on.to(RED, vm(3)) == set()
    assert on.to(UP, far(5)) == {"vm1", "vm2"}
    on.told = r.Told(nve=frozenset([FAR]), receivers={group: Receivers((FAR,))})
    on.see()
    assert [copy[30:34] for copy in on.hear(VM1, vm(1))["up"]] == [FAR.packed]
    assert on.reports() == []
    on.told = r.Told()
    on.see()
    assert on.to(VM1, vm(1)) == {"vm2"}


async def test_who_may_send_are_those_that_a_manager_named_where_not_all_may():
    on = Host(MANAGED.replace("max_vteps = 2", 'allow_from = ["10.9.0.0/16"]'))
    ours = tunnelled(vm(5), FAR, to=str(OWN))
    assert on.to(UP, ours) == set()
    on.told = r.Told(nve=frozenset([FAR]))
    on.see()
    assert on.to(UP, ours) == {"vm1", "vm2"}
    assert {row.reason.name: row.count for row in on.forwarder.statistics().drops if row.count} == {
        "unknown_peer": 1
    }


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("max_vteps = 2", "max_vteps = 3", "nve.max_vteps"),
        ("max_vteps = 2", "max_macs = 3", "nve.max_macs, nve.max_vteps"),
        ('address = "10.0.0.1"', 'address = "10.0.0.9"', "nve.address"),
    ],
)
async def test_what_the_table_was_made_by_takes_a_restart(old, new, key):
    with pytest.raises(StartError, match=f"{key} changed"):
        refuse_what_takes_a_restart(read(TEXT), read(TEXT.replace(old, new)))
    refuse_what_takes_a_restart(read(TEXT), read(TEXT + STATIC))


async def test_an_nve_comes_and_goes_with_a_restart_alone():
    plain = read(UPLINK)
    with pytest.raises(StartError, match="nve changed"):
        refuse_what_takes_a_restart(plain, read(TEXT))
    refuse_what_is_not_live(read(TEXT))
