"""`ctrl.replay` of hosts of VMs: small captures of VM ports and the uplink, held against the oracle."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import pytest

from ctrl.cli.replay import report
from ctrl.protocols import igmp
from ctrl.protocols.messages import Query
from ctrl.replay import replay
from tests import frames as f
from tests.joining import BEGIN_NS, capture
from tests.replaying import Checked, checked, config_of
from tests.wording import words

GROUP, OTHERS_GROUP = "239.1.1.1", "239.1.1.2"
OURS, FAR, FARTHER = "10.1.1.2", "10.1.1.3", "10.1.1.4"
M1, M2, M3, M9 = (bytes((2, 0, 0, 0, 0, n)) for n in (1, 2, 3, 9))
ALL = b"\xff" * 6
HOST = f"""
[nve]
address = "{OURS}"
[[network]]
name = "blue"
vni = 5001
vsid = 6001
group = "{GROUP}"
[[network]]
name = "red"
vni = 5002
group = "{GROUP}"
[[port]]
name = "vm1"
faces = "vm"
network = "blue"
[[port]]
name = "up"
faces = "core"
address = "10.1.1.99/24"
[[port]]
name = "vm2"
faces = "vm"
network = "blue"
[[port]]
name = "vm3"
faces = "vm"
network = "red"
"""
PORTS = ("vm1", "vm2", "vm3", "up")


def vm(src: bytes, dst: bytes = ALL, **knobs) -> bytes:
    """A frame of a VM."""
    return f.tenant("172.16.5.1", "172.16.5.2", src_mac=src, dst_mac=dst, **knobs)


def from_far(inner: bytes, dst: str = GROUP, vni: int = 5001, src: str = FAR) -> bytes:
    """What another VTEP sends."""
    return f.wire(f.vxlan_packet(inner, src, dst, vni))


@pytest.fixture
def run(tmp_path: Path):
    """Replay (seconds, port, frame) by a config, held against the oracle."""

    def run(frames, text: str = HOST) -> Checked:
        made = capture(tmp_path / "in.pcapng", frames, PORTS)
        return checked(config_of(text), made, tmp_path / "out.pcapng")

    return run


def ports(result: Checked) -> list[str]:
    return [name for name, _ in result.copies]


def knows(result: Checked) -> list[tuple[str, str, str]]:
    return [(one["network"], one["mac"][-2:], one["port"] or one["vtep"]) for one in result.done.macs]


def test_a_broadcast_of_a_vm_leaves_once_to_the_group_and_reaches_the_vms_of_its_network_here(run):
    """CONFORMANCE N1, N2."""
    result = run([(0, "vm1", vm(M1))])
    assert ports(result) == ["vm2", "up"]
    assert result.by("vm2") == [vm(M1)]
    (sent,) = result.by("up")
    assert words(sent).startswith(f"{OURS} > {GROUP} ttl 64 ")
    assert "4789 VXLAN 5001" in words(sent)
    assert sent.endswith(vm(M1))


def test_nvgre_carries_what_vms_of_an_nvgre_network_say(run):
    """CONFORMANCE N1, W2."""
    (sent,) = run([(0, "vm1", vm(M1))], HOST.replace("vsid = 6001", 'vsid = 6001\nencap = "nvgre"')).by("up")
    assert sent[14 + 20 : 14 + 20 + 7] == bytes.fromhex("20006558001771")


def test_what_comes_in_for_a_network_reaches_its_vms_alone_and_never_the_uplink_again(run):
    """CONFORMANCE N8, N9 (a shared group), N10."""
    result = run(
        [
            (0, "up", from_far(vm(M9))),
            (1, "up", from_far(vm(M9), vni=5002)),
            (2, "up", from_far(vm(M9), vni=7)),
        ]
    )
    assert ports(result) == ["vm1", "vm2", "vm3"]
    assert [one.reason for one in result.outcomes] == [None, None, "unknown_vni"]
    assert knows(result) == [("blue", "09", FAR), ("red", "09", FAR)]


def test_our_own_frames_that_come_back_are_ignored(run):
    """CONFORMANCE N10."""
    result = run([(0, "up", from_far(vm(M1), src=OURS))])
    assert [one.reason for one in result.outcomes] == ["own_source"]
    assert knows(result) == []


def test_a_known_station_is_sent_to_where_it_is_from_the_next_frame_on(run):
    """One copy: to the VTEP, or to the VM port; unknown unicast goes as a broadcast does."""
    result = run(
        [
            (0, "vm1", vm(M1, M9)),
            (0, "up", from_far(vm(M9, M1), dst=OURS)),
            (0, "vm1", vm(M1, M9)),
            (0, "vm2", vm(M2, M1)),
        ]
    )
    assert ports(result) == ["vm2", "up", "vm1", "up", "vm1"]
    assert words(result.by("up")[1]).startswith(f"{OURS} > {FAR} ")
    assert knows(result) == [("blue", "01", "vm1"), ("blue", "02", "vm2"), ("blue", "09", FAR)]
    assert result.done.statistics.unknown_unicast == 1


def test_a_vm_that_speaks_elsewhere_has_moved_there(run):
    """A gratuitous ARP does it: from a VTEP to a VM port, and to another VTEP."""
    result = run(
        [
            (0, "up", from_far(vm(M9))),
            (1, "vm2", vm(M9)),
            (2, "vm1", vm(M1, M9)),
            (3, "up", from_far(vm(M9), src=FARTHER)),
            (4, "vm1", vm(M1, M9)),
        ]
    )
    assert ports(result) == ["vm1", "vm2", "vm1", "up", "vm2", "vm1", "vm2", "up"]
    assert words(result.by("up")[1]).startswith(f"{OURS} > {FARTHER} ")
    assert ("blue", "09", FARTHER) in knows(result)


def test_a_static_station_stays_where_the_config_has_it(run):
    text = HOST + f'[[nve.mac]]\nnetwork = "blue"\nmac = "{M9.hex(":")}"\nvtep = "{FARTHER}"\n'
    text += f'[[nve.mac]]\nnetwork = "blue"\nmac = "{M2.hex(":")}"\nport = "vm2"\n'
    result = run([(0, "up", from_far(vm(M9))), (1, "vm1", vm(M1, M9)), (2, "vm1", vm(M1, M2))], text)
    assert ports(result) == ["vm1", "vm2", "up", "vm2"]
    assert words(result.by("up")[0]).startswith(f"{OURS} > {FARTHER} ")
    assert {(one["mac"][-2:], one["origin"]) for one in result.done.macs} == {
        ("09", "static"), ("02", "static"), ("01", "learned"),
    }  # fmt: skip
    assert result.done.refused["static_mac_moved"] == 1


def test_one_mac_in_two_networks_is_two_stations(run):
    result = run([(0, "vm1", vm(M1)), (1, "vm3", vm(M1)), (2, "vm2", vm(M2, M1))])
    assert ports(result)[-1] == "vm1"
    assert knows(result) == [("blue", "01", "vm1"), ("blue", "02", "vm2"), ("red", "01", "vm3")]


def test_a_service_node_gets_what_has_several_or_unknown_receivers_and_no_group_is_joined(run):
    text = HOST.replace(f'address = "{OURS}"', f'address = "{OURS}"\nsend_to = ["{FAR}", "{FARTHER}"]', 1)
    result = run([(0, "vm1", vm(M1)), (5, "vm1", vm(M1))], text)
    assert [words(one).split(" ttl")[0] for one in result.by("up")] == [
        f"{OURS} > {FAR}",
        f"{OURS} > {FARTHER}",
    ] * 2
    assert result.said == []


def test_the_nve_joins_once_for_all_its_vms_of_a_group_and_repeats_it(run):
    """CONFORMANCE N3: two networks share it; W8: the report is from the interface's address."""
    result = run([(0, "vm1", vm(M1)), (9, "vm1", vm(M1))])
    assert {(one.port, words(one.data)) for one in result.said} == {
        ("up", f"10.1.1.99 > 224.0.0.22 ttl 1 id 0 IGMP v3 report TO_EX {GROUP}")
    }
    assert result.done.reports == len(result.said) == 2
    assert result.done.queries == 0


