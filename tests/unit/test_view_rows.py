"""What `fastpath show` shows of a view."""

import json
import re
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from ctrl.objects import OBJECTS, schema
from ctrl.refusals import REFUSALS
from ctrl.table import table
from ctrl.view_rows import ROWS
from ctrl.view_rows import matching as matching_rows
from fastpath.model import Encap, Owner, Scope, group_key, vni_key
from fastpath.reasons import REASON_NAMES, REASONS
from fastpath.statistics import EgressCount
from tests.unit.viewed import DEVICES, GROUP, GROUPS, LIST, MACS, MEMBERS, PEERS, TEXT, config, view


def rows(name, **changes):
    return list(ROWS[name](view(**changes)))


def matching(shown, filters):
    return list(matching_rows(shown, filters))


def test_every_object_has_rows():
    assert list(ROWS) == list(OBJECTS)
    for name in OBJECTS:
        assert rows(name, devices=DEVICES, macs=MACS), name


@pytest.mark.parametrize("name", list(OBJECTS))
def test_rows_have_the_keys_of_the_published_schema_in_its_order_and_their_types(name):
    item = schema()["$defs"][name]["items"]
    types: dict[str, Any] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "array": list,
        "boolean": bool,
    }
    for row in json.loads(json.dumps(rows(name, devices=DEVICES, groups=GROUPS, macs=MACS))):
        assert list(row) == item["required"] == list(item["properties"])
        for key, value in row.items():
            kinds = item["properties"][key]["type"]
            kinds = [kinds] if isinstance(kinds, str) else kinds
            if value is None:
                assert "null" in kinds, (key, row)
                continue
            assert any(
                isinstance(value, types[kind]) and (kind == "boolean" or not isinstance(value, bool))
                for kind in kinds
                if kind != "null"
            ), (key, row)
            assert not isinstance(value, list) or all(isinstance(part, str) for part in value), (key, row)


def test_the_keys_are_those_of_the_design():
    """DESIGN.md, Command: users hold on to them."""
    wanted = {
        "status": "node roles uptime_s received replicated punted dropped copies_out fib manager",
        "ports": "name device kind faces state mtu transmit why received copies_out",
        "groups": "group vni local remote via revision",
        "members": "node port nve vni group mode sources blocked origin expires_s",
        "tunnels": "peer groups tunnel state copies bytes last_s",
        "drops": "reason unit stage frames rate_pps last",
        "runtime": "worker stage frames ns_per_frame frames_per_burst copies_per_train clones_per_send",
    }
    for name, keys in wanted.items():
        assert set(keys.split()) <= set(OBJECTS[name].keys)
    assert all(re.fullmatch("[a-z][a-z_]*", key) for shown in OBJECTS.values() for key in shown.keys)


def test_status_is_one_row_whose_sum_holds():
    (row,) = rows("status")
    assert row == {
        "node": "tor1",
        "roles": ["device", "replicator"],
        "pid": 4321,
        "uptime_s": 90.5,
        "received": 1011,
        "replicated": 900,
        "punted": 11,
        "dropped": 100,
        "copies_out": 12345,
        "unknown_unicast": 613,
        "fib": 42,
        "manager": None,
    }
    assert row["received"] == row["replicated"] + row["punted"] + row["dropped"]


def test_a_port_shows_how_it_transmits_and_what_its_ring_lost():
    row = rows("ports")[0]
    assert (row["name"], row["device"], row["transmit"], row["ring_lost"]) == ("p1", "eth3", "trains", 99)
    assert rows("ports")[1]["faces"] == ["nve", "core"]


def test_a_network_shows_all_its_groups():
    blue, red = rows("networks")
    assert blue == {
        "name": "blue",
        "vni": 100,
        "vsid": 5000,
        "encap": "vxlan",
        "groups": ["239.1.1.100", "239.1.1.7"],
        "ports": [],
        "snoop": False,
        "unregistered": "flood",
        "igmp_to": [],
        "routers": [],
    }
    assert (red["vsid"], red["groups"]) == (None, [])


def test_a_network_shows_what_becomes_of_its_tenants_groups_and_where_their_routers_are():
    text = TEXT.replace("vni = 7\n", 'vni = 7\nsnoop = true\nunregistered = "drop"\n')
    blue, red = rows("networks", config=config(text), routers={"red": ("core/10.0.0.77", "overlay")})
    assert (blue["snoop"], blue["routers"]) == (False, [])
    assert (red["snoop"], red["unregistered"]) == (True, "drop")
    assert red["routers"] == ["core/10.0.0.77", "overlay"]


def test_a_group_shows_who_gets_its_copies():
    by_group = {(row["role"], row["group"]): row for row in rows("groups")}
    assert by_group["device", "239.1.1.100"] == {
        "role": "device",
        "group": "239.1.1.100",
        "vni": ["100"],
        "tenants": None,
        "local": ["core/10.0.0.77", "p1"],
        "remote": ["10.0.0.2", "10.0.0.3"],
        "via": "static",
        "revision": 42,
        "frames": 888,
    }
    assert by_group["device", "239.1.1.9"]["vni"] == []
    assert by_group["device", "239.1.1.9"]["frames"] is None


