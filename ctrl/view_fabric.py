"""What managers and those that they tell show: rows of nodes and sessions, and what was told beside what is
sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from ipaddress import ip_address

from ctrl import planner
from ctrl.table import Row
from ctrl.topology.entry import Entry, Key
from ctrl.view import GroupView, SessionView, View
from fastpath.model import Encap, Form, GroupKey, IPAddress, KeyKind, Network, Scope

Tunnel = tuple[IPAddress, Form]
"""A peer, and in what form its copies are sent."""


def device_rows(view: View) -> Iterator[Row]:
    """One row a node that the manager knows, by name."""
    for one in sorted(view.devices, key=lambda one: one.node):
        yield {
            "node": one.node,
            "role": one.role,
            "address": str(one.address),
            "state": one.state,
            "manager": one.manager,
            "revision_told": one.revision_told,
            "revision_acked": one.revision_acked,
            "groups": one.n_groups,
            "last_s": _seconds(one.last_s),
        }


def managed_group_rows(view: View) -> Iterator[Row]:
    """One row a group that the manager knows, and behind it one each for what its tenants want."""
    for one in sorted(view.groups, key=_group):
        yield {
            "role": "manager",
            "group": str(one.group),
            "vni": [str(vni) for vni in one.vnis],
            "tenants": one.tenants,
            "local": list(one.points),
            "remote": [str(device) for device in one.devices],
            "via": "point" if one.points else "mesh",
            "revision": one.revision,
            "frames": None,
        }


def _group(one: GroupView) -> tuple[int, int, tuple[int, ...], str]:
    """The group itself first: it has all networks, and of tenants nothing."""
    if one.tenants is None:
        return one.group.version, int(one.group), (), ""
    return one.group.version, int(one.group), one.vnis, one.tenants


def managed_tunnel_rows(view: View) -> Iterator[Row]:
    """One row a node that the manager has others send to. It sends nothing itself."""
    for one in sorted(view.devices, key=lambda one: one.node):
        yield {
            "peer": str(one.address),
            "groups": 0,
            "told": one.n_groups,
            "tunnel": one.tunnel,
            "state": one.state,
            "copies": 0,
            "bytes": 0,
            "dropped": 0,
            "last_s": None,
        }


def session_rows(view: View) -> Iterator[Row]:
    """One row a session: those of this box with its managers, then those that it serves, by name."""
    yield from map(_session, view.own_sessions)
    yield from map(_session, sorted(view.sessions, key=lambda one: one.node))


def _session(one: SessionView) -> Row:
    return {
        "node": one.node,
        "role": one.role,
        "manager": one.manager,
        "state": "up" if one.is_up else "away",
        "since_s": _seconds(one.since_s),
        "last_s": _seconds(one.last_s),
        "revision": one.revision,
        "revision_acked": one.revision_acked,
        "pending": one.n_pending,
        "unwritten": one.n_unwritten,
        "refused": one.n_refused,
        "why": one.why,
    }


class Planners:
    """Who planned the copies to peers of each list: static, mesh or point."""

    def __init__(self, told: Mapping[Scope, Mapping[Key, Entry]], networks: Iterable[Network] = ()) -> None:
        self._told = told
        self._networks = {number: one for one in networks for number in planner.numbers(one)}

    def of(self, key: GroupKey) -> str:
        """Name who it was; a manager's word counts before the config's."""
        is_inner = key.kind <= KeyKind.INNER_GROUP
        group = self._outer(key) if is_inner or key.scope is Scope.NVE else key.group
        if group is None:
            return "point" if (key.encap, key.vni) in self._numbers else "static"
        entry = self._told.get(key.scope, {}).get(group.packed)
        return "static" if entry is None or not (entry.peers or entry.onward) else entry.via

    def _outer(self, key: GroupKey) -> IPAddress | None:
        """The outer group, whose receivers a list of an NVE has, and one of tenants some of."""
        network = self._networks.get((key.encap, key.vni))
        if key.kind is KeyKind.GROUP:
            return key.group
        if network is None:
            return None
        return network.group if key.group is None else planner.outer_group(network, key.group)

    @cached_property
    def _numbers(self) -> set[tuple[Encap, int]]:
        """Those by which a point that was told of their groups finds the list of a rewritten packet."""
        entries = self._told.get(Scope.REPLICATOR, {}).values()
        vnis = {(Encap.VXLAN, vni) for entry in entries for vni in entry.vnis}
        return vnis | {(Encap.NVGRE, vsid) for entry in entries for vsid in entry.vsids}


def tunnels_told(view: View) -> Counter[Tunnel]:
    """Every tunnel that managers named, with the number of groups; whether its peer answers or not."""
    device = view.config.device
    rewrites = device is not None and device.tunnel == "rewrite"
    found: Counter[Tunnel] = Counter()
    for scope, entries in view.told.items():
        is_rewritten = scope is Scope.NVE or (scope is Scope.DEVICE and rewrites)
        form = Form.REWRITE if is_rewritten else Form.NESTED
        # a thousand groups with the same peers have one tuple
        for peers, n in Counter(entry.peers + entry.onward for entry in entries.values()).items():
            for peer in peers:
                found[ip_address(peer), form] += n
    return found


def _seconds(age_s: float | None) -> float | None:
    return None if age_s is None else round(max(0.0, age_s), 3)