def test_the_nve_answers_a_general_query_with_its_groups_and_no_query_for_others(run):
    """CONFORMANCE N6, N7."""
    red = HOST.replace(f'vni = 5002\ngroup = "{GROUP}"', f'vni = 5002\ngroup = "{OTHERS_GROUP}"')
    ask, foreign = (
        igmp.query_frame(Query(3, int(ip_address(group)), response_s=10.0), M9, int(ip_address("10.1.1.1")))
        for group in ("0.0.0.0", "239.9.9.9")
    )
    result = run([(5, "up", ask), (20, "up", foreign), (40, "vm1", vm(M1))], red)
    late = [words(one.data) for one in result.said if one.time_ns > BEGIN_NS + 7 * 10**9]
    assert len(late) == 1
    assert f"IS_EX {GROUP}" in late[0]
    assert OTHERS_GROUP in late[0]


def test_a_guard_drops_what_a_vm_may_not_send(run):
    text = HOST.replace('name = "vm1"\n', f'name = "vm1"\nmacs = ["{M1.hex(":")}"]\ntagged = "drop"\n', 1)
    frames = [(0, "vm1", vm(M1)), (0, "vm1", vm(M2)), (0, "vm1", vm(M1, tags=[(0x8100, 5)]))]
    result = run(frames, text)
    assert [one.reason for one in result.outcomes] == [None, "wrong_source", "tagged_frame"]
    assert knows(result) == [("blue", "01", "vm1")]


