"""The view as Prometheus text, made of the rows that `fastpath show` prints: so the numbers are the same.

No row a group: there may be a hundred thousand of them. `fastpath show groups` has them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ctrl.control.fabric_metrics import fabric_metrics
from ctrl.control.families import counter, gauge
from ctrl.control.nve_metrics import nve_metrics
from ctrl.refusals import REFUSALS
from ctrl.table import Row
from ctrl.view import View
from ctrl.view_rows import drop_rows, port_rows, status_rows, tunnel_rows
from fastpath.reasons import REASONS

__all__ = ["CONTENT_TYPE", "exposition"]

_UNITS = {
    "frame": "Received frames that were dropped",
    "copy": "Copies that were wanted and not sent",
    "ring": "Frames or super-frames lost before they were received",
    "message": "Punted IGMP and MLD messages that were refused",
    "record": "Group records of reports that were refused, and MACs that an NVE did not learn",
    "source": "Sources of group records that were refused",
    "session": "Sessions of nodes, or words in them, that the manager refused",
    "group": "Groups of nodes that the manager refused",
    "instruction": "Instructions of managers that a node refused",
    "probe": "BFD packets that were refused or lost",
}
_REASONS = [(r.name, r.unit.value, r.stage, r.sentence) for r in REASONS]
_REFUSALS = [(r.name, r.unit, r.stage, r.sentence) for r in REFUSALS.values()]


def exposition(view: View) -> bytes:
    """Write all metrics of a view, and those of the process, in the Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Shown(view))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Shown(Collector):
    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        view = self._view
        yield from _status(status_rows(view)[0])
        yield from _drops(view)
        yield from _ports(port_rows(view))
        yield from _tunnels(tunnel_rows(replace(view, nve=None)))  # without VTEPs, which frames make up
        yield from _groups(view)
        yield from _membership(view)
        yield from nve_metrics(view)
        yield from fabric_metrics(view)
        yield from _workers(view)


def _status(row: Row) -> Iterator[Metric]:
    yield gauge(
        "fastpath_node_info",
        "Which box this is.",
        ("node", "roles"),
        [((row["node"], ",".join(row["roles"])), 1)],
    )
    yield gauge("fastpath_uptime_seconds", "Since the process began to forward.", (), [((), row["uptime_s"])])
    yield gauge("fastpath_fib_revision", "The revision of the replication lists.", (), [((), row["fib"])])
    for name, key, meaning in (
        ("fastpath_received_frames", "received", "Frames: replicated, punted and dropped ones together."),
        ("fastpath_replicated_frames", "replicated", "Frames of which copies were made."),
        ("fastpath_punted_frames", "punted", "Frames handed to control: IGMP and MLD."),
        ("fastpath_dropped_frames", "dropped", "Frames dropped; fastpath_frame_drops_total says why."),
        ("fastpath_copies_out", "copies_out", "Copies that left."),
    ):
        yield counter(name, meaning, (), [((), row[key])])


def _drops(view: View) -> Iterator[Metric]:
    """Every reason, those that never struck at 0: a rate needs a first value."""
    counts = {row["reason"]: row["frames"] for row in drop_rows(view)}
    for unit, meaning in _UNITS.items():
        reasons = [reason for reason in (*_REASONS, *_REFUSALS) if reason[1] == unit]
        sentences = " ".join(f"{name}: {sentence}" for name, _, _, sentence in reasons)
        yield counter(
            f"fastpath_{unit}_drops",
            f"{meaning}, by reason. {sentences}",
            ("reason", "stage"),
            [((name, stage), counts.get(name, 0)) for name, _, stage, _ in reasons],
        )


def _ports(rows: list[Row]) -> Iterator[Metric]:
    yield gauge(
        "fastpath_port_up",
        "1: the port is up. transmit is how copies leave there.",
        ("port", "kind", "transmit"),
        [((row["name"], row["kind"], row["transmit"]), int(row["state"] == "up")) for row in rows],
    )
    yield gauge(
        "fastpath_port_mtu_bytes",
        "The largest IP packet that may leave by the port; 0: no limit.",
        ("port",),
        [((row["name"],), row["mtu"]) for row in rows],
    )
    for name, key, meaning in (
        ("fastpath_port_received_frames", "received", "Frames that came in by the port."),
        ("fastpath_port_copies_out", "copies_out", "Copies that left by the port."),
        ("fastpath_port_ring_lost", "ring_lost", "What the port's receive ring had no room for."),
    ):
        yield counter(name, meaning, ("port",), [((row["name"],), row[key]) for row in rows])


