"""`ctrl.replay`: captures through configs, held against the reference, the golden files and each other."""

from __future__ import annotations

import struct
from collections import Counter
from ipaddress import ip_address
from pathlib import Path

import pytest

from ctrl.config import Config, load
from ctrl.replay import CHUNK_FRAMES, CutShort, Interrupted, Replayed, differences, open_any, replay
from fastpath.errors import CaptureError
from fastpath.model import Egress, Form
from tests import captures_io as c
from tests import frames as f
from tests import goldens
from tests.captures_io import read_frames
from tests.command import SMALL, TO_GROUP, cut, pcap_of, pcapng_of
from tests.igmp_vectors import IGMP, MLD
from tests.replaying import CAPTURES, EXAMPLES, Checked, checked, config_of, copies_in
from tests.wording import words

DEMO = EXAMPLES / "demo.toml"
CAPTURE = CAPTURES / "mixed_demo.pcapng"
GROUP = "239.1.1.100"
TENANT = f.tenant()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[goldens.Golden, Checked]:
    """Replay every capture by every example, each checked against the reference on the way."""
    return {golden: goldens.run(golden, tmp_path_factory.mktemp("replay")) for golden in goldens.ALL}


# --- what captures come to ----------------------------------------------------------------------------------


@pytest.mark.parametrize("golden", goldens.GOLDENS, ids=lambda golden: golden.file.stem)
def test_a_capture_comes_to_what_its_golden_file_says(golden: goldens.Golden, results):
    """Changed on purpose? `.venv/bin/python -m tests.goldens`, then read the diff."""
    assert golden.file.read_text() == goldens.text(goldens.lines(golden, results[golden]))


def test_the_totals_of_every_capture_by_every_example_are_the_golden_ones(results):
    """That the books balance, and each frame's fate is the reference's, `checked` has asserted."""
    assert goldens.TOTALS.read_text() == goldens.text(goldens.total(*one) for one in results.items())


def test_every_capture_and_every_example_has_its_totals():
    told = {tuple(line.split()[:2]) for line in goldens.TOTALS.read_text().splitlines()}
    captures = {path.name for path in CAPTURES.glob("*.pcap*")} | set(goldens.MADE)
    assert told == {(config.name, capture) for config in EXAMPLES.glob("*.toml") for capture in captures}


def test_a_check_of_a_replay_notices_a_copy_that_the_reference_does_not_make(tmp_path, monkeypatch):
    """The comparison itself: with one bit changed in one copy, it names the frame."""
    real = read_frames

    def tampered(path: Path) -> list[c.Frame]:
        found = real(path)
        if path.name == "out.pcapng":
            name, time, data = found[11]
            found[11] = (name, time, data[:-1] + bytes((data[-1] ^ 1,)))
        return found

    monkeypatch.setattr("tests.replaying.read_frames", tampered)
    with pytest.raises(AssertionError, match="frame 11"):
        checked(load(DEMO), CAPTURE, tmp_path / "out.pcapng")


def test_words_for_a_frame_are_those_of_its_headers():
    nested = f.wire(f.nested_packet(f.vxlan_packet(TENANT, "10.1.1.2", GROUP, 100), "10.0.0.2", "10.0.0.1"))
    assert words(nested) == (
        "10.0.0.2 > 10.0.0.1 ttl 7 id 17185 UDP 49443 > 4754 GRE | 10.1.1.2 > 239.1.1.100 ttl 7 id 17185 "
        "UDP 49443 > 4789 VXLAN 100 | 172.16.5.9 > 239.77.1.3 ttl 7 id 17185 UDP 40001 > 5004 sum"
    )
    assert words(f.wire(f.mld("fe80::7", "ff02::16"))) == "fe80::7 > ff02::16 hlim 1 MLDv2 report"
    assert words(nested[:50]).startswith("... ")


