"""The rows of `fastpath show`, each object made from a `View`; `ctrl.objects` says what their keys hold.

Of lists and members there may be a hundred thousand: their rows are made one by one and kept by nobody, as so
many objects at once would have the garbage collector hold up the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain

from ctrl.config.effective import config_rows
from ctrl.config.numbers import number_in
from ctrl.config.schema import Config
from ctrl.rows import drop_counts, each_member, key_name, tenants_name, vnis_by_group
from ctrl.table import Row
from ctrl.view import View
from ctrl.view_fabric import (
    Planners,
    Tunnel,
    device_rows,
    managed_group_rows,
    managed_tunnel_rows,
    session_rows,
    tunnels_told,
)
from ctrl.view_nve import joined_rows, mac_rows
from fastpath.model import Egress, Encap, Form, GroupKey, IPAddress, Layout, ReplicationList


def status_rows(view: View) -> list[Row]:
    counted = view.statistics
    return [
        {
            "node": view.config.node,
            "roles": roles(view.config),
            "pid": view.pid,
            "uptime_s": round(view.now_s - view.started_s, 3),
            "received": counted.received,
            "replicated": counted.replicated,
            "punted": counted.punted,
            "dropped": counted.dropped,
            "copies_out": counted.copies_out,
            "unknown_unicast": counted.unknown_unicast,
            "fib": view.revision,
            "manager": next((one.manager for one in view.own_sessions if one.is_up), None),
        }
    ]


def roles(config: Config) -> list[str]:
    """The roles that a config gives a box."""
    return list(config.roles)


def port_rows(view: View) -> list[Row]:
    return [
        {
            "name": port.name,
            "device": port.device,
            "kind": port.kind,
            "faces": list(port.faces),
            "state": port.state,
            "mtu": port.mtu,
            "transmit": port.transmit,
            "why": port.why,
            "received": port.received,
            "copies_out": port.copies_out,
            "ring_lost": port.ring_lost,
        }
        for port in view.ports
    ]


def network_rows(view: View) -> list[Row]:
    tables = {table.name: table for table in view.config.networks}
    return [
        {
            "name": network.name,
            "vni": network.vni,
            "vsid": network.vsid,
            "encap": network.encap.name.lower(),
            "groups": _words(dict.fromkeys([network.group, *(m.group for m in network.maps)])),
            "ports": [port.name for port in view.layout.ports if port.network == network.name],
            "snoop": table.snoop,
            "unregistered": table.unregistered,
            "igmp_to": _words(table.igmp_to),
            "routers": list(view.routers.get(network.name, ())),
        }
        for network in view.layout.networks
        if (table := tables.get(network.name))
    ]


def list_rows(view: View) -> Iterator[Row]:
    """One row a replication list, in the order in which they were published."""
    frames = {row.key: row.frames for row in view.statistics.lists}
    by_group = vnis_by_group(view.config)
    planners = Planners(view.told, view.layout.networks)
    for key, wanted in view.lists.items():
        yield {
            "role": key.scope.name.lower(),
            "group": key_name(key),
            "vni": _vnis(key, view.config) if key.vni else by_group.get(key.group, []),
            "tenants": tenants_name(key),
            "local": sorted(_member(egress, view.layout) for egress in wanted.local),
            "remote": _words(egress.owner.address for egress in wanted.remote),
            "via": planners.of(key),
            "revision": view.revision,
            "frames": frames.get(key),
        }
    yield from joined_rows(view)
    yield from managed_group_rows(view)


def tunnel_rows(view: View) -> list[Row]:
    """One row a peer and form, in the order in which lists name them; then those that no list uses, though a
    manager named them, or frames for a station behind them go there, or would if it had a next hop."""
    groups, told = _tunnels(view.lists), tunnels_told(view)
    for vtep, out_port in view.nve.vteps if view.nve else ():
        groups.setdefault((vtep, Form.REWRITE), (set(), out_port))
    for vtep in view.nve.waiting if view.nve else ():
        # by no port yet
        told.setdefault((vtep, Form.REWRITE), 0)
    unreached = {point.address for point in view.points if not point.is_up}
    sent: dict[Tunnel, list[int]] = {tunnel: [0, 0, 0] for tunnel in (*groups, *told)}
    for row in view.statistics.egresses:
        tunnel = _tunnel(row.egress)
        if tunnel in sent:
            for i, n in enumerate((row.copies, row.bytes, row.dropped)):
                sent[tunnel][i] += n
    return [
        {
            "peer": str(peer),
            "groups": len(groups[peer, form][0]) if (peer, form) in groups else 0,
            "told": told.get((peer, form), 0),
            "tunnel": form.name.lower(),
            "state": "unreached"
            if peer in unreached
            else _state(view, peer, groups[peer, form][1] if (peer, form) in groups else None),
            "copies": sent[peer, form][0],
            "bytes": sent[peer, form][1],
            "dropped": sent[peer, form][2],
            "last_s": _age(view, peer),
        }
        for peer, form in sent
    ]


def drop_rows(view: View) -> list[Row]:
    rates, times = view.recent.drop_rates, view.recent.drop_times
    return [
        row | {"rate_pps": round(rates.get(row["reason"], 0.0), 3), "last": _utc(times.get(row["reason"]))}
        for row in drop_counts(view.statistics, view.refused)
    ]


def runtime_rows(view: View) -> list[Row]:
    return [
        {
            "worker": worker.worker,
            "cpu": worker.cpu,
            "stage": stage.stage,
            "frames": worker.received,
            "ns_per_frame": _ratio(stage.ns, worker.received),
            "frames_per_burst": _ratio(worker.received, worker.bursts),
            "copies_per_train": _ratio(worker.train_copies, worker.trains),
            "clone_sends": sends,
            "clones_per_send": _ratio(cloned, sends),
        }
        for worker in view.statistics.workers
        for sends, cloned in [view.clones.get(worker.worker, (0, 0))]
        for stage in worker.stages
    ]


ROWS: Mapping[str, Callable[[View], Iterable[Row]]] = {
    "status": status_rows,
    "ports": port_rows,
    "networks": network_rows,
    "groups": list_rows,
    "members": lambda view: each_member(view.config, view.members),
    "macs": mac_rows,
    "tunnels": lambda view: chain(tunnel_rows(view), managed_tunnel_rows(view)),
    "devices": device_rows,
    "sessions": session_rows,
    "drops": drop_rows,
    "runtime": runtime_rows,
    "config": lambda view: config_rows(view.config),
}
"""What makes the rows of each object of `ctrl.objects`."""


def matching(rows: Iterable[Row], filters: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """The rows that have each value: `-` is null, a list has a value if one of its items is that."""
    wanted = list(filters)
    return (row for row in rows if all(value in _shown_as(row[key]) for key, value in wanted))


def _shown_as(value: object) -> Iterator[str]:
    if value is None or value == "":
        yield "-"
    elif isinstance(value, bool):
        yield str(value).lower()
    elif isinstance(value, list):
        yield from value or ("-",)
    else:
        yield str(value)


def _vnis(key: GroupKey, config: Config) -> list[str]:
    """The VNIs behind a number on the wire, which is another one on NVGRE."""
    encap = key.encap.name.lower()
    named = [str(network.vni) for network in config.networks if number_in(network, encap) == key.vni]
    return named or ([str(key.vni)] if key.encap is Encap.VXLAN else [])


def _member(egress: Egress, layout: Layout) -> str:
    name = layout.ports[egress.out_port].name
    return name if egress.owner.address is None else f"{name}/{egress.owner.address}"


def _tunnel(egress: Egress) -> Tunnel | None:
    """The tunnel that a copy takes; copies to local members, and those of an NVE to a group, take none."""
    owner = egress.owner
    if owner.port is not None or owner.address is None or owner.address.is_multicast:
        return None
    return owner.address, egress.form


def _tunnels(
    lists: Mapping[GroupKey, ReplicationList],
) -> dict[Tunnel, tuple[set[GroupKey], int]]:
    """Every tunnel with the lists that it stands in, and the port by which it leaves."""
    found: dict[Tunnel, tuple[set[GroupKey], int]] = {}
    for key, wanted in lists.items():
        for egress in wanted.remote:
            tunnel = _tunnel(egress)
            if tunnel is not None:
                found.setdefault(tunnel, (set(), egress.out_port))[0].add(key)
    return found


def _state(view: View, peer: IPAddress, out_port: int | None) -> str:
    if peer in view.hops:
        return view.hops[peer]
    if out_port is None:
        return "no_route"
    name = view.layout.ports[out_port].name
    return "up" if any(port.name == name and port.state == "up" for port in view.ports) else "down"


def _age(view: View, peer: IPAddress) -> float | None:
    sent_s = view.recent.peer_times.get(peer)
    return None if sent_s is None else round(max(0.0, view.now_s - sent_s), 3)


def _ratio(total: int, n: int) -> float | None:
    return round(total / n, 3) if n else None


def _utc(time_s: float | None) -> str | None:
    return None if time_s is None else datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _words(values: Iterable[object]) -> list[str]:
    return [str(value) for value in values if value is not None]
