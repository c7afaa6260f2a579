"""Captures come in as others read them."""

from __future__ import annotations

import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath.errors import CaptureError
from fastpath.ports import PcapSource
from tests import captures_io as io
from tests.native._receive import received

ROOT = Path(__file__).resolve().parents[2]
PORTS = {"p1": 3, "p2": 0, "core": 7}
ORDERS = ("<", ">")
T = 1_700_000_000_123_456_789
FRAMES = [(T, b"\x01" * 60), (T + 5_000, bytes(range(61))), (T - 2_000_000, b"\x03" * 1514), (T + 1, b"")]

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")
tmp = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def made(tmp_path):
    """Write bytes to a file, open it as a source with the ports above."""

    def make(data: bytes, in_port: int | None = None, ports=PORTS) -> PcapSource:
        path = tmp_path / "in.capture"
        path.write_bytes(data)
        return PcapSource(path, ports, in_port)

    return make


def stamped(frames, magic=io.US):
    unit = 1000 if magic == io.US else 1
    return [(time // unit * unit, data) for time, data in frames]


@pytest.mark.parametrize("magic", [io.US, io.NS])
@pytest.mark.parametrize("order", ORDERS)
def test_a_pcap_comes_in_whole_on_the_port_that_is_given(made, order, magic):
    with made(io.pcap(FRAMES, order, magic), in_port=5) as source:
        expected = stamped(FRAMES, magic)
        assert (source.n_frames, source.frames_read, source.interfaces) == (4, 0, (None,))
        assert (source.first_ns, source.last_ns) == (expected[0][0], max(time for time, _ in expected))
        assert (source.nanoseconds, source.is_pcapng, source.damage) == (magic == io.NS, False, None)
        assert source.size_bytes == source.path.stat().st_size
        assert received(source, capacity=3) == [(5, time, data) for time, data in expected]
        assert source.frames_read == 4


@pytest.mark.parametrize("magic", [io.US, io.NS])
@pytest.mark.parametrize("order", ORDERS)
@tmp
@given(
    frames=st.lists(st.tuples(st.integers(0, (1 << 32) * 10**9 - 1), st.binary(max_size=200)), max_size=40)
)
def test_a_pcap_reads_as_dpkt_reads_it(made, order, magic, frames):
    with made(io.pcap(frames, order, magic)) as source:
        ours = [(None, time, data) for _, time, data in received(source)]
        assert [data for *_, data in ours] == [data for *_, data in io.read_frames(source.path)]
        if magic == io.NS:  # dpkt keeps microseconds as floats
            assert ours == io.read_frames(source.path)
        assert [row[1:] for row in ours] == stamped(frames, magic)


def test_a_pcap_comes_in_on_the_first_port_unless_told(made):
    with made(io.pcap(FRAMES)) as source:
        assert {row[0] for row in received(source)} == {0}


def test_an_empty_pcap_is_no_error(made):
    with made(io.pcap_head()) as source:
        assert (source.n_frames, source.first_ns, source.last_ns, received(source)) == (0, 0, 0, [])


def test_a_file_that_is_mapped_keeps_what_it_has_while_its_frames_are_corrected(made):
    data = io.pcap([(T, bytes((i % 251,)) * 1000) for i in range(2000)])
    with made(data) as source:
        assert received(source) == [(0, T // 1000 * 1000, bytes((i % 251,)) * 1000) for i in range(2000)]
        assert source.path.read_bytes() == data


def test_a_frame_check_sequence_is_taken_away(made):
    data = io.pcap_head(link=2 << 28 | 1 << 26 | 1) + io.pcap_packet(b"x" * 64)
    data += io.pcap_packet(b"y" * 40, wire_size=64) + io.pcap_packet(b"zz")
    with made(data) as source:
        assert [frame for *_, frame in received(source)] == [b"x" * 60, b"y" * 40, b"zz"]


def test_nothing_comes_in_after_close(made):
    source = made(io.pcap(FRAMES))
    source.close()
    source.close()
    assert (received(source), source.n_frames) == ([], 4)
    with pytest.raises(RuntimeError):
        source.__init__(source.path, PORTS)


@pytest.mark.parametrize("order", ORDERS)
def test_frames_of_a_pcapng_come_in_on_the_port_of_their_interfaces_name(made, order):
    other = ORDERS[order == "<"]
    data = io.section(order) + io.interface("core", order) + io.block(0x80000BAD, b"1234", order)
    data += io.packet(b"a" * 61, 0, 1_000_001, order, options=io.option(1, b"comment", order))
    data += io.interface("p1", order, resolution=9) + io.packet(b"b" * 60, 1, T, order)
    data += io.block(io.STATISTICS, bytes(12), order) + io.old_packet(b"c" * 62, 0, 5, order)
    # another section counts its interfaces anew, in its own byte order
    data += io.section(other) + io.interface("p2", other, resolution=3, snap_size=9)
    data += io.simple_packet(b"d" * 8, other) + io.simple_packet(b"e" * 9, other, wire_size=70)
    data += io.packet(b"f", 0, 7, other) + io.block(io.STATISTICS, b"", other)
    with made(data) as source:
        assert (source.interfaces, source.nanoseconds, source.is_pcapng) == (("core", "p1", "p2"), True, True)
        assert received(source) == [
            (7, 1_000_001_000, b"a" * 61),
            (3, T, b"b" * 60),
            (7, 5000, b"c" * 62),
            (0, T, b"d" * 8),
            (0, T, b"e" * 9),
            (0, 7_000_000, b"f"),
        ]
        assert (source.damage, source.first_ns, source.last_ns) == (None, 1_000_001_000, T)
        walk = source.frames()
        whole = [b"a" * 61, b"b" * 60, b"c" * 62, b"d" * 8, b"e" * 9]
        assert [next(walk) for _ in whole] == list(zip((0, 1, 0, 2, 2), whole, strict=True))
    assert list(walk) == []


frames_of_three = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, (1 << 63) - 1), st.binary(max_size=120)), max_size=30
)


@pytest.mark.parametrize("order", ORDERS)
@tmp
@given(frames=frames_of_three)
def test_a_pcapng_reads_as_scapy_reads_it(made, order, frames):
    names = list(PORTS)
    data = io.section(order) + b"".join(io.interface(name, order, resolution=9) for name in names)
    data += b"".join(io.packet(frame, number, units, order) for number, units, frame in frames)
    with made(data) as source:
        back = {port: name for name, port in PORTS.items()}
        ours = [(back[port], time, frame) for port, time, frame in received(source)]
        assert ours == io.read_frames(source.path)
        assert ours == [(names[number], units, frame) for number, units, frame in frames]


@tmp
@given(
    code=st.integers(0, 255),
    units=st.integers(0, (1 << 64) - 1),
    offset=st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-(10**7), 10**7),
)
def test_any_time_resolution_gives_nanoseconds_or_is_told(made, code, units, offset):
    data = io.section() + io.interface("p1", resolution=code, offset_s=offset) + io.packet(b"x", 0, units)
    power = code & 0x7F
    time = int(Fraction(units * 10**9, (2 if code & 0x80 else 10) ** power)) + offset * 10**9
    with made(data) as source:
        if 0 <= time < 1 << 63:
            assert (received(source), source.damage) == ([(3, time, b"x")], None)
            assert source.nanoseconds == ((2 if code & 0x80 else 10) ** power > 10**6)
        else:
            assert received(source) == []
            assert f"a timestamp of {units} units; expected a time from 1970 to 2262" in source.damage


