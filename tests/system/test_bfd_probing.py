"""A device probes a point over real sockets and wires: cut, killed, stopped, busy, closed; IPv4 and IPv6."""

import asyncio
import gc
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from ctrl.daemon.probing import Prober, Responder
from ctrl.lab import namespaces
from ctrl.lab.namespaces import Lab, connect
from ctrl.protocols import bfd
from tests.system.bfd_ends import End
from tests.system.lab import wait_for

WHY = namespaces.missing()
pytestmark = pytest.mark.skipif(WHY is not None, reason=str(WHY))
DEVICE, POINT, DEVICE6, POINT6 = "10.0.0.1", "10.0.1.2", "fd00::1", "fd00:1::2"
DETECTION_S = 0.6
SLACK_S = 2.0
"""What a busy machine may add."""


@pytest.fixture
def ends():
    """A device's and a point's namespace, with a router between them."""
    with Lab("bfd") as lab:
        device, router, point = (lab.namespace(name) for name in ("device", "router", "point"))
        connect(device, "eth0", router, "eth0")
        connect(router, "eth1", point, "eth0")
        for place, link, four, six in (
            (device, "eth0", f"{DEVICE}/24", f"{DEVICE6}/64"),
            (router, "eth0", "10.0.0.254/24", "fd00::fe/64"),
            (router, "eth1", "10.0.1.254/24", "fd00:1::fe/64"),
            (point, "eth0", f"{POINT}/24", f"{POINT6}/64"),
        ):
            place.address(link, four)
            place.address(link, six)
        router.sysctl("net/ipv4/ip_forward", 1)
        router.sysctl("net/ipv6/conf/all/forwarding", 1)
        for place, four, six in ((device, "10.0.0.254", "fd00::fe"), (point, "10.0.1.254", "fd00:1::fe")):
            place.route("default", "eth0", four)
            place.route("::/0", "eth0", six)
        yield device, router, point


def n_descriptors():
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def stayed_up(*ends):
    """Whether no end has ever found the other one down."""
    rows = [row for end in ends for row in end.ask()["rows"]]
    return [(row["state"], row["n_downs"]) for row in rows] == [("up", 0)] * len(ends)


def went(end, address=POINT):
    """Wait for the next change, say when it was and what it became."""
    when_s, said, is_up = end.read()
    assert said == address
    return when_s, is_up


def test_a_killed_point_is_down_within_the_detection_time_and_up_again_when_it_is_back(ends):
    device, _, point = ends
    killed = End(point, "point", POINT, DEVICE)
    end = End(device, "device", DEVICE, POINT)
    up_s, is_up = went(end)
    assert is_up
    assert up_s - max(killed.ready(), end.ready()) < 1 + SLACK_S
    time.sleep(0.5)
    dead_s = time.monotonic()
    killed.process.kill()
    down_s, is_up = went(end)
    assert not is_up
    assert DETECTION_S / 2 < down_s - dead_s < DETECTION_S + SLACK_S
    back = End(point, "point", POINT, DEVICE)
    up_s, is_up = went(end)
    assert is_up
    assert up_s - back.ready() < 1 + SLACK_S
    wait_for(lambda: back.state() == bfd.State.UP, "the point is up, too", SLACK_S)


def test_a_cut_wire_is_down_and_a_healed_one_up_again(ends):
    device, router, point = ends
    answering = End(point, "point", POINT, DEVICE)
    end = End(device, "device", DEVICE, POINT)
    assert went(end)[1]
    time.sleep(0.5)
    cut_s = time.monotonic()
    router.set_link("eth1", state="down")
    down_s, is_up = went(end)
    assert not is_up
    assert down_s - cut_s < DETECTION_S + SLACK_S
    wait_for(lambda: answering.state() == bfd.State.DOWN, "the point finds it, too", DETECTION_S + SLACK_S)
    router.set_link("eth1", state="up")
    assert went(end)[1]
    [row] = end.ask()["rows"]
    assert (row["n_downs"], row["state"]) == (1, "up")


def test_a_stopped_point_is_down_and_up_again_when_it_goes_on_by_ipv6(ends):
    device, _, point = ends
    stopped = End(point, "point", POINT6, DEVICE6)
    end = End(device, "device", DEVICE6, POINT6)
    assert went(end, POINT6)[1]
    time.sleep(0.5)
    stopped_s = time.monotonic()
    stopped.process.send_signal(signal.SIGSTOP)
    down_s, is_up = went(end, POINT6)
    assert not is_up
    assert down_s - stopped_s < DETECTION_S + SLACK_S
    stopped.process.send_signal(signal.SIGCONT)
    assert went(end, POINT6)[1]


def test_a_device_that_was_stopped_for_less_than_the_detection_time_takes_no_point_for_dead(ends):
    """Its own detection time is over when it goes on; what came meanwhile waits in the socket."""
    device, _, point = ends
    patient = End(point, "point", POINT, DEVICE)
    end = End(device, "device", DEVICE, POINT, multiplier=9)
    assert went(end)[1]
    waited_ms = lambda one: round(1000 * one.ask()["rows"][0]["detection_s"])  # noqa: E731
    wait_for(lambda: (waited_ms(end), waited_ms(patient)) == (600, 1800), "both go by their timers")
    for _ in range(2):
        n_sent = end.ask()["counts"]["sent"]
        end.process.send_signal(signal.SIGSTOP)
        time.sleep(DETECTION_S + 0.3)
        end.process.send_signal(signal.SIGCONT)
        wait_for(lambda: end.ask()["counts"]["sent"] > n_sent + 1, "it goes on")  # noqa: B023
    assert stayed_up(end, patient)


