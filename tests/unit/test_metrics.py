"""The metrics have the numbers of `fastpath show -j`, and names that Prometheus takes for what they are."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ctrl.control.metrics import exposition
from ctrl.refusals import REFUSALS
from ctrl.view_rows import ROWS
from fastpath.reasons import REASONS
from tests.unit.viewed import view

ONE = view()
FAMILIES = {family.name: family for family in text_string_to_metric_families(exposition(ONE).decode())}


def value(name, **labels):
    """The one sample of this name whose labels include these."""
    (found,) = [
        sample.value
        for family in FAMILIES.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def rows(name):
    return list(ROWS[name](ONE))


def test_the_totals_are_those_of_status():
    (status,) = rows("status")
    for key in ("received", "replicated", "punted", "dropped"):
        assert value(f"fastpath_{key}_frames_total") == status[key] > 0
    assert value("fastpath_copies_out_total") == status["copies_out"]
    assert value("fastpath_uptime_seconds") == status["uptime_s"]
    assert value("fastpath_fib_revision") == status["fib"]
    assert value("fastpath_node_info", node="tor1", roles="device,replicator") == 1


NAMED = [(r.name, r.unit.value, r.stage, r.sentence) for r in REASONS] + [
    (r.name, r.unit, r.stage, r.sentence) for r in REFUSALS.values()
]


def test_the_drops_are_those_of_drops_and_reasons_that_never_struck_are_0():
    struck = {row["reason"]: row["frames"] for row in rows("drops")}
    for name, unit, stage, _ in NAMED:
        shown = value(f"fastpath_{unit}_drops_total", reason=name, stage=stage)
        assert shown == struck.pop(name, 0)
    assert struck == {}


def test_the_help_of_the_drops_has_the_sentence_of_each_reason():
    for name, unit, _, sentence in NAMED:
        assert f"{name}: {sentence}" in FAMILIES[f"fastpath_{unit}_drops"].documentation


def test_the_ports_are_those_of_ports():
    for row in rows("ports"):
        port = {"port": row["name"]}
        assert value("fastpath_port_up", **port, transmit=row["transmit"]) == (row["state"] == "up")
        assert value("fastpath_port_mtu_bytes", **port) == row["mtu"]
        assert value("fastpath_port_received_frames_total", **port) == row["received"]
        assert value("fastpath_port_copies_out_total", **port) == row["copies_out"]
        assert value("fastpath_port_ring_lost_total", **port) == row["ring_lost"]


def test_the_tunnels_are_those_of_tunnels():
    for row in rows("tunnels"):
        tunnel = {"peer": row["peer"], "tunnel": row["tunnel"]}
        assert value("fastpath_tunnel_up", **tunnel) == (row["state"] == "up")
        assert value("fastpath_tunnel_copies_total", **tunnel) == row["copies"]
        assert value("fastpath_tunnel_bytes_total", **tunnel) == row["bytes"]
        assert value("fastpath_tunnel_drops_total", **tunnel) == row["dropped"]


def test_groups_are_counted_by_role():
    for role in ("device", "replicator"):
        assert value("fastpath_groups", role=role) == sum(row["role"] == role for row in rows("groups")) > 0


def test_members_are_counted_by_port_and_by_who_says_so():
    assert value("fastpath_members", port="p1", origin="igmp") == 32
    assert value("fastpath_members", port="p1", origin="mld") == 42
    assert value("fastpath_members", port="core", origin="igmp") == 0
    for port in ("p1", "core"):
        static = [row for row in rows("members") if (row["port"], row["origin"]) == (port, "static")]
        assert value("fastpath_members", port=port, origin="static") == len(static) == 1


def test_the_second_information_is_its_size_and_revision():
    assert value("fastpath_joined_groups") == 61
    assert value("fastpath_second_information_revision") == 62


def test_each_port_and_family_says_whether_we_ask_there_and_how_often_we_did():
    for port, family, is_querier, n_groups, n_sent in (
        ("p1", "igmp", 1, 31, 33),
        ("p1", "mld", 0, 41, 43),
        ("core", "igmp", 0, 0, 0),
    ):
        side = {"port": port, "family": family}
        assert value("fastpath_is_querier", **side) == is_querier
        assert value("fastpath_port_groups", **side) == n_groups
        assert value("fastpath_queries_sent_total", **side) == n_sent


def test_the_workers_sent_what_they_counted():
    for worker in ONE.statistics.workers:
        assert value("fastpath_worker_copies_out_total", worker=str(worker.worker)) == worker.copies_out


def test_the_workers_divide_to_what_runtime_shows():
    for row in rows("runtime"):
        worker = {"worker": str(row["worker"])}
        frames = value("fastpath_worker_received_frames_total", **worker)
        assert frames == row["frames"]
        if not frames:
            continue
        seconds = value("fastpath_worker_stage_seconds_total", **worker, stage=row["stage"])
        assert seconds * 1e9 / frames == pytest.approx(row["ns_per_frame"], abs=1e-3)
        bursts = value("fastpath_worker_bursts_total", **worker)
        assert frames / bursts == pytest.approx(row["frames_per_burst"], abs=1e-3)
        trains = value("fastpath_worker_trains_total", **worker)
        copies = value("fastpath_worker_train_copies_total", **worker)
        assert copies / trains == pytest.approx(row["copies_per_train"], abs=1e-3)
        sends = value("fastpath_worker_clone_sends_total", **worker)
        assert sends == row["clone_sends"]
        clones = value("fastpath_worker_clones_total", **worker)
        assert clones / sends == pytest.approx(row["clones_per_send"], abs=1e-3)


def test_counters_end_in_total_and_all_have_a_type_and_a_help():
    ours = [family for family in FAMILIES.values() if family.name.startswith("fastpath_")]
    assert len(ours) > 20
    for family in ours:
        assert family.type in ("counter", "gauge")
        assert family.documentation
        assert all(sample.name.endswith("_total") == (family.type == "counter") for sample in family.samples)


def test_the_process_is_measured_too():
    assert value("process_resident_memory_bytes") > 1 << 20
