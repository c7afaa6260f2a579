"""What the sessions with managers, and the manager role, look like at a moment."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ctrl.daemon.instructing import Instructing, address_of
from ctrl.refusals import fabric_counts
from ctrl.topology.entry import Entry, Key, is_tenant, outer_of
from ctrl.topology.words import is_shown, key_words
from ctrl.view import DeviceView, GroupView, ManagerView, PointStateView, SessionView
from fastpath.model import Scope

if TYPE_CHECKING:
    from ctrl.daemon.managing import Managing
    from ctrl.roles.instructed import Instructed


def own_sessions(sides: Iterable[Instructing]) -> Iterator[SessionView]:
    """The sessions of this box's roles with their managers."""
    now_s = time.monotonic()
    for side in sides:
        instructed = side.instructed
        yield SessionView(
            node=instructed.node.name,
            role=side.role,
            manager=(side.client.manager if side.client else "") or None,
            is_up=instructed.is_connected,
            since_s=now_s - side.changed_s,
            last_s=None if side.heard_s is None else now_s - side.heard_s,
            revision=instructed.revision,
            n_pending=len(instructed.refused) + len(instructed.held_down),
            n_refused=len(instructed.refused) + len(instructed.groups_refused),
            n_tenants=instructed.n_tenants,
            told_s=None if side.told_s is None else now_s - side.told_s,
            why=_why(side),
        )


def _why(side: Instructing) -> str | None:
    """Why there is no session, manager by manager; one that did not welcome us is none yet."""
    problems = side.client.problems if side.client else {}
    if side.client and side.instructed.is_connected and side.client.manager not in problems:
        return None
    return "; ".join(f"{address}: {why}" for address, why in problems.items()) or None


def told(sides: Iterable[Instructing]) -> Mapping[Scope, Mapping[Key, Entry]]:
    """What is in force of what managers said, but what tenants want."""
    return {side.scope: _tunnels(side.instructed) for side in sides}


def _tunnels(instructed: Instructed) -> dict[Key, Entry]:
    if not instructed.n_tenants:
        return dict(instructed.entries)
    return {key: entry for key, entry in instructed.entries.items() if not is_tenant(key)}


def points(sides: Iterable[Instructing]) -> Iterator[PointStateView]:
    """The points that are probed."""
    for side in sides:
        for point in sorted(side.instructed.points() if side.probes else ()):
            yield PointStateView(address_of(point), point not in side.instructed.down)


def refused(sides: Iterable[Instructing], managing: Managing | None) -> dict[str, int]:
    """What was refused of the fabric's messages and probes, by name."""
    return fabric_counts(
        managing.refused if managing else {},
        [side.instructed.refusals for side in sides],
        [side.probes.counts for side in sides if side.probes is not None],
    )


def manager_view(managing: Managing) -> ManagerView:
    """The manager role as a whole."""
    from ctrl.roles.manager import BUCKETS_S  # noqa: PLC0415  few boxes are managers

    manager, topology = managing.manager, managing.topology
    return ManagerView(
        revision=topology.revision,
        n_groups=topology.n_groups,
        n_tenants=topology.n_tenants,
        is_settling=manager.is_settling,
        is_store_reachable=managing.is_store_reachable,
        n_batches=manager.n_batches,
        convergence=tuple(zip((*BUCKETS_S, math.inf), manager.convergence.counts, strict=True)),
        convergence_sum_s=manager.convergence.sum_s,
    )


def devices(managing: Managing) -> Iterator[DeviceView]:
    """Every node that the manager knows."""
    nodes = dict(managing.topology.nodes)  # both change while this is walked
    for row in list(managing.manager.devices(time.monotonic())):
        yield DeviceView(
            node=row.node,
            role=row.role,
            address=address_of(row.address),
            state=row.state,
            manager=row.manager,
            revision_told=row.revision_told,
            revision_acked=row.revision_acked,
            n_groups=row.groups,
            last_s=row.last_s,
            tunnel=nodes[row.node].tunnel,
        )


def groups(managing: Managing) -> Iterator[GroupView]:
    """Every group that the manager knows, and what tenants want."""
    for row in managing.topology.served():
        if not is_shown(row.key):
            continue
        devices, (_, vni, tenants) = tuple(map(address_of, row.devices)), key_words(row.key)
        vnis = row.vnis if vni is None else (vni,)
        yield GroupView(address_of(outer_of(row.key)), devices, row.points, vnis, row.revision, tenants)


def served(managing: Managing, name: str) -> Iterator[SessionView]:
    """The sessions that the manager of this name serves."""
    now_s = time.monotonic()
    for row in list(managing.manager.sessions(now_s)):
        yield SessionView(
            node=row.node,
            role=row.role,
            manager=name,
            is_up=True,
            since_s=row.since_s,
            last_s=row.last_s,
            revision=row.revision_told,
            revision_acked=row.revision_acked,
            n_pending=row.pending + row.in_flight,
            n_unwritten=row.unwritten,
        )
