"""What a config means on a kernel: ports keep their places, routes choose, next hops are known or are not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from ctrl.config import Config, parse
from ctrl.daemon import reach as r
from ctrl.daemon.losses import Losses
from ctrl.daemon.refusing import StartError, refuse_what_is_not_live, refuse_what_takes_a_restart
from ctrl.membership import Membership
from ctrl.netlink import Link, NextHop, View
from ctrl.planner import Receivers
from ctrl.publisher import Publisher, Step
from ctrl.roles.attachment import Attachment
from ctrl.static import enroll
from fastpath import Forwarder, MemoryPort
from fastpath.claims import Claims
from fastpath.model import Faces, Layout, Peer, Port, ReplicationList, Scope
from fastpath.reasons import REASONS
from fastpath.statistics import DropCount, Statistics

MAC, OTHER_MAC = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
NEAR, FAR, NVE = ip_address("10.0.0.2"), ip_address("10.9.0.3"), ip_address("10.1.2.2")
PORTS = """
[[port]]
name = "p1"
faces = "nve"
[[port]]
name = "p2"
device = "eth2"
faces = "nve"
[[port]]
name = "core"
faces = "core"
"""
DEVICE = """
[device]
address = "10.0.0.1"
[[device.member]]
group = "239.1.1.100"
port = "p1"
[[device.member]]
group = "239.1.1.100"
port = "p2"
nve = "10.1.2.2"
[[device.peer]]
group = "239.1.1.100"
addresses = ["10.0.0.2", "10.9.0.3"]
"""
LINKS = {
    "p1": Link("p1", 2, MAC, 1500, is_up=True),
    "eth2": Link("eth2", 3, OTHER_MAC, 1550, is_up=True),
    "core": Link("core", 4, MAC[::-1], 1600, is_up=True),
}
HOPS = {
    NEAR: NextHop("core", MAC),
    FAR: NextHop("core", OTHER_MAC, ip_address("10.0.0.254")),
    NVE: NextHop("eth2", MAC),
}
KERNEL = View(LINKS, HOPS)
BOX_LAYOUT = Layout((Port("p1", Faces.NVE, MAC, MAC),))


def config_of(text: str) -> Config:
    reading = parse(text)
    assert reading.config, reading.findings
    return reading.config


BOX = config_of(PORTS + DEVICE)


def published(config: Config, reach: r.Reach) -> Publisher:
    """The lists that a start with this config comes to."""
    membership = Membership()
    enroll(membership, config)
    return Publisher(membership, reach.basis)


def only_list(config: Config, reach: r.Reach) -> ReplicationList:
    (one,) = published(config, reach).lists.values()
    return one


def test_macs_and_mtus_are_the_kernel_s_where_the_config_gives_none():
    ports = r.work_out(BOX, KERNEL).layout.ports
    assert [(p.name, p.mac, p.mtu, p.next_hop_mac) for p in ports] == [
        ("p1", MAC, 1500, None),
        ("p2", OTHER_MAC, 1550, None),
        ("core", MAC[::-1], 1600, None),
    ]
    given = config_of(
        PORTS.replace('faces = "core"', 'faces = "core"\nmtu = 1400\nmac = "02:00:00:00:00:77"') + DEVICE
    )
    core = r.work_out(given, KERNEL).layout.ports[2]
    assert (core.mac, core.mtu) == (bytes.fromhex("020000000077"), 1400)
    too_much = config_of(PORTS.replace('faces = "core"', 'faces = "core"\nmtu = 9000') + DEVICE)
    assert r.work_out(too_much, KERNEL).layout.ports[2].mtu == 1600


def test_a_tap_port_has_a_mac_of_its_own_since_that_of_the_device_is_its_host_s():
    tap = config_of(PORTS.replace('name = "p1"', 'name = "p1"\nkind = "tap"') + DEVICE)
    assert r.work_out(tap, KERNEL).layout.ports[0].mac == bytes.fromhex("02fa57000001")


def test_next_hops_are_told_for_every_unicast_copy_and_no_other():
    now = r.work_out(BOX, KERNEL)
    assert now.hops == {(2, NEAR): MAC, (2, FAR): OTHER_MAC, (1, NVE): MAC}
    assert set(now.states.values()) == {"up"}


def test_a_route_by_another_port_moves_the_copies_there():
    moved = replace(KERNEL, hops=HOPS | {FAR: NextHop("p1", OTHER_MAC)})
    before, after = r.work_out(BOX, KERNEL), r.work_out(BOX, moved)
    one = only_list(BOX, after)
    assert {e.address: e.out_port for e in one.remote} == {NEAR: 2, FAR: 0}
    assert published(BOX, before).rebase(after.basis) == ([one], [])
    assert after.hops == {(2, NEAR): MAC, (0, FAR): OTHER_MAC, (1, NVE): MAC}


@pytest.mark.parametrize(
    ("hop", "state"),
    [
        (NextHop("core"), "no_neighbour"),
        (NextHop(None), "no_route"),
        (NextHop("wlan0", MAC), "no_route"),
        (NextHop("lo"), "no_route"),
    ],
)
def test_a_peer_without_a_way_keeps_its_port_and_has_no_next_hop(hop, state):
    now = r.work_out(BOX, replace(KERNEL, hops=HOPS | {FAR: hop}))
    assert {e.address: e.out_port for e in only_list(BOX, now).remote} == {NEAR: 2, FAR: 2}
    assert now.hops[2, FAR] is None
    assert now.states == {NEAR: "up", FAR: state, NVE: "up"}


def test_a_local_nve_is_served_by_its_own_port_alone():
    now = r.work_out(BOX, replace(KERNEL, hops=HOPS | {NVE: NextHop("core", MAC)}))
    assert now.hops[1, NVE] is None
    assert now.states[NVE] == "no_route"


def test_nothing_is_sent_by_a_port_whose_link_is_down_or_gone():
    down = View({"p1": LINKS["p1"], "core": replace(LINKS["core"], is_up=False)}, HOPS)
    assert [port.is_up for port in r.work_out(BOX, down).layout.ports] == [True, False, False]


def test_behind_a_link_that_is_down_nobody_is_up():
    down = replace(KERNEL, links=LINKS | {"core": replace(LINKS["core"], is_up=False)})
    assert r.work_out(BOX, down).states == {NEAR: "down", FAR: "down", NVE: "up"}
    gone = replace(KERNEL, links={"p1": LINKS["p1"]})
    assert r.work_out(BOX, gone).states[NEAR] == "down"


def test_a_configured_next_hop_is_not_asked_for():
    text = PORTS.replace('faces = "core"', 'faces = "core"\nnext_hop_mac = "02:00:00:00:00:99"') + DEVICE
    now = r.work_out(config_of(text), View(LINKS, {}))
    assert now.layout.ports[2].next_hop_mac == bytes.fromhex("020000000099")
    assert now.hops == {(1, NVE): None}
    assert now.states == {NVE: "no_route"}


def test_ports_keep_their_places_when_others_come_and_go():
    without = config_of(PORTS.replace('"p1"', '"new"') + DEVICE.replace('"p1"', '"new"'))
    after = r.placed(without, ["p1", "p2", "core"])
    assert [(p.name, bool(p.faces)) for p in after.ports] == [
        ("p1", False),
        ("p2", True),
        ("core", True),
        ("new", True),
    ]
    assert r.devices(after) == {"eth2": 1, "core": 2, "new": 3}
    now = r.work_out(after, KERNEL)
    assert now.layout.ports[0].faces == Faces(0)
    assert sorted(e.out_port for e in only_list(after, now).local) == [1, 3]

    again = r.placed(BOX, [p.name for p in after.ports])
    assert [(p.name, bool(p.faces)) for p in again.ports] == [
        ("p1", True),
        ("p2", True),
        ("core", True),
        ("new", False),
    ]


def test_what_moves_on_the_kernel_s_side_alone_leaves_the_lists_as_they_are():
    flapped = replace(
        KERNEL,
        links=LINKS | {"core": replace(LINKS["core"], is_up=False, mtu=1400)},
        hops=HOPS | {FAR: NextHop("core")},
    )
    assert r.work_out(BOX, KERNEL).basis == r.work_out(BOX, flapped).basis


def test_other_networks_set_all_lists_anew_since_these_are_kept_with_them():
    named = config_of(PORTS + DEVICE + '[[network]]\nname = "blue"\nvni = 7\ngroup = "239.1.1.100"\n')
    before, after = r.work_out(BOX, KERNEL), r.work_out(named, KERNEL)
    step = published(BOX, before).rebase(after.basis)
    assert step == Step([only_list(named, after)], [])


def test_queries_come_from_an_address_to_which_nves_have_a_route():
    """The interface's own, else the device's; an interface that is not there asks nobody."""
    addressed = replace(LINKS["p1"], addresses=(ip_interface("fe80::1/64"), ip_interface("10.1.1.1/24")))
    kernel = replace(KERNEL, links={"p1": addressed, "eth2": replace(LINKS["eth2"], is_up=False)})
    attached = r.attached(BOX, r.work_out(BOX, kernel).layout, kernel)
    assert attached == {
        0: Attachment(MAC, int(ip_address("10.1.1.1")), 1500, is_up=True),
        1: Attachment(OTHER_MAC, int(ip_address("10.0.0.1")), 1550, is_up=False),
    }
    assert set(r.attached(BOX, r.work_out(BOX, KERNEL).layout, replace(KERNEL, links={}))) == set()
    point = config_of(PORTS + '[replicator]\naddress = "10.0.0.110"\n')
    assert r.attached(point, r.work_out(point, KERNEL).layout, KERNEL) == {}


def test_what_is_claimed_are_the_ports_of_vxlan_and_every_endpoint():
    point = '[replicator]\naddress = "10.0.0.110"\nreplicate = "10.0.0.111"\n'
    both = config_of("[dataplane]\nvxlan_ports = [4789, 8472]\n" + PORTS + DEVICE + point)
    own = tuple(map(ip_address, ("10.0.0.1", "10.0.0.110", "10.0.0.111")))
    assert r.claims(both) == Claims((4789, 8472), own)
    assert set(r.peers(both)) == {NEAR, FAR, NVE}


def test_between_two_configs_only_what_both_claim_is_claimed():
    one = Claims((4789, 8472), (ip_address("10.0.0.1"), ip_address("10.0.0.110")))
    other = Claims((8472, 4790), (ip_address("10.0.0.110"),))
    assert r.common_claims(one, other) == Claims((8472,), (ip_address("10.0.0.110"),))
    assert r.common_claims(one, one) == one


def test_what_is_lost_is_logged_when_it_begins_once_a_minute_and_when_it_ends(caplog):
    caplog.set_level("INFO")

    def lost(**counts: int) -> Statistics:
        drops = tuple(DropCount(row, counts[row.name]) for row in REASONS if row.name in counts)
        none = Forwarder(BOX_LAYOUT, [MemoryPort()]).statistics()
        return replace(none, drops=drops)

    losses = Losses()
    losses.log(lost(truncated=9), {})
    for n in range(3, 64):
        losses.log(lost(ring_full=n, truncated=12), {})
    traffic = {"link_local_group": 8, "query_of_nobody": 3}
    losses.log(lost(ring_full=63, port_refused=7, punt_limit=2), {"groups_full": 5, **traffic})
    assert [record.getMessage() for record in caplog.records] == [
        "drops ring_full=3",
        "drops ring_full=63",
        "drops punt_limit=2 port_refused=7 groups_full=5",
        "drops over ring_full=63",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no .*port.* is given"),
        (
            '[[port]]\nname = "a"\nkind = "pcap"\nfaces = "nve"\n',
            'port a: kind = "pcap" is for replay; expected one of internal, packet, tap, xdp',
        ),
    ],
)
def test_what_a_live_process_cannot_do_is_refused(text, sentence):
    with pytest.raises(StartError, match=sentence):
        refuse_what_is_not_live(config_of(text))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[dataplane]\nworkers = 2\n", "dataplane.workers"),
        ("[dataplane]\nbatch = 8\n", "dataplane.batch"),
        ('[control]\nhttp = ""\n', "control"),
        ('node = "other"\n', "node"),
    ],
)
def test_what_a_running_process_cannot_change_takes_a_restart(text, key):
    with pytest.raises(StartError, match=f"^{key} changed, which takes a restart"):
        refuse_what_takes_a_restart(BOX, config_of(text + PORTS + DEVICE))
    refuse_what_takes_a_restart(BOX, config_of(PORTS))


MANAGED = '[device]\naddress = "10.0.0.1"\nmanager = ["127.0.0.1:9470"]\n'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (MANAGED.replace("9470", "9471"), "device.manager"),
        (MANAGED.replace("10.0.0.1", "10.0.0.9"), "device.address"),
        (MANAGED + 'tunnel = "rewrite"\n', "device.tunnel"),
        (MANAGED + "probe_interval_ms = 100\n", "device.probe_interval_ms"),
        ("", "device"),
    ],
)
def test_what_managers_were_told_takes_a_restart(text, key):
    before = config_of(PORTS + MANAGED)
    with pytest.raises(StartError, match=f"^{key} changed, which takes a restart"):
        refuse_what_takes_a_restart(before, config_of(PORTS + text))
    refuse_what_takes_a_restart(before, config_of(PORTS + MANAGED + "strict_members = true\n"))


def test_peers_that_a_manager_named_are_reached_and_allowed_like_those_of_the_config():
    """D12: who is told as a peer is taken from; D8, R1: copies go to them by the route of the kernel."""
    config = config_of(PORTS + DEVICE + '[replicator]\naddress = "10.0.0.9"\n')
    told = ip_address("10.0.0.77"), ip_address("10.0.0.78")
    kernel = replace(KERNEL, hops=HOPS | {told[0]: NextHop("core", MAC)})
    reach = r.work_out(config, kernel, r.Told(frozenset(told[:1]), frozenset(told[1:]), ((7, 9),)))
    assert reach.layout.peers[-2:] == (Peer(Scope.DEVICE, told[0]), Peer(Scope.REPLICATOR, told[1]))
    assert (reach.hops[2, told[0]], reach.states[told[0]]) == (MAC, "up")
    assert (reach.hops[2, told[1]], reach.states[told[1]]) == (None, "no_route")
    assert reach.layout.point_vnis == ((7, 9),)
    assert r.peers(config, r.Told(frozenset(told))).keys() >= set(told)
    assert r.work_out(config, kernel).layout.peers == reach.layout.peers[:-2]


NVE_BOX = """
[[port]]
name = "vm"
faces = "vm"
network = "blue"
[[network]]
name = "blue"
vni = 100
group = "239.1.1.100"
igmp_to = ["10.0.0.79"]
[nve]
address = "10.0.0.1"
manager = ["127.0.0.1:9470"]
"""


def test_whom_managers_told_an_nve_of_are_reached_and_its_receivers_by_group():
    """Framework 3.2; N12: so are service nodes."""
    config = config_of(PORTS + NVE_BOX)
    near, far, service = (ip_address(f"10.0.0.{n}") for n in (77, 78, 79))
    links = {**LINKS, "vm": replace(LINKS["core"], name="vm")}
    kernel = View(links, HOPS | {near: NextHop("core", MAC), service: NextHop("core", MAC)})
    told = r.Told(nve=frozenset([near, far]), receivers={ip_address("239.1.1.100"): Receivers((near,))})
    reach = r.work_out(config, kernel, told)
    assert set(reach.layout.peers) == {Peer(Scope.NVE, one) for one in (near, far, service)}
    assert [reach.states[one] for one in (near, far, service)] == ["up", "no_route", "up"]
    assert [[e.address for e in one.remote] for one in reach.basis.overlay] == [[near]]
    assert r.peers(config, told).keys() >= {near, far, service}
    assert [one.remote for one in r.work_out(config, kernel).basis.overlay] == [()]


def test_who_managers_tell_an_nve_of_takes_a_restart():
    before = config_of(PORTS + NVE_BOX)
    other = config_of(PORTS + NVE_BOX.replace(":9470", ":9471") + "probe_multiplier = 9\n")
    with pytest.raises(
        StartError, match=r"^nve\.manager, nve\.probe_multiplier changed, which takes a restart"
    ):
        refuse_what_takes_a_restart(before, other)
    with pytest.raises(StartError, match=r"^nve\.address changed, which"):
        refuse_what_takes_a_restart(before, config_of(PORTS + NVE_BOX.replace('10.0.0.1"', '10.0.0.4"')))
    refuse_what_takes_a_restart(before, config_of(PORTS + NVE_BOX + "ageing_s = 9\n"))


def test_a_peer_that_a_manager_names_is_left_out_where_no_port_faces_the_core():
    """D8: `check` warns of such a config; what managers say must not stop it."""
    config = config_of(PORTS.replace('faces = "core"', 'faces = "nve"') + '[device]\naddress = "10.0.0.1"\n')
    reach = r.work_out(config, View(LINKS, {}), r.Told(frozenset([NEAR])))
    assert reach.hops == {}
    publisher = Publisher(Membership(), reach.basis)
    publisher.instruct(ip_address("239.1.1.100"), (NEAR,))
    assert publisher.update() == Step([], [])
