"""What `fastpath show` shows of managers, of those that they tell, and of what was told."""

import json
from dataclasses import replace
from ipaddress import ip_address

from ctrl.config import parse
from ctrl.control.metrics import exposition
from ctrl.objects import OBJECTS
from ctrl.refusals import REFUSALS, fabric_counts
from ctrl.topology.entry import MESH, POINT, Entry
from ctrl.view import NOTHING_COUNTED, GroupView, ManagerView, PointStateView, Recent, SessionView, View
from ctrl.view_rows import ROWS
from fastpath.model import Encap, Layout, Network, ReplicationList, Scope, vni_key
from tests.unit.viewed import DEVICES, GROUP, PEERS, SERVED, config, view

FAR = ip_address("10.0.0.9")
OWN = SessionView("tor1", "device", "m1", True, 12.3456, 0.5, 33, 33, 2, None, 3, 77.5)
AWAY = SessionView("tor1.point", "replicator", None, False, 4.0, why="10.0.0.100:9470: no answer in time")
BY_MESH = Entry(GROUP.packed, MESH, tuple(peer.packed for peer in PEERS[:2]))
BY_POINT = Entry(ip_address("239.1.1.9").packed, POINT, (FAR.packed,), backup=(PEERS[0].packed,))


def rows(name, **changes):
    return list(ROWS[name](view(**changes)))


# --- nodes and sessions -------------------------------------------------------------------------------------


def test_a_manager_shows_each_node_with_what_it_was_told_and_acknowledged():
    point, tor3, tor9 = rows("devices", devices=DEVICES)
    assert tor3 == {
        "node": "tor3",
        "role": "device",
        "address": "10.0.0.3",
        "state": "live",
        "manager": "m1",
        "revision_told": 72,
        "revision_acked": 71,
        "groups": 7,
        "last_s": 1.25,
    }
    assert (point["node"], point["role"]) == ("point1", "replicator")
    assert (tor9["state"], tor9["address"]) == ("held", "2001:db8::9")
    assert [tor9[key] for key in ("manager", "revision_told", "revision_acked", "last_s")] == [None] * 4


def test_sessions_are_those_with_our_managers_and_those_that_we_serve():
    own, away, point, tor3 = rows("sessions", own_sessions=(OWN, AWAY))
    assert own == {
        "node": "tor1",
        "role": "device",
        "manager": "m1",
        "state": "up",
        "since_s": 12.346,
        "last_s": 0.5,
        "revision": 33,
        "revision_acked": 33,
        "pending": 2,
        "unwritten": None,
        "refused": 3,
        "why": None,
    }
    assert away["why"] == "10.0.0.100:9470: no answer in time"
    assert (away["node"], away["state"], away["manager"], away["last_s"]) == (
        "tor1.point",
        "away",
        None,
        None,
    )
    assert (point["node"], tor3["pending"], tor3["unwritten"], tor3["refused"]) == ("point1", 5, 6, None)


def test_the_keys_are_those_of_the_design():
    for name, keys in {
        "devices": "node role address state revision_told revision_acked groups",
        "sessions": "manager state since_s revision",
        "tunnels": "peer groups tunnel state copies bytes last_s",
    }.items():
        assert set(keys.split()) <= set(OBJECTS[name].keys)


def test_status_names_the_manager_in_charge_while_there_is_one():
    assert rows("status", own_sessions=(AWAY, OWN))[0]["manager"] == "m1"
    assert rows("status", own_sessions=(replace(OWN, is_up=False), AWAY))[0]["manager"] is None


# --- what was told ------------------------------------------------------------------------------------------


def via(**changes):
    return {(row["role"], row["group"]): row["via"] for row in rows("groups", **changes)}


def test_a_list_says_who_planned_it():
    told = {Scope.DEVICE: {BY_MESH.key: BY_MESH, BY_POINT.key: BY_POINT}}
    found = via(told=told)
    assert found["device", "239.1.1.100"] == "mesh"
    assert found["device", "239.1.1.9"] == "point"
    assert found["replicator", "vxlan 100"] == "static"
    assert set(via().values()) == {"static"}