def test_a_list_of_a_source_shows_it_beside_the_list_of_its_group():
    wanted = view().lists[LIST]
    both = {key: replace(wanted, key=key) for key in (LIST, group_key(Scope.DEVICE, GROUP, PEERS[0]))}
    shown = [(row["group"], row["vni"]) for row in rows("groups", lists=both)]
    assert shown == [("239.1.1.100", ["100"]), ("(10.0.0.2, 239.1.1.100)", ["100"])]


def test_members_are_shown_by_port_group_and_nve_whoever_says_that_they_are():
    """W8: each by the MAC and the source of its reports."""
    shown = [(row["port"], row["group"], row["nve"], row["mac"], row["origin"]) for row in rows("members")]
    assert shown == [
        ("core", "239.1.1.100", "10.0.0.77", None, "static"),
        ("p1", "239.1.1.100", None, None, "static"),
        ("p1", "239.1.1.100", "10.1.1.5", "02:00:00:00:01:05", "igmp"),
        ("p1", "ff05::64", "fe80::5", "02:00:00:00:01:05", "mld"),
    ]


def test_a_member_shows_what_it_wants_and_until_when():
    _, static, joined, picky = rows("members")
    assert joined == {
        "node": "tor1",
        "port": "p1",
        "nve": "10.1.1.5",
        "mac": "02:00:00:00:01:05",
        "network": None,
        "vni": ["100"],
        "group": "239.1.1.100",
        "mode": "exclude",
        "sources": ["10.9.0.3"],
        "blocked": ["10.9.0.2", "10.9.0.10"],
        "origin": "igmp",
        "expires_s": 259.25,
    }
    assert (picky["mode"], picky["sources"], picky["blocked"]) == (
        "include",
        ["2001:db8::1", "2001:db8::9"],
        [],
    )
    assert (picky["vni"], picky["expires_s"]) == ([], 17.0)
    assert (static["mode"], static["expires_s"]) == ("exclude", None)


def test_many_members_are_in_the_same_order():
    """They are sorted in parts."""
    many = [
        replace(
            MEMBERS[2],
            group=ip_address(0xEF000000 + (i * 7919) % 4507),
            nve=ip_address(0x0A001000 - (i * 7919) % 4507),
        )
        for i in range(4507)
    ]
    shown = rows("members", members=many * 2)
    groups = [int(ip_address(row["group"])) for row in shown]
    assert groups == sorted(groups)
    first, second = shown[:2]
    assert first == second
    assert len(shown) == 9014


def test_a_list_by_number_shows_the_vni_and_not_the_vsid_of_its_network():
    found = {row["group"]: row for row in rows("groups") if row["role"] == "replicator"}
    assert found["vxlan 100"]["vni"] == ["100"]
    assert found["nvgre 5000"]["vni"] == ["100"]
    assert found["nvgre 5000"]["remote"] == ["10.0.0.3", "10.0.0.4"]
    wanted = next(iter(view().lists.values()))
    numbers = {
        key: replace(wanted, key=key)
        for key in (vni_key(Scope.REPLICATOR, Encap.VXLAN, 9), vni_key(Scope.REPLICATOR, Encap.NVGRE, 9999))
    }
    assert [row["vni"] for row in rows("groups", lists=numbers)] == [["9"], []]


def test_a_tunnel_is_a_peer_and_a_form_and_counts_its_lists_and_copies():
    found = {(row["peer"], row["tunnel"]): row for row in rows("tunnels")}
    assert found["10.0.0.2", "nested"] == {
        "peer": "10.0.0.2",
        "groups": 1,
        "told": 0,
        "tunnel": "nested",
        "state": "up",
        "copies": 4001,
        "bytes": 400111,
        "dropped": 3,
        "last_s": 2.25,
    }
    assert found["10.0.0.3", "nested"]["groups"] == 2
    assert found["10.0.0.3", "nested"]["copies"] == 5002
    assert found["10.0.0.3", "rewrite"]["copies"] == 603
    assert found["10.0.0.4", "rewrite"]["copies"] == 0
    assert found["10.0.0.4", "rewrite"]["last_s"] is None


def test_an_nve_served_by_unicast_is_no_tunnel():
    assert "10.0.0.77" not in {row["peer"] for row in rows("tunnels")}


def test_copies_to_an_nve_behind_a_port_are_not_those_of_a_tunnel_to_the_same_address():
    whole = view()
    nve = replace(whole.lists[LIST].local[1], owner=Owner(1, PEERS[2]), address=PEERS[2])
    statistics = replace(whole.statistics, egresses=(EgressCount(nve, 8, 800, 0),))
    assert {row["copies"] for row in rows("tunnels", statistics=statistics)} == {0}


def test_a_tunnel_is_as_its_next_hop_and_where_that_is_fixed_as_its_port():
    states = {row["peer"]: row["state"] for row in rows("tunnels")}
    assert states == {"10.0.0.2": "up", "10.0.0.3": "no_neighbour", "10.0.0.4": "down"}
    ports = tuple(replace(port, state="up") for port in view().ports)
    assert {row["state"] for row in rows("tunnels", ports=ports, hops={})} == {"up"}


