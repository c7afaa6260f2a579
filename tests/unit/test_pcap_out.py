"""Copies go into a capture that others read back, and where the disk says no, nothing is lost silently."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import struct
import subprocess
import threading
from contextlib import contextmanager

import pytest

from fastpath.forwarder import Forwarder
from fastpath.model import (
    Egress,
    Encap,
    Faces,
    Form,
    Layout,
    Network,
    Owner,
    Port,
    ReplicationList,
    Scope,
    vni_key,
)
from fastpath.ports import MemoryPort, PcapSink, PcapSource
from tests import captures_io as io

NAMES = ["in", "left", "right", "tøp"]
T = 1_700_000_000_123_456_789
BUFFER = 1 << 19
VM = bytes.fromhex("000000000000 02000000000a")
"""Where a frame goes and comes from: no VM sends from a MAC of zeros."""


def layout() -> Layout:
    """A VM port and three more in its network: what comes in from the VM leaves there as it came."""
    ports = tuple(Port(name, Faces.VM, bytes(6), bytes(6), network="blue") for name in NAMES)
    return Layout(ports, networks=(Network("blue", 100, None),))


def echo(source, ports, outs=(1, 3, 2)) -> Forwarder:
    copies = tuple(Egress(out, Form.DECAPSULATED, Owner(port=out)) for out in outs)
    lists = [ReplicationList(vni_key(Scope.NVE, Encap.VXLAN, 100), copies)]
    return Forwarder(layout(), ports, lists, sources=[source])


@pytest.fixture
def source(tmp_path):
    """Make a capture of frames that come in on the first port."""
    opened = []

    def make(frames) -> PcapSource:
        path = tmp_path / "source.pcap"
        path.write_bytes(io.pcap(frames, "<", io.NS))
        opened.append(PcapSource(path, {}, 0))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def frames_of(n: int, size=None) -> list[tuple[int, bytes]]:
    """Frames of odd sizes, each another, none shorter than Ethernet."""
    return [
        (T + 1001 * i, VM + i.to_bytes(2, "big") + bytes((i % 251,)) * (size or i % 1500)) for i in range(n)
    ]


@pytest.mark.parametrize(("kind", "unit"), [("us", 1000), ("ns", 1), ("pcapng", 1)])
def test_what_leaves_is_read_back_by_others(tmp_path, source, kind, unit):
    frames = frames_of(2000)
    path = tmp_path / ("out.pcapng" if kind == "pcapng" else "out.pcap")
    with PcapSink(path, NAMES, nanoseconds=kind == "ns") as sink:
        forwarder = echo(source(frames), [sink] * 4)
        assert forwarder.run() == 2000
        assert (sink.copies, sink.lost, sink.error) == (6000, 0, 0)
    read = io.read_frames(path)
    assert sink.size_bytes == path.stat().st_size
    # in the order of the list: by out port
    wanted = [(name, time // unit * unit, data) for time, data in frames for name in NAMES[1:]]
    if kind == "us":  # dpkt has microseconds as floats
        assert max(abs(ours[1] - theirs[1]) for ours, theirs in zip(wanted, read, strict=True)) <= 1000
    if kind == "ns":
        assert [row[1] for row in read] == [row[1] for row in wanted]
    if kind == "pcapng":
        assert read == wanted
    else:
        assert {row[0] for row in read} == {None}
    assert [row[2] for row in read] == [row[2] for row in wanted]
    with PcapSource(path, {name: place for place, name in enumerate(NAMES)}) as back:
        assert (back.n_frames, back.damage, back.nanoseconds) == (6000, None, kind != "us")
        assert back.interfaces == (tuple(NAMES) if kind == "pcapng" else (None,))
        assert (back.first_ns, back.last_ns) == (wanted[0][1], wanted[-1][1])


def test_a_pcap_is_what_a_memory_port_would_have_taken(tmp_path, source):
    memory = [MemoryPort() for _ in NAMES]
    echo(source(frames_of(300)), memory).run()
    with PcapSink(tmp_path / "out.pcapng", NAMES) as sink:
        forwarder = echo(source(frames_of(300)), [sink] * 4)
        forwarder.run()
    read = io.read_frames(sink.path)
    for name, port in zip(NAMES, memory, strict=True):
        assert [data for interface, _, data in read if interface == name] == port.take()
    counted = forwarder.statistics()
    assert [row.copies_out for row in counted.ports] == [0, 300, 300, 300]
    assert sum(row.bytes for row in counted.egresses) == sum(len(data) for *_, data in read)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
def test_tshark_finds_no_fault_with_it(tmp_path, source, suffix):
    with PcapSink(tmp_path / f"out.{suffix}", NAMES) as sink:
        echo(source(frames_of(50)), [sink] * 4).run()
    fields = ("-T", "fields", "-e", "frame.cap_len", "-e", "frame.interface_name")
    told = subprocess.run(
        ["tshark", "-n", "-r", sink.path, *fields], check=True, capture_output=True, text=True
    )
    rows = [line.split("\t") for line in told.stdout.splitlines()]
    assert [int(row[0]) for row in rows] == [14 + i % 1500 for i in range(50) for _ in range(3)]
    if suffix == "pcapng":
        assert [row[1] for row in rows] == NAMES[1:] * 50
    assert "appears" not in told.stderr  # to be damaged, or cut short


def test_the_header_says_native_order_ethernet_and_the_snap_length(tmp_path):
    PcapSink(tmp_path / "us.pcap", NAMES).close()
    PcapSink(tmp_path / "ns.pcap", NAMES, nanoseconds=True).close()
    for name, magic in (("us.pcap", io.US), ("ns.pcap", io.NS)):
        head = struct.unpack("=IHHiIII", (tmp_path / name).read_bytes())
        assert head == (magic, 2, 4, 0, 0, 262144, 1)


def test_a_time_past_2106_stays_at_the_last_that_a_pcap_can_tell(tmp_path):
    far = io.packet(VM + bytes(8), 0, 5_000_000_000 * 10**9)
    capture = io.section() + io.interface("in", resolution=9) + far
    (tmp_path / "in.pcapng").write_bytes(capture)
    for suffix, seconds in (("pcap", (1 << 32) - 1), ("pcapng", 5_000_000_000)):
        with (
            PcapSource(tmp_path / "in.pcapng", {"in": 0}) as late,
            PcapSink(tmp_path / f"out.{suffix}", NAMES) as sink,
        ):
            echo(late, [sink] * 4).run()
        assert {time // 10**9 for _, time, _ in io.read_frames(sink.path)} == {seconds}


def test_the_suffix_says_what_is_written(tmp_path):
    for name in ("out.cap", "out", "pcap"):
        with pytest.raises(ValueError, match=r"expected \.pcap or \.pcapng"):
            PcapSink(tmp_path / name, NAMES)
        assert not (tmp_path / name).exists()


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    for path in (tmp_path / "none/out.pcap", tmp_path / "dir.pcap"):
        (tmp_path / "dir.pcap").mkdir(exist_ok=True)
        with pytest.raises(OSError, match=str(path)):
            PcapSink(path, NAMES)


def test_what_a_file_held_is_gone(tmp_path):
    path = tmp_path / "out.pcap"
    path.write_bytes(bytes(100_000))
    PcapSink(path, NAMES).close()
    assert path.stat().st_size == 24


def test_a_burst_ends_without_a_small_write(tmp_path, source):
    with PcapSink(tmp_path / "out.pcap", NAMES) as sink:
        echo(source(frames_of(20)), [sink] * 4).run()
        assert sink.path.stat().st_size == 24 < sink.size_bytes
    assert sink.path.stat().st_size == sink.size_bytes
    sink.close()


def test_a_sink_that_nobody_closed_is_written_when_it_goes(tmp_path, source):
    sink = PcapSink(tmp_path / "out.pcap", NAMES)
    path = sink.path
    forwarder = echo(source(frames_of(20)), [sink] * 4)
    forwarder.run()
    del sink, forwarder
    assert len(io.read_frames(path)) == 60


def test_a_closed_sink_refuses(tmp_path, source):
    sink = PcapSink(tmp_path / "out.pcap", NAMES)
    sink.close()
    forwarder = echo(source(frames_of(20)), [sink] * 4)
    forwarder.run()
    assert [(row.reason.name, row.count) for row in forwarder.statistics().drops] == [("port_refused", 60)]
    assert len(io.read_frames(sink.path)) == 0


@contextmanager
def largest_file(size: int):
    """Let no file grow over `size` bytes; Python ignores the signal, so write(2) fails."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