def test_m4_a_group_whose_only_device_we_are_is_not_planned_by_the_manager():
    alone = {Scope.DEVICE: {BY_MESH.key: BY_MESH._replace(peers=())}}
    assert via(told=alone)["device", "239.1.1.100"] == "static"


def test_m13_the_list_of_a_rewritten_packet_is_its_groups():
    lists = view().lists
    assert vni_key(Scope.REPLICATOR, Encap.VXLAN, 100) in lists
    for told, planner in (
        (BY_POINT._replace(vnis=(100, 7)), "point"),
        (BY_POINT._replace(vnis=(7,), vsids=(100,)), "static"),
    ):
        assert via(told={Scope.REPLICATOR: {told.key: told}})["replicator", "vxlan 100"] == planner


def tunnels_of(**changes):
    return {(row["peer"], row["tunnel"]): row for row in rows("tunnels", **changes)}


def test_a_list_of_tenants_goes_to_some_of_those_of_their_network():
    """As whoever planned the list that it narrows; with the group in a column of its own."""
    told = {Scope.DEVICE: {BY_MESH.key: BY_MESH}}
    keys = [vni_key(Scope.DEVICE, Encap.VXLAN, 100, ip_address(a)) for a in ("225.5.5.5", "0.0.0.0")]
    lists = {key: ReplicationList(key) for key in keys}
    found = rows("groups", told=told, lists=lists)
    assert [(row["group"], row["tenants"], row["via"]) for row in found] == [
        ("vxlan 100 225.5.5.5", "225.5.5.5", "mesh"),
        ("vxlan 100 any", "any", "mesh"),
    ]


def test_what_tenants_want_stands_behind_the_group_of_their_network():
    """The manager's own: who wants it."""
    wanting = [
        GroupView(GROUP, (PEERS[1],), (), (200,), 12, "239.5.5.5"),
        GroupView(GROUP, tuple(PEERS[:2]), ("point1",), (100, 200), 20),
        GroupView(GROUP, (PEERS[0],), (), (100,), 13, "any"),
    ]
    found = [row for row in rows("groups", groups=wanting) if row["role"] == "manager"]
    assert [(row["group"], row["vni"], row["tenants"], row["remote"]) for row in found] == [
        ("239.1.1.100", ["100", "200"], None, ["10.0.0.2", "10.0.0.3"]),
        ("239.1.1.100", ["100"], "any", ["10.0.0.2"]),
        ("239.1.1.100", ["200"], "239.5.5.5", ["10.0.0.3"]),
    ]


def test_a_tunnel_says_for_how_many_groups_a_manager_named_it():
    other = BY_MESH._replace(key=ip_address("239.1.1.9").packed)
    found = tunnels_of(told={Scope.DEVICE: {BY_MESH.key: BY_MESH, other.key: other}})
    assert (found["10.0.0.2", "nested"]["groups"], found["10.0.0.2", "nested"]["told"]) == (1, 2)
    assert (found["10.0.0.3", "nested"]["groups"], found["10.0.0.3", "nested"]["told"]) == (2, 2)
    assert found["10.0.0.3", "rewrite"]["told"] == 0


def test_an_nve_s_lists_by_number_and_its_tunnels_are_those_of_the_groups_that_it_was_told_of():
    """Framework 3.2."""
    keys = [vni_key(Scope.NVE, Encap.VXLAN, vni) for vni in (100, 7)]
    lists = {key: ReplicationList(key, (), ()) for key in keys}
    layout = replace(view().layout, networks=(Network("blue", 100, None, group=GROUP),))
    found = via(told={Scope.NVE: {BY_MESH.key: BY_MESH}}, lists=lists, layout=layout)
    assert found == {("nve", "vxlan 100"): "mesh", ("nve", "vxlan 7"): "static"}
    told = tunnels_of(told={Scope.NVE: {BY_MESH.key: BY_MESH}}, lists={})
    assert {tunnel: row["told"] for tunnel, row in told.items()} == {
        ("10.0.0.2", "rewrite"): 1,
        ("10.0.0.3", "rewrite"): 1,
    }


