"""`fastpath bench wire` for real, and short: every path runs, and nothing is left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from select import select

import pytest

from ctrl.lab.namespaces import Namespace, missing
from ctrl.race import ours, traffic
from ctrl.race.latency import ETH_P_ALL
from ctrl.race.track import Track
from ctrl.race.traffic import BATCH, Load
from ctrl.race.wire import ONE_PORT, PATHS
from fastpath import bpf
from tests.system.lab import wait_for

WHY_NOT = missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

COMMAND = [sys.executable, "-c", "from ctrl.cli import main; main()", "bench", "wire"]
CLONES = ("clones", "forward_clones", "limit_clones")
SHORT = ["--egresses", "4", "--size", "64", "--seconds", "0.1", "-j"]


def start(*argv: str) -> subprocess.Popen[str]:
    """Start in a session of its own, by which all that it starts is found again."""
    return subprocess.Popen(
        argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def alive(session: int) -> list[str]:
    """Name the processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(rest.split()[3]) == session:
            found.append(name)
    return found


def named_namespaces() -> set[Path]:
    return set(Path("/run/netns").glob("fp-*"))


def check_rows(text: str, without: tuple[str, ...] = ()) -> None:
    """Check all rows but those that cannot run here, and say so."""
    rows = {row["path"]: row for row in json.loads(text)}
    assert list(rows) == list(PATHS)
    for path in without:
        assert "bpf(2) is not permitted" in rows.pop(path)["why"]
    for path, row in rows.items():
        assert row["why"] is None, f"{path}: {row['why']}"
        assert row["copies_per_s"] > 0, path
        assert (row["egresses"], row["size"], row["train"]) == (4, 64, 44)
        assert row["ns_per_copy"] == pytest.approx(1e9 / row["copies_per_s"], rel=0.01)
        assert row["ratio_to_kernel"] > 0
        assert row["ratio_to_kernel_trains"] > 0
        assert row["ratio_to_limit"] > 0
    for path in ("forward", "kernel"):
        assert 0 < rows[path]["latency_p50_us"] <= rows[path]["latency_p99_us"]


def test_every_path_makes_copies_and_nothing_is_left_behind():
    """A namespace has no name here: it lives as long as a process holds it, and there is none."""
    before = named_namespaces()
    bench = start(*COMMAND, *SHORT)
    printed, told = bench.communicate(timeout=60)
    assert bench.returncode == 0, told
    check_rows(printed, () if bpf.available() is None else CLONES)
    assert "datagrams counted by a program" in told or "counted by the sink's interface" in told
    assert alive(bench.pid) == []
    assert named_namespaces() == before


@pytest.mark.skipif(
    os.geteuid() != 0, reason="starts a user namespace as another user would; needs root here"
)
def test_it_runs_in_an_unprivileged_user_namespace_and_says_how_it_counts():
    bench = start("unshare", "-Urnm", *COMMAND, *SHORT)
    printed, told = bench.communicate(timeout=60)
    if "unshare failed" in told:
        pytest.skip(f"user namespaces are not allowed here: {told.strip()}")
    assert bench.returncode == 0, told
    check_rows(printed, CLONES)
    assert "counted by the sink's interface" in told


@pytest.fixture
def track() -> Iterator[Track]:
    with Track(2) as made:
        yield made


def packets(namespace: Namespace) -> socket.socket:
    """A socket that takes in all that comes in by any device."""
    every = (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    made = namespace.run(socket.socket, *every)
    made.setblocking(False)
    return made


def test_every_path_sends_each_receiver_s_copies_by_its_own_port_and_no_other(track: Track) -> None:
    load = Load(5, 64, ports=2)
    expected = {"in0": set(load.receivers[::2]), "in1": set(load.receivers[1::2])}

    def look(arriving: socket.socket, seen: dict[str, set[IPv4Address]]) -> None:
        with suppress(BlockingIOError):
            while True:
                packet, by = arriving.recvfrom(64)
                if by[2] != socket.PACKET_OUTGOING:
                    seen[by[0]].add(IPv4Address(packet[30:34]))

    for path in PATHS:
        if path in ONE_PORT or (path in CLONES and bpf.available()):
            continue
        seen: dict[str, set[IPv4Address]] = {"in0": set(), "in1": set()}
        with packets(track.far) as arriving, PATHS[path](track, load) as step:
            end = time.monotonic() + 5
            while seen != expected and time.monotonic() < end:
                step(0.005)
                look(arriving, seen)
        assert seen == expected, path


@pytest.mark.parametrize("clones", [True, False])
def test_of_trains_that_come_in_the_sink_counts_all_copies_of_all_ports(track: Track, clones: bool) -> None:
    """A batch at a time: a backlog is the CPU's, so what others send may cost one or two of them some."""
    if clones and (why := bpf.available()):
        pytest.skip(why)
    load = Load(5, 64, ports=2)

    def a_batch_is_whole() -> bool:
        before, start = track.sink.read(), forwarder.statistics()
        with suppress(OSError):
            for train in traffic.arriving_trains(load).heads:
                os.write(nve, train)
        end = time.monotonic() + 1
        while (counted := forwarder.statistics()).copies_out < start.copies_out + 5 * BATCH:
            if time.monotonic() > end:
                return False
        received, made = counted.received - start.received, counted.copies_out - start.copies_out
        arrived = track.sink.copies(load, before, track.sink.read())
        return (received, made, arrived) == (BATCH, 5 * BATCH, 5 * BATCH)

    with (
        ours.receiving(track, load, clones=clones) as forwarder,
        track.packet_socket("up", vnet_hdr=True, box=False) as nve,
    ):
        wait_for(a_batch_is_whole, "5 trains and all their copies")


@pytest.mark.parametrize(("train", "size"), [(44, 42 + 44 * 72), (1, 42 + 72)], ids=["trains", "frames"])
def test_frames_of_a_flow_come_in_together_and_others_one_by_one(track: Track, train: int, size: int) -> None:
    with packets(track.box) as arriving, ours.generator(track, Load(5, 64, train)):
        found = wait_for(lambda: select([arriving], [], [], 0)[0] and arriving.recv(1 << 16), "a frame")
    assert (len(found), found[40:42] == b"\0\0") == (size, train == 1), "and only a train has a checksum"


def test_ctrl_c_ends_it_soon_with_nothing_left_behind():
    bench = start(*COMMAND, "--seconds", "60", "-j")
    assert bench.stderr is not None
    assert "Linux" in bench.stderr.readline()
    bench.send_signal(signal.SIGINT)
    start_s = time.monotonic()
    _, told = bench.communicate(timeout=30)
    assert bench.returncode == 130, told
    assert told.endswith("fastpath bench wire: interrupted; nothing is left behind\n")
    assert time.monotonic() - start_s < 10
    assert alive(bench.pid) == []
