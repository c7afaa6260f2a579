"""What an NVE shows: its networks, lists and groups, its stations, and what is counted of them."""

from dataclasses import replace
from ipaddress import ip_address

from prometheus_client.parser import text_string_to_metric_families

from ctrl.config import parse
from ctrl.control.metrics import exposition
from ctrl.static import plan
from ctrl.view import NOTHING_COUNTED, JoinedView, NveView, View
from ctrl.view_rows import ROWS
from fastpath.model import Egress, Encap, Form, Owner
from fastpath.statistics import EgressCount
from tests.unit.viewed import MACS

TEXT = """
node = "host1"
[[network]]
name = "blue"
vni = 100
vsid = 5000
group = "239.1.1.100"
[[network]]
name = "red"
vni = 200
vsid = 5200
group = "239.1.1.100"
[[port]]
name = "up"
faces = "core"
[[port]]
name = "vm1"
kind = "tap"
faces = "vm"
network = "blue"
[[port]]
name = "vm2"
kind = "tap"
faces = "vm"
network = "red"
[nve]
address = "10.0.0.1"
"""
FAR, GROUP = ip_address("10.0.0.9"), ip_address("239.1.1.100")
NVE = NveView(
    macs={"blue": 2, "red": 1},
    learned=11,
    moved=7,
    aged=5,
    vteps=((FAR, 0),),
    joined=(JoinedView(GROUP, ("blue", "red")),),
)


def view(**changes):
    read = parse(TEXT, "nve.toml")
    assert read.config, read.findings
    planned = plan(read.config)
    whole = View(
        pid=77,
        config=read.config,
        started_s=0.0,
        now_s=9.0,
        revision=4,
        layout=planned.layout,
        lists={one.key: one for one in planned.lists},
        statistics=NOTHING_COUNTED,
        ports=(),
        nve=NVE,
        macs=MACS,
    )
    return replace(whole, **changes)


def rows(name, **changes):
    return list(ROWS[name](view(**changes)))


def test_the_status_names_the_role():
    assert rows("status")[0]["roles"] == ["nve"]


def test_a_network_shows_the_ports_of_its_vms():
    assert [(row["name"], row["ports"]) for row in rows("networks")] == [("blue", ["vm1"]), ("red", ["vm2"])]


def test_a_network_shows_the_service_nodes_that_hear_its_vms():
    text = TEXT.replace("vni = 200\n", 'vni = 200\nigmp_to = ["10.0.0.200", "10.0.0.9"]\n')
    config = parse(text, "nve.toml").config
    assert [row["igmp_to"] for row in rows("networks", config=config)] == [[], ["10.0.0.200", "10.0.0.9"]]


def test_a_list_of_a_network_goes_to_its_vms_and_in_one_copy_to_its_group():
    """N2."""
    lists = [row for row in rows("groups") if row["via"] == "static"]
    assert [(row["role"], row["group"], row["local"], row["remote"]) for row in lists] == [
        ("nve", "vxlan 100", ["vm1"], ["239.1.1.100"]),
        ("nve", "nvgre 5000", ["vm1"], ["239.1.1.100"]),
        ("nve", "vxlan 200", ["vm2"], ["239.1.1.100"]),
        ("nve", "nvgre 5200", ["vm2"], ["239.1.1.100"]),
    ]
    assert [row["vni"] for row in lists] == [["100"], ["100"], ["200"], ["200"]]


def test_a_group_that_the_nve_is_in_shows_whose_vms_need_it():
    joined = [row for row in rows("groups") if row["via"] == "joined"]
    assert joined == [
        {
            "role": "nve",
            "group": "239.1.1.100",
            "vni": ["100", "200"],
            "tenants": None,
            "local": ["vm1", "vm2"],
            "remote": [],
            "via": "joined",
            "revision": 4,
            "frames": None,
        }
    ]
    one_up = replace(view().layout, ports=[replace(p, is_up=p.name != "vm1") for p in view().layout.ports])
    assert [row["local"] for row in rows("groups", layout=one_up) if row["via"] == "joined"] == [["vm2"]]
    only = NveView(joined=(JoinedView(GROUP, ("red",)),))
    (row,) = [row for row in rows("groups", nve=only) if row["via"] == "joined"]
    assert (row["vni"], row["local"]) == (["200"], ["vm2"])