def test_words_for_a_report_or_a_query_name_groups_and_sources():
    report = f.igmp("10.1.1.2", "224.0.0.22", 0x22, bytes(3) + IGMP["TO_EXC"][4:])
    named = "{192.0.2.1, 192.0.2.20, 192.0.2.30}"
    assert words(f.wire(report)).endswith(f" IGMP v3 report TO_EX 239.10.10.10 {named}")
    query = f.mld("fe80::7", "ff02::1", 130, MLD["SMOLTCP_QUERY"][1:])
    assert words(f.wire(query)).endswith(" MLD query ff02::1 {ff02::2} within 1.024 s")
    leave = f.igmp("10.1.1.2", "224.0.0.2", 0x17, IGMP["V2_LEAVE"][1:])
    assert words(f.wire(leave)).endswith(" IGMP v2 leave 224.0.6.150")


# --- where frames come in, and copies go out ----------------------------------------------------------------


def test_the_interfaces_of_a_pcapng_are_ports_by_name(tmp_path):
    capture = pcapng_of(tmp_path / "in.pcapng", ("p2", TO_GROUP), ("up", TO_GROUP), ("p1", TO_GROUP))
    result = checked(config_of(SMALL), capture, tmp_path / "out.pcapng")
    assert [name for name, _ in result.copies] == ["up", "p2", "p2", "up"]
    assert [row.received for row in result.done.statistics.ports] == [1, 1, 1]


@pytest.mark.parametrize(("in_port", "leaves"), [(None, ["p2", "up"]), ("p2", ["up"]), ("up", ["p2"])])
def test_a_pcap_comes_in_on_in_port_or_else_on_the_first_port(tmp_path, in_port, leaves):
    result = checked(
        config_of(SMALL), pcap_of(tmp_path / "in.pcap", TO_GROUP), tmp_path / "out.pcapng", in_port
    )
    assert [name for name, _ in result.copies] == leaves


def test_interfaces_that_are_no_port_come_in_on_in_port_and_the_others_on_theirs(tmp_path):
    capture = pcapng_of(tmp_path / "in.pcapng", ("eth9", TO_GROUP), ("up", TO_GROUP))
    result = checked(config_of(SMALL), capture, tmp_path / "out.pcapng", "p2")
    assert [row.received for row in result.done.statistics.ports] == [0, 1, 1]


def test_an_interface_that_is_no_port_is_an_error_and_leaves_the_output_alone(tmp_path):
    out = tmp_path / "out.pcapng"
    out.write_text("precious")
    with pytest.raises(CaptureError, match="'eth9' but no port is called that; the ports are p1, p2, up"):
        replay(config_of(SMALL), pcapng_of(tmp_path / "in.pcapng", ("eth9", TO_GROUP)), out)
    assert out.read_text() == "precious"


def test_a_config_without_ports_has_nowhere_for_frames_to_come_in(tmp_path):
    with pytest.raises(ValueError, match="no \\[\\[port\\]\\]"):
        replay(config_of('node = "a"'), pcap_of(tmp_path / "in.pcap", TO_GROUP), tmp_path / "out.pcap")


