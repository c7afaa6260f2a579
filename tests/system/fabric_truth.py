"""Which tunnels there are in a fabric, and which there should be: by what the ToRs' NVEs joined, and nothing
else."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from typing import NamedTuple

from tests.system.fabric import Fabric, Node

POLL_S = 0.1


class Tunnel(NamedTuple):
    """A copy that a box makes of a group."""

    box: str
    group: str
    to: str


@dataclass(slots=True)
class Difference:
    """What is not as it should be."""

    missing: set[Tunnel] = field(default_factory=set)
    stale: set[Tunnel] = field(default_factory=set)
    unresolved: set[tuple[str, str]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.missing or self.stale or self.unresolved)

    def __str__(self) -> str:
        return ", ".join(
            f"{len(some)} {name}: {sorted(some)[:4]}" for name, some in asdict(self).items() if some
        )


def joined(fabric: Fabric) -> dict[str, set[str]]:
    """The ToRs of each group, as their NVEs have it."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, tor in fabric.tors.items():
        for group in tor.groups():
            found[group].add(name)
    return found


def tunnels(fabric: Fabric) -> set[Tunnel]:
    """Those of all ToRs and points that run."""
    running = [one for one in (*fabric.tors.values(), *fabric.points.values()) if one.is_up()]
    return {Tunnel(one.name, group, to) for one in running for group, remote in lists(one) for to in remote}


def lists(node: Node) -> list[tuple[str, list[str]]]:
    """The groups of a node, and who gets copies; not its lists by number."""
    return [
        (str(row["group"]), [str(to) for to in row["remote"]])
        for row in node.fastpath.show("groups")
        if _is_address(str(row["group"]))
    ]


def unresolved(node: Node) -> set[str]:
    """The peers of a node to which no copy can go yet: they are in its lists, and being asked for."""
    return {str(row["peer"]) for row in node.fastpath.show("tunnels", state="no_neighbour")}


def difference(fabric: Fabric, threshold: int = 0) -> Difference:
    """Compare; `threshold`: ToRs from which on a group is a point's, 0 for never (CONFORMANCE M3, M6).

    In point mode one running point must have the whole list and be what all ToRs send to; another one may
    have the list besides, whole. Without any, it is as if never.
    """
    if not any(point.is_up() for point in fabric.points.values()):
        threshold = 0
    wanted: set[Tunnel] = set()
    found = tunnels(fabric)
    copying = defaultdict(set)
    for one in found:
        if one.box in fabric.points:
            copying[one.group].add(one.box)
    sending = {(one.box, one.group): one.to for one in found}
    for group, tors in joined(fabric).items():
        addresses = {name: fabric.tors[name].address for name in tors}
        if threshold and len(tors) >= threshold:
            sent_to = sending.get((min(tors), group), "")
            chosen = next((p for p in copying[group] if fabric.points[p].address == sent_to), None)
            point = fabric.points[chosen].address if chosen else "one point"
            wanted |= {Tunnel(name, group, point) for name in tors}
            wanted |= {Tunnel(p, group, to) for p in copying[group] for to in addresses.values()}
        else:
            wanted |= {
                Tunnel(name, group, to) for name in tors for other, to in addresses.items() if other != name
            }
    running = [one for one in (*fabric.tors.values(), *fabric.points.values()) if one.is_up()]
    return Difference(
        wanted - found, found - wanted, {(one.name, to) for one in running for to in unresolved(one)}
    )


def settles(fabric: Fabric, within_s: float, threshold: int = 0, since_s: float | None = None) -> float:
    """Wait until there is no difference, for so long at most; seconds since the call, or since `since_s`."""
    begin = time.monotonic() if since_s is None else since_s
    while now := difference(fabric, threshold):
        took_s = time.monotonic() - begin
        assert took_s < within_s, f"after {took_s:.1f} s {now}"
        time.sleep(POLL_S)
    return time.monotonic() - begin


def _is_address(word: str) -> bool:
    try:
        ip_address(word)
    except ValueError:
        return False
    return True
