"""The rows of `fastpath replay`: flat objects with stable snake_case keys. Those of a running box are in
`ctrl.view_rows`."""

from __future__ import annotations

from ctrl.config import Config
from ctrl.config.schema import NetworkTable
from ctrl.table import Row
from fastpath.model import GroupKey, IPAddress, Layout
from fastpath.statistics import DropCount, Statistics


def drop_row(row: DropCount, rate_pps: float | None, last: str | None) -> Row:
    """A reason that struck: how often, at what rate, and when last."""
    return {
        "reason": row.reason.name,
        "unit": row.reason.unit.value,
        "stage": row.reason.stage,
        "frames": row.count,
        "rate_pps": None if rate_pps is None else round(rate_pps, 3),
        "last": last,
    }


def drop_rows(statistics: Statistics, seconds: float) -> list[Row]:
    """One row a reason that struck; the counters do not know when it struck last."""
    return [drop_row(row, row.count / seconds if seconds else None, None) for row in statistics.drops]


def member_rows(config: Config) -> list[Row]:
    """One row a local member; peers are in the tunnels and groups."""
    device = config.device
    return [
        {
            "node": config.node,
            "port": member.port,
            "nve": None if member.nve is None else str(member.nve),
            "vni": [str(one.vni) for one in config.networks if member.group in groups_of(one)],
            "group": str(member.group),
            "mode": "exclude",
            "sources": [],
            "blocked": [],
            "origin": "static",
            "expires_s": None,
        }
        for member in (device.members if device else ())
    ]


def groups_of(network: NetworkTable) -> set[IPAddress | None]:
    """Every outer group that carries frames of the network."""
    return {network.group, *(m.group for m in network.maps)}


def key_name(key: GroupKey) -> str:
    """How a list is called in a table: its group, or its network's number, with what narrows it."""
    number = f"{key.encap.name.lower()} {key.vni}"
    if key.group is None:
        return number
    group = str(key.group) if key.source is None else f"({key.source}, {key.group})"
    return group if not key.vni else f"{number} {group}"


def group_rows(statistics: Statistics) -> list[Row]:
    """One row a replication list that was used: whose it is, and how many frames it replicated."""
    return [
        {"scope": row.key.scope.name.lower(), "group": key_name(row.key), "frames": row.frames}
        for row in statistics.lists
        if row.frames
    ]


def receiver_rows(statistics: Statistics, layout: Layout) -> list[Row]:
    """One row a receiver: by which port, in what form, how many copies it got and did not get."""
    return [
        {
            "port": layout.ports[row.egress.out_port].name,
            "receiver": "group" if row.egress.address is None else str(row.egress.address),
            "form": row.egress.form.name.lower(),
            "encap": None if row.egress.encap is None else row.egress.encap.name.lower(),
            "copies": row.copies,
            "bytes": row.bytes,
            "dropped": row.dropped,
        }
        for row in statistics.egresses
    ]
