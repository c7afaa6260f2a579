"""The view as Prometheus text, made of the rows that `fastpath show` prints: so the numbers are the same.

No row a group: there may be a hundred thousand of them. `fastpath show groups` has them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ctrl.table import Row
from ctrl.view import View
from ctrl.view_rows import port_rows, status_rows, tunnel_rows
from fastpath.reasons import REASONS, Unit

__all__ = ["CONTENT_TYPE", "exposition"]

_UNITS = {
    Unit.FRAME: ("fastpath_frame_drops", "Received frames that were dropped"),
    Unit.COPY: ("fastpath_copy_drops", "Copies that were wanted and not sent"),
    Unit.RING: ("fastpath_ring_drops", "Frames or super-frames lost before they were received"),
}


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
        yield from _tunnels(tunnel_rows(view))
        yield from _groups(view)
        yield from _workers(view)


def _status(row: Row) -> Iterator[Metric]:
    yield _gauge(
        "fastpath_node_info",
        "Which box this is.",
        ("node", "roles"),
        [((row["node"], ",".join(row["roles"])), 1)],
    )
    yield _gauge(
        "fastpath_uptime_seconds", "Since the process began to forward.", (), [((), row["uptime_s"])]
    )
    yield _gauge("fastpath_fib_revision", "The revision of the replication lists.", (), [((), row["fib"])])
    for name, key, meaning in (
        ("fastpath_received_frames", "received", "Frames: replicated, punted and dropped ones together."),
        ("fastpath_replicated_frames", "replicated", "Frames of which copies were made."),
        ("fastpath_punted_frames", "punted", "Frames handed to control: IGMP and MLD."),
        ("fastpath_dropped_frames", "dropped", "Frames dropped; fastpath_frame_drops_total says why."),
        ("fastpath_copies_out", "copies_out", "Copies that left."),
    ):
        yield _counter(name, meaning, (), [((), row[key])])


def _drops(view: View) -> Iterator[Metric]:
    """Every reason, those that never struck at 0: a rate needs a first value."""
    counts = {row.reason.name: row.count for row in view.statistics.drops}
    for unit, (name, meaning) in _UNITS.items():
        reasons = [reason for reason in REASONS if reason.unit is unit]
        sentences = " ".join(f"{reason.name}: {reason.sentence}" for reason in reasons)
        yield _counter(
            name,
            f"{meaning}, by reason. {sentences}",
            ("reason", "stage"),
            [((reason.name, reason.stage), counts.get(reason.name, 0)) for reason in reasons],
        )


def _ports(rows: list[Row]) -> Iterator[Metric]:
    yield _gauge(
        "fastpath_port_up",
        "1: the port is up. transmit is how copies leave there.",
        ("port", "kind", "transmit"),
        [((row["name"], row["kind"], row["transmit"]), int(row["state"] == "up")) for row in rows],
    )
    yield _gauge(
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
        yield _counter(name, meaning, ("port",), [((row["name"],), row[key]) for row in rows])


def _tunnels(rows: list[Row]) -> Iterator[Metric]:
    labels = ("peer", "tunnel")
    names = [(row["peer"], row["tunnel"]) for row in rows]
    up = [(name, int(row["state"] == "up")) for name, row in zip(names, rows, strict=True)]
    yield _gauge("fastpath_tunnel_up", "1: the next hop of the peer is known and up.", labels, up)
    for name, key, meaning in (
        ("fastpath_tunnel_copies", "copies", "Copies sent to the peer."),
        ("fastpath_tunnel_bytes", "bytes", "Bytes of these copies, Ethernet headers included."),
        ("fastpath_tunnel_drops", "dropped", "Copies for the peer that could not be sent."),
    ):
        values = [(label, row[key]) for label, row in zip(names, rows, strict=True)]
        yield _counter(name, meaning, labels, values)


def _groups(view: View) -> Iterator[Metric]:
    counts: dict[str, int] = {}
    for key in view.lists:
        role = key.scope.name.lower()
        counts[role] = counts.get(role, 0) + 1
    yield _gauge(
        "fastpath_groups", "Replication lists.", ("role",), [((role,), n) for role, n in counts.items()]
    )


def _workers(view: View) -> Iterator[Metric]:
    """What `show runtime` divides: Prometheus does its own division, over the time that is asked for."""
    workers = view.statistics.workers
    for name, meaning, values in (
        ("fastpath_worker_received_frames", "Frames received by the worker.", [w.received for w in workers]),
        ("fastpath_worker_bursts", "Bursts that had frames.", [w.bursts for w in workers]),
        ("fastpath_worker_copies_out", "Copies that the worker sent.", [w.copies_out for w in workers]),
        ("fastpath_worker_trains", "Trains that the worker sent.", [w.trains for w in workers]),
        ("fastpath_worker_train_copies", "Copies in these trains.", [w.train_copies for w in workers]),
    ):
        names = [(str(worker.worker),) for worker in workers]
        yield _counter(name, meaning, ("worker",), zip(names, values, strict=True))
    yield _counter(
        "fastpath_worker_stage_seconds",
        "Time that the worker spent in a stage of its bursts.",
        ("worker", "stage"),
        [((str(w.worker), stage.stage), stage.ns / 1e9) for w in workers for stage in w.stages],
    )


_Values = Iterable[tuple[Sequence[str], float]]


def _counter(name: str, meaning: str, labels: Sequence[str], values: _Values) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def _gauge(name: str, meaning: str, labels: Sequence[str], values: _Values) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family