def test_a_group_is_no_peer_of_an_nve_and_a_vtep_with_stations_is():
    egress = Egress(0, Form.REWRITE, Owner(address=FAR), FAR, ip_address("10.0.0.1"), Encap.VXLAN)
    to_group = next(iter(view().lists.values())).remote[0]
    counted = (EgressCount(to_group, 3, 300, 0), EgressCount(egress, 17, 1700, 2))
    statistics = replace(NOTHING_COUNTED, egresses=counted)
    (row,) = rows("tunnels", statistics=statistics, hops={FAR: "up"})
    assert row == {
        "peer": "10.0.0.9",
        "groups": 0,
        "told": 0,
        "tunnel": "rewrite",
        "state": "up",
        "copies": 17,
        "bytes": 1700,
        "dropped": 2,
        "last_s": None,
    }


def test_a_vtep_that_waits_is_a_tunnel_that_says_why():
    late, lost = ip_address("10.0.0.7"), ip_address("10.9.9.9")
    waiting = replace(NVE, waiting=(late, lost))
    shown = rows("tunnels", nve=waiting, hops={FAR: "up", late: "no_neighbour"})
    assert [(row["peer"], row["tunnel"], row["state"], row["told"]) for row in shown] == [
        ("10.0.0.9", "rewrite", "up", 0),
        ("10.0.0.7", "rewrite", "no_neighbour", 0),
        ("10.9.9.9", "rewrite", "no_route", 0),
    ]


def test_what_is_flooded_as_nobody_knows_its_station_is_counted_for_all_to_see():
    statistics = replace(NOTHING_COUNTED, unknown_unicast=613)
    assert rows("status", statistics=statistics)[0]["unknown_unicast"] == 613
    metric = b"\nfastpath_unknown_unicast_frames_total 613.0\n"
    assert metric in exposition(view(statistics=statistics))
    assert b"unknown_unicast_frames" not in exposition(view(statistics=statistics, nve=None))


def test_stations_are_shown_by_network_and_mac_with_where_they_are():
    assert rows("macs") == [
        {
            "vni": 100,
            "network": "blue",
            "mac": "02:00:00:00:07:01",
            "port": None,
            "vtep": "2001:db8::7",
            "origin": "learned",
            "age_s": 0.5,
        },
        {
            "vni": 100,
            "network": "blue",
            "mac": "02:00:00:00:07:02",
            "port": "vm1",
            "vtep": None,
            "origin": "learned",
            "age_s": 12.0,
        },
        {
            "vni": 200,
            "network": "red",
            "mac": "02:00:00:00:09:01",
            "port": None,
            "vtep": "10.0.0.9",
            "origin": "static",
            "age_s": None,
        },
    ]


def test_metrics_count_stations_by_network_and_vteps_and_no_row_is_one_of_them():
    text = exposition(view(refused={"mac_port_full": 13})).decode()
    samples = {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    assert samples["fastpath_macs", "blue"] == 2
    assert samples["fastpath_macs", "red"] == 1
    assert samples["fastpath_macs_learned_total",] == 11
    assert samples["fastpath_macs_moved_total",] == 7
    assert samples["fastpath_macs_aged_total",] == 5
    assert samples["fastpath_vteps",] == 1
    assert samples["fastpath_nve_joined_groups",] == 1
    assert samples["fastpath_record_drops_total", "mac_port_full", "learn"] == 13
    assert "02:00:00:00:07" not in text
    assert str(FAR) not in text, "who makes up VTEPs makes no series"
    assert "fastpath_macs" not in exposition(view(nve=None)).decode()
