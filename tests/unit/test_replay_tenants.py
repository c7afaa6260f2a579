"""`ctrl.replay` of tenants (N13): what VMs say in the capture acts by its clock, as on a running box."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from ctrl import punt
from ctrl.cli.replay import report as reported
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.replay import Replayed
from tests import captures_io as c
from tests import frames as f
from tests.joining import BEGIN_NS, capture
from tests.replaying import checked, config_of
from tests.wording import words

OUTER, OURS, FAR = "239.1.1.1", "10.1.1.2", "10.1.1.3"
G, OTHER = "239.77.1.3", "239.77.1.4"
VMS = int(ip_address("172.16.5.0"))
HOST = f"""
[nve]
address = "{OURS}"
[membership]
startup_response_interval_s = 0.1
[[network]]
name = "blue"
vni = 5001
group = "{OUTER}"
snoop = true
[[port]]
name = "vm1"
faces = "vm"
network = "blue"
[[port]]
name = "vm2"
faces = "vm"
network = "blue"
[[port]]
name = "up"
faces = "core"
address = "10.1.1.99/24"
"""
PORTS = ("vm1", "vm2", "up")
Sent = tuple[str, float, bytes]


def report(vm: int, kind: Kind = Kind.TO_EX, *sources: str) -> bytes:
    record = Record(kind, int(ip_address(G)), tuple(int(ip_address(one)) for one in sources))
    return igmp.report_frame(Report(3, (record,)), bytes((2, 0, 0, 0, 0, vm)), VMS + vm)


QUERY = igmp.query_frame(Query(3, robustness=2, interval_s=125.0), bytes(5) + b"\x42", VMS + 99)


def stream(number: int, group: str = G) -> bytes:
    """A datagram of a stream from another NVE."""
    inner = f.tenant("172.16.5.9", group, sport=50000 + number)
    return f.wire(f.vxlan_packet(inner, FAR, OUTER, 5001))


@pytest.fixture
def run(tmp_path: Path):
    """Replay (seconds, port, frame), held against the oracle: what it came to, and (port, seconds, frame) of
    what left."""

    def run(*frames: tuple[float, str, bytes], text: str = HOST) -> tuple[Replayed, list[Sent]]:
        out = tmp_path / "out.pcapng"
        done = checked(config_of(text), capture(tmp_path / "in.pcapng", frames, PORTS), out).done
        left = [(str(name), (ns - BEGIN_NS) / 1e9, data) for name, ns, data in c.read_frames(out)]
        return done, left

    return run


def copies(left: list[Sent]) -> list[tuple[str, int]]:
    """(port, number) of the datagrams of a stream that came out of a tunnel."""
    found = [(name, f"{words(data)}") for name, _, data in left if name != "up" and " UDP 50" in words(data)]
    return [(name, int(said.split(" UDP 500")[1][:2])) for name, said in found]


def test_from_a_vms_report_on_its_group_goes_to_it_alone_once_all_had_the_time_to_answer(run):
    """What is not known yet costs copies: vm2 may be in the group and not have said so."""
    done, left = run(
        (0.0, "up", stream(1)),
        (0.1, "vm1", report(1)),
        (1.1, "up", stream(2)),
        (1.3, "up", stream(3)),
        (1.4, "up", stream(4, OTHER)),
        (1.5, "vm1", report(1, Kind.TO_IN)),
        (3.4, "up", stream(5)),
        (3.6, "up", stream(6)),
    )
    assert copies(left) == [
        *(("vm1", 1), ("vm2", 1), ("vm1", 2), ("vm2", 2), ("vm1", 3), ("vm1", 4), ("vm2", 4)),
        *(("vm1", 5), ("vm1", 6), ("vm2", 6)),
    ]
    assert (done.joined, done.left, done.members) == (1, 1, [])
    assert done.statistics.punted == 2


def test_a_source_that_a_vm_did_not_name_is_not_for_it(run):
    _, left = run(
        (0.0, "vm1", report(1, Kind.ALLOW, "172.16.5.9")),
        (0.0, "vm2", report(2, Kind.ALLOW, "172.16.5.8")),
        (2.0, "up", stream(1)),
    )
    assert copies(left) == [("vm1", 1)]


def test_what_control_said_stands_in_the_output_and_is_counted(run):
    """Queries to each VM; to the overlay what the VMs want together, and what a tenant asks."""
    done, left = run((0.0, "vm1", report(1)), (3.0, "vm2", QUERY), (3.0, "up", stream(1)))
    said = [(name, at_s, data) for name, at_s, data in left if " UDP 50" not in words(data) or name == "up"]
    to_vms = [punt.read(data, strict_headers=True) for name, _, data in said if name != "up"]
    assert all(isinstance(one, punt.Heard) and isinstance(one.message, Query) for one in to_vms)
    assert (3.0, QUERY) in [(at_s, data) for name, at_s, data in said if name == "vm1"]
    inside = [data[50:] for name, _, data in said if name == "up" and "VXLAN 5001" in words(data)]
    assert QUERY in inside
    told = [punt.read(data, strict_headers=True) for data in inside if data != QUERY]
    reports = [one.message for one in told if isinstance(one, punt.Heard) and isinstance(one.message, Report)]
    assert [one.records[0] for one in reports] == [Record(Kind.TO_EX, int(ip_address(G)))] * 2
    assert len(reports) == len(told)
    assert done.of_tenants == len(to_vms) + len(inside)
    assert done.queries == 0
    (row,) = done.members
    assert (row["port"], row["network"], row["vni"], row["group"]) == ("vm1", "blue", ["5001"], G)
    lines = list(reported(Path("in"), Path("out"), done))
    assert f"{done.of_tenants} queries and reports of tenants sent or handed on" in lines


def test_unregistered_groups_are_dropped_by_config(run):
    text = HOST.replace("snoop = true", 'snoop = true\nunregistered = "drop"')
    done, left = run((0.0, "vm1", report(1)), (2.0, "up", stream(1, OTHER)), text=text)
    assert copies(left) == []
    assert [(row.reason.name, row.count) for row in done.statistics.drops] == [("unregistered_group", 1)]


def test_n12_igmp_that_is_not_read_is_handed_on_and_copied_to_service_nodes(run):
    """N12: in the capture's order among the copies; a stream still goes to the whole network."""
    text = HOST.replace("snoop = true", 'igmp_to = ["10.1.1.9"]')
    of_far = f.wire(f.vxlan_packet(report(9), FAR, OUTER, 5001))
    done, left = run((0.0, "vm1", report(1)), (0.1, "up", of_far), (0.2, "up", stream(1)), text=text)
    handed_on = [(name, at_s, data) for name, at_s, data in left if report(1) in data or report(9) in data]
    assert [(name, at_s) for name, at_s, _ in handed_on] == [
        *(("vm2", 0.0), ("up", 0.0), ("up", 0.0)),
        *(("vm1", 0.1), ("vm2", 0.1)),
    ]
    assert [data for name, _, data in handed_on if name != "up"] == [report(1), report(9), report(9)]
    to = [str(ip_address(data[30:34])) for name, _, data in handed_on if name == "up"]
    assert to == [OUTER, "10.1.1.9"]
    assert [data[50:] for name, _, data in handed_on if name == "up"] == [report(1)] * 2
    assert copies(left) == [("vm1", 1), ("vm2", 1)]
    assert (done.members, done.joined, done.of_tenants) == ([], 0, 5)
