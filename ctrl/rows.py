"""The rows that a replay and a running box have in common, and those of `fastpath replay` alone: flat objects
with stable snake_case keys. The others of a running box are in `ctrl.view_rows`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from typing import Any, TypeVar

from ctrl.config import Config
from ctrl.config.schema import NetworkTable
from ctrl.refusals import REFUSALS
from ctrl.table import Row
from ctrl.view import MemberView
from fastpath.model import GroupKey, IPAddress, KeyKind, Layout
from fastpath.statistics import Statistics

_T = TypeVar("_T")
_AT_ONCE = 4096
"""Items that are sorted in one go: nobody else has the interpreter meanwhile."""


def drop_counts(statistics: Statistics, refused: Mapping[str, int]) -> Iterator[Row]:
    """What struck, of the data path and of control: name, unit, stage and how often."""
    for row in statistics.drops:
        yield _drop(row.reason.name, row.reason.unit.value, row.reason.stage, row.count)
    for refusal in REFUSALS.values():
        count = refused.get(refusal.name, 0)
        if count:
            yield _drop(refusal.name, refusal.unit, refusal.stage, count)


def _drop(reason: str, unit: str, stage: str, frames: int) -> Row:
    return {"reason": reason, "unit": unit, "stage": stage, "frames": frames}


def drop_rows(statistics: Statistics, seconds: float, refused: Mapping[str, int]) -> list[Row]:
    """One row a reason that struck; the counters of a replay do not know when it struck last."""
    return [
        row | {"rate_pps": round(row["frames"] / seconds, 3) if seconds else None, "last": None}
        for row in drop_counts(statistics, refused)
    ]


def each_member(config: Config, members: Sequence[MemberView]) -> Iterator[Row]:
    """One row a local member, by port, group and NVE; peers are in the tunnels and groups."""
    vnis, numbers = vnis_by_group(config), {n.name: [str(n.vni)] for n in config.networks}
    for member in in_order(members, _place):
        yield {
            "node": config.node,
            "port": member.port,
            "nve": None if member.nve is None else str(member.nve),
            "mac": None if member.mac is None else member.mac.hex(":"),
            "network": member.network,
            "vni": vnis.get(member.group, []) if member.network is None else numbers.get(member.network, []),
            "group": str(member.group),
            "mode": "exclude" if member.is_exclude else "include",
            "sources": _sorted(member.sources),
            "blocked": _sorted(member.blocked),
            "origin": member.origin,
            "expires_s": None if member.expires_s is None else round(member.expires_s, 3),
        }


def in_order(items: Sequence[_T], key: Callable[[_T], tuple[Any, ...]]) -> Iterator[_T]:
    """Sort very many."""
    parts = (items[i : i + _AT_ONCE] for i in range(0, len(items), _AT_ONCE))
    return merge(*(sorted(part, key=key) for part in parts), key=key)


def _place(member: MemberView) -> tuple[str, int, int, int, int, bytes]:
    return (member.port, *_number(member.group), *_number(member.nve), member.mac or b"")


def _number(address: IPAddress | None) -> tuple[int, int]:
    return (0, 0) if address is None else (address.version, int(address))


def _sorted(addresses: Iterable[IPAddress]) -> list[str]:
    return [str(address) for address in sorted(addresses, key=int)]


def vnis_by_group(config: Config) -> dict[IPAddress | None, list[str]]:
    """The VNIs of the networks that each group carries."""
    found: dict[IPAddress | None, list[str]] = {}
    for network in config.networks:
        for group in groups_of(network):
            found.setdefault(group, []).append(str(network.vni))
    return found


def groups_of(network: NetworkTable) -> set[IPAddress | None]:
    """Every outer group that carries frames of the network."""
    return {network.group, *(m.group for m in network.maps)}


def key_name(key: GroupKey) -> str:
    """How a list is called in a table: its group, or its network's number, with what narrows it."""
    number = f"{key.encap.name.lower()} {key.vni}"
    if key.group is None:
        return number
    name = tenants_name(key) or str(key.group)
    group = name if key.source is None else f"({key.source}, {name})"
    return group if not key.vni else f"{number} {group}"


def tenants_name(key: GroupKey) -> str | None:
    """The group of the tenants that a list is for, any: those that nobody joined; None: all of a network."""
    if key.group is None or key.kind > KeyKind.INNER_GROUP:
        return None
    return "any" if key.group.is_unspecified else str(key.group)


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