def test_a_pcap_holds_the_same_copies_as_a_pcapng_in_one_stream(tmp_path):
    for name in ("out.pcap", "out.pcapng"):
        replay(load(DEMO), CAPTURE, tmp_path / name)
    stream, named = (read_frames(tmp_path / name) for name in ("out.pcap", "out.pcapng"))
    assert [(time // 1000, data) for _, time, data in stream] == [
        (time // 1000, data) for _, time, data in named
    ]
    assert not list(differences(tmp_path / "out.pcap", tmp_path / "out.pcapng"))


@pytest.mark.parametrize(("magic", "time"), [(c.US, 10**18 + 1000), (c.NS, 10**18 + 1)])
def test_a_pcap_of_nanoseconds_comes_to_one_of_nanoseconds(tmp_path, magic: int, time: int):
    """And one of microseconds to what readers from before 2013 know."""
    (tmp_path / "in.pcap").write_bytes(c.pcap([(time, TO_GROUP)], magic=magic))
    replay(config_of(SMALL), tmp_path / "in.pcap", tmp_path / "out.pcap")
    assert (tmp_path / "out.pcap").read_bytes()[:4] == struct.pack("=I", magic)
    assert {when for _, when, _ in read_frames(tmp_path / "out.pcap")} == {time}
    assert len(copies_in(tmp_path / "out.pcap")) == 2


WAYS = """
[[port]]
name = "p1"
faces = "nve"
address = "10.0.0.9/16"
[[port]]
name = "first"
faces = "core"
address = "10.5.0.1/24"
[[port]]
name = "second"
faces = "core"
address = ["10.7.0.1/24", "10.8.0.1/16"]
[[port]]
name = "third"
faces = "core"
address = "10.8.9.1/24"
[device]
address = "10.5.0.1"
[[device.peer]]
group = "239.1.1.100"
addresses = ["10.5.0.2", "10.7.0.2", "10.8.0.2", "10.8.9.2", "192.0.2.2"]
"""


def test_copies_to_a_peer_leave_by_the_port_whose_prefix_holds_it_else_by_the_first_core_port(tmp_path):
    """The longest prefix where two hold it; next hops and sources are those of the out port."""
    result = checked(config_of(WAYS), pcap_of(tmp_path / "in.pcap", TO_GROUP), tmp_path / "out.pcapng", "p1")
    left = {str(ip_address(data[30:34])): (name, data[:12].hex()) for name, data in result.copies}
    assert left == {
        "10.5.0.2": ("first", "02fa57ff000202fa57000002"),
        "10.7.0.2": ("second", "02fa57ff000302fa57000003"),
        "10.8.0.2": ("second", "02fa57ff000302fa57000003"),
        "10.8.9.2": ("third", "02fa57ff000402fa57000004"),
        "192.0.2.2": ("first", "02fa57ff000202fa57000002"),
    }


def test_ipv4_identifications_count_from_0_per_egress(results):
    """In headers that we make; two replays compare byte for byte for that reason."""
    result = results[goldens.GOLDENS[0]]
    made: Counter[Egress] = Counter()
    for (_, frame), outcome in zip(result.arrivals, result.outcomes, strict=True):
        for copy in outcome.copies:
            if copy.egress.form is not Form.GROUP or copy.data[23] != frame.data[23]:  # a translation
                assert struct.unpack_from("!H", copy.data, 18)[0] == made[copy.egress]
                made[copy.egress] += 1
    assert sorted(made.values()) == [27, 43, 60, 110, 138, 150]


# --- configs of live boxes ----------------------------------------------------------------------------------

LIVE_TABLES = """
[control]
socket = "/run/fastpath/tor1.sock"
http = "127.0.0.1:9473"
[membership]
query_interval_s = 125
[manager]
listen = "10.0.0.100:9470"
[tls]
cert = "tor1.pem"
key = "tor1.key"
ca = "ca.pem"
"""


def test_a_live_box_s_config_replays_as_it_stands(tmp_path):
    """Whatever a port's kind, captures stand in for it; what only a live box has changes nothing."""
    offline = DEMO.read_text()
    live = offline
    for name, kind in (("p1", "packet"), ("p2", "xdp"), ("core", "packet")):
        live = live.replace(f'name = "{name}"', f'name = "{name}"\nkind = "{kind}"\ndevice = "eth{name}"')
    live = live.replace('node = "tor1"', 'node = "tor1"\n[dataplane]\nworkers = 2\ncpus = [1, 2]\nbatch = 32')
    assert live.count("device = ") == 3
    one = checked(config_of(offline), CAPTURE, tmp_path / "offline.pcapng")
    other = checked(config_of(live + LIVE_TABLES), CAPTURE, tmp_path / "live.pcapng")
    assert one.copies == other.copies


@pytest.mark.parametrize("batch", [1, 7])
def test_the_size_of_a_batch_changes_no_copy(tmp_path, batch):
    text = DEMO.read_text().replace('node = "tor1"', f'node = "tor1"\n[dataplane]\nbatch = {batch}')
    replay(config_of(text), CAPTURE, tmp_path / "small.pcapng")
    replay(load(DEMO), CAPTURE, tmp_path / "large.pcapng")
    assert not list(differences(tmp_path / "small.pcapng", tmp_path / "large.pcapng"))


# --- damage and progress ------------------------------------------------------------------------------------


def test_of_a_capture_that_ends_in_the_middle_of_a_frame_all_frames_before_are_forwarded(tmp_path):
    whole = pcap_of(tmp_path / "whole.pcap", *[TO_GROUP] * 9)
    size = whole.stat().st_size - 2 * (16 + len(TO_GROUP)) - 5
    done = replay(config_of(SMALL), cut(tmp_path / "cut.pcap", whole, size), tmp_path / "out.pcapng")
    assert done.damage is not None
    assert done.damage.startswith(f"{tmp_path}/cut.pcap: byte ")
    assert done.statistics.received == 6
    assert [name for name, *_ in copies_in(tmp_path / "out.pcapng")] == ["p2", "up"] * 6


def test_progress_is_told_between_chunks_and_ends_with_all_frames(tmp_path):
    told: list[tuple[int, int]] = []
    n = CHUNK_FRAMES + 300
    capture = pcap_of(tmp_path / "in.pcap", *[f.arp()] * n)
    done = replay(config_of(SMALL), capture, tmp_path / "out.pcap", progress=lambda *one: told.append(one))
    assert done.statistics.received == n
    assert [total for _, total in told] == [n] * len(told)
    assert len(told) >= 2
    assert [frames for frames, _ in told] == sorted(frames for frames, _ in told)
    assert told[-1] == (n, n)


def test_an_output_that_takes_not_even_its_head_is_an_error_before_anything_is_forwarded(tmp_path):
    """`/dev/full` takes nothing: not even the head of a capture, so nothing is forwarded."""
    (tmp_path / "out.pcap").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        replay(config_of(SMALL), pcap_of(tmp_path / "in.pcap", TO_GROUP), tmp_path / "out.pcap")


def test_an_error_of_whoever_is_told_of_the_progress_is_not_taken_for_one_of_the_output(tmp_path):
    def fails(done: int, total: int) -> None:
        raise OSError(5, "the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone") as caught:
        replay(
            config_of(SMALL), pcap_of(tmp_path / "in.pcap", TO_GROUP), tmp_path / "out.pcap", progress=fails
        )
    assert not isinstance(caught.value, CutShort)
    assert len(copies_in(tmp_path / "out.pcap")) == 2


# --- the result ---------------------------------------------------------------------------------------------


def result_of(config: Config, tmp_path: Path, *frames: bytes) -> Replayed:
    return replay(config, pcap_of(tmp_path / "in.pcap", *frames), tmp_path / "out.pcap")


def test_a_capture_without_frames_comes_to_nothing(tmp_path):
    done = result_of(config_of(SMALL), tmp_path)
    told = done.as_object()
    assert (told["received"], told["copies_out"], told["drops"], done.damage) == (0, 0, [], None)
    assert read_frames(tmp_path / "out.pcap") == []


def test_rates_are_over_the_time_that_the_capture_spans(tmp_path):
    told = result_of(config_of(SMALL), tmp_path, *[f.arp()] * 5).as_object()
    assert [(row["frames"], row["rate_pps"]) for row in told["drops"]] == [(5, 1250.0)]
    alone = result_of(config_of(SMALL), tmp_path, f.arp()).as_object()
    assert [(row["frames"], row["rate_pps"]) for row in alone["drops"]] == [(1, None)]


def test_a_member_of_a_mapped_group_has_the_vni_of_the_network_that_maps_it(tmp_path):
    network = """
[[network]]
name = "blue"
vni = 100
group = "239.1.1.1"
[[network.map]]
inner = "239.77.0.0/16"
group = "239.1.1.100"
"""
    assert [row["vni"] for row in result_of(config_of(SMALL + network), tmp_path).as_object()["members"]] == [
        ["100"]
    ]


# --- comparing ----------------------------------------------------------------------------------------------


def told(tmp_path: Path, out: list[tuple[str, bytes]], expect: list[tuple[str, bytes]]) -> list[str]:
    """The differences of two pcapngs, less the file's name."""
    expected = pcapng_of(tmp_path / "expect.pcapng", *expect)
    found = differences(pcapng_of(tmp_path / "out.pcapng", *out), expected)
    return [one.removeprefix(f"{expected}: ") for one in found]


A, B = bytes(range(60)), bytes(range(1, 61))


def test_equal_copies_do_not_differ_whatever_their_times_and_the_order_between_ports(tmp_path):
    assert told(tmp_path, [("p1", A), ("p2", B), ("p1", B)], [("p2", B), ("p1", A), ("p1", B)]) == []


def test_a_difference_is_told_with_port_copy_and_first_byte(tmp_path):
    changed = A[:14] + b"\xff" + A[15:]
    (found,) = told(tmp_path, [("p1", B), ("p2", B), ("p2", changed)], [("p1", B), ("p2", B), ("p2", A)])
    rest = "0f 1011 1213 1415 1617 1819 1a1b 1c1d 1e1f 2021 2223 2425 (60 bytes in all)"
    assert found == f"port p2, copy 2: differs from byte 14 on: ff{rest}; expected 0e{rest}"


def test_a_missing_and_an_extra_copy_are_told_apart_port_by_port(tmp_path):
    found = told(tmp_path, [("p1", A), ("p2", A), ("p2", B)], [("p1", A), ("p1", B), ("p2", A)])
    assert [one[:30] for one in found] == ["port p1, copy 2: missing: 0102", "port p2, copy 2: not expected:"]


def test_a_copy_that_is_cut_differs_where_it_ends(tmp_path):
    (found,) = told(tmp_path, [("p1", A[:40])], [("p1", A)])
    assert "port p1, copy 1: differs from byte 40 on: no more (40 bytes in all); expected 2829" in found


def test_a_port_that_only_the_expectation_knows_misses_its_copies(tmp_path):
    """Interfaces that are no port of the config are a difference like any other."""
    (found,) = told(tmp_path, [("p1", A)], [("p1", A), ("eth9", B)])
    assert found.startswith("port eth9, copy 1: missing")


def test_a_pcap_is_compared_in_its_own_order(tmp_path):
    out = pcapng_of(tmp_path / "out.pcapng", ("p1", A), ("p2", B))
    assert list(differences(out, pcap_of(tmp_path / "same.pcap", A, B))) == []
    (found,) = differences(out, pcap_of(tmp_path / "other.pcap", B, A))
    assert found.startswith(f"{tmp_path}/other.pcap: copy 1: differs from byte 0 on")


def test_a_damaged_expectation_is_never_met(tmp_path):
    out = pcap_of(tmp_path / "out.pcap", A)
    longer = pcap_of(tmp_path / "longer.pcap", A, B)
    (found,) = differences(out, cut(tmp_path / "expect.pcap", longer, longer.stat().st_size - 3))
    assert found.startswith(f"{tmp_path}/expect.pcap: byte ")


def test_an_interrupted_replay_keeps_its_copies_and_says_how_many(tmp_path: Path):
    """Ctrl-C comes between two bursts: what was forwarded is in OUT, whole."""
    out = tmp_path / "out.pcapng"
    calls: list[int] = []

    def interrupt(done: int, total: int) -> None:
        calls.append(done)
        raise KeyboardInterrupt

    config = load(DEMO)
    said = r"interrupted; .*out\.pcapng holds the first 760 copies .*frame 280 of 280"
    with pytest.raises(Interrupted, match=said):
        replay(config, CAPTURE, out, progress=interrupt)
    assert calls == [280]
    with open_any(out) as capture:
        assert (capture.n_frames, capture.damage) == (760 + 7, None)  # 7 queries