def test_a_foreign_interface_is_named_with_the_ports_and_the_nearest_of_them(made):
    data = io.section() + io.interface("core") + io.interface("cor") + io.packet(b"x", 1) + io.packet(b"y", 1)
    with pytest.raises(CaptureError) as caught:
        made(data)
    told = str(caught.value)
    assert told.startswith(str(caught.value.path))
    assert "2 frames came from interface 'cor'" in told
    assert "the ports are p1, p2, core; did you mean 'core'?" in told
    with made(data, in_port=2) as source:
        assert [row[0] for row in received(source)] == [2, 2]


def test_an_interface_without_a_name_needs_a_port_to_be_given(made):
    data = io.section() + io.interface() + io.packet(b"x")
    with pytest.raises(CaptureError, match="1 frames came from interface 0, which has no name, but"):
        made(data)
    with made(data, in_port=4) as source:
        assert (received(source), source.interfaces) == ([(4, 0, b"x")], (None,))


def test_a_foreign_interface_that_nothing_came_from_is_no_error(made):
    data = io.section() + io.interface("eth9", link=113) + io.interface("p1") + io.packet(b"x", 1)
    with made(data) as source:
        assert received(source) == [(3, 0, b"x")]


def indexed() -> dict[str, dict[str, int]]:
    """Frames per capture and port, from the tables of tests/captures/INDEX.md."""
    counts: dict[str, dict[str, int]] = {}
    name = ""
    for line in (ROOT / "tests/captures/INDEX.md").read_text().splitlines():
        if line.startswith("## "):
            name = line[3:]
        elif name and (row := re.match(r"\| (p\d|core) \| (\d+) \|", line)):
            ports = counts.setdefault(name, {})
            ports[row[1]] = ports.get(row[1], 0) + int(row[2])
    return counts