def _tunnels(rows: list[Row]) -> Iterator[Metric]:
    labels = ("peer", "tunnel")
    names = [(row["peer"], row["tunnel"]) for row in rows]
    up = [(name, int(row["state"] == "up")) for name, row in zip(names, rows, strict=True)]
    yield gauge("fastpath_tunnel_up", "1: the next hop of the peer is known and up.", labels, up)
    for name, key, meaning in (
        ("fastpath_tunnel_copies", "copies", "Copies sent to the peer."),
        ("fastpath_tunnel_bytes", "bytes", "Bytes of these copies, Ethernet headers included."),
        ("fastpath_tunnel_drops", "dropped", "Copies for the peer that could not be sent."),
    ):
        values = [(label, row[key]) for label, row in zip(names, rows, strict=True)]
        yield counter(name, meaning, labels, values)


def _groups(view: View) -> Iterator[Metric]:
    counts: dict[str, int] = {}
    for key in view.lists:
        role = key.scope.name.lower()
        counts[role] = counts.get(role, 0) + 1
    yield gauge(
        "fastpath_groups", "Replication lists.", ("role",), [((role,), n) for role, n in counts.items()]
    )


def _membership(view: View) -> Iterator[Metric]:
    """By port and not by group, as for lists. What the config says counts as joined."""
    yield gauge("fastpath_joined_groups", "Groups that have a member here.", (), [((), view.n_groups)])
    yield gauge(
        "fastpath_second_information_revision",
        "Moves when the first member of a group comes, or the last one goes.",
        (),
        [((), view.second_revision)],
    )
    device = view.config.device
    members = Counter((member.port, "static") for member in (device.members if device else ()))
    members.update({(one.port, one.family): one.n_members for one in view.snooping})
    yield gauge("fastpath_members", "Members of groups, by who says so.", ("port", "origin"), members.items())
    sides = [((one.port, one.family), one) for one in view.snooping]
    labels = ("port", "family")
    yield gauge(
        "fastpath_port_groups",
        "Groups that NVEs or VMs behind the port joined.",
        labels,
        [(side, one.n_groups) for side, one in sides],
    )
    yield gauge(
        "fastpath_is_querier",
        "1: we ask on the port; 0: another querier does.",
        labels,
        [(side, int(one.is_querier)) for side, one in sides],
    )
    yield counter(
        "fastpath_queries_sent",
        "Queries sent by the port.",
        labels,
        [(side, one.queries_sent) for side, one in sides],
    )


def _workers(view: View) -> Iterator[Metric]:
    """What `show runtime` divides: Prometheus does its own division, over the time that is asked for."""
    workers = view.statistics.workers
    clones = [view.clones.get(worker.worker, (0, 0)) for worker in workers]
    for name, meaning, values in (
        ("fastpath_worker_received_frames", "Frames received by the worker.", [w.received for w in workers]),
        ("fastpath_worker_bursts", "Bursts that had frames.", [w.bursts for w in workers]),
        ("fastpath_worker_copies_out", "Copies that the worker sent.", [w.copies_out for w in workers]),
        ("fastpath_worker_trains", "Trains that the worker sent.", [w.trains for w in workers]),
        ("fastpath_worker_train_copies", "Copies in these trains.", [w.train_copies for w in workers]),
        (
            "fastpath_worker_clone_sends",
            "Frames and trains that the worker handed to the kernel to be cloned.",
            [sends for sends, _ in clones],
        ),
        ("fastpath_worker_clones", "Clones of these, a train being one.", [cloned for _, cloned in clones]),
    ):
        names = [(str(worker.worker),) for worker in workers]
        yield counter(name, meaning, ("worker",), zip(names, values, strict=True))
    yield counter(
        "fastpath_worker_stage_seconds",
        "Time that the worker spent in a stage of its bursts.",
        ("worker", "stage"),
        [((str(w.worker), stage.stage), stage.ns / 1e9) for w in workers for stage in w.stages],
    )