def test_a_point_that_does_not_answer_is_unreached_though_no_list_uses_it():
    """The device sends to its backup meanwhile: only what was told still names the point."""
    told = {Scope.DEVICE: {BY_POINT.key: BY_POINT}}
    points = (PointStateView(FAR, is_up=False), PointStateView(PEERS[0], is_up=True))
    found = tunnels_of(told=told, points=points, hops={FAR: "up", PEERS[0]: "up"})
    assert found["10.0.0.9", "nested"] == {
        "peer": "10.0.0.9",
        "groups": 0,
        "told": 1,
        "tunnel": "nested",
        "state": "unreached",
        "copies": 0,
        "bytes": 0,
        "dropped": 0,
        "last_s": None,
    }
    assert found["10.0.0.2", "nested"]["state"] == "up"
    up = (PointStateView(FAR, is_up=True),)
    assert tunnels_of(told=told, points=up, hops={FAR: "up"})["10.0.0.9", "nested"]["state"] == "up"
    assert tunnels_of(told=told, points=up, hops={})["10.0.0.9", "nested"]["state"] == "no_route"


def test_points_that_copy_on_to_each_other_are_told_of_each_other():
    """F 3.5"""
    tree = Entry(GROUP.packed, POINT, (PEERS[0].packed,), onward=(FAR.packed,))
    found = tunnels_of(told={Scope.REPLICATOR: {tree.key: tree}})
    assert found["10.0.0.9", "nested"]["told"] == found["10.0.0.2", "nested"]["told"] == 1


# --- a manager that forwards nothing ------------------------------------------------------------------------

ALONE = View(
    pid=77,
    config=config('node = "m1"\n[manager]\n'),
    started_s=0.0,
    now_s=5.0,
    revision=0,
    layout=Layout(()),
    lists={},
    statistics=NOTHING_COUNTED,
    ports=(),
    manager=ManagerView(
        revision=99,
        n_groups=11,
        n_tenants=5,
        is_settling=True,
        n_batches=321,
        convergence=((0.1, 3), (1.0, 2), (float("inf"), 1)),
        convergence_sum_s=7.5,
    ),
    devices=DEVICES,
    sessions=SERVED,
    recent=Recent({}, {}, {}),
    refused={"manager_groups_full": 6},
)


def test_a_box_that_is_a_manager_alone_shows_zeros_where_nothing_is_forwarded():
    (status,) = ROWS["status"](ALONE)
    assert (status["roles"], status["received"], status["uptime_s"]) == (["manager"], 0, 5.0)
    for name in OBJECTS:
        json.dumps(list(ROWS[name](ALONE)))
    (drop,) = ROWS["drops"](ALONE)
    assert (drop["reason"], drop["unit"], drop["frames"]) == ("manager_groups_full", "group", 6)


def lines_of(one):
    return set(exposition(one).decode().splitlines())


def test_the_metrics_of_a_manager_count_nodes_and_what_they_lag():
    assert lines_of(ALONE) >= {
        'fastpath_node_info{node="m1",roles="manager"} 1.0',
        'fastpath_manager_nodes{role="device",state="live"} 1.0',
        'fastpath_manager_nodes{role="device",state="held"} 1.0',
        'fastpath_manager_nodes{role="replicator",state="live"} 1.0',
        "fastpath_manager_sessions 2.0",
        "fastpath_manager_groups 11.0",
        "fastpath_manager_tenants 5.0",
        "fastpath_manager_store_revision 99.0",
        "fastpath_manager_store_reachable 1.0",
        "fastpath_manager_settling 1.0",
        "fastpath_manager_nodes_behind 1.0",
        "fastpath_manager_lag_keys 5.0",
        "fastpath_manager_unwritten_groups 6.0",
        "fastpath_manager_instructions_total 321.0",
        'fastpath_group_drops_total{reason="manager_groups_full",stage="manager"} 6.0',
    }
    assert not any(line.startswith("fastpath_tunnel_up{") for line in lines_of(ALONE)), "it sends nothing"