def test_a_drop_shows_its_unit_its_rate_and_when_it_struck_last():
    found = {row["reason"]: row for row in rows("drops")}
    first = found[REASONS[1].name]
    assert first == {
        "reason": REASONS[1].name,
        "unit": "frame",
        "stage": REASONS[1].stage,
        "frames": 8,
        "rate_pps": 12.346,
        "last": "2025-12-22T04:58:02Z",
    }
    assert found["ring_full"]["unit"] == "ring"
    assert found["ring_full"]["frames"] == 99
    assert (found["ring_full"]["rate_pps"], found["ring_full"]["last"]) == (0.0, None)


def test_what_control_refused_of_the_punted_is_among_the_drops():
    found = {row["reason"]: row for row in rows("drops")}
    assert found["groups_full"] == {
        "reason": "groups_full",
        "unit": "record",
        "stage": "membership",
        "frames": 1234,
        "rate_pps": 7.5,
        "last": "2025-12-22T04:58:02Z",
    }
    assert [found[name]["unit"] for name in ("zero_mac", "sources_full")] == ["message", "source"]
    assert "not_a_group" not in found
    assert sum(row["frames"] for row in rows("drops", refused={})) == sum(
        row.count for row in view().statistics.drops
    )


def test_no_refusal_is_called_like_a_drop_reason():
    """They share a table, and their rates."""
    assert not set(REASON_NAMES) & set(REFUSALS)


def test_runtime_divides_by_what_there_was_and_not_by_zero():
    first, second, idle = rows("runtime")
    assert first == {
        "worker": 0,
        "cpu": 3,
        "stage": "receive",
        "frames": 1001,
        "ns_per_frame": 9.0,
        "frames_per_burst": 5.005,
        "copies_per_train": 200.0,
        "clone_sends": 40,
        "clones_per_send": 49.75,
    }
    assert (second["stage"], second["ns_per_frame"]) == ("x", 1.0)
    without = ("cpu", "ns_per_frame", "frames_per_burst", "copies_per_train", "clones_per_send")
    assert [idle[key] for key in without] == [None] * 5
    assert idle["clone_sends"] == 0


def test_config_shows_every_key_in_force_and_where_it_is_from():
    found = {(row["table"], row["key"]): (row["value"], row["origin"]) for row in rows("config")}
    assert found["", "node"] == ("tor1", "file")
    assert found["control", "socket"] == ("/run/fastpath/tor1.sock", "default")
    assert found["control", "http"] == ("127.0.0.1:9473", "default")
    assert found["dataplane", "cpus"] == (["3", "1"], "file")
    assert found["dataplane", "trains"] == (True, "default")
    assert found["port[1]", "mac"] == ("02:00:00:00:00:0a", "file")
    assert found["port[1]", "address"] == (["10.0.0.1/24"], "file")
    assert found["port[1]", "faces"] == (["nve", "core"], "file")
    assert found["network[0].map[0]", "inner"] == ("239.0.0.0/8", "file")
    assert found["replicator", "vnis"] == (["100-199", "300"], "file")
    assert found["replicator.list[0].addresses[1]", "address"] == ("10.0.0.4", "file")
    assert ("", "device") not in found
    assert ("", "port") not in found
    assert not any(table.startswith("device") for table, _ in found_in('node = "a"\n'))


def found_in(text):
    return [(row["table"], row["key"]) for row in rows("config", config=config(text))]


def test_a_filter_keeps_what_has_the_value_and_several_keep_what_has_all():
    tunnels = rows("tunnels")
    assert [row["tunnel"] for row in matching(tunnels, [("peer", "10.0.0.3")])] == ["nested", "rewrite"]
    assert len(matching(tunnels, [("peer", "10.0.0.3"), ("tunnel", "nested")])) == 1
    assert len(matching(tunnels, [("last_s", "-")])) == 3
    assert matching(tunnels, [("peer", "10.0.0")]) == []
    groups = rows("groups")
    assert len(matching(groups, [("remote", "10.0.0.2")])) == 1
    assert [row["group"] for row in matching(groups, [("local", "-"), ("vni", "-")])] == ["239.1.1.9"]
    assert {row["key"] for row in matching(rows("config"), [("value", "true")])} >= {"trains"}
    assert matching(rows("config"), [("value", "True")]) == []
    assert len(matching(rows("status"), [("received", "1011")])) == 1


def test_a_table_has_a_line_a_row_and_no_cell_is_empty():
    for name, shown in OBJECTS.items():
        lines = list(table(rows(name), {key: key for key in shown.keys}))
        assert len(lines) == 1 + len(rows(name))
    row = {"a": [], "b": ["x", "y"], "c": True, "d": 1234567, "e": ""}
    _, line = table([row], dict.fromkeys(row, ""))
    assert line.split() == ["-", "x,y", "true", "1,234,567", "-"]
    _, line = table([row], dict.fromkeys(row, ""), grouped=False)
    assert line.split() == ["-", "x,y", "true", "1234567", "-"]