def test_a_station_is_forgotten_when_it_was_silent_for_the_ageing_time(tmp_path):
    """By the capture's clock; one that is heard stays."""
    frames = [(0, "vm1", vm(M1)), (1, "vm2", vm(M2)), (8, "vm2", vm(M2)), (11.5, "vm2", vm(M2, M1))]
    text = HOST.replace(f'address = "{OURS}"', f'address = "{OURS}"\nageing_s = 10', 1)
    made = capture(tmp_path / "in.pcapng", frames, PORTS)
    done = replay(config_of(text), made, tmp_path / "out.pcapng")
    assert [(one["mac"][-2:], one["age_s"]) for one in done.macs] == [("02", 0.0)]
    assert done.statistics.unknown_unicast == 1


def test_frames_to_stations_that_are_forgotten_at_the_end_are_told_as_frames_to_stations(tmp_path):
    frames = [(0, "vm1", vm(M1)), (1, "vm2", vm(M2, M1)), (60, "up", from_far(vm(M9), src=OURS))]
    text = HOST.replace(f'address = "{OURS}"', f'address = "{OURS}"\nageing_s = 10', 1)
    made = capture(tmp_path / "in.pcapng", frames, PORTS)
    done = replay(config_of(text), made, tmp_path / "out.pcapng")
    assert done.macs == []
    lines = "\n".join(report(made, tmp_path / "out.pcapng", done))
    assert re.search(r"^- +known stations +1$", lines, re.MULTILINE)


def test_limits_of_what_is_learned_are_counted_and_lose_no_frame(tmp_path):
    frames = [(0, "vm1", vm(bytes((2, 0, 0, 0, 1, n)))) for n in range(1, 6)]
    text = HOST.replace(f'address = "{OURS}"', f'address = "{OURS}"\nmax_macs_per_port = 3', 1)
    made = capture(tmp_path / "in.pcapng", frames, PORTS)
    done = replay(config_of(text), made, tmp_path / "out.pcapng")
    assert len(done.macs) == 3
    assert done.refused["mac_port_full"] == 2
    assert done.statistics.replicated == 5


def test_a_person_reads_where_stations_are_and_how_many_more_there_are(run, tmp_path):
    frames = [(0, "vm1", vm(bytes((2, 0, 0, 0, 1, n)))) for n in range(1, 25)]
    done = run([*frames, (0, "up", from_far(vm(M9))), (0, "vm1", vm(bytes((2, 0, 0, 0, 1, 1)), M9))]).done
    text = "\n".join(report(tmp_path / "in.pcapng", tmp_path / "out.pcapng", done))
    assert "\n25 stations known at the end; 1 reports sent\n" in text
    assert re.search(r"^blue +02:00:00:00:00:09 +- +10\.1\.1\.3 +learned +0\.0$", text, re.MULTILINE)
    assert re.search(r"^blue +02:00:00:00:01:01 +vm1 +- +learned +0\.0$", text, re.MULTILINE)
    assert "\nand 5 more: -j prints them all\n" in text
    assert re.search(r"^- +known stations +1$", text, re.MULTILINE)