def test_the_convergence_time_is_a_histogram():
    assert lines_of(ALONE) >= {
        "# TYPE fastpath_manager_convergence_seconds histogram",
        'fastpath_manager_convergence_seconds_bucket{le="0.1"} 3.0',
        'fastpath_manager_convergence_seconds_bucket{le="1.0"} 5.0',
        'fastpath_manager_convergence_seconds_bucket{le="+Inf"} 6.0',
        "fastpath_manager_convergence_seconds_count 6.0",
        "fastpath_manager_convergence_seconds_sum 7.5",
    }


def test_the_metrics_of_a_node_say_who_is_in_charge_and_how_old_its_instructions_are():
    told = {Scope.DEVICE: {BY_MESH.key: BY_MESH, BY_POINT.key: BY_POINT}}
    points = (PointStateView(FAR, is_up=False), PointStateView(PEERS[0], is_up=True))
    found = lines_of(view(own_sessions=(replace(OWN, n_tenants=6), AWAY), told=told, points=points))
    assert found >= {
        'fastpath_session_up{role="device"} 1.0',
        'fastpath_session_up{role="replicator"} 0.0',
        'fastpath_session_since_seconds{role="device"} 12.3456',
        'fastpath_instructions_revision{role="device"} 33.0',
        'fastpath_instructions_age_seconds{role="device"} 77.5',
        'fastpath_instructions_pending{role="device"} 2.0',
        'fastpath_instructions_refused{role="device"} 3.0',
        'fastpath_instructed_tenants{role="device"} 6.0',
        'fastpath_instructed_groups{role="device",via="mesh"} 1.0',
        'fastpath_instructed_groups{role="device",via="point"} 1.0',
        'fastpath_point_up{point="10.0.0.9"} 0.0',
        'fastpath_point_up{point="10.0.0.2"} 1.0',
    }
    assert not any(line.startswith("fastpath_manager_") for line in found)
    assert not any("age_seconds" in line and "replicator" in line for line in found)


def test_a_box_without_managers_has_none_of_these_metrics():
    assert not any(
        "session_up" in line or "_manager_" in line or "instruct" in line.split("{")[0]
        for line in lines_of(view())
        if not line.startswith("#") and "_drops_total" not in line
    )


# --- refusals -----------------------------------------------------------------------------------------------


def test_whatever_is_refused_has_a_name_and_a_sentence():
    assert all(name.islower() and row.sentence.endswith(".") for name, row in REFUSALS.items())


def test_refusals_are_counted_by_who_refused():
    counts = fabric_counts(
        {"groups_full": 2, "not_a_group": 0},
        [{"peer_twice": 3}, {"peer_twice": 4, "peers_full": 1}],
        [{"heard": 1000, "sent": 1000, "too_far": 5}],
    )
    assert counts == {
        "manager_groups_full": 2,
        "manager_not_a_group": 0,
        "instruction_peer_twice": 7,
        "instruction_peers_full": 1,
        "probe_too_far": 5,
    }
    found = {row["reason"]: row["unit"] for row in rows("drops", refused=counts)}
    assert found["manager_groups_full"] == "group"
    assert (found["instruction_peer_twice"], found["probe_too_far"]) == ("instruction", "probe")
    assert "manager_not_a_group" not in found


def test_the_password_of_the_store_is_not_in_show_config():
    reading = parse('[manager]\nstore = "etcd://me:secret@h1"\n')
    assert reading.config
    assert "secret" not in json.dumps(rows("config", config=reading.config))