@pytest.mark.parametrize("limit", [400, 5_000, BUFFER, BUFFER + 1, 700_001, 1_999_999])
def test_a_full_disk_loses_nothing_silently(tmp_path, source, suffix, limit):
    frames = frames_of(2000, 1000)
    capture = source(frames)
    path = tmp_path / f"out.{suffix}"
    sink = PcapSink(path, NAMES)
    forwarder = echo(capture, [sink] * 4)
    with largest_file(limit):
        with pytest.raises(OSError, match="File too large") as told:
            forwarder.run()
        assert told.value.errno == sink.error == errno.EFBIG
        with pytest.raises(OSError, match=f"the last {sink.lost} copies are not in the file") as named:
            sink.close()
    assert (named.value.errno, named.value.filename) == (errno.EFBIG, str(path))
    sink.close()  # was told once

    counted = forwarder.statistics()
    refused = sum(row.count for row in counted.drops)
    assert [row.reason.name for row in counted.drops] == ["port_refused"]
    assert counted.copies_out == sink.copies
    assert counted.copies_out + refused == 3 * counted.replicated
    read = io.read_frames(path)
    assert len(read) == sink.copies - sink.lost
    assert [data for *_, data in read] == [data for _, data in frames for _ in range(3)][: len(read)]
    assert path.stat().st_size == sink.size_bytes <= limit
    assert limit - path.stat().st_size < 1100  # and as much as there was room for
    assert 0 < sink.lost < BUFFER // 1000


