"""`ctrl.replay` of tenants behind NVEs that know nothing of their groups (F 3.2): device and point hear them
in the capture, as on a running box. Each replay is held against the oracle, frame by frame."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from ctrl import punt
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.replay import Replayed
from tests import captures_io as c
from tests import frames as f
from tests.joining import BEGIN_NS, capture
from tests.replaying import checked, config_of
from tests.wording import words

OUTER, G, OTHER = "239.1.1.1", "239.77.1.3", "239.77.1.4"
PORTS = ("core", "p1", "p2", "p3")
HEAD = f"""
[membership]
startup_response_interval_s = 0.1
[[network]]
name = "blue"
vni = 5001
group = "{OUTER}"
snoop = true
"""
BOX = """
[[port]]
name = "core"
faces = "core"
address = "10.0.0.1/24"
""" + "".join(f'[[port]]\nname = "p{n}"\nfaces = "nve"\naddress = "10.1.{n}.1/24"\n' for n in (1, 2, 3))
DEVICE = f"""
[device]
address = "10.0.0.1"
[[device.peer]]
group = "{OUTER}"
addresses = ["10.0.0.2"]
""" + "".join(f'[[device.member]]\nport = "p{n}"\ngroup = "{OUTER}"\n' for n in (1, 2, 3))
POINT = """
[replicator]
address = "10.0.0.1"
[[replicator.list]]
vni = 5001
addresses = ["10.1.1.2", "10.1.2.2", "10.1.3.2"]
"""
VMS = int(ip_address("172.16.5.0"))
QUERY = igmp.query_frame(Query(3, robustness=2, interval_s=125.0), bytes(5) + b"\x42", VMS + 99)
Sent = tuple[str, float, bytes]


def tunnelled(n: int, inner: bytes, to: str = OUTER) -> bytes:
    """What the NVE behind port n sends."""
    return f.wire(f.vxlan_packet(inner, f"10.1.{n}.2", to, 5001))


def says(n: int, kind: Kind = Kind.TO_EX, to: str = OUTER) -> tuple[str, bytes]:
    """A report of a VM there, with its port."""
    record = Record(kind, int(ip_address(G)), ())
    frame = igmp.report_frame(Report(3, (record,)), bytes((2, 0, 0, 0, 0, n)), VMS + n)
    return f"p{n}", tunnelled(n, frame, to)


def stream(number: int, n: int = 1, group: str = G, to: str = OUTER) -> tuple[str, bytes]:
    """A datagram of a stream of a VM there."""
    return f"p{n}", tunnelled(n, f.tenant("172.16.5.9", group, sport=50000 + number), to)


@pytest.fixture
def run(tmp_path: Path):
    """Replay (seconds, port, frame) through a box: what it came to, (port, seconds, frame) of what left."""

    def run(text: str, *frames: tuple[float, tuple[str, bytes]]) -> tuple[Replayed, list[Sent]]:
        arrivals = [(at_s, port, data) for at_s, (port, data) in frames]
        out = tmp_path / "out.pcapng"
        done = checked(config_of(text), capture(tmp_path / "in.pcapng", arrivals, PORTS), out).done
        left = [(str(name), (ns - BEGIN_NS) / 1e9, data) for name, ns, data in c.read_frames(out)]
        return done, left

    return run


def copies(left: list[Sent]) -> dict[int, list[str]]:
    """Where each datagram of a stream went, by its number."""
    found: dict[int, list[str]] = {}
    for name, _, data in left:
        said = words(data)
        if " UDP 500" in said:
            found.setdefault(int(said.split(" UDP 500")[1][:2]), []).append(name)
    return found


def test_from_a_report_on_a_stream_goes_to_its_nve_and_to_the_peers(run):
    """Peers of the config say nothing of their tenants, and get everything. Who is new does so at first."""
    done, left = run(
        HEAD + BOX + DEVICE,
        (0.0, stream(1)),
        (0.1, says(2)),
        (0.2, stream(2)),
        (4.0, stream(3)),
        (4.1, stream(4, group=OTHER)),
        (5.0, says(2, Kind.TO_IN)),
        (6.9, stream(5)),
        (7.1, stream(6)),
    )
    everywhere, narrowed = ["p2", "p3", "core"], ["p2", "core"]
    assert copies(left) == {
        1: everywhere,
        2: everywhere,
        3: narrowed,
        4: everywhere,
        5: narrowed,
        6: everywhere,
    }
    assert (done.joined, done.left) == (1, 1)
    assert done.statistics.punted == 2
    assert done.refused == {}


def test_a_router_behind_an_nve_gets_every_group_that_is_joined_and_all_reports(run):
    done, left = run(
        HEAD + BOX + DEVICE,
        (5.0, says(2)),
        (5.1, ("p3", tunnelled(3, QUERY))),
        (5.2, stream(1)),
        (5.3, says(2, Kind.IS_EX)),
    )
    assert copies(left) == {1: ["p2", "p3", "core"]}
    handed = [(name, data[50:]) for name, at_s, data in left if at_s > 5.05 and "UDP 500" not in words(data)]
    assert [name for name, inner in handed if inner == QUERY] == ["p1", "p2"]
    assert [name for name, inner in handed if "v3 report" in words(inner)] == ["p3"]
    (row,) = [row for row in done.members if row["network"]]
    assert (row["port"], row["network"], row["group"], row["nve"]) == ("p2", "blue", G, "172.16.5.2")


def test_unregistered_groups_go_to_routers_and_peers_alone_by_config(run):
    text = HEAD.replace("snoop = true", 'snoop = true\nunregistered = "drop"')
    _, left = run(
        text + BOX + DEVICE,
        (0.1, stream(1, group=OTHER)),
        (5.0, stream(2, group=OTHER)),
        (5.1, ("p3", tunnelled(3, QUERY))),
        (5.2, stream(3, group=OTHER)),
    )
    assert copies(left) == {1: ["p2", "p3", "core"], 2: ["core"], 3: ["p3", "core"]}


def test_n12_a_point_copies_to_those_of_its_list_whose_tenants_joined(run):
    done, left = run(
        HEAD + BOX + POINT,
        (0.1, says(2, to="10.0.0.1")),
        (4.0, stream(1, to="10.0.0.1")),
        (4.1, stream(2, group=OTHER, to="10.0.0.1")),
    )
    assert copies(left) == {1: ["p2"], 2: ["p2", "p3"]}
    assert done.of_tenants == 2 * 3
    (row,) = done.members
    assert (row["port"], row["group"]) == ("p2", G)


def test_what_control_said_stands_in_the_output_and_is_counted(run):
    """Queries to each NVE's VMs, as nobody, in packets of ours; the NVEs themselves are asked besides."""
    done, left = run(HEAD + BOX + DEVICE, (0.0, stream(1)), (1.0, stream(2)))
    inside = [
        data[50:] for _, _, data in left if "VXLAN 5001" in words(data) and " UDP 500" not in words(data)
    ]
    asked = [punt.read(data, strict_headers=True) for data in inside]
    assert all(isinstance(one, punt.Heard) and isinstance(one.message, Query) for one in asked)
    assert done.of_tenants == len(asked) == 2 * 3
    assert done.queries == 2 * 3