def test_busy_loops_at_both_ends_take_nobody_for_dead(ends):
    device, _, point = ends
    answering = End(point, "point", POINT, DEVICE, interval_s=0.3, stall_s=0.2)
    end = End(device, "device", DEVICE, POINT, interval_s=0.3, stall_s=0.2)
    assert went(end)[1]
    time.sleep(1.5)
    assert stayed_up(end, answering)


def test_a_point_that_ends_is_down_at_once(ends):
    device, _, point = ends
    ending = End(point, "point", POINT, DEVICE, interval_s=1.0)
    end = End(device, "device", DEVICE, POINT, interval_s=1.0)
    assert went(end)[1]
    time.sleep(0.2)
    ended_s = time.monotonic()
    ending.process.terminate()
    down_s, is_up = went(end)
    assert not is_up
    assert down_s - ended_s < SLACK_S, "not after 3 s of silence"


def test_who_is_not_allowed_is_not_answered_and_counted(ends):
    device, _, point = ends
    answering = End(point, "point", POINT, "10.0.0.7")
    end = End(device, "device", DEVICE, POINT)
    _, is_up = went(end)
    assert not is_up, "after 3 s: nobody answers"
    wait_for(lambda: answering.ask()["counts"].get("not_allowed", 0) >= 3, "it is asked again and again")
    assert answering.ask()["rows"] == []


def test_a_packet_from_too_many_routers_away_is_refused(ends):
    device, _, point = ends
    answering = End(point, "point", POINT, DEVICE)

    def forge(ttl):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            sock.sendto(bfd.write(bfd.Packet(bfd.State.DOWN, 5)), (POINT, bfd.PORT))

    device.run(forge, 200)
    device.run(forge, 255)
    wait_for(lambda: answering.ask()["rows"], "the second one came")
    found = answering.ask()
    assert found["counts"]["too_far"] == 1
    assert [row["peer"] for row in found["rows"]] == [DEVICE]


@pytest.mark.skipif(
    not (shutil.which("tshark") and shutil.which("tcpdump")), reason="needs tshark and tcpdump"
)
def test_tshark_finds_multihop_packets_with_ttl_255_and_nothing_wrong_with_them(ends, tmp_path):
    device, _, point = ends
    capture = tmp_path / "bfd.pcap"
    tcpdump = device.popen(
        "tcpdump",
        "-i",
        "eth0",
        "--immediate-mode",
        "-U",
        "-w",
        capture,
        "udp port 4784",
        stderr=subprocess.PIPE,
    )
    assert tcpdump.stderr is not None
    while "listening" not in (line := tcpdump.stderr.readline()):
        assert line
    End(point, "point", POINT, DEVICE)
    end = End(device, "device", DEVICE, POINT)
    assert went(end)[1]
    time.sleep(0.5)
    tcpdump.terminate()
    tcpdump.wait()
    fields = (
        "ip.src",
        "ip.ttl",
        "udp.srcport",
        "udp.dstport",
        "bfd.version",
        "bfd.sta",
        "bfd.message_length",
    )
    options = [word for field in fields for word in ("-e", field)]
    lines = device.command(
        "tshark", "-r", str(capture), "-Y", "bfd && !_ws.malformed", "-T", "fields", *options
    )
    rows = [dict(zip(fields, line.split("\t"), strict=True)) for line in lines.splitlines()]
    assert {row["ip.src"]: row["ip.ttl"] for row in rows} == {DEVICE: "255", POINT: "254"}
    assert {(row["udp.dstport"], row["bfd.version"], row["bfd.message_length"]) for row in rows} == {
        ("4784", "1", "24")
    }
    assert all(int(row["udp.srcport"]) >= 49152 for row in rows)
    states = [int(row["bfd.sta"], 0) for row in rows]
    assert states[:3] == [1, 2, 3]
    assert set(states[3:]) == {3}


@pytest.mark.asyncio
async def test_an_address_that_the_kernel_does_not_own_is_told_in_a_sentence():
    absent = bytes([203, 0, 113, 1])
    with pytest.raises(OSError, match=r"BFD cannot run on 203\.0\.113\.1: no interface of this kernel has"):
        Prober(absent, 0.3, 3, print)
    with pytest.raises(OSError, match=r"BFD cannot run on 2001:db8::1: no interface of this kernel has"):
        Responder(socket.inet_pton(socket.AF_INET6, "2001:db8::1"), bool)


@pytest.mark.asyncio
async def test_two_on_one_address_are_told_and_a_closed_one_leaves_it_and_no_descriptor():
    n_open = n_descriptors()
    local = bytes([127, 0, 0, 77])
    first = Responder(local, bool)
    with pytest.raises(OSError, match="another program speaks BFD there already"):
        Prober(local, 0.3, 3, print)
    first.close()
    first.close()
    Responder(local, bool).close()
    await asyncio.sleep(0)
    assert n_descriptors() <= n_open  # what tests before this one left may go meanwhile