def test_a_disk_that_is_full_at_the_end_is_told_by_close(tmp_path, source):
    sink = PcapSink(tmp_path / "out.pcap", NAMES)
    forwarder = echo(source(frames_of(9)), [sink] * 4)
    with largest_file(200):
        forwarder.run()
        with pytest.raises(OSError, match=r"the last 22 copies are not in the file.*out\.pcap"):
            sink.close()
    assert (sink.copies, sink.lost) == (27, 22)
    assert len(io.read_frames(sink.path)) == 5


def test_a_disk_that_is_full_at_the_start_is_told_at_once(tmp_path):
    with largest_file(10), pytest.raises(OSError, match=r"File too large.*out\.pcap"):
        PcapSink(tmp_path / "out.pcap", NAMES)


def test_a_reader_that_goes_away_is_an_error_not_a_signal(tmp_path, source):
    path = tmp_path / "out.pcap"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = PcapSink(path, NAMES)
    os.close(reader)
    forwarder = echo(source(frames_of(2000)), [sink] * 4)
    with pytest.raises(OSError, match="Broken pipe"):
        forwarder.run()
    with pytest.raises(BrokenPipeError, match=str(path)):
        sink.close()
    assert sink.lost == sink.copies == forwarder.statistics().copies_out


def test_a_slow_reader_and_signals_cost_nothing(tmp_path, source):
    """The pipe is small and a signal comes every millisecond: write(2) takes parts, or is interrupted."""
    path = tmp_path / "out.pcapng"
    os.mkfifo(path)
    got = bytearray()

    def read():
        with path.open("rb", buffering=0) as pipe:
            while chunk := pipe.read(4096):
                got.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    signals = 0

    def heard(*_):
        nonlocal signals
        signals += 1

    before = signal.signal(signal.SIGALRM, heard)
    try:
        with PcapSink(path, NAMES) as sink:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            echo(source(frames_of(3000)), [sink] * 4).run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        reader.join()
    assert signals
    whole = tmp_path / "whole.pcapng"
    whole.write_bytes(got)
    assert [data for *_, data in io.read_frames(whole)] == [
        data for _, data in frames_of(3000) for _ in range(3)
    ]


