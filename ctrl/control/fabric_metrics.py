"""Metrics of managers and of those that they tell. A box without sessions has none of them.

No row a node: there may be ten thousand. `fastpath show devices` has them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from math import inf

from prometheus_client.core import HistogramMetricFamily, Metric

from ctrl.control.families import counter, gauge
from ctrl.view import ManagerView, View


def fabric_metrics(view: View) -> Iterator[Metric]:
    """All of them."""
    if view.manager is not None:
        yield from _manager(view, view.manager)
    if view.own_sessions:
        yield from _told(view)


def _manager(view: View, manager: ManagerView) -> Iterator[Metric]:
    states = Counter((one.role, one.state) for one in view.devices)
    yield gauge("fastpath_manager_nodes", "Nodes that are known.", ("role", "state"), states.items())
    served = view.sessions
    behind = sum(one.revision_acked != one.revision for one in served)
    for name, meaning, value in (
        ("sessions", "Sessions that are served.", len(served)),
        ("groups", "Groups that devices are in.", manager.n_groups),
        ("tenants", "What tenants want: each of their groups in a network by itself.", manager.n_tenants),
        ("store_revision", "The store's revision, as far as it was followed.", manager.revision),
        ("store_reachable", "1: the store answers.", manager.is_store_reachable),
        ("settling", "1: it is not known yet who is there, and nothing is removed.", manager.is_settling),
        ("nodes_behind", "Nodes that have not acknowledged all that they were told.", behind),
        (
            "lag_keys",
            "Keys that nodes are to be told of, or have not acknowledged.",
            sum(s.n_pending for s in served),
        ),
        (
            "unwritten_groups",
            "Groups said and not in the store yet.",
            sum(s.n_unwritten or 0 for s in served),
        ),
    ):
        yield gauge(f"fastpath_manager_{name}", meaning, (), [((), value)])
    yield counter(
        "fastpath_manager_instructions", "Batches of instructions sent.", (), [((), manager.n_batches)]
    )
    yield _convergence(manager)


def _convergence(manager: ManagerView) -> Metric:
    bounds = ["+Inf" if bound == inf else str(bound) for bound, _ in manager.convergence]
    counts = accumulate(n for _, n in manager.convergence)
    family = HistogramMetricFamily(
        "fastpath_manager_convergence_seconds",
        "From hearing second information to the last acknowledgement of a node that it concerned.",
    )
    if bounds:
        family.add_metric((), list(zip(bounds, counts, strict=True)), manager.convergence_sum_s)
    return family


def _told(view: View) -> Iterator[Metric]:
    sessions = [((one.role,), one) for one in view.own_sessions]
    yield gauge(
        "fastpath_session_up",
        "1: a manager is in charge of the role.",
        ("role",),
        [(role, one.is_up) for role, one in sessions],
    )
    yield gauge(
        "fastpath_session_since_seconds",
        "How long it is so.",
        ("role",),
        [(role, one.since_s) for role, one in sessions],
    )
    yield gauge(
        "fastpath_instructions_revision",
        "The store's revision of the instructions in force.",
        ("role",),
        [(role, one.revision) for role, one in sessions],
    )
    yield gauge(
        "fastpath_instructions_age_seconds",
        "How old the instructions in force are, those from the disk included.",
        ("role",),
        [(role, one.told_s) for role, one in sessions if one.told_s is not None],
    )
    yield gauge(
        "fastpath_instructions_pending",
        "Groups whose last word is not in force: held down.",
        ("role",),
        [(role, one.n_pending) for role, one in sessions],
    )
    yield gauge(
        "fastpath_instructions_refused",
        "Groups that the role or its manager refuses as of now.",
        ("role",),
        [(role, one.n_refused or 0) for role, one in sessions],
    )
    yield gauge(
        "fastpath_instructed_tenants",
        "Tenants' groups of which managers said who wants them.",
        ("role",),
        [(role, one.n_tenants) for role, one in sessions],
    )
    yield gauge(
        "fastpath_instructed_groups",
        "Groups that managers gave tunnels.",
        ("role", "via"),
        Counter(
            (scope.name.lower(), entry.via)
            for scope, entries in view.told.items()
            for entry in entries.values()
        ).items(),
    )
    yield gauge(
        "fastpath_point_up",
        "1: the replication point answers probes (BFD).",
        ("point",),
        [((str(point.address),), point.is_up) for point in view.points],
    )