@pytest.mark.parametrize(("name", "counts"), indexed().items())
def test_our_captures_come_in_as_their_index_counts_them(name, counts):
    ports = {"p1": 0, "p2": 1, "p3": 2, "core": 3, "p4": 4}
    with PcapSource(ROOT / "tests/captures" / name, ports, 0 if name.endswith(".pcap") else None) as source:
        frames = received(source)
        assert source.damage is None
    assert {
        port: sum(row[0] == place for row in frames) for port, place in ports.items() if port in counts
    } == counts
    assert len(frames) == sum(counts.values())
    oracle = io.read_frames(source.path)
    assert [data for *_, data in frames] == [data for *_, data in oracle]
    if name.endswith("ng"):
        assert [(ports[str(port)], time) for port, time, _ in oracle] == [row[:2] for row in frames]


SHARED = ROOT.parent / "shared/captures"


@pytest.mark.skipif(not SHARED.exists(), reason="the captures of other projects are not here")
def test_the_captures_of_other_projects_come_in_as_others_read_them():
    paths = [path for path in sorted(SHARED.rglob("*")) if path.suffix in {".pcap", ".pcapng", ".cap"}]
    refused = 0
    for path in paths:
        try:
            source = PcapSource(path, {"any": 0}, 0)
        except CaptureError as error:
            assert "expected Ethernet (1)" in error.message  # noqa: PT017  others are read
            refused += 1
            continue
        with source:
            assert source.damage is None
            assert [row[2] for row in received(source)] == [row[2] for row in io.read_frames(path)]
    assert len(paths) - refused > 70


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("kind", io.SMALL)
def test_several_sections_read_as_tshark_reads_them(made, kind):
    """Names aside: tshark 4.0 calls the interfaces of every section by the names of the first."""
    with made(io.SMALL[kind]) as source:
        command = [
            "tshark",
            "-n",
            "-r",
            source.path,
            "-T",
            "fields",
            "-e",
            "frame.time_epoch",
            "-e",
            "frame.cap_len",
        ]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows = [line.split("\t") for line in told.splitlines()]
        ours = [(time, len(data)) for _, time, data in received(source)]
    assert [size for _, size in ours] == [int(size) for _, size in rows]
    without_time = 2 if kind == "pcapng" else None
    for place, ((time, _), (text, _)) in enumerate(zip(ours, rows, strict=True)):
        assert place == without_time or f"{time // 10**9}.{time % 10**9:09}" == text