def test_a_copy_for_a_port_that_the_file_does_not_name_is_refused(tmp_path, source):
    with PcapSink(tmp_path / "out.pcapng", NAMES[:2]) as sink:
        forwarder = echo(source(frames_of(5)), [sink] * 4, outs=(1, 2))
        forwarder.run()
    assert [row[0] for row in io.read_frames(sink.path)] == ["left"] * 5
    assert [(row.reason.name, row.count) for row in forwarder.statistics().drops] == [("port_refused", 5)]


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
@pytest.mark.parametrize("size", [60, 61, 62, 63, 0])
def test_a_frame_of_our_own_stands_behind_the_copies_so_far(tmp_path, source, suffix, size):
    """A query in a replay: it is there at once, with its own time, and is no copy."""
    path, query = tmp_path / f"out.{suffix}", bytes(range(size))
    with PcapSink(path, NAMES, nanoseconds=True) as sink:
        forwarder = echo(source(frames_of(3)), [sink] * 4)
        forwarder.run(1)
        before = sink.copies
        sink.send(2, query, T + 9_000)
        with PcapSource(path, {}, 0) as written:
            assert written.n_frames == before + 1
            assert [data for _, data in written.frames()][-1] == query
            assert written.last_ns == T + 9_000
        assert (sink.copies, sink.sent, forwarder.statistics().copies_out) == (before, 1, before)
    assert sink.lost == 0


def test_a_frame_of_our_own_stands_between_copies_in_the_order_of_things(tmp_path):
    port, path = MemoryPort(), tmp_path / "out.pcapng"
    with PcapSink(path, NAMES) as sink:
        forwarder = echo(port, [sink] * 4)
        for number in range(3):
            port.receive(VM + bytes(47) + bytes((number,)))
            forwarder.run()
            sink.send(number, bytes((number,)) * 14, T)
    with PcapSource(path, {name: i for i, name in enumerate(NAMES)}) as written:
        got = [(interface, len(data), data[-1]) for interface, data in written.frames()]
    assert got == [one for n in range(3) for one in (*[(out, 60, n) for out in (1, 2, 3)], (n, 14, n))]


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
def test_a_frame_of_our_own_that_a_full_disk_refuses_is_an_error_and_no_lost_copy(tmp_path, source, suffix):
    path = tmp_path / f"out.{suffix}"
    sink = PcapSink(path, NAMES)
    echo(source(frames_of(1)), [sink] * 4).run()
    with largest_file(sink.size_bytes + 30), pytest.raises(OSError, match="File too large"):
        sink.send(0, bytes(60), T)
    assert (sink.copies, sink.sent, sink.lost) == (3, 0, 0)
    with PcapSource(path, {}, 0) as written:
        assert (written.n_frames, written.damage) == (3, None)
    with pytest.raises(OSError, match="File too large"):
        sink.send(0, bytes(60), T)
    with pytest.raises(OSError, match="File too large"):
        sink.close()


def test_copies_that_a_full_disk_loses_before_a_frame_of_our_own_are_counted(tmp_path, source):
    sink = PcapSink(tmp_path / "out.pcap", NAMES)
    echo(source(frames_of(2)), [sink] * 4).run()
    with largest_file(24), pytest.raises(OSError, match="File too large"):
        sink.send(0, bytes(60), T)
    assert (sink.copies, sink.sent, sink.lost) == (6, 0, 6)


def test_a_frame_of_our_own_that_cannot_be_written_is_refused(tmp_path):
    sink = PcapSink(tmp_path / "out.pcap", NAMES)
    with pytest.raises(IndexError):
        sink.send(4, bytes(60), T)
    with pytest.raises(ValueError, match="expected at most"):
        sink.send(0, bytes((1 << 18) + 1), T)
    sink.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        sink.send(0, bytes(60), T)
    assert sink.sent == 0
